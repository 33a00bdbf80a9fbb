"""Windows of one key as columns, as files give them: the latest of each, then rows. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

ROWS_AT_ONCE: Final = 2_048
"""Rows made in one go: other threads wait for so many at most."""

_T = TypeVar("_T")


def latest(found: pa.Table, limit: int) -> pa.Table:
    """Each ``start`` once, in its latest revision: the newest ``limit``, oldest first.

    ``found`` are all revisions of one key's windows in any order, with their ``offset``.
    """
    found = found.combine_chunks()
    if not _ascends(found["start"]):
        down = [(name, "descending") for name in ("revision", "offset")]
        order = pc.sort_indices(found, sort_keys=[("start", "ascending"), *down])
        found = found.take(order).combine_chunks()
        starts = found["start"]
        differs = pc.not_equal(starts[1:], starts[:-1])
        found = found.filter(pa.chunked_array([pa.array([True]), *differs.chunks]))
    return found.slice(max(0, found.num_rows - limit))


def _ascends(starts: pa.ChunkedArray) -> bool:
    """Whether each start is there once, in order: files are sorted, and most answers are."""
    return bool(pc.all(pc.less(starts[:-1], starts[1:]), min_count=0).as_py())


def windows_of(found: pa.Table, make: Callable[..., _T]) -> list[_T]:
    """What ``make`` makes of each row's columns, the last of which is ``codes``."""
    rows: list[_T] = []
    for batch in found.to_batches(max_chunksize=ROWS_AT_ONCE):
        *cells, texts = (column.to_pylist() for column in batch.columns)
        rows.extend(map(make, *cells, map(codes_of, texts)))
    return rows


@lru_cache(maxsize=4_096)
def codes_of(text: str | None) -> dict[str, int] | None:
    """Few codes in few combinations: most rows have the text of another."""
    return None if text is None else msgspec.json.decode(text, type=dict[str, int])
