import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.broker import launch
from app.broker.embedded import broker_status, ensure_broker, restart_crashed, stop_broker
from app.broker.errors import BrokerError
from app.broker.keeper import keep_broker
from app.broker.properties import Layout
from tests.system.harness import wait_for
from tests.system.topics import make_topics

pytestmark = pytest.mark.broker

ENV = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
# Python leaves Ctrl-C ignored where its parent ignores it, as shells have it in the background.
STARTER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from app.broker.embedded import ensure_broker
print(ensure_broker(Path(sys.argv[1])).pid, flush=True)
input()
"""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    yield folder
    stop_broker(folder)


@pytest.fixture
def home(shared_home):
    """A state folder with a running broker, whatever the test before did to it."""
    ensure_broker(shared_home)
    return shared_home


def answering(home):
    status = broker_status(home)
    return status is not None and status.answering


def arguments(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def starter(home):
    """Another process that ensures the broker and then lives on, in its own process group."""
    command = [sys.executable, "-c", STARTER, str(home)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, env=ENV,
    ) as child:  # fmt: skip
        yield child, int(child.stdout.readline())
        child.kill()


def write(bootstrap, topic, values):
    make_topics(bootstrap, NewTopic(topic, 1, 1))
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(60) == 0


def read(bootstrap, topic, count):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []

    def complete():
        messages = consumer.consume(count - len(found), timeout=1)
        found.extend(message.value() for message in messages if message.error() is None)
        return len(found) == count or None

    try:
        wait_for(f"{count} records of {topic}", complete)
        return found
    finally:
        consumer.close()


def command(action, home, **env):
    return subprocess.run(
        [sys.executable, "-m", "app.broker", action, "--home", home],
        capture_output=True, text=True, check=False, env=ENV | env,
    )  # fmt: skip


def test_workers_that_start_at_once_share_one_broker(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(command("start", tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        said = [done.stdout for done in found]
        assert all(done.returncode == 0 for done in found), [done.stderr for done in found]
        assert len({re.search(r"at (\S+ \(pid \d+\))", text)[1] for text in said}) == 1
        assert sum("started at" in text for text in said) == 1
        assert "answers at" in command("status", tmp_path).stdout
    finally:
        assert "broker stopped" in command("stop", tmp_path).stdout
    assert "no broker runs" in command("stop", tmp_path).stdout
    assert command("status", tmp_path).returncode == 1


def test_a_second_call_finds_the_running_broker(home):
    first = ensure_broker(home)
    again = ensure_broker(home)
    assert (again.pid, again.port, again.started) == (first.pid, first.port, False)
    status = broker_status(home)
    assert status is not None
    assert (status.pid, status.bootstrap, status.answering) == (first.pid, first.bootstrap, True)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_the_broker_outlives_the_process_group_that_started_it(home, sign):
    stop_broker(home)
    with starter(home) as (worker, pid):
        os.killpg(worker.pid, sign)
        worker.wait(60)
        address = ensure_broker(home)
    assert (address.pid, address.started) == (pid, False)
    assert os.getsid(pid) == pid


@pytest.mark.parametrize("end", ["stop", "kill -9"])
def test_data_and_port_survive_the_brokers_end(home, namespace, end):
    before = ensure_broker(home)
    write(before.bootstrap, namespace, [b"1", b"2", b"3"])
    if end == "stop":
        assert stop_broker(home)
    else:
        psutil.Process(before.pid).kill()
    after = ensure_broker(home)
    assert (after.port, after.started) == (before.port, True)
    assert after.pid != before.pid
    assert read(after.bootstrap, namespace, 3) == [b"1", b"2", b"3"]


def test_a_broker_that_crashed_is_started_again_and_one_that_was_stopped_is_not(home):
    before = ensure_broker(home)
    assert restart_crashed(home) is None
    psutil.Process(before.pid).kill()
    wait_for("the broker's end", lambda: None if broker_status(home) else True)
    after = restart_crashed(home)
    assert after is not None
    assert (after.port, after.started) == (before.port, True)
    assert stop_broker(home)
    assert restart_crashed(home) is None
    assert broker_status(home) is None


def test_of_several_keepers_one_starts_the_crashed_broker(home):
    before = ensure_broker(home)
    psutil.Process(before.pid).kill()
    wait_for("the broker's end", lambda: None if broker_status(home) else True)

    async def kept() -> None:
        keepers = [asyncio.create_task(keep_broker(home, period_s=0.05)) for _ in range(3)]
        await asyncio.to_thread(wait_for, "the broker", lambda: answering(home) or None)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    asyncio.run(kept())
    running = [p for p in psutil.process_iter() if Layout(home).marker in arguments(p)]
    assert len(running) == 1
    assert ensure_broker(home).pid == running[0].pid != before.pid


def test_a_broker_whose_record_was_lost_is_found_again(home):
    before = ensure_broker(home)
    Layout(home).record.unlink()
    after = ensure_broker(home)
    assert (after.pid, after.port, after.started) == (before.pid, before.port, False)


def test_a_stale_record_with_a_reused_pid_is_passed_over(home):
    stop_broker(home)
    stranger = {"pid": os.getpid(), "port": 1, "started_at": 0.0}
    Layout(home).record.write_text(json.dumps(stranger))
    assert broker_status(home) is None
    assert not stop_broker(home)
    Layout(home).record.write_text(json.dumps(stranger))
    assert ensure_broker(home).started


def test_a_taken_port_is_named_with_what_to_do(home):
    port = ensure_broker(home).port
    stop_broker(home)
    with socket.create_server(("127.0.0.1", port)):
        done = command("start", home)
    assert done.returncode == 1
    assert f"port {port} of the embedded broker is used by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "server.properties" in done.stderr
    Layout(home).properties.unlink()
    assert ensure_broker(home).port != port


def test_a_broker_that_ends_while_starting_is_quoted(home):
    stop_broker(home)
    meta = Layout(home).data / "meta.properties"
    good = meta.read_text()
    meta.write_text(good.replace("node.id=1", "node.id=7"))
    try:
        with pytest.raises(BrokerError, match=r"ended while starting.*node ?id.*broker\.log"):
            ensure_broker(home)
        assert broker_status(home) is None
    finally:
        meta.write_text(good)


def test_a_state_folder_that_is_a_file_is_an_error_and_exit_code_1(tmp_path):
    taken = tmp_path / "home"
    taken.write_text("")
    done = command("start", taken)
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert "HEADRACE_HOME" in done.stderr


def test_a_nearly_full_disk_stops_the_start_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(BrokerError, match="nearly full"):
        ensure_broker(tmp_path)
    assert not Layout(tmp_path).data.exists()


def test_a_configured_cluster_leaves_nothing_to_start(tmp_path):
    done = command("start", tmp_path, HEADRACE_BROKER="kafka://kafka:9092")
    assert done.returncode == 1
    assert "HEADRACE_BROKER is kafka://kafka:9092" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_topic_is_never_created_by_being_written_to(home):
    producer = Producer(
        {"bootstrap.servers": ensure_broker(home).bootstrap, "message.timeout.ms": 3_000}
    )
    failed = []
    producer.produce("never-declared", b"x", on_delivery=lambda error, _: failed.append(error))
    producer.flush(60)
    assert failed[0] is not None
    assert "never-declared" not in (
        AdminClient({"bootstrap.servers": ensure_broker(home).bootstrap}).list_topics().topics
    )
