"""A declared window: its shape in time, what it aggregates, and the table of its panes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from app.engine.effects import TableSpec
from tables import sketch
from tables.histogram import LAYOUT
from tables.windows.stats import WindowAggregate
from tables.windows.where import Condition

DAY_MS: Final = 24 * 60 * 60 * 1000
PANES_MAX: Final = 360
"""Panes of one window: a size of more advances costs too much to put together."""
GLOBAL_KEY: Final = "*"
"""Key of the row that holds all keys of a window with ``global_row``."""

Kind = Literal["tumbling", "hopping", "sliding"]


@dataclass(frozen=True, slots=True)
class ErrorsWhen:
    """An event is an error when its ``status`` is at least ``status_min``."""

    status_min: int


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One declared window over one topic; also the name of its table.

    A row holds one *pane*: the events of ``[start, start + advance_ms)``, ``start`` a
    multiple of ``advance_ms`` since the epoch. Windows of ``size_ms`` begin at every pane and
    are put together when they are read or closed. A tumbling window is one pane; a sliding
    one (trends) has several sizes, is never closed, and is read at any pane's end.

    An event is late once the stream time of its lane has reached the end of its pane plus
    ``grace_ms``, which is when the first window that holds it closes. ``retention_ms``
    counts from a row's last update. ``value`` None: events are only counted. ``codes``
    counts by HTTP status code, ``distinct`` is the field whose different values are counted.
    ``global_row`` adds a row of the key :data:`GLOBAL_KEY` for all keys together.
    """

    name: str
    topic: str
    kind: Kind
    size_ms: int
    grace_ms: int
    key: str
    value: str | None = None
    errors: ErrorsWhen | None = None
    retention_ms: int = DAY_MS
    advance_ms: int = 0
    """0: as ``size_ms``."""
    sizes_ms: tuple[int, ...] = ()
    """Sizes of a sliding window, ascending; of another, its one size."""
    codes: bool = False
    distinct: str | None = None
    where: tuple[Condition, ...] = ()
    emit: Literal["final", "updates"] = "final"
    global_row: bool = False
    identity: str = field(init=False, repr=False, compare=False)
    """Fingerprint of what a stored row means: another meaning never reads old rows.

    The name is part of it, because two windows of one meaning keep rows of their own. Grace,
    retention and what is emitted are not: they change which events reach a row and how long it
    stays, not what its numbers say.
    """

    def __post_init__(self) -> None:
        if not self.advance_ms:
            object.__setattr__(self, "advance_ms", self.size_ms)
        if not self.sizes_ms:
            object.__setattr__(self, "sizes_ms", (self.size_ms,))
        # Told once: every window that is closed or answered asks for it.
        object.__setattr__(self, "identity", _identity(self))

    @property
    def closes(self) -> bool:
        """Whether each window is closed and written as a final record."""
        return self.kind != "sliding"

    @property
    def panes(self) -> int:
        """Panes of a window (of the longest, if it has several sizes)."""
        return self.size_ms // self.advance_ms

    def due_ms(self, start_ms: int) -> int:
        """Event time from which the window that starts there is final."""
        return start_ms + self.size_ms + self.grace_ms

    def first_start_ms(self, pane_ms: int) -> int:
        """Start of the earliest window that holds the pane; no window starts before 0."""
        return max(0, pane_ms + self.advance_ms - self.size_ms)

    def row_name(self, key: str) -> str:
        """Key of the row for an event's key: another than that of the global row."""
        if self.global_row and not key.strip(GLOBAL_KEY):
            return key + GLOBAL_KEY
        return key

    def table(self) -> TableSpec:
        """The table that keeps this window's panes."""
        return TableSpec(self.name, self.identity, WindowAggregate())


def _identity(spec: WindowSpec) -> str:
    meaning = {
        "name": spec.name,
        "topic": spec.topic,
        "kind": spec.kind,
        "sizes_ms": spec.sizes_ms,
        "advance_ms": spec.advance_ms,
        "key": spec.key,
        "value": spec.value,
        "errors": None if spec.errors is None else asdict(spec.errors),
        "codes": spec.codes,
        "distinct": spec.distinct,
        "where": [asdict(each) for each in spec.where],
        "global": spec.global_row,
        "histogram": LAYOUT,
        "sketch": sketch.LAYOUT,
    }
    text = json.dumps(meaning, sort_keys=True)
    return f"window-3-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
