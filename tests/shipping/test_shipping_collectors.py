"""Demonstration traffic, host readings and the broker's log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice, pairwise
from pathlib import Path

import pytest

from agents.shipping.brokerlog import (
    READ_BYTES_MAX,
    Assembler,
    Entry,
    Tail,
    entry_event,
    run_brokerlog,
)
from agents.shipping.demo import NEXT, PAGES, run_demo, shop_events, wave
from agents.shipping.host import HostReading, host_events, read_host, run_host
from agents.shipping.port import SinkError
from app.models.event import LogEvent, conforms, decode_event, encode_event

START = 1_763_697_243_123
ID = "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"


class ManualClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.ms = START
        self.sleeps = 0
        self.on_sleep: Callable[[int], None] = lambda _count: None

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1_000

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.on_sleep(self.sleeps)
        self.ms += round(seconds * 1_000)
        await asyncio.sleep(0)


class Collected:
    """A sink that refuses the first calls, keeps the rest, and is full after a number of calls."""

    def __init__(self, calls: int, refused: int = 0) -> None:
        self.calls = calls
        self.refused = refused
        self.sent: list[tuple[str, LogEvent]] = []
        self.full = asyncio.Event()

    async def send(self, topic: str, events: Sequence[LogEvent]) -> None:
        self.calls -= 1
        if self.calls <= 0:
            self.full.set()
        if self.refused > 0:
            self.refused -= 1
            raise SinkError("the broker is gone")
        self.sent.extend((topic, event) for event in events)

    async def fill(self, runner: Coroutine[object, object, None]) -> list[LogEvent]:
        """Run until full, then cancel; the runner must end by the cancellation alone."""
        task = asyncio.create_task(runner)
        waiter = asyncio.create_task(self.full.wait())
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [event for _, event in self.sent]


def test_the_same_seed_and_start_give_the_same_traffic_and_another_start_other_ids() -> None:
    first = list(islice(shop_events(7, START), 500))
    assert first == list(islice(shop_events(7, START), 500))
    later = list(islice(shop_events(7, START + 1), 500))
    assert not {e.event_id for e in first} & {e.event_id for e in later}


def test_traffic_is_canonical_marked_and_in_order() -> None:
    events = list(islice(shop_events(1, START), 2_000))
    assert all(a.timestamp <= b.timestamp for a, b in pairwise(events))
    for event in events:
        assert event.source == "demo-shop"
        assert conforms(event)
        assert decode_event(encode_event(event)) == event


def test_traffic_has_the_asked_rate_sessions_and_a_few_slow_and_failing_endpoints() -> None:
    events = list(islice(shop_events(1, START), 20_000))
    seconds = (events[-1].timestamp - START) / 1_000
    assert 20_000 / seconds == pytest.approx(200 * wave(START), rel=0.05)
    of = {
        page.endpoint: [e for e in events if e.endpoint == page.endpoint] for page in PAGES.values()
    }
    assert all(of.values())

    def failing(endpoint: str) -> float:
        return sum((e.status or 0) >= 500 for e in of[endpoint]) / len(of[endpoint])

    def median(endpoint: str) -> float:
        return sorted(e.latency_ms or 0 for e in of[endpoint])[len(of[endpoint]) // 2]

    assert 0.03 < failing("/api/checkout/pay") < 0.1
    assert failing("/") < 0.01
    assert median("/api/recommendations") > 10 * median("/")
    assert len({e.session_id for e in events}) > 500


def test_every_page_leads_on_and_the_wave_has_mean_one() -> None:
    assert set(NEXT) == set(PAGES)
    assert {page for pages in NEXT.values() for page in pages} <= set(PAGES)
    day = [wave(hour * 3_600_000) for hour in range(24)]
    assert sum(day) / 24 == pytest.approx(1)
    assert max(day) == pytest.approx(4 / 3)


async def test_the_demo_sends_what_has_happened_and_outlives_a_refusal() -> None:
    clock, sink = ManualClock(), Collected(calls=30, refused=1)
    events = await sink.fill(run_demo(sink, clock=clock, sleep=clock.sleep))
    assert {topic for topic, _ in sink.sent} == {"application-logs"}
    assert len({e.event_id for e in events}) == len(events) > 300
    assert all(START < e.timestamp <= clock.ms for e in events)


async def test_after_a_long_pause_the_demo_does_not_catch_up() -> None:
    clock, sink = ManualClock(), Collected(calls=20)

    def suspend(count: int) -> None:
        clock.ms += 3_600_000 if count == 10 else 0

    clock.on_sleep = suspend
    events = await sink.fill(run_demo(sink, clock=clock, sleep=clock.sleep))
    assert len(events) < 1_500


def test_a_reading_becomes_one_metric_each() -> None:
    events = host_events(HostReading(1.5, 2.5, 3, 4.5, 5), START, "box", lambda: ID)
    assert {e.metric_name: e.value for e in events} == {
        "host.cpu.percent": 1.5,
        "host.memory.percent": 2.5,
        "host.memory.used_bytes": 3.0,
        "host.disk.percent": 4.5,
        "host.disk.used_bytes": 5.0,
    }
    for event in events:
        assert (event.type, event.source, event.service) == ("metric", "host", "host")
        assert decode_event(encode_event(event)) == event


def test_this_host_can_be_read(tmp_path: Path) -> None:
    reading = read_host(tmp_path)
    assert 0 <= reading.memory_percent <= 100
    assert 0 <= reading.disk_percent <= 100
    assert reading.memory_used_bytes > 0


async def test_a39_7_readings_come_on_every_full_second(tmp_path: Path) -> None:
    clock, sink = ManualClock(), Collected(calls=5, refused=1)
    events = await sink.fill(run_host(sink, clock=clock, folder=tmp_path, sleep=clock.sleep))
    assert {topic for topic, _ in sink.sent} == {"infrastructure-metrics"}
    times = sorted({e.timestamp for e in events})
    assert all(t % 1_000 == 0 for t in times)
    assert all(b - a == 1_000 for a, b in pairwise(times))


FIRST = "2025-11-21T03:54:03.123Z INFO  LogManager Loading logs"
ERROR = "2025-11-21T03:54:04.000+01:00 ERROR ReplicaManager failed"
TRACE = ["java.io.IOException: no", "\tat kafka.X.y(X.java:1)"]


def test_a_stack_trace_stays_with_its_line() -> None:
    assembler = Assembler()
    done = [assembler.feed(text) for text in ["\tcut off", FIRST, ERROR, *TRACE]]
    assert [e.text for e in done if e is not None] == [FIRST]
    assert assembler.flush() == Entry("\n".join([ERROR, *TRACE]))
    assert assembler.flush() is None


def test_an_entry_becomes_an_event_with_time_level_and_logger() -> None:
    event = entry_event(Entry(FIRST), START)
    assert event is not None
    assert (event.timestamp, event.level, event.message) == (START, "INFO", "Loading logs")
    assert (event.source, event.metadata) == ("kafka-broker", {"logger": "LogManager"})
    assert event == entry_event(Entry(FIRST), START + 5)
    assert conforms(event)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no entry",
        FIRST.replace("2025", "9999"),
        FIRST.replace("INFO ", "LOUD "),
        "2025-13-01TX INFO a b",
    ],
)
def test_what_is_no_entry_gives_no_event(text: str) -> None:
    assert entry_event(Entry(text), START) is None


def test_an_endless_stack_trace_is_bounded() -> None:
    assembler = Assembler()
    assembler.feed(FIRST)
    for _ in range(3_000):
        assembler.feed("\tat " + "x" * 1_000)
    entry = assembler.flush()
    assert entry is not None
    assert len(entry.text) < 100_000


def test_the_tail_follows_growth_rotation_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text("one\ntwo")
    assert tail.read() == ["one"]
    with path.open("a") as file:
        file.write(" more\nthree\n")
    path.rename(tmp_path / "broker.1.log")
    path.write_text("four\n")
    assert tail.read() == ["two more", "three"]
    assert tail.read() == ["four"]
    os.truncate(path, 0)
    assert tail.read() == []
    path.write_text("5\n")
    assert tail.read() == ["5"]
    path.unlink()
    assert tail.read() == []
    tail.close()


def test_a_line_without_end_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"
    path.touch()
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(b"x" * (READ_BYTES_MAX * 2 + 10) + b"\nend\n")
    pieces = [line for _ in range(4) for line in tail.read()]
    tail.close()
    assert [len(piece) for piece in pieces] == [READ_BYTES_MAX, READ_BYTES_MAX, 10, 3]


async def test_the_brokers_log_is_sent_from_the_given_moment_on(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"
    old = FIRST.replace("03:54:03", "03:50:00")
    path.write_text("\n".join([old, FIRST, ERROR, *TRACE]) + "\n")
    clock, sink = ManualClock(), Collected(calls=1)
    runner = run_brokerlog(sink, path, clock=clock, since_ms=START - 1_000, sleep=clock.sleep)
    (event,) = await sink.fill(runner)
    assert event.message == "Loading logs"
