"""What the composition root declares to the engine: agents, and how the engine runs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.engine.declared import DECLARED_MAX
from app.engine.effects import Repartition, Step, TableSpec, Tick


class FailurePolicy(enum.Enum):
    """What becomes of records on which a step fails, and of those it rejects.

    To fail is to raise, to lose count, or to make something too large to write; to reject is
    to answer that a record cannot be read, or breaks a rule. DEAD_LETTER isolates both and goes
    on. RETRY runs a step that failed again after half a second, two and eight, then does the
    same; rejects are dead-lettered at once, as a pure step would decide no differently. STOP
    halts the partition before the batch at either, which /ready and /health tell.
    """

    DEAD_LETTER = "dead_letter"
    RETRY = "retry"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent per topic. Names of topics are logical; the engine maps them.

    ``tables`` form one group: they share the topic's partitioning, one RocksDB per
    partition, and one changelog topic, ``changelog``. Records that are late or cannot be
    processed go to ``late_topic`` and ``dead_letter_topic`` inside the same epoch.
    ``tick`` is wall-clock work, ``on_time`` event-time work (see :class:`Tick`).
    ``repartitions`` are those the step emits partials for: their topics hear of every lane.
    ``counted`` are things that the step counts outside tables, name -> identity: the engine
    keeps, as it does for tables, since which offset each has been declared.
    """

    topic: str
    step: Step
    dead_letter_topic: str
    late_topic: str
    tables: tuple[TableSpec, ...] = ()
    changelog: str | None = None
    tick: Tick | None = None
    on_time: Tick | None = None
    repartitions: tuple[Repartition, ...] = ()
    on_failure: FailurePolicy = FailurePolicy.DEAD_LETTER
    counted: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.tables) != (self.changelog is not None):
            raise ValueError(f"agent of {self.topic!r}: tables and changelog go together")
        if len(self.declared) > DECLARED_MAX:
            raise ValueError(f"agent of {self.topic!r}: more than {DECLARED_MAX} declarations")

    @property
    def declared(self) -> Mapping[str, str]:
        """Identity of each table, and of what else is counted, by name."""
        return {table.name: table.identity for table in self.tables} | dict(self.counted)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine runs on this worker.

    ``transactional_id`` must be unique per worker data folder: two workers with one id
    would fence each other.
    ``record_bytes_max`` is the largest record the topics admit, ``fetch_memory_bytes`` what may
    be fetched and not yet processed.
    """

    group: str
    bootstrap: str
    physical: Callable[[str], str]
    partitions: Mapping[str, int]
    transactional_id: str
    data_dir: Path
    worker: str
    commit_interval_s: float = 0.1
    session_timeout_ms: int = 10_000
    state_memory_bytes: int = 64 << 20
    fetch_memory_bytes: int = 64 << 20
    record_bytes_max: int = 1 << 20

    @property
    def transaction_timeout_ms(self) -> int:
        """Three seconds below the session timeout, but no less than half of it.

        So a dead worker's transaction is over when its partitions move: a scan of the embedded
        broker, every 2 s, lies between, and the heartbeat that came last before the death.
        """
        # Clients take no transaction timeout under a second.
        return max(1_000, self.session_timeout_ms // 2, self.session_timeout_ms - 3_000)

    @property
    def drain_timeout_ms(self) -> int:
        """How long a hand-over waits for its last commit: half the session timeout.

        The whole group stands still as long as one member hands over.
        """
        return self.session_timeout_ms // 2
