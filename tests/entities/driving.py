"""The entities' agent without a broker: events in, rows and records out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from agents.entities.agent import entities_agent
from app.engine.driver import Driver
from app.engine.epoch import TaskId
from app.engine.partitioner import partition_for
from tables.entities.event import entity_key
from tables.entities.history import HISTORY_TABLE, Change, history_bounds
from tables.entities.spec import EntitySpec
from tables.entities.state import ENTITIES_TABLE, EntityState

NOW = 1_790_000_000_000
HOUR = 3_600_000
PARTITIONS = 4
TOPIC = "entity-events"

DEVICE = EntitySpec(
    type="device",
    attributes_max=4,
    attribute_bytes_max=400,
    history_max=5,
    history_retention_ms=2 * HOUR,
    tombstone_retention_ms=HOUR,
)
SPECS = {"device": DEVICE}


def body(op: str, version: int, number: int | None = None, **fields: Any) -> dict[str, Any]:
    """An event as a client posts it; its id is made of ``number`` (default: the version)."""
    given: dict[str, Any] = {
        "op": op,
        "version": version,
        "event_id": str(UUID(int=version if number is None else number)),
        "timestamp": NOW,
    }
    if op != "deregister":
        given["attributes"] = {"firmware": f"v{version}"}
    return given | fields


class Entities:
    """Partitions of the agent, fed by entity id."""

    def __init__(self, spec: EntitySpec = DEVICE) -> None:
        self.driver = Driver(
            [entities_agent({spec.type: spec})],
            {TOPIC: PARTITIONS, "entity-state": PARTITIONS},
            now_ms=NOW,
        )

    def feed(self, entity_id: str, events: Sequence[dict[str, Any]]) -> None:
        """One batch of events of one entity."""
        key = entity_key("device", entity_id)
        values = [json.dumps(each).encode() for each in events]
        self.raw(key, values)

    def raw(self, key: bytes, values: Sequence[bytes | None]) -> None:
        """One batch of records in the key's partition."""
        partition = partition_for(key, PARTITIONS)
        self.driver.feed(TOPIC, values, partition=partition, keys=[key] * len(values))

    def state(self, entity_id: str) -> EntityState | None:
        found = self.driver.rows(TOPIC, ENTITIES_TABLE).get(entity_key("device", entity_id))
        assert found is None or isinstance(found, EntityState)
        return found

    def history(self, entity_id: str) -> list[Change]:
        """Rows of one entity, oldest first."""
        lo, hi = history_bounds(entity_key("device", entity_id), None)
        rows = sorted(self.driver.rows(TOPIC, HISTORY_TABLE).items())
        return [row for key, row in rows if lo <= key < hi and isinstance(row, Change)]

    def published(self, entity_id: str) -> list[Any]:
        """Values of the entity's records on entity-state; None for a tombstone."""
        key = entity_key("device", entity_id)
        outputs = [o for o in self.driver.topics["entity-state"] if o.key == key]
        return [None if o.value is None else json.loads(o.value) for o in outputs]

    def counts(self) -> tuple[int, int, int, int]:
        """Applied, late, duplicate, rejected over all partitions."""
        counts = [
            self.driver.tasks[TaskId(TOPIC, partition)].committed_counts
            for partition in range(PARTITIONS)
        ]
        return (
            sum(each.applied for each in counts),
            sum(each.late for each in counts),
            sum(each.duplicate for each in counts),
            sum(each.rejected for each in counts),
        )
