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
from app.engine.effects import Gathered, KeyRange, Output, Partials, Repartition, TableSpec
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


class GatherError(Exception):
    """No partials could be made of what was gathered of a topic."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"no partials could be made of the records of {topic}")
        self.topic = topic


@contextlib.contextmanager
def _working_out(topic: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise GatherError(topic) from exc


@dataclass(slots=True)
class Rekeyed:
    """Merged partials of all partitions of a source topic, for one repartition topic.

    ``counted`` is that of :class:`app.engine.effects.Partials`. ``marks`` (lane key -> mark) ride
    with the partials; ``broadcast`` sends them to every destination.
    """

    source: str
    repartition: Repartition
    values: dict[Any, Any] = field(default_factory=dict)
    counted: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    marks: Mapping[str, LaneMark] = field(default_factory=dict)
    broadcast: bool = False

    def add(self, more: Partials) -> None:
        """Merge partials into these."""
        mine, merge = self.values, self.repartition.merge
        if not mine:
            mine.update(more.values)
        else:
            for key, value in more.values.items():
                old = mine.get(key)
                mine[key] = value if old is None else merge(old, value)
        for name, sources in more.counted.items():
            sums = self.counted.setdefault(name, {})
            for source, (counted, late) in sources.items():
                had, had_late = sums.get(source, (0, 0))
                sums[source] = had + counted, had_late + late


@dataclass(frozen=True, slots=True)
class Epoch:
    """A taken epoch, bound to the membership it was filled under. It only works out its records."""

    number: int
    membership: Membership | None
    tasks: Mapping[TaskId, TaskCommit]
    outputs: list[Output]
    rekeyed: list[Rekeyed]
    events: int
    gathered: dict[str, Gathered] = field(default_factory=dict)

    def work_out(self) -> None:
        """Add the partials of what was gathered to ``rekeyed``, which has a place for them.

        Raises :class:`GatherError`. Forgets the records: to free them takes a while, too, which
        nobody should wait for.
        """
        places = {(part.source, part.repartition.topic): part for part in self.rekeyed}
        while self.gathered:
            topic, records = self.gathered.popitem()
            with _working_out(topic):
                for partials in records.partials():
                    places[topic, partials.repartition.topic].add(partials)

    def positions(self, topic: str) -> dict[int, int]:
        """Offset to commit of each partition of a topic that the epoch speaks of."""
        return {
            task.partition: commit.position
            for task, commit in self.tasks.items()
            if task.topic == topic
        }


@dataclass(slots=True)
class OpenEpoch:
    """What has been done since the last take, but for state (which lives in the tasks).

    ``rekeyed`` is by source topic and repartition topic, ``gathered`` by source topic.
    """

    outputs: list[Output] = field(default_factory=list)
    output_bytes: int = 0
    rekeyed: dict[tuple[str, str], Rekeyed] = field(default_factory=dict)
    gathered: dict[str, Gathered] = field(default_factory=dict)
    marks: dict[TaskId, dict[str, LaneMark]] = field(default_factory=dict)
    touched: set[TaskId] = field(default_factory=set)
    events: int = 0

    def emit(self, output: Output) -> None:
        """Add one record to produce."""
        self.outputs.append(output)
        self.output_bytes += len(output.value or b"") + len(output.key or b"")

    def rekey(self, source: str, partials: Partials) -> None:
        """Merge partials of a source topic into those of the epoch."""
        place = source, partials.repartition.topic
        if place not in self.rekeyed:
            self.rekeyed[place] = Rekeyed(source, partials.repartition)
        self.rekeyed[place].add(partials)

    def gather(self, topic: str, records: Gathered) -> None:
        """Keep records of which the epoch makes partials."""
        mine = self.gathered.get(topic)
        if mine is None:
            self.gathered[topic] = records
        else:
            mine.add(records)

    def fold(self, topic: str) -> int:
        """Make partials of what was gathered of a topic; how many they were to be merged.

        Raises :class:`GatherError`.
        """
        records, made = self.gathered.pop(topic, None), 0
        if records is not None:
            with _working_out(topic):
                for partials in records.partials():
                    self.rekey(topic, partials)
                    made += len(partials.values)
        return made

    def mark(self, task: TaskId, lanes: Mapping[str, LaneMark]) -> None:
        """Remember how far the lanes of a source partition have come."""
        if lanes:
            self.marks.setdefault(task, {}).update(lanes)

    def size(self) -> int:
        """Things held: outputs, partials, records, marks (state is bounded by the tasks)."""
        values = (rekeyed.values for rekeyed in self.rekeyed.values())
        things: Iterable[Sized] = chain(values, self.gathered.values(), self.marks.values())
        return len(self.outputs) + sum(map(len, things))
