"""Which events a session takes, and which step of its funnel each is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

from app.models.event import LogEvent

NOT_TAKEN = -1
"""Answer of a classifier for an event that the filter leaves out."""
MEMO_MAX = 1_024
"""Distinct field values a classifier remembers: at most 8 MB of the longest endpoints."""

Classifier = Callable[[LogEvent], int]
"""Bit ``i`` is set when the event is step ``i``; :data:`NOT_TAKEN` when it is left out."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds for an event whose field is one of ``exact`` or begins with one of ``prefixes``.

    A number is compared as it is written. A field that is not given never matches.
    """

    field: str
    exact: frozenset[str]
    prefixes: tuple[str, ...]

    def holds(self, value: object) -> bool:
        """Whether a value of the field matches."""
        if value is None:
            return False
        text = value if isinstance(value, str) else str(value)
        return text in self.exact or text.startswith(self.prefixes)


Match = tuple[Condition, ...]
"""Every condition must hold; none is no restriction."""


def match_of(where: Mapping[str, Sequence[str]]) -> Match:
    """Conditions of ``field -> values``; a value that ends in ``*`` stands for what begins so."""
    return tuple(
        Condition(
            field,
            frozenset(value for value in values if not value.endswith("*")),
            tuple(sorted(value[:-1] for value in values if value.endswith("*"))),
        )
        for field, values in sorted(where.items())
    )


def classifier(where: Match, steps: Sequence[Match]) -> Classifier | None:
    """The classifier of a filter and a funnel; None when there is neither.

    The fields it looks at are read in one call and their combinations remembered, because
    this runs per event.
    """
    fields = sorted({condition.field for match in (where, *steps) for condition in match})
    if not fields:
        return None
    place = {field: i for i, field in enumerate(fields)}
    single = len(fields) == 1

    @lru_cache(maxsize=MEMO_MAX)
    def classify(values: object) -> int:
        found: Sequence[object] = (values,) if single else values  # type: ignore[assignment]

        def holds(match: Match) -> bool:
            return all(condition.holds(found[place[condition.field]]) for condition in match)

        if not holds(where):
            return NOT_TAKEN
        return sum(1 << i for i, step in enumerate(steps) if holds(step))

    values_of = attrgetter(*fields)
    return lambda event: classify(values_of(event))
