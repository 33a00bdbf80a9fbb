"""Metrics of the engine. Labels are topics and partitions of the catalogue: bounded."""

from __future__ import annotations

import contextlib

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class EngineMetrics:
    """What operators watch. ``lag`` and ``position`` vanish with their partition."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
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
        self.lag = Gauge(
            "consumer_lag", "Records not yet processed", ["topic", "partition"], registry=registry
        )
        self.state_bytes = Gauge(
            "state_store_bytes", "Local state by table group", ["table"], registry=registry
        )
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

    def forget(self, topic: str, partition: int) -> None:
        """Remove what was measured of a partition this worker no longer owns."""
        with contextlib.suppress(KeyError):
            self.lag.remove(topic, str(partition))
