"""Both halves of the windows without a broker: events in, rows and answers out.

``WindowsDriver`` runs the real steps and the real encodings; only transport and storage
are replaced, by lists and dicts. Every batch is an epoch of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from agents.log_events.step import LanesTick, LogEventsStep
from agents.windows.local import LocalWindows
from agents.windows.merge import MergeWindows, merge_tables
from agents.windows.repartition import window_repartition
from agents.windows.retention import RetentionTick
from app.engine.batch import Headers, RecordBatch
from app.engine.chunks import Chunk, LaneMark, encode_chunk
from app.engine.effects import Effects
from app.engine.lanes import LANE_HEADER, Lanes
from app.engine.reading import Reading
from app.models.event import LogEvent, encode_event
from tables.lanes import LANES_TABLE
from tables.windows.answer import window_answer
from tables.windows.keys import key_prefix, parse_row_key
from tables.windows.spec import ErrorsWhen, WindowSpec
from tables.windows.stats import WindowStats

PARTIALS = "window-partials"
MINUTE = 60_000
HOUR = 60 * MINUTE
TEN = 1_790_000_000_000 // HOUR * HOUR
"""A full hour, called 10:00:00 in the tests."""

NOW = TEN + 2 * HOUR
"""Ingest time of what a test feeds, so that its events are not from the future."""


def at(clock: str) -> int:
    """Epoch ms of ``HH:MM:SS`` or ``HH:MM:SS.mmm`` on the day on which :data:`TEN` is 10:00."""
    hours, minutes, seconds = clock.split(":")
    return TEN + (int(hours) - 10) * HOUR + int(minutes) * MINUTE + round(float(seconds) * 1000)


def minute_spec(**changes: Any) -> WindowSpec:
    """``requests_per_endpoint`` as shipped, or changed."""
    fields: dict[str, Any] = {
        "name": "requests_per_endpoint",
        "topic": "log-events",
        "kind": "tumbling",
        "size_ms": MINUTE,
        "grace_ms": 30_000,
        "key": "endpoint",
        "value": "latency_ms",
        "errors": ErrorsWhen(500),
    }
    return WindowSpec(**{**fields, **changes})


_ids = itertools.count()


def event(timestamp: int, endpoint: str | None = "/a", **fields: Any) -> bytes:
    """An encoded event; latency 5 ms and status 200 unless said otherwise."""
    given: dict[str, Any] = {"latency_ms": 5.0, "status": 200, "source": "test", "service": "shop"}
    return encode_event(
        LogEvent(
            event_id=str(UUID(int=next(_ids))),
            timestamp=timestamp,
            endpoint=endpoint,
            **{**given, **fields},
        )
    )


def batch_of(
    values: Sequence[bytes | None],
    ingest: int | Sequence[int],
    *,
    partition: int = 0,
    lane: str | None = None,
    topic: str = "log-events",
    first_offset: int = 0,
) -> RecordBatch:
    """Records of one partition; ``ingest`` is one time for all, or one each."""
    count = len(values)
    headers: Headers = () if lane is None else ((LANE_HEADER, lane.encode()),)
    return RecordBatch(
        topic=topic,
        partition=partition,
        offsets=range(first_offset, first_offset + count),
        timestamps=[ingest] * count if isinstance(ingest, int) else ingest,
        keys=[b"shop"] * count,
        values=values,
        headers=[headers] * count,
    )


def interleaved(left: RecordBatch, right: RecordBatch) -> RecordBatch:
    """One batch of two of one length, a record of each in turn."""

    def both(name: str) -> list[Any]:
        pairs = zip(getattr(left, name), getattr(right, name), strict=True)
        return [each for pair in pairs for each in pair]

    return RecordBatch(
        topic=left.topic,
        partition=left.partition,
        offsets=range(2 * len(left)),
        timestamps=both("timestamps"),
        keys=both("keys"),
        values=both("values"),
        headers=both("headers"),
    )


class DictTable:
    """A table of the engine in a dict."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Any] = {}

    def get(self, key: bytes) -> Any | None:
        return self.rows.get(key)

    def scan(self, prefix: bytes, limit: int) -> Iterable[tuple[bytes, Any]]:
        rows = self.range(prefix, None, limit=limit)
        return [(key, state) for key, state in rows if key.startswith(prefix)]

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        keys = sorted((k for k in self.rows if lo <= k and (hi is None or k < hi)), reverse=reverse)
        return ((key, self.rows[key]) for key in keys[:limit])


@dataclass
class DictView:
    """A partition's tables and lanes."""

    lanes: Lanes = field(default_factory=Lanes)
    reading: Reading = field(default_factory=Reading)
    tables: dict[str, DictTable] = field(default_factory=dict)

    def table(self, name: str) -> DictTable:
        return self.tables[name]


