"""``GET /metrics/requests``: events per endpoint over the last five minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import nlargest
from typing import Final

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.lanes import LANES_TABLE
from tables.windows.spec import WindowSpec
from web.peers import Peers
from web.problem import json_response
from web.queries.rows import in_slices, keys_after, newest_rows
from web.queries.scatter import (
    PARTIALS_TOPIC,
    gather,
    is_forwarded,
    local_partitions,
)
from web.queries.times import TimeRange
from web.queries.whence import Held, Spread, Spreading, times_of, watermark_of, whole

PATH: Final = "/metrics/requests"
REPORT_PATH: Final = "/internal/requests"
RANGE_MS: Final = 5 * 60_000
ENDPOINTS_MAX: Final = 1_000
KEYS_READ_MAX: Final = 10_000
"""Keys looked at per partition; with more, the header Headrace-Truncated says so."""


HEADERS: Final = {
    "Headrace-Partitions": "Partitions in the answer",
    "Headrace-Worker": "Who was asked",
    "Headrace-Watermark-Ms": "Least watermark of them, epoch ms; absent: no lane is awake",
    "Headrace-Staleness-Ms": "Age of the oldest change that may not be in the answer",
    "Headrace-Partial": "true when workers are missing",
    "Headrace-Missing": "The workers without which it is",
    "Headrace-Truncated": "true when there are more endpoints than are told or looked at",
}


class Report(Spread, frozen=True, kw_only=True):
    """What a worker tells its peers: sums of its own partitions."""

    counts: dict[str, int]
    truncated: bool


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

        Headers say what other answers say in their body, so that this one stays a plain map
        (see :func:`headers_of`). 503 while a partition of this worker is restored.
        """
        forwarded = is_forwarded(request, self._queries)
        spread = Spreading(self._queries.worker)
        counts, truncated = await self._here(spread)
        if not forwarded:
            others = await gather(self._queries, self._peers, REPORT_PATH, _report_of)
            spread.miss(others.missing)
            for other in others.answers:
                spread.add(other)
                truncated |= other.truncated
                for key, count in other.counts.items():
                    counts[key] = counts.get(key, 0) + count
        shown, left_out = _busiest(counts)
        response = json_response(shown)
        response.headers.update(headers_of(Spread(**spread.figures())))
        if truncated or left_out:
            response.headers["Headrace-Truncated"] = "true"
        return response

    async def report(self, request: web.Request) -> web.Response:
        """For other workers: this one's share, with what the headers tell of the whole."""
        is_forwarded(request, self._queries)
        spread = Spreading(self._queries.worker)
        counts, truncated = await self._here(spread)
        shown, left_out = _busiest(counts)
        return json_response(
            Report(counts=shown, truncated=truncated or left_out, **spread.figures())
        )

    async def _here(self, spread: Spreading) -> tuple[dict[str, int], bool]:
        """Sums of this worker's partitions, and whether there were more keys than are read."""
        counts: dict[str, int] = {}
        truncated = False
        for partition in local_partitions(self._queries):
            with whole(spread):
                held = Held(self._queries, PARTIALS_TOPIC, partition)
                truncated |= await self._count(held, counts, spread)
        return counts, truncated

    async def _count(self, held: Held, counts: dict[str, int], spread: Spreading) -> bool:
        """Add the partition's sums; whether there were more keys than are read."""
        now_ms = self._clock()
        last_five_minutes = TimeRange(max(0, now_ms - RANGE_MS + 1), now_ms + 1)
        windows_max = RANGE_MS // self._spec.advance_ms + 1
        times = times_of(held.table(LANES_TABLE), len(self._queries.owners(self._spec.topic)))
        table = held.opener(self._spec.name)
        fed: set[tuple[str, ...]] = set()
        read, truncated = 0, False
        async for key in in_slices(keys_after(table, None, last_five_minutes.from_ms or 0)):
            truncated = read == KEYS_READ_MAX
            if truncated:
                break
            read += 1
            rows = newest_rows(table(), key, last_five_minutes, windows_max)
            fed.update(stats.lanes for _, stats in rows)
            if rows:
                counts[key] = counts.get(key, 0) + sum(stats.count for _, stats in rows)
        spread.hold(held.figures(watermark_of(times, fed)))
        return truncated


def headers_of(spread: Spread) -> Mapping[str, str]:
    """What a :class:`Spread` tells, as headers; one that is null or empty is left out."""
    told = {
        "Headrace-Partitions": ", ".join(map(str, spread.partitions)),
        "Headrace-Worker": spread.worker,
        "Headrace-Watermark-Ms": "" if spread.watermark_ms is None else str(spread.watermark_ms),
        "Headrace-Staleness-Ms": str(spread.staleness_ms),
        "Headrace-Partial": "true" if spread.partial else "false",
        "Headrace-Missing": ", ".join(spread.missing),
    }
    return {name: value for name, value in told.items() if value}


def _busiest(counts: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    """The most that one answer tells, and whether any was left out."""
    shown = nlargest(ENDPOINTS_MAX, counts.items(), key=lambda item: (item[1], item[0]))
    return dict(shown), len(counts) > ENDPOINTS_MAX


def _report_of(body: bytes) -> Report:
    return msgspec.json.decode(body, type=Report)
