"""``GET /api/v1/consumers``: how far every partition of the agents' topics is read, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from app.engine.query import ConsumerRow, Owner, Queries
from web.peers import Peers
from web.problem import json_response
from web.queries.scatter import ask_owners, is_forwarded

PATH: Final = "/api/v1/consumers"


class Row(msgspec.Struct, frozen=True):
    """A partition as its owner reads it.

    ``worker``: its name; ``owner``: its address, null while the group tells none. ``state``:
    restoring, running or halted. Offsets, lag (records) and the live lane's ``watermark``
    (epoch milliseconds) are null while not known.
    """

    topic: str
    partition: int
    owner: str | None
    worker: str
    state: str
    position: int | None
    committed: int | None
    high_water: int | None
    lag: int | None
    batch_size: int
    paused: bool
    watermark: int | None


class _Answer(msgspec.Struct, frozen=True):
    """What is read of another worker's answer."""

    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Consumers:
    """The partitions of one worker, and those of the others by one hop.

    ``sources`` are the agents' topics. Rows are bounded by the catalogue's partitions.
    """

    queries: Queries
    peers: Peers
    sources: Sequence[str]

    async def handle(self, request: web.Request) -> web.Response:
        """Rows by topic and partition; who and what is missing is named (``partial``)."""
        forwarded = is_forwarded(request, self.queries)
        owners = {(t, o.partition): o for t in self.sources for o in self.queries.owners(t)}
        rows = [row_of(each, owners, self.queries.worker) for each in self.queries.consumers()]
        missing: list[str] = []
        unreported: list[str] = []
        if not forwarded:
            others = await ask_owners(list(owners.values()), self.peers, PATH, _rows)
            rows = latest([*rows, *(row for answer in others.answers for row in answer)])
            missing = others.missing
            found = {(row.topic, row.partition) for row in rows}
            unreported = [f"{topic}/{p}" for topic, p in owners if (topic, p) not in found]
        return json_response(
            {
                "rows": rows,
                "worker": self.queries.worker,
                "partial": bool(missing or unreported),
                "missing": missing,
                "unreported": unreported,
            }
        )


def _rows(body: bytes) -> list[Row]:
    return msgspec.json.decode(body, type=_Answer).rows


def row_of(row: ConsumerRow, owners: dict[tuple[str, int], Owner], worker: str) -> Row:
    """The answer's row of a row of this worker."""
    owner = owners.get((row.topic, row.partition))
    return Row(
        row.topic,
        row.partition,
        owner.url if owner is not None and owner.local else None,
        worker,
        row.state,
        row.position,
        row.committed_position,
        row.end,
        row.lag,
        row.batch_size,
        row.paused,
        row.watermark_ms,
    )


def latest(rows: Sequence[Row]) -> list[Row]:
    """One row a partition: while it moves two workers may claim it, and the later commit counts."""
    newest: dict[tuple[str, int], Row] = {}
    for row in rows:
        held = newest.get((row.topic, row.partition))
        if held is None or _committed(row) > _committed(held):
            newest[row.topic, row.partition] = row
    return [newest[key] for key in sorted(newest)]


def _committed(row: Row) -> int:
    return -1 if row.committed is None else row.committed
