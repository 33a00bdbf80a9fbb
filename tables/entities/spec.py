"""Declaration of entity types: ``config/entities.yaml`` read into validated, frozen specs.

Every mistake in the file is one line that names the file, the type, the field, the value
and what is accepted; all mistakes are reported together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
)

from tables.windows.spec import parse_duration_ms

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
        raise ValueError(f"accepted: at least {RETENTION_MS_MIN} ms")
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


def _mistakes(where: str, error: ValidationError) -> list[str]:
    lines = []
    for each in error.errors():
        field = ".".join(str(part) for part in each["loc"])
        said = each["msg"].removeprefix("Value error, ")
        if each["type"] == "missing":
            lines.append(f"{where}: {field} is missing")
        elif each["type"] == "extra_forbidden":
            accepted = ", ".join(_Entity.model_fields)
            lines.append(f"{where}: {field} = {each['input']!r}: unknown; accepted: {accepted}")
        elif field:
            lines.append(f"{where}: {field} = {each['input']!r}: {said}")
        else:
            lines.append(f"{where}: expected a mapping of fields, not {each['input']!r}")
    return lines


def parse_entities(document: object, source: str) -> EntitySpecs:
    """Specs of a parsed file, or :class:`EntitySpecError`; ``source`` names the file in it."""
    entries = document.get("entities") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(entries, list):
        raise EntitySpecError(f'{source}: expected "entities:" with a list of types below it')
    mistakes = [
        f"{source}: {field} = {value!r}: unknown; accepted: entities"
        for field, value in document.items()
        if field != "entities"
    ]
    if len(entries) > TYPES_MAX:
        mistakes.append(f"{source}: {len(entries)} types; accepted: at most {TYPES_MAX}")
    specs: list[EntitySpec] = []
    for number, entry in enumerate(entries[:TYPES_MAX], start=1):
        name: Any = entry.get("type") if isinstance(entry, Mapping) else None
        where = f"{source}: entity type {name if isinstance(name, str) else f'number {number}'}"
        try:
            specs.append(_Entity.model_validate(entry).spec())
        except ValidationError as error:
            mistakes += _mistakes(where, error)
    mistakes += _named_twice(specs, source)
    if mistakes:
        raise EntitySpecError("\n".join(mistakes))
    return {spec.type: spec for spec in specs}


def _named_twice(specs: Sequence[EntitySpec], source: str) -> list[str]:
    return [
        f"{source}: entity type {name}: type = {name!r}: used {times} times; accepted: once"
        for name, times in Counter(spec.type for spec in specs).items()
        if times > 1
    ]


def load_entities(path: Path) -> EntitySpecs:
    """Read and validate a file of types, or raise :class:`EntitySpecError` with every mistake."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EntitySpecError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise EntitySpecError(f"{path}: is not YAML: {error}") from error
    return parse_entities(document, str(path))
