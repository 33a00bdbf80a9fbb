"""Reads the changelogs of standbys into their stores: what the standbys' thread does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec

from app.engine.clients import OUTAGES
from app.engine.clock import Clock
from app.engine.epoch import TaskId
from app.engine.offsets import NoOffsetError, told_offset
from app.engine.read_ahead import READ_AHEAD
from app.engine.restore import BATCH, RestoreError, apply_records
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.store import Positions, Store, StoreError
from app.engine.stores import Stores

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Longest wait for records, which is how long a hand-over may be held up."""
LOOK_S = 0.5
"""How often the ends of the changelogs are asked for."""
OPEN_AGAIN_S = 10.0
"""When a store that could not be opened is tried again."""
_REQUEST_S = 5.0

_TopicPartition = tuple[str, int]
_Ends = dict[ck.TopicPartition, "Future[ListOffsetsResultInfo]"]


@dataclass(slots=True)
class Standby:
    """A standby as its thread leaves it. Offsets are those of the changelog (physical topic).

    ``position``: next offset to apply. ``end``: end of the committed changelog when last
    heard of. ``current_at_s``: when ``position`` was last known to be the end (monotonic);
    None until it was so once.
    """

    id: TaskId
    topic: str
    store: Store
    position: int
    end: int | None = None
    current_at_s: float | None = None

    @property
    def lag(self) -> int:
        """Offsets behind the end last heard of; 0 while that is unknown."""
        return 0 if self.end is None else max(0, self.end - self.position)


@dataclass(slots=True)
class _Look:
    """A question for the ends of changelogs, on its way."""

    asked_at_s: float
    ends: _Ends = field(default_factory=dict)

    def answered(self) -> bool:
        return all(future.done() for future in self.ends.values())


