"""The latest state of each entity, table ``entities``, and the rule that decides it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from app.engine.effects import TableSpec
from tables.entities.event import EntityEvent, encode_attributes
from tables.entities.history import Change
from tables.packed import Packed

ENTITIES_TABLE: Final = "entities"

_Rank = tuple[int, int, str, bool, bytes]


class EntityState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one entity; row key: its ``type:id``.

    Version, timestamp (epoch ms), event id, ``deregistered`` and attributes (a JSON object)
    are the winning event's. ``touched_ms`` is when the last event about the entity came,
    ``sequence`` the number of its newest row in the history.
    """

    version: int
    timestamp: int
    event_id: str
    deregistered: bool
    attributes: bytes
    touched_ms: int = 0
    sequence: int = 0

    @property
    def rank(self) -> _Rank:
        """What decides which of two states of an entity is the newer: total, so never a tie."""
        return self.version, self.timestamp, self.event_id, self.deregistered, self.attributes


class EntityStates(Packed[EntityState]):
    """The higher rank wins; beside it, the later touch and the higher sequence."""

    kind = EntityState

    def merge(self, left: EntityState, right: EntityState) -> EntityState:
        """Associative, commutative and idempotent: three maxima."""
        newer = max(left, right, key=_rank)
        return msgspec.structs.replace(
            newer,
            touched_ms=max(left.touched_ms, right.touched_ms),
            sequence=max(left.sequence, right.sequence),
        )


def _rank(state: EntityState) -> _Rank:
    return state.rank


def entities_table() -> TableSpec:
    """The table of states."""
    return TableSpec(ENTITIES_TABLE, "entity-state-1", EntityStates())


Outcome = Literal["applied", "superseded", "resent"]
"""Newer than what was known; older, so that it changes nothing; the very event that is known."""

_states: Final = EntityStates()


@dataclass(frozen=True, slots=True)
class Decision:
    """What one event makes of an entity; ``change`` is its row of the history, at ``sequence``.

    An event sent again leaves neither trace nor change. (One sent again after a newer came
    is recorded as any other that came too late.)
    """

    outcome: Outcome
    state: EntityState
    change: Change | None = None


def decide(held: EntityState | None, event: EntityEvent, offset: int, ingest_ms: int) -> Decision:
    """The state after the event at ``offset`` of its partition, which came at ``ingest_ms``."""
    attributes = encode_attributes(event.attributes)
    came = EntityState(
        event.version,
        event.timestamp,
        event.event_id,
        event.op == "deregister",
        attributes,
        ingest_ms,
        offset if held is None else held.sequence + 1,
    )
    if held is not None and held.rank == came.rank:
        return Decision("resent", held)
    applied = held is None or came.rank > held.rank
    change = Change(
        offset,
        event.op,
        event.version,
        event.timestamp,
        event.event_id,
        ingest_ms,
        applied,
        attributes,
    )
    state = came if held is None else _states.merge(held, came)
    return Decision("applied" if applied else "superseded", state, change)


class StateValue(msgspec.Struct, frozen=True):
    """Value of a record of ``entity-state``; ``updated_at`` is the winning event's timestamp."""

    state: Literal["active"]
    version: int
    updated_at: int
    attributes: msgspec.Raw


_values: Final = msgspec.json.Encoder()


def state_value(state: EntityState) -> bytes | None:
    """Value of the entity on ``entity-state``; None, a tombstone, once it is deregistered.

    Equal states have equal bytes.
    """
    if state.deregistered:
        return None
    attributes = msgspec.Raw(state.attributes)
    return _values.encode(StateValue("active", state.version, state.timestamp, attributes))
