"""What is said of a state's values: averages, spread, quantiles, in the field's own unit. Pure."""

from __future__ import annotations

import msgspec

from tables.histogram import quantiles
from tables.windows.stats import WindowStats

QUANTILES = (0.5, 0.95, 0.99)


class Figures(msgspec.Struct, frozen=True, gc=False):
    """All None where no event carried a value."""

    sum: float | None = None
    avg: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    stddev: float | None = None


NO_FIGURES = Figures()


def figures_of(stats: WindowStats) -> Figures:
    """Figures of a state; thousandths (microseconds) become units (milliseconds)."""
    lowest, highest = stats.min, stats.max
    if lowest is None or highest is None:
        return NO_FIGURES
    p50, p95, p99 = quantiles(stats.hist, QUANTILES, lowest, highest)
    return Figures(
        stats.sum / 1000,
        stats.sum / stats.n / 1000,
        lowest / 1000,
        highest / 1000,
        p50 / 1000,
        p95 / 1000,
        p99 / 1000,
        (stats.stddev or 0.0) / 1000,
    )
