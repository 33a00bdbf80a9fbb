"""The step of ``entity-events``: decides each event's outcome, tells ``entity-state``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid5

from agents.topics import ENTITY_EVENTS, ENTITY_STATE
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Output, Reject, TableView, View
from app.engine.partitioner import partition_for
from app.models import rules
from app.models.incoming import FieldError, NotJsonError, parse_json
from app.models.rules import RuleError
from tables.entities.event import EntityEvent, parse_key, read_event
from tables.entities.history import HISTORY_TABLE, Change, history_key
from tables.entities.spec import EntitySpec, EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState, decide, state_value

REASON_MAX: Final = 900
_RECORD_IDS: Final = UUID("0f6b7a54-9a0e-5c8e-8d0b-7c2f7f0f5d21")


class _RefusedError(Exception):
    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__()
        self.errors = errors


@dataclass(slots=True)
class _Batch:
    """What a batch has changed so far: states and history rows that the tables do not show."""

    entities: TableView
    history: TableView
    states: dict[bytes, EntityState] = field(default_factory=dict)
    won: set[bytes] = field(default_factory=set)
    rows: dict[bytes, Change] = field(default_factory=dict)
    gone: list[bytes] = field(default_factory=list)

    def add(self, key: bytes, row: Change, sequence: int, history_max: int) -> None:
        """A new row of an entity's history; the one that is too many goes."""
        self.rows[history_key(key, sequence)] = row
        if sequence < history_max:
            return
        oldest = history_key(key, sequence - history_max)
        if self.rows.pop(oldest, None) is None and self.history.get(oldest) is not None:
            self.gone.append(oldest)


@dataclass(frozen=True, slots=True)
class EntityStep:
    """Engine step of ``entity-events``, key ``type:id``, value as the gateway writes it.

    Each event ends as applied (its version is the newest), duplicate (an older version, or
    sent again: the state stays) or a VALIDATION reject. ``entity-state`` gets one record for
    each entity that changed in the batch: a compacted topic promises the latest state, not
    each. A record in a partition that is not its key's is refused, because queries would
    not find it.
    """

    specs: EntitySpecs

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG002 - the contract's signature
        """Rows of both tables and records of ``entity-state``."""
        effects = Effects()
        partitions = view.partitions(ENTITY_EVENTS)
        held = _Batch(view.table(ENTITIES_TABLE), view.table(HISTORY_TABLE))
        for index, raw_key in enumerate(batch.keys):
            try:
                key, spec = self._entity(raw_key, batch.partition, partitions)
                event = _event(batch, index, spec)
            except _RefusedError as refused:
                effects.rejects.append(_reject(index, refused.errors))
                continue
            if _apply(held, key, event, batch, index, spec):
                effects.applied += 1
            else:
                effects.duplicates += 1
        if held.states:
            effects.updates[ENTITIES_TABLE] = dict(held.states)
        if held.rows:
            effects.updates[HISTORY_TABLE] = dict(held.rows)
        if held.gone:
            effects.deletes[HISTORY_TABLE] = held.gone
        effects.outputs = [
            Output(ENTITY_STATE, key, state_value(state))
            for key, state in held.states.items()
            if key in held.won
        ]
        return effects

    def _entity(
        self, raw_key: bytes | None, partition: int, partitions: int
    ) -> tuple[bytes, EntitySpec]:
        key = raw_key or b""
        try:
            type_, _ = parse_key(key)
        except RuleError as error:
            raise _RefusedError([FieldError("key", str(error))]) from None
        spec = self.specs.get(type_)
        if spec is None:
            known = ", ".join(sorted(self.specs))
            reason = f"no entity type is named {type_[:64]!r}; configured: {known}"
            raise _RefusedError([FieldError("key", reason)])
        home = partition_for(key, partitions)
        if home != partition:
            reason = f"belongs to partition {home} by murmur2: write with that partitioner"
            raise _RefusedError([FieldError("key", reason)])
        return key, spec


def _event(batch: RecordBatch, index: int, spec: EntitySpec) -> EntityEvent:
    """The record's event. "Now" is its ingest time, so that a replay reads the same."""
    try:
        parsed = parse_json(batch.values[index] or b"")
    except NotJsonError as error:
        raise _RefusedError([FieldError("", str(error))]) from None
    event = read_event(parsed, spec, max(0, batch.timestamps[index]), _record_id(batch, index))
    if isinstance(event, list):
        raise _RefusedError(event)
    return event


def _record_id(batch: RecordBatch, index: int) -> Callable[[], str]:
    coordinates = f"{batch.topic}/{batch.partition}/{batch.offsets[index]}"
    return lambda: str(uuid5(_RECORD_IDS, coordinates))


def _apply(
    held: _Batch, key: bytes, event: EntityEvent, batch: RecordBatch, index: int, spec: EntitySpec
) -> bool:
    """Whether the event is the newest of its entity."""
    known = held.states.get(key)
    if known is None:
        known = held.entities.get(key)
    decision = decide(known, event, batch.offsets[index], max(0, batch.timestamps[index]))
    if decision.change is not None:
        held.states[key] = decision.state
        held.add(key, decision.change, decision.state.sequence, spec.history_max)
    if decision.outcome == "applied":
        held.won.add(key)
        return True
    return False


def _reject(index: int, errors: list[FieldError]) -> Reject:
    reason = "; ".join(f"{error.field} {error.reason}".strip() for error in errors)
    return Reject(index, rules.clip_utf8(reason, REASON_MAX), errors[0].field)