class WindowsDriver:
    """Feed batches to the local half and read what the global half knows afterwards."""

    def __init__(self, *specs: WindowSpec) -> None:
        self.specs = specs or (minute_spec(),)
        self.repartition = window_repartition(PARTIALS)
        self.local = LogEventsStep((LocalWindows(self.specs, self.repartition),))
        self.merge = MergeWindows(self.specs)
        self.aggregates = {table.name: table.aggregate for table in merge_tables(self.specs)}
        self.target = DictView(tables={name: DictTable() for name in self.aggregates})
        self.sources: dict[int, DictView] = {}
        self.retention = RetentionTick(self.specs, pause_ms=0)
        self.now_ms = NOW

    def feed(
        self,
        values: Sequence[bytes | None],
        *,
        partition: int = 0,
        lane: str | None = None,
        ingest: int | Sequence[int] | None = None,
    ) -> Effects:
        """One batch through both halves; the local half's effects."""
        times = self.now_ms if ingest is None else ingest
        return self.run(batch_of(values, times, partition=partition, lane=lane))

    def run(self, batch: RecordBatch) -> Effects:
        """One batch through both halves; the local half's effects, which must balance."""
        view = self.sources.setdefault(batch.partition, DictView())
        effects = self.local(batch, view, self.now_ms)
        assert effects.applied + len(effects.rejects) + len(effects.late) == len(batch)
        self._forward(batch.partition, view, effects)
        return effects

    def idle(self, now_ms: int) -> None:
        """The wall clock moves: ticks of every source partition."""
        self.now_ms = now_ms
        for partition, view in self.sources.items():
            view.reading = Reading(0, now_ms)
            self._forward(partition, view, LanesTick()(partition, view, now_ms))

    def sweep(self, now_ms: int) -> int:
        """One retention tick; the number of rows deleted."""
        effects = self.retention(0, self.target, now_ms)
        return sum(
            self.target.tables[name].rows.pop(key, None) is not None
            for name, keys in effects.deletes.items()
            for key in keys
        )

    def merge_records(self, values: Sequence[bytes | None]) -> Effects:
        """Records of ``window-partials`` into the global half."""
        batch = batch_of(values, self.now_ms, topic=PARTIALS)
        effects = self.merge(batch, self.target, self.now_ms)
        assert effects.applied + len(effects.rejects) == len(batch)
        for name, states in effects.puts.items():
            rows, aggregate = self.target.tables[name].rows, self.aggregates[name]
            for key, state in states.items():
                rows[key] = aggregate.decode(aggregate.encode(state))
        for name, updates in effects.updates.items():
            rows, aggregate = self.target.tables[name].rows, self.aggregates[name]
            for key, partial in updates.items():
                held = rows.get(key)
                state = partial if held is None else aggregate.merge(held, partial)
                rows[key] = aggregate.decode(aggregate.encode(state))
        return effects

    def rows(self, key: str, name: str | None = None) -> list[tuple[int, WindowStats]]:
        """Rows of a key as (start, stats), oldest first."""
        table = self.target.tables[name or self.specs[0].name]
        found = table.scan(key_prefix(key), 10_000)
        return [(parse_row_key(raw)[1], stats) for raw, stats in found]

    def all_rows(self, name: str | None = None) -> dict[bytes, WindowStats]:
        """Every row of a window's table."""
        return dict(self.target.tables[name or self.specs[0].name].rows)

    def marks(self) -> dict[str, LaneMark]:
        """Lane marks as the global half knows them."""
        return {k.decode(): v for k, v in self.target.tables[LANES_TABLE].rows.items()}

    def windows(self, key: str, name: str | None = None) -> list[dict[str, Any]]:
        """The answer to a query of a key, as its JSON says it."""
        spec = next(s for s in self.specs if s.name == (name or self.specs[0].name))
        answers = window_answer(spec, self.rows(key, spec.name), self.marks())
        return [msgspec.to_builtins(each) for each in answers]

    def _forward(self, source: int, view: DictView, effects: Effects) -> None:
        marks = {}
        if effects.lanes is not None:
            for name, lane in view.lanes:
                marks[name] = LaneMark(lane.seen_ms, lane.watermark_ms, idle=True)
            for name, lane in effects.lanes:
                marks[name] = LaneMark(lane.seen_ms, lane.watermark_ms, lane.idle)
            view.lanes = effects.lanes
        partials = [
            repartition.encode(key, stats)
            for repartition, values in effects.partials
            for key, stats in values.items()
        ]
        if marks or partials:
            merged = self.merge_records([encode_chunk(Chunk(source, marks, partials))])
            assert not merged.rejects
