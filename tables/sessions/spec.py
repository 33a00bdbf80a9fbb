"""What a kind of session is: its key, its gap, its funnel, and how long it is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from app.engine.effects import TableSpec
from tables.sessions.funnel import EDGE
from tables.sessions.matching import Classifier, Match, classifier
from tables.sessions.rows import UserRows

DAY_MS = 24 * 60 * 60 * 1000
SPAN_GAPS = 64
"""Sessions that one partial can hold: it covers so many gaps of time."""

KeyField = Literal["user_id", "ip", "device_id", "session_id", "service"]
MatchField = Literal["type", "endpoint", "method", "status", "service", "source", "level"]


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step is taken by an event that matches."""

    name: str
    match: Match


@dataclass(frozen=True, slots=True)
class Conversion:
    """A session converts when it takes every step, one after the other."""

    name: str
    steps: tuple[FunnelStep, ...]


@dataclass(frozen=True)
class SessionSpec:
    """One declared kind of session over one topic.

    Events of one ``key`` belong together while no more than ``gap_ms`` lie between them. An
    event is late once the stream time of its lane is more than ``gap_ms + lateness_ms`` beyond
    it. ``active_ttl_ms`` bounds how long ago an active session was last fed. A session can be
    queried, and joined, for ``retention_ms`` after its last event came, its sums
    for ``analytics_retention_ms`` after they last changed.
    """

    name: str
    topic: str
    key: str
    gap_ms: int
    lateness_ms: int
    active_ttl_ms: int
    retention_ms: int
    analytics_retention_ms: int
    where: Match = ()
    conversion: Conversion | None = None

    @property
    def slack_ms(self) -> int:
        """How far stream time may be beyond an event that is not late."""
        return self.gap_ms + self.lateness_ms

    @property
    def mergeable_ms(self) -> int:
        """How far stream time may be beyond the end of a session that an event can still join."""
        return self.gap_ms + self.slack_ms

    @property
    def span_ms(self) -> int:
        """Time that one partial covers."""
        return SPAN_GAPS * self.gap_ms

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """Names of the funnel's steps."""
        return () if self.conversion is None else tuple(s.name for s in self.conversion.steps)

    @cached_property
    def table_name(self) -> str:
        """Name of the table of its users' rows."""
        return f"sessions_{self.name}"

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that stand for what a stored row means.

        Lateness and retentions are not part of it: they change which events reach a row
        and how long it stays, not what it says.
        """
        steps = () if self.conversion is None else self.conversion.steps
        meaning = {
            "name": self.name,
            "topic": self.topic,
            "key": self.key,
            "gap_ms": self.gap_ms,
            "where": _meaning(self.where),
            "steps": [[step.name, _meaning(step.match)] for step in steps],
            "edge": EDGE,
        }
        text = json.dumps(meaning, sort_keys=True)
        return hashlib.sha256(text.encode()).digest()[:8]

    def table(self) -> TableSpec:
        """The table of its users' rows; another meaning never reads old rows."""
        return TableSpec(self.table_name, f"session-1-{self.fingerprint.hex()}", UserRows())

    def classifier(self) -> Classifier | None:
        """What its events are; see :func:`tables.sessions.matching.classifier`."""
        steps = () if self.conversion is None else self.conversion.steps
        return classifier(self.where, [step.match for step in steps])


def _meaning(match: Match) -> list[list[object]]:
    return [[each.field, sorted(each.exact), list(each.prefixes)] for each in match]
