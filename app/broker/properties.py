"""The embedded broker's configuration as text: pure, nothing is read or started here."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MESSAGE_BYTES_MAX = 2 << 20
"""Largest record batch: an event of 1 MiB fits with its envelope."""

SESSION_TIMEOUT_MS = 1_500
"""How long the controller takes a killed broker for alive; its restart waits this long."""

PARTITION_BYTES_MAX = 1 << 30
"""Bound of one partition's log, so that a forgotten demo cannot fill the disk."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the broker, kept from the first start on."""

    client: int
    controller: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Files of one embedded broker; ``home`` is the state folder, absolute."""

    home: Path

    @property
    def root(self) -> Path:
        """Everything of the broker."""
        return self.home / "broker"

    @property
    def data(self) -> Path:
        """Kafka's log directory."""
        return self.root / "data"

    @property
    def logs(self) -> Path:
        """``broker.log`` (rolled by log4j) and ``broker.out`` (what the JVM itself says)."""
        return self.root / "logs"

    @property
    def log(self) -> Path:
        """Kafka's own log."""
        return self.logs / "broker.log"

    @property
    def out(self) -> Path:
        """Standard output and error of the JVM, emptied at each start."""
        return self.logs / "broker.out"

    @property
    def lock(self) -> Path:
        """Held while the broker is looked for, started or stopped."""
        return self.root / "lock"

    @property
    def record(self) -> Path:
        """Pid, port and start time of the running broker."""
        return self.root / "broker.json"

    @property
    def properties(self) -> Path:
        """Kafka's configuration; the only place where the ports are remembered."""
        return self.root / "server.properties"

    @property
    def jars(self) -> Path:
        """The resolved class path."""
        return self.root / "jars.json"

    @property
    def marker(self) -> str:
        """JVM argument by which the broker of this folder is recognised among processes."""
        return f"-Dheadrace.broker.home={self.home}"


def server_properties(layout: Layout, ports: Ports) -> str:
    """Text of ``server.properties``: one KRaft node, broker and controller, loopback only."""
    settings: dict[str, str | int] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": (
            f"PLAINTEXT://127.0.0.1:{ports.client},CONTROLLER://127.0.0.1:{ports.controller}"
        ),
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports.client}",
        "controller.listener.names": "CONTROLLER",
        # Static voters: the port may change between starts without touching the metadata log.
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "log.dirs": _escaped(str(layout.data)),
        "auto.create.topics.enable": "false",
        "num.network.threads": 2,
        "num.io.threads": 4,
        "broker.heartbeat.interval.ms": 300,
        "broker.session.timeout.ms": SESSION_TIMEOUT_MS,
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "log.retention.ms": 7 * 24 * 3_600_000,
        "log.retention.bytes": PARTITION_BYTES_MAX,
        "log.segment.bytes": 128 << 20,
        "log.cleaner.enable": "true",
        # The default of 128 MiB is a third of the heap; this still holds 700 000 keys a pass.
        "log.cleaner.dedupe.buffer.size": 16 << 20,
        "offsets.topic.num.partitions": 8,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        # A dead worker's open transaction holds back its successor until this scan ends it.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 2_000,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def parse_ports(text: str) -> Ports | None:
    """Ports out of a ``server.properties``, or None when it does not name both."""
    listeners = re.search(
        r"^listeners=PLAINTEXT://127\.0\.0\.1:(\d{1,5}),CONTROLLER://127\.0\.0\.1:(\d{1,5})$",
        text,
        re.MULTILINE,
    )
    return None if listeners is None else Ports(int(listeners[1]), int(listeners[2]))


def jvm_arguments(layout: Layout, classpath: Sequence[Path], log4j: Path) -> list[str]:
    """Arguments of ``java`` up to and without the main class.

    The C1 compiler alone and the serial collector: measured at half the CPU and less
    memory than the defaults for a broker of a few hundred thousand records a second,
    because it is warm at once.
    """
    return [
        "-Xms64m",
        "-Xmx384m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={layout.logs}/hs_err.log",
        layout.marker,
        f"-Dheadrace.broker.logs={layout.logs}",
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        "-cp",
        ":".join(map(str, classpath)),
    ]


def new_cluster_id() -> str:
    """A random cluster id in Kafka's form: 22 characters, not led by a dash."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()
    return "A" + text[1:] if text.startswith("-") else text


def _escaped(value: str) -> str:
    # Java reads properties as Latin-1 and takes the backslash for an escape.
    return "".join(
        c if " " <= c <= "~" and c != "\\" else "".join(f"\\u{u:04x}" for u in _utf16(c))
        for c in value
    )


def _utf16(char: str) -> list[int]:
    raw = char.encode("utf-16-be")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
