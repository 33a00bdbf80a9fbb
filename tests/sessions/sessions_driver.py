"""Both halves of sessions without a broker, and a plain reference that shares no code with them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from agents.log_events.agent import log_events_agent
from agents.sessions.agent import sessions_agent
from agents.sessions.ticks import ClosingTick, RetentionTick
from agents.topics import LOG_EVENTS, SESSION_PARTIALS, SESSIONS_CLOSED
from agents.windows.agent import windows_agent
from app.engine.driver import Driver
from app.engine.lanes import LANE_HEADER
from app.models.event import LogEvent, encode_event
from tables.sessions.matching import match_of
from tables.sessions.rows import UserSessions
from tables.sessions.spec import Conversion, FunnelStep, SessionSpec
from tables.sessions.state import Session
from tables.sessions.stats import STATS_TABLE, SessionStats, hour_of, open_key
from tables.windows.spec import WindowSpec

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
TEN = 1_790_000_000_000 // DAY * DAY + 10 * HOUR
"""10:00 in the tests."""

_ids = itertools.count()


def at(clock: str) -> int:
    """Epoch ms of ``HH:MM`` on the day of :data:`TEN`; hours may be above 23."""
    hours, minutes = clock.split(":")
    return TEN + (int(hours) - 10) * HOUR + int(minutes) * MINUTE


def users(**changes: Any) -> SessionSpec:
    """Sessions of users with a gap of 30 min and a funnel of three steps, or changed."""
    fields: dict[str, Any] = {
        "name": "users",
        "topic": "log-events",
        "key": "user_id",
        "gap_ms": 30 * MINUTE,
        "lateness_ms": DAY,
        "active_ttl_ms": 30 * MINUTE,
        "retention_ms": 2 * DAY,
        "analytics_retention_ms": 90 * DAY,
        "conversion": Conversion(
            "purchase",
            tuple(
                FunnelStep(name, match_of({"endpoint": [f"/{name}*"]}))
                for name in ("view", "cart", "purchase")
            ),
        ),
    }
    return SessionSpec(**{**fields, **changes})


def event(
    timestamp: int, user: str | None = "u", endpoint: str | None = None, **more: Any
) -> bytes:
    """An encoded event of a user."""
    fields: dict[str, Any] = {"source": "test", "service": "shop", **more}
    return encode_event(
        LogEvent(
            event_id=str(UUID(int=next(_ids))),
            timestamp=timestamp,
            user_id=user,
            endpoint=endpoint,
            **fields,
        )
    )


@dataclass
class Rig:
    """The agents of log-events and session-partials over several partitions."""

    specs: tuple[SessionSpec, ...] = field(default_factory=lambda: (users(),))
    partitions: int = 1
    now_ms: int = TEN + 3 * DAY
    windows: tuple[WindowSpec, ...] = ()
    rows_per_tick: int = 100
    fired_max: int = 500

    def __post_init__(self) -> None:
        topics = ("log-events", "window-partials", "session-partials", "sessions-closed")
        agent = replace(
            sessions_agent(self.specs),
            on_time=ClosingTick(self.specs, self.fired_max),
            tick=RetentionTick(self.specs, self.rows_per_tick),
        )
        agents = [log_events_agent(self.windows, self.specs), agent]
        if self.windows:
            agents.append(windows_agent(self.windows))
        self.driver = Driver(agents, dict.fromkeys(topics, self.partitions), self.now_ms)
        self.driver.advance(SECOND)  # every partition announces its live lane

    def feed(self, values: Sequence[bytes], partition: int = 0, lane: str = "") -> None:
        """A batch into a partition of log-events, and the second in which all hear of it."""
        headers = ((LANE_HEADER, lane.encode()),) if lane else ()
        self.driver.feed(LOG_EVENTS, values, partition=partition, headers=headers)
        self.driver.advance(SECOND)

    def at(self, *clocks: str, user: str = "u", partition: int = 0) -> None:
        """Events of a user, each a batch of its own."""
        for clock in clocks:
            self.feed([event(at(clock), user)], partition)

    def time(self, clock: str) -> None:
        """Stream time of every partition comes to this, by an event of nobody."""
        for partition in range(self.partitions):
            self.feed([event(at(clock), None)], partition)

    def silence(self, ms: int, step_ms: int = 10 * MINUTE) -> None:
        """Nothing comes for so long."""
        for _ in range(0, ms, step_ms):
            self.driver.advance(step_ms)

    def row(self, user: str = "u", spec: str = "users") -> tuple[Session, ...]:
        """A user's sessions as they are kept."""
        found = self.driver.rows(SESSION_PARTIALS, f"sessions_{spec}").get(user.encode())
        if found is None:
            return ()
        assert isinstance(found, UserSessions)
        return found.sessions

    def held(self, user: str = "u", spec: str = "users") -> list[tuple[int, int, int]]:
        """(minutes after 10:00, minutes long, events) of a user's sessions."""
        return [
            ((s.start - TEN) // MINUTE, (s.end - s.start) // MINUTE, s.count)
            for s in self.row(user, spec)
        ]

    def closed(self) -> list[dict[str, Any]]:
        """Records of sessions-closed, in order."""
        return [json.loads(each.value or b"") for each in self.driver.topics[SESSIONS_CLOSED]]

    def standing(self) -> dict[str, dict[str, Any]]:
        """What a reader of sessions-closed knows in the end: by id, less what was superseded."""
        found: dict[str, dict[str, Any]] = {}
        for each in self.closed():
            assert each["id"] not in found or each["revision"] > found[each["id"]]["revision"]
            found[each["id"]] = each
        gone = {other for each in self.closed() for other in each["supersedes"]}
        return {key: each for key, each in found.items() if key not in gone}

    def stats(self) -> dict[bytes, SessionStats]:
        """Rows of the sums, over all partitions."""
        found: dict[bytes, SessionStats] = {}
        for task_id, task in self.driver.tasks.items():
            if task_id.topic == SESSION_PARTIALS:
                for key, row in task.table(STATS_TABLE).range(b"", None, limit=1_000_000):
                    before = found.get(key, SessionStats())
                    found[key] = SessionStats(
                        before.sessions + row.sessions,
                        before.events + row.events,
                        before.pages + row.pages,
                        before.duration_ms + row.duration_ms,
                        tuple(
                            a + b
                            for a, b in itertools.zip_longest(
                                before.reached, row.reached, fillvalue=0
                            )
                        ),
                    )
        return found

    def total(self, field_name: str = "sessions") -> int:
        """Sum over all hours."""
        rows = self.stats().items()
        return sum(getattr(row, field_name) for key, row in rows if hour_of(key) is not None)

    def open(self, spec: SessionSpec | None = None) -> int:
        """Sessions counted as open."""
        row = self.stats().get(open_key((spec or self.specs[0]).fingerprint))
        return 0 if row is None else row.sessions


def plain_sessions(times: Iterable[int], gap_ms: int) -> list[tuple[int, int, int]]:
    """(start, end, events) of one user's times, computed plainly."""
    found: list[tuple[int, int, int]] = []
    for time in sorted(times):
        if found and time - found[-1][1] <= gap_ms:
            found[-1] = (found[-1][0], time, found[-1][2] + 1)
        else:
            found.append((time, time, 1))
    return found


def plain_depth(events: Iterable[tuple[int, str]], steps: Sequence[str]) -> int:
    """Steps taken in order, from (time, endpoint): the earliest of each after the one before."""
    depth, when = 0, -1
    for step in steps:
        later = [t for t, endpoint in events if endpoint == f"/{step}" and t >= when]
        if not later:
            return depth
        when, depth = min(later), depth + 1
    return depth
