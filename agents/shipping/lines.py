"""Lines of a file, plain or gzip, with their place, in bounded memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from app.models import rules

LINE_BYTES_MAX: Final = rules.EVENT_BYTES_MAX + 1
"""A line's head that is kept: one byte more than any parser takes, so that it is refused."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_PROBE_BYTES: Final = 8_192


class FileError(Exception):
    """A file that cannot be shipped; the text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Line:
    """``number`` from 1; ``offset``: of its first byte, after decompression.

    ``text`` has no line end and at most :data:`LINE_BYTES_MAX` bytes of ``size``.
    """

    number: int
    offset: int
    text: bytes
    size: int


class LineFile:
    """An open file of lines. A context manager; raises :class:`FileError` on opening and reading.

    Gzip is recognised by its first bytes, not by the name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = _open(path)
        self.bytes_total = path.stat().st_size
        """Size on disk."""
        try:
            self._data = self._readable()
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()
        self._raw.close()

    @property
    def bytes_read(self) -> int:
        """How much of :attr:`bytes_total` has been read."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[Line]:
        number = offset = 0
        while True:
            head = self._readline()
            if not head:
                return
            size = len(head)
            while not head.endswith(b"\n") and size >= LINE_BYTES_MAX:
                more = self._readline()
                size += len(more)
                if not more or more.endswith(b"\n"):
                    break
            number += 1
            text = head.rstrip(b"\r\n")
            yield Line(number, offset, text.removeprefix(_BOM) if number == 1 else text, size)
            offset += size

    def _readable(self) -> BinaryIO:
        magic = self._raw.read(len(_GZIP_MAGIC))
        self._raw.seek(0)
        data = (
            cast(BinaryIO, gzip.GzipFile(fileobj=self._raw, mode="rb"))
            if magic == _GZIP_MAGIC
            else self._raw
        )
        self._data = data
        if b"\0" in self._guarded(data.read, _PROBE_BYTES):
            raise FileError(
                f"{self._path}: this is a binary file (or UTF-16 text); "
                "give a log of UTF-8 or ASCII lines, plain or gzip"
            )
        data.seek(0)
        return data

    def _readline(self) -> bytes:
        return self._guarded(self._data.readline, LINE_BYTES_MAX)

    def _guarded(self, read: Callable[[int], bytes], limit: int) -> bytes:
        try:
            return read(limit)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise FileError(
                f"{self._path}: the gzip data is damaged or cut short ({exc}); "
                "what came before the damage was read"
            ) from exc
        except OSError as exc:
            raise FileError(f"{self._path}: reading failed ({exc.strerror or exc})") from exc


def _open(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise FileError(f"{path}: this is a directory; name the files in it ({path}/*.log)")
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: this is a pipe or a device; give a regular file")
        return path.open("rb")
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except PermissionError:
        raise FileError(f"{path}: this user may not read the file") from None
    except OSError as exc:
        raise FileError(f"{path}: cannot be opened ({exc.strerror or exc})") from exc
