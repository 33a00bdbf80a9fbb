"""Copying history out: one file, in order of time, in memory that does not grow with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import duckdb
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from tables.history.datasets import Dataset
from tables.history.names import DAY_MS, HistoryFile
from tables.history.parquet import defect
from tables.history.place import cause
from tables.history.query import Asked, concerns, question
from tables.history.ranges import cover
from tables.history.store import DatasetStore, StoreError

Format = Literal["csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("csv", "parquet")
BATCH: Final = 8_192
CHUNKS_MAX: Final = 400
"""Questions an export is made of: one for each day, or for longer spans."""

Progress = Callable[[int, int, int], None]
"""Told the chunks done, of how many, and the rows written so far."""


class ExportError(Exception):
    """Nothing was exported; the text says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export: rows whose event time lies in ``[from_ms, to_ms)`` (epoch ms).

    ``equal``: columns of the dataset and what they must be.
    """

    dataset: Dataset
    equal: Mapping[str, str]
    from_ms: int
    to_ms: int


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


def export(
    store: DatasetStore,
    wanted: Wanted,
    output: Path,
    format_: Format,
    progress: Progress,
) -> int:
    """Write the latest revision of each row to ``output``, oldest first; how many there were.

    The file appears when it is whole. Raises :class:`ExportError`, also when ``output``
    exists, or when any file of the history cannot be read: an export is complete or fails.
    """
    if output.exists():
        raise ExportError(f"{output} exists: remove it, or give another --output")
    part = output.with_name(f"{output.name}.{os.getpid()}.part")
    schema = _flat(wanted.dataset) if format_ == "csv" else _columns(wanted.dataset)
    try:
        with ExitStack() as stack:
            stack.callback(part.unlink, missing_ok=True)
            writer = _open(part, schema, format_)
            stack.callback(writer.close)
            rows = 0
            for done, (chunks, batches) in enumerate(_chunks(store, wanted), 1):
                for batch in batches:
                    writer.write_batch(_fitted(batch, schema))
                    rows += batch.num_rows
                progress(done, chunks, rows)
            writer.close()
            # A link does not replace what came to be there meanwhile.
            os.link(part, output)
    except FileExistsError as exc:
        raise ExportError(f"{output} exists: remove it, or give another --output") from exc
    except StoreError as exc:
        raise ExportError(f"history cannot be read: {exc}") from exc
    except OSError as exc:
        raise ExportError(f"{output} cannot be written: {exc.strerror or exc}") from exc
    return rows


def _open(path: Path, schema: pa.Schema, format_: Format) -> _Writer:
    if format_ == "parquet":
        writer: _Writer = pq.ParquetWriter(path, schema, compression="zstd")
        return writer
    lines: _Writer = pc.CSVWriter(path, schema)
    return lines


def _columns(dataset: Dataset) -> pa.Schema:
    """The dataset without the offset, which says nothing outside of it."""
    return pa.schema(list(dataset.schema)[1:])


def _flat(dataset: Dataset) -> pa.Schema:
    """The same with lists as JSON text: CSV has no lists."""
    return pa.schema(
        [
            pa.field(each.name, pa.string() if pa.types.is_list(each.type) else each.type)
            for each in _columns(dataset)
        ]
    )


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pa.array([json.dumps(cell, ensure_ascii=False) for cell in column.to_pylist()], pa.string())
        if pa.types.is_list(column.type) and pa.types.is_string(kind)
        else column.cast(kind)
        for column, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return pa.record_batch(columns, schema=schema)


def _chunks(store: DatasetStore, wanted: Wanted) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """For each chunk how many there are in all, and its rows."""
    whole = _asked(wanted, wanted.from_ms, wanted.to_ms)
    files = [file for file in store.files() if concerns(whole, file)]
    if not files:
        return
    since = max(wanted.from_ms, min(file.min_ms for file in files) // DAY_MS * DAY_MS)
    until = min(wanted.to_ms, max(file.max_ms for file in files) + 1)
    step = max(DAY_MS, -(-(until - since) // CHUNKS_MAX))
    starts = range(since, until, step)
    with store.duck(threads=2) as duck:
        for start in starts:
            asked = _asked(wanted, start, min(start + step, until))
            yield len(starts), _batches(duck, store, asked, files)


def _asked(wanted: Wanted, from_ms: int, to_ms: int) -> Asked:
    columns = tuple(_columns(wanted.dataset).names)
    return Asked(wanted.dataset, from_ms, to_ms, columns, wanted.equal)


def _batches(
    duck: duckdb.DuckDBPyConnection,
    store: DatasetStore,
    asked: Asked,
    files: Sequence[HistoryFile],
) -> Iterator[pa.RecordBatch]:
    chosen = [file for file in files if concerns(asked, file)]
    if not chosen:
        return
    sql, parameters = question(asked, cover(chosen), store.scan(duck))
    try:
        yield from duck.sql(sql, params=parameters).to_arrow_reader(BATCH)
    except duckdb.OutOfMemoryException as exc:
        raise ExportError("the range holds too much for one export: ask for less at once") from exc
    except duckdb.Error as exc:
        raise ExportError(_cause(store, asked.dataset, chosen, exc)) from exc


def _cause(
    store: DatasetStore, dataset: Dataset, files: Sequence[HistoryFile], exc: duckdb.Error
) -> str:
    for file in files:
        path = store.where(file)
        try:
            reason = defect(store, file, dataset, deep=True)
        except FileNotFoundError:
            return f"{path} was merged into another file meanwhile: export again"
        if reason is not None:
            return f"{path} cannot be read ({reason}): move it away to export without it"
    return cause(str(exc))
