"""Windows on the brokerless engine, batch by batch: events in, rows and answers out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import msgspec

from agents.log_events.agent import log_events_agent
from agents.topics import LOG_EVENTS, WINDOW_PARTIALS
from agents.windows.agent import windows_agent
from agents.windows.retention import RetentionTick
from app.engine.batch import Headers, RecordBatch
from app.engine.chunks import LaneMark
from app.engine.driver import Driver
from app.engine.effects import Effects, Step, View
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER, Lanes
from app.models.event import LogEvent, encode_event
from tables.lanes import LANES_TABLE
from tables.windows.answer import window_answer
from tables.windows.keys import parse_row_key
from tables.windows.spec import ErrorsWhen, WindowSpec
from tables.windows.stats import WindowStats

SOURCES = 3
"""Partitions of ``log-events``."""
MINUTE = 60_000
HOUR = 60 * MINUTE
TEN = 1_790_000_000_000 // HOUR * HOUR
"""A full hour, called 10:00:00 in the tests."""

NOW = TEN + 2 * HOUR
"""Ingest time of what a test feeds, so that its events are not from the future."""


def at(clock: str) -> int:
    """Epoch ms of ``HH:MM:SS`` or ``HH:MM:SS.mmm`` on the day on which :data:`TEN` is 10:00."""
    hours, minutes, seconds = clock.split(":")
    return TEN + (int(hours) - 10) * HOUR + int(minutes) * MINUTE + round(float(seconds) * 1000)


def minute_spec(**changes: Any) -> WindowSpec:
    """``requests_per_endpoint`` as shipped, or changed."""
    fields: dict[str, Any] = {
        "name": "requests_per_endpoint",
        "topic": "log-events",
        "kind": "tumbling",
        "size_ms": MINUTE,
        "grace_ms": 30_000,
        "key": "endpoint",
        "value": "latency_ms",
        "errors": ErrorsWhen(500),
    }
    return WindowSpec(**{**fields, **changes})


_ids = itertools.count()


def event(timestamp: int, endpoint: str | None = "/a", **fields: Any) -> bytes:
    """An encoded event; latency 5 ms and status 200 unless said otherwise."""
    given: dict[str, Any] = {"latency_ms": 5.0, "status": 200, "source": "test", "service": "shop"}
    return encode_event(
        LogEvent(
            event_id=str(UUID(int=next(_ids))),
            timestamp=timestamp,
            endpoint=endpoint,
            **{**given, **fields},
        )
    )


def batch_of(
    values: Sequence[bytes | None],
    ingest: int | Sequence[int],
    *,
    partition: int = 0,
    lane: str | None = None,
    topic: str = "log-events",
    first_offset: int = 0,
) -> RecordBatch:
    """Records of one partition; ``ingest`` is one time for all, or one each."""
    count = len(values)
    headers: Headers = () if lane is None else ((LANE_HEADER, lane.encode()),)
    return RecordBatch(
        topic=topic,
        partition=partition,
        offsets=range(first_offset, first_offset + count),
        timestamps=[ingest] * count if isinstance(ingest, int) else ingest,
        keys=[b"shop"] * count,
        values=values,
        headers=[headers] * count,
    )


def interleaved(left: RecordBatch, right: RecordBatch) -> RecordBatch:
    """One batch of two of one length, a record of each in turn."""

    def both(name: str) -> list[Any]:
        pairs = zip(getattr(left, name), getattr(right, name), strict=True)
        return [each for pair in pairs for each in pair]

    return RecordBatch(
        topic=left.topic,
        partition=left.partition,
        offsets=range(2 * len(left)),
        timestamps=both("timestamps"),
        keys=both("keys"),
        values=both("values"),
        headers=both("headers"),
    )


class Heard:
    """A step that keeps its last effects."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.effects = Effects()

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        self.effects = self._step(batch, view, now_ms)
        return self.effects


