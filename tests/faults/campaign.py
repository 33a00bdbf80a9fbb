"""Random drills of every class, one after another: ``python -m tests.faults.campaign N``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults import (
    drills,
    drills_broker,
    drills_delivery,
    drills_disk,
    drills_input,
    drills_static,
)
from tests.faults.own_broker import OwnBroker, own_broker
from tests.faults.run import Outcome
from tests.faults.trap import STEPS

Drill = Callable[[OwnBroker, Path, int], Outcome]
PAUSE_S = 47.0
"""Longer than a session and a transaction, and than librdkafka's patience with a socket."""
COLUMNS = "{:3} {:22} {:>10}  {:5}  {:>7}  {}"


def _zombie(broker: OwnBroker, home: Path, seed: int) -> Outcome:
    step = random.Random(seed).choice([*STEPS[:3], "idle"])
    return drills.zombie_drill(broker.bootstrap, home, seed, [step])


def _held_up(broker: OwnBroker, home: Path, seed: int) -> Outcome:
    step = random.Random(seed).choice(STEPS)
    return drills.held_up_drill(broker.bootstrap, home, seed, step)


def _pause(broker: OwnBroker, home: Path, seed: int) -> Outcome:
    return drills_broker.broker_pause_drill(broker, home, seed, PAUSE_S)


def _direct(drill: Callable[[str, Path, int], Outcome]) -> Drill:
    return lambda broker, home, seed: drill(broker.bootstrap, home, seed)


CLASSES: dict[str, Drill] = {
    "kill": _direct(drills.kill_drill),
    "redelivery": _direct(drills_delivery.redelivery_drill),
    "zombie": _zombie,
    "join and leave": _direct(drills.join_and_leave_drill),
    "rolling restart": _direct(drills.rolling_restart_drill),
    "scale out": _direct(drills.scale_out_drill),
    "static restart": _direct(drills_static.static_restart_drill),
    "held up": _held_up,
    "clock jump": _direct(drills.clock_jump_drill),
    "broker kill": drills_broker.broker_kill_drill,
    "broker pause": _pause,
    "connections": drills_broker.connection_drill,
    "garbage": _direct(drills_input.garbage_drill),
    "foreign transactions": _direct(drills_input.foreign_transactions_drill),
    "disk full": _direct(drills_disk.disk_full_drill),
}


def chosen(count: int, seed: int) -> list[tuple[str, int]]:
    """Class and seed of each drill: every class in turn, in random order."""
    draw = random.Random(seed)
    classes: list[str] = []
    while len(classes) < count:
        classes += draw.sample(list(CLASSES), len(CLASSES))
    return [(name, draw.randrange(1 << 30)) for name in classes[:count]]


def run(count: int, seed: int) -> bool:
    """Run them and print a row each; True when all were exact."""
    exact = 0
    say("", "class", "seed", "exact", "seconds", "faults at committed progress")
    with (
        tempfile.TemporaryDirectory(prefix="drills-", ignore_cleanup_errors=True) as folder,
        own_broker(Path(folder) / "kafka") as broker,
    ):
        for number, (name, own_seed) in enumerate(chosen(count, seed), 1):
            began = time.monotonic()
            try:
                outcome = CLASSES[name](broker, Path(folder) / str(number), own_seed)
            except Exception:  # noqa: BLE001 - the other drills go on, whatever one of them found
                say(number, name, own_seed, "NO", f"{time.monotonic() - began:.1f}", "")
                traceback.print_exc()
                continue
            exact += 1
            faults = ", ".join(outcome.faults[:6])
            say(number, outcome.name, own_seed, "yes", f"{outcome.seconds:.1f}", faults)
    sys.stdout.write(f"{exact} of {count} exact (seed {seed})\n")
    return exact == count


def say(*cells: object) -> None:
    """One row of the table."""
    sys.stdout.write(COLUMNS.format(*cells).rstrip() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Exit code 0 when every drill was exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many drills")
    parser.add_argument("--seed", type=int, default=1, help="decides classes and their seeds")
    arguments = parser.parse_args()
    sys.exit(0 if run(arguments.count, arguments.seed) else 1)


if __name__ == "__main__":
    main()
