"""The local half of sessions: an epoch's events become a few intervals per user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.log_events.columns import EventColumns
from agents.log_events.decode import Column, EventBatch
from agents.log_events.groups import Flags, Groups, runs
from agents.sessions.repartition import PartialKey
from app.engine.effects import Late, Partials, Repartition
from tables.sessions.funnel import Evidence, bounded
from tables.sessions.matching import Classifier
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Partial, Session, merge_partials


@dataclass(frozen=True)
class LocalSessions:
    """Event step of one kind of session: groups events by user, keeps nothing.

    An event is late when the stream time of its lane, itself included, is more than gap and
    lateness beyond it. An event without the key field, or left out by the filter, is in no
    session.
    """

    spec: SessionSpec
    repartition: Repartition
    _classify: Classifier | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_classify", self.spec.classifier())

    @property
    def reads(self) -> Sequence[Column]:
        """The user, whether a page was named, and the class of the event."""
        fields = (self.spec.key, "endpoint")
        return fields if self._classify is None else (*fields, self._classify)

    def late(self, batch: EventBatch) -> Iterator[Late]:
        """Events whose session may have been let go of."""
        if batch.behind_ms <= self.spec.slack_ms:
            return  # the usual case
        events = EventColumns(batch.events)
        behind_ms = events.stream_time_ms - events.timestamps
        late = self._known(events) & (behind_ms > self.spec.slack_ms)
        for place in np.flatnonzero(late).tolist():
            late_by_ms = int(behind_ms[place]) - self.spec.gap_ms
            yield Late(batch.index[place], self.spec.table_name, late_by_ms)

    def partials(self, events: EventColumns) -> Partials:
        """Partials for the global half."""
        spec, times = self.spec, events.timestamps
        users, codes = events.coded(spec.key)
        in_time = events.stream_time_ms - times <= spec.slack_ms
        places = np.flatnonzero(self._known(events) & in_time)
        apart = runs(places, times, spec.gap_ms, events.lanes, codes)
        lanes = [(lane,) for lane in events.lane_names]
        sessions = map(
            Session,
            times[apart.first].tolist(),
            times[apart.last].tolist(),
            apart.counts.tolist(),
            apart.sums(events.given("endpoint").astype(np.int64)),
            self._evidence(events, apart),
            [lanes[lane] for lane in events.lanes[apart.first].tolist()],
            apart.highest(events.ingest_ms),
        )
        name, gap, span = spec.name, spec.gap_ms, spec.span_ms
        partials: dict[PartialKey, Partial] = {}
        for user, session in zip(codes[apart.first].tolist(), sessions, strict=True):
            partial, key = Partial(gap, (session,)), (name, users[user], session.start // span)
            held = partials.setdefault(key, partial)
            if held is not partial:
                partials[key] = merge_partials(held, partial)
        return Partials(self.repartition, partials)

    def _known(self, events: EventColumns) -> Flags:
        """Events with a user, which the filter admits."""
        known = events.coded(self.spec.key)[1] >= 0
        if self._classify is not None:
            known &= events.numbers(self._classify) >= 0
        return known

    def _evidence(self, events: EventColumns, apart: Groups) -> list[Evidence]:
        """Of each run, when its events took the steps (each event's as bits)."""
        found: list[Evidence] = [()] * len(apart)
        if self._classify is None:
            return found
        steps = range(len(self.spec.steps))
        taken = events.numbers(self._classify)[apart.places]
        took = np.flatnonzero(taken)
        seen: dict[int, list[set[int]]] = {}
        for run, bits, at in zip(
            apart.owner[took].tolist(),
            taken[took].tolist(),
            events.timestamps[apart.places[took]].tolist(),
            strict=True,
        ):
            of_run = seen.setdefault(run, [set() for _ in steps])
            for step in steps:
                if bits >> step & 1:
                    of_run[step].add(at)
        for run, times in seen.items():
            found[run] = tuple(map(bounded, times))
        return found
