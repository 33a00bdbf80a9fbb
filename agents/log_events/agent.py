"""Agent of ``log-events``: lateness and local aggregation, re-keyed to the topics of partials."""

from __future__ import annotations

from agents.log_events.step import LanesTick, LogEventsStep
from agents.sessions.local import LocalSessions
from agents.sessions.repartition import session_repartition
from agents.topics import (
    DEAD_LETTERS,
    LATE_EVENTS,
    LOG_EVENTS,
    SESSION_PARTIALS,
    WINDOW_PARTIALS,
)
from agents.windows.local import LocalWindows
from agents.windows.repartition import window_repartition
from app.engine.spec import AgentSpec
from tables.sessions.spec import SessionSpec
from tables.windows.spec import WindowSpec


def log_events_agent(
    windows: tuple[WindowSpec, ...], sessions: tuple[SessionSpec, ...] = ()
) -> AgentSpec:
    """Decode once, then every consumer of the topic in turn."""
    to_windows = window_repartition(WINDOW_PARTIALS)
    to_sessions = session_repartition(SESSION_PARTIALS)
    return AgentSpec(
        topic=LOG_EVENTS,
        step=LogEventsStep(
            (
                LocalWindows(windows, to_windows),
                *(LocalSessions(spec, to_sessions) for spec in sessions),
            )
        ),
        dead_letter_topic=DEAD_LETTERS,
        late_topic=LATE_EVENTS,
        tick=LanesTick(),
        repartitions=(to_windows, *((to_sessions,) if sessions else ())),
        counted={spec.name: spec.identity for spec in windows},
    )
