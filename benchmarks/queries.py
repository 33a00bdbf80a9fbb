"""How quickly windows answer while events flow: point queries, near and far, and a whole day."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from dataclasses import dataclass, field
from random import Random
from urllib.parse import quote

import aiohttp
import confluent_kafka as ck

from agents.topics import LOG_EVENTS
from app.engine.lanes import LANE_HEADER
from app.models.event import LogEvent, encode_event
from app.settings import CONFIG_DIR
from benchmarks.broker import BenchBroker
from benchmarks.configs import ONE_WINDOW, one_window
from benchmarks.engine_run import new_cluster
from benchmarks.process import machine, usage
from benchmarks.results import today
from benchmarks.timed import MissedError
from benchmarks.traffic import RATE, producer, traffic
from tests.system.harness import Worker, wait_for

QUERIES_PER_S = 500
SECONDS = 20
WARM_UP_S = 5
KEYS = 50
LOCAL_MS_MAX = 5.0
REMOTE_MS_MAX = 25.0
DAY_MS_MAX = 20.0
DAY_KEY = "/bench/day"
DAY_QUERIES = 100
EVENTS_PER_MINUTE = 12
MINUTES = 1_440
MINUTE_MS = 60_000
PATH = "/api/v1/windows/requests_per_endpoint/"


@dataclass(slots=True)
class Taken:
    """Milliseconds each query took, by who answered."""

    local: list[float] = field(default_factory=list)
    remote: list[float] = field(default_factory=list)
    failed: int = 0


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _send_day(producer: ck.Producer, topic: str, now_ms: int) -> None:
    """A key's windows of the last day, in a lane of their own so that none is late."""
    draw = Random(5)  # noqa: S311 - load
    first = now_ms - now_ms % MINUTE_MS - (MINUTES - 1) * MINUTE_MS
    number = 0
    for minute in range(MINUTES):
        for _ in range(EVENTS_PER_MINUTE):
            event = LogEvent(
                event_id=f"00000003-0000-4000-8000-{number:012x}",
                timestamp=min(first + minute * MINUTE_MS + draw.randrange(MINUTE_MS), now_ms),
                source="bench",
                service="bench-day",
                endpoint=DAY_KEY,
                latency_ms=round(draw.lognormvariate(3, 1), 3),
            )
            number += 1
            producer.produce(
                topic, encode_event(event), b"bench-day", headers=[(LANE_HEADER, b"bench-day")]
            )
        producer.poll(0)
    producer.flush(30)


async def ask(session: aiohttp.ClientSession, url: str, worker: str, taken: Taken) -> None:
    """Ask once, and note how long it took."""
    began = time.perf_counter()
    try:
        async with session.get(url) as reply:
            body = await reply.read()
    except (aiohttp.ClientError, TimeoutError):
        taken.failed += 1
        return
    took_ms = (time.perf_counter() - began) * 1000
    if reply.status != 200:
        taken.failed += 1
    elif json.loads(body)["worker"] == worker:
        taken.local.append(took_ms)
    else:
        taken.remote.append(took_ms)


async def _points(port: int, worker: str) -> Taken:
    """Point queries to one worker, evenly spaced, whoever owns the key."""
    taken, draw = Taken(), Random(3)  # noqa: S311 - load
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(QUERIES_PER_S * SECONDS):
            wait = began + number / QUERIES_PER_S - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            key = quote(f"/api/v1/shop/{draw.randrange(KEYS)}", safe="")
            url = f"http://127.0.0.1:{port}{PATH}{key}?from=-5m"
            group.create_task(ask(session, url, worker, taken))
    return taken


def _day(worker: Worker) -> list[float]:
    """Milliseconds to the last byte of a day of one key, asked of its owner."""
    answer = worker.get(f"{PATH}{quote(DAY_KEY, safe='')}")[1]
    url = f"http://{answer['worker']}{PATH}{quote(DAY_KEY, safe='')}?from=-24h"
    took = []
    for _ in range(DAY_QUERIES):
        began = time.perf_counter()
        with urllib.request.urlopen(url, timeout=10) as reply:
            body = reply.read()
        took.append((time.perf_counter() - began) * 1000)
        if len(json.loads(body)["windows"]) < MINUTES - 1:
            raise MissedError(
                f"a day is {MINUTES} windows, the answer has fewer:\n"
                f"{body[:500]!r}\n{worker.tail()}"
            )
    return took


def bench_queries(broker: BenchBroker, config: str) -> str:
    """500 point queries a second through 20 000 events a second on two workers; then a day."""
    cluster = new_cluster(broker)
    folder = one_window(cluster.home) if config == ONE_WINDOW else CONFIG_DIR
    workers = [
        cluster.worker(HEADRACE_DEMO="0", HEADRACE_COLLECT="0", HEADRACE_CONFIG=str(folder))
        for _ in range(2)
    ]
    topic = cluster.topic(LOG_EVENTS)
    try:
        for worker in workers:
            worker.ready()
        _send_day(producer(broker.bootstrap), topic, time.time_ns() // 1_000_000)
        wait_for("the day is in its windows", lambda: _has_day(workers[0]) or None)
        quiet_ms = _day(workers[0])
        with traffic(broker.bootstrap, topic, RATE):
            time.sleep(WARM_UP_S)
            pids = [broker.pid, *(worker.process.pid for worker in workers)]
            began = [usage(pid) for pid in pids]
            taken = asyncio.run(_points(workers[0].port, f"127.0.0.1:{workers[0].port}"))
            ended = [usage(pid) for pid in pids]
            busy_ms = _day(workers[0])
    finally:
        for worker in workers:
            worker.stop()
    cores = [(b.cpu_s - a.cpu_s) / (b.at - a.at) for a, b in zip(began, ended, strict=True)]
    return _report(config, taken, quiet_ms, busy_ms, cores)


def _has_day(worker: Worker) -> bool:
    status, answer = worker.get(f"{PATH}{quote(DAY_KEY, safe='')}")
    return status == 200 and sum(w["count"] for w in answer["windows"]) >= MINUTES * (
        EVENTS_PER_MINUTE - 1
    )


def _report(
    config: str, taken: Taken, quiet_ms: list[float], busy_ms: list[float], cores: list[float]
) -> str:
    broker, *workers = (f"{each:.2f}" for each in cores)
    lines = [
        f"{QUERIES_PER_S} point queries/s through {RATE:,} events/s, two workers, {config}; "
        f"{machine()}, {today()}",
        f"  cores: workers {' and '.join(workers)}, broker {broker}; load {os.getloadavg()[0]:.1f}",
    ]
    missed = []
    for name, values, most in (
        ("local", taken.local, LOCAL_MS_MAX),
        ("remote", taken.remote, REMOTE_MS_MAX),
        ("24 h of minutes of one key, quiet", quiet_ms, DAY_MS_MAX),
        ("24 h of minutes of one key, under load", busy_ms, None),
    ):
        p99 = percentile(values, 0.99)
        line = f"  {name}: p50 {percentile(values, 0.5):.1f} ms, p99 {p99:.1f} ms of {len(values)}"
        if most is not None:
            line += f" (p99 at most {most:g} ms)"
            if not p99 <= most:
                missed.append(name)
        lines.append(line)
    lines.append(f"  failed: {taken.failed}")
    text = "\n".join(lines)
    if missed or taken.failed:
        raise MissedError(f"{text}\nmissed: {', '.join(missed) or 'queries failed'}")
    return text
