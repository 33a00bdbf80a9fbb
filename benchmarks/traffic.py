"""Events at a constant rate, of now; ``python -m benchmarks.traffic BOOTSTRAP TOPIC RATE``.

In a process of its own, so that making them does not slow whoever measures. SIGTERM ends it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import confluent_kafka as ck

from benchmarks.load import draws, endpoints, templates
from benchmarks.results import VoidError
from tests.system.harness import CHECKOUT

RATE = 20_000
KEYS = 50
SEED = 1
SLICE_S = 0.005
FLUSH_S = 30.0


def producer(bootstrap: str) -> ck.Producer:
    """A producer as a gateway has it: quick, compressed, without duplicates."""
    return ck.Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 1,
            "partitioner": "murmur2_random",
            "log_level": 2,
        }
    )


@dataclass(slots=True)
class Traffic:
    """Produces ``rate`` events per second until told to stop; ``sent`` counts them."""

    producer: ck.Producer
    topic: str
    stop: threading.Event
    rate: int = RATE
    sent: int = 0

    def run(self) -> None:
        """Send what is due, slice by slice."""
        shapes, names, drawn = templates(SEED), endpoints(KEYS), draws(KEYS, SEED)
        began = time.monotonic()
        while not self.stop.wait(SLICE_S):
            due = int((time.monotonic() - began) * self.rate)
            now_ms = time.time_ns() // 1_000_000
            while self.sent < due:
                shape = shapes[self.sent % len(shapes)]
                endpoint = names[drawn[self.sent % len(drawn)]]
                value = shape.value(SEED, self.sent, now_ms, endpoint)
                try:
                    self.producer.produce(self.topic, value, shape.key)
                except BufferError:
                    break  # the broker is behind: what is due stays due
                self.sent += 1
            self.producer.poll(0)


@contextlib.contextmanager
def traffic(bootstrap: str, topic: str, rate: int) -> Iterator[None]:
    """Traffic while the block runs; all of it is with the broker afterwards."""
    arguments = [bootstrap, topic, str(rate)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.traffic", *arguments], cwd=CHECKOUT
    )
    try:
        yield
        if process.poll() is not None:
            raise VoidError("the traffic ended before what it was made for")
    finally:
        process.terminate()
        code = process.wait(2 * FLUSH_S)
    if code:
        raise VoidError("the broker did not take all of the traffic")


def main() -> None:
    """Send until SIGTERM."""
    bootstrap, topic, rate = sys.argv[1:]
    # Waited for, not handled: a handler might set the event while this very thread holds its lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    stop = threading.Event()
    sender = producer(bootstrap)
    sending = threading.Thread(target=Traffic(sender, topic, stop, int(rate)).run)
    sending.start()
    signal.sigwait({signal.SIGTERM})
    if not sending.is_alive():
        sys.exit("the traffic ended before it was told to")
    stop.set()
    sending.join()
    if sender.flush(FLUSH_S):
        sys.exit("not all events reached the broker")


if __name__ == "__main__":
    main()
