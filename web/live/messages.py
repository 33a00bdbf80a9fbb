"""What workers tell each other, and pages, of the last second."""

from __future__ import annotations

from typing import Literal

import msgspec

from web.live.sample import Figures, Sample


class Report(msgspec.Struct, frozen=True):
    """What a worker tells its peers: its last sample, and how old that is on its own clock.

    ``alert``: what else they must show, "" for nothing.
    """

    worker: str
    ready: bool
    age_ms: int
    staleness_ms: int
    sample: Sample | None
    alert: str = ""


class Point(msgspec.Struct, frozen=True):
    """One second of the history."""

    ts: int
    rate: float
    error_rate: float
    p95_ms: float | None


class Push(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message of ``/ws/metrics``; the first one on a connection carries the history.

    ``staleness_ms`` is the age of the oldest part of it; ``partial``: a worker is missing;
    ``alert``: the sentence of a worker that knows of something wrong, left out for none.
    """

    seq: int
    ts: int
    state: Literal["live", "loading"]
    worker: str
    workers: int
    staleness_ms: int
    partial: bool
    data: Figures | None = None
    history: list[Point] | None = None
    alert: str = ""
