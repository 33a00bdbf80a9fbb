"""Shipping files to a real broker, and what the operator is told when it cannot be done."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.cimpl import NewTopic
from rich.console import Console

from agents.shipping.command import describe, new_lane, ship_command
from agents.shipping.outbound import Outbound
from agents.shipping.parsers import Format
from agents.shipping.ship import ShipReport, ship_files
from app.engine.clock import SystemClock
from app.engine.lanes import LIVE, lane_id
from app.models.event import decode_event
from tests.system.harness import wait_for
from tests.system.topics import make_topics

PARTITIONS = 3


class Topics:
    """A pair of topics of one test, and what is in them."""

    def __init__(self, bootstrap: str, namespace: str) -> None:
        self.bootstrap = bootstrap
        self.events = f"{namespace}.application-logs"
        self.dlq = f"{namespace}.log-events-dlq"
        make_topics(bootstrap, *(NewTopic(name, PARTITIONS, 1) for name in (self.events, self.dlq)))

    def read(self, topic: str) -> list[Message]:
        """Everything in the topic, partition by partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": topic})
        messages: list[Message] = []
        try:
            for partition in range(PARTITIONS):
                place = TopicPartition(topic, partition, 0)
                end = consumer.get_watermark_offsets(place, timeout=60)[1]
                consumer.assign([place])
                got: list[Message] = []
                wait_for("all records", partial(_took, consumer, end, got))
                messages.extend(got)
        finally:
            consumer.close()
        return messages

    def ship(
        self, *files: Path, fmt: Format = "combined", service: str | None = None
    ) -> ShipReport:
        return ship_files(
            files,
            format=fmt,
            service=service,
            bootstrap=self.bootstrap,
            topic=self.events,
            dlq_topic=self.dlq,
            lane=new_lane(),
            progress=quiet,
            clock=SystemClock(),
        )


def _took(consumer: Consumer, end: int, got: list[Message]) -> bool | None:
    if len(got) < end:
        found = consumer.consume(end - len(got), timeout=1)
        got += [each for each in found if each.error() is None]
    return len(got) >= end or None


def quiet(path: Path, bytes_read: int, bytes_total: int, events: int) -> None:
    assert 0 <= bytes_read <= bytes_total
    assert events >= 0
    assert path.name


@pytest.fixture
def topics(kafka: str, namespace: str) -> Topics:
    return Topics(kafka, namespace)


