import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from app.broker.errors import BrokerError
from app.broker.topics import TopicMismatchError, _Cluster, ensure_topics, load_catalogue
from app.settings import CONFIG_DIR
from tests.system.topics import make_topics

CATALOGUE = load_catalogue(CONFIG_DIR / "topics.yaml")


def ensure(kafka, namespace, partitions, replication=1):
    return ensure_topics(
        kafka,
        CATALOGUE,
        namespace=namespace,
        partitions=partitions,
        replication=replication,
        timeout_s=60,
    )


def existing(kafka, namespace):
    """Topics of the catalogue that the cluster has, whatever the metadata tells by now."""
    names = [f"{namespace}.{name}" for name in CATALOGUE.names]
    return _Cluster(kafka, 60).refused([NewTopic(name, 1, 1) for name in names])


@pytest.mark.broker
def test_every_topic_of_the_catalogue_is_created_with_its_configuration(kafka, namespace):
    made = ensure(kafka, namespace, None)
    assert made == {f"{namespace}.{name}": CATALOGUE.partitions(name) for name in CATALOGUE.names}
    admin = AdminClient({"bootstrap.servers": kafka})
    topics = admin.list_topics(timeout=60).topics
    assert {name: len(topics[name].partitions) for name in made} == made
    for name in CATALOGUE.names:
        resource = ConfigResource(ResourceType.TOPIC, f"{namespace}.{name}")
        found = admin.describe_configs([resource])[resource].result()
        wanted = CATALOGUE.config(name, replication=1)
        assert {key: found[key].value for key in wanted} == wanted


@pytest.mark.broker
def test_workers_that_create_at_once_agree(kafka, namespace):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure(kafka, namespace, 2), range(4)))
    assert all(counts == made[0] for counts in made)
    assert set(made[0].values()) == {2}


@pytest.mark.broker
def test_another_count_than_the_existing_topics_is_an_error_that_says_what_to_do(kafka, namespace):
    ensure(kafka, namespace, 2)
    with pytest.raises(TopicMismatchError) as caught:
        ensure(kafka, namespace, 3)
    assert (caught.value.has, caught.value.wants) == (2, 3)
    text = str(caught.value)
    assert caught.value.topic in text
    assert caught.value.topic.startswith(f"{namespace}.")
    assert "HEADRACE_PARTITIONS=2" in text
    assert "HEADRACE_NAMESPACE" in text
    assert ensure(kafka, namespace, 2) == ensure(kafka, namespace, 2)


@pytest.mark.broker
def test_a_changelog_with_another_count_than_its_source_is_an_error_and_nothing_is_made(
    kafka, namespace
):
    wrong = f"{namespace}.window-partials-changelog"
    make_topics(kafka, NewTopic(wrong, 3, 1))
    with pytest.raises(TopicMismatchError) as caught:
        ensure(kafka, namespace, 2)
    assert (caught.value.topic, caught.value.has, caught.value.wants) == (wrong, 3, 2)
    assert existing(kafka, namespace) == {wrong}


def look_first_at(before, monkeypatch):
    """A broker tells of a new topic a moment after the cluster has it: the first look is old."""
    look, looks = _Cluster.topics, [before]
    monkeypatch.setattr(_Cluster, "topics", lambda self: looks.pop() if looks else look(self))
    return looks


@pytest.mark.broker
def test_a_topic_that_metadata_does_not_tell_of_yet_is_checked_before_any_is_made(
    kafka, namespace, monkeypatch
):
    before = _Cluster(kafka, 60).topics()
    wrong = f"{namespace}.window-partials-changelog"
    make_topics(kafka, NewTopic(wrong, 3, 1))
    looks = look_first_at(before, monkeypatch)
    with pytest.raises(TopicMismatchError) as caught:
        ensure(kafka, namespace, 2)
    assert not looks
    assert (caught.value.topic, caught.value.has, caught.value.wants) == (wrong, 3, 2)
    assert existing(kafka, namespace) == {wrong}


@pytest.mark.broker
def test_topics_that_metadata_does_not_tell_of_yet_are_not_made_again(
    kafka, namespace, monkeypatch
):
    before = _Cluster(kafka, 60).topics()
    made = ensure(kafka, namespace, 2)
    looks = look_first_at(before, monkeypatch)
    assert ensure(kafka, namespace, 2) == made
    assert not looks


@pytest.mark.broker
def test_more_replicas_than_brokers_is_refused_with_the_setting_to_change(kafka, namespace):
    with pytest.raises(BrokerError, match="HEADRACE_REPLICATION"):
        ensure(kafka, namespace, 1, replication=7)


def test_a_cluster_that_does_not_answer_is_an_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(BrokerError, match="does not answer at"):
            ensure_topics(
                nobody, CATALOGUE, namespace="", partitions=1, replication=1, timeout_s=0.5
            )
