"""The frame of every drill: workers, load, faults on record, and the proof at the end."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.fleet import SESSION_TIMEOUT_MS, TERM_S, Fleet, Member, fleet
from tests.faults.load import Load
from tests.faults.verify import check_exact, finish
from tests.system.harness import wait_for


@dataclass
class Outcome:
    """What a drill that was exact did: its faults, with committed progress when they fell."""

    name: str
    seed: int
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Run:
    """A drill under way."""

    workers: Fleet
    load: Load
    draw: random.Random
    outcome: Outcome

    def until(self, share: float, *, hold: float | None = None) -> None:
        """Wait until that share is committed; feed no further than ``hold`` from now on."""
        if hold is not None:
            self.load.limit = hold
        wait_for(f"{share:.0%} committed", partial(self.load.reached, share))

    def quiet(self) -> None:
        """Wait until all that may be fed now is committed."""
        load = self.load
        allowed = int(load.limit * load.total)
        wait_for("all that was fed is committed", lambda: load.committed >= allowed or None)

    def fault(self, what: str) -> None:
        """Put a fault on record."""
        self.outcome.faults.append(f"{what} {self.load.progress():.0%}")

    def freeze(self, member: Member, step: str) -> None:
        """Stop a worker (SIGSTOP) at the step of a commit, soon."""
        member.trap.arm(step, nth=self.draw.randint(1, 3), with_signal=signal.SIGSTOP)
        member.sprung()

    def terminate(self, member: Member) -> None:
        """Ask a worker to go, and see it go well in time."""
        member.signal(signal.SIGTERM)
        code = member.worker.process.wait(TERM_S)
        assert code == 0, f"{member.name} ended with {code}:\n{member.worker.tail()}"

    def shared(self) -> None:
        """Wait until every worker owns partitions and is ready."""
        wait_for("all workers own partitions and are ready", self.workers.shared)

    def even(self, timeout_s: float = 120.0) -> None:
        """Wait until the workers own equal shares and are ready."""
        wait_for("all workers own equal shares and are ready", self.workers.evenly, timeout_s)

    def finish(self) -> None:
        """Feed the rest and wait until all of it is committed."""
        finish(self.load)


@contextlib.contextmanager
def drill(
    name: str,
    bootstrap: str,
    home: Path,
    seed: int,
    *,
    names: tuple[str, ...] = ("a", "b"),
    partitions: int = 4,
    total: int = 30_000,
    rate: int = 4_000,
    environment: Mapping[str, str] | None = None,
    session_timeout_ms: int = SESSION_TIMEOUT_MS,
) -> Iterator[Run]:
    """Run the body under load; then everything must stop well and be exact."""
    began = time.monotonic()
    with fleet(
        bootstrap,
        home,
        session_timeout_ms=session_timeout_ms,
        partitions=partitions,
        names=names,
        environment=environment,
    ) as workers:
        load = Load(workers.cluster, seed=seed, total=total, rate=rate).start()
        run = Run(workers, load, random.Random(seed), Outcome(name, seed))
        try:
            yield run
            run.finish()
            codes = workers.stop()
            assert not any(codes), f"workers ended with {codes}"
            check_exact(workers.cluster, load)
        except BaseException as exc:
            exc.add_note(f"faults: {run.outcome.faults}, committed {load.progress():.1%}")
            raise
        finally:
            load.close()
    run.outcome.seconds = time.monotonic() - began
