from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.broker.properties import (
    Layout,
    Ports,
    jvm_arguments,
    new_cluster_id,
    parse_ports,
    server_properties,
)

PORT = st.integers(1, 65_535)


@given(PORT, PORT)
def test_ports_are_read_back_from_the_properties_they_were_written_to(client, controller):
    ports = Ports(client, controller)
    assert parse_ports(server_properties(Layout(Path("/state")), ports)) == ports


@given(st.text())
def test_any_other_text_has_no_ports(text):
    assert parse_ports(text) is None


def test_every_listener_is_on_loopback_and_topics_are_not_created_by_accident():
    lines = server_properties(Layout(Path("/state")), Ports(20_000, 20_001)).splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:20000,CONTROLLER://127.0.0.1:20001"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20000"
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["transaction.abort.timed.out.transaction.cleanup.interval.ms"] == "2000"
    assert settings["group.initial.rebalance.delay.ms"] == "0"


def test_a_folder_name_outside_ascii_is_escaped_as_java_reads_it():
    text = server_properties(Layout(Path("/söme\\ 🐍")), Ports(1, 2))
    assert "log.dirs=/s\\u00f6me\\u005c \\ud83d\\udc0d/broker/data\n" in text


def test_the_heap_is_bounded_and_the_folder_marks_the_process():
    layout = Layout(Path("/state"))
    arguments = jvm_arguments(layout, [Path("/a.jar"), Path("/b.jar")], Path("/log4j2.xml"))
    assert "-Xmx384m" in arguments
    assert layout.marker in arguments
    assert arguments[-2:] == ["-cp", "/a.jar:/b.jar"]


def test_a_cluster_id_is_22_characters_and_never_led_by_a_dash():
    ids = {new_cluster_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(text) == 22 and not text.startswith("-") for text in ids)
