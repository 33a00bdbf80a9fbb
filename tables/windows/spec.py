"""Declaration of windows: ``config/windows.yaml`` read into validated, frozen specs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from tables.declared import Declarations, Location
from tables.lanes import LANES_TABLE
from tables.progress import PROGRESS_TABLE
from tables.timers import TIMERS_TABLE
from tables.windows.finals import FINALS_TABLE
from tables.windows.periods import PERIODS_TABLE
from tables.windows.where import NAMES, Condition, parse_where
from tables.windows.window import DAY_MS, PANES_MAX, ErrorsWhen, Kind, WindowSpec

__all__ = [
    "ErrorsWhen",
    "WindowSpec",
    "WindowSpecError",
    "duration_text",
    "load_windows",
    "parse_duration_ms",
    "parse_windows",
]

WINDOWS_MAX = 64
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_DURATION_ACCEPTED = 'accepted: a number and a unit, as "500ms", "60s", "1m", "24h", "7d"'
_RESERVED = frozenset({LANES_TABLE, TIMERS_TABLE, PROGRESS_TABLE, FINALS_TABLE, PERIODS_TABLE})
_GAP = "a window has no gap: declare sessions in config/sessions.yaml"
_KINDS = "accepted: tumbling, hopping, sliding (sessions are declared in config/sessions.yaml)"


class WindowSpecError(Exception):
    """The file of windows cannot be used; the text has one line per mistake."""


def parse_duration_ms(value: object) -> int:
    """Milliseconds of a duration like ``60s``; raises :class:`ValueError` on anything else."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(_DURATION_ACCEPTED)
    return int(found[1]) * _UNITS_MS[found[2]]


def duration_text(ms: int) -> str:
    """A duration as the file may say it, in the largest unit; a day stays ``24h``."""
    if ms == 0:
        return "0s"
    units = [unit for unit, length in _UNITS_MS.items() if ms % length == 0]
    unit = "h" if ms == DAY_MS else units[-1]
    return f"{ms // _UNITS_MS[unit]}{unit}"


def _positive(ms: int) -> int:
    if ms <= 0:
        raise ValueError("accepted: a duration above 0")
    return ms


def _free_name(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"{name!r} is the name of a table of the platform: use another")
    return name


def _kind(value: object) -> object:
    if value not in ("tumbling", "hopping", "sliding"):
        raise ValueError(_KINDS)
    return value


def _name_of_event(field: object) -> object:
    if field not in NAMES:
        raise ValueError(f"no field of an event; accepted: {', '.join(NAMES)}")
    return field


_Duration = Annotated[int, BeforeValidator(parse_duration_ms)]
_Length = Annotated[_Duration, AfterValidator(_positive)]
_Name = Annotated[str, BeforeValidator(_name_of_event)]


class _Errors(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    status_min: Annotated[StrictInt, Field(ge=100, le=599)]


class _Window(BaseModel):
    """A window as it is written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$"), AfterValidator(_free_name)]
    topic: Literal["log-events"]
    kind: Annotated[Kind, BeforeValidator(_kind)]
    size: _Length | None = None
    sizes: Annotated[list[_Length], Field(min_length=1, max_length=16)] | None = None
    advance: _Length | None = None
    grace: _Duration
    key: _Name
    value: Literal["latency_ms", "value"] | None = None
    errors: _Errors | None = None
    codes: StrictBool = False
    distinct: _Name | None = None
    where: Annotated[tuple[Condition, ...], BeforeValidator(parse_where)] = ()
    retention: _Duration = DAY_MS
    emit: Literal["final", "updates"] = "final"
    global_row: Annotated[StrictBool, Field(alias="global")] = False

    @model_validator(mode="after")
    def _shaped(self) -> _Window:
        sliding = self.kind == "sliding"
        for field, wanted in (("size", not sliding), ("sizes", sliding)):
            if (getattr(self, field) is not None) != wanted:
                raise ValueError(_presence(field, self.kind, wanted))
        if (self.advance is not None) != (self.kind != "tumbling"):
            raise ValueError(_presence("advance", self.kind, self.kind != "tumbling"))
        if sliding and self.emit == "updates":
            raise ValueError("emit = 'updates': accepted for a sliding window: final")
        if self.global_row and not sliding:
            raise ValueError("global = True: accepted for a sliding window only")
        return self

    @model_validator(mode="after")
    def _divided(self) -> _Window:
        advance = self.advance
        if advance is None:
            return self
        step = duration_text(advance)
        for size in self.lengths:
            long = duration_text(size)
            if advance > size:
                raise ValueError(
                    f"advance = {step}: leaves a gap of {duration_text(advance - size)} after "
                    f"each window; accepted: at most the size, {long}"
                )
            if size % advance:
                raise ValueError(f"size = {long}: accepted: a multiple of the advance, {step}")
            if size // advance > PANES_MAX:
                raise ValueError(
                    f"size / advance = {long}/{step} = {size // advance}: "
                    f"accepted: at most {PANES_MAX}"
                )
        return self

    @model_validator(mode="after")
    def _kept_until_final(self) -> _Window:
        needed = max(self.lengths) + self.grace
        if self.retention < needed:
            raise ValueError(
                f"retention = {duration_text(self.retention)}: accepted: at least size + grace, "
                f"{duration_text(needed)}"
            )
        return self

    @property
    def lengths(self) -> list[int]:
        """Sizes, ascending."""
        return [self.size] if self.size is not None else sorted(set(self.sizes or ()))

    def spec(self) -> WindowSpec:
        """The declared window."""
        return WindowSpec(
            name=self.name,
            topic=self.topic,
            kind=self.kind,
            size_ms=self.lengths[-1],
            grace_ms=self.grace,
            key=self.key,
            value=self.value,
            errors=None if self.errors is None else ErrorsWhen(self.errors.status_min),
            retention_ms=self.retention,
            advance_ms=self.advance or 0,
            sizes_ms=tuple(self.lengths),
            codes=self.codes,
            distinct=self.distinct,
            where=tuple(sorted(self.where, key=lambda each: each.field)),
            emit=self.emit,
            global_row=self.global_row,
        )


def _presence(field: str, kind: str, wanted: bool) -> str:
    if wanted:
        return f"{field} is missing: a {kind} window needs it"
    return f"{field}: a {kind} window has none"


def _unknown(loc: Location) -> str:
    if loc == ("gap",):
        return _GAP
    fields = (_Errors if len(loc) > 1 else _Window).model_fields
    accepted = ", ".join(known.alias or name for name, known in fields.items())
    return f"unknown; accepted: {accepted}"


_WINDOWS = Declarations(
    field="windows",
    noun="window",
    plural="windows",
    name="name",
    count_max=WINDOWS_MAX,
    read=lambda entry: _Window.model_validate(entry).spec(),
    unknown=_unknown,
    error=WindowSpecError,
)


def parse_windows(document: object, source: str) -> tuple[WindowSpec, ...]:
    """Specs of a parsed file, or :class:`WindowSpecError`; ``source`` names the file in it."""
    return _WINDOWS.parse(document, source)


def load_windows(path: Path) -> tuple[WindowSpec, ...]:
    """Read and validate a file of windows, or raise :class:`WindowSpecError` with every mistake."""
    return _WINDOWS.load(path)
