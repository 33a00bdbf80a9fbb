"""The backlog every variant consumes: canonical events of about 290 bytes, made cheaply."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import confluent_kafka as ck

from app.models.event import LogEvent, decode_event, encode_event

SERVICES = 16
RATE = 20_000
"""Events per second of event time."""
WINDOW_MS = 60_000
START_MS = 1_790_000_040_000
"""Start of a minute, in the past."""
PRODUCE_TIMEOUT_S = 120
TEMPLATES = 8_192

_ID = "%08x-0000-4000-8000-%012x"
_HEAD = '{"event_id":"' + _ID + '","timestamp":%d'

Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Template:
    """An event without id, time and endpoint: Kafka key, and the JSON that follows the time."""

    key: bytes
    tail: str
    """``%s`` stands for the endpoint."""

    def value(self, seed: int, number: int, timestamp_ms: int, endpoint: str) -> bytes:
        """The event of that number, time and endpoint."""
        return (_HEAD % (seed, number, timestamp_ms) + self.tail % endpoint).encode()


@dataclass(slots=True)
class Load:
    """``events`` events of ``keys`` endpoints, one after the other in event time.

    ``rows`` counts what was generated, per (endpoint, start of minute): it is what the
    windows must show.
    """

    keys: int
    events: int
    seed: int = 1
    rows: Counter[Row] = field(default_factory=Counter)

    def generate(self) -> Iterator[tuple[bytes, bytes]]:
        """``(key, value)`` of each event. Counts them in ``rows``."""
        shapes, names = templates(self.seed), endpoints(self.keys)
        drawn = draws(self.keys, self.seed)
        seed, rows = self.seed, self.rows
        for number in range(self.events):
            # An endpoint keeps its few templates: its latencies, and with them its state.
            slot = number % len(drawn)
            shape, endpoint = shapes[slot % TEMPLATES], names[drawn[slot]]
            timestamp = START_MS + number * 1000 // RATE
            rows[endpoint, timestamp - timestamp % WINDOW_MS] += 1
            yield shape.key, shape.value(seed, number, timestamp, endpoint)


def endpoints(keys: int) -> list[str]:
    """Names of so many endpoints."""
    return [f"/api/v1/shop/{number}" for number in range(keys)]


def draws(keys: int, seed: int) -> array[int]:
    """Endpoints of events by number, nearly each at least a few times. Repeats at its end."""
    draw = random.Random(seed)  # noqa: S311 - load, not secrets
    return array("I", draw.choices(range(keys), k=max(TEMPLATES, 8 * keys)))


def templates(seed: int) -> list[Template]:
    """Events as a web shop's gateway writes them, of any endpoint."""
    draw = random.Random(seed)  # noqa: S311 - load, not secrets
    return [_template(draw) for _ in range(TEMPLATES)]


def _template(draw: random.Random) -> Template:
    event = LogEvent(
        event_id=_ID % (0, 0),
        timestamp=START_MS,
        source="shop",
        service=f"service-{draw.randrange(SERVICES)}",
        type="http_request",
        ingest_ts=START_MS,
        endpoint="%s",
        method="GET",
        status=503 if draw.random() < 0.03 else 200,
        latency_ms=round(draw.lognormvariate(3, 1), 3),
        user_id=f"user-{draw.randrange(10_000)}",
        ip=f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}",
    )
    encoded = encode_event(event)
    head = (_HEAD % (0, 0, START_MS)).encode()
    if not encoded.startswith(head) or decode_event(encoded) != event or encoded.count(b"%") != 1:
        raise AssertionError("the canonical encoding no longer begins with id and time")
    return Template(event.service.encode(), encoded[len(head) :].decode())


class Backlog:
    """A load on its way into a topic.

    ``gated``: written in one transaction, which :meth:`release` commits. Until then a
    worker that reads committed records sees nothing, so that it can be started, restored and
    idle before the first event reaches it.
    """

    def __init__(self, bootstrap: str, topic: str, *, gated: bool) -> None:
        self.topic = topic
        self._gated = gated
        config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
            "log_level": 2,  # it outlives the broker it was made for
            "queue.buffering.max.kbytes": 262_144,
        }
        if gated:
            config |= {"transactional.id": f"{topic}-backlog", "transaction.timeout.ms": 600_000}
        self._producer = ck.Producer(config)
        if gated:
            self._producer.init_transactions(30)
            self._producer.begin_transaction()

    def fill(self, load: Load) -> None:
        """Write the whole load; returns once the broker has it."""
        self.write(load.generate())

    def write(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Write ``(key, value)`` pairs; returns once the broker has them."""
        produce = self._producer.produce
        for key, value in records:
            while True:
                try:
                    produce(self.topic, value, key)
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break
        if self._producer.flush(PRODUCE_TIMEOUT_S):
            raise TimeoutError(f"{self.topic}: the broker did not take the backlog in time")

    def release(self) -> None:
        """Let readers of committed records see it."""
        if self._gated:
            self._producer.commit_transaction(PRODUCE_TIMEOUT_S)
