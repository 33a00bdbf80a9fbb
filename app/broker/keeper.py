"""While a worker runs, the embedded broker runs: one that crashed is started again."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from app.broker.embedded import restart_crashed
from app.broker.errors import BrokerError

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
PAUSE_S_MAX: Final = 60.0
"""Between two attempts that fail, as on a full disk; they begin at :data:`PERIOD_S`."""


async def keep_broker(home: Path, period_s: float = PERIOD_S) -> None:
    """Look each ``period_s`` whether the broker of the folder crashed; ends by cancellation.

    Every worker of the machine may do so at once: the folder's lock lets one of them start it.
    """
    pause_s = period_s
    while True:
        await asyncio.sleep(pause_s)
        try:
            address = await asyncio.to_thread(restart_crashed, home, progress=logger.warning)
        except BrokerError as exc:
            logger.error("the embedded broker crashed and cannot be started: %s", exc)  # noqa: TRY400 - the sentence says all
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            continue
        pause_s = period_s
        if address is not None:
            logger.warning("the embedded broker had crashed; it runs again (pid %d)", address.pid)
