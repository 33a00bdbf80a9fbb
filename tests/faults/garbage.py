"""Records that no well-meaning producer writes, and a feeder that knows where each one went."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass

import confluent_kafka as ck

from agents.topics import APPLICATION_LOGS, INFRASTRUCTURE_METRICS, LOG_EVENTS, WINDOW_PARTIALS
from tests.faults.verify import RECORD_MAX, Coordinates
from tests.system.harness import Cluster

READ_TOPICS = (LOG_EVENTS, APPLICATION_LOGS, INFRASTRUCTURE_METRICS, WINDOW_PARTIALS)
ENVELOPE = 200
"""A batch of one record, with its envelope, must fit into the largest that a topic takes."""
YEAR_9999_MS = 253_402_300_799_000
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Oddity:
    """A record to be slipped in; ``compressed`` sends it with lz4, else as it is."""

    name: str
    value: bytes | None
    key: bytes | None = b"service-1"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    compressed: bool = False


def event(**changes: object) -> bytes:
    """JSON of an event that would count, but for the changes."""
    fields = {
        "event_id": "00000000-0000-4000-8000-000000000000",
        "timestamp": 1_790_000_040_000,
        "source": "load",
        "service": "service-1",
        "endpoint": "/garbage",
        "status": 200,
        "latency_ms": 1.0,
    }
    return json.dumps({**fields, **changes}).encode()


def garbage(seed: int) -> list[Oddity]:
    """Records that must end among the dead letters, whichever topic they are written to."""
    draw = random.Random(seed)
    deep = 100_000
    huge_headers = tuple((f"header-{n}", draw.randbytes(10_000)) for n in range(100))
    return [
        Oddity("invalid UTF-8", b'{"endpoint":"\xff\xfe\xc3\x28"}'),
        Oddity("invalid UTF-8 within an event", event(endpoint="/?").replace(b"?", b"\xc3\x28")),
        Oddity("deep arrays", b"[" * deep),
        Oddity("deep objects", b'{"metadata":' * deep),
        Oddity("deep arrays, closed", b"[" * deep + b"]" * deep),
        Oddity("deep within an event", event(metadata=0).replace(b"0}", b"[" * deep)),
        Oddity("deep msgpack", b"\x91" * deep),
        Oddity("largest, incompressible", draw.randbytes(RECORD_MAX - ENVELOPE)),
        Oddity("9 MB of x", b"x" * 9_000_000, compressed=True),
        Oddity("9 MB of brackets", b"[" * 9_000_000, compressed=True),
        Oddity("NaN", event(latency_ms=float("nan"))),
        Oddity("Infinity", event(latency_ms=float("-inf"))),
        Oddity("1e999", event(latency_ms=7).replace(b": 7", b": 1e999")),
        Oddity("year 9999", event(timestamp=YEAR_9999_MS)),
        Oddity("long endpoint and key", event(endpoint="/" + "k" * 10_000), b"k" * 10_000),
        Oddity("a million elements", json.dumps([0] * 1_000_000, separators=(",", ":")).encode()),
        Oddity("many elements within an event", event(metadata=[0] * 200_000)),
        Oddity("empty value", b""),
        Oddity("null value", None),
        Oddity("null key and value", None, None),
        Oddity("null key", b"\x00", None),
        Oddity("100 huge headers", b"{}", headers=huge_headers),
        Oddity("null headers", b"{}", headers=tuple((f"h{n}", None) for n in range(100))),
        Oddity("a huge lane", b"{}", headers=(("lane", b"l" * 9_000_000),), compressed=True),
        Oddity("huge key", b"{}", b"k" * 9_000_000, compressed=True),
    ]


class GarbageFeeder:
    """Writes oddities and remembers where the broker put them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.written: Counter[Coordinates] = Counter()
        self.names: dict[Coordinates, str] = {}
        common: dict[str, str | int | float | bool] = {
            "bootstrap.servers": cluster.bootstrap,
            "message.max.bytes": 10_000_000,
            "linger.ms": 0,
        }
        self._plain = ck.Producer(common)
        self._lz4 = ck.Producer({**common, "compression.type": "lz4"})

    def send(self, oddity: Oddity, topic: str, partition: int) -> Coordinates:
        """Write one record; returns once the broker has it."""
        producer = self._lz4 if oddity.compressed else self._plain
        placed: list[Coordinates] = []

        def on_delivery(error: ck.KafkaError | None, message: ck.Message) -> None:
            assert error is None, f"{oddity.name} was not taken: {error}"
            placed.append((topic, partition, message.offset() or 0))

        producer.produce(
            self._cluster.topic(topic),
            oddity.value,
            oddity.key,
            partition,
            on_delivery,
            headers=list(oddity.headers),
        )
        assert producer.flush(30) == 0
        self.written[placed[0]] += 1
        self.names[placed[0]] = oddity.name
        return placed[0]
