"""``/metrics/errors``, ``/metrics/latency`` and ``/metrics/anomalies``: the last five minutes.

Each asks every worker for its endpoints; a key lives in one partition, so the answers of
workers never overlap. Workers that did not answer are named (``partial``, ``missing``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, Final, Generic, TypeVar

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.lanes import LANES_TABLE, LaneTimes
from tables.windows.anomaly import BASELINE_MAX
from tables.windows.compose import Pane, merged
from tables.windows.trends import hop_before
from tables.windows.window import WindowSpec
from web.peers import Peers
from web.problem import json_response
from web.queries.collecting import asked_list, collect
from web.queries.requests import ENDPOINTS_MAX, KEYS_READ_MAX, RANGE_MS
from web.queries.rows import in_slices, keys_after, newest_rows
from web.queries.times import TimeRange
from web.queries.views import (
    JUDGED,
    Anomaly,
    ErrorRate,
    Latency,
    anomalies_of,
    error_rate,
    latency_of,
)
from web.queries.whence import Held, Spread, times_of, watermark_by_times

ERRORS_PATH: Final = "/metrics/errors"
LATENCY_PATH: Final = "/metrics/latency"
ANOMALIES_PATH: Final = "/metrics/anomalies"

F = TypeVar("F")


class Found(Spread, Generic[F], frozen=True, kw_only=True):
    """What was ``found`` in windows of ``window`` that start in ``[from, to)``, epoch ms.

    The first thousand; ``truncated``: there is more, or more keys than one answer looks at.
    """

    window: str
    from_ms: int = msgspec.field(name="from")
    to_ms: int = msgspec.field(name="to")
    found: Sequence[F]
    truncated: bool


Handler = Callable[[web.Request], Awaitable[web.Response]]
Judge = Callable[[str, Sequence[Pane], LaneTimes], Sequence[msgspec.Struct]]


@dataclass(frozen=True, slots=True)
class _Look:
    """Which windows are looked at (``only``: of this endpoint alone), and what is made of them."""

    spec: WindowSpec
    wanted: TimeRange
    only: str | None
    judge_key: Judge


@dataclass(slots=True)
class _Seen:
    """What was found in some partitions."""

    found: list[Any] = field(default_factory=list)
    truncated: bool = False


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
        query = {} if only is None else {"endpoint": only}
        asked = asked_list(request, self._queries, path, standby_path(path), query)
        look = _Look(spec, wanted, only, judge_key)
        found = await collect(
            self._queries, self._peers, asked, lambda held: self._seen(held, look), _seen_of
        )
        everything = [one for seen in found.parts for one in seen.found]
        busiest = nlargest(ENDPOINTS_MAX, map(msgspec.to_builtins, everything), key=_weight)
        truncated = any(seen.truncated for seen in found.parts)
        return json_response(
            Found(
                window=spec.name,
                from_ms=wanted.from_ms or 0,
                to_ms=wanted.to_ms or 0,
                found=busiest,
                truncated=truncated or len(everything) > ENDPOINTS_MAX,
                **found.spread.figures(),
            )
        )

    async def _seen(self, held: Held, look: _Look) -> tuple[_Seen, int | None]:
        """What a partition of this worker has, and its watermark."""
        sources = len(self._queries.owners(look.spec.topic))
        times = times_of(held.table(LANES_TABLE), sources)
        fed: set[tuple[str, ...]] = set()
        seen = _Seen()
        try:
            async for key, panes in _keys(held, look):
                fed.update(stats.lanes for _, stats in panes)
                seen.found += look.judge_key(key, panes, times)
        except _TooManyKeysError:
            seen.truncated = True
        return seen, watermark_by_times(times, fed)


async def _keys(held: Held, look: _Look) -> AsyncIterator[tuple[str, Sequence[Pane]]]:
    table = held.opener(look.spec.name)
    from_ms, to_ms = look.wanted.from_ms or 0, look.wanted.to_ms or 0
    panes_max = (to_ms - from_ms) // look.spec.advance_ms + 2
    keys = keys_after(table, None, from_ms) if look.only is None else iter([look.only])
    read = 0
    async for key in in_slices(keys):
        if read == KEYS_READ_MAX:
            raise _TooManyKeysError
        read += 1
        panes = newest_rows(table(), key, look.wanted, panes_max)
        if panes:
            yield key, panes


def standby_path(path: str) -> str:
    """Where other workers ask for partitions that this one is a standby of."""
    return f"/internal{path}"


class _TooManyKeysError(Exception):
    """A partition has more keys than one answer looks at."""


def _weight(found: Mapping[str, Any]) -> tuple[float, str]:
    return (abs(found.get("score", found.get("count", 0))), found["endpoint"])


def _seen_of(body: bytes) -> tuple[Found[dict[str, Any]], _Seen]:
    found = msgspec.json.decode(body, type=Found[dict[str, Any]])
    return found, _Seen(list(found.found), found.truncated)
