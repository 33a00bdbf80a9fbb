"""An epoch's events as columns of numbers, each made once for all steps of the topic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import repeat
from operator import is_not
from typing import Any

import numpy as np

from agents.log_events.decode import Column, Events
from agents.log_events.groups import Flags, Ints, coded, ints
from app.engine.chunks import lane_key


class EventColumns:
    """Columns of events; those that not every step asks for are made when one does."""

    def __init__(self, events: Events) -> None:
        self._columns = events.columns
        self._coded: dict[str, tuple[list[str], Ints]] = {}
        self._given: dict[str, Flags] = {}
        self._numbers: dict[Column, Ints] = {}
        self.timestamps = ints(events.columns["timestamp"])
        self.stream_time_ms = ints(events.stream_time_ms)
        self.ingest_ms = ints(events.ingest_ms)
        self.lane_names, self.lanes = coded(events.lanes)
        self._spans = events.sources

    @cached_property
    def sources(self) -> tuple[list[int], Ints]:
        """Source partitions, and of each event the place of its own among them."""
        places = {source: place for place, source in enumerate(dict(self._spans))}
        codes = [places[source] for source, _ in self._spans]
        return list(places), np.repeat(codes, [count for _, count in self._spans])

    @cached_property
    def lane_keys(self) -> tuple[list[str], Ints]:
        """Lane keys, and of each event the place of its own among them."""
        partitions, sources = self.sources
        keys = [lane_key(source, lane) for source in partitions for lane in self.lane_names]
        return keys, sources * len(self.lane_names) + self.lanes

    def field(self, column: Column) -> Sequence[Any]:
        """What was read of every event, as it was read."""
        return self._columns[column]

    def coded(self, field: str) -> tuple[list[str], Ints]:
        """A field of strings; see :func:`agents.log_events.groups.coded`."""
        found = self._coded.get(field)
        if found is None:
            found = self._coded[field] = coded(self._columns[field])
        return found

    def numbers(self, column: Column) -> Ints:
        """A column that every event has an integer of."""
        found = self._numbers.get(column)
        if found is None:
            found = self._numbers[column] = ints(self._columns[column])
        return found

    def given(self, field: str) -> Flags:
        """Which events have the field."""
        found = self._given.get(field)
        if found is None:
            column = self._columns[field]
            there = map(is_not, column, repeat(None))
            found = self._given[field] = np.fromiter(there, np.bool_, len(column))
        return found
