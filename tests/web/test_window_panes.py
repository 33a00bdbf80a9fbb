"""Windows put together on read: equal to plain merging, bounded, complete; states and revisions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agents.windows.retention import RetentionTick
from tables.lanes import LANES_TABLE
from tables.windows.compose import Pane, compose, merged, rolled
from tables.windows.finals import FINALS_TABLE, Written, final_key
from tables.windows.keys import row_key
from tables.windows.periods import PERIODS_TABLE, Period, period_key
from tables.windows.stats import EMPTY, WindowStats, merge_stats
from tests.web.fakes import MINUTE, NOW, SPEC, MemoryTable, cluster_of, running_worker, stats_of
from web.queries.panes import newest_windows, what_was_written
from web.queries.params import WINDOWS_MAX
from web.queries.rows import Read
from web.queries.times import TimeRange

HOPPING = replace(
    SPEC,
    name="hopping",
    kind="hopping",
    size_ms=5 * MINUTE,
    sizes_ms=(5 * MINUTE,),
)
starts = st.sets(st.integers(0, 40).map(lambda n: n * MINUTE), max_size=20)


def pane(start: int) -> Pane:
    return start, stats_of([start / MINUTE + 1, 7.0], errors=1)


def by_merging(panes: list[Pane]) -> dict[int, WindowStats]:
    found: dict[int, WindowStats] = {}
    for start, stats in panes:
        for window in range(start - 4 * MINUTE, start + MINUTE, MINUTE):
            if window >= 0:
                found[window] = merge_stats(found.get(window, EMPTY), stats)
    return found


@given(starts)
def test_rolling_and_composing_are_merging(given_starts: set[int]):
    panes = [pane(start) for start in sorted(given_starts)]
    expected = by_merging(panes)
    assert dict(rolled(panes, 5 * MINUTE, MINUTE)) == expected
    assert {w: compose(dict(panes), w, 5 * MINUTE) for w in expected} == expected
    assert merged(stats for _, stats in panes) == compose(dict(panes), 0, 60 * MINUTE)
    assert merged([]) == EMPTY


def read(table: MemoryTable, wanted: TimeRange) -> list[Read]:
    return asyncio.run(newest_windows(lambda: table, HOPPING, "/a", wanted))


@given(starts, st.one_of(st.none(), st.integers(0, 40)), st.one_of(st.none(), st.integers(1, 45)))
def test_windows_are_those_that_start_in_the_range(
    given_starts: set[int], first: int | None, last: int | None
):
    table = MemoryTable()
    table.rows = {row_key("/a", start): stats for start, stats in map(pane, given_starts)}
    wanted = TimeRange(
        None if first is None else first * MINUTE, None if last is None else last * MINUTE
    )
    expected = by_merging([pane(start) for start in given_starts])
    assert dict(read(table, wanted)) == {
        start: stats
        for start, stats in expected.items()
        if (first is None or start >= first * MINUTE) and (last is None or start < last * MINUTE)
    }


def test_the_newest_windows_are_answered_and_each_of_them_whole():
    table = MemoryTable()
    panes = [pane(n * MINUTE) for n in range(WINDOWS_MAX + 50)]
    table.rows = {row_key("/a", start): stats for start, stats in panes}
    found = read(table, TimeRange(None, None))
    assert len(found) == WINDOWS_MAX
    assert found[-1][0] == panes[-1][0]
    expected = by_merging(panes)
    assert all(expected[start] == stats for start, stats in found)


def test_revisions_are_those_of_the_windows_asked_for():
    table = MemoryTable()
    for key, start in (("/a", 0), ("/a", MINUTE), ("/a", 2 * MINUTE), ("/ab", MINUTE)):
        table.rows[final_key("hopping", key, start)] = Written(3, 1, HOPPING.identity, NOW)
    table.rows[final_key("hopping2", "/a", MINUTE)] = Written(9, 1, "", NOW)
    windows = [(start, EMPTY) for start in (MINUTE, 2 * MINUTE)]
    found = what_was_written(table, HOPPING, "/a", windows)
    assert {start: each.revision for start, each in found.items()} == {MINUTE: 3, 2 * MINUTE: 3}
    assert what_was_written(table, HOPPING, "/a", []) == {}
    assert what_was_written(table, replace(HOPPING, kind="sliding"), "/a", windows) == {}


async def test_windows_are_filtered_by_their_state_and_tell_their_revision():
    cluster = cluster_of("w1")
    start = NOW - 3 * MINUTE
    for minute in range(4):
        partition = cluster.put("/a", start + minute * MINUTE, stats_of([5.0]))
    cluster.mark(NOW)
    written = Written(2, 1, SPEC.identity, NOW)
    cluster.table(partition, FINALS_TABLE).rows[final_key(SPEC.name, "/a", start)] = written
    async with running_worker(cluster) as worker:
        path = f"/api/v1/windows/{SPEC.name}/a"
        everything = await worker.json(path)
        states = [(w["state"], w["revision"]) for w in everything["windows"]]
        assert states == [("final", 2), ("final", 0), ("closed", 0), ("open", 0)]
        for state, count in (("final", 2), ("closed", 1), ("open", 1)):
            answer = await worker.json(f"{path}?state={state}")
            assert [w["state"] for w in answer["windows"]] == [state] * count
        refused = await worker.json(f"{path}?state=shut", 400)
        assert "expected open, closed, final" in refused["detail"]


async def test_a46_9_a_closed_window_is_answered_until_its_retention_and_then_404():
    cluster = cluster_of("w1")
    partition = cluster.put("/a", NOW - 5 * MINUTE, stats_of([5.0]))
    cluster.mark(NOW)
    finals = cluster.table(partition, FINALS_TABLE).rows
    finals[final_key(SPEC.name, "/a", NOW - 5 * MINUTE)] = Written(1, 1, SPEC.identity, NOW)
    periods = cluster.table(partition, PERIODS_TABLE).rows
    periods[period_key(SPEC.name, NOW)] = Period(updated_ms=NOW, written_ms=NOW)
    tick = RetentionTick((SPEC,), pause_ms=0)

    class View:
        def table(self, name: str) -> MemoryTable:
            return cluster.table(partition, name)

    def sweep(now_ms: int) -> list[bytes]:
        drops = tick(partition, View(), now_ms).drops  # type: ignore[arg-type]
        rows = cluster.table(partition, SPEC.name).rows
        return [row for row in rows for lo, hi in drops.get(SPEC.name, ()) if lo <= row < hi]

    async with running_worker(cluster) as worker:
        path = f"/api/v1/windows/{SPEC.name}/a"
        assert sweep(NOW + SPEC.retention_ms) == []
        [window] = (await worker.json(path))["windows"]
        assert window["state"] == "final"
        for row in sweep(NOW + SPEC.retention_ms + 1):
            del cluster.table(partition, SPEC.name).rows[row]
        await worker.json(path, 404)
    assert cluster.table(partition, LANES_TABLE).rows  # the live lane is known for ever
