"""Partitions whose events meet in one epoch come to what those of each come to alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.log_events.agent import log_events_agent
from agents.sessions.agent import sessions_agent
from agents.topics import LATE_EVENTS, LOG_EVENTS, SESSION_PARTIALS, WINDOW_PARTIALS
from agents.windows.agent import windows_agent
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER
from tables.lanes import LANES_TABLE
from tests.sessions.sessions_driver import users
from tests.windows.driver import HOUR, MINUTE, NOW, TEN, event, minute_spec
from tests.windows.world import World

SPECS = (
    minute_spec(),
    minute_spec(name="trend", kind="sliding", key="service", global_row=True),
    minute_spec(name="users", distinct="user_id", codes=True),
)
SESSIONS = (users(),)
SOURCES = 3
Arrival = tuple[int, str, int, str, str, int]

arrivals = st.tuples(
    st.integers(0, SOURCES - 1),
    st.sampled_from(["", "", "file-1", "file-2"]),
    st.sampled_from([0, 1_000, 59_999, MINUTE, 3 * MINUTE, HOUR]),
    st.sampled_from(["/a", "/b"]),
    st.sampled_from(["u", "v"]),
    st.sampled_from([200, 503]),
)


def worked(fed: list[Arrival], *, together: bool) -> World:
    """The events, of an epoch each, or of one epoch all together."""
    agents = (
        log_events_agent(SPECS, SESSIONS),
        windows_agent(SPECS),
        sessions_agent(SESSIONS),
    )
    partitions = {LOG_EVENTS: SOURCES, WINDOW_PARTIALS: 2, SESSION_PARTIALS: 2}
    world = World(agents, partitions, NOW)
    for partition, lane, moment, endpoint, user, status in fed:
        headers = ((LANE_HEADER, lane.encode()),) if lane else ()
        value = event(TEN + moment, endpoint, user_id=user, status=status)
        world.put(LOG_EVENTS, [value], partition, headers)
        if not together:
            world.pump(TaskId(LOG_EVENTS, partition))
            world.commit()
    for source in range(SOURCES):
        world.pump(TaskId(LOG_EVENTS, source))
    world.settle()
    return world


@given(st.lists(arrivals, min_size=1, max_size=25))
def test_events_of_several_partitions_come_to_what_those_of_each_come_to(
    fed: list[Arrival],
) -> None:
    apart, as_one = worked(fed, together=False), worked(fed, together=True)
    for spec in SPECS:
        rows = as_one.rows(WINDOW_PARTIALS, spec.name)
        assert rows == apart.rows(WINDOW_PARTIALS, spec.name)
    sessions = SESSIONS[0].table_name
    assert as_one.rows(SESSION_PARTIALS, sessions) == apart.rows(SESSION_PARTIALS, sessions)
    for topic in (WINDOW_PARTIALS, SESSION_PARTIALS):
        assert as_one.rows(topic, LANES_TABLE) == apart.rows(topic, LANES_TABLE)
    assert len(as_one.topics[LATE_EVENTS]) == len(apart.topics[LATE_EVENTS])


def test_one_chunk_for_a_destination_whatever_number_of_partitions() -> None:
    fed = [(source, "", 0, key, "u", 200) for source in range(SOURCES) for key in ("/a", "/b")]
    world = worked(fed, together=True)
    assert len(world.topics[WINDOW_PARTIALS]) == 2
    assert len(world.topics[SESSION_PARTIALS]) == 2
