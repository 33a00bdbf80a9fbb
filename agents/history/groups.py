"""Row groups of merged files: what is read and unpacked as a whole holds whole keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agents.history.files import ROW_GROUP

ENOUGH: Final = 1_024
"""Rows of a group that may end: a day of minutes has its own, and small keys share one."""


def row_groups(batches: Iterable[pa.RecordBatch], key: Sequence[str]) -> Iterator[pa.Table]:
    """The rows, sorted by the columns ``key``, as groups of at most :data:`ROW_GROUP` rows.

    A group ends with the first key that makes it :data:`ENOUGH`. Where that would be too
    many rows, it ends before that key; only a key of more than ROW_GROUP rows is divided.
    """
    held: pa.Table | None = None
    for batch in batches:
        more = pa.Table.from_batches([batch])
        held = more if held is None else pa.concat_tables([held, more])
        while held.num_rows > ROW_GROUP:
            end = _end(held, key)
            yield held.slice(0, end)
            held = held.slice(end)
    while held is not None and held.num_rows:
        end = _end(held, key)
        yield held.slice(0, end)
        held = held.slice(end)


def _end(rows: pa.Table, key: Sequence[str]) -> int:
    """How many of the rows (>= 1) are the next group."""
    seen = rows.slice(0, ROW_GROUP + 1).select(key).combine_chunks()
    differs = [pc.not_equal(column[1:], column[:-1]) for column in seen.columns]
    changes = differs[0]
    for other in differs[1:]:
        changes = pc.or_(changes, other)
    ends = [at + 1 for at in pc.indices_nonzero(changes).to_pylist()]
    if rows.num_rows <= ROW_GROUP:
        ends.append(rows.num_rows)
    enough = (end for end in ends if end >= ENOUGH)
    return next(enough, ends[-1] if ends else ROW_GROUP)
