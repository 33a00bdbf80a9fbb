"""Small files become large ones; a reader sees the old or the new, never both, never neither.

The merged file appears first and speaks for the whole range (:func:`ranges.cover`). The old
ones go a while later, when whoever had listed them has read them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from agents.history.files import write_file
from agents.history.groups import row_groups
from tables.history.datasets import Dataset
from tables.history.names import HistoryFile, Source, day_of
from tables.history.parquet import defect
from tables.history.place import cause
from tables.history.query import rows_of
from tables.history.ranges import Piece, merged, merges, superseded
from tables.history.store import DatasetStore, Stat, StoreError

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
    store: DatasetStore,
    dataset: Dataset,
    sources: Collection[Source],
    now_ms: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Compacted:
    """One round over files of the sources. Raises :class:`OSError` when the disk is full."""
    done = Compacted()
    files = [file for file in store.files() if file.source in sources]
    stats = store.stats(files)
    done.removed = _remove_superseded(store, dataset, stats, now_ms)
    sizes = {file: stat.size for file, stat in stats.items()}
    for group in merges(files, sizes, day_of(now_ms))[:MERGES_MAX]:
        if stopped():
            break
        try:
            _merge(store, dataset, group)
            done.merged += 1
        except (duckdb.Error, _CountError) as exc:
            aside = _set_bad_aside(store, dataset, group)
            done.aside |= aside
            if not aside:
                logger.warning("%d history files were not merged: %s", len(group), cause(str(exc)))
    return done


class _CountError(Exception):
    """The merged file would not hold what the old ones do."""


def _merge(store: DatasetStore, dataset: Dataset, group: Sequence[HistoryFile]) -> None:
    wanted = sum(_row_count(store, file, dataset) for file in group)
    columns = ", ".join(f'"{name}"' for name in dataset.schema.names)
    order = ", ".join(f'"{name}"' for name in dataset.sort)

    def write(writer: pq.ParquetWriter) -> None:
        pieces = [Piece(file, file.first, file.last) for file in group]
        source, parameters = rows_of(pieces, store.scan(connection))
        sql = f"SELECT {columns} FROM ({source}) ORDER BY {order}"  # noqa: S608 - names of columns and placeholders
        batches = connection.sql(sql, params=parameters).to_arrow_reader(BATCH)
        written = 0
        for rows in row_groups(batches, dataset.key):
            written += rows.num_rows
            writer.write_table(rows.cast(dataset.schema))
        if written != wanted:
            raise _CountError(f"{wanted} rows in {len(group)} files became {written}")

    with store.duck(threads=1) as connection:
        write_file(store, merged(group), dataset, write)


def _row_count(store: DatasetStore, file: HistoryFile, dataset: Dataset) -> int:
    try:
        with store.opened(file) as source, pq.ParquetFile(source) as parquet:
            # Of a column that is not there a bucket's rows would have no values.
            if set(dataset.schema.names) - set(parquet.schema_arrow.names):
                raise _CountError(f"{store.where(file)} is of another dataset")
            return int(parquet.metadata.num_rows)
    except StoreError:
        raise
    except (pa.ArrowException, OSError) as exc:
        raise _CountError(f"{store.where(file)}: {exc}") from exc


def _remove_superseded(
    store: DatasetStore, dataset: Dataset, stats: Mapping[HistoryFile, Stat], now_ms: int
) -> int:
    removed = 0
    for file, wider in superseded(stats):
        with contextlib.suppress(FileNotFoundError):
            old_enough = now_ms - stats[wider].changed_ns / 1_000_000 >= KEPT_MS
            if old_enough and defect(store, wider, dataset) is None:
                store.remove(file)
                removed += 1
    return removed


def _set_bad_aside(
    store: DatasetStore, dataset: Dataset, group: Sequence[HistoryFile]
) -> set[Source]:
    found = set()
    for file in group:
        with contextlib.suppress(FileNotFoundError):
            reason = defect(store, file, dataset, deep=True)
            if reason is not None:
                logger.warning("history file %s is set aside: %s", store.where(file), reason)
                store.set_aside(file)
                found.add(file.source)
    return found
