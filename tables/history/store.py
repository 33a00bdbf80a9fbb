"""What the history needs of the place it lies in: a folder and a bucket are the two there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

import duckdb
import pyarrow as pa

from tables.history.names import HistoryFile

Parameter: TypeAlias = str | int | list[str]
Scan: TypeAlias = Callable[[Sequence[HistoryFile]], tuple[str, list[Parameter]]]
"""What SQL says after FROM to read whole files (>= 1), and its parameters."""
Fill: TypeAlias = Callable[[pa.NativeFile], None]
"""Writes a file's content."""


class StoreError(OSError):
    """The place did not answer, or refused. This says nothing of any file in it."""


class Stat(NamedTuple):
    """Size in bytes, and when the file came to be there (epoch ns)."""

    size: int
    changed_ns: int


class DatasetStore(Protocol):
    """Files of one dataset of one namespace. Blocking, for threads; safe to use from several.

    A file is there whole or not at all, and never changes under its name. Everything raises
    :class:`OSError` when the place cannot be used, and :class:`FileNotFoundError` when the file
    is not there (any more).
    """

    def where(self, file: HistoryFile) -> str:
        """The file's place, for messages."""

    def files(self) -> list[HistoryFile]:
        """Every file by its name; what has no name of ours is passed over."""

    def aside(self) -> list[HistoryFile]:
        """Files that were set aside as unreadable: what they would hold, by their names."""

    def stats(self, files: Sequence[HistoryFile]) -> dict[HistoryFile, Stat]:
        """Of those that are there."""

    def stat(self, file: HistoryFile) -> Stat:
        """Of one file."""

    def opened(self, file: HistoryFile) -> AbstractContextManager[str | pa.PythonFile]:
        """The file as pyarrow reads it. What it raises as :class:`StoreError` is the place's."""

    def put(self, file: HistoryFile, fill: Fill) -> None:
        """Write a file, durable when this returns. Nothing appears when ``fill`` raises.

        The name says what is in a file: if it is taken, by the same rows.
        """

    def remove(self, file: HistoryFile) -> None:
        """Remove a file."""

    def set_aside(self, file: HistoryFile) -> None:
        """Take an unreadable file out of the history, and keep it for whoever wants to look."""

    def sweep(self, now_ms: int) -> int:
        """Remove half-written files that crashes left behind; how many there were."""

    def scan(self, duck: duckdb.DuckDBPyConnection) -> Scan:
        """How one question on that connection reads files."""

    def duck(self, threads: int) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A database that can read these files, and has room on disk for what is large."""
