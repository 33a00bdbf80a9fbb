"""What is overridden of Faust, and that it still is what it was when it was overridden."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

_OVERRIDDEN: Mapping[Callable[..., Any], tuple[str, ...]] = {
    driver.Consumer.getmany: ("self", "timeout"),
    driver.Consumer._wait_next_records: ("self", "timeout"),  # noqa: SLF001
    driver.Consumer.on_partitions_assigned: ("self", "assigned", "generation_id"),
    driver.Consumer.wait_empty: ("self",),
    driver.Consumer.commit: ("self", "topics", "start_new_transaction"),
    driver.Consumer.on_buffer_full: ("self", "tp"),
    driver.Consumer._new_consumer_thread: ("self",),  # noqa: SLF001
    driver.AIOKafkaConsumerThread._fetch_records: (  # noqa: SLF001
        "self",
        "consumer",
        "active_partitions",
        "timeout",
        "max_records",
    ),
    driver.AIOKafkaConsumerThread._create_worker_consumer: ("self", "transport"),  # noqa: SLF001
}


def check_overrides() -> None:
    """Raise :class:`RuntimeError` when Faust is not the one these overrides were made for."""
    for function, expected in _OVERRIDDEN.items():
        found = tuple(inspect.signature(function).parameters)
        if found != expected:
            raise RuntimeError(
                f"faust-streaming {faust.__version__} is not the pinned 0.15.3: "
                f"{function.__qualname__} takes {found}, expected {expected}; "
                "install the versions of requirements.lock"
            )
