"""History in a bucket of a real server: whole or absent, replaced by itself, down and back."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from agents.history.compaction import KEPT_MS, compact
from agents.history.export import ExportError, Wanted, export
from agents.history.files import write_rows
from app.serving import check_history
from app.slots import StartUpError
from tables.history import objects
from tables.history.datasets import SESSIONS, WINDOWS
from tables.history.names import DAY_MS, HistoryFile
from tables.history.parquet import defect
from tables.history.place import Bucket, cause
from tables.history.query import rows_of
from tables.history.ranges import cover
from tables.history.reader import History, HistoryError
from tables.history.store import DatasetStore, StoreError
from tables.history.stores import dataset_store
from tests.history.rows import DAY_0, MINUTE, NAME, SOURCE, archive, pending, session, window
from tests.system.harness import CHECKOUT
from tests.system.objectstore import ACCESS_KEY, SECRET_KEY, ObjectStore
from tests.web.fakes import NOW, SPEC, cluster_of, running_worker, stats_of

pytestmark = pytest.mark.slow

NEXT_DAY = DAY_0 + DAY_MS
FOREVER = (0, 1 << 53)


def records(count: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [window("/a", DAY_0 + at * MINUTE) for at in range(first, first + count)]


def starts(history: History) -> list[int]:
    return [(row.start - DAY_0) // MINUTE for row in history.windows(NAME, "/a", *FOREVER)]


def windows_of(bucket: Bucket) -> DatasetStore:
    return dataset_store(bucket, "", WINDOWS.name)


def bytes_of(bucket: Bucket, store: ObjectStore) -> dict[str, bytes]:
    """Objects as the server keeps them, its own notes left out."""
    root = store.home / "buckets" / bucket.name
    found = (root / bucket.prefix).rglob("*")
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.is_file()}


def put_raw(bucket: Bucket, file: HistoryFile, content: bytes) -> None:
    client = fs.S3FileSystem(endpoint_override=bucket.endpoint, region=bucket.region)
    with client.open_output_stream(windows_of(bucket).where(file).removeprefix("s3://")) as sink:
        sink.write(content)


def test_an_object_has_the_name_a_file_would_have_and_is_read_from_its_bucket(
    bucket: Bucket, object_store: ObjectStore, tmp_path: Path
) -> None:
    made = archive(bucket, WINDOWS, records(5))
    assert archive(tmp_path, WINDOWS, records(5)) == made
    assert windows_of(bucket).files() == [made]
    assert list(bytes_of(bucket, object_store)) == [f"cold/history/default/windows/{made.path}"]
    assert starts(History(bucket, "")) == [0, 1, 2, 3, 4]
    assert starts(History(bucket, "other")) == []


def test_a_replay_replaces_the_object_by_itself(bucket: Bucket, object_store: ObjectStore) -> None:
    archive(bucket, WINDOWS, records(5))
    before = bytes_of(bucket, object_store)
    archive(bucket, WINDOWS, records(5))
    assert bytes_of(bucket, object_store) == before
    assert starts(History(bucket, "")) == [0, 1, 2, 3, 4]


def test_a_write_that_fails_leaves_no_object_behind(bucket: Bucket) -> None:
    def full(sink: object) -> None:
        sink.write(b"PAR1")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    store = windows_of(bucket)
    with pytest.raises(OSError, match="No space"):
        store.put(pending(WINDOWS, records(1)).file(1), full)
    assert store.files() == []


class Cutting:
    """A way to the server that breaks off after so many bytes of each connection."""

    def __init__(self, port: int, bytes_max: int) -> None:
        self._port, self._bytes_max = port, bytes_max
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        # Closing does not wake who waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._threads:
            each.join(30)
            assert not each.is_alive()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            passing = threading.Thread(target=self._pass_on, args=(client,), daemon=True)
            self._threads.append(passing)
            passing.start()

    def _pass_on(self, client: socket.socket) -> None:
        left = self._bytes_max
        # A side that ends in the middle is what this is for.
        with (
            client,
            socket.create_connection(("127.0.0.1", self._port)) as server,
            contextlib.suppress(OSError),
        ):
            while left > 0:
                # Whoever has something to say: either side may wait for the other.
                ready, _, _ = select.select([client, server], [], [])
                for side in ready:
                    said = side.recv(min(left, 65_536))
                    if not said:
                        return
                    if side is client:
                        server.sendall(said)
                        left -= len(said)
                    else:
                        client.sendall(said)


@pytest.mark.parametrize("size", [3 << 20, 24 << 20], ids=["one-request", "in-parts"])
def test_a_connection_that_breaks_while_an_object_is_sent_leaves_none(
    bucket: Bucket, object_store: ObjectStore, size: int
) -> None:
    file = pending(WINDOWS, records(1)).file(1)
    cutting = Cutting(object_store.port, 1 << 20)
    try:
        broken = windows_of(replace(bucket, endpoint=cutting.endpoint))
        with pytest.raises(StoreError, match="NETWORK_CONNECTION during"):
            broken.put(file, lambda sink: sink.write(os.urandom(size)))
    finally:
        cutting.close()
    object_store.wait()
    store = windows_of(bucket)
    assert store.files() == []
    store.put(file, lambda sink: sink.write(bytes(size)))
    assert store.stat(file).size == size


def test_files_of_a_past_day_become_one_and_a_reader_sees_each_row_once_all_the_time(
    bucket: Bucket,
) -> None:
    old = [archive(bucket, WINDOWS, records(4, at * 4), first=at * 4) for at in range(6)]
    store, history = windows_of(bucket), History(bucket, "")
    assert compact(store, WINDOWS, {SOURCE}, DAY_0).merged == 0
    assert compact(store, WINDOWS, {SOURCE}, NEXT_DAY).merged == 1
    (new,) = set(store.files()) - set(old)
    assert (new.first, new.last) == (0, 23)
    assert starts(history) == list(range(24))
    changed_ms = store.stat(new).changed_ns // 1_000_000
    assert compact(store, WINDOWS, {SOURCE}, changed_ms + KEPT_MS - 1).removed == 0
    assert compact(store, WINDOWS, {SOURCE}, changed_ms + KEPT_MS).removed == 6
    assert store.files() == [new]
    assert starts(history) == list(range(24))


def test_overlapping_objects_are_read_once(bucket: Bucket) -> None:
    archive(bucket, WINDOWS, records(20))
    archive(bucket, WINDOWS, records(20, 10), first=10)
    archive(bucket, WINDOWS, records(3, 3), first=3)
    assert starts(History(bucket, "")) == list(range(30))


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"start,end\n1,2\n"])
def test_a_spoilt_object_is_left_out_and_set_aside(
    bucket: Bucket, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    archive(bucket, WINDOWS, records(4))
    bad = archive(bucket, WINDOWS, records(4, 4), first=4)
    put_raw(bucket, bad, content)
    history = History(bucket, "")
    with caplog.at_level(logging.WARNING):
        assert starts(history) == [0, 1, 2, 3]
        assert starts(history) == [0, 1, 2, 3]
    assert [bad.name in line for line in caplog.messages] == [True]
    store = windows_of(bucket)
    assert compact(store, WINDOWS, {SOURCE}, NEXT_DAY).aside == {SOURCE}
    assert store.aside() == [bad]
    archive(bucket, WINDOWS, records(4, 4), first=4)
    assert starts(history) == list(range(8))


def test_one_wrong_byte_of_an_object_is_noticed_and_the_rest_told(
    bucket: Bucket, object_store: ObjectStore
) -> None:
    archive(bucket, WINDOWS, records(4))
    bad = archive(bucket, WINDOWS, records(4, 4), first=4)
    content = bytearray(bytes_of(bucket, object_store)[f"cold/history/default/windows/{bad.path}"])
    starts_at = WINDOWS.schema.names.index("start")
    column = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(starts_at)
    content[column.data_page_offset - 1] ^= 1  # the last byte of the values' dictionary
    put_raw(bucket, bad, bytes(content))
    assert starts(History(bucket, "")) == [0, 1, 2, 3]
    assert compact(windows_of(bucket), WINDOWS, {SOURCE}, NEXT_DAY).aside == {SOURCE}


def test_an_object_of_another_dataset_is_not_merged(bucket: Bucket, tmp_path: Path) -> None:
    archive(bucket, WINDOWS, records(4))
    bad = archive(bucket, WINDOWS, records(4, 4), first=4)
    foreign = archive(tmp_path, SESSIONS, [session("s1", 1, 2)])
    store = dataset_store(tmp_path, "", SESSIONS.name)
    put_raw(bucket, bad, Path(store.where(foreign)).read_bytes())
    done = compact(windows_of(bucket), WINDOWS, {SOURCE}, NEXT_DAY)
    assert (done.merged, done.aside) == (0, {SOURCE})


async def test_one_question_spans_state_and_bucket(bucket: Bucket) -> None:
    day = 24 * 60 * MINUTE
    held = [NOW - 2 * day, NOW - 2 * MINUTE]
    archive(bucket, WINDOWS, [window("/cart", start, revision=2) for start in held])
    cluster = cluster_of("w1")
    for minutes_ago in (2, 1):
        cluster.put("/cart", NOW - minutes_ago * MINUTE, stats_of([1.0]))
    cluster.mark(NOW)
    async with running_worker(cluster, history=bucket) as worker:
        answer = await worker.json(f"/api/v1/windows/{SPEC.name}/%2Fcart?from=-3d")
    assert [(each["start"], each["source"]) for each in answer["windows"]] == [
        (NOW - 2 * day, "cold"),
        (NOW - 2 * MINUTE, "hot"),
        (NOW - MINUTE, "hot"),
    ]
    assert answer["sources"] == {"hot": 2, "cold": 1}


def test_an_export_of_a_bucket_is_that_of_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    for place in (bucket, tmp_path / "cold"):
        archive(place, WINDOWS, records(9))
        archive(place, WINDOWS, [window("/a", DAY_0, 2)], first=9)
        wanted = Wanted(WINDOWS, {}, *FOREVER)
        output = tmp_path / f"{type(place).__name__}.csv"
        store = dataset_store(place, "", WINDOWS.name)
        assert export(store, wanted, output, "csv", lambda *_told: None) == 9
    one, other = tmp_path.glob("*.csv")
    assert one.read_bytes() == other.read_bytes()


def test_the_command_exports_a_bucket(
    bucket: Bucket, object_store: ObjectStore, tmp_path: Path
) -> None:
    archive(bucket, WINDOWS, records(3))
    done = command(bucket, object_store, tmp_path, "export", "windows", "--output", "out.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def command(
    bucket: Bucket, store: ObjectStore, folder: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "AWS_"))}
    own = {"HEADRACE_HOME": str(folder / "home"), "HEADRACE_HISTORY": str(bucket)}
    return subprocess.run(
        [sys.executable, "-m", "faust", "-A", "app", *words],
        cwd=folder,
        env=kept | store.environment() | own | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# -- a store that refuses, and one that is down -------------------------------------------------


def test_a_bucket_that_is_there_starts_the_worker(bucket: Bucket) -> None:
    check_history(bucket)


def test_a_worker_with_a_bucket_that_is_not_there_ends_and_says_what_to_do(
    bucket: Bucket, object_store: ObjectStore, tmp_path: Path
) -> None:
    done = command(replace(bucket, name="t-missing"), object_store, tmp_path, "worker")
    assert done.returncode == 1
    assert "create the bucket t-missing, or correct HEADRACE_HISTORY" in done.stderr


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_denied_bucket_refuses_the_start_up_without_telling_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "wrong-one")
    with pytest.raises(StartUpError, match="check AWS_ACCESS_KEY_ID") as caught:
        check_history(bucket)
    told = str(caught.value)
    assert not any(secret in told for secret in (ACCESS_KEY, SECRET_KEY, "wrong-one"))


@pytest.fixture
def down(object_store: ObjectStore) -> Iterator[ObjectStore]:
    """The server, for a test that stops it; it runs again afterwards."""
    yield object_store
    object_store.stop()
    object_store.start()


def test_a_store_that_is_down_fails_questions_only_until_it_is_back(
    bucket: Bucket, down: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive(bucket, WINDOWS, records(3))
    store, history = windows_of(bucket), History(bucket, "")
    assert starts(history) == [0, 1, 2]
    down.stop()
    with caplog.at_level(logging.WARNING):
        check_history(bucket)
        with pytest.raises(HistoryError, match=r"s3://t-\S+: NETWORK_CONNECTION"):
            starts(history)
        with pytest.raises(ExportError, match="NETWORK_CONNECTION"):
            export(store, Wanted(WINDOWS, {}, *FOREVER), tmp_path / "o", "csv", lambda *_told: None)
        with pytest.raises(StoreError):
            compact(store, WINDOWS, {SOURCE}, NEXT_DAY)
        held = pending(WINDOWS, records(3, 3), first=3)
        with pytest.raises(StoreError):
            write_rows(store, held.file(1), WINDOWS, held.rows)
    assert not any(secret in caplog.text for secret in (ACCESS_KEY, SECRET_KEY))
    assert "is left out" not in caplog.text, "an outage says nothing of a file"
    down.start()
    assert starts(history) == [0, 1, 2]
    write_rows(store, held.file(1), WINDOWS, held.rows)
    assert starts(history) == [0, 1, 2, 3, 4, 5]


def test_an_outage_says_nothing_of_the_file_that_is_being_read(
    bucket: Bucket, down: ObjectStore
) -> None:
    made = archive(bucket, WINDOWS, records(3))
    store = windows_of(bucket)
    with store.opened(made) as source, store.duck(threads=1) as duck:
        sql, parameters = rows_of(cover([made]), store.scan(duck))
        down.stop()
        with pytest.raises(StoreError):
            pq.ParquetFile(source)
        with pytest.raises(StoreError):
            defect(store, made, WINDOWS)
        with pytest.raises(duckdb.Error) as caught:
            duck.execute(sql, parameters).fetchall()
    assert cause(str(caught.value)).startswith("NETWORK_CONNECTION during")


def test_a_store_that_accepts_and_says_nothing_is_given_up(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "REQUEST_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HistoryError, match="NETWORK_CONNECTION during"):
            starts(History(replace(bucket, endpoint=endpoint), ""))
