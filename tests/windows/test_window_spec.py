"""config/windows.yaml: what is accepted, and one clear line for each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tables.windows.spec import ErrorsWhen, WindowSpecError, load_windows, parse_duration_ms
from tests.windows.driver import minute_spec

SHIPPED = Path(__file__).parents[2] / "config" / "windows.yaml"

GOOD = {
    "name": "w",
    "topic": "log-events",
    "kind": "tumbling",
    "size": "60s",
    "grace": "30s",
    "key": "endpoint",
    "value": "latency_ms",
    "errors": {"status_min": 500},
}


def written(tmp_path: Path, *windows: object) -> Path:
    path = tmp_path / "windows.yaml"
    path.write_text(yaml.safe_dump({"windows": list(windows)}))
    return path


def test_the_shipped_file_declares_requests_per_endpoint():
    assert load_windows(SHIPPED) == (minute_spec(),)


def test_retention_is_a_day_unless_given(tmp_path: Path):
    [spec] = load_windows(written(tmp_path, GOOD))
    assert spec.retention_ms == 24 * 3_600_000
    [spec] = load_windows(written(tmp_path, {**GOOD, "retention": "90s"}))
    assert spec.retention_ms == 90_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0s", 0), ("500ms", 500), ("60s", 60_000), ("1m", 60_000), ("24h", 86_400_000)],
)
def test_durations_are_a_number_and_a_unit(text: str, ms: int):
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize("wrong", [60, 1.5, None, "", "60", "s", "-1s", "1 s", "1.5m", "1w", "٣s"])
def test_anything_else_is_not_a_duration(wrong: object):
    with pytest.raises(ValueError, match="a number and a unit"):
        parse_duration_ms(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "60"}, "window w: size = '60': accepted: a number and a unit"),
        ({"size": "0s"}, "window w: size = '0s': accepted: a duration above 0"),
        ({"grace": 30}, "window w: grace = 30: accepted: a number and a unit"),
        ({"kind": "hopping"}, "window w: kind = 'hopping': Input should be 'tumbling'"),
        ({"topic": "logs"}, "window w: topic = 'logs': Input should be 'log-events'"),
        ({"key": "user"}, "window w: key = 'user': Input should be 'endpoint' or 'service'"),
        ({"value": "bytes"}, "window w: value = 'bytes': Input should be 'latency_ms'"),
        ({"name": "W W"}, "window W W: name = 'W W': String should match pattern"),
        ({"name": "lanes"}, "window lanes: name = 'lanes': 'lanes' is the name of a table"),
        ({"advance": "1m"}, "window w: advance = '1m': unknown; accepted: name, topic, kind"),
        (
            {"errors": {"status_min": 500, "level": 1}},
            "window w: errors.level = 1: unknown; accepted: status_min",
        ),
        ({"errors": {"status_min": 99}}, "window w: errors.status_min = 99: Input should be"),
        ({"retention": "89s"}, "window w: retention = 89000 ms: accepted: at least size + grace"),
    ],
)
def test_a_mistake_names_file_window_field_value_and_what_is_accepted(
    tmp_path: Path, change: dict[str, object], said: str
):
    path = written(tmp_path, {**GOOD, **change})
    with pytest.raises(WindowSpecError) as caught:
        load_windows(path)
    assert str(caught.value).splitlines()[0].startswith(f"{path}: {said}")


def test_a_missing_field_is_named(tmp_path: Path):
    path = written(tmp_path, {key: value for key, value in GOOD.items() if key != "size"})
    with pytest.raises(WindowSpecError, match="window w: size is missing"):
        load_windows(path)


def test_all_mistakes_are_told_at_once(tmp_path: Path):
    path = written(tmp_path, GOOD, GOOD, {**GOOD, "name": "x", "size": "x", "grace": "y"}, 7)
    with pytest.raises(WindowSpecError) as caught:
        load_windows(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "window number 4" in lines[2]
    assert lines[3] == f"{path}: window w: name = 'w': used 2 times; accepted: once"


@pytest.mark.parametrize("text", ["", "[]", "windows: 7", "windows: {a: 1}"])
def test_a_file_without_a_list_of_windows_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "windows.yaml"
    path.write_text(text)
    with pytest.raises(WindowSpecError, match=r"windows\.yaml: expected"):
        load_windows(path)


def test_other_fields_beside_the_list_are_unknown(tmp_path: Path):
    path = tmp_path / "windows.yaml"
    path.write_text("windows: []\nwindow: 1\n")
    with pytest.raises(WindowSpecError, match="window = 1: unknown; accepted: windows"):
        load_windows(path)


@pytest.mark.parametrize("content", [b"windows: [", b"\xff\xfe\x00"])
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "windows.yaml"
    path.write_bytes(content)
    with pytest.raises(WindowSpecError, match=r"windows\.yaml: (is not YAML|cannot be read)"):
        load_windows(path)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(WindowSpecError, match="cannot be read"):
        load_windows(tmp_path / "none.yaml")


def test_the_identity_is_pinned_because_it_decides_whether_stored_rows_are_read():
    assert minute_spec().identity == "window-1-543c6c5dc3c69636"


def test_the_identity_changes_with_the_meaning_of_a_row_only():
    spec = minute_spec()
    other_meaning = [
        replace(spec, name="other"),
        replace(spec, size_ms=1),
        replace(spec, key="service"),
        replace(spec, errors=ErrorsWhen(400)),
    ]
    assert len({each.identity for each in [spec, *other_meaning]}) == 5
    assert replace(spec, grace_ms=1, retention_ms=1).identity == spec.identity
