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


class ConsumerAnswer(msgspec.Struct, frozen=True):
    """A partition as its owner reads it.

    ``worker``: its name; ``owner``: its address, null while the group tells none. ``state``:
    restoring, running or halted. Offsets, lag (records) and ``watermark_ms`` (of live
    traffic, epoch milliseconds) are null while not known.
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
    watermark_ms: int | None


class ConsumersAnswer(msgspec.Struct, frozen=True):
    """Rows by topic and partition, as ``worker`` gathered them.

    ``missing`` names workers that did not answer, ``unreported`` partitions
    (``topic/partition``) nobody speaks for; then it is ``partial``.
    """

    rows: Sequence[ConsumerAnswer]
    worker: str
    partial: bool
    missing: list[str]
    unreported: list[str]


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
            ConsumersAnswer(
                rows,
                self.queries.worker,
                partial=bool(missing or unreported),
                missing=missing,
                unreported=unreported,
            )
        )


def _rows(body: bytes) -> Sequence[ConsumerAnswer]:
    return msgspec.json.decode(body, type=ConsumersAnswer).rows


def row_of(row: ConsumerRow, owners: dict[tuple[str, int], Owner], worker: str) -> ConsumerAnswer:
    """The answer's row of a row of this worker."""
    owner = owners.get((row.topic, row.partition))
    return ConsumerAnswer(
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


def latest(rows: Sequence[ConsumerAnswer]) -> list[ConsumerAnswer]:
    """One row a partition: while it moves two workers may claim it, and the later commit counts."""
    newest: dict[tuple[str, int], ConsumerAnswer] = {}
    for row in rows:
        held = newest.get((row.topic, row.partition))
        if held is None or _committed(row) > _committed(held):
            newest[row.topic, row.partition] = row
    return [newest[key] for key in sorted(newest)]


def _committed(row: ConsumerAnswer) -> int:
    return -1 if row.committed is None else row.committed
