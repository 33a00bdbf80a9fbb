"""Writes an epoch to Kafka: one transaction, fenced by the frozen group metadata.

Blocking; runs in one thread of its own. librdkafka keeps the transaction protocol, this
module keeps its order: rows and outputs, position records, offsets, commit, and only then
the local stores.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import confluent_kafka as ck
from aiokafka.errors import KafkaError

from app.engine.clock import Clock
from app.engine.epoch import Epoch, TaskCommit, TaskId
from app.engine.producing import EpochProducer, Rows, producer_config
from app.engine.spec import EngineConfig

logger = logging.getLogger(__name__)

REGISTER_S = 20.0
SLOW_S = 2.0
"""A commit that takes longer says in the log where the time went."""

Probe = Callable[[str], None]
"""Told the name of each step of a commit; fault drills stop or kill the process there."""

_MEMBERSHIP_LOST = frozenset(
    {
        ck.KafkaError.ILLEGAL_GENERATION,
        ck.KafkaError.UNKNOWN_MEMBER_ID,
        ck.KafkaError.FENCED_INSTANCE_ID,
        ck.KafkaError.REBALANCE_IN_PROGRESS,
    }
)


class CommitFailedError(Exception):
    """The epoch did not commit, or its fate is not known; state must be read anew.

    ``membership_lost``: the group does not know this member in this generation any more,
    so a rebalance is on its way. ``producer_dead``: a new producer is needed.
    """

    def __init__(self, reason: str, *, membership_lost: bool, producer_dead: bool) -> None:
        super().__init__(reason)
        self.membership_lost = membership_lost
        self.producer_dead = producer_dead


@dataclass(frozen=True, slots=True)
class Written:
    """What a committed epoch put into the changelogs, for the local stores.

    ``rows``: task -> column family -> key -> value; ``changelog``: task -> next offset.
    """

    rows: Mapping[TaskId, Rows]
    changelog: Mapping[TaskId, int]


class _Laps:
    """Seconds that each part of a commit took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._took: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """The part is done."""
        before, self._at = self._at, self._clock.monotonic()
        self._took[part] = self._at - before

    def tell(self, number: int) -> None:
        """Say it, if it was long."""
        self.lap("the rest")
        if sum(self._took.values()) > SLOW_S:
            parts = ", ".join(f"{part} {s:.1f} s" for part, s in self._took.items())
            logger.warning("epoch %d was slow: %s", number, parts)


