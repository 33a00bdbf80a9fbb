"""Agent of ``window-partials``: merges partials into the windows' tables, and closes windows."""

from __future__ import annotations

from agents.topics import DEAD_LETTERS, LATE_EVENTS, WINDOW_CHANGELOG, WINDOW_PARTIALS
from agents.windows.closing import ClosingTick
from agents.windows.merge import MergeWindows, merge_tables
from agents.windows.retention import RetentionTick
from app.engine.spec import AgentSpec
from tables.windows.spec import WindowSpec


def windows_agent(windows: tuple[WindowSpec, ...]) -> AgentSpec:
    """Global stage of every configured window."""
    return AgentSpec(
        topic=WINDOW_PARTIALS,
        step=MergeWindows(windows),
        dead_letter_topic=DEAD_LETTERS,
        late_topic=LATE_EVENTS,
        tables=merge_tables(windows),
        changelog=WINDOW_CHANGELOG,
        tick=RetentionTick(windows),
        on_time=ClosingTick(windows),
    )
