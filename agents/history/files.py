"""Writing history files: whole, durable, and under their name only once they are both."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tables.history.datasets import Dataset
from tables.history.folder import DatasetFolder
from tables.history.names import ASIDE, TEMPORARY, HistoryFile

ROW_GROUP: Final = 4_096
"""Rows read at once at least: a query of one key reads few of other keys with its own."""
ABANDONED_S: Final = 3_600
"""Age at which a half-written file is nobody's any more."""

Write = Callable[[pq.ParquetWriter], None]


def stage(folder: DatasetFolder, file: HistoryFile, dataset: Dataset, write: Write) -> Path:
    """A durable file under a temporary name beside its final one. Raises :class:`OSError`."""
    final = folder.file(file)
    _make(final.parent)
    temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with pq.ParquetWriter(
            temporary,
            dataset.schema,
            compression="zstd",
            use_dictionary=True,
            write_page_checksum=True,
        ) as writer:
            write(writer)
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


def write_rows(
    folder: DatasetFolder, file: HistoryFile, dataset: Dataset, rows: Iterable[tuple[object, ...]]
) -> None:
    """Write rows (``offset`` first, in order of offsets) as one file. Raises :class:`OSError`."""
    columns = zip(*rows, strict=True)
    table = pa.table(
        [
            pa.array(column, kind)
            for column, kind in zip(columns, dataset.schema.types, strict=True)
        ],
        schema=dataset.schema,
    ).sort_by([(column, "ascending") for column in dataset.sort])
    temporary = stage(
        folder, file, dataset, lambda writer: writer.write_table(table, row_group_size=ROW_GROUP)
    )
    publish(temporary, folder.file(file))


def set_aside(path: Path) -> None:
    """Take an unreadable file out of the history, and keep it for whoever wants to look."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(path.name + ASIDE))


def sweep(folder: DatasetFolder, now_ms: int) -> int:
    """Remove half-written files that crashes left behind; how many there were."""
    removed = 0
    for _day, days in folder.days():
        for path in days.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if now_ms - path.stat().st_mtime * 1000 > ABANDONED_S * 1000:
                    path.unlink()
                    removed += 1
    return removed


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
