"""An archiver as a process of its own, to be killed: ``archiver_entry.py`` and a JSON target."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import replace

from prometheus_client import CollectorRegistry

from agents.history.archiver import Archiver
from agents.history.target import ArchiverMetrics, ArchiveTarget
from app.engine.clock import SystemClock
from tables.history.place import Bucket, Place, read_place


def placed(text: str) -> Place:
    place = read_place(text)
    if isinstance(place, Bucket):
        return replace(place, endpoint=os.environ["AWS_ENDPOINT_URL"])
    return place


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = json.loads(sys.argv[1])
    target = ArchiveTarget(**given | {"place": placed(given["place"])})
    archiver = Archiver(target, SystemClock(), ArchiverMetrics(CollectorRegistry()))
    archiver.start()
    signal.sigwait({signal.SIGTERM})
    archiver.stop(20.0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
