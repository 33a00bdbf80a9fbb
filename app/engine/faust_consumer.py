"""Faust's consumer, handing over record batches and leaving offsets to the engine.

What is overridden here belongs to faust-streaming 0.15.3, which is pinned exactly; see
:mod:`app.engine.faust_pinned`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import aiokafka
import faust
from aiokafka.errors import IllegalStateError
from aiokafka.structs import TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service

from app.engine.batch import RecordBatch
from app.engine.delivery import Delivery
from app.engine.epoch import TaskId
from app.engine.faust_fetch import Columns
from app.engine.faust_pausing import Pausing
from app.engine.faust_thread import BatchConsumerThread
from app.engine.membership import Membership
from app.engine.reading import LogEnd

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp

ENDS_EVERY_S = 1.0
FETCH_WAIT_S = 0.2
"""Longest wait of one fetch: bounds how long a seek or a hand-over is held up."""


class BatchSchema(faust.Schema[None, Delivery]):
    """Passes deliveries through: steps decode whole batches themselves."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """No key: a delivery has many."""
        return None

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002
        """The delivery, as the consumer built it."""
        return message.value


class BatchConsumer(driver.Consumer):
    """One message per fetched partition: a :class:`Delivery`. Implements the engine's Flow.

    Positions are changed only by the fetch loop itself, between two fetches; so nothing
    that was fetched before a seek can be taken for something fetched after it.
    """

    app: EngineApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seeks: dict[TP, int] = {}
        self._handed: dict[TP, int] = {}
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @cached_property
    def pausing(self) -> Pausing:
        """Who waits for room; made with the first fetch, when the engine is bound."""
        return Pausing(self.app.engine, self.app.fetch_bounds, self._thread)

    def on_buffer_full(self, tp: TP) -> None:
        """Partitions are paused for what they hold, long before a queue is full."""

    @Service.task
    async def _look_at_ends(self) -> None:
        while not self.should_stop:
            await self.sleep(ENDS_EVERY_S)
            await self.pausing.look_at_ends()

    # -- Flow ------------------------------------------------------------------------------

    def hold(self) -> None:
        """Deliver nothing more."""
        self.stop_flow()

    async def release(self, positions: Mapping[TP, int]) -> None:
        """Seek (physical topics), then deliver from there."""
        self._seeks = dict(positions)
        self._handed.clear()
        self.pausing.clear()
        self.resume_partitions(positions)
        self.app.flow_control.resume()
        self.resume_flow()

    def processed(self, delivery: Delivery) -> None:
        """The engine is done with a delivery: what it took is free."""
        self.pausing.done(delivery, self._get_active_partitions())

    async def _apply_seeks(self) -> None:
        seeks, self._seeks = self._seeks, {}
        for tp in seeks:
            self._read_offset[tp] = None
        await self._thread.call_thread(self._seek_all, seeks)

    async def _seek_all(self, seeks: Mapping[TP, int]) -> None:
        consumer = self._thread._ensure_consumer()  # noqa: SLF001 - the driver's only way
        for tp, offset in seeks.items():
            try:
                consumer.seek(TopicPartition(tp.topic, tp.partition), offset)
            except IllegalStateError:
                # Revoked meanwhile: the rebalance that did it brings new positions.
                self.log.info("not seeking %s/%d: no longer assigned", tp.topic, tp.partition)

    # -- reach -----------------------------------------------------------------------------

    def delivered(self, tp: TP) -> int:
        """Next offset after everything handed to the agents; 0 before the first batch."""
        last = self._read_offset[tp]
        return 0 if last is None else last + 1

    def fetched(self, tp: TP) -> int | None:
        """Next offset of the client at the last fetch; it lies behind transaction markers.

        The client counts what it hands out before it has arrived here.
        """
        return self._handed.get(tp)

    def appended(self, tp: TP) -> LogEnd | None:
        """End of the log, committed or not, as the last fetch saw it."""
        state = self._state(tp)
        known = state is not None and state.highwater is not None
        return LogEnd(state.highwater, state.timestamp) if known else None

    def end(self, tp: TP) -> int | None:
        """End of the committed log as the last fetch saw it."""
        state = self._state(tp)
        known = None if state is None else state.lso
        return None if known is None else self.pausing.end(tp, known)

    def _state(self, tp: TP) -> Any:
        assignment = self._assignment()
        return None if assignment is None else assignment.state_value(tp)

    def _assignment(self) -> Any:
        """The client's, whose TopicPartitions equal TPs; None while there is none."""
        subscription = self._thread._ensure_consumer()._subscription.subscription  # noqa: SLF001
        return None if subscription is None else subscription.assignment

    # -- fetching --------------------------------------------------------------------------

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109
        """Fetch once, and yield one message per partition."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        engine, generation = self.app.engine, self.app.consumer_generation_id
        token = engine.token
        if self._seeks:
            await self._apply_seeks()
        if not await self.pausing.room(self._get_active_partitions()):
            return
        self._note_handed()
        records, _ = await self._wait_next_records(min(timeout, FETCH_WAIT_S))
        for tp, fetched in (records or {}).items():
            if engine.token != token or self.should_stop:
                return
            yield ensure_TP(tp), self._message(ensure_TP(tp), fetched, token, generation)

    def _note_handed(self) -> None:
        """Everything that was fetched before has been handed over."""
        assignment = self._assignment()
        for tp in () if assignment is None else self._get_active_partitions():
            state = assignment.state_value(tp)
            if state is not None and state.has_valid_position:
                self._handed[tp] = state.position

    def _message(
        self, tp: TP, chunks: list[Columns], token: int, generation: int
    ) -> ConsumerMessage:
        columns = chunks[0]
        for chunk in chunks[1:]:
            columns.extend(chunk)
        batch = RecordBatch(
            self.app.logical(tp.topic),
            tp.partition,
            columns.offsets,
            columns.timestamps,
            columns.keys,
            columns.values,
            columns.headers,
        )
        self.pausing.inbox.add(TaskId(batch.topic, batch.partition), columns.size)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            batch.offsets[-1],
            batch.timestamps[-1] / 1000.0,
            1,  # the broker's append time
            None,
            None,
            Delivery(batch, token, columns.size),  # type: ignore[arg-type]  # handed through by BatchSchema
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    # -- group -----------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Freeze the membership, while the coordinator is known to be in it."""
        coordinator = self._thread._ensure_consumer()._coordinator  # noqa: SLF001 - no accessor
        self.app.membership = Membership(
            self.app.conf.id,
            coordinator.generation,
            coordinator.member_id,
            self.app.conf.consumer_group_instance_id,
        )
        await super().on_partitions_assigned(assigned, generation_id)

    async def wait_empty(self) -> None:
        """Hand over: Faust calls this when partitions are revoked, and when it stops."""
        await self.app.engine.revoke()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT
        """Offsets are the engine's, committed with the state."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Liveness is judged by the engine's own progress."""

    async def commit_offsets(self, offsets: Mapping[TP, tuple[int, str]]) -> None:
        """Commit plainly (at least once): offset and metadata by partition."""
        await self._thread.call_thread(self._commit_plainly, offsets)

    async def _commit_plainly(self, offsets: Mapping[TP, tuple[int, str]]) -> None:
        consumer = self._thread._ensure_consumer()  # noqa: SLF001 - the driver's only way
        await consumer.commit(
            {
                TopicPartition(tp.topic, tp.partition): aiokafka.structs.OffsetAndMetadata(*at)
                for tp, at in offsets.items()
            }
        )


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with the batch consumer."""

    Consumer = BatchConsumer
