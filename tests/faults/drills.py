"""Drills of workers: killed, frozen, held up, asked to go, joined by others, set wrong."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.faults.fleet import SESSION_TIMEOUT_MS, TOPICS, Fleet, Member
from tests.faults.pulse import Pulse
from tests.faults.run import Outcome, drill
from tests.faults.trap import HOLD, KILL_STEPS
from tests.system.harness import committed_windows, total, wait_for

IDLE_S = 30.0
"""Longest that a partition may stand still while workers are restarted in turn."""
TAKE_OVER_S = SESSION_TIMEOUT_MS / 1000 + 30.0
"""Within this the others own what a killed worker owned."""
NOT_COMMITTED = "epoch not committed"


def kill_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """A kill at each step of a commit, of either worker, within 20 to 80 %; one loses its disk."""
    with drill("kill", bootstrap, home, seed, total=48_000) as run:
        workers, load, draw = run.workers, run.load, run.draw
        steps = draw.sample(KILL_STEPS, len(KILL_STEPS))
        wiped = draw.randrange(len(steps))
        for number, step in enumerate(steps):
            at = 0.22 + 0.12 * number
            run.until(at, hold=at + 0.1)
            victim = workers.members[draw.randrange(2)]
            share = _killed(workers, victim, step, draw.randint(1, 4), load.total)
            lost = number == wiped
            if lost:
                victim.wipe()
            run.outcome.faults.append(f"{victim.name}@{step} {share:.0%}{' wiped' * lost}")
            assert 0.2 <= share <= 0.8, run.outcome.faults
            victim.start()
            run.shared()
    return run.outcome


def _killed(workers: Fleet, victim: Member, step: str, nth: int, events: int) -> float:
    """Kill the worker at a step of a commit; the committed share of the events just then."""
    victim.trap.arm(step, nth=nth)
    victim.sprung()
    assert victim.worker.process.wait(60) == -signal.SIGKILL
    return total(committed_windows(workers.cluster)) / events


def zombie_drill(bootstrap: str, home: Path, seed: int, steps: Sequence[str]) -> Outcome:
    """A worker freezes at each step (or ``idle``), its partitions move on, it wakes, fenced."""
    with drill("zombie " + ", ".join(steps), bootstrap, home, seed, total=20_000) as run:
        workers, part = run.workers, 0.8 / len(steps)
        zombie, heir = workers.members
        for number, step in enumerate(steps):
            at = 0.05 + part * number
            run.until(at, hold=at + part * 0.4)
            if step == "idle":
                run.quiet()
                zombie.signal(signal.SIGSTOP)
            else:
                run.freeze(zombie, step)
            before, failures = workers.committed(), zombie.said(NOT_COMMITTED)
            run.fault(f"a@{step}")
            run.load.limit = at + part * 0.7
            wait_for("the heir has committed beyond", partial(workers.beyond, before))
            assert len(workers.shares() or [set()]) == 1
            zombie.signal(signal.SIGCONT)
            run.even()
            rejoined = workers.committed()
            run.load.limit = at + part
            wait_for("both go on", partial(workers.beyond, rejoined))
            if step != "idle":
                assert zombie.said(NOT_COMMITTED) > failures, "the zombie was not fenced"
        assert heir.is_ready()
    return run.outcome


def join_and_leave_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """A second worker joins under load and gets half; then both go in turn, and come back."""
    with drill("join and leave", bootstrap, home, seed, names=("a",)) as run:
        run.until(0.1 + 0.1 * run.draw.random())
        first = run.workers.members[0]
        run.fault("b joins")
        second = run.workers.add("b")
        run.load.limit = 0.6
        run.even()
        moved = second.owned()
        before = {tp: at for tp, at in run.workers.committed().items() if tp in moved}
        assert before, "nothing that is under load has moved"
        run.until(0.4, hold=0.8)
        wait_for("what has moved goes on", lambda: run.workers.beyond(before))
        leaving, staying = run.draw.sample([first, second], 2)
        run.fault(f"{leaving.name} leaves")
        run.terminate(leaving)
        run.until(0.7, hold=0.95)
        run.fault(f"{staying.name} leaves")
        run.terminate(staying)
        leaving.start()
        staying.start()
        run.shared()
    return run.outcome


def rolling_restart_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Three workers are restarted one after the other under a load that never pauses."""
    names = ("a", "b", "c")
    with drill("rolling restart", bootstrap, home, seed, names=names, total=20_000) as run:
        members = run.draw.sample(run.workers.members, 3)
        run.load.rate = 500
        run.until(0.05, hold=0.9)
        with Pulse(run.workers).taken() as pulse:
            for member in members:
                run.fault(f"{member.name} restarts")
                run.terminate(member)
                member.start()
                run.shared()
            restarted = run.workers.committed()
            run.load.limit = 1.0
            wait_for("every partition goes on", lambda: run.workers.beyond(restarted))
        run.load.rate = 4_000
        idle_s = pulse.idle_s()
        assert len(idle_s) == len(TOPICS) * run.workers.cluster.partitions, sorted(idle_s)
        longest = max(idle_s, key=lambda tp: idle_s[tp])
        run.outcome.faults.append(f"no partition idle for more than {idle_s[longest]:.1f} s")
        assert idle_s[longest] <= IDLE_S, f"{longest} was idle for {idle_s[longest]:.1f} s"
    return run.outcome


