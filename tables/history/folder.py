"""History in a folder of a file system. Listing reads names only and opens no file."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from tables.history.duck import open_duck
from tables.history.names import ASIDE, TEMPORARY, HistoryFile, listed_file, parse_day
from tables.history.store import Fill, Parameter, Scan, Stat

ABANDONED_S: Final = 3_600
"""Age at which a half-written file is nobody's any more."""


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Files of one dataset of one namespace; see :class:`tables.history.store.DatasetStore`."""

    path: Path

    def file(self, file: HistoryFile) -> Path:
        """Where the file lies."""
        return self.path / file.path

    def where(self, file: HistoryFile) -> str:
        """The same as text."""
        return str(self.file(file))

    def files(self) -> list[HistoryFile]:
        """Every file by its name. A folder that does not exist (yet, or no more) holds nothing."""
        return self._parsed("")

    def aside(self) -> list[HistoryFile]:
        """Files that were set aside."""
        return self._parsed(ASIDE)

    def stats(self, files: Sequence[HistoryFile]) -> dict[HistoryFile, Stat]:
        """Of those that are there."""
        found = {}
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found[file] = self.stat(file)
        return found

    def stat(self, file: HistoryFile) -> Stat:
        """Of one file."""
        stat = self.file(file).stat()
        return Stat(stat.st_size, stat.st_mtime_ns)

    @contextlib.contextmanager
    def opened(self, file: HistoryFile) -> Iterator[str]:
        """Its path: pyarrow opens it by itself."""
        yield self.where(file)

    def put(self, file: HistoryFile, fill: Fill) -> None:
        """Write the file beside its place, and name it once it is durable."""
        final = self.file(file)
        publish(stage(final, fill), final)

    def remove(self, file: HistoryFile) -> None:
        """Remove a file."""
        self.file(file).unlink()

    def set_aside(self, file: HistoryFile) -> None:
        """Rename it, so that nobody reads it again."""
        path = self.file(file)
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(path.name + ASIDE))

    def sweep(self, now_ms: int) -> int:
        """Remove half-written files that crashes left behind; how many there were."""
        removed = 0
        for _day, days in self._days():
            for path in days.glob(f"{TEMPORARY}*"):
                with contextlib.suppress(FileNotFoundError):
                    if now_ms - path.stat().st_mtime * 1000 > ABANDONED_S * 1000:
                        path.unlink()
                        removed += 1
        return removed

    def scan(self, _duck: duckdb.DuckDBPyConnection) -> Scan:
        """DuckDB reads the files itself."""
        return self._read_parquet

    @contextlib.contextmanager
    def duck(self, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database that reads this folder, and spills into it."""
        with open_duck(self.path, threads=threads, spill=self.path / ".spill") as connection:
            yield connection

    def _read_parquet(self, files: Sequence[HistoryFile]) -> tuple[str, list[Parameter]]:
        paths = [self.where(file) for file in files]
        return "read_parquet(?, hive_partitioning = false)", [paths]

    def _days(self) -> list[tuple[str, Path]]:
        """Folders of days, oldest first."""
        return sorted(
            (day, self.path / name) for name in _names(self.path) if (day := parse_day(name))
        )

    def _parsed(self, ending: str) -> list[HistoryFile]:
        return [
            file
            for _day, folder in self._days()
            for name in _names(folder)
            if (file := listed_file(folder.name, name, ending))
        ]


def dataset_folder(history: Path, namespace: str, dataset: str) -> DatasetFolder:
    """Folder of a dataset. Namespaces share the history folder and nothing in it."""
    return DatasetFolder(history / (namespace or "default") / dataset)


def stage(final: Path, fill: Fill) -> Path:
    """A durable file under a temporary name beside its final one. Raises :class:`OSError`."""
    _make(final.parent)
    temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with pa.OSFile(str(temporary), "wb") as sink:
            fill(sink)
        _sync(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def publish(temporary: Path, final: Path) -> None:
    """Give the staged file its name, durably. Raises :class:`OSError`.

    The name says what is in it, so one that is taken belongs to the same rows: whoever was
    first has archived them, and the file is left as it is.
    """
    with contextlib.suppress(FileExistsError):
        os.link(temporary, final)
    temporary.unlink()
    _sync(final.parent)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - thousands of names, no need of paths
    except (FileNotFoundError, NotADirectoryError):
        return []


def _make(folder: Path) -> None:
    """The folder and those above it, durably."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
