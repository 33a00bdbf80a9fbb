"""Fills epochs: applies what steps decided to the open epoch, and freezes it when asked.

Runs on the event loop, in one turn per batch, so that state, outputs and offsets of an
epoch belong to the same records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from app.engine.batch import RecordBatch
from app.engine.chunks import LaneMark, lane_key, lane_marks
from app.engine.clock import Clock
from app.engine.effects import Effects
from app.engine.epoch import Epoch, OpenEpoch, Rekeyed, TaskId
from app.engine.lanes import Lanes
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.side_outputs import dead_letter, late_record
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.steps import StepContractError
from app.engine.task import Task

OPEN_SIZE = 15_000
"""Things (outputs, gathered records, partials, changed rows) it may hold in any case."""
OPEN_SIZE_MAX = 100_000
"""Things it may hold if they are fewer than :data:`OPEN_SHARE` for each of its events."""
OPEN_SHARE = 1.5
OPEN_BYTES_MAX = 32 << 20
"""Bytes of its outputs."""
OPEN_STATE_BYTES_MAX = 64 << 20
"""Memory of its changed rows, which are kept decoded."""
BROADCAST_S = 1.0


class Filling:
    """The open epoch of one worker."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Mapping[str, AgentSpec],
        tasks: Mapping[TaskId, Task],
        clock: Clock,
        metrics: EngineMetrics,
    ) -> None:
        self._config = config
        self._specs = specs
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._open = OpenEpoch()
        self._room = asyncio.Event()
        self._number = 0
        self._broadcast_at: dict[str, float] = {}

    @property
    def waiting(self) -> bool:
        """Whether lane marks wait for their broadcast."""
        return bool(self._open.marks)

    def gathered(self, topic: str) -> int:
        """Records of the topic of which no partials were made yet."""
        return len(self._open.gathered.get(topic, ()))

    def fold(self, topic: str) -> int:
        """Make partials of them, and say how many; raises :class:`app.engine.epoch.GatherError`."""
        return self._open.fold(topic)

    async def room(self) -> None:
        """Wait until the open epoch can take another batch."""
        self._room.clear()
        await self._room.wait()

    def drop(self) -> None:
        """Forget everything uncommitted, and let whoever waits for room look again."""
        self._open = OpenEpoch()
        self._room.set()

    def greet(self, task: Task) -> None:
        """Tell downstream of every lane of a task that starts: what it said last may be lost."""
        if task.spec.repartitions:
            self._open.mark(task.id, lane_marks(Lanes(), task.lanes))

    def apply(self, task: Task, effects: Effects, now_ms: int, batch: RecordBatch | None) -> None:
        """Bring a task and the open epoch up to what its step (batch) or tick (None) decided."""
        held, before = self._open, task.lanes
        if any(each.repartition not in task.spec.repartitions for each in effects.partials):
            raise StepContractError(f"{task.id}: partials for a repartition it does not declare")
        task.apply(effects)
        for partials in effects.partials:
            held.rekey(task.id.topic, partials)
        if effects.gathered is not None:
            held.gather(task.id.topic, effects.gathered)
        for output in effects.outputs:
            held.emit(output)
        if effects.lanes is not None and task.spec.repartitions:
            held.mark(task.id, lane_marks(before, effects.lanes))
        if batch is not None:
            spec, most = task.spec, self._config.record_bytes_max
            for reject in effects.rejects:
                held.emit(dead_letter(spec.dead_letter_topic, batch, reject, now_ms, most))
            for late in effects.late:
                held.emit(late_record(spec.late_topic, batch, late, most))
            task.position = batch.next_offset
            held.events += len(batch)
            self._count(task.id.topic, effects)
        held.touched.add(task.id)

    def on_tick(self, task: Task, now_ms: int) -> bool:
        """Run the wall-clock tick of a task in the open epoch; whether it changed anything."""
        tick = task.spec.tick
        return tick is not None and self._changed(
            task, tick(task.id.partition, task, now_ms), now_ms
        )

    def on_time(self, task: Task, now_ms: int) -> bool:
        """Run the event-time tick of a task, if it is due; whether it changed anything."""
        return task.time_due and self._changed(task, task.on_time(now_ms), now_ms)

    def _changed(self, task: Task, effects: Effects, now_ms: int) -> bool:
        if effects == Effects():
            return False
        self.apply(task, effects, now_ms, None)
        return True

    def _count(self, topic: str, effects: Effects) -> None:
        records = self._metrics.records
        for outcome, number in (
            ("applied", effects.applied),
            ("duplicate", effects.duplicates),
            ("rejected", len(effects.rejects)),
            ("late", len(effects.late)),
        ):
            if number:
                records.labels(topic, outcome).inc(number)
        for late in effects.late:
            self._metrics.late.labels(late.table).inc()

    @property
    def full(self) -> bool:
        """Whether the open epoch can take no other batch."""
        held = self._open
        touched = [self._tasks[task] for task in held.touched]
        # To hold more pays where events of a key meet before they travel, and nowhere else.
        most = min(OPEN_SIZE_MAX, max(OPEN_SIZE, OPEN_SHARE * held.events))
        return (
            held.output_bytes > OPEN_BYTES_MAX
            or held.size() + sum(task.dirty for task in touched) > most
            or sum(task.dirty_bytes for task in touched) > OPEN_STATE_BYTES_MAX
        )

    def take(self, membership: Membership | None) -> Epoch | None:
        """Freeze the open epoch, bound to the membership; None when it holds nothing."""
        held = self._open
        if not held.touched and not held.marks:
            return None
        rekeyed = self._take_rekeyed(held)
        if not held.touched:
            return None
        self._number += 1
        epoch = Epoch(
            self._number,
            membership,
            {task: self._tasks[task].take() for task in held.touched},
            held.outputs,
            rekeyed,
            held.events,
            held.gathered,
        )
        self._open = OpenEpoch(marks=held.marks)
        self._room.set()
        return epoch

    def _take_rekeyed(self, held: OpenEpoch) -> list[Rekeyed]:
        """Partials with the marks of their sources; marks alone at most once a second.

        That a lane is gone is told in the epoch that commits it: whoever starts with the
        partition knows of it no more, and windows that it fed would wait for ever.
        """
        taken = []
        for topic, spec in self._specs.items():
            told = {task: marks for task, marks in held.marks.items() if task.topic == topic}
            lanes = {
                lane_key(task.partition, lane): mark
                for task, marks in told.items()
                for lane, mark in marks.items()
            }
            due = self._broadcast_due(topic, told)
            for repartition in spec.repartitions:
                place = topic, repartition.topic
                rekeyed = held.rekeyed.get(place) or Rekeyed(topic, repartition)
                if rekeyed.values or due or topic in held.gathered:
                    rekeyed.marks, rekeyed.broadcast = lanes, due
                    taken.append(rekeyed)
                    # Lanes alone move no offset: their task rides along, so they are fenced.
                    held.touched.update(told)
            if due:
                self._broadcast_at[topic] = self._clock.monotonic()
                for task in told:
                    del held.marks[task]
        return taken

    def _broadcast_due(self, topic: str, told: Mapping[TaskId, Mapping[str, LaneMark]]) -> bool:
        if not told:
            return False
        since_s = self._clock.monotonic() - self._broadcast_at.get(topic, 0.0)
        return since_s >= BROADCAST_S or any(
            not marks.keys() <= self._tasks[task].lanes.by_id.keys() for task, marks in told.items()
        )
