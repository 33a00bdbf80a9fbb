"""The local store: rows and positions in one write, rebuilt when it cannot be trusted."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.store import Positions, Store, StoreError
from app.engine.store_faults import what_to_do
from app.engine.store_memory import StoreMemory

_MEMORY_BYTES = 8 << 20
_ROWS = {b"a": b"1", b"b": b"2", b"ba": b"3", b"c": b"4"}


@pytest.fixture
def memory() -> StoreMemory:
    return StoreMemory(_MEMORY_BYTES)


@pytest.fixture
def store(tmp_path: Path, memory: StoreMemory) -> Iterator[Store]:
    made = Store.open(tmp_path / "0", ["t"], memory)
    yield made
    made.close()


def rows(store: Store, family: str = "t") -> Mapping[bytes, bytes]:
    return dict(store.range(family, b"", None, limit=1_000))


def test_a_new_store_stands_nowhere_and_holds_nothing(store: Store) -> None:
    assert store.positions() == Positions(None, None)
    assert store.get("t", b"a") is None
    assert rows(store) == {}


def test_rows_and_positions_outlive_the_process(tmp_path: Path, memory: StoreMemory) -> None:
    first = Store.open(tmp_path / "0", ["t", "u"], memory)
    first.write({"t": {b"a": b"1"}, "u": {b"a": b"other"}}, Positions(7, 3))
    first.close()
    again = Store.open(tmp_path / "0", ["u", "t"], memory)
    assert again.positions() == Positions(7, 3)
    assert (again.get("t", b"a"), again.get("u", b"a")) == (b"1", b"other")
    again.close()


def test_none_deletes_a_row_and_leaves_a_position(store: Store) -> None:
    store.write({"t": dict(_ROWS)}, Positions(5, 5))
    store.write({"t": {b"a": None, b"not there": None}}, Positions(changelog=6))
    assert set(rows(store)) == {b"b", b"ba", b"c"}
    assert store.positions() == Positions(6, 5)


def test_a_write_that_fails_changes_neither_rows_nor_positions(store: Store) -> None:
    store.write({"t": {b"a": b"1"}}, Positions(1, 1))
    with pytest.raises(KeyError):
        store.write({"t": {b"a": b"2"}, "no such family": {b"a": b"2"}}, Positions(2, 2))
    assert store.get("t", b"a") == b"1"
    assert store.positions() == Positions(1, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(st.binary(max_size=3), max_size=12, unique=True),
    st.binary(max_size=3),
    st.none() | st.binary(max_size=3),
    st.integers(0, 6),
    st.booleans(),
)
def test_a_range_is_half_open_ordered_and_limited(
    store: Store, keys: list[bytes], lo: bytes, hi: bytes | None, limit: int, reverse: bool
) -> None:
    store.write({"t": dict.fromkeys(rows(store), None)}, Positions())
    store.write({"t": {key: b"v" + key for key in keys}}, Positions())
    found = list(store.range("t", lo, hi, limit=limit, reverse=reverse))
    inside = sorted((k for k in keys if k >= lo and (hi is None or k < hi)), reverse=reverse)
    assert found == [(key, b"v" + key) for key in inside[:limit]]


def test_state_of_a_former_meaning_is_dropped(tmp_path: Path, memory: StoreMemory) -> None:
    first = Store.open(tmp_path / "0", ["old", "kept"], memory)
    first.write({"old": {b"a": b"1"}, "kept": {b"a": b"2"}}, Positions(1, 1))
    first.close()
    Store.open(tmp_path / "0", ["kept", "new"], memory).close()
    back = Store.open(tmp_path / "0", ["old", "kept", "new"], memory)
    assert rows(back, "old") == {}
    assert rows(back, "new") == {}
    assert rows(back, "kept") == {b"a": b"2"}
    back.close()


@pytest.mark.parametrize("damaged", ["CURRENT", "MANIFEST"])
def test_a_store_that_cannot_be_read_is_set_aside_and_begun_anew(
    tmp_path: Path, memory: StoreMemory, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "0"
    first = Store.open(path, ["t"], memory)
    first.write({"t": dict(_ROWS)}, Positions(9, 9))
    first.close()
    for file in path.glob(f"{damaged}*"):
        file.write_bytes(b"\x00garbage\xff" * 20)
    with caplog.at_level(logging.WARNING):
        again = Store.open(path, ["t"], memory)
    assert rows(again) == {}
    assert again.positions() == Positions(None, None)
    assert (tmp_path / "0.aside").is_dir()
    assert "rebuilt from the changelog" in caplog.text
    again.write({"t": {b"a": b"1"}}, Positions(1, 1))
    again.close()


def test_only_the_newest_damaged_store_is_kept(tmp_path: Path, memory: StoreMemory) -> None:
    path = tmp_path / "0"
    for _ in range(3):
        Store.open(path, ["t"], memory).close()
        (path / "CURRENT").write_bytes(b"nonsense")
    Store.open(path, ["t"], memory).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "0.aside"]


@contextmanager
def another_process_with(path: Path) -> Iterator[int]:
    """Opens the database in a process of its own; its id."""
    code = "import rocksdict, sys; db = rocksdict.Rdict(sys.argv[1]); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.communicate(b"\n")


def test_a_store_that_another_process_has_open_is_left_alone_and_the_error_names_it(
    tmp_path: Path, memory: StoreMemory
) -> None:
    path = tmp_path / "0"
    first = Store.open(path, ["t"], memory)
    first.write({}, Positions(9, 9))
    first.close()
    with another_process_with(path) as pid:
        where = f"{path}.*process {pid} has it open: stop that one"
        with pytest.raises(StoreError, match=where):
            Store.open(path, ["t"], memory)
    assert not (tmp_path / "0.aside").exists()
    again = Store.open(path, ["t"], memory)
    assert again.positions() == Positions(9, 9)
    again.close()


def test_a_store_this_process_has_open_is_left_alone(tmp_path: Path, memory: StoreMemory) -> None:
    first = Store.open(tmp_path / "0", ["t"], memory)
    with pytest.raises(StoreError, match="start the worker anew"):
        Store.open(tmp_path / "0", ["t"], memory)
    first.write({"t": dict(_ROWS)}, Positions(4, 4))
    assert rows(first) == _ROWS
    first.close()
    assert not (tmp_path / "0.aside").exists()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("IO error: While open a file for lock: /s/0/LOCK: Permission denied", "writable"),
        ("IO error: While open a file for random read: /s/0/1.sst: Too many open files", "ulimit"),
        ("IO error: No space left on device: While appending to file: /s/0/1.log", "free some"),
        ("IO error: While lock file: /none/LOCK: Resource temporarily unavailable", "another proc"),
        ("IO error: No such file or directory: While opening a file: /s/0/MANIFEST-9", None),
        ("Corruption: Sst file size mismatch: /s/0/1.sst. Expected 9, actual size 1", None),
    ],
)
def test_only_damage_is_mended_by_a_rebuild(error: str, advice: str | None) -> None:
    told = what_to_do(error, Path("/none"))
    assert told is None if advice is None else advice in (told or "")


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(
    tmp_path: Path, memory: StoreMemory
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        Store.open(tmp_path / "file" / "0", ["t"], memory)


def test_a_reset_store_is_empty_and_usable(store: Store) -> None:
    store.write({"t": dict(_ROWS)}, Positions(4, 4))
    store.reset()
    assert rows(store) == {}
    assert store.positions() == Positions(None, None)
    store.write({"t": {b"a": b"1"}}, Positions(1, 1))
    assert store.get("t", b"a") == b"1"


def test_a_store_that_cannot_be_moved_aside_says_what_to_do_and_is_reset_once_it_is_done(
    store: Store,
) -> None:
    store.write({"t": dict(_ROWS)}, Positions(4, 4))
    in_the_way = store.path.with_name("0.aside")
    in_the_way.write_text("no folder")
    for _ in range(2):
        with pytest.raises(StoreError, match=f"Not a directory; remove {in_the_way}"):
            store.reset()
    assert store.positions() == Positions(4, 4)
    in_the_way.unlink()
    store.reset()
    assert (rows(store), store.positions()) == ({}, Positions(None, None))


def test_two_stores_share_memory_and_nothing_else(tmp_path: Path, memory: StoreMemory) -> None:
    left = Store.open(tmp_path / "0", ["t"], memory)
    right = Store.open(tmp_path / "1", ["t"], memory)
    left.write({"t": {b"a": b"left"}}, Positions(1, 1))
    right.write({"t": {b"a": b"right"}}, Positions(2, 2))
    left.reset()
    assert rows(right) == {b"a": b"right"}
    assert left.get("t", b"a") is None
    left.close()
    assert right.get("t", b"a") == b"right"
    assert right.positions() == Positions(2, 2)
    right.close()


def test_a_closed_store_can_be_opened_again_at_once(tmp_path: Path, memory: StoreMemory) -> None:
    for number in range(3):
        store = Store.open(tmp_path / "0", ["t"], memory)
        assert store.positions().source == (number - 1 if number else None)
        store.write({}, Positions(source=number))
        store.close()
    assert not (tmp_path / "0.aside").exists()


def test_the_size_grows_with_the_rows(store: Store) -> None:
    before = store.size_bytes()
    store.write({"t": {b"%d" % i: bytes(1_000) for i in range(100)}}, Positions())
    assert store.size_bytes() > before


def test_small_writes_to_many_tables_wait_for_one_another_before_they_are_flushed(
    tmp_path: Path, memory: StoreMemory
) -> None:
    families = [f"table-{number}" for number in range(10)]
    stores = [Store(tmp_path / str(number), families, memory) for number in range(6)]
    for position in range(20):
        for store in stores:
            rows = {family: {b"%d" % position: b"row"} for family in families}
            store.write(rows, Positions(position, position))
    assert list(tmp_path.glob("*/*.sst")) == []
    for store in stores:
        store.close()
