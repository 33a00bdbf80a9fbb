"""A topic of finals, archivers of it that can be killed, and what they archived."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import confluent_kafka as ck
from confluent_kafka.cimpl import NewTopic

from agents.history.target import ArchiveTarget
from tables.history.place import Place
from tables.history.query import rows_of
from tables.history.ranges import cover
from tables.history.store import DatasetStore
from tables.history.stores import dataset_store
from tests.history.rows import DAY_0, MINUTE, window
from tests.system.harness import CHECKOUT
from tests.system.topics import make_topics

PARTITIONS = 2
ENTRY = Path(__file__).with_name("archiver_entry.py")
Read = list[tuple[int, int, str]]
"""Partition, offset, id of each row."""


class Log:
    """A topic of finals, and what of it is committed."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap, self.name = bootstrap, name
        self.sent: Read = []
        config = {"message.timestamp.type": "LogAppendTime"}
        make_topics(bootstrap, NewTopic(name, PARTITIONS, 1, config=config))
        self._producer = ck.Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": name,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
            }
        )
        self._producer.init_transactions(60)

    def send(self, count: int, *, commit: bool = True) -> None:
        """A transaction of finals, some garbage among them."""
        delivered: list[ck.Message] = []
        self._producer.begin_transaction()
        for at in range(len(self.sent), len(self.sent) + count):
            key, value = window(f"/{at % 7}", DAY_0 + at * MINUTE)
            self._producer.produce(
                self.name, value, key, on_delivery=lambda _error, message: delivered.append(message)
            )
            self._producer.poll(0)
        self._producer.produce(self.name, b"garbage", b"k")
        assert self._producer.flush(60) == 0
        if not commit:
            self._producer.abort_transaction(60)
            return
        self._producer.commit_transaction(60)
        self.sent += [(m.partition(), m.offset(), json.loads(m.value())["id"]) for m in delivered]


def target(
    log: Log, history: Place, member: str = "one", session_timeout_ms: int = 10_000
) -> ArchiveTarget:
    return ArchiveTarget(
        bootstrap=log.bootstrap,
        group=log.name,
        member=member,
        topics={"windows": log.name},
        place=history,
        namespace="",
        session_timeout_ms=session_timeout_ms,
        age_max_s=0.05,
    )


def store_of(history: Place) -> DatasetStore:
    return dataset_store(history, "", "windows")


def archived(history: Place) -> Read:
    """Every row a reader sees, doubles included."""
    store = store_of(history)
    found: Read = []
    with store.duck(threads=1) as duck:
        for piece in cover(store.files()):
            sql, parameters = rows_of([piece], store.scan(duck))
            rows = duck.execute(sql, parameters).fetchall()
            found += [(piece.file.source.partition, row[0], row[1]) for row in rows]
    return sorted(found)


def complete(log: Log, history: Place) -> bool | None:
    return len(archived(history)) >= len(log.sent) or None


class Process:
    """An archiver that can be killed."""

    def __init__(
        self,
        log: Log,
        history: Place,
        folder: Path,
        member: str = "one",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # So soon the partitions of one that hangs are another's.
        aim = target(log, history, member, session_timeout_ms=1_500)
        fields = {name: getattr(aim, name) for name in aim.__slots__}
        with (folder / f"{member}.log").open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, str(ENTRY), json.dumps(fields, default=str)],
                cwd=CHECKOUT,
                env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin", **(environment or {})},
                stdout=sink,
                stderr=sink,
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        self.signal(number)
        self.process.wait(60)
