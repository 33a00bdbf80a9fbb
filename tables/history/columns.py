"""Windows of one key as columns: the latest of each, and the JSON of each. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


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


@dataclass(frozen=True, slots=True)
class Told:
    """JSON objects of windows and when each starts (epoch ms), oldest first."""

    starts: Sequence[int]
    rows: pa.BinaryArray

    @classmethod
    def of(cls, found: pa.Table) -> Told:
        """From the columns ``start`` and ``row``."""
        rows = found["row"].cast(pa.binary()).combine_chunks()
        return cls(found["start"].to_pylist(), rows)

    def __len__(self) -> int:
        return len(self.starts)

    def joined(self, upto: int, at_once: int) -> list[bytes]:
        """The first ``upto``, by commas, in parts of ``at_once`` rows."""
        bounds = [*range(0, upto, at_once), upto] if upto else [0]
        parts = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), self.rows)
        found: list[bytes] = pc.binary_join(parts, b",").to_pylist()
        return found

    def since(self, first: int) -> list[tuple[int, bytes]]:
        """Starts and rows from the ``first`` on."""
        return list(zip(self.starts[first:], self.rows[first:].to_pylist(), strict=True))


NOTHING = Told((), pa.array([], pa.binary()))
