"""Starting the broker's process and waiting until it answers."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.broker.diagnosis import cause_of_exit, last_words
from app.broker.errors import BrokerError
from app.broker.jars import Progress, classpath
from app.broker.java import find_java
from app.broker.process import await_end, spawn
from app.broker.properties import (
    Layout,
    Ports,
    jvm_arguments,
    new_cluster_id,
    parse_ports,
    server_properties,
)

FREE_BYTES_MIN = 200 << 20
START_TIMEOUT_S = 120.0
"""Long enough to recover the logs of an unclean shutdown on a slow disk."""
LOG_TAIL_BYTES = 64 << 10
# Below the range systems hand out for outgoing connections, so the port stays ours.
PORT_RANGE = (20_000, 30_000)
PORT_PATIENCE_S = 3.0
_LOG4J = Path(__file__).with_name("log4j2.xml")


def known_ports(layout: Layout) -> Ports | None:
    """Ports chosen at the first start, or None before it."""
    try:
        return parse_ports(layout.properties.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def free_ports(layout: Layout) -> Ports:
    """The known ports, or new ones at the first start.

    Raises :class:`BrokerError` when another program listens on a known one.
    """
    known = known_ports(layout)
    if known is None:
        low, high = PORT_RANGE
        candidates = iter(lambda: low + secrets.randbelow(high - low), None)
        free = (port for port in candidates if _bindable(port))
        client = next(free)
        return Ports(client, next(port for port in free if port != client))
    # A broker killed a moment ago lets go of its ports only with its last thread.
    deadline = time.monotonic() + PORT_PATIENCE_S
    for port in (known.client, known.controller):
        while not _bindable(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not _bindable(port):
            raise BrokerError(
                f"port {port} of the embedded broker is used by {_port_user(port)}: stop that "
                f"program, or delete {layout.properties} to have new ports chosen (data is kept)"
            )
    return known


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port_user(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr[1:] == (port,) and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"


def start(layout: Layout, ports: Ports, progress: Progress) -> psutil.Process:
    """Prepare what is missing and start the broker; returns before it answers."""
    if shutil.disk_usage(layout.root).free < FREE_BYTES_MIN:
        raise BrokerError(disk_full(layout))
    java = find_java()
    jars = classpath(layout.jars, progress=progress)
    staged = layout.properties.with_suffix(".new")
    staged.write_text(server_properties(layout, ports), encoding="ascii")
    staged.replace(layout.properties)  # whole or not at all: it remembers the ports
    command = [str(java.path), *jvm_arguments(layout, jars, _LOG4J)]
    if not (layout.data / "meta.properties").exists():
        progress("preparing the broker's storage")
        _format(layout, command)
    progress(f"starting Apache Kafka on 127.0.0.1:{ports.client} (Java {java.major})")
    return spawn([*command, "kafka.Kafka", str(layout.properties)], layout.out)


def _format(layout: Layout, command: list[str]) -> None:
    # Without the marker: this is no broker, nobody must take it for one.
    tool = [part for part in command if part != layout.marker]
    tool += ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
    tool += ["-t", new_cluster_id(), "-c", str(layout.properties)]
    done = subprocess.run(  # noqa: S603 - our own command line, no shell
        tool, capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S
    )
    if done.returncode != 0:
        said = done.stdout + done.stderr
        raise BrokerError(
            f"the broker's storage in {layout.data} cannot be prepared: "
            f"{cause_of_exit(said) or last_words(said)}"
        )


def await_answer(layout: Layout, port: int, process: psutil.Process, progress: Progress) -> bool:
    """Wait until the broker answers (True) or has ended (False).

    Raises :class:`BrokerError` when it does neither for :data:`START_TIMEOUT_S`.
    """
    began = time.monotonic()
    told = began
    while not answers(port):
        now = time.monotonic()
        if await_end(process, 0):
            return False
        if now - began > START_TIMEOUT_S:
            raise BrokerError(
                f"the broker (pid {process.pid}) runs but has not answered on port {port} "
                f"for {START_TIMEOUT_S:.0f} s: see {layout.log}, wait if it recovers its data, "
                f"else stop it with 'faust -A app broker stop' and start again"
            )
        if now - told > 3:
            told = now
            progress(f"waiting for the broker to answer, {now - began:.0f} s")
        time.sleep(0.05)
    return True


def answers(port: int) -> bool:
    """Whether a Kafka broker answers on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=5).brokers)
    except KafkaException:
        return False


def exit_reason(layout: Layout, log_from: int) -> str:
    """The sentence for a broker that ended; its start's log begins at byte ``log_from``."""
    said = _tail(layout.out, 0) + _tail(layout.log, log_from)
    known = cause_of_exit(said)
    quote = last_words(said)
    reason = known or f"its last word was: {quote}" if known or quote else "it said nothing"
    return f"the embedded broker ended while starting, {reason} (log: {layout.log})"


def _tail(path: Path, start: int) -> str:
    size = size_of(path)
    if size < start:  # rolled meanwhile
        start = 0
    try:
        with path.open("rb") as file:
            file.seek(max(start, size - LOG_TAIL_BYTES))
            return file.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def disk_full(layout: Layout) -> str:
    """The sentence for a full disk."""
    return (
        f"the disk of {layout.home} is nearly full (under {FREE_BYTES_MIN >> 20} MB free): free "
        f"some space, or set HEADRACE_HOME to a folder on another disk"
    )
