"""Declaration of entity types: ``config/entities.yaml`` read into validated, frozen specs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
)

from tables.declared import Declarations
from tables.windows.spec import duration_text, parse_duration_ms

TYPES_MAX: Final = 100
ATTRIBUTES_MAX: Final = 1_000
ATTRIBUTE_BYTES_MAX: Final = 64 << 10
HISTORY_MAX: Final = 10_000
RETENTION_MS_MIN: Final = 1_000
RESERVED: Final = frozenset({"rebuild"})
"""Names that are endpoints below ``/api/v1/entities``."""


class EntitySpecError(Exception):
    """The file of entity types cannot be used; the text has one line per mistake."""


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """Limits of one entity type.

    An event has at most ``attributes_max`` attributes, which take at most
    ``attribute_bytes_max`` bytes as JSON. The newest ``history_max`` events of an entity are
    kept for ``history_retention_ms``. A deregistered entity answers 410, and holds its version
    against older events, for ``tombstone_retention_ms`` after the last event about it; both
    retentions count from arrival.
    """

    type: str
    attributes_max: int
    attribute_bytes_max: int
    history_max: int
    history_retention_ms: int
    tombstone_retention_ms: int


EntitySpecs = Mapping[str, EntitySpec]
"""By type."""


def _long_enough(ms: int) -> int:
    if ms < RETENTION_MS_MIN:
        raise ValueError(f"accepted: at least {duration_text(RETENTION_MS_MIN)}")
    return ms


def _free_type(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is an endpoint of the platform: use another")
    return name


_Retention = Annotated[int, BeforeValidator(parse_duration_ms), AfterValidator(_long_enough)]


class _Entity(BaseModel):
    """A type as it is written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_free_type)]
    attributes_max: Annotated[StrictInt, Field(ge=1, le=ATTRIBUTES_MAX)]
    attribute_bytes_max: Annotated[StrictInt, Field(ge=2, le=ATTRIBUTE_BYTES_MAX)]
    history_max: Annotated[StrictInt, Field(ge=1, le=HISTORY_MAX)]
    history_retention: _Retention
    tombstone_retention: _Retention

    def spec(self) -> EntitySpec:
        return EntitySpec(
            self.type,
            self.attributes_max,
            self.attribute_bytes_max,
            self.history_max,
            self.history_retention,
            self.tombstone_retention,
        )


_TYPES = Declarations(
    field="entities",
    noun="entity type",
    plural="types",
    name="type",
    count_max=TYPES_MAX,
    read=lambda entry: _Entity.model_validate(entry).spec(),
    unknown=lambda _loc: f"unknown; accepted: {', '.join(_Entity.model_fields)}",
    error=EntitySpecError,
)


def parse_entities(document: object, source: str) -> EntitySpecs:
    """Specs of a parsed file, or :class:`EntitySpecError`; ``source`` names the file in it."""
    return {spec.type: spec for spec in _TYPES.parse(document, source)}


def load_entities(path: Path) -> EntitySpecs:
    """Read and validate a file of types, or raise :class:`EntitySpecError` with every mistake."""
    return {spec.type: spec for spec in _TYPES.load(path)}
