"""An engine without a broker: the clock, the writer, the flow and the starter are in hand.

:class:`MemoryWriter` stands for no server: it keeps what it was given, fails when told to,
and lets a test hold an epoch in flight. What a broker does is tested with a broker.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from app.engine.batch import Headers, RecordBatch
from app.engine.counts import Counts
from app.engine.delivery import Delivery
from app.engine.effects import Effects, Repartition, TableSpec, View
from app.engine.engine import Engine
from app.engine.epoch import Epoch, TaskId
from app.engine.lanes import Lanes
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.partitioner import partition_for
from app.engine.progress import Progress
from app.engine.reading import LogEnd
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.starts import Start, Starter
from app.engine.task import Task
from app.engine.transaction import CommitFailedError, Writer, Written

PATIENCE_S = 60.0
"""Only a broken engine waits this long."""

MEMBERSHIP = Membership("group", 3, "member-1")
SOURCE = TaskId("source", 0)


class Sum:
    """The simplest aggregate: integers, added."""

    def merge(self, left: int, right: int) -> int:
        return left + right

    def encode(self, state: int) -> bytes:
        return b"%d" % state

    def decode(self, raw: bytes) -> int:
        return int(raw)


COUNTS = TableSpec("counts", "counts-1", Sum())


def count_step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    """Counts each value; a record without one is a duplicate of nothing."""
    counts: dict[bytes, int] = {}
    duplicates = 0
    for value in batch.values:
        if value is None:
            duplicates += 1
        else:
            counts[value] = counts.get(value, 0) + 1
    return Effects(updates={"counts": counts}, applied=sum(counts.values()), duplicates=duplicates)


def _route(key: Any) -> bytes:
    return cast(str, key).encode()


def _add(left: Any, right: Any) -> Any:
    return left + right


def _encode(key: Any, partial: Any) -> bytes:
    return f"{key}={partial}".encode()


def _decode(raw: bytes) -> tuple[Any, Any]:
    key, _, partial = raw.decode().rpartition("=")
    return key, int(partial)


REPARTITION = Repartition("partials", _route, _add, _encode, _decode)


def counting_agent(**changes: Any) -> AgentSpec:
    """An agent that counts the values of its records in a table."""
    given: dict[str, Any] = {
        "topic": "source",
        "step": count_step,
        "dead_letter_topic": "dead",
        "late_topic": "late",
        "tables": (COUNTS,),
        "changelog": "source-changelog",
    }
    return AgentSpec(**{**given, **changes})


def batch(
    values: Sequence[bytes | None],
    start: int = 0,
    *,
    partition: int = 0,
    topic: str = "source",
    headers: Headers = (),
) -> RecordBatch:
    """Consecutive records from offset ``start``."""
    count = len(values)
    return RecordBatch(
        topic,
        partition,
        range(start, start + count),
        [1_000 + i for i in range(count)],
        [None] * count,
        list(values),
        [headers] * count,
    )


class ManualClock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.s = 1_000.0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.s

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        self.s += seconds


class MemoryWriter:
    """Keeps the epochs it commits; ``failures`` are raised first, one per commit."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.failures: deque[Exception] = deque()
        self.open_failures: deque[Exception] = deque()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self.minds_giving_up = True

    def open(self) -> None:
        if self.open_failures:
            raise self.open_failures.popleft()

    def commit(self, epoch: Epoch, given_up: threading.Event) -> Written:
        self.entered.release()
        if not self.gate.wait(PATIENCE_S):
            raise AssertionError("the test never opened the gate")
        if given_up.is_set() and self.minds_giving_up:
            raise CommitFailedError("given up", membership_lost=False, producer_dead=False)
        if self.failures:
            raise self.failures.popleft()
        self.epochs.append(epoch)
        rows = {
            task: {
                spec.identity: {
                    key: None if state is None else spec.aggregate.encode(state)
                    for key, state in changed.items()
                }
                for spec, changed in commit.changes.items()
            }
            for task, commit in epoch.tasks.items()
            if commit.changelog is not None
        }
        return Written(rows, dict.fromkeys(rows, epoch.number))

    def close(self) -> None:
        self.closed = True

    async def in_flight(self) -> None:
        """Wait until a commit has entered the writer."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)

    def committed(self, task: TaskId) -> Start:
        """Where the group would say that the task stands."""
        for epoch in reversed(self.epochs):
            if task in epoch.tasks:
                done = epoch.tasks[task]
                return Start(done.position, done.lanes, done.counts)
        return Start(0, Lanes(), Counts())


class MemoryStarter:
    """Starts tasks where the writer's last epochs ended."""

    def __init__(self, writer: MemoryWriter) -> None:
        self._writer = writer
        self.progress = Progress()
        self.runs = 0

    async def starts(self, tasks: Sequence[Task]) -> Mapping[TaskId, Start]:
        self.runs += 1
        return {task.id: self._writer.committed(task.id) for task in tasks}

    def cancel(self) -> None:
        pass

    async def idle(self, deadline_s: float) -> None:
        pass

    def close(self) -> None:
        pass


