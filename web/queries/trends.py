"""``GET /trends``: moving averages per service and over all, composed from panes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from app.engine.query import Queries
from app.models.moments import read_length
from app.models.rules import RuleError
from tables.lanes import LANES_TABLE, LaneTimes
from tables.windows.compose import Pane
from tables.windows.keys import fits
from tables.windows.trends import (
    Direction,
    TrendWindow,
    composed,
    direction,
    hop_before,
    rolling,
    size_label,
    trend_window,
)
from tables.windows.window import GLOBAL_KEY, WindowSpec
from web.lru import LruCache
from web.peers import PeerAnswer, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.asking import Question, ask, unavailable
from web.queries.params import WINDOWS_MAX, parse_consistency
from web.queries.rows import has_key, newest_rows_sliced
from web.queries.scatter import PARTIALS_TOPIC, is_forwarded, passed_on
from web.queries.times import TimeRange, parse_time_range, refusal
from web.queries.whence import Held, Whence, times_of, watermark_by_times

PATH: Final = "/trends"
CACHE_BYTES_MAX: Final = 8 << 20
UNSETTLED_MS: Final = 1_000
"""How long an answer is kept whose newest window may still miss what is on its way."""
SETTLES_MS: Final = 2_000
"""After so much of a hop what was on its way has come; a source that is slow is not waited for."""
HISTORY_MS: Final = 3_600_000
PANES_MAX: Final = 40_000


class Trend(Whence, frozen=True, kw_only=True):
    """Figures of a service as of a hop boundary; ``windows`` by the label of their size."""

    service: str
    asOf: int  # noqa: N815 - the name in the answer
    windows: dict[str, TrendWindow]
    trend: Direction


class TrendHistory(Whence, frozen=True, kw_only=True):
    """Windows of one size at each step of a range, oldest first."""

    service: str
    window: str
    step_ms: int
    windows: list[TrendWindow]


@dataclass(frozen=True, slots=True)
class _Cached:
    """A trend as it was at ``asked_ms``."""

    trend: Trend
    asked_ms: int
    until_ms: int


class Trends:
    """The trend endpoints of one worker: its own rows, the others' by one hop."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        spec: WindowSpec,
        clock: Callable[[], int],
        registry: CollectorRegistry,
    ) -> None:
        """``spec`` is the sliding window; ``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._spec = spec
        self._clock = clock
        self._cache = LruCache(CACHE_BYTES_MAX)
        self._asked = Counter(
            "trend_cache_total", "Trend queries, by who answered", ["result"], registry=registry
        )

    # -- endpoints -------------------------------------------------------------------------

    async def all(self, request: web.Request) -> web.Response:
        """All services together, from the row that is aggregated for it.

        ``consistency=stale`` here and below: a standby may answer, and nothing is kept.
        """
        return await self._answer(request, GLOBAL_KEY)

    async def one(self, request: web.Request) -> web.Response:
        """One service: 404 when it is unknown. Kept until the next hop."""
        return await self._answer(request, self._spec.row_name(request.match_info["service"]))

    async def history(self, request: web.Request) -> web.Response:
        """Windows of one size (``window``) over ``from``/``to``, one each ``step``."""
        service, query = request.match_info["service"], request.query
        now_ms = self._clock()
        size_ms = self._size(query)
        wanted = self._range(query, now_ms)
        step_ms = self._step(query, wanted, size_ms)
        consistency = parse_consistency(query)
        again = {"window": size_label(size_ms), "step": str(step_ms), "consistency": consistency}
        question = Question(
            PARTIALS_TOPIC,
            self._key(service),
            f"{PATH}/{quote(service, safe='')}/history?{urlencode(again | wanted.query())}",
            consistency,
            is_forwarded(request, self._queries),
        )

        async def here(partition: int) -> TrendHistory:
            with unavailable():
                held = Held(self._queries, PARTIALS_TOPIC, partition, consistency)
                return await self._local_history(service, held, size_ms, wanted, step_ms)

        answer = await ask(self._queries, self._peers, question, here)
        return passed_on(answer) if isinstance(answer, PeerAnswer) else json_response(answer)

    # -- answers ---------------------------------------------------------------------------

    async def _answer(self, request: web.Request, row: str) -> web.Response:
        consistency = parse_consistency(request.query)
        path = PATH if row == GLOBAL_KEY else f"{PATH}/{quote(_shown(row), safe='')}"
        if consistency == "stale":
            path += "?consistency=stale"
        forwarded = is_forwarded(request, self._queries)
        question = Question(PARTIALS_TOPIC, self._key(row), path, consistency, forwarded)
        if consistency == "stale":
            as_of = hop_before(self._clock(), self._spec.advance_ms)
            found = await self._ask(question, row, as_of)
            return passed_on(found) if isinstance(found, PeerAnswer) else json_response(found)
        return await self._kept(question, row)

    async def _ask(self, question: Question, row: str, as_of: int) -> Trend | PeerAnswer:
        async def here(partition: int) -> Trend:
            with unavailable():
                held = Held(self._queries, PARTIALS_TOPIC, partition, question.consistency)
                return await self._local(row, held, as_of)

        return await ask(self._queries, self._peers, question, here)

    async def _kept(self, question: Question, row: str) -> web.Response:
        """The owner's answer, kept until the next hop."""
        now_ms, key = self._clock(), question.key
        as_of = hop_before(now_ms, self._spec.advance_ms)
        cached: _Cached | None = self._cache.get((as_of, key))
        if cached is not None and now_ms < cached.until_ms:
            self._asked.labels("hit").inc()
            age_ms = max(0, now_ms - cached.asked_ms)
            stale_ms = cached.trend.staleness_ms + age_ms
            return json_response(msgspec.structs.replace(cached.trend, staleness_ms=stale_ms))
        self._asked.labels("miss").inc()
        answer = await self._ask(question, row, as_of)
        if isinstance(answer, PeerAnswer):
            told = _trend_of(answer)
            if told is None:
                return passed_on(answer)
            answer = told
        trend = answer
        settled = now_ms - as_of >= SETTLES_MS or all(
            window.complete for window in trend.windows.values()
        )
        until_ms = as_of + self._spec.advance_ms if settled else now_ms + UNSETTLED_MS
        body = msgspec.json.encode(trend)
        if trend.asOf == as_of:
            self._cache.put((as_of, key), _Cached(trend, now_ms, until_ms), len(body) + len(key))
        return web.Response(body=body, content_type="application/json")

    async def _local(self, row: str, held: Held, as_of: int) -> Trend:
        sizes = self._spec.sizes_ms
        wanted = TimeRange(max(0, as_of - sizes[-1]), as_of)
        panes, times = await self._panes(held, row, wanted)
        windows: dict[int, TrendWindow] = {}
        for size_ms in sizes:
            stats = composed(panes, as_of, size_ms)
            complete = times.of_row(stats.lanes) >= as_of
            windows[size_ms] = trend_window(stats, as_of, size_ms, complete=complete)
        return Trend(
            service=GLOBAL_KEY if row == GLOBAL_KEY else _shown(row),
            asOf=as_of,
            windows={size_label(size_ms): window for size_ms, window in windows.items()},
            trend=direction(windows),
            **held.figures(watermark_by_times(times, {stats.lanes for _, stats in panes})),
        )

    async def _local_history(
        self, service: str, held: Held, size_ms: int, wanted: TimeRange, step_ms: int
    ) -> TrendHistory:
        assert wanted.from_ms is not None  # noqa: S101 - for the type checker
        assert wanted.to_ms is not None  # noqa: S101 - as above
        lead = TimeRange(max(0, wanted.from_ms - size_ms), wanted.to_ms)
        panes, times = await self._panes(held, self._spec.row_name(service), lead)
        first = -(-wanted.from_ms // step_ms) * step_ms
        ends = range(first, wanted.to_ms, step_ms)
        windows = [
            trend_window(stats, end, size_ms, complete=times.of_row(stats.lanes) >= end)
            for end, stats in rolling(panes, ends, size_ms)
        ]
        return TrendHistory(
            service=service,
            window=size_label(size_ms),
            step_ms=step_ms,
            windows=windows,
            **held.figures(watermark_by_times(times, {stats.lanes for _, stats in panes})),
        )

    async def _panes(
        self, held: Held, row: str, wanted: TimeRange
    ) -> tuple[Sequence[Pane], LaneTimes]:
        """Panes of a row, and how far the lanes have come; 404 for a row nobody has heard of."""
        # Before the panes: what is committed while they are read may not make them complete.
        times = times_of(held.table(LANES_TABLE), len(self._queries.owners(self._spec.topic)))
        open_table = held.opener(self._spec.name)
        panes = await newest_rows_sliced(open_table, row, wanted, PANES_MAX)
        if not panes and row != GLOBAL_KEY and not has_key(open_table(), row):
            raise ProblemError(Kind.NOT_FOUND, f"no service {_shown(row)[:200]!r} was heard of")
        return panes, times

    # -- parameters ------------------------------------------------------------------------

    def _key(self, row: str) -> bytes:
        if not fits(row):
            raise ProblemError(Kind.NOT_FOUND, "no service has a name as long as that")
        return row.encode()

    def _size(self, query: Mapping[str, str]) -> int:
        labels = {size_label(size): size for size in self._spec.sizes_ms}
        text = query.get("window", next(iter(labels)))
        if text not in labels:
            raise refusal("window", f"expected one of {', '.join(labels)}")
        return labels[text]

    def _range(self, query: Mapping[str, str], now_ms: int) -> TimeRange:
        """Both bounds, whatever was given of them."""
        given = parse_time_range(query, now_ms)
        to_ms = now_ms + 1 if given.to_ms is None else given.to_ms
        from_ms = max(0, to_ms - HISTORY_MS) if given.from_ms is None else given.from_ms
        if from_ms >= to_ms:
            raise refusal("from", f"must be less than to ({from_ms} >= {to_ms})")
        return TimeRange(from_ms, to_ms)

    def _step(self, query: Mapping[str, str], wanted: TimeRange, size_ms: int) -> int:
        advance_ms = self._spec.advance_ms
        span_ms = (wanted.to_ms or 0) - (wanted.from_ms or 0)
        if (span_ms + size_ms) // advance_ms > PANES_MAX:
            raise refusal("from", f"the range may span at most {PANES_MAX * advance_ms} ms")
        text = query.get("step")
        if text is None:
            hops = -(-span_ms // (WINDOWS_MAX * advance_ms))
            return max(1, hops) * advance_ms
        try:
            step_ms = read_length(text)
        except RuleError as exc:
            raise refusal("step", str(exc)) from exc
        if step_ms <= 0 or step_ms % advance_ms:
            raise refusal("step", f"expected a multiple of the hop, {advance_ms} ms")
        if -(-span_ms // step_ms) > WINDOWS_MAX:
            raise refusal(
                "step",
                f"the range holds more than {WINDOWS_MAX} steps: "
                f"ask for at most {WINDOWS_MAX * step_ms} ms, or for a longer step",
            )
        return step_ms


def _shown(row: str) -> str:
    """The service of a row name: one made of stars alone was given one more."""
    return row[:-1] if row and not row.strip(GLOBAL_KEY) else row


def _trend_of(answer: PeerAnswer) -> Trend | None:
    """The trend another worker tells; None: it tells something else."""
    try:
        return msgspec.json.decode(answer.body, type=Trend) if answer.status == 200 else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
