"""Columns read from aiokafka's buffers hold exactly what its own iterator would give."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import confluent_kafka as ck
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from confluent_kafka.cimpl import NewTopic

from app.engine.faust_fetch import RECORD_OVERHEAD_BYTES, Columns, lenient_records, read_columns
from tests.system.topics import make_topics

pytestmark = pytest.mark.broker

PATIENCE_S = 60.0
LINGER_MS = 30_000
"""A batch is sent when it is flushed, not before, however slowly it is filled."""


@pytest.fixture
def topic(kafka: str, namespace: str) -> str:
    name = f"{namespace}.fetched"
    make_topics(kafka, NewTopic(name, 1, 1))
    return name


def write(kafka: str, topic: str) -> None:
    """Committed, aborted and plain records, three to a Kafka batch, with markers between."""
    for number, (prefix, ending) in enumerate(
        (("kept", "commit"), ("lost", "abort"), ("kept", "commit"), ("lost", "abort"))
    ):
        producer = ck.Producer(
            {
                "bootstrap.servers": kafka,
                "transactional.id": f"{topic}-{number}",
                "linger.ms": LINGER_MS,
            }
        )
        producer.init_transactions(PATIENCE_S)
        producer.begin_transaction()
        for i in range(3):
            producer.produce(topic, f"{prefix}-{number}-{i}", f"k{i}", headers=[("h", b"%d" % i)])
        producer.flush(PATIENCE_S)
        if ending == "commit":
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.abort_transaction(PATIENCE_S)
    plain = ck.Producer(
        {"bootstrap.servers": kafka, "linger.ms": LINGER_MS, "compression.type": "lz4"}
    )
    for i in range(3):
        plain.produce(topic, f"plain-{i}")
    assert plain.flush(PATIENCE_S) == 0


@pytest.fixture
async def consumer(kafka: str) -> AsyncIterator[AIOKafkaConsumer]:
    made = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await made.start()
    yield made
    await made.stop()


async def columns_until(consumer: AIOKafkaConsumer, tp: TopicPartition, last: bytes) -> Columns:
    """Everything fetched from the position on, up to the record with that value."""
    found = Columns()
    async with asyncio.timeout(PATIENCE_S):
        while not found.values or found.values[-1] != last:
            read_columns(consumer._fetcher, 1 << 20)
            got = await consumer._fetcher.fetched_records({tp}, timeout=0.2, max_records=2)
            for chunk in got.get(tp, ()):
                found.extend(chunk)
    return found


async def test_aborted_records_and_markers_are_left_out(
    kafka: str, topic: str, consumer: AIOKafkaConsumer
) -> None:
    await asyncio.to_thread(write, kafka, topic)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    found = await columns_until(consumer, tp, b"plain-2")
    assert found.values == [
        *(b"kept-0-%d" % i for i in range(3)),
        *(b"kept-2-%d" % i for i in range(3)),
        *(b"plain-%d" % i for i in range(3)),
    ]
    # Three records and one marker to each transaction.
    assert found.offsets == [0, 1, 2, 8, 9, 10, 16, 17, 18]
    assert found.keys[:3] == [b"k0", b"k1", b"k2"]
    assert [list(h) for h in found.headers[:2]] == [[("h", b"0")], [("h", b"1")]]
    assert all(stamp > 0 for stamp in found.timestamps)


def batch_with_bad_header(base_offset: int, compression: int) -> bytes:
    """A Kafka batch of two records, the first with a header name that is no UTF-8."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 20)
    builder.append(0, 1_000, b"k0", b"first", [("AAAA", b"x")])
    builder.append(1, 1_000, None, b"second", [("good", None)])
    raw = bytearray(builder.build())
    at = raw.index(b"AAAA")
    raw[at : at + 4] = b"\xff\xfeA\xfd"
    struct.pack_into(">q", raw, 0, base_offset)
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    return bytes(raw)


def test_a_header_name_that_is_no_utf8_costs_no_record() -> None:
    raw = batch_with_bad_header(7, 0) + batch_with_bad_header(9, 0)
    found = lenient_records(raw, 9)
    assert [(r.offset, r.key, r.value) for r in found] == [
        (9, b"k0", b"first"),
        (10, None, b"second"),
    ]
    assert found[0].headers == [("\ufffd\ufffdA\ufffd", b"x")]
    assert found[1].headers == [("good", None)]


def test_columns_know_what_they_take_in_memory() -> None:
    columns, more = Columns(), Columns()
    columns.add(lenient_records(batch_with_bad_header(7, 0), 7))
    overhead = RECORD_OVERHEAD_BYTES * 2
    headers = 2 * RECORD_OVERHEAD_BYTES + len("\ufffd\ufffdA\ufffd") + len("x") + len("good")
    assert columns.size == overhead + len("k0") + len("first") + len("second") + headers
    more.extend(columns)
    more.extend(columns)
    assert more.size == 2 * columns.size


async def test_a_chunk_ends_at_its_bytes(
    kafka: str, topic: str, consumer: AIOKafkaConsumer
) -> None:
    await asyncio.to_thread(write, kafka, topic)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    sizes: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        while sum(sizes) < 9:
            read_columns(consumer._fetcher, 1)
            got = await consumer._fetcher.fetched_records({tp}, timeout=0.2, max_records=1)
            sizes += [len(chunk) for chunk in got.get(tp, ())]
    assert sizes == [3, 3, 3], "one Kafka batch each"


async def test_such_a_record_is_read_from_a_real_topic(
    topic: str, consumer: AIOKafkaConsumer
) -> None:
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    request = ProduceRequest(
        required_acks=-1,
        timeout=10_000,
        topics=[(topic, [(0, batch_with_bad_header(0, 0))])],
        transactional_id=None,
    )
    async with asyncio.timeout(PATIENCE_S):
        await consumer._client.force_metadata_update()
        node = consumer._client.cluster.leader_for_partition(tp)
        await consumer._client.send(node, request)
    found = await columns_until(consumer, tp, b"second")
    assert found.values == [b"first", b"second"]
    assert found.offsets == [0, 1]


async def test_a_seek_into_a_batch_starts_at_that_record(
    kafka: str, topic: str, consumer: AIOKafkaConsumer
) -> None:
    await asyncio.to_thread(write, kafka, topic)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    await columns_until(consumer, tp, b"plain-2")
    for offset, expected in ((1, b"kept-0-1"), (4, b"kept-2-0"), (17, b"plain-1")):
        consumer.seek(tp, offset)
        found = await columns_until(consumer, tp, b"plain-2")
        assert found.values[0] == expected
        assert found.offsets[0] >= offset
        assert await consumer.position(tp) == 19