def scale_out_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Two workers join one under load; then one of the three is killed. Shares stay even."""
    with drill("scale out", bootstrap, home, seed, names=("a",), partitions=12) as run:
        run.until(0.1, hold=0.5)
        for name in ("b", "c"):
            run.workers.add(name)
        run.fault("b and c join")
        run.even()
        run.until(0.3, hold=0.8)
        victim = run.draw.choice(run.workers.members)
        run.workers.members.remove(victim)
        before = run.workers.committed()
        assert min(before.values()) >= 0, "not every partition is under load"
        victim.worker.kill()
        run.fault(f"{victim.name} killed")
        run.even(TAKE_OVER_S)
        wait_for("every partition goes on", lambda: run.workers.beyond(before))
    return run.outcome


GIVEN_UP = "epoch not committed: not done in time for the hand-over"


def held_up_drill(bootstrap: str, home: Path, seed: int, step: str) -> Outcome:
    """A worker's commit hangs while another joins: the group goes on without it, exactly."""
    with drill(f"held up {step}", bootstrap, home, seed) as run:
        held = run.draw.choice(run.workers.members)
        run.until(0.3, hold=0.5)
        held.trap.arm(step, nth=run.draw.randint(1, 3), with_signal=HOLD)
        held.sprung()
        try:
            run.fault(f"{held.name}@{step}, c joins")
            joined = run.workers.add("c")
            run.load.limit = 0.8
            wait_for("c owns partitions", partial(_owns, run.workers, len(run.workers.members)))
            wait_for("c is ready", joined.is_ready)
            assert held.logged(GIVEN_UP), f"{held.name} handed over and gave nothing up"
        finally:
            held.trap.let_go()
        run.shared()
    return run.outcome


def _owns(workers: Fleet, members: int) -> bool | None:
    return len(workers.shares() or ()) == members or None


HOUR_MS = 3_600_000
JUMPED = "the clock jumped by"


def clock_jump_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Wall clocks jump ahead by an hour and back again under load, together and alone."""
    with drill("clock jump", bootstrap, home, seed) as run:
        members = run.workers.members
        alone = run.draw.choice(members)
        turns = [(members, HOUR_MS), (members, 0), ([alone], HOUR_MS), ([alone], -HOUR_MS)]
        for number, (moved, ahead_ms) in enumerate([*turns, ([alone], 0)]):
            at = 0.15 + 0.15 * number
            run.until(at, hold=at + 0.15)
            names = "".join(member.name for member in moved)
            run.fault(f"{names} {ahead_ms // HOUR_MS:+d} h")
            before = {member.name: _jumps(member) for member in moved}
            for member in moved:
                member.trap.set_clock(ahead_ms)
            for member in moved:
                wait_for(
                    f"{member.name} notices",
                    lambda m=member, n=before[member.name]: _jumps(m) > n or None,  # type: ignore[misc]
                )
        assert all(member.is_ready() for member in members)
    return run.outcome


def _jumps(member: Member) -> int:
    return member.worker.log.read_text(errors="replace").count(JUMPED)
