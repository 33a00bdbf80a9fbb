"""Measures stock Faust: starts it on a preloaded topic and waits for its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Timer

from benchmarks.broker import BenchBroker
from benchmarks.load import Backlog, Load
from benchmarks.process import peak_rss_mb, usage
from benchmarks.results import ROCKSDB, Result, VoidError

WARM_UP = 2_000
"""Events before the measured span begins: start, rebalance and first fetches lie in them."""
TIMEOUT_S = 300
PARTITIONS = 4


def measure_stock(broker: BenchBroker, variant: str, keys: int, events: int) -> Result:
    """Run one stock variant. Raises :class:`VoidError` when it does not count every event."""
    store = "rocksdb" if variant == ROCKSDB else "none"
    topic = broker.new_topic(f"stock-{store}-{keys}", PARTITIONS)
    backlog = Backlog(broker.bootstrap, topic, gated=False)
    backlog.fill(Load(keys, events + WARM_UP))
    folder = broker.folder / topic
    folder.mkdir()
    log = folder / "worker.log"
    arguments = [broker.bootstrap, topic, str(events + WARM_UP), str(WARM_UP), str(folder), store]
    broker_before = usage(broker.pid)
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stock", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(__file__).resolve().parent.parent,
        ) as process,
    ):
        too_long = Timer(TIMEOUT_S, process.kill)
        too_long.start()
        try:
            output = process.stdout or ()
            # Faust prints a banner first.
            line = next((each for each in output if each.startswith(b"{")), b"")
            if not line:
                raise VoidError(f"{variant} did not finish:\n{log.read_text(errors='replace')}")
            rss_mb = peak_rss_mb(process.pid)
        finally:
            too_long.cancel()
            process.kill()
    report = json.loads(line)
    if report["counted"] != events + WARM_UP:
        raise VoidError(f"{variant}: {report['counted']} of {events + WARM_UP} events counted")
    cpu_s = report["cpu_s"]
    return Result(
        variant,
        keys,
        events,
        report["seconds"],
        cpu_s,
        events / cpu_s,
        rss_mb,
        usage(broker.pid).cpu_s - broker_before.cpu_s,
    )
