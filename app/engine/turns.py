"""Who holds the event loop next: one step at a time, and time for everyone else in between."""

from __future__ import annotations

import asyncio

FREE_ROUNDS = 3
"""Rounds of the loop between two steps: a request is read in one and answered in the next."""


class Turns:
    """Steps of all partitions take turns.

    A step does not wait for anything, so whoever wants an answer waits for it. Without this
    the steps of several agents would follow each other and a request meet one in each round
    of the loop that it needs.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def come(self) -> None:
        """Wait for the turn; it lasts until the caller next waits for something."""
        async with self._lock:
            for _ in range(FREE_ROUNDS):
                await asyncio.sleep(0)
