import re

import pytest

from app.broker.errors import CatalogueError
from app.broker.topics import load_catalogue, physical_name
from app.settings import CONFIG_DIR, Settings

HEAD = "max_message_bytes: 2097152\ntopics:\n"
GOOD = "  a: {partitions: 2, cleanup: delete, retention_ms: 60000}\n"


def load(tmp_path, text):
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    return load_catalogue(path)


def test_the_shipped_catalogue_has_the_production_counts():
    catalogue = load_catalogue(CONFIG_DIR / "topics.yaml")
    assert {name: catalogue.partitions(name) for name in catalogue.names} == {
        "application-logs": 3,
        "infrastructure-metrics": 3,
        "log-events": 12,
        "log-events-late": 12,
        "log-events-dlq": 12,
        "window-partials": 12,
        "window-partials-changelog": 12,
        "windows-final": 12,
        "windows-updates": 12,
        "entity-events": 12,
        "entity-state": 12,
        "entity-events-changelog": 12,
        "session-partials": 12,
        "session-partials-changelog": 12,
        "sessions-closed": 12,
    }


def test_a_changelog_is_compacted_and_nothing_in_it_expires():
    catalogue = load_catalogue(CONFIG_DIR / "topics.yaml")
    assert catalogue.config("window-partials-changelog", replication=1) == {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": "2097152",
        "min.insync.replicas": "1",
        "segment.ms": "600000",
        "min.cleanable.dirty.ratio": "0.3",
        "delete.retention.ms": "604800000",
    }


def test_every_topic_keeps_append_time_and_production_waits_for_two_replicas():
    catalogue = load_catalogue(CONFIG_DIR / "topics.yaml")
    for name in catalogue.names:
        config = catalogue.config(name, replication=3)
        assert config["message.timestamp.type"] == "LogAppendTime"
        assert config["min.insync.replicas"] == "2"


@pytest.mark.parametrize("namespace", ["", "team-a"])
def test_a_physical_name_is_the_one_of_the_settings(namespace):
    settings = Settings(namespace=namespace)
    assert physical_name(namespace, "log-events") == settings.topic("log-events")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD + GOOD.replace("2,", "0,"), "topics.a.partitions = 0"),
        (HEAD + GOOD.replace("2,", "'2',"), "topics.a.partitions = '2'"),
        (HEAD + GOOD.replace("delete", "keep"), "topics.a.cleanup = 'keep'"),
        (HEAD + GOOD.replace("60000", "5"), "topics.a.retention_ms = 5"),
        (HEAD + GOOD.replace("retention_ms", "retention"), "topics.a.retention_ms"),
        (HEAD + GOOD.replace("a:", "A_b:"), "topics.A_b"),
        (HEAD + GOOD.replace("}", ", changelog_of: b}"), "topics.a"),
        (
            HEAD + GOOD + GOOD.replace("a:", "b:").replace("delete", "compact").replace("2,", "3,")
            .replace("}", ", changelog_of: a}"),
            "b.partitions: must be 2",
        ),
        (
            HEAD + GOOD.replace("delete", "compact").replace("}", ", changelog_of: b}"),
            "a.changelog_of: there is no topic b",
        ),
        ("max_message_bytes: 1\ntopics:\n" + GOOD, "max_message_bytes = 1"),
        ("topics: [", "not valid YAML"),
        ("", "not valid"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_topic_and_field(tmp_path, text, named):
    with pytest.raises(CatalogueError, match=re.escape(named)) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "topics.yaml") in str(caught.value)


def test_a_catalogue_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CatalogueError, match="cannot be read: No such file"):
        load_catalogue(tmp_path / "topics.yaml")
