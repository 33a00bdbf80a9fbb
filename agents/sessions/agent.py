"""Agent of ``session-partials``: merges partials into users' sessions, closes and removes them."""

from __future__ import annotations

from agents.sessions.merge import MergeSessions, session_tables
from agents.sessions.ticks import ClosingTick, RetentionTick
from agents.topics import DEAD_LETTERS, LATE_EVENTS, SESSION_CHANGELOG, SESSION_PARTIALS
from app.engine.spec import AgentSpec
from tables.sessions.spec import SessionSpec


def sessions_agent(sessions: tuple[SessionSpec, ...]) -> AgentSpec:
    """Global stage of every configured kind of session."""
    return AgentSpec(
        topic=SESSION_PARTIALS,
        step=MergeSessions(sessions),
        dead_letter_topic=DEAD_LETTERS,
        late_topic=LATE_EVENTS,
        tables=session_tables(sessions),
        changelog=SESSION_CHANGELOG,
        tick=RetentionTick(sessions),
        on_time=ClosingTick(sessions),
    )
