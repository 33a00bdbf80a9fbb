"""What a worker saw in the last second, and how the workers' seconds become one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Final

import msgspec

from tables.histogram import Histogram, merged, quantiles

ENDPOINTS_MAX: Final = 20


class EndpointFigures(msgspec.Struct, frozen=True):
    """One endpoint of the table on the page.

    ``rate`` is per second over the last 10 s; ``count``, ``errors`` and ``error_rate``
    (0..1) are over the last 5 min; ``p95_ms`` is over its current windows.
    """

    endpoint: str
    rate: float
    count: int
    errors: int
    error_rate: float
    p95_ms: float | None


class Sample(msgspec.Struct, frozen=True):
    """What was committed on one worker in the ``elapsed_ms`` before ``ts`` (epoch ms).

    ``hist`` holds microseconds. ``truncated``: there were more live rows than are followed.
    """

    ts: int
    elapsed_ms: int
    count: int
    errors: int
    hist: dict[int, int]
    endpoints: tuple[EndpointFigures, ...]
    truncated: bool = False


class Figures(msgspec.Struct, frozen=True):
    """The ``data`` of a pushed message: ``rate`` per second, ``error_rate`` 0..1."""

    rate: float
    error_rate: float
    p95_ms: float | None
    endpoints: tuple[EndpointFigures, ...]


def p95_ms(hist: Histogram) -> float | None:
    """95th percentile in milliseconds of a histogram of microseconds; None when empty."""
    if not hist:
        return None
    return round(quantiles(hist, (0.95,), 0, float("inf"))[0] / 1000, 3)


def top(endpoints: Iterable[EndpointFigures]) -> tuple[EndpointFigures, ...]:
    """At most :data:`ENDPOINTS_MAX`, the busiest first; ties in order of name."""
    ranked = sorted(endpoints, key=lambda e: e.endpoint)
    return tuple(nlargest(ENDPOINTS_MAX, ranked, key=lambda e: (e.rate, e.count)))


def combine(samples: Sequence[Sample]) -> Figures:
    """Figures of all workers together; no samples are a silent second.

    An endpoint lives on one worker. While it moves two may report it: the one that has
    counted more is right.
    """
    rate = error_rate = 0.0
    endpoints: dict[str, EndpointFigures] = {}
    for sample in samples:
        seconds = max(1, sample.elapsed_ms) / 1000
        rate += sample.count / seconds
        error_rate += sample.errors / seconds
        for each in sample.endpoints:
            known = endpoints.get(each.endpoint)
            if known is None or known.count < each.count:
                endpoints[each.endpoint] = each
    return Figures(
        rate=round(rate, 3),
        error_rate=min(1.0, error_rate / rate) if rate else 0.0,
        p95_ms=p95_ms(merged(sample.hist for sample in samples)),
        endpoints=top(endpoints.values()),
    )
