"""What the monitoring views tell of an endpoint, judged from its windows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from tables.histogram import quantiles
from tables.lanes import LaneTimes
from tables.windows.anomaly import judge
from tables.windows.compose import Pane
from tables.windows.figures import codes_of
from tables.windows.stats import WindowStats
from tables.windows.window import WindowSpec

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
