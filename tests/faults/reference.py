"""What the shipped configuration must make of a drill's events, counted plainly, and what it made.

Nothing here adds up as the product does: minutes are counted one by one, a hopping window is the
sum of its minutes, sessions are a sort and a loop.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from agents.topics import SESSION_CHANGELOG, WINDOWS_FINAL
from app.engine.changelog import parse_record_key
from tables.sessions.config import load_sessions
from tables.sessions.rows import UserSessions
from tests.system.harness import (
    CHECKOUT,
    WINDOW_MS,
    Cluster,
    Reference,
    Row,
    committed_windows,
    read_topic,
)

REQUESTS, ERRORS = WINDOWS = ("requests_per_endpoint", "errors_per_endpoint")
HOPS = 5
"""Minutes of a window of ``errors_per_endpoint``; a new one begins with each."""
GAP_MS = 30 * 60_000
Visit = tuple[str, int, int, int]
"""User, start, end, events."""


def sessions_of(times: Mapping[str, Sequence[int]]) -> Counter[Visit]:
    """Every session of the users who did something at these times, by one sort and one loop."""
    found: Counter[Visit] = Counter()
    for user, of_user in times.items():
        ordered = sorted(of_user)
        first = 0
        for last, at in enumerate(ordered):
            if last + 1 == len(ordered) or ordered[last + 1] - at > GAP_MS:
                found[user, ordered[first], at, last + 1 - first] += 1
                first = last + 1
    return found


class DrillReference(Reference):
    """Minutes in full, codes by minute and by five of them, and sessions of users."""

    def __init__(self) -> None:
        super().__init__()
        self._codes: dict[Row, Counter[int]] = defaultdict(Counter)
        self._times: dict[str, list[int]] = defaultdict(list)

    def add(self, event: dict[str, Any]) -> None:
        super().add(event)
        start = event["timestamp"] // WINDOW_MS * WINDOW_MS
        self._codes[event["endpoint"], start][event["status"]] += 1
        if "user_id" in event:
            self._times[event["user_id"]].append(event["timestamp"])

    def check(self, cluster: Cluster) -> None:
        """Every committed row and final record equals what was counted here."""
        wrong = self.differences(committed_windows(cluster))
        assert not wrong, "\n".join(wrong[:20])
        minutes = committed_windows(cluster, ERRORS)
        assert {row: stats.count for row, stats in minutes.items()} == {
            row: codes.total() for row, codes in self._codes.items()
        }
        assert {row: stats.codes for row, stats in minutes.items()} == self._codes
        assert {row: stats.errors for row, stats in minutes.items()} == {
            row: _errors(codes) for row, codes in self._codes.items()
        }
        self._check_finals(cluster)
        found = committed_visits(cluster)
        wanted = sessions_of(self._times)
        assert found == wanted, f"missing {wanted - found}, too many {found - wanted}"

    def _check_finals(self, cluster: Cluster) -> None:
        for (name, key, start), record in latest_finals(cluster).items():
            said = (name, key, start, record["revision"])
            if name == REQUESTS:
                want = self.rows[key, start]
                assert (record["count"], record["errors"]) == (want["count"], want["errors"]), said
            elif name == ERRORS:
                codes: Counter[int] = Counter()
                for hop in range(HOPS):
                    codes += self._codes.get((key, start + hop * WINDOW_MS), Counter())
                assert record["codes"] == {str(code): n for code, n in codes.items()}, said
                assert (record["count"], record["errors"]) == (codes.total(), _errors(codes)), said


def _errors(codes: Counter[int]) -> int:
    return sum(count for code, count in codes.items() if code >= 400)


def latest_finals(cluster: Cluster) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The last final record of each window, by name, key and start; no id is there twice."""
    ids: Counter[str] = Counter()
    latest: dict[tuple[str, str, int], dict[str, Any]] = {}
    for message in read_topic(cluster, WINDOWS_FINAL):
        record = json.loads(message.value() or b"")
        ids[record["id"]] += 1
        window = (record["name"], record["key"], record["start"])
        if window not in latest or record["revision"] > latest[window]["revision"]:
            latest[window] = record
    twice = [each for each, times in ids.items() if times > 1]
    assert not twice, f"{len(twice)} final records are there twice, such as {twice[:3]}"
    return latest


def committed_visits(cluster: Cluster) -> Counter[Visit]:
    """Sessions of users as the changelog tells them."""
    shipped = load_sessions(CHECKOUT / "config" / "sessions.yaml")
    table = next(spec for spec in shipped if spec.name == "users").table()
    rows: dict[bytes, bytes | None] = {}
    for message in read_topic(cluster, SESSION_CHANGELOG):
        rows[message.key() or b""] = message.value()
    found: Counter[Visit] = Counter()
    for raw_key, value in rows.items():
        parsed = parse_record_key(raw_key)
        if parsed is not None and parsed[0] == table.identity and value is not None:
            row = table.aggregate.decode(value)
            assert isinstance(row, UserSessions)
            for each in row.sessions:
                found[parsed[1].decode(), each.start, each.end, each.count] += 1
    return found
