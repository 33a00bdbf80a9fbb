"""The local half of sessions: an epoch's events become a few intervals per user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import msgspec

from agents.log_events.decode import Column, EventBatch, Events
from agents.sessions.repartition import PartialKey
from app.engine.effects import Late, Repartition
from tables.sessions.funnel import Evidence, bounded
from tables.sessions.matching import Classifier
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Partial, Session, merge_partials


class _Run(msgspec.Struct, gc=False):
    """Events of one user and lane within the gap of each other; ``last`` is the last's place."""

    lanes: tuple[str]
    start: int
    end: int
    last: int
    count: int = 0
    pages: int = 0
    steps: Evidence = ()


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
        events, spec = batch.events, self.spec
        for place in _runs(spec, self._classify, events)[1]:
            behind = events.stream_time_ms[place] - events.columns["timestamp"][place]
            yield Late(batch.index[place], spec.table_name, behind - spec.gap_ms)

    def partials(self, events: Events, partition: int) -> dict[PartialKey, Partial]:  # noqa: ARG002 - the contract's signature
        """Partials for the global half."""
        runs, _ = _runs(self.spec, self._classify, events)
        spec, ingest_ms = self.spec, events.ingest_ms
        name, gap, span = spec.name, spec.gap_ms, spec.span_ms
        partials: dict[PartialKey, Partial] = {}
        for user, run in runs:
            start = run.start
            session = Session(
                start,
                run.end,
                run.count,
                run.pages,
                run.steps,
                run.lanes,
                ingest_ms[run.last],
            )
            partial, key = Partial(gap, (session,)), (name, user, start // span)
            held = partials.setdefault(key, partial)
            if held is not partial:
                partials[key] = merge_partials(held, partial)
        return partials


def _prove(took: list[tuple[_Run, int, int]], steps: int) -> None:
    """Give runs the evidence of (run, steps taken as bits, time)."""
    times: dict[int, list[set[int]]] = {}
    for run, taken, at in took:
        of_run = times.setdefault(id(run), [set() for _ in range(steps)])
        for step in range(steps):
            if taken >> step & 1:
                of_run[step].add(at)
    for run, _, _ in took:
        run.steps = tuple(map(bounded, times[id(run)]))


def _runs(
    spec: SessionSpec, classify: Classifier | None, events: Events
) -> tuple[list[tuple[str, _Run]], list[int]]:
    """Runs with their users, and the places of late events.

    One loop, because this runs per event. A user's events mostly come in order, so each is
    compared with the run before it only; what that leaves apart is joined as partials are.
    """
    gap, slack = spec.gap_ms, spec.slack_ms
    runs: list[tuple[str, _Run]] = []
    took: list[tuple[_Run, int, int]] = []
    late: list[int] = []
    current: dict[str, _Run] = {}
    by_lane: dict[str, dict[str, _Run]] = {}
    lane, lanes = None, ("",)
    place = -1
    columns = events.columns
    times = columns["timestamp"]
    for user, at, stream_time, of_lane, page, taken in zip(
        columns[spec.key],
        times,
        events.stream_time_ms,
        events.lanes,
        columns["endpoint"],
        repeat(0, len(times)) if classify is None else columns[classify],
        strict=True,
    ):
        place += 1
        if user is None or taken < 0:
            continue
        if stream_time - at > slack:
            late.append(place)
            continue
        if of_lane != lane:
            lane, lanes = of_lane, (of_lane,)
            current = by_lane.setdefault(lane, {})
        run = current.get(user)
        if run is None or not run.start - gap <= at <= run.end + gap:
            run = current[user] = _Run(lanes, at, at, place)
            runs.append((user, run))
        elif at > run.end:
            run.end = at
        elif at < run.start:
            run.start = at
        run.last = place
        run.count += 1
        run.pages += page is not None
        if taken:
            took.append((run, taken, at))
    _prove(took, len(spec.steps))
    return runs, late