class WindowsDriver:
    """Both agents of the windows: what is fed to the one, what the other knows afterwards.

    Windows are closed by nobody (``tests.windows.closing`` has that), and swept when told.
    """

    def __init__(self, *specs: WindowSpec, retention: RetentionTick | None = None) -> None:
        self.specs = specs or (minute_spec(),)
        local, merge = log_events_agent(self.specs), windows_agent(self.specs)
        self._local, self._merge = Heard(local.step), Heard(merge.step)
        self._sweep = retention or RetentionTick(self.specs, pause_ms=0)
        agents = (
            replace(local, step=self._local),
            replace(merge, step=self._merge, tick=self._swept, on_time=None),
        )
        self.driver = Driver(agents, {LOG_EVENTS: SOURCES, WINDOW_PARTIALS: 1}, NOW)
        self._removed = 0

    @property
    def now_ms(self) -> int:
        """The wall clock."""
        return self.driver.clock.now_ms()

    def feed(
        self,
        values: Sequence[bytes | None],
        *,
        partition: int = 0,
        lane: str | None = None,
        ingest: int | Sequence[int] | None = None,
    ) -> Effects:
        """One batch through both halves; the local half's effects."""
        times = self.now_ms if ingest is None else ingest
        first = self.driver.tasks[TaskId(LOG_EVENTS, partition)].position
        return self.run(batch_of(values, times, partition=partition, lane=lane, first_offset=first))

    def run(self, batch: RecordBatch) -> Effects:
        """One batch through both halves; the local half's effects, which must balance."""
        self.driver.run(batch)
        effects = self._local.effects
        assert effects.applied + len(effects.rejects) + len(effects.late) == len(batch)
        assert not self._merge.effects.rejects
        return effects

    def idle(self, ms: int) -> None:
        """The wall clock moves on, and nothing comes."""
        self.driver.advance(ms)

    def sweep(self, now_ms: int) -> int:
        """One retention tick; the number of rows deleted."""
        self.driver.clock.advance(now_ms - self.now_ms)
        self._removed = 0
        self.driver.tick(TaskId(WINDOW_PARTIALS, 0))
        return self._removed

    def _swept(self, partition: int, view: View, now_ms: int) -> Effects:
        effects = self._sweep(partition, view, now_ms)
        self._removed += sum(
            view.table(name).get(key) is not None
            for name, keys in effects.deletes.items()
            for key in keys
        )
        self._removed += sum(
            len(list(view.table(name).range(lo, hi, limit=10_000)))
            for name, ranges in effects.drops.items()
            for lo, hi in ranges
        )
        return effects

    def merge_records(self, values: Sequence[bytes | None]) -> Effects:
        """Records of ``window-partials`` into the global half."""
        self.driver.feed(WINDOW_PARTIALS, values)
        effects = self._merge.effects
        assert effects.applied + len(effects.rejects) == len(values)
        return effects

    def lanes(self, partition: int = 0) -> Lanes:
        """Lanes of a partition of ``log-events``."""
        return self.driver.tasks[TaskId(LOG_EVENTS, partition)].lanes

    def rows(self, key: str, name: str | None = None) -> list[tuple[int, WindowStats]]:
        """Rows of a key as (start, stats), oldest first."""
        rows = sorted(self.all_rows(name).items())
        found = ((*parse_row_key(raw), stats) for raw, stats in rows)
        return [(start, stats) for of, start, stats in found if of == key]

    def all_rows(self, name: str | None = None) -> dict[bytes, WindowStats]:
        """Every row of a window's table."""
        rows = self.driver.rows(WINDOW_PARTIALS, name or self.specs[0].name)
        return cast("dict[bytes, WindowStats]", rows)

    def marks(self) -> dict[str, LaneMark]:
        """Lane marks as the global half knows them."""
        rows = self.driver.rows(WINDOW_PARTIALS, LANES_TABLE)
        return {key.decode(): cast("LaneMark", mark) for key, mark in rows.items()}

    def windows(self, key: str, name: str | None = None) -> list[dict[str, Any]]:
        """The answer to a query of a key, as its JSON says it."""
        spec = next(s for s in self.specs if s.name == (name or self.specs[0].name))
        answers = window_answer(spec, self.rows(key, spec.name), self.marks())
        return [msgspec.to_builtins(each) for each in answers]
