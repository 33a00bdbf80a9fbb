"""Whether a file is what its name says."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from tables.history.datasets import Dataset
from tables.history.names import HistoryFile
from tables.history.store import DatasetStore, StoreError


def defect(
    store: DatasetStore, file: HistoryFile, dataset: Dataset, *, deep: bool = False
) -> str | None:
    """Why the file cannot be read as one of the dataset; None: it can.

    Looks at the footer; with ``deep`` also at every page. Raises :class:`FileNotFoundError`,
    and :class:`StoreError` when it was not the file that failed.
    """
    try:
        with (
            store.opened(file) as source,
            pq.ParquetFile(source, page_checksum_verification=deep) as parquet,
        ):
            found = parquet.schema_arrow
            for column in dataset.schema:
                at = found.get_field_index(column.name)
                if at < 0:
                    return f"it has no column {column.name}"
                if found.field(at).type != column.type:
                    return f"its column {column.name} is {found.field(at).type}"
            if deep:
                for _batch in parquet.iter_batches(columns=dataset.schema.names):
                    pass
    except (FileNotFoundError, StoreError):
        raise
    except (pa.ArrowException, OSError, ValueError) as exc:
        return str(exc).partition("\n")[0][:200]
    return None
