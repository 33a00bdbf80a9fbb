"""Windows under every interleaving: aborts, restarts, rebalances, small steps, lanes that end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from agents.log_events.agent import log_events_agent
from agents.topics import LATE_EVENTS, LOG_EVENTS, WINDOW_PARTIALS, WINDOWS_FINAL
from agents.windows.agent import windows_agent
from agents.windows.closing import ClosingTick
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER
from app.engine.spec import AgentSpec
from app.models.event import decode_event
from tables.timers import TIMERS_TABLE
from tables.windows.finals import WindowRecord, decode_record, final_id
from tables.windows.spec import WindowSpec
from tests.windows.driver import MINUTE, NOW, TEN, event, minute_spec
from tests.windows.world import World

TUMBLING = minute_spec(name="tumbling")
HOPPING = minute_spec(name="hopping", kind="hopping", size_ms=3 * MINUTE, advance_ms=MINUTE)
SOURCES, TARGETS = 2, 2
TASKS = [
    *(TaskId(LOG_EVENTS, n) for n in range(SOURCES)),
    *(TaskId(WINDOW_PARTIALS, n) for n in range(TARGETS)),
]
CLOCK = "/clock"
"""Endpoint of events that only take time on."""
DOINGS = ("put", "pump", "commit", "advance", "abort", "lost", "tick", "clock", "spread", "grace")
WEIGHTS = (30, 25, 20, 11, 4, 3, 2, 2, 2, 1)
Key = tuple[str, str, int]


def agents(closed_max: int, grace_ms: int) -> list[AgentSpec]:
    specs = (replace(TUMBLING, grace_ms=grace_ms), replace(HOPPING, grace_ms=grace_ms))
    agent = replace(windows_agent(specs), on_time=ClosingTick(specs, closed_max))
    return [log_events_agent(specs), agent]


@dataclass
class Story:
    """A world and the records put into it."""

    closed_max: int
    grace_ms: int = 30_000
    world: World = field(init=False)

    def __post_init__(self) -> None:
        counts = {LOG_EVENTS: SOURCES, WINDOW_PARTIALS: TARGETS}
        self.world = World(agents(self.closed_max, self.grace_ms), counts, NOW)

    def put(self, partition: int, lane: str, events: list[tuple[int, str]]) -> None:
        headers = ((LANE_HEADER, lane.encode()),) if lane else ()
        values = [event(TEN + moment, key) for moment, key in events]
        self.world.put(LOG_EVENTS, values, partition, headers)

    def grace(self, grace_ms: int) -> None:
        """A restart with another grace."""
        self.grace_ms = grace_ms
        self.world.replace(agents(self.closed_max, grace_ms))

    def fall_silent(self) -> None:
        """Every lane falls silent; all that is due is written."""
        self.world.settle()
        for ms in (1_000, 31_000, 1_000, 1_000, 61_000, 61_000):
            self.world.advance(ms)

    def go_on(self) -> None:
        """Every lane goes beyond all windows, and nothing falls silent."""
        self.world.settle()
        for partition in range(SOURCES):
            for lane in ("", "f-1", "f-2", "f-3"):
                self.put(partition, lane, [(119 * MINUTE, CLOCK)])
        self.world.settle()
        self.world.advance(1_000)

    def finals(self) -> dict[Key, list[WindowRecord]]:
        found: dict[Key, list[WindowRecord]] = defaultdict(list)
        for output in self.world.topics[WINDOWS_FINAL]:
            record = decode_record(output.value or b"")
            if record.key != CLOCK:
                found[record.name, record.key, record.start].append(record)
        return found

    def counted(self) -> dict[Key, int]:
        """Events of every window, counted plainly: all but those told to be late."""
        late = Counter(output.value for output in self.world.topics[LATE_EVENTS])
        found: dict[Key, int] = defaultdict(int)
        for task in TASKS[:SOURCES]:
            for record in self.world.log[task]:
                if record.value in late:
                    continue
                each = decode_event(record.value or b"")
                if each.endpoint == CLOCK:
                    continue
                for spec in (TUMBLING, HOPPING):
                    start = each.timestamp - each.timestamp % spec.advance_ms
                    while start > each.timestamp - spec.size_ms:
                        found[spec.name, each.endpoint or "", start] += 1
                        start -= spec.advance_ms
        return dict(found)


def check(spec: WindowSpec, records: list[WindowRecord], count: int) -> None:
    """One final record per revision, each of more events than the one before, the last of all."""
    assert [r.revision for r in records] == list(range(1, len(records) + 1))
    assert all(r.id == final_id(r.name, r.key, r.start, r.revision) for r in records)
    counts = [r.count for r in records]
    assert counts == sorted(set(counts))
    assert counts[-1] == count
    assert records[0].end - records[0].start == spec.size_ms


def lived(seed: int, *, other_grace: bool) -> Story:
    """Many things in random order; the event time of live traffic goes on as they happen."""
    draw = Random(seed)
    story = Story(draw.choice([1, 2, 5, 500]))
    world, moments = story.world, [0] * SOURCES
    calm = draw.random() < 0.3
    do: dict[str, Callable[[], object]] = {
        "put": lambda: story.put(*_some_events(draw, moments)),
        "pump": lambda: world.pump(draw.choice(TASKS), draw.choice([1, 2, 100])),
        "commit": lambda: world.commit(draw.randrange(3)),
        "advance": lambda: world.advance(1_000 if calm else draw.choice([100, 1_000, 31_000])),
        "abort": lambda: world.abort(draw.randrange(3)),
        "lost": lambda: world.commit(draw.randrange(3), fails=True),
        "tick": lambda: world.tick(draw.randrange(3)),
        "clock": lambda: world.clock.advance(draw.choice([300, 1_000])),
        "spread": lambda: world.spread(draw.randint(1, 3), draw.randrange(3)),
        "grace": lambda: story.grace(draw.choice([0, 30_000, 90_000])),
    }
    for _ in range(draw.randint(40, 160)):
        name = draw.choices(DOINGS, WEIGHTS)[0]
        if name != "grace" or (other_grace and not calm):
            do[name]()
    return story


def _some_events(draw: Random, moments: list[int]) -> tuple[int, str, list[tuple[int, str]]]:
    """Source partition, lane and events; ``moments``: how far live traffic has come."""
    source, lane = draw.randrange(SOURCES), draw.choice(["", "", "f-1", "f-2", "f-3"])
    moments[source] += draw.choice([0, 5_000, 20_000, MINUTE])
    newest = draw.randrange(20 * MINUTE) if lane else moments[source]
    keys = [draw.choice(["/a", "/b", "/c"]) for _ in range(draw.randint(1, 5))]
    return source, lane, [(max(0, newest - draw.randrange(MINUTE)), key) for key in keys]


@pytest.mark.parametrize(
    "seed",
    [
        *(14, 17, 110, 282, 421, 470, 567, 666, 908),
        *(pytest.param(n, marks=pytest.mark.slow) for n in range(2_000, 2_040)),
    ],
)
@pytest.mark.parametrize("other_grace", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_each_window_is_written_once_per_revision_and_the_last_says_all(
    seed: int, other_grace: bool, silent: bool
):
    story = lived(seed, other_grace=other_grace)
    if silent:
        story.fall_silent()
    else:
        story.go_on()
    found, counted = story.finals(), story.counted()
    assert found.keys() == counted.keys()
    for key, records in found.items():
        check(TUMBLING if key[0] == "tumbling" else HOPPING, records, counted[key])
    left = story.world.rows(WINDOW_PARTIALS, TIMERS_TABLE)
    assert [timer for timer in left if CLOCK.encode() not in timer] == []
