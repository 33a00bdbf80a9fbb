"""config/sessions.yaml: what is accepted, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from app.models.event import LogEvent
from tables.sessions.config import SessionSpecError, load_sessions
from tables.sessions.matching import NOT_TAKEN

SHIPPED = Path(__file__).parents[2] / "config" / "sessions.yaml"
GOOD: dict[str, Any] = {"name": "s", "topic": "log-events", "key": "user_id", "gap": "30m"}
STEP: dict[str, Any] = {"name": "view", "where": {"endpoint": ["/product/*"]}}


def written(folder: Path, *entries: Any) -> Path:
    path = folder / "sessions.yaml"
    path.write_text(yaml.safe_dump({"sessions": list(entries)}))
    return path


def event(**fields: Any) -> LogEvent:
    return LogEvent(event_id="0" * 36, timestamp=0, source="s", service="s", **fields)


def test_the_shipped_file_declares_users_with_a_funnel_and_visitors_by_ip() -> None:
    users, visitors = load_sessions(SHIPPED)
    assert (users.name, users.key, users.gap_ms, users.lateness_ms) == (
        "users",
        "user_id",
        1_800_000,
        86_400_000,
    )
    assert users.steps == ("view", "cart", "purchase")
    assert (visitors.name, visitors.key, visitors.gap_ms, visitors.steps) == (
        "visitors",
        "ip",
        1_800_000,
        (),
    )
    classify = users.classifier()
    assert classify is not None
    assert visitors.classifier() is None
    assert classify(event(endpoint="/product/{id}", method="GET", status=200)) == 0b001
    assert classify(event(endpoint="/api/cart/items", method="POST", status=201)) == 0b010
    assert classify(event(endpoint="/api/cart/items", method="GET", status=200)) == 0
    assert classify(event(endpoint="/api/checkout/pay", method="POST", status=200)) == 0b100
    assert classify(event(endpoint="/api/checkout/pay", method="POST", status=503)) == 0
    assert classify(event(endpoint=None)) == 0


def test_what_is_not_given_has_a_default(tmp_path: Path) -> None:
    [spec] = load_sessions(written(tmp_path, GOOD))
    assert (spec.lateness_ms, spec.active_ttl_ms) == (86_400_000, 1_800_000)
    assert spec.retention_ms == 172_800_000
    assert spec.analytics_retention_ms == 90 * 86_400_000
    assert spec.classifier() is None


def test_a_filter_leaves_events_out_and_a_number_is_compared_as_it_is_written(
    tmp_path: Path,
) -> None:
    where = {"type": ["user_action"], "status": ["2*", "304"]}
    [spec] = load_sessions(written(tmp_path, {**GOOD, "where": where}))
    classify = spec.classifier()
    assert classify is not None
    assert classify(event(type="user_action", status=204)) == 0
    assert classify(event(type="user_action", status=304)) == 0
    assert classify(event(type="user_action", status=302)) == NOT_TAKEN
    assert classify(event(type="log", status=200)) == NOT_TAKEN
    assert classify(event(type="user_action")) == NOT_TAKEN


def test_the_meaning_of_a_row_follows_gap_key_filter_and_funnel_but_not_retention(
    tmp_path: Path,
) -> None:
    def kind(**changes: Any) -> bytes:
        [spec] = load_sessions(written(tmp_path, {**GOOD, **changes}))
        return spec.fingerprint

    funnel = {"name": "c", "steps": [STEP]}
    other = [
        kind(gap="31m"),
        kind(key="ip"),
        kind(name="t"),
        kind(where={"type": ["log"]}),
        kind(conversion=funnel),
    ]
    assert len({kind(), *other}) == 6
    assert kind() == kind(retention="50h", lateness="1h", active_ttl="5m")
    assert kind(conversion=funnel) == kind(conversion={**funnel, "name": "d"})


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"gap": "half an hour"}, "gap = 'half an hour': accepted: a number and a unit"),
    ({"gap": "10ms"}, "gap = '10ms': accepted: 1s to 7d"),
    ({"gap": "8d"}, "gap = '8d': accepted: 1s to 7d"),
    ({"gap": None}, "gap = None: accepted: a number and a unit"),
    ({"lateness": "31d"}, "lateness = '31d': accepted: 0s to 30d"),
    ({"retention": "24h"}, "retention = 24h: accepted: at least twice the gap + lateness, 25h"),
    ({"retention": "0s"}, "retention = '0s': accepted: a duration above 0"),
    ({"active_ttl": "0s"}, "active_ttl = '0s': accepted: a duration above 0"),
    ({"analytics_retention": "never"}, "analytics_retention = 'never': accepted: a number"),
    ({"key": "colour"}, "key = 'colour': Input should be 'user_id', 'ip'"),
    ({"topic": "entity-events"}, "topic = 'entity-events': Input should be 'log-events'"),
    ({"name": "No Name"}, "name = 'No Name': String should match pattern"),
    ({"grace": "30s"}, "grace = '30s': unknown; accepted: name, topic, key, gap"),
    ({"where": {"colour": ["red"]}}, "where.colour = 'colour': Input should be 'type'"),
    ({"where": {"type": []}}, "where.type = []: List should have at least 1 item"),
    ({"where": {}}, "where: Dictionary should have at least 1 item"),
    ({"where": {"type": "log"}}, "where.type = 'log': Input should be a valid list"),
    ({"conversion": {"name": "c", "steps": []}}, "conversion.steps = []: List should have"),
    ({"conversion": {"name": "c"}}, "conversion.steps is missing"),
    (
        {"conversion": {"name": "c", "steps": [STEP, STEP]}},
        "conversion: step 'view': used 2 times; accepted: once",
    ),
    (
        {"conversion": {"name": "c", "steps": [{**STEP, "field": "x"}]}},
        "conversion.steps.0.field = 'x': unknown; accepted: name, where",
    ),
]


@pytest.mark.parametrize(("change", "line"), MISTAKES, ids=[line[:40] for _, line in MISTAKES])
def test_each_mistake_is_its_own_line(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path = written(tmp_path, {**GOOD, **change})
    with pytest.raises(SessionSpecError) as caught:
        load_sessions(path)
    [said] = str(caught.value).splitlines()
    who = change.get("name", "s")
    assert said.startswith(f"{path}: session {who}: {line}")


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    path = written(tmp_path, {**GOOD, "gap": "x", "key": "y"}, {"name": "t"}, 7)
    with pytest.raises(SessionSpecError) as caught:
        load_sessions(path)
    said = str(caught.value).splitlines()
    assert len(said) == 6
    assert said[2:5] == [
        f"{path}: session t: topic is missing",
        f"{path}: session t: key is missing",
        f"{path}: session t: gap is missing",
    ]


def test_two_sessions_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, {**GOOD, "key": "ip"})
    with pytest.raises(SessionSpecError, match=r"name = 's': used 2 times; accepted: once"):
        load_sessions(path)


def test_more_sessions_than_a_worker_can_keep_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, *({**GOOD, "name": f"s{n}"} for n in range(17)))
    with pytest.raises(SessionSpecError, match="17 sessions; accepted: at most 16"):
        load_sessions(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("windows: []", 'expected "sessions:"'),
        ("sessions: 7", 'expected "sessions:"'),
        ("sessions: []\nmore: 1", "more = 1: unknown; accepted: sessions"),
        ("sessions: [", "is not YAML"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sessions.yaml"
    path.write_text(text)
    with pytest.raises(SessionSpecError, match=said):
        load_sessions(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SessionSpecError, match=r"none\.yaml: cannot be read"):
        load_sessions(tmp_path / "none.yaml")