class TransactionalWriter(EpochProducer):
    """Exactly once: an epoch is one transaction."""

    def __init__(self, config: EngineConfig, probe: Probe, clock: Clock) -> None:
        super().__init__(config)
        self._probe = probe
        self._clock = clock

    def _new(self) -> ck.Producer:
        config = producer_config(self._config)
        config["transactional.id"] = self._config.transactional_id
        config["transaction.timeout.ms"] = self._config.transaction_timeout_ms
        config["delivery.timeout.ms"] = self._config.transaction_timeout_ms
        return ck.Producer(config)

    def open(self) -> None:
        """Register with the coordinator: fences, and ends, what a former self left open.

        Raises :class:`CommitFailedError` while no coordinator answers.
        """
        if self._producer is None:
            try:
                self.producer.init_transactions(REGISTER_S)
            except ck.KafkaException as exc:
                self.close()
                raise CommitFailedError(
                    f"the transaction coordinator did not answer: {exc.args[0].str()}",
                    membership_lost=False,
                    producer_dead=True,
                ) from exc

    def commit(self, epoch: Epoch, given_up: threading.Event) -> Written:
        """Write one epoch, or raise :class:`CommitFailedError`.

        Once it is given up, it is aborted at its next step.
        """
        laps = _Laps(self._clock)
        try:
            return self._commit(epoch, given_up, laps)
        finally:
            laps.tell(epoch.number)

    def _commit(self, epoch: Epoch, given_up: threading.Event, laps: _Laps) -> Written:
        if epoch.membership is None:
            raise CommitFailedError("no membership", membership_lost=True, producer_dead=False)
        self.open()
        producer = self.producer
        physical = self._config.physical
        offsets = [
            ck.TopicPartition(
                physical(task.topic), task.partition, commit.position, commit.metadata()
            )
            for task, commit in epoch.tasks.items()
        ]
        deadline = self._clock.monotonic() + self._config.transaction_timeout_ms / 1000
        try:
            producer.begin_transaction()
            self._probe("begun")
            laps.lap("beginning")
            rows, delivered = self.produce_all(epoch)
            self._probe("produced")
            laps.lap("records")
            self._abort_if(given_up, producer)
            metadata = epoch.membership.metadata()
            self._retrying(
                lambda left: producer.send_offsets_to_transaction(offsets, metadata, left), deadline
            )
            self._probe("offsets_sent")
            laps.lap("offsets")
            self._abort_if(given_up, producer)
            self._retrying(producer.commit_transaction, deadline)
        except CommitFailedError:
            raise
        except ck.KafkaException as exc:
            raise self._failed(exc, producer) from exc
        except Exception as exc:
            self.close()  # the transaction is open: only its successor can end it
            raise CommitFailedError(
                f"an epoch could not be written: {exc!r}", membership_lost=False, producer_dead=True
            ) from exc
        laps.lap("commit")
        self._probe("committed")
        return Written(rows, delivered)

    def _retrying(self, call: Callable[[float], None], deadline: float) -> None:
        while True:
            try:
                call(max(0.1, deadline - self._clock.monotonic()))
            except ck.KafkaException as exc:
                if not exc.args[0].retriable() or self._clock.monotonic() >= deadline:
                    raise
                # librdkafka resumes the same call where it stood; it waits inside.
                continue
            return

    def _failed(self, exc: ck.KafkaException, producer: ck.Producer) -> CommitFailedError:
        error: ck.KafkaError = exc.args[0]
        dead = error.fatal() or not error.txn_requires_abort() or not self._aborted(producer)
        if dead:
            self.close()
        return CommitFailedError(
            str(error),
            membership_lost=error.code() in _MEMBERSHIP_LOST,
            producer_dead=dead,
        )

    def _abort_if(self, given_up: threading.Event, producer: ck.Producer) -> None:
        if not given_up.is_set():
            return
        dead = not self._aborted(producer)
        if dead:
            self.close()
        raise CommitFailedError("given up", membership_lost=False, producer_dead=dead)

    def _aborted(self, producer: ck.Producer) -> bool:
        try:
            producer.abort_transaction(self._config.transaction_timeout_ms / 1000)
        except ck.KafkaException as exc:
            logger.warning("could not abort the transaction: %s", exc)
            return False
        return True


class AtLeastOnceWriter(EpochProducer):
    """At least once, for comparison: everything is delivered, then offsets are committed."""

    def __init__(
        self, config: EngineConfig, commit_offsets: Callable[[Mapping[TaskId, TaskCommit]], None]
    ) -> None:
        super().__init__(config)
        self._commit_offsets = commit_offsets
        self._undelivered: ck.KafkaError | None = None
        # A transaction that lost a record does not commit; here every report has to be read.
        self._on_delivery = self._note

    def _note(self, error: ck.KafkaError | None, _message: ck.Message) -> None:
        if error is not None:
            self._undelivered = error

    def open(self) -> None:
        """Nothing to register."""

    def commit(self, epoch: Epoch, given_up: threading.Event) -> Written:  # noqa: ARG002 - there is nothing to abort
        """Write one epoch, or raise :class:`CommitFailedError`."""
        self._undelivered = None
        rows, delivered = self.produce_all(epoch)
        left = self.producer.flush(self._config.transaction_timeout_ms / 1000)
        if left or self._undelivered is not None:
            self.close()
            raise CommitFailedError(
                f"records were not delivered: {self._undelivered or 'no answer in time'}",
                membership_lost=False,
                producer_dead=True,
            )
        try:
            self._commit_offsets(epoch.tasks)
        except (KafkaError, TimeoutError) as exc:
            raise CommitFailedError(
                f"offsets were not committed: {exc!r}", membership_lost=True, producer_dead=False
            ) from exc
        return Written(rows, delivered)


Writer = TransactionalWriter | AtLeastOnceWriter
