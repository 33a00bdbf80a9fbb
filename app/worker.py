"""Faust's worker, made ready before it starts; what is wrong ends it with one sentence."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from typing import TYPE_CHECKING, Any

import faust

from app.broker.errors import BrokerError
from app.logs import Repeats
from app.slots import StartUpError

if TYPE_CHECKING:
    from app.main import Headrace


_M_ARENA_MAX = -8
_ARENAS = 2


def _share_arenas() -> None:
    """Let all threads allocate from two arenas, where the C library is glibc.

    It would give each of a worker's threads (RocksDB's, librdkafka's, ours) its own, and what
    one has freed no other can use: some 35 of 640 MiB with a million open sessions.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


class PreparedWorker(faust.Worker):
    """Prepares broker, topics and engine, then starts the application."""

    def __init__(self, app: Headrace, *args: Any, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        _share_arenas()
        try:
            app.prepare()
        except (StartUpError, BrokerError) as exc:
            sys.exit(f"headrace: {exc}")
        # Batches live briefly and hold no cycles: collecting less often nearly doubles delivery.
        gc.set_threshold(100_000, 50, 100)
        # A query takes the interpreter some ten times; with the default of 5 ms it would wait so
        # long each time that the thread which writes an epoch, or the one that fetches, runs.
        sys.setswitchinterval(0.0005)
        super().__init__(app, *args, **kwargs)

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Handlers are set up: none repeats itself."""
        super().on_setup_root_logger(logger, level)
        for handler in logger.handlers:
            handler.addFilter(Repeats())