class Tail:
    """Consumer and stores. Every method blocks, and none may run beside another."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Mapping[str, AgentSpec],
        stores: Stores,
        clock: Clock,
    ) -> None:
        self._physical = config.physical
        self._specs = specs
        self._stores = stores
        self._clock = clock
        common: dict[str, str | int | float | bool] = {
            "bootstrap.servers": config.bootstrap,
            "client.id": f"{config.worker}-standby",
            **OUTAGES,
        }
        self._client_config = common
        self._consumer_config = {
            **common,
            # Partitions are assigned by hand: this group id never joins a group.
            "group.id": f"{config.group}-standby",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 500,
            **READ_AHEAD,
        }
        self._consumer: ck.Consumer | None = None
        self._admin: AdminClient | None = None
        self._standbys: dict[TaskId, Standby] = {}
        self._look: _Look | None = None
        self._looked_at_s = 0.0
        self._refused_until_s: dict[TaskId, float] = {}

    def drop(self, keep: frozenset[TaskId]) -> None:
        """Give back the store of every standby that is not kept."""
        for task in self._refused_until_s.keys() - keep:
            del self._refused_until_s[task]
        gone = self._standbys.keys() - keep
        for task in gone:
            self._give(self._standbys.pop(task))
        if gone:
            self._assign()

    def begin_again(self) -> None:
        """Close every store, to open it anew; what RocksDB cannot read any more is set aside."""
        while self._standbys:
            self._give(self._standbys.popitem()[1])
        self._stores.close_idle()
        self._assign()

    def _give(self, standby: Standby) -> None:
        store = standby.store
        try:
            if store.damaged:
                logger.warning("%s is corrupt: set aside, rebuilt from the changelog", store.path)
                store.reset()
            else:
                # The end may lie behind markers that no record follows: nobody need look there.
                store.write({}, Positions(changelog=standby.position))
        except StoreError as exc:
            logger.warning("%s", exc)
        self._stores.give(standby.id, store)

    def step(self, wanted: frozenset[TaskId]) -> dict[TaskId, Standby]:
        """Open what is missing, and apply what has come. All standbys, by task.

        A store that cannot be opened keeps the others from nothing, and is tried again.
        """
        missing, now_s = wanted - self._standbys.keys(), self._clock.monotonic()
        due = {task for task in missing if now_s >= self._refused_until_s.get(task, 0.0)}
        if due or not self._standbys:
            self._rebuild_those_ahead(self._open(due or missing))
            self._assign()
        self._consume()
        self._look_at_ends()
        return dict(self._standbys)

    def _open(self, missing: Iterable[TaskId]) -> list[TaskId]:
        """Those of the tasks whose store could be opened; raises where that leaves no standby."""
        opened: list[TaskId] = []
        for task in sorted(missing, key=str):
            try:
                standby = self._opened(task)
            except StoreError as exc:
                logger.warning("no standby of %s for %.0f s: %s", task, OPEN_AGAIN_S, exc)
                self._refused_until_s[task] = self._clock.monotonic() + OPEN_AGAIN_S
                refused = exc
                continue
            self._refused_until_s.pop(task, None)
            opened.append(task)
            self._standbys[task] = standby
            standby.position = standby.store.positions().changelog or 0
        if not self._standbys:
            raise refused
        return opened

    def _opened(self, task: TaskId) -> Standby:
        spec = self._specs[task.topic]
        store = self._stores.take(task, spec)
        if store is None or spec.changelog is None:
            raise ValueError(f"{task} has no tables: it needs no standby")
        return Standby(task, self._physical(spec.changelog), store, 0)

    def _assign(self) -> None:
        self._look = None
        if self._standbys:
            if self._consumer is None:
                self._consumer = ck.Consumer(self._consumer_config)
            self._consumer.assign(
                [ck.TopicPartition(*_tp(s), s.position) for s in self._standbys.values()]
            )
        elif self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _rebuild_those_ahead(self, tasks: Iterable[TaskId]) -> None:
        """A store beyond its changelog's end, committed or not, belongs to another changelog."""
        ends = self._ends(tasks, ck.IsolationLevel.READ_UNCOMMITTED)
        for task in tasks:
            standby = self._standbys[task]
            end = self._offset(ends, standby)
            if standby.position > end:
                logger.warning(
                    "%s is ahead of its changelog (%d > %d): rebuilt",
                    standby.store.path,
                    standby.position,
                    end,
                )
                standby.store.reset()
                standby.position = 0

    def _consume(self) -> None:
        assert self._consumer is not None  # noqa: S101 - for the type checker
        by_tp = {_tp(standby): standby for standby in self._standbys.values()}
        held: dict[_TopicPartition, list[ck.Message]] = {}
        reached: dict[_TopicPartition, int] = {}
        for message in self._consumer.consume(BATCH, POLL_S):
            tp = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if tp not in by_tp and error is None:
                continue
            if error is None:
                held.setdefault(tp, []).append(message)
                reached.pop(tp, None)
            elif error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                reached[tp] = message.offset() or 0
            else:
                raise RestoreError(f"{tp[0]}/{tp[1]}: {error.str()}")
        for tp, messages in held.items():
            apply_records(by_tp[tp].store, messages)
            by_tp[tp].position = (messages[-1].offset() or 0) + 1
        now_s = self._clock.monotonic()
        for tp, offset in reached.items():
            if tp in by_tp:
                standby = by_tp[tp]
                standby.position = standby.end = max(offset, standby.position)
                standby.current_at_s = now_s

    def _look_at_ends(self) -> None:
        """Ask for the committed ends now and then: silence may mean no news, or no broker."""
        now_s = self._clock.monotonic()
        look = self._look
        if look is None:
            if now_s - self._looked_at_s >= LOOK_S:
                self._looked_at_s = now_s
                self._look = _Look(
                    now_s, self._ends(self._standbys, ck.IsolationLevel.READ_COMMITTED)
                )
        elif look.answered():
            self._look = None
            for standby in self._standbys.values():
                try:
                    standby.end = self._offset(look.ends, standby)
                except RestoreError as exc:
                    logger.debug("%s", exc)
                    continue
                if standby.position >= standby.end:
                    standby.current_at_s = max(look.asked_at_s, standby.current_at_s or 0.0)

    def _ends(self, tasks: Iterable[TaskId], isolation: ck.IsolationLevel) -> _Ends:
        if self._admin is None:
            self._admin = AdminClient(self._client_config)
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {ck.TopicPartition(*_tp(self._standbys[task])): spec for task in tasks}
        return self._admin.list_offsets(
            wanted, isolation_level=isolation, request_timeout=_REQUEST_S
        )

    def _offset(self, ends: _Ends, standby: Standby) -> int:
        """End of the standby's changelog; waits for the answer."""
        try:
            return told_offset(ends[ck.TopicPartition(*_tp(standby))].result(_REQUEST_S))
        except (ck.KafkaException, TimeoutError, NoOffsetError) as exc:
            # A client keeps asking under the leader epoch it knows, and a restarted broker
            # has another: only a new client asks anew.
            self._admin = None
            raise RestoreError(f"the broker did not tell the end of {_tp(standby)}: {exc}") from exc


def _tp(standby: Standby) -> _TopicPartition:
    return standby.topic, standby.id.partition
