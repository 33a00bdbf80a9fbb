"""What the agents write is what the archive takes: field by field, none left out."""

from __future__ import annotations

import msgspec
import pytest

from tables.entities.event import EntityEvent, encode_event, entity_key
from tables.history.datasets import ENTITIES, SESSIONS, WINDOWS
from tables.sessions.closing import ClosedSession, encode_closed
from tables.windows.finals import WindowRecord, encode_record

FULL = WindowRecord(
    *("id", "requests", "/a", 60_000, 120_000, 1, 2, 1),
    *(1.5, 0.75, 0.5, 1.0, 0.5, 1.0, 1.0, 0.25, 2, 0, {"404": 1}),
)
EMPTY = WindowRecord(*("id", "requests", "/a", 0, 1, 1, 0, 0), *(None,) * 9, 0, None)


@pytest.mark.parametrize("record", [FULL, EMPTY])
def test_every_figure_of_a_final_is_archived(record: WindowRecord) -> None:
    row = dict(zip(WINDOWS.columns, WINDOWS.take(b"k", encode_record(record), 0).row, strict=True))
    codes = row.pop("codes")
    wanted = msgspec.structs.asdict(record)
    assert (None if codes is None else msgspec.json.decode(str(codes))) == wanted.pop("codes")
    assert row == wanted


def test_every_field_of_a_closed_session_is_archived() -> None:
    said = ClosedSession("s2", "web", "ann", 5, 9, 3, 2, ("cart",), True, 2, ("s1",), 4)
    row = dict(
        zip(SESSIONS.columns, SESSIONS.take(b"ann", encode_closed(said), 0).row, strict=True)
    )
    assert row == msgspec.structs.asdict(said) | {"steps": ["cart"], "supersedes": ["s1"]}


def test_every_field_of_an_entity_event_is_archived() -> None:
    event = EntityEvent(
        event_id="e1", op="update", version=3, timestamp=1_000, attributes={"colour": "red"}
    )
    taken = ENTITIES.take(entity_key("device", "d:1"), encode_event(event), 7)
    assert dict(zip(ENTITIES.columns, taken.row, strict=True)) == {
        "type": "device",
        "id": "d:1",
        "op": "update",
        "version": 3,
        "timestamp": 1_000,
        "event_id": "e1",
        "attributes": '{"colour":"red"}',
        "ingest_ts": 7,
    }
