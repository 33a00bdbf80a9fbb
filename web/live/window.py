"""The last minutes of a window table, followed commit by commit. Pure: time is passed in.

A row's state only grows, so what happened since the last sample is the difference of
two states. Rows that existed before the feed began are its base line, not its traffic.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from tables.histogram import Histogram, merged
from tables.windows.stats import WindowStats
from web.live.sample import ENDPOINTS_MAX, EndpointFigures, Sample, p95_ms

LIVE_MS: Final = 10 * 60_000
"""Rows of windows that ended longer ago (shipped old files) are not live."""
AHEAD_MS: Final = 10 * 60_000
SUMMED_MS: Final = 5 * 60_000
ROWS_MAX: Final = 50_000
SKETCHED_ROWS_MAX: Final = 500
"""Rows whose histogram is kept (some kilobytes each): with more keys, p95 is that of these."""
EXPIRE_EVERY_MS: Final = 10_000
RATE_SAMPLES: Final = 10

Endpoint = tuple[int, str]
"""Partition and key."""


@dataclass(slots=True)
class _Row:
    """``seen`` is the state of the last sample; ``sketched``: both keep their histogram."""

    """What a row counts, and what of it was in the last sample. ``hist``: if it is ``sketched``."""

    sketched: bool
    count: int = 0
    errors: int = 0
    hist: Histogram = field(default_factory=dict)
    seen_count: int = 0
    seen_errors: int = 0
    seen_hist: Histogram = field(default_factory=dict)

    def hold(self, stats: WindowStats) -> None:
        """Its new state."""
        self.count, self.errors = stats.count, stats.errors
        if self.sketched:
            self.hist = stats.hist

    def see(self) -> None:
        """All of it is in the sample."""
        self.seen_count, self.seen_errors, self.seen_hist = self.count, self.errors, self.hist

    def forget_hist(self) -> None:
        """Keep the numbers alone."""
        self.sketched, self.hist, self.seen_hist = False, {}, {}


@dataclass(slots=True)
class _Delta:
    count: int = 0
    errors: int = 0
    hist: Histogram = field(default_factory=dict)
    keys: Counter[Endpoint] = field(default_factory=Counter)


def _add_grown(total: Histogram, new: Histogram, old: Histogram) -> None:
    """Add to ``total`` what ``new`` has more than ``old``. In place: it runs for many rows."""
    for bucket, count in new.items():
        more = count - old.get(bucket, 0)
        if more > 0:
            total[bucket] = total.get(bucket, 0) + more


class LiveWindow:
    """Live rows of the partitions of this worker, at most :data:`ROWS_MAX`."""

    def __init__(self, size_ms: int, now_ms: int) -> None:
        """``size_ms``: the windows' length; ``now_ms``: when following begins."""
        self._size_ms = size_ms
        self._sampled_ms = now_ms
        self._expired_ms = now_ms
        self._rows: dict[Endpoint, dict[int, _Row]] = {}
        self._row_count = 0
        self._sketched_count = 0
        self._touched: dict[tuple[Endpoint, int], _Row] = {}
        self._delta = _Delta()
        self._recent: deque[tuple[int, Counter[Endpoint]]] = deque()
        self._rates: Counter[Endpoint] = Counter()
        self._truncated = False

    def live(self, start_ms: int, now_ms: int) -> bool:
        """Whether a window of that start is followed."""
        return now_ms - LIVE_MS < start_ms + self._size_ms and start_ms <= now_ms + AHEAD_MS

    def seed(
        self, partition: int, key: str, start_ms: int, stats: WindowStats, now_ms: int
    ) -> None:
        """A row as it was before following began: counted in sums, not as traffic."""
        row = self._row((partition, key), start_ms, now_ms)
        if row is not None and row.count <= stats.count:
            row.hold(stats)
            row.see()

    def apply(
        self, partition: int, key: str, start_ms: int, stats: WindowStats | None, now_ms: int
    ) -> None:
        """A committed row: its new state, or None when it was removed."""
        endpoint = (partition, key)
        if stats is None:
            self._drop(endpoint, start_ms)
            return
        row = self._row(endpoint, start_ms, now_ms)
        if row is not None:
            row.hold(stats)
            self._touched[endpoint, start_ms] = row

    def forget(self, partition: int) -> None:
        """The partition left this worker."""
        for endpoint in [each for each in self._rows if each[0] == partition]:
            for start_ms in list(self._rows[endpoint]):
                self._drop(endpoint, start_ms)

    def prepare(self) -> Iterator[None]:
        """Do the larger part of what the next sample takes, a row at a time."""
        delta = self._delta
        while self._touched:
            (endpoint, _), row = self._touched.popitem()
            count = row.count - row.seen_count
            if count > 0:
                delta.count += count
                delta.errors += max(0, row.errors - row.seen_errors)
                delta.keys[endpoint] += count
                if row.sketched:
                    _add_grown(delta.hist, row.hist, row.seen_hist)
            row.see()
            yield

    def sample(self, now_ms: int) -> Sample:
        """What was committed since the last sample; afterwards that is the base line."""
        self._expire(now_ms)
        for _ in self.prepare():
            pass
        delta, self._delta = self._delta, _Delta()
        elapsed_ms = max(1, now_ms - self._sampled_ms)
        self._sampled_ms = now_ms
        self._note(elapsed_ms, delta.keys)
        truncated, self._truncated = self._truncated, False
        return Sample(
            ts=now_ms,
            elapsed_ms=elapsed_ms,
            count=delta.count,
            errors=delta.errors,
            hist=delta.hist,
            endpoints=tuple(self._busiest(now_ms)),
            truncated=truncated,
        )

    def _row(self, endpoint: Endpoint, start_ms: int, now_ms: int) -> _Row | None:
        if not self.live(start_ms, now_ms):
            return None
        row = self._rows.get(endpoint, {}).get(start_ms)
        if row is None:
            if self._row_count >= ROWS_MAX:
                self._truncated = True
                return None
            sketched = self._sketched_count < SKETCHED_ROWS_MAX and self._growing(start_ms, now_ms)
            row = _Row(sketched)
            self._rows.setdefault(endpoint, {})[start_ms] = row
            self._row_count += 1
            self._sketched_count += sketched
        return row

    def _growing(self, start_ms: int, now_ms: int) -> bool:
        """Whether the window is open, or so recently closed that it is still shown."""
        return now_ms < start_ms + 2 * self._size_ms

    def _drop(self, endpoint: Endpoint, start_ms: int) -> None:
        starts = self._rows.get(endpoint)
        row = starts.pop(start_ms, None) if starts is not None else None
        self._touched.pop((endpoint, start_ms), None)
        if row is not None:
            self._row_count -= 1
            self._sketched_count -= row.sketched
        if starts is not None and not starts:
            del self._rows[endpoint]

    def _note(self, elapsed_ms: int, keys: Counter[Endpoint]) -> None:
        """Keep the rates of the last samples, as a sum that each enters and leaves."""
        self._recent.append((elapsed_ms, keys))
        self._rates.update(keys)
        if len(self._recent) > RATE_SAMPLES:
            for endpoint, count in self._recent.popleft()[1].items():
                left = self._rates[endpoint] - count
                if left:
                    self._rates[endpoint] = left
                else:
                    del self._rates[endpoint]

    def _expire(self, now_ms: int) -> None:
        """Drop rows that are no longer live, and histograms of windows well past their end."""
        if 0 <= now_ms - self._expired_ms < EXPIRE_EVERY_MS:
            return
        self._expired_ms = now_ms
        for endpoint, starts in list(self._rows.items()):
            for start_ms, row in list(starts.items()):
                if not self.live(start_ms, now_ms):
                    self._drop(endpoint, start_ms)
                elif row.sketched and not self._growing(start_ms, now_ms):
                    row.forget_hist()
                    self._sketched_count -= 1

    def _busiest(self, now_ms: int) -> Iterator[EndpointFigures]:
        rates = self._rates
        seconds = sum(elapsed for elapsed, _ in self._recent) / 1000
        ranked = nlargest(ENDPOINTS_MAX, rates, key=lambda e: (rates[e], e))
        chosen = [endpoint for endpoint in ranked if endpoint in self._rows]
        if len(chosen) < ENDPOINTS_MAX:
            quiet = {e: self._summed(e, now_ms)[0] for e in self._rows if e not in rates}
            busiest = nlargest(ENDPOINTS_MAX - len(chosen), quiet, key=lambda e: (quiet[e], e))
            chosen += [endpoint for endpoint in busiest if quiet[endpoint]]
        for endpoint in chosen:
            count, errors = self._summed(endpoint, now_ms)
            hists = (row.hist for row in self._rows[endpoint].values())
            yield EndpointFigures(
                endpoint=endpoint[1],
                rate=round(rates[endpoint] / seconds, 3),
                count=count,
                errors=errors,
                error_rate=errors / count if count else 0.0,
                p95_ms=p95_ms(merged(hists)),
            )

    def _summed(self, endpoint: Endpoint, now_ms: int) -> tuple[int, int]:
        """Count and errors of the windows that start within the last five minutes."""
        rows = [
            row
            for start_ms, row in self._rows[endpoint].items()
            if now_ms - SUMMED_MS < start_ms <= now_ms
        ]
        return sum(row.count for row in rows), sum(row.errors for row in rows)
