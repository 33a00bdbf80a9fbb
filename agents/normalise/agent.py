"""Agents of the shipper topics: every record becomes one canonical event of ``log-events``."""

from __future__ import annotations

from agents.normalise.step import normalise_step
from agents.topics import (
    APPLICATION_LOGS,
    DEAD_LETTERS,
    INFRASTRUCTURE_METRICS,
    LATE_EVENTS,
    LOG_EVENTS,
)
from app.engine.spec import AgentSpec


def normalise_agents() -> tuple[AgentSpec, ...]:
    """One agent per shipper topic, all with the same step."""
    return tuple(
        AgentSpec(
            topic=topic,
            step=normalise_step(LOG_EVENTS),
            dead_letter_topic=DEAD_LETTERS,
            late_topic=LATE_EVENTS,
        )
        for topic in (APPLICATION_LOGS, INFRASTRUCTURE_METRICS)
    )
