"""Drills with processes: killed, frozen, asked to go, joined by others. Each is exact or fails."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.fleet import Fleet, Member, fleet
from tests.faults.load import Load
from tests.faults.trap import STEPS
from tests.faults.verify import check_exact, finish
from tests.system.harness import committed_windows, total, wait_for


@dataclass
class Outcome:
    """What a drill that was exact did: its faults, with committed progress when they fell."""

    name: str
    seed: int
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def kill_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Four kills of two workers within 20 to 80 % with an epoch open, the last with its disk."""
    draw, outcome = random.Random(seed), Outcome("kill", seed)
    began = time.monotonic()
    with fleet(bootstrap, home, names=("a", "b")) as workers:
        load = Load(workers.cluster, seed=seed, total=40_000).start()
        try:
            steps = draw.sample(STEPS, len(STEPS))
            wiped = draw.randrange(4)
            for number, step in enumerate(steps):
                at = 0.22 + 0.14 * number
                load.limit = at + 0.12
                wait_for(f"{at:.0%} committed", partial(load.reached, at))
                victim = workers.members[draw.randrange(2)]
                share = _killed(workers, victim, step, draw.randint(1, 4), load.total)
                lost = number == wiped
                if lost:
                    victim.wipe()
                outcome.faults.append(f"{victim.name}@{step} {share:.0%}{' wiped' * lost}")
                assert 0.2 <= share <= 0.8, outcome.faults
                victim.start()
                wait_for(f"{victim.name} is back", workers.shared)
            finish(load)
            assert workers.stop() == [0, 0]
            check_exact(workers.cluster, load)
        finally:
            load.close()
    outcome.seconds = time.monotonic() - began
    return outcome


def _killed(workers: Fleet, victim: Member, step: str, nth: int, events: int) -> float:
    """Kill the worker at a step of a commit; the committed share of the events just then."""
    victim.trap.arm(step, nth=nth)
    victim.sprung()
    assert victim.worker.process.wait(10) == -signal.SIGKILL
    return total(committed_windows(workers.cluster)) / events


def zombie_drill(bootstrap: str, home: Path, seed: int, step: str) -> Outcome:
    """A worker freezes at a step (or ``idle``), its partitions move on, it wakes: all is exact."""
    outcome = Outcome(f"zombie {step}", seed)
    began = time.monotonic()
    with fleet(bootstrap, home, names=("a", "b")) as workers:
        zombie, heir = workers.members
        load = Load(workers.cluster, seed=seed, total=30_000).start()
        try:
            load.limit = 0.4
            if step == "idle":
                wait_for("idle", lambda: load.reached(0.4))
                zombie.signal(signal.SIGSTOP)
            else:
                wait_for("30 % committed", lambda: load.reached(0.3))
                zombie.trap.arm(step, nth=1 + seed % 3, with_signal=signal.SIGSTOP)
                zombie.sprung()
            before = workers.committed()
            outcome.faults.append(f"a@{step} {load.progress():.0%}")
            load.limit = 0.7
            wait_for("the heir has committed beyond", lambda: workers.beyond(before))
            assert workers.owned() is None or len(workers.owned() or ()) == 1
            zombie.signal(signal.SIGCONT)
            wait_for("the zombie has rejoined", workers.shared)
            rejoined = workers.committed()
            finish(load)
            assert workers.beyond(rejoined)
            if step != "idle":
                assert zombie.logged("epoch not committed"), "the zombie noticed nothing"
            assert heir.is_ready()
            assert workers.stop() == [0, 0]
            check_exact(workers.cluster, load)
        finally:
            load.close()
    outcome.seconds = time.monotonic() - began
    return outcome
