"""Declaration of sessions: ``config/sessions.yaml`` read into validated, frozen specs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from tables.declared import Declarations, Location, quoted
from tables.sessions.matching import Match, match_of
from tables.sessions.spec import (
    DAY_MS,
    Conversion,
    FunnelStep,
    KeyField,
    MatchField,
    SessionSpec,
)
from tables.windows.spec import duration_text, parse_duration_ms

SPECS_MAX = 16
STEPS_MAX = 6
VALUES_MAX = 100
GAP_MS_MIN, GAP_MS_MAX = 1_000, 7 * DAY_MS
LATENESS_MS_MAX = 30 * DAY_MS


class SessionSpecError(Exception):
    """The file of sessions cannot be used; the text has one line per mistake."""


def _between(low: int, high: int, said: str) -> AfterValidator:
    def check(ms: int) -> int:
        if not low <= ms <= high:
            raise ValueError(f"accepted: {said}")
        return ms

    return AfterValidator(check)


_Duration = Annotated[int, BeforeValidator(parse_duration_ms)]
_Positive = Annotated[_Duration, _between(1, 10_000 * DAY_MS, "a duration above 0, to 10000d")]
_Gap = Annotated[_Duration, _between(GAP_MS_MIN, GAP_MS_MAX, "1s to 7d")]
_Lateness = Annotated[_Duration, _between(0, LATENESS_MS_MAX, "0s to 30d")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
_Value = Annotated[str, Field(min_length=1, max_length=200)]
_Where = Annotated[
    dict[MatchField, Annotated[list[_Value], Field(min_length=1, max_length=VALUES_MAX)]],
    Field(min_length=1),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Step(_Model):
    name: _Name
    where: _Where


class _Conversion(_Model):
    name: _Name
    steps: Annotated[list[_Step], Field(min_length=1, max_length=STEPS_MAX)]

    @model_validator(mode="after")
    def _named_once(self) -> _Conversion:
        for name, times in Counter(step.name for step in self.steps).items():
            if times > 1:
                raise ValueError(f"step {name!r}: used {times} times; accepted: once")
        return self


def _match(where: Mapping[MatchField, list[str]]) -> Match:
    return match_of({str(field): values for field, values in where.items()})


class _Session(_Model):
    """A session as it is written in the file."""

    name: _Name
    topic: Literal["log-events"]
    key: KeyField
    gap: _Gap
    lateness: _Lateness = DAY_MS
    active_ttl: _Positive | None = None
    retention: _Positive = 2 * DAY_MS
    analytics_retention: _Positive = 90 * DAY_MS
    where: _Where | None = None
    conversion: _Conversion | None = None

    @model_validator(mode="after")
    def _kept_while_mergeable(self) -> _Session:
        least = 2 * self.gap + self.lateness
        if self.retention < least:
            raise ValueError(
                f"retention = {duration_text(self.retention)}: accepted: at least twice the gap + "
                f"lateness, {duration_text(least)}"
            )
        return self

    def spec(self) -> SessionSpec:
        funnel = self.conversion
        steps = [] if funnel is None else funnel.steps
        return SessionSpec(
            name=self.name,
            topic=self.topic,
            key=self.key,
            gap_ms=self.gap,
            lateness_ms=self.lateness,
            active_ttl_ms=self.gap if self.active_ttl is None else self.active_ttl,
            retention_ms=self.retention,
            analytics_retention_ms=self.analytics_retention,
            where=_match(self.where or {}),
            conversion=None
            if funnel is None
            else Conversion(
                funnel.name,
                tuple(FunnelStep(step.name, _match(step.where)) for step in steps),
            ),
        )


def _unknown(loc: Location) -> str:
    within = loc[:-1]
    if "where" in within:
        accepted = get_args(MatchField)
    else:
        model = _Step if "steps" in within else _Conversion if "conversion" in within else _Session
        accepted = tuple(model.model_fields)
    return f"unknown; accepted: {', '.join(accepted)}"


def _wrong(field: str, given: object, said: str) -> str:
    # What is said of a whole part names what is wrong in it.
    return f"{field}: {said}" if isinstance(given, Mapping) else quoted(field, given, said)


_SESSIONS = Declarations(
    field="sessions",
    noun="session",
    plural="sessions",
    name="name",
    count_max=SPECS_MAX,
    read=lambda entry: _Session.model_validate(entry).spec(),
    unknown=_unknown,
    error=SessionSpecError,
    wrong=_wrong,
)


def parse_sessions(document: object, source: str) -> tuple[SessionSpec, ...]:
    """Specs of a parsed file, or :class:`SessionSpecError`; ``source`` names the file in it."""
    return _SESSIONS.parse(document, source)


def load_sessions(path: Path) -> tuple[SessionSpec, ...]:
    """Read and validate a file, or raise :class:`SessionSpecError` with every mistake."""
    return _SESSIONS.load(path)
