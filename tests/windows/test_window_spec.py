"""config/windows.yaml: what is accepted, and one clear line for each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tables.windows.spec import (
    ErrorsWhen,
    WindowSpecError,
    duration_text,
    load_windows,
    parse_duration_ms,
)
from tables.windows.where import Condition
from tables.windows.window import PANES_MAX
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

SLIDING: dict[str, object] = {
    "kind": "sliding",
    "size": None,
    "sizes": ["1m", "5m", "15m"],
    "advance": "10s",
}


def written(tmp_path: Path, *windows: object) -> Path:
    path = tmp_path / "windows.yaml"
    path.write_text(yaml.safe_dump({"windows": list(windows)}))
    return path


def test_the_shipped_file_declares_requests_per_endpoint():
    assert minute_spec() in load_windows(SHIPPED)


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


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (60_000, "1m"),
        (90_000, "90s"),
        (86_400_000, "24h"),
        (172_800_000, "2d"),
        (90_000_000, "25h"),
    ],
)
def test_a_duration_is_told_as_the_file_would_say_it(ms: int, text: str):
    assert duration_text(ms) == text
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
        ({"kind": "daily"}, "window w: kind = 'daily': accepted: tumbling, hopping, sliding"),
        ({"kind": "session"}, "window w: kind = 'session': accepted: tumbling, hopping, sliding"),
        ({"gap": "30m"}, "window w: gap = '30m': a window has no gap: declare sessions in conf"),
        ({"topic": "logs"}, "window w: topic = 'logs': Input should be 'log-events'"),
        ({"key": "user"}, "window w: key = 'user': no field of an event; accepted: service, "),
        ({"distinct": "message"}, "window w: distinct = 'message': no field of an event; acc"),
        ({"value": "bytes"}, "window w: value = 'bytes': Input should be 'latency_ms' or 'value'"),
        ({"name": "W W"}, "window W W: name = 'W W': String should match pattern"),
        ({"name": "lanes"}, "window lanes: name = 'lanes': 'lanes' is the name of a table"),
        ({"name": "finals"}, "window finals: name = 'finals': 'finals' is the name of a table"),
        ({"advance": "1m"}, "window w: advance: a tumbling window has none"),
        ({"sizes": ["1m"]}, "window w: sizes: a tumbling window has none"),
        ({"size": None}, "window w: size is missing: a tumbling window needs it"),
        ({"codes": 1}, "window w: codes = 1: Input should be a valid boolean"),
        ({"emit": "all"}, "window w: emit = 'all': Input should be 'final' or 'updates'"),
        ({"global": True}, "window w: global = True: accepted for a sliding window only"),
        ({"speed": 1}, "window w: speed = 1: unknown; accepted: name, topic, kind"),
        (
            {"errors": {"status_min": 500, "level": 1}},
            "window w: errors.level = 1: unknown; accepted: status_min",
        ),
        ({"errors": {"status_min": 99}}, "window w: errors.status_min = 99: Input should be"),
        ({"retention": "89s"}, "window w: retention = 89s: accepted: at least size + grace, 90s"),
        ({"kind": "hopping"}, "window w: advance is missing: a hopping window needs it"),
        (
            {"kind": "hopping", "advance": "25s"},
            "window w: size = 1m: accepted: a multiple of the advance, 25s",
        ),
        (
            {"kind": "hopping", "advance": "5m"},
            "window w: advance = 5m: leaves a gap of 4m after each window; accepted: at most "
            "the size, 1m",
        ),
        (
            SLIDING | {"advance": "90s"},
            "window w: advance = 90s: leaves a gap of 30s after each window; accepted: at most",
        ),
        (SLIDING | {"advance": "7s"}, "window w: size = 1m: accepted: a multiple of the advance"),
        (SLIDING | {"emit": "updates"}, "window w: emit = 'updates': accepted for a sliding wi"),
        (SLIDING | {"sizes": []}, "window w: sizes = []: List should have at least 1 item"),
        ({"where": []}, "window w: where = []: accepted: fields of an event and the values"),
        ({"where": {"os": "x"}}, "window w: where = {'os': 'x'}: no field 'os' to compare; acc"),
        ({"where": {"type": "x"}}, "window w: where = {'type': 'x'}: type: 'x' is none; accep"),
        ({"where": {"level": []}}, "window w: where = {'level': []}: level: accepted: a word"),
        ({"where": {"ip": 7}}, "window w: where = {'ip': 7}: ip: accepted: a word, or a list"),
        ({"where": {"status": 99}}, "window w: where = {'status': 99}: status: accepted: a st"),
        ({"where": {"status": {}}}, "window w: where = {'status': {}}: status: accepted: a st"),
        (
            {"where": {"status": {"min": 500, "max": 400}}},
            "window w: where = {'status': {'max': 400, 'min': 500}}: status: min 500 is above",
        ),
    ],
)
def test_a_mistake_names_file_window_field_value_and_what_is_accepted(
    tmp_path: Path, change: dict[str, object], said: str
):
    fields = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    path = written(tmp_path, fields)
    with pytest.raises(WindowSpecError) as caught:
        load_windows(path)
    assert str(caught.value).splitlines()[0].startswith(f"{path}: {said}")


def test_a47_4_a_hop_of_1_s_in_1_h_is_refused_with_its_ratio(tmp_path: Path):
    hop = {"kind": "hopping", "size": "1h", "advance": "1s"}
    with pytest.raises(WindowSpecError, match="window w: size / advance = 1h/1s = 3600: acc"):
        load_windows(written(tmp_path, {**GOOD, **hop}))
    [spec] = load_windows(written(tmp_path, {**GOOD, **hop, "advance": "10s"}))
    assert spec.panes == PANES_MAX


def test_a_sliding_window_has_sizes_and_may_have_a_global_row(tmp_path: Path):
    [spec] = load_windows(written(tmp_path, {**GOOD, **SLIDING, "global": True}))
    assert spec.sizes_ms == (60_000, 300_000, 900_000)
    assert (spec.size_ms, spec.advance_ms, spec.panes) == (900_000, 10_000, 90)
    assert not spec.closes
    assert [spec.row_name(key) for key in ("a", "*", "**", "*a")] == ["a", "**", "***", "*a"]
    [spec] = load_windows(written(tmp_path, {**GOOD, **SLIDING}))
    assert spec.row_name("*") == "*"


def test_a_window_may_only_count(tmp_path: Path):
    bare = {name: value for name, value in GOOD.items() if name not in ("value", "errors")}
    [spec] = load_windows(written(tmp_path, bare))
    assert (spec.value, spec.errors) == (None, None)


def test_the_order_of_conditions_and_words_means_nothing(tmp_path: Path):
    one = {**GOOD, "where": {"level": ["WARN", "ERROR"], "status": {"min": 400}}}
    other = {**GOOD, "where": {"status": {"min": 400, "max": 599}, "level": ["ERROR", "WARN"]}}
    assert load_windows(written(tmp_path, one)) == load_windows(written(tmp_path, other))


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
    assert minute_spec().identity == "window-3-86c4df5c19f8ef74"


def test_the_identity_changes_with_the_meaning_of_a_row_only():
    spec = minute_spec()
    other_meaning = [
        replace(spec, name="other"),
        replace(spec, size_ms=1, advance_ms=0, sizes_ms=()),
        replace(spec, kind="hopping"),
        replace(spec, advance_ms=1_000),
        replace(spec, sizes_ms=(1, 2)),
        replace(spec, key="service"),
        replace(spec, value="value"),
        replace(spec, errors=ErrorsWhen(400)),
        replace(spec, errors=None),
        replace(spec, codes=True),
        replace(spec, distinct="user_id"),
        replace(spec, where=(Condition("status", (200,)),)),
        replace(spec, global_row=True),
    ]
    assert len({each.identity for each in [spec, *other_meaning]}) == 1 + len(other_meaning)
    assert replace(spec, grace_ms=1, retention_ms=1, emit="updates").identity == spec.identity
