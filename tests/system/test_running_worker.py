"""The product as its users meet it: workers as processes, the command line, HTTP."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from agents.topics import DEAD_LETTERS, LATE_EVENTS, LOG_EVENTS
from tests.system.harness import (
    CHECKOUT,
    WINDOW_MS,
    Cluster,
    Feeder,
    Reference,
    Worker,
    committed_windows,
    events,
    read_topic,
    total,
    wait_for,
)

pytestmark = pytest.mark.broker


def access_log(lines: int, seed: int) -> list[str]:
    """Combined access log of a made-up site in May 2015, in order of time."""
    draw, at, made = Random(seed), datetime(2015, 5, 17, 10, 5, tzinfo=UTC), []
    for _ in range(lines):
        at += timedelta(seconds=draw.choice((0, 1, 5, 40)))
        path = draw.choice(("/", "/a", "/images/b c.png", "/presentations/x.html?q=1", "/rss"))
        made.append(
            f"203.0.113.{draw.randrange(255)} - - [{at:%d/%b/%Y:%H:%M:%S +0000}] "
            f'"GET {path} HTTP/1.1" {draw.choice((200, 404, 500))} {draw.randrange(9000)} '
            '"-" "Mozilla/5.0 (X11)"'
        )
    return made


def counted(lines: list[str]) -> Counter[tuple[str, int]]:
    """Lines by (path without query, minute), read plainly."""
    found: Counter[tuple[str, int]] = Counter()
    for line in lines:
        at = datetime.strptime(line.split("[")[1].split("]")[0], "%d/%b/%Y:%H:%M:%S %z")
        path = line.split('"GET ')[1].rsplit(" HTTP/", 1)[0].split("?")[0]
        found[path, int(at.timestamp() * 1000) // WINDOW_MS * WINDOW_MS] += 1
    return found


def ship(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faust", "-A", "app", "ship", *arguments],
        cwd=CHECKOUT,
        env=cluster.environment(1, {}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_shipped_access_log_is_counted_exactly_while_demo_traffic_runs(
    cluster: Cluster, workers: list[Worker], tmp_path: Path
) -> None:
    workers.append(cluster.worker(HEADRACE_DEMO="1").ready())
    lines = access_log(10_000, seed=7)
    log = tmp_path / "shop-access.log.gz"
    log.write_bytes(gzip.compress(("\n".join(lines) + "\nnot a log line\n").encode()))

    shipped = ship(cluster, str(log), "--format", "combined")

    assert shipped.returncode == 0, shipped.stderr + shipped.stdout
    assert "10,000 of 10,000 events acknowledged" in shipped.stdout
    old = datetime(2016, 1, 1, tzinfo=UTC).timestamp() * 1000

    def complete() -> dict[tuple[str, int], int] | None:
        rows = {k: v for k, v in committed_windows(cluster).items() if k[1] < old}
        return {k: v.count for k, v in rows.items()} if total(rows) >= 10_000 else None

    assert wait_for("all lines counted", complete) == dict(counted(lines))
    assert read_topic(cluster, LATE_EVENTS) == []
    (dead,) = read_topic(cluster, DEAD_LETTERS)
    headers = dict(dead.headers() or [])
    assert headers["source_line"] == b"10001"
    assert headers["source_file"].endswith(b"shop-access.log.gz")

    path = "/images/b c.png"
    answer = workers[0].answer(
        f"/api/v1/windows/requests_per_endpoint/{urllib.parse.quote(path, safe='')}"
    )
    assert {w["start"]: w["count"] for w in answer["windows"]} == {
        start: n for (key, start), n in counted(lines).items() if key == path
    }


def test_two_workers_share_the_load_and_answer_for_any_key(
    cluster: Cluster, workers: list[Worker]
) -> None:
    workers.append(cluster.worker().ready())
    workers.append(cluster.worker().ready())
    feeder, reference = Feeder(cluster), Reference()
    start = int(datetime.now(UTC).timestamp() * 1000) - 600_000
    feeder.send(events(11, 20_000, keys=40, start_ms=start, rate=100), reference)
    feeder.flush()

    wait_for("all counted", lambda: total(committed_windows(cluster)) >= 20_000 or None)
    assert reference.differences(committed_windows(cluster)) == []
    owners = set()
    for key in sorted({endpoint for endpoint, _ in reference.rows}):
        wanted = {s: row["count"] for (k, s), row in reference.rows.items() if k == key}
        answers = []
        for worker in workers:
            answer = worker.answer(
                f"/api/v1/windows/requests_per_endpoint/{urllib.parse.quote(key, safe='')}"
            )
            assert {w["start"]: w["count"] for w in answer["windows"]} == wanted
            answers.append(answer["worker"])
        assert len(set(answers)) == 1
        owners.add(answers[0])
    assert len(owners) == 2

    def standing(worker: Worker) -> list[tuple[object, ...]] | None:
        """Topic, partition, owner and committed offset of each row, once nothing is behind."""
        answer = worker.answer("/api/v1/consumers")
        rows = answer["rows"]
        behind = any(row["lag"] != 0 or row["position"] != row["committed"] for row in rows)
        if answer["partial"] or behind:
            return None
        return [(row["topic"], row["partition"], row["owner"], row["committed"]) for row in rows]

    def agreed() -> list[tuple[object, ...]] | None:
        # Of two looks one after the other, the second may find what time has closed between.
        first, second = (standing(each) for each in workers)
        return first if first == second else None

    first = wait_for("nothing is behind, and both say the same", agreed)
    assert {owner for _, _, owner, _ in first} == {f"http://127.0.0.1:{w.port}" for w in workers}
    assert sum(at for topic, _, _, at in first if topic == LOG_EVENTS) == 20_000


def test_a39_1_a_posted_event_is_in_its_window_under_the_answered_id(
    cluster: Cluster, workers: list[Worker]
) -> None:
    workers.append(cluster.worker().ready())
    body = {"source": "shop", "level": "INFO", "message": "hello", "endpoint": "/posted"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{workers[0].port}/api/v1/logs", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 202
        event_id = json.load(reply)["eventId"]

    (record,) = read_topic(cluster, "application-logs")
    assert json.loads(record.value())["event_id"] == event_id
    rows = wait_for("the event counted", lambda: committed_windows(cluster) or None)
    assert [(key, row.count) for (key, _), row in rows.items()] == [("/posted", 1)]


def test_wrong_settings_stop_the_start_and_name_the_field(cluster: Cluster) -> None:
    worker = cluster.worker(HEADRACE_COMMIT_INTERVAL_MS="1")
    assert worker.ended() == 1
    assert "commit_interval_ms" in worker.tail()
    assert "greater than or equal to 5" in worker.tail()


def test_a_taken_web_port_is_one_clear_sentence(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: int = other.getsockname()[1]
        worker = cluster.worker(port)
        assert worker.ended() == 1
    assert f"web port {port} on 127.0.0.1 is taken" in worker.tail()
