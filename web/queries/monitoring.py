"""``/metrics/errors``, ``/metrics/latency`` and ``/metrics/anomalies``: the last five minutes.

Each asks every worker for its endpoints; a key lives in one partition, so the answers of
workers never overlap. Workers that did not answer are named (``partial``, ``missing``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from heapq import nlargest
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.engine.query import CommittedTable, NotOwnedError, NotReadyError, Queries
from tables.histogram import quantiles
from tables.lanes import LaneTimes
from tables.windows.anomaly import BASELINE_MAX, judge
from tables.windows.compose import Pane, merged
from tables.windows.figures import codes_of
from tables.windows.stats import WindowStats
from tables.windows.trends import hop_before
from tables.windows.window import WindowSpec
from web.peers import Peers
from web.problem import json_response
from web.queries.panes import times_of
from web.queries.requests import ENDPOINTS_MAX, KEYS_READ_MAX, RANGE_MS
from web.queries.rows import in_slices, keys_after, newest_rows
from web.queries.scatter import (
    PARTIALS_TOPIC,
    gather,
    is_forwarded,
    local_partitions,
    restoring,
)
from web.queries.times import TimeRange

ERRORS_PATH: Final = "/metrics/errors"
LATENCY_PATH: Final = "/metrics/latency"
ANOMALIES_PATH: Final = "/metrics/anomalies"

Metric = Literal["count", "avg_latency"]

JUDGED: Final = 5
"""Closed windows of each endpoint that are judged, each by those before it."""


class ErrorRate(msgspec.Struct, frozen=True):
    """Share of an endpoint's requests that failed: client errors, server errors, by code."""

    endpoint: str
    count: int
    errorRate: float  # noqa: N815 - the name in the answer
    rate4xx: float
    rate5xx: float
    codes: dict[str, int]


class Latency(msgspec.Struct, frozen=True):
    """Quantiles of an endpoint's latency in ms, over ``count`` requests that carried one."""

    endpoint: str
    count: int
    p50: float
    p95: float
    p99: float
    max: float


class Anomaly(msgspec.Struct, frozen=True):
    """A closed window unlike those before it; ``score`` in deviations from their mean."""

    endpoint: str
    start: int
    end: int
    metric: Metric
    value: float
    mean: float
    deviation: float
    score: float


class _Found(msgspec.Struct, frozen=True):
    """What is read of another worker's answer."""

    found: list[dict[str, Any]]
    truncated: bool


Handler = Callable[[web.Request], Awaitable[web.Response]]
Judge = Callable[[str, Sequence[Pane], LaneTimes], Sequence[msgspec.Struct]]


