"""Small files become large ones; a reader sees the old or the new, never both, never neither.

The merged file appears first and speaks for the whole range (:func:`ranges.cover`). The old
ones go a while later, when whoever had listed them has read them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from agents.history.files import publish, set_aside, stage
from agents.history.groups import row_groups
from tables.history.datasets import Dataset
from tables.history.duck import open_duck
from tables.history.folder import DatasetFolder
from tables.history.names import HistoryFile, Source, day_of
from tables.history.parquet import defect
from tables.history.query import rows_of
from tables.history.ranges import Piece, merged, merges, superseded

logger = logging.getLogger(__name__)

BATCH: Final = 4_096
MERGES_MAX: Final = 4
"""Merges of one round: in between the archiver reads on."""
KEPT_MS: Final = 600_000
"""How long replaced files stay for readers that have listed them."""


@dataclass(slots=True)
class Compacted:
    """What a round did. ``aside``: sources of files that could not be read."""

    merged: int = 0
    removed: int = 0
    aside: set[Source] = field(default_factory=set)


def compact(
    folder: DatasetFolder,
    dataset: Dataset,
    sources: Collection[Source],
    now_ms: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Compacted:
    """One round over files of the sources. Raises :class:`OSError` when the disk is full."""
    done = Compacted()
    files = [file for file in folder.files() if file.source in sources]
    done.removed = _remove_superseded(folder, dataset, files, now_ms)
    for group in merges(files, _sizes(folder, files), day_of(now_ms))[:MERGES_MAX]:
        if stopped():
            break
        try:
            _merge(folder, dataset, group)
            done.merged += 1
        except (duckdb.Error, _CountError) as exc:
            aside = _set_bad_aside(folder, dataset, group)
            done.aside |= aside
            if not aside:
                logger.warning("%d history files were not merged: %s", len(group), exc)
    return done


class _CountError(Exception):
    """The merged file would not hold what the old ones do."""


def _merge(folder: DatasetFolder, dataset: Dataset, group: Sequence[HistoryFile]) -> None:
    source, parameters = rows_of(
        [Piece(file, file.first, file.last) for file in group], folder.path
    )
    columns = ", ".join(f'"{name}"' for name in dataset.schema.names)
    order = ", ".join(f'"{name}"' for name in dataset.sort)
    sql = f"SELECT {columns} FROM ({source}) ORDER BY {order}"  # noqa: S608 - names of columns and placeholders
    wanted = sum(_row_count(folder.file(file)) for file in group)
    written = 0

    def write(writer: pq.ParquetWriter) -> None:
        nonlocal written
        batches = connection.sql(sql, params=parameters).to_arrow_reader(BATCH)
        for rows in row_groups(batches, dataset.key):
            written += rows.num_rows
            writer.write_table(rows.cast(dataset.schema))

    target = merged(group)
    with open_duck(folder.path, threads=1, spill=folder.path / ".spill") as connection:
        temporary = stage(folder, target, dataset, write)
    if written != wanted:
        temporary.unlink()
        raise _CountError(f"{wanted} rows in {len(group)} files became {written}")
    publish(temporary, folder.file(target))


def _row_count(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as exc:
        raise _CountError(f"{path}: {exc}") from exc


def _remove_superseded(
    folder: DatasetFolder, dataset: Dataset, files: Sequence[HistoryFile], now_ms: int
) -> int:
    removed = 0
    for file, wider in superseded(files):
        path, instead = folder.file(file), folder.file(wider)
        with contextlib.suppress(FileNotFoundError):
            old_enough = now_ms - instead.stat().st_mtime * 1000 >= KEPT_MS
            if old_enough and defect(instead, dataset) is None:
                path.unlink()
                removed += 1
    return removed


def _set_bad_aside(
    folder: DatasetFolder, dataset: Dataset, group: Sequence[HistoryFile]
) -> set[Source]:
    found = set()
    for file in group:
        path = folder.file(file)
        with contextlib.suppress(FileNotFoundError):
            reason = defect(path, dataset, deep=True)
            if reason is not None:
                logger.warning("history file %s is set aside: %s", path, reason)
                set_aside(path)
                found.add(file.source)
    return found


def _sizes(folder: DatasetFolder, files: Sequence[HistoryFile]) -> dict[HistoryFile, int]:
    sizes = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            sizes[file] = folder.file(file).stat().st_size
    return sizes
