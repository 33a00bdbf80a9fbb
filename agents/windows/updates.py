"""Windows that say each change: a record for every window that a batch changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from agents.topics import WINDOW_PARTIALS, WINDOWS_UPDATES
from app.engine.effects import Output, View
from tables.windows.compose import rolled
from tables.windows.finals import FINALS_TABLE, Written, encode_record, final_key, window_record
from tables.windows.keys import parse_row_key, row_key
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats


def updates_of(
    spec: WindowSpec,
    partials: Mapping[bytes, WindowStats],
    view: View,
    partition: int,
    now_ms: int,
) -> list[Output]:
    """Records of the windows that hold a pane with new events, as they are after the batch.

    None of a window of which a pane may have expired: what is left would undercount it.
    """
    changed: dict[str, set[int]] = defaultdict(set)
    for row, partial in partials.items():
        if partial.count:
            key, pane_ms = parse_row_key(row)
            changed[key].add(pane_ms)
    origin = (("origin", f"{WINDOW_PARTIALS}/{partition}".encode()),)
    outputs = []
    for key, panes in changed.items():
        for start_ms, stats in rolled(
            _around(spec, key, panes, partials, view), spec.size_ms, spec.advance_ms
        ):
            if any(start_ms <= pane < start_ms + spec.size_ms for pane in panes):
                named_as = final_key(spec.name, key, start_ms)
                written: Written | None = view.table(FINALS_TABLE).get(named_as)
                if written is not None and written.may_miss_panes(spec, now_ms):
                    continue
                revision = 0 if written is None else written.revision
                record = window_record(spec, key, start_ms, stats, revision, final=False)
                named = f"{spec.name}/{key}".encode()
                outputs.append(Output(WINDOWS_UPDATES, named, encode_record(record), origin))
    return outputs


def _around(
    spec: WindowSpec,
    key: str,
    changed: set[int],
    partials: Mapping[bytes, WindowStats],
    view: View,
) -> list[tuple[int, WindowStats]]:
    """The changed panes and all that share a window with them, as they are after the batch."""
    reach = spec.size_ms - spec.advance_ms
    starts = {
        start
        for pane in changed
        for start in range(max(0, pane - reach), pane + reach + 1, spec.advance_ms)
    }
    table = view.table(spec.name)
    found = []
    for start in sorted(starts):
        row = row_key(key, start)
        held, more = table.get(row), partials.get(row)
        if more is not None:
            held = more if held is None else merge_stats(held, more)
        if held is not None:
            found.append((start, held))
    return found
