"""Metrics of the engine. Labels are topics and partitions of the catalogue: bounded."""

from __future__ import annotations

import contextlib

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class EngineMetrics:
    """What operators watch. What is told of one partition vanishes with it."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.records = Counter(
            "engine_records_total",
            "Records read, by how they ended",
            ["topic", "outcome"],
            registry=registry,
        )
        self.late = Counter(
            "late_events_total", "Records past a window's grace", ["table"], registry=registry
        )
        self.epochs = Counter(
            "engine_epochs_total", "Epochs, by how they ended", ["outcome"], registry=registry
        )
        self.commit_seconds = Histogram(
            "commit_latency_seconds",
            "From taking an epoch to its commit and local write",
            buckets=_SECONDS,
            registry=registry,
        )
        self.epoch_events = Histogram(
            "engine_epoch_events",
            "Records per epoch",
            buckets=(1, 10, 100, 1_000, 5_000, 10_000, 50_000, 100_000),
            registry=registry,
        )
        self.held_bytes = Gauge(
            "fetched_bytes_held", "Bytes fetched, unpacked and not yet processed", registry=registry
        )

        def of_partition(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["topic", "partition"], registry=registry)

        self.lag = of_partition("consumer_lag", "Records not yet processed")
        self.position = of_partition("consumer_position", "Next offset to process")
        self.committed = of_partition("consumer_committed", "Next offset by the last commit")
        self.paused = of_partition("consumer_paused", "1 while nothing is fetched of it")
        self.watermark = of_partition(
            "consumer_watermark_ms", "Highest event time of live traffic, epoch milliseconds"
        )
        self.state_bytes = of_partition("state_store_bytes", "Local state of the table group")
        self.standby_lag = Gauge(
            "state_store_lag", "Changelog offsets standbys are behind", ["table"], registry=registry
        )
        self.rebalances = Counter(
            "rebalances_total", "Assignments this worker took part in", registry=registry
        )
        self.restore_seconds = Histogram(
            "restore_seconds",
            "From assignment to running",
            buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120),
            registry=registry,
        )

    def show(self, gauge: Gauge, topic: str, partition: int, value: float | None) -> None:
        """Set what is measured of one partition; None: it is not known and is not shown."""
        if value is not None:
            gauge.labels(topic, str(partition)).set(value)
            return
        with contextlib.suppress(KeyError):
            gauge.remove(topic, str(partition))

    def forget(self, topic: str, partition: int) -> None:
        """Remove what was measured of a partition this worker no longer owns."""
        for gauge in (
            self.lag,
            self.position,
            self.committed,
            self.paused,
            self.watermark,
            self.state_bytes,
        ):
            self.show(gauge, topic, partition, None)
