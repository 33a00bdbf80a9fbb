"""Writing history files: rows become Parquet, and the store gives it its name once it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tables.history.datasets import Dataset
from tables.history.names import HistoryFile
from tables.history.store import DatasetStore

ROW_GROUP: Final = 4_096
"""Rows read at once at least: a query of one key reads few of other keys with its own."""

Write = Callable[[pq.ParquetWriter], None]


def write_file(store: DatasetStore, file: HistoryFile, dataset: Dataset, write: Write) -> None:
    """Write a file, whole and durable. Nothing appears when ``write`` raises.

    Raises :class:`OSError`.
    """

    def fill(sink: pa.NativeFile) -> None:
        with pq.ParquetWriter(
            sink,
            dataset.schema,
            compression="zstd",
            use_dictionary=True,
            write_page_checksum=True,
        ) as writer:
            write(writer)

    store.put(file, fill)


def write_rows(
    store: DatasetStore, file: HistoryFile, dataset: Dataset, rows: Iterable[tuple[object, ...]]
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
    write_file(
        store, file, dataset, lambda writer: writer.write_table(table, row_group_size=ROW_GROUP)
    )
