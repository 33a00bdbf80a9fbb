"""The gateway's own producer: idempotent, acknowledged by all replicas, never the epoch's.

    send -> librdkafka's queue -> broker -> delivery report (poll thread) -> future (loop)

A send that ends in :class:`IngestUnavailable` may still have reached the broker (its
acknowledgement was lost): the sender repeats it with the same event ids.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from prometheus_client import CollectorRegistry, Counter, Histogram

from app.engine.batch import Headers
from app.engine.clients import OUTAGES
from app.models.event import LogEvent, encode_event

log = logging.getLogger(__name__)

EVENTS_IN_FLIGHT_MAX = 50_000
BYTES_IN_FLIGHT_MAX = 32 << 20
DELIVERY_TIMEOUT_MS = 5_000
RETRY_AFTER_S = 2
_POLL_S = 0.1
_FLUSH_S = 5.0


class IngestUnavailable(Exception):  # noqa: N818 - named for what the sender is told
    """Nothing is promised about these events: send them again after ``retry_after_s``."""

    def __init__(self, reason: str, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class IngestMetrics:
    """Metrics of a producer, registered once per registry. ``topic`` is the logical name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.success = Counter(
            "kafka_producer_success", "Events acknowledged", ["topic"], registry=registry
        )
        self.error = Counter(
            "kafka_producer_error", "Events not acknowledged", ["topic"], registry=registry
        )
        self.duration = Histogram(
            "kafka_producer_send_duration_seconds",
            "From handing a batch over to its last acknowledgement",
            ["topic"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=registry,
        )
        self.batch_bytes = Histogram(
            "kafka_producer_batch_bytes",
            "Encoded size of a batch, uncompressed",
            ["topic"],
            buckets=tuple(float(1 << power) for power in range(8, 23, 2)),
            registry=registry,
        )


@dataclass(slots=True)
class _Pending:
    """A send whose delivery reports are awaited; reports come on the poll thread."""

    topic: str
    events: int
    size: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    remaining: int
    started: float
    failed: int = 0
    reason: str = ""
    fatal: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, error: KafkaError | None, _message: Message) -> None:
        """Delivery report of one record."""
        if error is None:
            self.settle(1)
        else:
            self.fail(1, error.str(), fatal=error.fatal())

    def fail(self, records: int, reason: str, *, fatal: bool) -> None:
        """``records`` of them will not be acknowledged."""
        with self.lock:
            self.failed += records
            self.reason = reason
            self.fatal = self.fatal or fatal
        self.settle(records)

    def settle(self, records: int) -> None:
        """Await ``records`` fewer; wakes the sender after the last."""
        with self.lock:
            self.remaining -= records
            last = self.remaining == 0
        # The loop may be closed already when a worker is killed in its shutdown.
        if last and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class IngestProducer:
    """Sends events and returns when every one is acknowledged.

    Bounded by :data:`EVENTS_IN_FLIGHT_MAX` and :data:`BYTES_IN_FLIGHT_MAX` over all senders;
    above that, while the broker is away longer than the delivery timeout, and after
    :meth:`stop` began, sends raise :class:`IngestUnavailable`.
    """

    def __init__(
        self,
        bootstrap: str,
        physical: Callable[[str], str],
        metrics: IngestMetrics,
        *,
        delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
    ) -> None:
        """``bootstrap`` is ``host:port,host:port``; ``physical`` maps logical topic names."""
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "client.id": "headrace-ingest",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 5,
            # Posts are answered 503 until it has found the broker again.
            **OUTAGES,
            "partitioner": "murmur2_random",
            "message.timeout.ms": delivery_timeout_ms,
            # Ours is the bound that senders meet; librdkafka's is never the first.
            "queue.buffering.max.messages": 2 * EVENTS_IN_FLIGHT_MAX,
            "queue.buffering.max.kbytes": 4 * BYTES_IN_FLIGHT_MAX // 1024,
            # A topic's absence is reported within the delivery timeout, not after 30 s.
            "topic.metadata.propagation.max.ms": delivery_timeout_ms,
            # The broker closes idle connections; that is no news.
            "log.connection.close": False,
        }
        self._physical = physical
        self._metrics = metrics
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._accepting = False
        self._broken = threading.Event()
        self._halt = threading.Event()
        self._events_in_flight = 0
        self._bytes_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Start the client and its poll thread; connects in the background."""
        self._halt.clear()
        self._producer = Producer(self._config, logger=log)
        self._thread = threading.Thread(target=self._poll, name="ingest-poll", daemon=True)
        self._thread.start()
        self._accepting = True

    async def stop(self) -> None:
        """Refuse further sends, wait for those in flight (the delivery timeout at most), close."""
        self._accepting = False
        if self._thread is None:
            return
        # Every record is reported, at the latest when it times out, so this ends.
        await self._idle.wait()
        self._halt.set()
        thread, self._thread = self._thread, None
        await asyncio.to_thread(thread.join)
        self._producer = None

    async def send(self, topic: str, events: Sequence[LogEvent], headers: Headers = ()) -> None:
        """Write the events, keyed by service, each with ``headers``, to the logical ``topic``.

        Returns when the broker has acknowledged all of them, else raises
        :class:`IngestUnavailable`.
        """
        records = [(event.service.encode(), encode_event(event)) for event in events]
        await self.produce(topic, records, headers)

    async def produce(
        self, topic: str, records: Sequence[tuple[bytes, bytes]], headers: Headers = ()
    ) -> None:
        """Write records, each a key and a value; otherwise as :meth:`send`."""
        producer = self._producer
        if producer is None or not self._accepting:
            raise IngestUnavailable("the worker is stopping or has not started")
        if not records:
            return
        values = [value for _, value in records]
        loop = asyncio.get_running_loop()
        size = sum(map(len, values))
        count = len(values)
        pending = _Pending(topic, count, size, loop, loop.create_future(), count, loop.time())
        self._enter(pending)
        # The records are on their way whether or not the sender still waits for them, so
        # the buffer is released by their reports and not by this coroutine's end.
        pending.done.add_done_callback(lambda _: self._leave(pending))
        keys = [key for key, _ in records]
        self._queue(producer, self._physical(topic), keys, values, list(headers), pending)
        await asyncio.shield(pending.done)
        if pending.failed:
            raise IngestUnavailable(f"the broker did not acknowledge: {pending.reason}")

    @staticmethod
    def _queue(
        producer: Producer,
        topic: str,
        keys: list[bytes],
        values: list[bytes],
        headers: list[tuple[str, str | bytes | None]],
        pending: _Pending,
    ) -> None:
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                producer.produce(topic, value, key, on_delivery=pending.report, headers=headers)
            except (BufferError, KafkaException) as exc:
                cause = exc.args[0] if exc.args else None
                fatal = isinstance(cause, KafkaError) and cause.fatal()
                pending.fail(len(values) - index, str(exc), fatal=fatal)
                return

    def _enter(self, pending: _Pending) -> None:
        events = self._events_in_flight + pending.events
        size = self._bytes_in_flight + pending.size
        if events > EVENTS_IN_FLIGHT_MAX or size > BYTES_IN_FLIGHT_MAX:
            raise IngestUnavailable("the buffer to the broker is full")
        self._events_in_flight, self._bytes_in_flight = events, size
        self._idle.clear()
        self._metrics.batch_bytes.labels(pending.topic).observe(pending.size)

    def _leave(self, pending: _Pending) -> None:
        self._events_in_flight -= pending.events
        self._bytes_in_flight -= pending.size
        if self._events_in_flight == 0:
            self._idle.set()
        self._metrics.duration.labels(pending.topic).observe(pending.loop.time() - pending.started)
        self._metrics.success.labels(pending.topic).inc(pending.events - pending.failed)
        self._metrics.error.labels(pending.topic).inc(pending.failed)
        if pending.fatal:
            self._broken.set()

    def _poll(self) -> None:
        while not self._halt.is_set():
            producer = self._producer
            if producer is None:
                return
            producer.poll(_POLL_S)
            if self._broken.is_set():
                # An idempotent client that met a fatal error can never send again.
                log.error("the ingest producer met a fatal error and is replaced")
                self._broken.clear()
                self._producer = Producer(self._config, logger=log)
                producer.purge()
                producer.flush(_FLUSH_S)
