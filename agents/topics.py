"""Names of the topics agents read and write. Their shapes are in ``config/topics.yaml``."""

from __future__ import annotations

APPLICATION_LOGS = "application-logs"
INFRASTRUCTURE_METRICS = "infrastructure-metrics"
LOG_EVENTS = "log-events"
LATE_EVENTS = "log-events-late"
DEAD_LETTERS = "log-events-dlq"
WINDOW_PARTIALS = "window-partials"
WINDOW_CHANGELOG = "window-partials-changelog"
WINDOWS_FINAL = "windows-final"
WINDOWS_UPDATES = "windows-updates"
ENTITY_EVENTS = "entity-events"
ENTITY_CHANGELOG = "entity-events-changelog"
ENTITY_STATE = "entity-state"
SESSION_PARTIALS = "session-partials"
SESSION_CHANGELOG = "session-partials-changelog"
SESSIONS_CLOSED = "sessions-closed"