class RecordingFlow:
    """Remembers what the engine asked of the consumer."""

    def __init__(self) -> None:
        self.holds = 0
        self.ends: dict[TaskId, int] = {}
        self._released: asyncio.Queue[Mapping[TaskId, int]] = asyncio.Queue()

    def hold(self) -> None:
        self.holds += 1

    def delivered(self, task: TaskId) -> int:  # noqa: ARG002
        return 0

    def fetched(self, task: TaskId) -> int | None:  # noqa: ARG002
        return None

    def end(self, task: TaskId) -> int | None:
        return self.ends.get(task)

    def appended(self, task: TaskId) -> LogEnd | None:  # noqa: ARG002
        return None

    def paused(self, task: TaskId) -> bool:  # noqa: ARG002
        return False

    @property
    def held_bytes(self) -> int:
        return 0

    async def release(self, positions: Mapping[TaskId, int]) -> None:
        self._released.put_nowait(positions)

    async def released(self) -> Mapping[TaskId, int]:
        """The next release."""
        return await asyncio.wait_for(self._released.get(), PATIENCE_S)

    @property
    def waiting(self) -> int:
        """Releases nobody has looked at."""
        return self._released.qsize()


def engine_config(data_dir: Path, **changes: Any) -> EngineConfig:
    """Configuration of an engine that talks to nobody."""
    given: dict[str, Any] = {
        "group": "group",
        "bootstrap": "127.0.0.1:1",
        "physical": str,
        "partitions": {"source": 2, "other": 2, "partials": 3},
        "transactional_id": "group-0",
        "data_dir": data_dir,
        "worker": "worker",
        "commit_interval_s": 0.0,
        "state_memory_bytes": 8 << 20,
    }
    return EngineConfig(**{**given, **changes})


@dataclass
class Rig:
    """An engine and everything around it."""

    data_dir: Path
    specs: Iterable[AgentSpec] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.writer = MemoryWriter()
        self.flow = RecordingFlow()
        self.registry = CollectorRegistry()
        self.engine = Engine(
            engine_config(self.data_dir, **self.changes),
            tuple(self.specs) or (counting_agent(),),
            cast(Writer, self.writer),
            self.clock,
            EngineMetrics(self.registry),
            lambda _step: None,
        )
        self.starter = MemoryStarter(self.writer)
        self.engine.starter = cast(Starter, self.starter)
        self.engine.flow = self.flow

    async def start(self, *tasks: TaskId) -> None:
        """Assign tasks (``source/0`` by default) and wait until they run."""
        await self.engine.assign(tasks or (SOURCE,), MEMBERSHIP)
        await self.flow.released()

    async def feed(self, records: RecordBatch, token: int | None = None) -> None:
        """Deliver a batch, by default under the current token."""
        under = self.engine.token if token is None else token
        size = sum(len(value or b"") for value in records.values)
        await self.engine.process(Delivery(records, under, size))

    async def commit(self) -> bool:
        """Commit what is open."""
        return await asyncio.wait_for(self.engine.commits.commit(), PATIENCE_S)

    def working(self, key: bytes, task: TaskId = SOURCE) -> int | None:
        """What the next step would see."""
        return cast("int | None", self.engine.tasks[task].table("counts").get(key))

    def committed(self, key: bytes, task: TaskId = SOURCE) -> int | None:
        """What a query would see."""
        return cast("int | None", self.engine.tasks[task].table("counts").committed(key))

    def metric(self, name: str, **labels: str) -> float:
        """Value of a metric, 0 when it was never set."""
        return self.registry.get_sample_value(name, labels) or 0.0


def partition_of(key: str, partitions: int) -> int:
    """Partition of a text key."""
    return partition_for(key.encode(), partitions)
