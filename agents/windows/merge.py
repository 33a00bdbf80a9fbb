"""The global half of windows: partials of all source partitions, merged where the key lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from agents.windows.agenda import Agenda
from agents.windows.repartition import PartialKey, decode_partial
from agents.windows.updates import updates_of
from app.engine.batch import RecordBatch
from app.engine.chunks import Chunk, LaneMark, read_chunk
from app.engine.effects import Effects, Reject, TableSpec, View
from app.engine.lanes import LIVE
from tables.lanes import EVERY, FOREVER, LANES_TABLE, add_marks, lane_of, lanes_table
from tables.progress import progress_table
from tables.timers import timers_table
from tables.windows.finals import finals_table
from tables.windows.keys import parse_row_key, row_key, row_period_ms, start_suffix
from tables.windows.periods import periods_table
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats

REASON_MAX = 300


def merge_tables(specs: tuple[WindowSpec, ...]) -> tuple[TableSpec, ...]:
    """Tables of the global stage: one per window, and those that close them."""
    return (
        *(spec.table() for spec in specs),
        lanes_table(),
        timers_table("window-timer-1"),
        progress_table(),
        finals_table(),
        periods_table(),
    )


Rows = Mapping[str, Mapping[bytes, WindowStats]]
"""Partials by window name and row key."""


@dataclass(frozen=True)
class MergeWindows:
    """Engine step of ``window-partials``: each record is a chunk of partials and lane marks.

    Partials are added to their rows whatever the state of the window: lateness was decided
    by the local half. A chunk counts entirely or, rejected, not at all; of windows that are
    not declared, or were declared otherwise when it was made, nothing counts. A pane that a lane
    feeds for the first time sets the timer of the earliest window that holds it; so does one
    whose first window may have been closed, which is then written anew.
    """

    specs: tuple[WindowSpec, ...]
    _by_name: dict[str, WindowSpec] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {spec.name: spec for spec in self.specs})

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        """Updates of the windows' tables, of the lane marks and of the timers."""
        effects = Effects()
        rows: dict[str, dict[bytes, WindowStats]] = {spec.name: {} for spec in self.specs}
        marks: dict[bytes, LaneMark] = {}
        for index, raw in enumerate(batch.values):
            try:
                chunk, partials = self._read(raw)
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                effects.rejects.append(Reject(index, str(error)[:REASON_MAX]))
                continue
            add_marks(marks, chunk.lanes)
            for (name, of, start), stats in partials:
                table, row = rows[name], row_key(of, start)
                sofar = table.get(row)
                table[row] = stats if sofar is None else merge_stats(sofar, stats)
            effects.applied += 1
        agenda = Agenda(view)
        effects.puts = self._merged(agenda, rows, view)
        if marks:
            effects.updates[LANES_TABLE] = {**marks}
        agenda.write(effects)
        for spec in self.specs:
            if spec.emit == "updates":
                effects.outputs += updates_of(spec, rows[spec.name], view, batch.partition, now_ms)
        effects.time_moved = bool(marks or agenda.wanted)
        return effects

    def _merged(
        self, agenda: Agenda, rows: Rows, view: View
    ) -> dict[str, dict[bytes, WindowStats]]:
        """New states of the rows; and the timer of the earliest window of each, where needed.

        The row is read once for both: that is most of what a partial costs. Timers of the
        lanes that have fed the pane before are set, unless they fired: at the pane's end or
        later, whatever grace the window had then.
        """
        states: dict[str, dict[bytes, WindowStats]] = {}
        for name, partials in rows.items():
            if not partials:
                continue
            spec, get = self._by_name[name], view.table(name).get
            merged = states[name] = {}
            closes, fired = spec.closes, _Fired(agenda, spec.advance_ms)
            updated: dict[bytes, int] = {}  # by period
            for row, partial in partials.items():
                held = get(row)
                period, updated_ms = row[:8], partial.updated_ms
                if updated_ms >= updated.get(period, 0):
                    updated[period] = updated_ms
                merged[row] = partial if held is None else merge_stats(held, partial)
                if closes and partial.count:
                    known = () if held is None else held.lanes
                    if row[-8:] <= fired[known, partial.lanes]:
                        _set_timer(agenda, spec, row, partial.lanes)
            for period, updated_ms in updated.items():
                agenda.touched(name, row_period_ms(period), updated_ms=updated_ms)
        return states

    def _read(self, raw: bytes | None) -> tuple[Chunk, list[tuple[PartialKey, WindowStats]]]:
        chunk = read_chunk(raw)
        partials = []
        for each in chunk.partials:
            partial = decode_partial(each)
            name, _, start = partial[0]
            spec = self._by_name.get(name)
            # Else it was under way when its window was taken out, or declared otherwise: a
            # window counts from its declaration on, and others of the chunk know nothing of it.
            if spec is not None and start % spec.advance_ms == 0:
                partials.append(partial)
        return chunk, partials


class _Fired(dict[tuple[tuple[str, ...], tuple[str, ...]], bytes]):
    """The last panes of which timers may have fired, by the lanes that have fed and that feed it.

    As row keys end (empty: there is none), so that a row is compared as it is. A batch has few
    combinations of lanes and many rows: each is worked out once.
    """

    def __init__(self, agenda: Agenda, advance_ms: int) -> None:
        super().__init__()
        self._agenda = agenda
        self._advance_ms = advance_ms

    def __missing__(self, lanes: tuple[tuple[str, ...], tuple[str, ...]]) -> bytes:
        known, feeding = lanes
        fired_ms, feeds = FOREVER, _lanes(feeding)
        # A row of too many lanes does not know by which it was fed.
        if known != EVERY and feeds <= set(map(lane_of, known)):
            fired_ms = min(map(self._of_lane, feeds))
        last_ms = fired_ms - self._advance_ms
        found = self[lanes] = b"" if last_ms < 0 else start_suffix(last_ms)
        return found

    def _of_lane(self, lane: str) -> int:
        # What was known of a backfill is forgotten when it ends, and it may begin again.
        return self._agenda.progress(lane).fired_ms if lane == LIVE else FOREVER


def _lanes(keys: tuple[str, ...]) -> set[str]:
    # A row of too many lanes waits for all there are: that begins with the live one.
    return {LIVE} if keys == EVERY else set(map(lane_of, keys))


def _set_timer(agenda: Agenda, spec: WindowSpec, row: bytes, feeding: tuple[str, ...]) -> None:
    key, pane_ms = parse_row_key(row)
    start_ms = spec.first_start_ms(pane_ms)
    for lane in _lanes(feeding):
        agenda.set(lane, spec.due_ms(start_ms), (spec.name, key, start_ms))
