"""Agent of ``log-events``: lateness and local aggregation, re-keyed to ``window-partials``."""

from __future__ import annotations

from agents.log_events.step import LanesTick, LogEventsStep
from agents.topics import DEAD_LETTERS, LATE_EVENTS, LOG_EVENTS, WINDOW_PARTIALS
from agents.windows.local import LocalWindows
from agents.windows.repartition import window_repartition
from app.engine.spec import AgentSpec
from tables.windows.spec import WindowSpec


def log_events_agent(windows: tuple[WindowSpec, ...]) -> AgentSpec:
    """Decode once, then every consumer of the topic in turn."""
    repartition = window_repartition(WINDOW_PARTIALS)
    return AgentSpec(
        topic=LOG_EVENTS,
        step=LogEventsStep(tuple(LocalWindows(spec, repartition) for spec in windows)),
        dead_letter_topic=DEAD_LETTERS,
        late_topic=LATE_EVENTS,
        tick=LanesTick(),
        repartitions=(repartition,),
    )
