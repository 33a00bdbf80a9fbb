"""The global half of sessions: intervals of all source partitions, merged where the user lives."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from agents.sessions.repartition import PartialKey, decode_partial
from agents.topics import SESSIONS_CLOSED
from app.engine.batch import RecordBatch
from app.engine.chunks import Chunk, LaneMark, read_chunk
from app.engine.effects import Effects, Output, Reject, TableSpec, View
from tables.agenda import Agenda
from tables.lanes import LANES_TABLE, add_marks, lanes_table
from tables.progress import PROGRESS_TABLE, progress_table
from tables.sessions.closing import Change, ClosedSession, encode_closed
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Partial, Sessions, merge_sessions
from tables.sessions.stats import STATS_TABLE, StatsChange, stats_table
from tables.timers import TIMERS_TABLE, timers_table

REASON_MAX = 300


def session_tables(specs: tuple[SessionSpec, ...]) -> tuple[TableSpec, ...]:
    """Tables of the global stage: users' rows by kind, sums, timers and marks of the lanes."""
    return (
        *(spec.table() for spec in specs),
        stats_table(),
        timers_table(),
        progress_table(),
        lanes_table(),
    )


def effects_of(change: Change, agenda: Agenda) -> Effects:
    """What a change means to the engine."""
    # The rows were read to be changed, and are whole: there is nothing left to merge.
    puts: dict[str, dict[bytes, object]] = {name: {**rows} for name, rows in change.rows.items()}
    updates: dict[str, dict[bytes, object]] = {}
    if change.stats.rows:
        updates[STATS_TABLE] = {**change.stats.rows}
    for timer in change.timers:
        agenda.put(timer)
    if agenda.wanted:
        updates[TIMERS_TABLE] = {**agenda.wanted}
    if progress := agenda.changes():
        updates[PROGRESS_TABLE] = {**progress}
    outputs = [_output(each) for each in change.said]
    return Effects(updates=updates, puts=puts, outputs=outputs, time_moved=bool(change.timers))


def _output(said: ClosedSession) -> Output:
    return Output(SESSIONS_CLOSED, said.user.encode(), encode_closed(said))


@dataclass(frozen=True)
class MergeSessions:
    """Engine step of ``session-partials``: each record is a chunk of partials and lane marks.

    Partials join their users' sessions whether those were closed or not: lateness was decided
    by the local half. A chunk counts entirely or, rejected, not at all.
    """

    specs: tuple[SessionSpec, ...]
    _by_name: dict[str, SessionSpec] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {spec.name: spec for spec in self.specs})

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        """Updates of the users' rows, their timers and sums, and of the lane marks."""
        rejects: list[Reject] = []
        fresh: dict[str, dict[str, Sessions]] = {spec.name: {} for spec in self.specs}
        marks: dict[bytes, LaneMark] = {}
        for index, raw in enumerate(batch.values):
            try:
                chunk, partials = self._read(raw)
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                rejects.append(Reject(index, str(error)[:REASON_MAX]))
                continue
            add_marks(marks, chunk.lanes)
            for (name, user, _), partial in partials:
                users = fresh[name]
                sofar = users.get(user)
                users[user] = (
                    partial.sessions
                    if sofar is None
                    else merge_sessions(sofar, partial.sessions, partial.gap_ms)
                )
        change = Change(StatsChange(now_ms))
        for name, users in fresh.items():
            spec = self._by_name[name]
            table = view.table(spec.table_name)
            for user, sessions in users.items():
                row = user.encode()
                change.take_in(spec, row, table.get(row), sessions)
        effects = effects_of(change, Agenda(view))
        if marks:
            effects.updates[LANES_TABLE] = {**marks}
            effects.time_moved = True
        effects.rejects = rejects
        effects.applied = len(batch) - len(rejects)
        return effects

    def _read(self, raw: bytes | None) -> tuple[Chunk, list[tuple[PartialKey, Partial]]]:
        chunk = read_chunk(raw)
        read = (decode_partial(partial) for partial in chunk.partials)
        return chunk, [(key, partial) for key, partial in read if self._made_for(key[0], partial)]

    def _made_for(self, name: str, partial: Partial) -> bool:
        """Else it was under way when its kind was taken out, or declared otherwise.

        A kind of session counts from its declaration on, and others of the chunk know nothing
        of it.
        """
        spec = self._by_name.get(name)
        if spec is None or partial.gap_ms != spec.gap_ms:
            return False
        steps = len(spec.steps)
        return all(not each.steps or len(each.steps) == steps for each in partial.sessions)
