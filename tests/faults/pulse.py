"""How long partitions stand still while workers come and go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from tests.faults.fleet import Fleet

SAMPLE_S = 0.1


class Pulse:
    """Looks at committed positions from a thread, for as long as it is open.

    A partition is idle from one look that saw it move to the next such look, be it for want
    of an owner or of records: so the figures are upper bounds while the load goes on.
    """

    def __init__(self, workers: Fleet) -> None:
        self._workers = workers
        self._moved: dict[tuple[str, int], float] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._idle_s: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    @contextlib.contextmanager
    def taken(self) -> Iterator[Pulse]:
        """Look while the body runs; raises what broke the looking."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(30)
        if self._error is not None:
            raise self._error

    def idle_s(self) -> dict[tuple[str, int], float]:
        """Longest idle time of each partition (physical topic) that was seen, in seconds."""
        return dict(self._idle_s)

    def _run(self) -> None:
        try:
            while not self._over.wait(SAMPLE_S):
                self._look()
        except BaseException as exc:  # noqa: BLE001 - raised again by the drill
            self._error = exc

    def _look(self) -> None:
        positions, now = self._workers.committed(), time.monotonic()
        for tp, position in positions.items():
            if position < 0:
                continue
            began = self._moved.setdefault(tp, now)
            self._idle_s[tp] = max(self._idle_s.get(tp, 0.0), now - began)
            if self._seen.get(tp) != position:
                self._moved[tp], self._seen[tp] = now, position
