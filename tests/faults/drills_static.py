"""Drills of static membership: workers that come back in time, and two that are one."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

from tests.faults.fleet import Member, fleet, home_of, start_worker
from tests.faults.run import Outcome, drill
from tests.faults.trap import Trap
from tests.system.harness import wait_for

STATIC = {"HEADRACE_STATIC_MEMBERSHIP": "true"}
SESSION_MS = 60_000
"""A worker that is started at once is back well within it, however busy the machine."""
_JOINED = re.compile(r"Joined group '\S+' \(generation (\d+)\)")
_INSTANCE = re.compile(r"another worker has joined the group as '(\S+)'")


def generations(member: Member) -> list[int]:
    """Generations of the group that the worker has joined since it was started."""
    return [int(n) for n in _JOINED.findall(member.worker.log.read_text(errors="replace"))]


def static_restart_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """A static member is killed, and asked to go, and comes back: nobody else notices."""
    with drill(
        "static restart", bootstrap, home, seed, environment=STATIC, session_timeout_ms=SESSION_MS
    ) as run:
        for number, asked in enumerate(run.draw.sample([True, False], 2)):
            at = 0.2 + 0.3 * number
            run.until(at, hold=at + 0.25)
            member, other = run.draw.sample(run.workers.members, 2)
            before, port = generations(other), (member.home / "workers/0/port").read_text()
            run.fault(f"{member.name} {'asked' if asked else 'killed'}")
            if asked:
                run.terminate(member)
            else:
                member.signal(signal.SIGKILL)
                member.worker.process.wait(60)
            member.start()
            run.shared()
            run.quiet()
            assert generations(other) == before, "the group rebalanced"
            assert generations(member) == before[-1:]
            assert (member.home / "workers/0/port").read_text() == port
    return run.outcome


def duplicate_drill(bootstrap: str, home: Path) -> tuple[Member, str]:
    """A worker on a copy of another's folder: the former, ended, and the instance it names."""
    with fleet(bootstrap, home, names=("a",), environment=STATIC) as workers:
        cluster, (former,) = workers.cluster, workers.members
        copied = home_of(cluster, "b") / "workers" / "0"
        copied.mkdir(parents=True)
        shutil.copy(former.home / "workers" / "0" / "id", copied / "id")
        # The same address, as if on another machine.
        elsewhere = STATIC | {
            "HEADRACE_WEB_BIND": "127.0.0.2",
            "HEADRACE_ADVERTISED_HOST": "127.0.0.1",
        }
        trap = Trap(cluster.home / "trap-b")
        heir = start_worker(cluster, "b", former.port, trap, elsewhere)
        try:
            wait_for("the former ends", lambda: former.worker.process.poll() is not None or None)
            wait_for("the heir runs", lambda: "restored" in heir.log.read_text() or None)
            assert heir.stop() == 0, heir.tail()
        finally:
            heir.kill()
        found = _INSTANCE.search(former.worker.log.read_text(errors="replace"))
        assert found is not None, former.worker.tail()
        return former, found[1]
