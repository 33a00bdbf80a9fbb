"""The agent of ``log-events``: one decoding, every step of the topic, one answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from agents.log_events.decode import Column, EventBatch, EventReader
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, View
from app.engine.lanes import LIVE, NO_WATERMARK

LANE_IDLE_MS = 30_000
"""Silence after which a lane holds no window open."""


class EventStep(Protocol):
    """A step over decoded events. Answers with partials, outputs and late records."""

    @property
    def reads(self) -> Iterable[Column]:
        """Columns of the events that it looks at."""
        ...

    def __call__(self, events: EventBatch, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        """Decide what the events change. No I/O, no clock, no logging."""
        ...


@dataclass(frozen=True, slots=True)
class LogEventsStep:
    """Engine step of the topic: decodes a batch and runs ``steps`` over it, in order.

    A record that is late for several steps is reported once, for the first; the row of each
    window counts it. It is late in the account even where others took it: a session waits a
    day, a window half a minute. So the account balances, each record once.
    """

    steps: tuple[EventStep, ...]
    _read: EventReader = field(init=False, compare=False)

    def __post_init__(self) -> None:
        reader = EventReader(column for step in self.steps for column in step.reads)
        object.__setattr__(self, "_read", reader)

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        """Effects of all steps together, and the lanes after the batch."""
        events = self._read(batch, view.lanes)
        total = Effects(rejects=list(events.rejects))
        if events.moved:
            # Idleness is measured from when a record was worked on: after an outage the
            # backlog is older than the idle timeout, yet its lanes are busy.
            total.lanes = view.lanes.advanced(
                {
                    lane: (watermark, max(seen, now_ms))
                    for lane, (watermark, seen) in events.moved.items()
                }
            )
        lost: set[int] = set()
        for step in self.steps:
            found = step(events, batch, view, now_ms)
            total.partials += found.partials
            total.outputs += found.outputs
            total.late += [each for each in found.late if each.index not in lost]
            lost.update(each.index for each in found.late)
        total.late.sort(key=lambda each: each.index)  # side records keep the order of the source
        total.applied = len(batch) - len(total.rejects) - len(total.late)
        return total


@dataclass(frozen=True, slots=True)
class LanesTick:
    """Engine tick of the topic: announces the live lane, retires lanes that fell idle.

    The engine tells every destination of the topic's partials of lanes that changed, so
    windows elsewhere become final although nothing comes any more. A partition that never
    had an event is announced too: until it was heard of, windows elsewhere wait for it.

    A lane is silent only as far as its partition has been read, and from when the task
    started: after an outage its records wait in the log, or with whoever could not send them.
    """

    idle_ms: int = LANE_IDLE_MS

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG002 - the contract's signature
        """The lanes, when one fell idle or was forgotten."""
        lanes = view.lanes
        if LIVE not in lanes.by_id:
            lanes = lanes.advanced({LIVE: (NO_WATERMARK, now_ms)})
        lanes = lanes.retired(view.reading.upto_ms, self.idle_ms, view.reading.since_ms)
        return Effects() if lanes is view.lanes else Effects(lanes=lanes)
