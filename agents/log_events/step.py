"""The agent of ``log-events``: one decoding, every step of the topic, one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from agents.log_events.columns import EventColumns
from agents.log_events.decode import Column, EventBatch, EventReader, Events
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Late, Partials, View
from app.engine.lanes import LIVE, NO_WATERMARK

LANE_IDLE_MS = 30_000
"""Silence after which a lane holds no window open."""


class EventStep(Protocol):
    """One use of the events: which of them come too late for it, and the partials of the others.

    Pure, and keeps nothing. Late is decided batch by batch, partials are made of all events of
    an epoch: those of several batches as one are what merging those of each would give.
    """

    @property
    def reads(self) -> Iterable[Column]:
        """Columns of the events that it looks at."""
        ...

    def late(self, batch: EventBatch) -> Iterable[Late]:
        """Events that it leaves out, in any order; of one told again the first counts."""
        ...

    def partials(self, events: EventColumns) -> Partials:
        """What the events come to. Never raises, whatever events hold."""
        ...


@dataclass(frozen=True, slots=True)
class GatheredEvents:
    """Events of an epoch. Implements :class:`app.engine.effects.Gathered`."""

    steps: tuple[EventStep, ...]
    events: Events

    def __len__(self) -> int:
        return len(self.events)

    def add(self, more: GatheredEvents) -> None:
        """Take in those of the next batch."""
        self.events.extend(more.events)

    def partials(self) -> Iterator[Partials]:
        """Of each step."""
        columns = EventColumns(self.events)
        for step in self.steps:
            yield step.partials(columns)


@dataclass(frozen=True, slots=True)
class LogEventsStep:
    """Engine step of the topic: decodes a batch for ``steps``, and asks each who is late.

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
        """The events for the epoch, who is late for any step, and the lanes after the batch."""
        read = self._read(batch, view.lanes)
        effects = Effects(rejects=list(read.rejects))
        if len(read.events):
            effects.gathered = GatheredEvents(self.steps, read.events)
        if read.moved:
            # Idleness is measured from when a record was worked on: after an outage the
            # backlog is older than the idle timeout, yet its lanes are busy.
            effects.lanes = view.lanes.advanced(
                {
                    lane: (watermark, max(seen, now_ms))
                    for lane, (watermark, seen) in read.moved.items()
                }
            )
        late: dict[int, Late] = {}
        for step in self.steps:
            for each in step.late(read):
                late.setdefault(each.index, each)
        effects.late = [late[index] for index in sorted(late)]  # side records keep their order
        effects.applied = len(batch) - len(effects.rejects) - len(late)
        return effects


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
