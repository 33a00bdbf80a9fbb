"""A worker that stops or kills itself at a chosen step of a commit.

Both sides share a folder: the drill writes ``trap.json``; the worker's commit thread looks
for it at each step and, at the n-th time it reaches the wanted one, writes ``sprung.json``
and sends itself the signal. So the fault falls between two calls of the transaction, not
somewhere near them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from app.engine.clock import SystemClock

FOLDER = "FAULT_FOLDER"
"""Environment variable that names the folder to the worker."""
POISON = b"what no step has foreseen"
"""A record that holds this makes the worker's step raise."""
STEPS = ("begun", "produced", "offsets_sent", "committed")
"""Steps at which an epoch is open: not yet in the local store."""
STORED = "stored"
"""The step after them: the local store has it, and the worker does not know yet."""
KILL_STEPS = (*STEPS, STORED)

HOLD = 0
"""Instead of a signal: the thread of the commits stays at the step until it is let go."""
HOLD_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """At the ``nth`` time ``step`` is reached, send ``signal`` to oneself (or :data:`HOLD`)."""

    step: str
    nth: int
    signal: int


class Trap:
    """The drill's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, step: str, *, nth: int = 1, with_signal: int = signal.SIGKILL) -> None:
        """Set the trap; a former one counts no more."""
        (self.folder / "sprung.json").unlink(missing_ok=True)
        (self.folder / "let-go").unlink(missing_ok=True)
        staged = self.folder / "trap.new"
        staged.write_text(json.dumps(asdict(Plan(step, nth, int(with_signal)))))
        staged.replace(self.folder / "trap.json")

    def let_go(self) -> None:
        """Let a held commit go on."""
        (self.folder / "let-go").touch()

    def set_clock(self, ahead_ms: int) -> None:
        """Set the worker's wall clock so far ahead of the right one."""
        staged = self.folder / "clock.new"
        staged.write_text(str(ahead_ms))
        staged.replace(self.folder / "clock")

    def sprung(self) -> Plan | None:
        """The plan that was carried out, or None as long as it was not."""
        try:
            return Plan(**json.loads((self.folder / "sprung.json").read_text()))
        except FileNotFoundError:
            return None


class TrapProbe:
    """The worker's side: told of each step of a commit."""

    def __init__(self, folder: Path) -> None:
        self._armed = folder / "trap.json"
        self._sprung = folder / "sprung.json"
        self._let_go = folder / "let-go"
        self._plan: Plan | None = None
        self._seen = 0

    def __call__(self, step: str) -> None:
        if self._plan is None:
            try:
                self._plan = Plan(**json.loads(self._armed.read_text()))
            except FileNotFoundError:
                return
            self._armed.unlink()
            self._seen = 0
        if step != self._plan.step:
            return
        self._seen += 1
        if self._seen < self._plan.nth:
            return
        plan, self._plan = self._plan, None
        staged = self._sprung.with_suffix(".new")
        staged.write_text(json.dumps(asdict(plan)))
        staged.replace(self._sprung)
        if plan.signal == HOLD:
            self._hold()
        else:
            os.kill(os.getpid(), plan.signal)

    def _hold(self) -> None:
        deadline = time.monotonic() + HOLD_S_MAX
        while not self._let_go.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the drill never let go")
            time.sleep(0.01)


class WrongClock(SystemClock):
    """The machine's clocks, the wall clock as far ahead as the drill has set it."""

    def __init__(self, folder: Path) -> None:
        self._set = folder / "clock"

    def now_ms(self) -> int:
        """Epoch milliseconds, UTC, as this worker believes."""
        try:
            return super().now_ms() + int(self._set.read_text())
        except FileNotFoundError:
            return super().now_ms()
