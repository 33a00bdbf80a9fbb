"""Drills of the broker and of the way to it: killed, paused, cut off, slow."""

from __future__ import annotations

import signal
import threading
from functools import partial
from pathlib import Path

from tests.faults.own_broker import OwnBroker
from tests.faults.run import Outcome, drill
from tests.faults.trap import STEPS
from tests.system.harness import wait_for

NOT_COMMITTED = "epoch not committed"
CUT_OFF = "Unable to update metadata"
DELAY_S = 0.02


def broker_kill_drill(
    broker: OwnBroker, home: Path, seed: int, shares: tuple[float, ...] = (0.25, 0.6)
) -> Outcome:
    """The broker is killed while a worker is within a commit, and started again, at each share."""
    with drill("broker kill", broker.bootstrap, home, seed) as run:
        for at in shares:
            run.until(at, hold=at + 0.2)
            member, step = run.draw.choice(run.workers.members), run.draw.choice(STEPS)
            run.freeze(member, step)
            broker.kill()
            run.fault(f"broker killed, {member.name}@{step}")
            member.signal(signal.SIGCONT)
            broker.start()
            run.shared()
    return run.outcome


def broker_pause_drill(
    broker: OwnBroker, home: Path, seed: int, pause_s: float | None = None
) -> Outcome:
    """The broker stands still; None: until both workers have given up a transaction."""
    with drill(f"broker pause {pause_s or ''}".rstrip(), broker.bootstrap, home, seed) as run:
        run.until(0.3, hold=0.6)
        broker.pause()
        try:
            run.fault("broker paused")
            if pause_s is None:
                for member in run.workers.members:
                    wait_for(f"{member.name} gives up", partial(member.logged, NOT_COMMITTED))
            else:
                threading.Event().wait(pause_s)
        finally:
            broker.go_on()
        run.shared()
    return run.outcome


def connection_drill(broker: OwnBroker, home: Path, seed: int) -> Outcome:
    """Connections of the workers are slow, cut within a commit, and refused for a while."""
    proxy, environment = broker.proxy, broker.through_proxy
    with drill("connections", broker.bootstrap, home, seed, environment=environment) as run:
        cuts_before = proxy.cuts
        try:
            run.until(0.15)
            proxy.delay_s = DELAY_S
            run.fault("slow")
            run.until(0.25)
            proxy.delay_s = 0.0
            run.load.limit = 0.8
            for step in run.draw.sample(STEPS, 3):
                member = run.draw.choice(run.workers.members)
                run.freeze(member, step)
                proxy.cut()
                run.fault(f"cut {member.name}@{step}")
                member.signal(signal.SIGCONT)
                run.until(min(run.load.progress() + 0.08, 0.75))  # no more than 0.8 is fed
            assert proxy.cuts > cuts_before, "no connection was there to be cut"
            run.load.limit = 0.95
            member = run.draw.choice(run.workers.members)
            run.freeze(member, "produced")
            proxy.refuses = True
            proxy.cut()
            run.fault(f"refused {member.name}@produced")
            member.signal(signal.SIGCONT)
            for each in run.workers.members:
                wait_for(f"{each.name} is cut off", partial(each.logged, CUT_OFF))
        finally:
            proxy.refuses, proxy.delay_s = False, 0.0
        run.shared()
    return run.outcome
