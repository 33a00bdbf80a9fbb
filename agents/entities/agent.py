"""Agent of ``entity-events``: the latest state of each entity, and its history."""

from __future__ import annotations

from agents.entities.retention import EntityRetention
from agents.entities.step import EntityStep
from agents.topics import DEAD_LETTERS, ENTITY_CHANGELOG, ENTITY_EVENTS, LATE_EVENTS
from app.engine.spec import AgentSpec
from tables.entities.history import history_table
from tables.entities.spec import EntitySpecs
from tables.entities.state import entities_table


def entities_agent(specs: EntitySpecs) -> AgentSpec:
    """Agent of every configured type."""
    return AgentSpec(
        topic=ENTITY_EVENTS,
        step=EntityStep(specs),
        dead_letter_topic=DEAD_LETTERS,
        late_topic=LATE_EVENTS,
        tables=(entities_table(), history_table()),
        changelog=ENTITY_CHANGELOG,
        tick=EntityRetention(specs),
    )
