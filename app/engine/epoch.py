"""An epoch: offsets, state changes and outputs that commit together or not at all.

The open epoch is filled by the event loop between two commits; :meth:`OpenEpoch.take`
freezes it. What was taken is never changed again, so the transaction thread may encode it
while the next epoch fills.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from app.engine.chunks import LaneMark
from app.engine.counts import Counts, encode_metadata
from app.engine.declared import Since
from app.engine.effects import Gathered, KeyRange, Output, Repartition, TableSpec
from app.engine.lanes import Lanes
from app.engine.membership import Membership


@dataclass(frozen=True, slots=True)
class TaskId:
    """A partition of an agent's topic (logical name)."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class TaskCommit:
    """What an epoch says of one partition: where to go on, and what changed.

    ``changes``: table -> key -> new state, None for a deleted key. ``changelog`` is the
    logical changelog topic, None for a partition without tables. ``dropped``: table -> ranges
    of which nothing is left but what ``changes`` says; each of their rows is deleted there.
    ``anew``: identities of tables that begin with this commit -> offset they count from.
    """

    position: int
    lanes: Lanes
    counts: Counts
    changelog: str | None
    changes: Mapping[TableSpec, Mapping[bytes, Any | None]]
    dropped: Mapping[str, Sequence[KeyRange]] = field(default_factory=dict)
    since: Since = field(default_factory=dict)
    anew: Mapping[str, int] = field(default_factory=dict)

    def metadata(self) -> str:
        """What is committed beside the offset."""
        return encode_metadata(self.lanes, self.counts, self.since)


def _merge(repartition: Repartition, mine: dict[Any, Any], values: Mapping[Any, Any]) -> None:
    if not mine:
        mine.update(values)
        return
    merge = repartition.merge
    for key, value in values.items():
        old = mine.get(key)
        mine[key] = value if old is None else merge(old, value)


class GatherError(Exception):
    """No partials could be made of what a partition gathered."""

    def __init__(self, task: TaskId) -> None:
        super().__init__(f"no partials could be made of the records of {task}")
        self.task = task


@contextlib.contextmanager
def _working_out(task: TaskId) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise GatherError(task) from exc


@dataclass(frozen=True, slots=True)
class Partials:
    """Merged partials of one source partition for one repartition topic.

    ``marks`` ride with the partials; ``broadcast`` sends them to every destination.
    """

    repartition: Repartition
    task: TaskId
    values: dict[Any, Any]
    marks: Mapping[str, LaneMark]
    broadcast: bool


@dataclass(frozen=True, slots=True)
class Epoch:
    """A taken epoch, bound to the membership it was filled under. It only works out its records."""

    number: int
    membership: Membership | None
    tasks: Mapping[TaskId, TaskCommit]
    outputs: list[Output]
    partials: list[Partials]
    events: int
    gathered: dict[TaskId, Gathered] = field(default_factory=dict)

    def work_out(self) -> None:
        """Add the partials of what was gathered to ``partials``, which has a place for them.

        Raises :class:`GatherError`. Forgets the records: to free them takes a while, too, which
        nobody should wait for.
        """
        places = {(part.task, part.repartition.topic): part for part in self.partials}
        while self.gathered:
            task, records = self.gathered.popitem()
            with _working_out(task):
                for repartition, values in records.partials():
                    _merge(repartition, places[task, repartition.topic].values, values)


@dataclass(slots=True)
class OpenEpoch:
    """What has been done since the last take, but for state (which lives in the tasks)."""

    outputs: list[Output] = field(default_factory=list)
    output_bytes: int = 0
    partials: dict[tuple[TaskId, str], dict[Any, Any]] = field(default_factory=dict)
    gathered: dict[TaskId, Gathered] = field(default_factory=dict)
    marks: dict[TaskId, dict[str, LaneMark]] = field(default_factory=dict)
    touched: set[TaskId] = field(default_factory=set)
    events: int = 0

    def emit(self, output: Output) -> None:
        """Add one record to produce."""
        self.outputs.append(output)
        self.output_bytes += len(output.value or b"") + len(output.key or b"")

    def merge_partials(
        self, repartition: Repartition, task: TaskId, values: Mapping[Any, Any]
    ) -> None:
        """Merge a batch's partials into those of the epoch."""
        mine = self.partials.get((task, repartition.topic))
        if mine is None:
            self.partials[task, repartition.topic] = dict(values)
        else:
            _merge(repartition, mine, values)

    def gather(self, task: TaskId, records: Gathered) -> None:
        """Keep records of which the epoch makes partials."""
        mine = self.gathered.get(task)
        if mine is None:
            self.gathered[task] = records
        else:
            mine.add(records)

    def fold(self, task: TaskId) -> int:
        """Make partials of what a task has gathered so far; how many they were to be merged.

        Raises :class:`GatherError`.
        """
        records, made = self.gathered.pop(task, None), 0
        if records is not None:
            with _working_out(task):
                for repartition, values in records.partials():
                    self.merge_partials(repartition, task, values)
                    made += len(values)
        return made

    def mark(self, task: TaskId, lanes: Mapping[str, LaneMark]) -> None:
        """Remember how far the lanes of a source partition have come."""
        if lanes:
            self.marks.setdefault(task, {}).update(lanes)

    def size(self) -> int:
        """Things held: outputs, partials, records, marks (state is bounded by the tasks)."""
        things: Iterable[Sized] = chain(
            self.partials.values(), self.gathered.values(), self.marks.values()
        )
        return len(self.outputs) + sum(map(len, things))
