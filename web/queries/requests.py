"""``GET /metrics/requests``: events per endpoint over the last five minutes."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import Final

import msgspec
from aiohttp import web

from app.engine.query import CommittedTable, NotOwnedError, NotReadyError, Queries
from tables.windows.spec import WindowSpec
from web.peers import Peers
from web.problem import json_response
from web.queries.rows import in_slices, keys_after, newest_rows
from web.queries.scatter import (
    PARTIALS_TOPIC,
    gather,
    is_forwarded,
    local_partitions,
    restoring,
)
from web.queries.times import TimeRange

PATH: Final = "/metrics/requests"
RANGE_MS: Final = 5 * 60_000
ENDPOINTS_MAX: Final = 1_000
KEYS_READ_MAX: Final = 10_000
"""Keys looked at per partition; with more, the header Headrace-Truncated says so."""


class RequestCounts:
    """Sums of the windows that start in the last five minutes: the open one and those before."""

    def __init__(
        self, queries: Queries, peers: Peers, spec: WindowSpec, clock: Callable[[], int]
    ) -> None:
        """``spec`` is the window summed; ``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._spec = spec
        self._clock = clock

    async def handle(self, request: web.Request) -> web.Response:
        """``{endpoint: count}``, the busiest 1 000, over all partitions.

        Workers that did not answer are named in the header Headrace-Missing, so that the
        body stays a plain map. 503 while a partition of this worker is restored.
        """
        forwarded = is_forwarded(request, self._queries)
        counts: dict[str, int] = {}
        truncated = False
        missing: list[str] = []
        for partition in local_partitions(self._queries):
            try:
                truncated |= await self._count(partition, counts)
            except NotReadyError as exc:
                raise restoring(exc) from exc
            except NotOwnedError:
                missing.append(self._queries.worker)
        if not forwarded:
            others = await gather(self._queries, self._peers, PATH, _counts_of)
            missing += others.missing
            for answer in others.answers:
                for key, count in answer.items():
                    counts[key] = counts.get(key, 0) + count
        busiest = nlargest(ENDPOINTS_MAX, counts.items(), key=lambda item: (item[1], item[0]))
        response = json_response(dict(busiest))
        if missing:
            response.headers["Headrace-Missing"] = ", ".join(missing)
        if truncated or len(counts) > ENDPOINTS_MAX:
            response.headers["Headrace-Truncated"] = "true"
        return response

    async def _count(self, partition: int, counts: dict[str, int]) -> bool:
        """Add the partition's sums; whether there were more keys than are read."""
        name = self._spec.name
        now_ms = self._clock()
        last_five_minutes = TimeRange(max(0, now_ms - RANGE_MS + 1), now_ms + 1)
        windows_max = RANGE_MS // self._spec.advance_ms + 1

        def table() -> CommittedTable:
            return self._queries.table(PARTIALS_TOPIC, partition, name)

        read = 0
        async for key in in_slices(keys_after(table, None, last_five_minutes.from_ms or 0)):
            if read == KEYS_READ_MAX:
                return True
            read += 1
            rows = newest_rows(table(), key, last_five_minutes, windows_max)
            if rows:
                counts[key] = counts.get(key, 0) + sum(stats.count for _, stats in rows)
        return False


def _counts_of(body: bytes) -> dict[str, int]:
    return msgspec.json.decode(body, type=dict[str, int])
