"""``GET /metrics/latency/digest``: an endpoint's latencies over a range, as one t-digest.

Quantiles of single windows cannot be put together into those of an hour, nor those of endpoints
into those of a service. A t-digest can, by any library that has one, so this gives its centroids.
State keeps log-histograms; the digest is built from their sum when it is asked for, in a thread,
because that takes some 10 to 80 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.histogram import to_tdigest
from tables.lanes import LANES_TABLE
from tables.windows.answer import watermark_by_marks
from tables.windows.compose import Pane, merged
from tables.windows.spec import WindowSpec
from web.peers import PeerAnswer, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.asking import Question, ask, unavailable
from web.queries.panes import lane_marks
from web.queries.params import WINDOWS_MAX, Consistency, parse_consistency, within
from web.queries.requests import RANGE_MS
from web.queries.rows import has_key, newest_rows_sliced
from web.queries.scatter import PARTIALS_TOPIC, is_forwarded, passed_on
from web.queries.times import TimeRange, parse_time_range, refusal
from web.queries.whence import Held, Whence, marks_before

PATH: Final = "/metrics/latency/digest"


class Digest(msgspec.Struct, frozen=True):
    """Latencies in ms.

    ``centroids`` are pairs of a mean and a number of requests, ascending; their numbers add up
    to ``count``. The quantiles are the digest's, within the exact ``min`` and ``max``; null
    where no request carried a latency.
    """

    count: int
    min: float | None
    max: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    centroids: list[tuple[float, float]]


class LatencyDigest(Whence, frozen=True, kw_only=True, rename={"from_ms": "from", "to_ms": "to"}):
    """The digest of an endpoint's windows that start in ``[from, to)``."""

    endpoint: str
    from_ms: int
    to_ms: int
    digest: Digest


def digest_of(panes: Sequence[Pane]) -> Digest:
    """The digest of all values in the panes, which are in microseconds."""
    stats = merged(stats for _, stats in panes)
    low, high = stats.min, stats.max
    if low is None or high is None:
        return Digest(0, None, None, None, None, None, [])
    digest = to_tdigest(stats.hist)
    p50, p95, p99 = (min(max(digest.percentile(p), low), high) / 1000 for p in (50, 95, 99))
    centroids = [(each["m"] / 1000, each["c"]) for each in digest.centroids_to_list()]
    return Digest(stats.n, low / 1000, high / 1000, p50, p95, p99, centroids)


class LatencyDigests:
    """The digest of one endpoint: from this worker's rows, or its owner's by one hop."""

    def __init__(
        self, queries: Queries, peers: Peers, spec: WindowSpec, clock: Callable[[], int]
    ) -> None:
        """``spec`` is the (tumbling) window summed; ``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._spec = spec
        self._clock = clock

    async def handle(self, request: web.Request) -> web.Response:
        """The digest of ``endpoint`` over ``from``/``to``, else over the last five minutes.

        At most a day of minutes, of what state holds; 404 for an endpoint of which it holds
        nothing.
        """
        endpoint = request.query.get("endpoint", "")
        if not endpoint:
            raise refusal("endpoint", "expected the endpoint, as /cart, URL-encoded")
        wanted = self._range(request.query)
        consistency = parse_consistency(request.query)
        query = {"endpoint": endpoint, "consistency": consistency} | wanted.query()
        question = Question(
            PARTIALS_TOPIC,
            endpoint.encode(),
            f"{PATH}?{urlencode(query)}",
            consistency,
            is_forwarded(request, self._queries),
        )
        answer = await ask(
            self._queries,
            self._peers,
            question,
            lambda partition: self._local(endpoint, wanted, partition, consistency),
        )
        return passed_on(answer) if isinstance(answer, PeerAnswer) else json_response(answer)

    async def _local(
        self, endpoint: str, wanted: TimeRange, partition: int, consistency: Consistency
    ) -> LatencyDigest:
        with unavailable():
            held = Held(self._queries, PARTIALS_TOPIC, partition, consistency)
            before = marks_before(held.table(LANES_TABLE))
            rows = held.opener(self._spec.name)
            panes = await newest_rows_sliced(rows, endpoint, wanted, WINDOWS_MAX)
            if not panes and not has_key(rows(), endpoint):
                raise _unknown(endpoint)
            marks = lane_marks(before, held.table(LANES_TABLE), (stats for _, stats in panes))
        digest = await asyncio.to_thread(digest_of, panes)
        return LatencyDigest(
            endpoint=endpoint,
            from_ms=wanted.from_ms or 0,
            to_ms=wanted.to_ms or 0,
            digest=digest,
            **held.figures(watermark_by_marks({stats.lanes for _, stats in panes}, marks)),
        )

    def _range(self, query: Mapping[str, str]) -> TimeRange:
        """Both bounds, whatever was given of them."""
        given = parse_time_range(query, self._clock())
        to_ms = self._clock() + 1 if given.to_ms is None else given.to_ms
        from_ms = max(0, to_ms - RANGE_MS) if given.from_ms is None else given.from_ms
        if from_ms >= to_ms:
            raise refusal("from", f"must be less than to ({from_ms} >= {to_ms})")
        return within(TimeRange(from_ms, to_ms), self._spec.advance_ms, WINDOWS_MAX)


def _unknown(endpoint: str) -> ProblemError:
    return ProblemError(Kind.NOT_FOUND, f"no endpoint {endpoint[:200]!r} was heard of")
