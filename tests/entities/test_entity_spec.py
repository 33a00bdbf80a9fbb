"""config/entities.yaml: what is accepted, and one line for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import CONFIG_DIR
from tables.entities.spec import EntitySpec, EntitySpecError, load_entities, parse_entities

GOOD: dict[str, Any] = {
    "type": "device",
    "attributes_max": 4,
    "attribute_bytes_max": 100,
    "history_max": 10,
    "history_retention": "2h",
    "tombstone_retention": "7d",
}


def parsed(*entries: Any, **more: Any) -> Any:
    return parse_entities({"entities": list(entries), **more}, "entities.yaml")


def mistakes(*entries: Any, **more: Any) -> list[str]:
    with pytest.raises(EntitySpecError) as caught:
        parsed(*entries, **more)
    return str(caught.value).splitlines()


def test_the_shipped_file_is_valid_and_declares_devices_accounts_and_drivers() -> None:
    assert set(load_entities(CONFIG_DIR / "entities.yaml")) == {"device", "account", "driver"}


def test_an_entry_becomes_a_spec_with_its_durations_in_ms() -> None:
    assert parsed(GOOD) == {"device": EntitySpec("device", 4, 100, 10, 7_200_000, 604_800_000)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"type": "Device"}, r"type = 'Device': .*pattern"),
        ({"type": "a:b"}, r"type = 'a:b': .*pattern"),
        ({"type": "rebuild"}, r"type = 'rebuild': 'rebuild' is an endpoint"),
        ({"attributes_max": 0}, r"attributes_max = 0: .*greater than or equal to 1"),
        ({"attributes_max": "4"}, r"attributes_max = '4': .*valid integer"),
        ({"attributes_max": 1_001}, r"attributes_max = 1001: .*less than or equal to 1000"),
        ({"attribute_bytes_max": 1}, r"attribute_bytes_max = 1: .*equal to 2"),
        ({"attribute_bytes_max": 70_000}, r"attribute_bytes_max = 70000: .*equal to 65536"),
        ({"history_max": 0}, r"history_max = 0: .*equal to 1"),
        ({"history_max": 10_001}, r"history_max = 10001: .*equal to 10000"),
        ({"history_retention": "2 h"}, r"history_retention = '2 h': accepted: a number and a unit"),
        ({"history_retention": "0s"}, r"history_retention = .*: accepted: at least 1s"),
        ({"tombstone_retention": 7}, r"tombstone_retention = 7: accepted: a number and a unit"),
        ({"retention": "7d"}, r"retention = '7d': unknown; accepted: type, attributes_max"),
    ],
)
def test_each_mistake_is_a_line_with_file_type_field_value_and_what_is_accepted(
    change: dict[str, Any], line: str
) -> None:
    (found,) = mistakes(GOOD | change)
    assert found.startswith("entities.yaml: entity type ")
    assert re.search(line, found), found


def test_every_missing_field_is_named() -> None:
    assert mistakes({"type": "device"}) == [
        f"entities.yaml: entity type device: {field} is missing" for field in list(GOOD)[1:]
    ]


def test_all_mistakes_of_a_file_are_told_together() -> None:
    found = mistakes(GOOD, GOOD, GOOD | {"type": "X"}, 7, windows=[])
    assert [line.split(": ", 1)[1].split(" = ")[0] for line in found] == [
        "windows",
        "entity type X: type",
        "entity type number 4: expected a mapping of fields, not 7",
        "entity type device: type",
    ]
    assert "used 2 times" in found[3]


def test_too_many_types_are_refused() -> None:
    (found,) = mistakes(*(GOOD | {"type": f"t{n}"} for n in range(101)))
    assert found == "entities.yaml: 101 types; accepted: at most 100"


@pytest.mark.parametrize("document", [None, [], "x", {}, {"entities": {}}, {"entities": None}])
def test_a_file_without_a_list_of_types_says_what_is_expected(document: Any) -> None:
    with pytest.raises(EntitySpecError, match='expected "entities:" with a list'):
        parse_entities(document, "entities.yaml")


@pytest.mark.parametrize(
    ("content", "said"), [(b"a: [", "is not YAML"), (b"\xff", "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "entities.yaml"
    path.write_bytes(content)
    with pytest.raises(EntitySpecError, match=said):
        load_entities(path)
    with pytest.raises(EntitySpecError, match="cannot be read"):
        load_entities(tmp_path / "none.yaml")


def test_a_written_file_reads_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "entities.yaml"
    path.write_text(yaml.safe_dump({"entities": [GOOD]}))
    assert load_entities(path) == parsed(GOOD)
