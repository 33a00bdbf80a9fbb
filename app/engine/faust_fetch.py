"""Fetched records as columns, without an object per record.

aiokafka builds a ``ConsumerRecord`` for each record, of which the engine would keep five
fields: that alone is a third of a worker's CPU. Here the fetched buffer of a partition is
read Kafka batch by Kafka batch instead. aiokafka keeps fetching, positions and errors;
what replaces its iterator keeps its rules: checksums, aborted transactions, markers,
records before the position.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from app.engine.batch import Headers

CHUNK_RECORDS = 5_000
"""A chunk ends with the Kafka batch that brings it here, or to its bytes."""
IDLE_WAIT_MS = 500
"""How long the broker keeps a fetch for which there is nothing."""
RECORD_OVERHEAD_BYTES = 256
"""What a record of a few columns takes beside its key, value and headers: five objects."""


class Columns:
    """Records of one partition in offset order, column by column; ``size``: bytes in memory."""

    __slots__ = ("headers", "keys", "offsets", "size", "timestamps", "values")

    def __init__(self) -> None:
        self.size = 0
        self.offsets: list[int] = []
        self.timestamps: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.headers: list[Headers] = []

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, records: Iterable[Any]) -> None:
        """Append aiokafka's records (of one Kafka batch)."""
        keys = [r.key for r in records]
        values = [r.value for r in records]
        headers = [r.headers for r in records]
        self.offsets += [r.offset for r in records]
        self.timestamps += [r.timestamp for r in records]
        self.keys += keys
        self.values += values
        self.headers += headers
        self.size += len(keys) * RECORD_OVERHEAD_BYTES + _bytes(keys) + _bytes(values)
        if any(headers):
            self.size += sum(
                RECORD_OVERHEAD_BYTES + len(name) + len(raw or b"")
                for each in headers
                for name, raw in each
            )

    def extend(self, other: Columns) -> None:
        """Append what follows."""
        self.size += other.size
        self.offsets += other.offsets
        self.timestamps += other.timestamps
        self.keys += other.keys
        self.values += other.values
        self.headers += other.headers


def _bytes(column: list[bytes | None]) -> int:
    try:
        return sum(map(len, column))  # type: ignore[arg-type]  # None is what is caught
    except TypeError:
        return sum(len(each) for each in column if each is not None)


def column_chunks(fetched: Any, chunk_bytes: int) -> Iterator[Columns]:
    """Chunks of an aiokafka ``PartitionRecords``; moves its ``next_fetch_offset`` along."""
    chunk = Columns()
    while fetched._records.has_next():  # noqa: SLF001 - no accessor, as below
        batch = fetched._records.next_batch()  # noqa: SLF001
        if fetched._check_crcs and not batch.validate_crc():  # noqa: SLF001
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")  # noqa: SLF001
        aborted = _aborted(fetched, batch)
        if not (aborted or batch.is_control_batch):
            records = _records(fetched, batch)
            if records and records[0].offset < fetched.next_fetch_offset:
                records = [r for r in records if r.offset >= fetched.next_fetch_offset]
            chunk.add(records)
            del records
        fetched.next_fetch_offset = batch.next_offset
        # A generator that waits keeps what it names: here a whole batch, unpacked.
        del batch
        if len(chunk) >= CHUNK_RECORDS or chunk.size >= chunk_bytes:
            full, chunk = chunk, Columns()
            yield full
            del full
    if len(chunk):
        yield chunk


def _records(fetched: Any, batch: Any) -> list[Any]:
    try:
        return list(batch)
    except UnicodeDecodeError:
        # A header's name is no UTF-8: the broker admits it, aiokafka's reader does not.
        return lenient_records(fetched._records.raw, batch.base_offset)  # noqa: SLF001


def lenient_records(raw: bytes, base_offset: int) -> list[Any]:
    """Records of one Kafka batch in a fetched buffer, bad bytes in header names replaced."""
    at = 0
    while struct.unpack_from(">q", raw, at)[0] != base_offset:
        at += 12 + struct.unpack_from(">i", raw, at + 8)[0]
    size = 12 + struct.unpack_from(">i", raw, at + 8)[0]
    batch = _DefaultRecordBatchPy(raw[at : at + size])
    iter(batch)
    batch._buffer = _LenientBytes(batch._buffer)  # noqa: SLF001 - decompressed by iter
    return list(batch)


class _LenientBytes(bytearray):
    """A buffer whose parts decode whatever they hold."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(index, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002
        return super().decode(encoding, "replace")


class KeptRecords:
    """aiokafka's fetched buffer, with its bytes at hand."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        inner = MemoryRecords(raw)
        self.has_next = inner.has_next
        self.next_batch = inner.next_batch
        self.size_in_bytes = inner.size_in_bytes


def _aborted(fetched: Any, batch: Any) -> bool:
    """Whether the batch belongs to an aborted transaction; takes note of abort markers."""
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:  # noqa: SLF001
        return False
    fetched._consume_aborted_up_to(batch.base_offset)  # noqa: SLF001
    producers: set[int] = fetched._aborted_producers  # noqa: SLF001
    if batch.is_control_batch and fetched._contains_abort_marker(batch):  # noqa: SLF001
        producers.discard(batch.producer_id)
    return bool(batch.is_transactional) and batch.producer_id in producers


class ColumnResults(OrderedDict[Any, Any]):
    """aiokafka's map of what was fetched and not yet taken, each to be read as columns."""

    def __init__(self, found: OrderedDict[Any, Any], chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        super().__init__(found)

    def __setitem__(self, tp: Any, result: Any) -> None:
        if isinstance(result, FetchResult):
            fetched = result._partition_records  # noqa: SLF001
            fetched._records_iterator = column_chunks(fetched, self._chunk_bytes)  # noqa: SLF001
        super().__setitem__(tp, result)


def read_columns(fetcher: Any, chunk_bytes: int) -> None:
    """Make an aiokafka ``Fetcher`` hand out :class:`Columns`; ``max_records`` counts chunks."""
    if not isinstance(fetcher._records, ColumnResults):  # noqa: SLF001
        fetcher._records = ColumnResults(fetcher._records, chunk_bytes)  # noqa: SLF001
        aiokafka_fetcher.MemoryRecords = KeptRecords


def ready_partitions(fetcher: Any) -> set[Any]:
    """Partitions of an aiokafka ``Fetcher`` with records that can be taken without an error."""
    kept = fetcher._records.items()  # noqa: SLF001
    return {tp for tp, result in kept if isinstance(result, FetchResult)}


def wait_in_broker(fetcher: Any, wait_ms: int, enough_bytes: int) -> None:
    """Have the next fetch answered after ``wait_ms``, or once there is enough; 0: with anything."""
    fetcher._fetch_max_wait_ms = wait_ms or IDLE_WAIT_MS  # noqa: SLF001
    fetcher._fetch_min_bytes = enough_bytes if wait_ms else 1  # noqa: SLF001