@pytest.fixture
def dead_end() -> Iterator[str]:
    """An address that is bound, so nobody else takes it, but never answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def access_line(n: int) -> str:
    stamp = f"17/May/2015:10:{n // 60 % 60:02}:{n % 60:02} +0000"
    return f'203.0.113.{n % 250} - - [{stamp}] "GET /p/{n % 7}?n={n} HTTP/1.1" 200 {n} "-" "ua"\n'


def headers_of(message: Message) -> dict[str, bytes]:
    return dict(message.headers() or [])  # type: ignore[arg-type]


@pytest.mark.broker
def test_every_line_arrives_once_in_order_on_the_partition_of_its_service(
    topics: Topics, tmp_path: Path
) -> None:
    path = tmp_path / "shop-access.log.gz"
    path.write_bytes(gzip.compress("".join(map(access_line, range(3_000))).encode()))
    report = topics.ship(path)
    assert (report.failure, report.events, report.acknowledged) == (None, 3_000, 3_000)
    messages = topics.read(topics.events)
    events = [decode_event(m.value() or b"") for m in messages]
    assert [e.metadata["bytes"] for e in events if e.metadata] == [str(n) for n in range(3_000)]
    assert len({e.event_id for e in events}) == 3_000
    assert {m.key() for m in messages} == {b"shop-access"}
    assert {m.partition() for m in messages} == {
        (murmur2(b"shop-access") & 0x7FFFFFFF) % PARTITIONS
    }
    (lane,) = {headers_of(m)["lane"] for m in messages}
    assert lane_id(lane) != LIVE
    assert all(e.ingest_ts is not None and e.service == "shop-access" for e in events)


@pytest.mark.broker
def test_a_file_shipped_again_has_the_same_ids_in_another_lane(
    topics: Topics, tmp_path: Path
) -> None:
    path, copy = tmp_path / "a.log", tmp_path / "b.log.gz"
    text = "".join(map(access_line, range(50))).encode()
    path.write_bytes(text)
    copy.write_bytes(gzip.compress(text))
    topics.ship(path, service="web")
    topics.ship(copy, service="web")
    messages = topics.read(topics.events)
    ids = [decode_event(m.value() or b"").event_id for m in messages]
    assert ids[:50] == ids[50:]
    assert {UUID(i).version for i in ids} == {5}
    assert len({headers_of(m)["lane"] for m in messages}) == 2


@pytest.mark.broker
def test_lines_that_cannot_be_events_are_dead_lettered_with_file_line_and_reason(
    topics: Topics, tmp_path: Path
) -> None:
    path = tmp_path / "a.ndjson"
    lines = [
        b'{"source":"a","level":"warning","id":"3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"}',
        b"not json \xff",
        b"",
        b'{"status":1}',
        b'{"message":"x"}',
        b'"' + b"x" * 2_000_000 + b'"',
        b'{"source":"a","timestamp":"9999-01-01T00:00:00Z"}',
    ]
    path.write_bytes(b"\n".join(lines))
    report = topics.ship(path, fmt="ndjson")
    (one,) = report.files
    assert (one.lines, one.events, one.rejected, one.blank) == (7, 2, 4, 1)
    assert (report.failure, report.acknowledged, report.dead_lettered) == (None, 2, 4)
    assert one.first_reject.startswith("line 2: not valid")
    dead = {int(headers_of(m)["source_line"]): m for m in topics.read(topics.dlq)}
    assert set(dead) == {2, 4, 6, 7}
    assert dead[2].value() == lines[1]
    assert len(dead[6].value() or b"") == 900_001
    for number, field in ((4, b"status"), (7, b"timestamp")):
        headers = headers_of(dead[number])
        assert headers["source_file"] == str(path).encode()
        assert headers["error_message"].startswith(field)
        assert headers["error_type"] == b"VALIDATION"
        assert headers["original_topic"] == b"file"
        assert int(headers["first_failure_timestamp"]) > 0
    given, made = (decode_event(m.value() or b"") for m in topics.read(topics.events))
    assert (given.event_id, given.level) == ("3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90", "WARN")
    assert (made.source, made.service) == ("a", "a")


@pytest.mark.broker
def test_a_file_in_another_format_stops_with_a_hint_instead_of_flooding_the_dead_letters(
    topics: Topics, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(5_000)))
    report = topics.ship(path)
    assert report.failure is not None
    assert "none of its first 1000 lines is in the format combined" in report.failure
    assert "--format" in report.failure
    assert report.dead_lettered == 1_000


@pytest.mark.broker
def test_a_gzip_file_cut_short_ships_what_came_before_and_says_so(
    topics: Topics, tmp_path: Path
) -> None:
    path = tmp_path / "cut.log.gz"
    whole = gzip.compress("".join(map(access_line, range(5_000))).encode())
    path.write_bytes(whole[: len(whole) // 2])
    report = topics.ship(path)
    assert report.failure is not None
    assert "cut short" in report.failure
    assert 0 < report.acknowledged == report.events < 5_000


@pytest.mark.broker
def test_the_command_answers_with_one_line_for_each_file_and_code_0(
    topics: Topics, tmp_path: Path
) -> None:
    path, empty = tmp_path / "a.log", tmp_path / "empty.log"
    path.write_text("".join(map(access_line, range(10))) + "garbage\n\n")
    empty.touch()
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    with console.file:
        code = ship_command(
            [path, empty],
            format="combined",
            service=None,
            bootstrap=topics.bootstrap,
            topic=topics.events,
            dlq_topic=topics.dlq,
            console=console,
        )
    text = console.export_text()
    assert code == 0
    assert "10 events as service a, 1 blank lines skipped, 1 lines rejected" in text
    assert "empty.log: empty, nothing to ship" in text
    assert "10 of 10 events acknowledged" in text


@pytest.mark.broker
def test_a_missing_topic_is_named(kafka: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(access_line(1))
    report = run_offline(path, kafka, timeout_s=60.0)
    assert report.failure is not None
    assert "has no topic d, t" in report.failure


def run_offline(
    path: Path, bootstrap: str, service: str | None = None, timeout_s: float = 1.0
) -> ShipReport:
    return ship_files(
        [path],
        format="combined",
        service=service,
        bootstrap=bootstrap,
        topic="t",
        dlq_topic="d",
        lane="x",
        progress=quiet,
        clock=SystemClock(),
        timeout_s=timeout_s,
    )


@pytest.mark.slow
def test_without_a_broker_one_sentence_says_what_to_do(dead_end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(access_line(1))
    report = run_offline(path, dead_end)
    assert report.failure is not None
    assert f"no Kafka broker answers at {dead_end}" in report.failure
    assert "HEADRACE_BROKER" in report.failure
    assert describe(report) == [f"ship: {report.failure}"]


def test_files_and_names_are_checked_before_the_broker_is_asked(
    dead_end: str, tmp_path: Path
) -> None:
    missing = run_offline(tmp_path / "none.log", dead_end)
    assert missing.failure is not None
    assert "there is no such file" in missing.failure
    named = run_offline(tmp_path / "none.log", dead_end, service="a\nb")
    assert named.failure is not None
    assert "--service" in named.failure


@pytest.mark.slow
def test_a_broker_that_goes_away_ends_the_wait_with_an_error(dead_end: str) -> None:
    out = Outbound(dead_end, timeout_s=0.5)
    out.send("t", b"k", b"v", [])
    with pytest.raises(Exception, match="takes no more records"):
        out.flush()
    assert out.acknowledged == {}
    out.close()
