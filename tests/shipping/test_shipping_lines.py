"""Files as lines: gzip, places, bounds, and clear refusals."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.shipping.lines import LINE_BYTES_MAX, FileError, LineFile
from agents.shipping.ship import line_id, service_of


def lines_of(path: Path) -> list[tuple[int, int, bytes]]:
    with LineFile(path) as lines:
        return [(line.number, line.offset, line.text) for line in lines]


@given(st.lists(st.binary(max_size=20).map(lambda b: b.translate(None, b"\0\r\n")), max_size=8))
def test_every_line_is_read_with_its_number_and_offset_plain_or_gzip(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]
) -> None:
    data = b"".join(text + b"\n" for text in texts)
    folder = tmp_path_factory.mktemp("lines")
    plain, packed = folder / "a.log", folder / "a.bin"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    if data[:2] == b"\x1f\x8b":
        return
    read = lines_of(plain)
    assert read == lines_of(packed)
    assert [n for n, _, _ in read] == list(range(1, len(texts) + 1))
    assert [data[o : o + len(t)] for _, o, t in read[1:]] == texts[1:]


def test_line_ends_and_a_byte_order_mark_are_not_part_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\xef\xbb\xbffirst\r\nsecond\n\nlast")
    assert [t for _, _, t in lines_of(path)] == [b"first", b"second", b"", b"last"]


def test_an_endless_line_is_read_in_bounded_memory_and_the_next_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    size = 3 * LINE_BYTES_MAX + 5
    path.write_bytes(b"x" * size + b"\nnext\n")
    (_, _, head), (number, offset, text) = lines_of(path)
    assert len(head) == LINE_BYTES_MAX
    assert (number, offset, text) == (2, size + 1, b"next")


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.touch()
    assert lines_of(path) == []


def test_what_is_no_log_file_is_refused_with_its_name_and_the_reason(tmp_path: Path) -> None:
    binary, cut, pipe = tmp_path / "b", tmp_path / "c.gz", tmp_path / "p"
    binary.write_bytes(b"\x7fELF\x00\x00")
    cut.write_bytes(gzip.compress(os.urandom(50_000).hex().encode())[:30_000])
    os.mkfifo(pipe)
    for path, reason in (
        (tmp_path, "directory"),
        (tmp_path / "none.log", "no such file"),
        (binary, "binary"),
        (cut, "damaged or cut short"),
        (pipe, "pipe"),
    ):
        with pytest.raises(FileError, match=reason) as refused:
            lines_of(path)
        assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("apache-access.log", "apache-access"),
        ("apache-access.log.gz", "apache-access"),
        ("access.log.1", "access.log"),
        ("plain", "plain"),
        (".hidden", ".hidden"),
        ("a\nb.log", "a_b"),
        ("\udcff.log", "_"),
    ],
)
def test_the_service_is_the_files_name(name: str, service: str) -> None:
    assert service_of(Path("/var/log") / name) == service


def test_a_lines_id_depends_on_content_and_place_only(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\none\n")
    with LineFile(path) as lines:
        first, second = lines
    assert line_id(b"file", first) == line_id(b"file", first)
    assert len({line_id(b"file", first), line_id(b"file", second), line_id(b"other", first)}) == 3
