"""``GET /api/v1/sessions/analytics``: sums of sessions by hour, from every worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.lanes import EVERY, LANES_TABLE
from tables.sessions.answer import Bucket, bucket_answer, sums_of
from tables.sessions.spec import SessionSpec
from tables.sessions.stats import (
    HOUR_MS,
    STATS_TABLE,
    SessionStats,
    hour_key,
    hour_of,
    merge_stats,
    open_key,
)
from tables.sessions.times import SOURCE_TOPIC
from web.peers import Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.scatter import gather, is_forwarded, local_partitions
from web.queries.times import TimeRange, parse_time_range, refusal
from web.queries.whence import Held, Spread, Spreading, leaving, times_of, watermark_by_times

PATH: Final = "/api/v1/sessions"
SESSIONS_TOPIC: Final = "session-partials"
"""Topic whose agent owns the session tables."""
HOURS_MAX: Final = 31 * 24
HOURS_DEFAULT: Final = 24
FUTURE_MS: Final = 300_000
"""Events may be so far ahead: sums without an end include them."""


class SumsAnswer(Spread, frozen=True, kw_only=True):
    """Sums of closed sessions by hour of their start, and how many sessions are open.

    ``from`` and ``to`` (epoch ms) are whole hours. ``steps`` name what ``reached`` counts.
    ``watermark_ms`` is that of every lane there is.
    """

    type: str
    from_ms: int = msgspec.field(name="from")
    to_ms: int = msgspec.field(name="to")
    bucket_ms: int
    steps: tuple[str, ...]
    open: int
    buckets: tuple[Bucket, ...]
    total: Bucket


class _Sums:
    """What was found so far."""

    def __init__(self, worker: str) -> None:
        self.open = 0
        self.hours: dict[int, SessionStats] = {}
        self.spread = Spreading(worker)

    def add(self, hour: int, stats: SessionStats) -> None:
        """Sums of an hour."""
        held = self.hours.get(hour)
        self.hours[hour] = stats if held is None else merge_stats(held, stats)

    def add_answer(self, answer: SumsAnswer) -> None:
        """Sums of another worker."""
        self.open += answer.open
        self.spread.add(answer)
        for hour, stats in sums_of(answer.buckets).items():
            self.add(hour, stats)


def spec_of(specs: Sequence[SessionSpec], query: Mapping[str, str]) -> SessionSpec:
    """The kind of session that ``type`` names, the first when it is absent; 400 for another."""
    by_name = {spec.name: spec for spec in specs}
    if not by_name:
        raise ProblemError(Kind.NOT_FOUND, "config/sessions.yaml declares no sessions")
    spec = by_name.get(query.get("type", specs[0].name))
    if spec is None:
        raise refusal("type", f"expected one of {', '.join(by_name)}")
    return spec


class SessionSums:
    """The endpoint of one worker: its own partitions, and its peers' by one hop."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        specs: Sequence[SessionSpec],
        clock: Callable[[], int],
    ) -> None:
        self._queries = queries
        self._peers = peers
        self._specs = specs
        self._clock = clock

    async def handle(self, request: web.Request) -> web.Response:
        """Closed sessions by hour, and how many are open, over all partitions.

        The last day unless ``from`` and ``to`` say otherwise; whole hours that touch the range.
        """
        now_ms = self._clock()
        spec = spec_of(self._specs, request.query)
        first, last = _hours(parse_time_range(request.query, now_ms), now_ms)
        forwarded = is_forwarded(request, self._queries)
        sums = _Sums(self._queries.worker)
        await self._read(spec, first, last, sums)
        if not forwarded:
            path = f"{PATH}/analytics?type={spec.name}&from={first}&to={last}"
            others = await gather(self._queries, self._peers, path, _decode, topic=SESSIONS_TOPIC)
            sums.spread.miss(others.missing)
            for each in others.answers:
                sums.add_answer(each)
        return json_response(self._answer(spec, first, last, sums))

    async def _read(self, spec: SessionSpec, first: int, last: int, sums: _Sums) -> None:
        """Sums of this worker's partitions; one that moves or is being restored is missing."""
        queries, kind = self._queries, spec.fingerprint
        lo, hi = hour_key(kind, first), hour_key(kind, last)
        sources = len(queries.owners(SOURCE_TOPIC))
        for partition in local_partitions(queries, SESSIONS_TOPIC):
            with leaving(sums.spread):
                held = Held(queries, SESSIONS_TOPIC, partition)
                table = held.table(STATS_TABLE)
                opened: SessionStats | None = table.get(open_key(kind))
                rows = list(table.range(lo, hi, limit=HOURS_MAX + 2))
                times = times_of(held.table(LANES_TABLE), sources)
                sums.open += 0 if opened is None else opened.sessions
                for key, stats in rows:
                    sums.add(hour_of(key) or 0, stats)
                sums.spread.hold(held.figures(watermark_by_times(times, [EVERY])))
            await asyncio.sleep(0)

    def _answer(self, spec: SessionSpec, first: int, last: int, sums: _Sums) -> SumsAnswer:
        total = SessionStats()
        for stats in sums.hours.values():
            total = merge_stats(total, stats)
        listed = sorted((hour, stats) for hour, stats in sums.hours.items() if stats.sessions)
        return SumsAnswer(
            type=spec.name,
            from_ms=first,
            to_ms=last,
            bucket_ms=HOUR_MS,
            steps=spec.steps,
            open=sums.open,
            buckets=tuple(bucket_answer(spec, hour, stats) for hour, stats in listed),
            total=bucket_answer(spec, first, total),
            **sums.spread.figures(),
        )


def _decode(body: bytes) -> SumsAnswer:
    return msgspec.json.decode(body, type=SumsAnswer)


def _hours(wanted: TimeRange, now_ms: int) -> tuple[int, int]:
    """Whole hours that touch the range, at most :data:`HOURS_MAX` of them; 400 for more."""
    last = now_ms + FUTURE_MS if wanted.to_ms is None else wanted.to_ms
    first = last - HOURS_DEFAULT * HOUR_MS if wanted.from_ms is None else wanted.from_ms
    first, last = max(0, first - first % HOUR_MS), -(-last // HOUR_MS) * HOUR_MS
    if last <= first:
        raise refusal("from", f"must be less than to ({first} >= {last})")
    if last - first > HOURS_MAX * HOUR_MS:
        raise refusal("to", f"the range holds more than {HOURS_MAX} hours: ask for at most 31 days")
    return first, last
