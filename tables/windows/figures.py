"""What is said of a state's values: averages, spread, quantiles, in the field's own unit. Pure."""

from __future__ import annotations

import msgspec

from tables.histogram import quantiles
from tables.windows.stats import WindowStats
from tables.windows.stored import StoredStats

QUANTILES = (0.5, 0.95, 0.99)
Quantiles = tuple[float, float, float]
"""Values at :data:`QUANTILES`, in the field's own unit."""


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


def figures_of(stats: WindowStats | StoredStats, known: Quantiles | None = None) -> Figures:
    """Figures of a state; thousandths (microseconds) become units (milliseconds).

    ``known`` are its quantiles, where they were found before: its histogram is not read then.
    """
    lowest, highest = stats.min, stats.max
    if lowest is None or highest is None:
        return NO_FIGURES
    if known is None:
        p50, p95, p99 = quantiles(stats.hist, QUANTILES, lowest, highest)
        known = p50 / 1000, p95 / 1000, p99 / 1000
    return Figures(
        stats.sum / 1000,
        stats.sum / stats.n / 1000,
        lowest / 1000,
        highest / 1000,
        *known,
        (stats.stddev or 0.0) / 1000,
    )


def codes_of(stats: WindowStats | StoredStats) -> dict[str, int]:
    """How often which status code came, ascending; as JSON has its keys."""
    codes = stats.codes
    return {str(code): codes[code] for code in sorted(codes)}
