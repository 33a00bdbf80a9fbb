"""Sessions outlive kills: what is said of them is what a plain loop finds, each revision once."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from agents.topics import DEAD_LETTERS, SESSIONS_CLOSED
from tests.faults.fleet import Member, fleet
from tests.faults.load import START_MS
from tests.faults.reference import GAP_MS, Visit, sessions_of
from tests.system.harness import Cluster, Feeder, read_topic, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.faults]

MINUTE_MS = 60_000
PARTS, PART, USERS = 4, 1_500, 40
STEP_MS = 3_000
"""Event time between two events: five hours in all."""
SERVICES = 16


def visits(seed: int) -> list[dict[str, Any]]:
    """Users who come for three quarters of an hour and stay away as long, in turns."""
    draw, made = random.Random(seed), []
    for number in range(PARTS * PART):
        at = START_MS + number * STEP_MS
        present = [u for u in range(USERS) if (at // (45 * MINUTE_MS) + u) % 2]
        made.append(
            visit(seed, number, at, f"user-{draw.choice(present)}", draw.randrange(SERVICES))
        )
    return made


def visit(seed: int, number: int, at: int, user: str | None, service: int) -> dict[str, Any]:
    who = {} if user is None else {"user_id": user}
    return {
        "event_id": f"{seed:08x}-0000-4000-8000-{number:012x}",
        "timestamp": at,
        "source": "load",
        "service": f"service-{service}",
        "endpoint": "/",
        **who,
    }


def plainly(events: list[dict[str, Any]]) -> Counter[Visit]:
    """Every session, by one sort and one loop."""
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        times[event["user_id"]].append(event["timestamp"])
    return sessions_of(times)


def said(cluster: Cluster) -> list[dict[str, Any]]:
    """Records of sessions-closed of users."""
    records = [json.loads(each.value() or b"") for each in read_topic(cluster, SESSIONS_CLOSED)]
    return [each for each in records if each["type"] == "users"]


def standing(records: list[dict[str, Any]]) -> Counter[Visit]:
    """What a reader believes in the end: the last revision of each id that nothing superseded."""
    last: dict[str, dict[str, Any]] = {}
    for each in records:
        if each["id"] not in last or each["revision"] > last[each["id"]]["revision"]:
            last[each["id"]] = each
    gone = {other for each in records for other in each["supersedes"]}
    return Counter(
        (each["user"], each["start"], each["end"], each["count"])
        for key, each in last.items()
        if key not in gone
    )


def killed(member: Member) -> None:
    """Wait until the trap has killed it."""
    member.sprung()
    assert member.worker.process.wait(60) == -signal.SIGKILL


def test_a48_7_kills_in_mid_session_leave_the_sessions_of_the_reference(
    kafka: str, tmp_path: Path
) -> None:
    events = visits(seed=48)
    wanted = plainly(events)
    assert len(wanted) > 3 * USERS
    with fleet(kafka, tmp_path, names=("a",)) as workers:
        member, feeder = workers.members[0], Feeder(workers.cluster)
        for number in range(PARTS):
            if number in (1, 2):
                member.trap.arm("committed" if number == 2 else "produced", nth=2)
            feeder.send(events[number * PART : (number + 1) * PART])
            feeder.flush()
            if number in (1, 2):
                killed(member)
                if number == 2:
                    member.wipe()
                member.start()
                member.ready()
        # Time goes on in every partition: the last sessions are over.
        end = events[-1]["timestamp"] + 2 * GAP_MS
        feeder.send(visit(1, n, end, None, n) for n in range(SERVICES))
        feeder.flush()

        def all_said() -> bool | None:
            return standing(said(workers.cluster)) == wanted or None

        try:
            wait_for("every session is said", all_said)
        except AssertionError:
            found = standing(said(workers.cluster))
            raise AssertionError(
                f"missing {list((wanted - found).items())[:5]}, "
                f"too many {list((found - wanted).items())[:5]}"
            ) from None
        path = f"/api/v1/sessions/analytics?from={START_MS}&to={end + GAP_MS}"

        def all_summed() -> dict[str, Any] | None:
            # The worker tells of a commit a moment after readers of its topics may see it.
            sums: dict[str, Any] = member.worker.answer(path)
            return sums if sums["open"] == 0 else None

        sums = wait_for("no session is open", all_summed)
        codes = workers.stop()
        assert not any(codes), f"workers ended with {codes}"
        records = said(workers.cluster)
        twice = Counter((each["id"], each["revision"]) for each in records)
        assert max(twice.values()) == 1
        assert not read_topic(workers.cluster, DEAD_LETTERS)
    assert sums["total"]["sessions"] == len(wanted)
    assert sums["total"]["events"] == len(events)
    assert sums["total"]["duration_ms"] == sum(e - s for _, s, e, _ in wanted)
