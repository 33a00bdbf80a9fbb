"""Declaration of windows: ``config/windows.yaml`` read into validated, frozen specs.

Every mistake in the file is one line that names the file, the window, the field, the
value and what is accepted; all mistakes are reported together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)

from app.engine.effects import TableSpec
from tables.histogram import LAYOUT
from tables.lanes import LANES_TABLE
from tables.windows.stats import WindowAggregate

DAY_MS = 24 * 60 * 60 * 1000

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_DURATION_ACCEPTED = 'accepted: a number and a unit, as "500ms", "60s", "1m", "24h", "7d"'


class WindowSpecError(Exception):
    """The file of windows cannot be used; the text has one line per mistake."""


@dataclass(frozen=True, slots=True)
class ErrorsWhen:
    """An event is an error when its ``status`` is at least ``status_min``."""

    status_min: int


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One declared window over one topic; also the name of its table.

    Windows are ``[start, start + size_ms)`` with ``start`` a multiple of ``size_ms`` since
    the epoch. An event is late once stream time has reached the end plus ``grace_ms``.
    ``retention_ms`` counts from a row's last update.
    """

    name: str
    topic: str
    kind: Literal["tumbling"]
    size_ms: int
    grace_ms: int
    key: str
    value: str
    errors: ErrorsWhen
    retention_ms: int = DAY_MS

    @property
    def advance_ms(self) -> int:
        """Distance of one start to the next: a tumbling window's size."""
        return self.size_ms

    @property
    def identity(self) -> str:
        """Fingerprint of what a stored row means: another meaning never reads old rows.

        The name is part of it, because two windows of one meaning keep rows of their own.
        Grace and retention are not: they change which events reach a row and how long it
        stays, not what its numbers say.
        """
        meaning = {
            "name": self.name,
            "topic": self.topic,
            "kind": self.kind,
            "size_ms": self.size_ms,
            "key": self.key,
            "value": self.value,
            "errors": asdict(self.errors),
            "histogram": LAYOUT,
        }
        text = json.dumps(meaning, sort_keys=True)
        return f"window-1-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def table(self) -> TableSpec:
        """The table that keeps this window's rows."""
        return TableSpec(self.name, self.identity, WindowAggregate())


def parse_duration_ms(value: object) -> int:
    """Milliseconds of a duration like ``60s``; raises :class:`ValueError` on anything else."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(_DURATION_ACCEPTED)
    return int(found[1]) * _UNITS_MS[found[2]]


def _positive(ms: int) -> int:
    if ms <= 0:
        raise ValueError("accepted: a duration above 0")
    return ms


def _free_name(name: str) -> str:
    if name == LANES_TABLE:
        raise ValueError(f"{LANES_TABLE!r} is the name of a table of the platform: use another")
    return name


_Duration = Annotated[int, BeforeValidator(parse_duration_ms)]


class _Errors(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    status_min: Annotated[StrictInt, Field(ge=100, le=599)]


class _Window(BaseModel):
    """A window as it is written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$"), AfterValidator(_free_name)]
    topic: Literal["log-events"]
    kind: Literal["tumbling"]
    size: Annotated[_Duration, AfterValidator(_positive)]
    grace: _Duration
    key: Literal["endpoint", "service"]
    value: Literal["latency_ms"]
    errors: _Errors
    retention: _Duration = DAY_MS

    @model_validator(mode="after")
    def _kept_until_final(self) -> _Window:
        if self.retention < self.size + self.grace:
            raise ValueError(
                f"retention = {self.retention} ms: accepted: at least size + grace, "
                f"{self.size + self.grace} ms"
            )
        return self

    def spec(self) -> WindowSpec:
        return WindowSpec(
            name=self.name,
            topic=self.topic,
            kind=self.kind,
            size_ms=self.size,
            grace_ms=self.grace,
            key=self.key,
            value=self.value,
            errors=ErrorsWhen(self.errors.status_min),
            retention_ms=self.retention,
        )


def _mistakes(where: str, error: ValidationError) -> list[str]:
    lines = []
    for each in error.errors():
        field = ".".join(str(part) for part in each["loc"])
        said = each["msg"].removeprefix("Value error, ")
        if each["type"] == "missing":
            lines.append(f"{where}: {field} is missing")
        elif each["type"] == "extra_forbidden":
            accepted = ", ".join((_Errors if "." in field else _Window).model_fields)
            lines.append(f"{where}: {field} = {each['input']!r}: unknown; accepted: {accepted}")
        else:
            lines.append(
                f"{where}: {field} = {each['input']!r}: {said}" if field else f"{where}: {said}"
            )
    return lines


def parse_windows(document: object, source: str) -> tuple[WindowSpec, ...]:
    """Specs of a parsed file, or :class:`WindowSpecError`; ``source`` names the file in it."""
    entries = document.get("windows") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(entries, list):
        raise WindowSpecError(f'{source}: expected "windows:" with a list of windows below it')
    mistakes = [
        f"{source}: {field} = {value!r}: unknown; accepted: windows"
        for field, value in document.items()
        if field != "windows"
    ]
    specs = []
    for number, entry in enumerate(entries, start=1):
        name: Any = entry.get("name") if isinstance(entry, Mapping) else None
        where = f"{source}: window {name if isinstance(name, str) else f'number {number}'}"
        try:
            specs.append(_Window.model_validate(entry).spec())
        except ValidationError as error:
            mistakes += _mistakes(where, error)
    mistakes += [
        f"{source}: window {name}: name = {name!r}: used {times} times; accepted: once"
        for name, times in Counter(spec.name for spec in specs).items()
        if times > 1
    ]
    if mistakes:
        raise WindowSpecError("\n".join(mistakes))
    return tuple(specs)


def load_windows(path: Path) -> tuple[WindowSpec, ...]:
    """Read and validate a file of windows, or raise :class:`WindowSpecError` with every mistake."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WindowSpecError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise WindowSpecError(f"{path}: is not YAML: {error}") from error
    return parse_windows(document, str(path))
