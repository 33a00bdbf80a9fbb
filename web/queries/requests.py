"""``GET /metrics/requests``: events per endpoint over the last five minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.lanes import LANES_TABLE
from tables.windows.spec import WindowSpec
from web.peers import Peers
from web.problem import json_response
from web.queries.collecting import asked_list, collect
from web.queries.rows import in_slices, keys_after, newest_rows
from web.queries.times import TimeRange
from web.queries.whence import Held, Spread, times_of, watermark_by_times

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
    "Headrace-Standbys": "Partitions told by a standby, asked with consistency=stale",
    "Headrace-Truncated": "true when there are more endpoints than are told or looked at",
}


class Report(Spread, frozen=True, kw_only=True):
    """What a worker tells its peers: sums of its own partitions."""

    counts: dict[str, int]
    truncated: bool


@dataclass(slots=True)
class _Share:
    """Sums of some partitions; ``truncated``: there are more keys than are read or told."""

    counts: dict[str, int]
    truncated: bool = False


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
        (see :func:`headers_of`). 503 while a partition of this worker is restored, unless a
        standby may answer (``consistency=stale``).
        """
        report = await self._report(request)
        response = json_response(report.counts)
        response.headers.update(headers_of(report))
        if report.truncated:
            response.headers["Headrace-Truncated"] = "true"
        return response

    async def report(self, request: web.Request) -> web.Response:
        """For other workers: this one's share, with what the headers tell of the whole."""
        return json_response(await self._report(request))

    async def _report(self, request: web.Request) -> Report:
        asked = asked_list(request, self._queries, REPORT_PATH, REPORT_PATH, {})
        found = await collect(self._queries, self._peers, asked, self._share, _share_of)
        counts: dict[str, int] = {}
        for share in found.parts:
            for key, count in share.counts.items():
                counts[key] = counts.get(key, 0) + count
        shown, left_out = _busiest(counts)
        truncated = left_out or any(share.truncated for share in found.parts)
        return Report(counts=shown, truncated=truncated, **found.spread.figures())

    async def _share(self, held: Held) -> tuple[_Share, int | None]:
        """Sums of a partition of this worker, and its watermark."""
        now_ms = self._clock()
        last_five_minutes = TimeRange(max(0, now_ms - RANGE_MS + 1), now_ms + 1)
        windows_max = RANGE_MS // self._spec.advance_ms + 1
        times = times_of(held.table(LANES_TABLE), len(self._queries.owners(self._spec.topic)))
        table = held.opener(self._spec.name)
        fed: set[tuple[str, ...]] = set()
        share, read = _Share({}), 0
        async for key in in_slices(keys_after(table, None, last_five_minutes.from_ms or 0)):
            share.truncated = read == KEYS_READ_MAX
            if share.truncated:
                break
            read += 1
            rows = newest_rows(table(), key, last_five_minutes, windows_max)
            fed.update(stats.lanes for _, stats in rows)
            if rows:
                share.counts[key] = sum(stats.count for _, stats in rows)
        return share, watermark_by_times(times, fed)


def headers_of(spread: Spread) -> Mapping[str, str]:
    """What a :class:`Spread` tells, as headers; one that is null or empty is left out."""
    told = {
        "Headrace-Partitions": ", ".join(map(str, spread.partitions)),
        "Headrace-Worker": spread.worker,
        "Headrace-Watermark-Ms": "" if spread.watermark_ms is None else str(spread.watermark_ms),
        "Headrace-Staleness-Ms": str(spread.staleness_ms),
        "Headrace-Partial": "true" if spread.partial else "false",
        "Headrace-Missing": ", ".join(spread.missing),
        "Headrace-Standbys": ", ".join(map(str, spread.standbys or ())),
    }
    return {name: value for name, value in told.items() if value}


def _busiest(counts: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    """The most that one answer tells, and whether any was left out."""
    shown = nlargest(ENDPOINTS_MAX, counts.items(), key=lambda item: (item[1], item[0]))
    return dict(shown), len(counts) > ENDPOINTS_MAX


def _share_of(body: bytes) -> tuple[Report, _Share]:
    report = msgspec.json.decode(body, type=Report)
    return report, _Share(report.counts, report.truncated)