class Monitoring:
    """Three views: latencies and flags over ``requests`` (tumbling), error rates over another."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        requests: WindowSpec,
        clock: Callable[[], int],
    ) -> None:
        """``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._requests = requests
        self._clock = clock

    def error_rates_of(self, spec: WindowSpec) -> Handler:
        """Error rate of each endpoint in the window of ``spec`` that holds now."""

        def rate(endpoint: str, panes: Sequence[Pane], _times: LaneTimes) -> list[ErrorRate]:
            stats = merged(stats for _, stats in panes)
            return [error_rate(endpoint, stats)] if stats.count else []

        async def error_rates(request: web.Request) -> web.Response:
            end = hop_before(self._clock(), spec.advance_ms) + spec.advance_ms
            wanted = TimeRange(max(0, end - spec.size_ms), end)
            return await self._view(request, ERRORS_PATH, spec, wanted, rate)

        return error_rates

    async def latencies(self, request: web.Request) -> web.Response:
        """Latency quantiles of each endpoint, or of ``endpoint``, over the last five minutes."""
        now_ms = self._clock()
        wanted = TimeRange(max(0, now_ms - RANGE_MS + 1), now_ms + 1)

        def latency(endpoint: str, panes: Sequence[Pane], _times: LaneTimes) -> list[Latency]:
            stats = merged(stats for _, stats in panes)
            return [latency_of(endpoint, stats)] if stats.n else []

        return await self._view(request, LATENCY_PATH, self._requests, wanted, latency)

    async def anomalies(self, request: web.Request) -> web.Response:
        """Windows that closed within the last minutes and are beyond three sigma."""
        spec = self._requests
        now_ms = self._clock()
        span_ms = (BASELINE_MAX + JUDGED + 1) * spec.size_ms + spec.grace_ms
        wanted = TimeRange(max(0, now_ms - span_ms), now_ms + 1)

        def flagged(endpoint: str, panes: Sequence[Pane], times: LaneTimes) -> list[Anomaly]:
            return anomalies_of(spec, endpoint, panes, times)

        return await self._view(request, ANOMALIES_PATH, spec, wanted, flagged)

    async def _view(
        self,
        request: web.Request,
        path: str,
        spec: WindowSpec,
        wanted: TimeRange,
        judge_key: Judge,
    ) -> web.Response:
        only = request.query.get("endpoint")
        forwarded = is_forwarded(request, self._queries)
        found: list[Any] = []
        truncated, missing = False, []
        for partition in local_partitions(self._queries):
            try:
                times = times_of(self._queries, partition, self._requests.topic)
                async for key, panes in self._keys(spec, partition, wanted, only):
                    found += judge_key(key, panes, times)
            except NotReadyError as exc:
                raise restoring(exc) from exc
            except NotOwnedError:
                missing.append(self._queries.worker)
            except _TooManyKeysError:
                truncated = True
        if not forwarded:
            query = "" if only is None else "?" + urlencode({"endpoint": only})
            others = await gather(self._queries, self._peers, path + query, _found_of)
            missing += others.missing
            found += [each for answer in others.answers for each in answer.found]
            truncated |= any(answer.truncated for answer in others.answers)
        busiest = nlargest(ENDPOINTS_MAX, map(msgspec.to_builtins, found), key=_weight)
        return json_response(
            {
                "window": spec.name,
                **{name: int(at) for name, at in wanted.query().items()},
                "found": busiest,
                "truncated": truncated or len(found) > ENDPOINTS_MAX,
                "partial": bool(missing),
                "missing": missing,
                "worker": self._queries.worker,
            }
        )

    async def _keys(
        self, spec: WindowSpec, partition: int, wanted: TimeRange, only: str | None
    ) -> AsyncIterator[tuple[str, Sequence[Pane]]]:
        def table() -> CommittedTable:
            return self._queries.table(PARTIALS_TOPIC, partition, spec.name)

        span_ms = (wanted.to_ms or 0) - (wanted.from_ms or 0)
        panes_max = span_ms // spec.advance_ms + 2
        keys = keys_after(table, None, wanted.from_ms or 0) if only is None else iter([only])
        read = 0
        async for key in in_slices(keys):
            if read == KEYS_READ_MAX:
                raise _TooManyKeysError
            read += 1
            panes = newest_rows(table(), key, wanted, panes_max)
            if panes:
                yield key, panes


class _TooManyKeysError(Exception):
    """A partition has more keys than one answer looks at."""


def error_rate(endpoint: str, stats: WindowStats) -> ErrorRate:
    """Shares of a state that counted codes; it has events."""
    client = sum(count for code, count in stats.codes.items() if 400 <= code < 500)
    server = sum(count for code, count in stats.codes.items() if code >= 500)
    return ErrorRate(
        endpoint,
        stats.count,
        (client + server) / stats.count,
        client / stats.count,
        server / stats.count,
        codes_of(stats),
    )


def latency_of(endpoint: str, stats: WindowStats) -> Latency:
    """Quantiles of a state that has values."""
    low, high = stats.min or 0, stats.max or 0
    p50, p95, p99 = quantiles(stats.hist, (0.5, 0.95, 0.99), low, high)
    return Latency(endpoint, stats.n, p50 / 1000, p95 / 1000, p99 / 1000, high / 1000)


def anomalies_of(
    spec: WindowSpec, endpoint: str, panes: Sequence[Pane], times: LaneTimes
) -> list[Anomaly]:
    """The last :data:`JUDGED` closed windows of a tumbling window that are flagged."""
    closed = [
        (start, stats)
        for start, stats in panes
        if stats.count and times.of_row(stats.lanes) >= start + spec.size_ms + spec.grace_ms
    ]
    found = []
    for metric, of in _METRICS:
        values = [of(stats) for _, stats in closed]
        for place in range(max(0, len(closed) - JUDGED), len(closed)):
            judged = judge(values[:place], values[place])
            if judged is not None and judged.flagged:
                start = closed[place][0]
                found.append(
                    Anomaly(
                        endpoint,
                        start,
                        start + spec.size_ms,
                        metric,
                        judged.value,
                        judged.mean,
                        judged.deviation,
                        judged.score,
                    )
                )
    return found


def _count(stats: WindowStats) -> float:
    return float(stats.count)


def _average_ms(stats: WindowStats) -> float:
    return stats.sum / stats.n / 1000 if stats.n else 0.0


_METRICS: Final[tuple[tuple[Metric, Callable[[WindowStats], float]], ...]] = (
    ("count", _count),
    ("avg_latency", _average_ms),
)


def _weight(found: Mapping[str, Any]) -> tuple[float, str]:
    return (abs(found.get("score", found.get("count", 0))), found["endpoint"])


def _found_of(body: bytes) -> _Found:
    return msgspec.json.decode(body, type=_Found)
