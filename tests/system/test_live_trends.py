"""Trends of a real worker that is killed: the same values after it, and the history."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.engine.clock import SystemClock
from tests.system.harness import Cluster, Feeder, Worker, wait_for

pytestmark = pytest.mark.broker

MINUTE_MS = 60_000
LOAD = {"quick": (200, 10.0), "usual": (30, 80.0), "slow": (2, 2_000.0)}
"""Events of each service and about how many ms each takes: a mean of means would be far off."""
OLD = 400
Event = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """Events now, and of two hours ago; ``at_ms`` is when they begin."""

    at_ms: int
    now: list[Event]
    old: list[Event]


def made(seed: int, count: int, service: str, about_ms: float, start_ms: int) -> list[Event]:
    """Events of half a minute."""
    draw = Random(seed)
    return [
        {
            "event_id": f"{seed:08x}-0000-4000-8000-{number:012x}",
            "timestamp": start_ms + number * 30_000 // count,
            "source": "load",
            "service": service,
            "status": 503 if draw.random() < 0.1 else 200,
            "latency_ms": round(about_ms * (0.5 + draw.random()), 3),
        }
        for number in range(count)
    ]


def load() -> Loaded:
    """Live events of three services within the last minute, and a file of two hours ago."""
    at_ms = SystemClock().now_ms() - MINUTE_MS
    now = [
        event
        for seed, (service, (count, about_ms)) in enumerate(LOAD.items())
        for event in made(seed, count, service, about_ms, at_ms)
    ]
    Random(1).shuffle(now)
    old_ms = (at_ms - 120 * MINUTE_MS) // MINUTE_MS * MINUTE_MS
    old = [
        event
        for n in range(4)
        for event in made(10 + n, OLD // 4, "quick", 50.0 * (n + 1), old_ms + n * MINUTE_MS)
    ]
    return Loaded(at_ms, now, old)


def plainly(events: list[Event]) -> dict[str, float | int]:
    """What a window of these events must say."""
    values = [event["latency_ms"] for event in events]
    bad = sum(event["status"] >= 500 for event in events)
    mean = sum(values) / len(values)
    return {
        "count": len(values),
        "errorRate": bad / len(values),
        "avgLatency": mean,
        "min": min(values),
        "max": max(values),
        "stddev": math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)),
    }


FIGURES = ("count", "errorRate", "avgLatency", "min", "max", "stddev", "p95")


class Asked:
    """What a worker says of the trends. Of windows that end now, the longest: 15 minutes."""

    def __init__(self, worker: Worker, loaded: Loaded) -> None:
        self.worker = worker
        self.loaded = loaded

    def window(self, path: str) -> dict[str, Any]:
        def told() -> dict[str, Any] | None:
            status, answer = self.worker.get(path)
            if status == 404:
                return {}
            return answer["windows"]["15m"] if status == 200 else None

        window = wait_for(f"an answer to {path}", told)
        return {name: window.get(name) for name in FIGURES}

    def current(self) -> dict[str, dict[str, Any]]:
        """Figures of all services together (key "") and of each."""
        services = {name: self.window(f"/trends/{name}") for name in LOAD}
        return {"": self.window("/trends"), **services}

    def history(self) -> list[dict[str, Any]]:
        """One-minute windows of two hours ago, one each 10 s."""
        from_ms = self.loaded.old[0]["timestamp"]
        to_ms = from_ms + 6 * MINUTE_MS
        path = f"/trends/quick/history?window=1m&step=10000&from={from_ms}&to={to_ms}"
        answer = self.worker.answer(path)
        kept = ("from", "to", *FIGURES)
        return [{name: window[name] for name in kept} for window in answer["windows"]]

    def counted(self, now: int, old: int) -> bool | None:
        """Whether so many events are in the windows of now, and as many in those of then."""
        if self.current()[""]["count"] != now:
            return None
        at_their_end = self.history()[6::6]
        return sum(window["count"] for window in at_their_end) == old or None


def right(found: dict[str, Any], events: list[Event]) -> bool:
    """Whether a window says of its events what plain Python does."""
    return {name: found[name] for name in FIGURES if name != "p95"} == pytest.approx(
        plainly(events), rel=1e-9
    )


def test_a47_9_a47_10_trends_are_weighted_and_survive_kills_as_does_what_was_two_hours_ago(
    cluster: Cluster, workers: list[Worker], tmp_path: Path
) -> None:
    loaded, feeder = load(), Feeder(cluster)
    workers.append(cluster.worker(HEADRACE_COLLECT="0").ready())
    half = len(loaded.now) // 2
    feeder.send(loaded.now[:half])
    feeder.send(loaded.old[: OLD // 2], headers=[("lane", b"file-1")])
    feeder.flush()
    asked = Asked(workers[0], loaded)
    wait_for("half is counted", lambda: asked.counted(half, OLD // 2))
    feeder.send(loaded.now[half:])
    feeder.send(loaded.old[OLD // 2 :], headers=[("lane", b"file-1")])
    feeder.flush()
    workers[0].kill()

    workers.append(cluster.worker(HEADRACE_COLLECT="0").ready())
    kept = Asked(workers[1], loaded)
    wait_for("all is counted", lambda: kept.counted(len(loaded.now), OLD))
    current, history = kept.current(), kept.history()
    for service in LOAD:
        mine = [event for event in loaded.now if event["service"] == service]
        assert right(current[service], mine), service
    for window in history:
        mine = [e for e in loaded.old if window["from"] <= e["timestamp"] < window["to"]]
        assert right(window, mine) if mine else window["count"] == 0
    weighted(current, loaded)
    workers[1].kill()

    wiped = replace(cluster, home=tmp_path / "another disk")
    workers.append(wiped.worker(HEADRACE_COLLECT="0").ready())
    restored = Asked(workers[2], loaded)
    assert restored.current() == current
    assert restored.history() == history


def weighted(current: dict[str, dict[str, Any]], loaded: Loaded) -> None:
    """All services together are what their events are, each counting once."""
    services = [current[name] for name in LOAD]
    every, count = current[""], sum(each["count"] for each in services)
    merged = sum(each["avgLatency"] * each["count"] for each in services) / count
    mean_of_means = sum(each["avgLatency"] for each in services) / len(services)
    assert right(every, loaded.now)
    assert (every["count"], every["avgLatency"]) == (count, pytest.approx(merged))
    assert mean_of_means > 5 * merged
