"""The client of Faust's consumer, on its thread: what it fetches, how much and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiokafka
from faust.transport.drivers import aiokafka as driver

from app.engine.faust_fetch import IDLE_WAIT_MS, read_columns, ready_partitions, wait_in_broker
from app.engine.faust_static import MemberConsumer
from app.engine.pacing import FetchPace

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Builds the client with the isolation, waits and sizes that batches want."""

    app: EngineApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pace = FetchPace()
        super().__init__(*args, **kwargs)

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class's signature
        max_records: int | None = None,  # noqa: ARG002 - as above
    ) -> Any:
        """One chunk of each partition that has any, until there is enough for one hand-over."""
        fetcher, bounds = consumer._fetcher, self.app.fetch_bounds  # noqa: SLF001 - no accessor
        read_columns(fetcher, bounds.chunk_bytes)
        found = await super()._fetch_records(consumer, active_partitions, timeout, 1)
        while found and sum(chunk.size for (chunk,) in found.values()) < bounds.chunk_bytes:
            ready = ready_partitions(fetcher) & active_partitions - found.keys()
            more = await fetcher.fetched_records(ready, max_records=1) if ready else None
            if not more:
                break
            found |= more
        records = sum(len(chunk) for (chunk,) in found.values())
        self._pace.observe(records, self.app.engine.clock.monotonic())
        wait_in_broker(fetcher, self._pace.wait_ms, bounds.prefetch_bytes)
        return found

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf, bounds = self.app.conf, self.app.fetch_bounds
        self._assignor = self.app.assignor
        return MemberConsumer(
            self.app.fenced,
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_interval_ms=300_000,
            max_partition_fetch_bytes=bounds.prefetch_bytes,
            fetch_max_bytes=bounds.prefetch_bytes_all,
            fetch_max_wait_ms=IDLE_WAIT_MS,
            request_timeout_ms=max(40_000, int(conf.broker_session_timeout * 2_000)),
            session_timeout_ms=int(conf.broker_session_timeout * 1_000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1_000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1_000),
        )
