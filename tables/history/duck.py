"""DuckDB as the history uses it: in memory, on the history only, bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import duckdb

MEMORY_BYTES: Final = 256 << 20


def open_duck(
    folder: Path | None,
    *,
    threads: int,
    memory_bytes: int = MEMORY_BYTES,
    spill: Path | None = None,
) -> duckdb.DuckDBPyConnection:
    """A database of its own that may read ``folder`` and nothing else of the machine.

    None: no file at all, only what is registered with it.
    What does not fit into ``memory_bytes`` goes to ``spill``; without one the query fails
    (:class:`duckdb.OutOfMemoryException`).
    """
    # Extensions would be fetched from the network; all that is needed is built in.
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": threads,
            "memory_limit": f"{memory_bytes}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("SET allowed_directories = ?", [[] if folder is None else [str(folder)]])
    connection.execute("SET temp_directory = ?", ["" if spill is None else str(spill)])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection
