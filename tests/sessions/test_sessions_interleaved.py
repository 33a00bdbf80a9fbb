"""Sessions under every interleaving: aborts, restarts, rebalances, small steps, lanes that end."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from agents.log_events.agent import log_events_agent
from agents.sessions.agent import sessions_agent
from agents.sessions.ticks import ClosingTick, RetentionTick
from agents.topics import LATE_EVENTS, LOG_EVENTS, SESSION_PARTIALS, SESSIONS_CLOSED
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER
from app.models.event import decode_event
from tables.sessions.spec import SessionSpec
from tables.sessions.stats import STATS_TABLE, SessionStats, hour_of, merge_stats
from tables.timers import TIMERS_TABLE
from tests.sessions.sessions_driver import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    TEN,
    event,
    plain_depth,
    plain_sessions,
    users,
)
from tests.windows.world import World

STEPS = ("view", "cart", "purchase")
LANES = ("", "f-1", "f-2")
SOURCES = TARGETS = 2
TASKS = [TaskId(topic, n) for topic in (LOG_EVENTS, SESSION_PARTIALS) for n in range(2)]
DOINGS = ("put", "pump", "commit", "advance", "abort", "lost", "tick", "clock", "spread")
WEIGHTS = (30, 25, 20, 11, 4, 3, 3, 2, 2)
Found = tuple[str, int, int, int, int]
"""User, start, end, events, steps taken."""


def world(spec: SessionSpec, fired_max: int) -> World:
    agent = replace(
        sessions_agent((spec,)),
        on_time=ClosingTick((spec,), fired_max),
        tick=RetentionTick((spec,), 50),
    )
    counts = {LOG_EVENTS: SOURCES, SESSION_PARTIALS: TARGETS, "window-partials": 1}
    return World([log_events_agent((), (spec,)), agent], counts, TEN + 12 * HOUR)


def put(made: World, partition: int, lane: str, events: list[bytes]) -> None:
    headers = ((LANE_HEADER, lane.encode()),) if lane else ()
    made.put(LOG_EVENTS, events, partition, headers)


def some_events(draw: Random, moments: list[int]) -> tuple[int, str, list[bytes]]:
    """Source partition, lane and events; ``moments``: how far live traffic has come."""
    source, lane = draw.randrange(SOURCES), draw.choice(("", *LANES))
    moments[source] = min(moments[source] + draw.choice([0, 5, 20, 45]) * MINUTE, 11 * HOUR)
    newest = draw.randrange(10 * HOUR) if lane else moments[source]
    pages = [f"/{page}" for page in (*STEPS, "other")]
    times = [max(0, newest - draw.randrange(90) * MINUTE) for _ in range(draw.randint(1, 5))]
    return (
        source,
        lane,
        [event(TEN + at, draw.choice(["u", "v"]), draw.choice(pages)) for at in times],
    )


def lived(seed: int, spec: SessionSpec) -> World:
    """Many things in random order, then the end of every session."""
    draw = Random(seed)
    made, moments = world(spec, draw.choice([1, 2, 500])), [0] * SOURCES
    do: dict[str, Callable[[], object]] = {
        "put": lambda: put(made, *some_events(draw, moments)),
        "pump": lambda: made.pump(draw.choice(TASKS), draw.choice([1, 2, 100])),
        "commit": lambda: made.commit(draw.randrange(3)),
        "advance": lambda: made.advance(draw.choice([100, SECOND, 31 * SECOND, 10 * MINUTE])),
        "abort": lambda: made.abort(draw.randrange(3)),
        "lost": lambda: made.commit(draw.randrange(3), fails=True),
        "tick": lambda: made.tick(draw.randrange(3)),
        "clock": lambda: made.clock.advance(draw.choice([300, SECOND])),
        "spread": lambda: made.spread(draw.randint(1, 3), draw.randrange(3)),
    }
    for _ in range(draw.randint(30, 140)):
        do[draw.choices(DOINGS, WEIGHTS)[0]]()
    made.settle()
    if draw.random() < 0.5:  # everything goes on, and nothing falls silent
        for partition in range(SOURCES):
            for lane in LANES:
                put(made, partition, lane, [event(TEN + 12 * HOUR - 1, None)])
        made.settle()
        made.advance(SECOND)
    else:
        made.advance(31 * SECOND)
        for _ in range(100):
            made.advance(10 * MINUTE)
    return made


def expected(made: World, gap_ms: int) -> list[Found]:
    """Sessions of all events but those told to be late, computed plainly."""
    late = {output.value for output in made.topics[LATE_EVENTS]}
    visits: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for task in TASKS[:SOURCES]:
        for record in made.log[task]:
            each = decode_event(record.value or b"")
            if each.user_id is not None and record.value not in late:
                visits[each.user_id].append((each.timestamp, each.endpoint or ""))
    found = []
    for user, mine in visits.items():
        for start, end, count in plain_sessions((at for at, _ in mine), gap_ms):
            within = [each for each in mine if start <= each[0] <= end]
            found.append((user, start, end, count, plain_depth(within, STEPS)))
    return sorted(found)


def standing(made: World) -> list[dict[str, Any]]:
    """What a reader knows in the end; each record is new, and what was superseded stays so."""
    found: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    for output in made.topics[SESSIONS_CLOSED]:
        each = json.loads(output.value or b"")
        assert each["id"] not in gone
        assert each["id"] not in found or each["revision"] > found[each["id"]]["revision"]
        found[each["id"]] = each
        gone.update(each["supersedes"])
    return [each for name, each in found.items() if name not in gone]


def sums(made: World) -> dict[int | None, SessionStats]:
    """Sums by hour, of both partitions; None: the open sessions."""
    found: dict[int | None, SessionStats] = {}
    for worker in made.running:
        for task_id, task in worker.tasks.items():
            if task_id.topic == SESSION_PARTIALS:
                for key, row in task.table(STATS_TABLE).range(b"", None, limit=1_000_000):
                    hour = hour_of(key)
                    found[hour] = merge_stats(found.get(hour, SessionStats()), row)
    return found


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 60))]
)
@pytest.mark.parametrize("lateness_ms", [0, DAY])
def test_what_is_said_of_sessions_and_their_sums_are_those_of_a_plain_loop(
    seed: int, lateness_ms: int
):
    spec = users(lateness_ms=lateness_ms)
    made = lived(seed, spec)
    said = standing(made)
    found = [(s["user"], s["start"], s["end"], s["count"], len(s["steps"])) for s in said]
    assert sorted(found) == expected(made, spec.gap_ms)
    by_hour = sums(made)
    assert by_hour.pop(None, SessionStats()).sessions == 0
    starts = Counter(each["start"] - each["start"] % HOUR for each in said)
    assert {hour: row.sessions for hour, row in by_hour.items() if row.sessions} == starts
    for name, field in (("events", "count"), ("duration_ms", "duration_ms"), ("pages", "pages")):
        assert sum(getattr(row, name) for row in by_hour.values()) == sum(s[field] for s in said)
    for step in range(len(STEPS)):
        reached = sum(row.reached[step] for row in by_hour.values() if len(row.reached) > step)
        assert reached == sum(len(each["steps"]) > step for each in said)
    assert made.rows(SESSION_PARTIALS, TIMERS_TABLE) == {}
