"""confluent-kafka's admin client: topics, settings, partitions, groups, offsets, records."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from tests.support.confluent import (
    admin,
    committed,
    consumer,
    create_topic,
    error_of,
    producer,
    read_all,
    transactional_producer,
    values_of,
)
from tests.support.fixtures import Broker

pytestmark = pytest.mark.client("confluent-kafka")

Unique = Callable[[str], str]


def test_topics_are_made_described_grown_and_deleted(broker: Broker, unique: Unique) -> None:
    """Topics by name: created once, described with their id, given more partitions, deleted, made again as new."""
    name = unique("topic")
    client = admin(broker.bootstrap)
    client.create_topics([NewTopic(name, 2, 1)])[name].result(10)
    with pytest.raises(KafkaException) as twice:
        client.create_topics([NewTopic(name, 2, 1)])[name].result(10)
    assert error_of(twice.value).code() == KafkaError.TOPIC_ALREADY_EXISTS
    first = client.describe_topics(TopicCollection([name]))[name].result(10)
    assert (first.name, len(first.partitions)) == (name, 2)
    client.create_partitions([NewPartitions(name, 5)])[name].result(10)
    assert len(client.describe_topics(TopicCollection([name]))[name].result(10).partitions) == 5
    writer = producer(broker.bootstrap)
    writer.produce(name, b"x", partition=4)
    assert writer.flush(10) == 0
    client.delete_topics([name])[name].result(10)
    assert name not in client.list_topics(timeout=10).topics
    create_topic(broker.bootstrap, name, 1)
    assert read_all(broker.bootstrap, name) == []
    again = client.describe_topics(TopicCollection([name]))[name].result(10)
    assert str(again.topic_id) != str(first.topic_id)


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        (NewTopic("a/b", 1, 1), KafkaError.TOPIC_EXCEPTION),
        (NewTopic("two-copies", 1, 2), KafkaError.INVALID_REPLICATION_FACTOR),
        (NewTopic("odd-config", 1, 1, config={"retention.ms": "soon"}), KafkaError.INVALID_CONFIG),
        (NewTopic("unknown-config", 1, 1, config={"no.such.thing": "1"}), KafkaError.INVALID_CONFIG),
    ],
    ids=lambda value: getattr(value, "topic", None),
)
def test_topics_that_cannot_be(broker: Broker, topic: NewTopic, code: int) -> None:
    """A topic that is not possible is refused with Kafka's code."""
    client = admin(broker.bootstrap)
    with pytest.raises(KafkaException) as refused:
        client.create_topics([topic])[topic.topic].result(10)
    assert error_of(refused.value).code() == code
    assert topic.topic not in client.list_topics(timeout=10).topics


def test_settings_of_a_topic(broker: Broker, unique: Unique) -> None:
    """DescribeConfigs and IncrementalAlterConfigs: defaults, changes, and back."""
    name = create_topic(broker.bootstrap, unique("topic"), retention_ms=3_600_000)
    client = admin(broker.bootstrap)

    def value(key: str) -> str:
        resource = ConfigResource(ResourceType.TOPIC, name)
        return client.describe_configs([resource])[resource].result(10)[key].value

    def alter(key: str, operation: AlterConfigOpType, to: str | None = None) -> None:
        entry = ConfigEntry(key, to, incremental_operation=operation)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        client.incremental_alter_configs([resource])[resource].result(10)

    assert value("retention.ms") == "3600000"
    assert value("cleanup.policy") == "delete"
    alter("retention.ms", AlterConfigOpType.SET, "7200000")
    assert value("retention.ms") == "7200000"
    alter("retention.ms", AlterConfigOpType.DELETE)
    assert value("retention.ms") == "604800000"
    with pytest.raises(KafkaException) as refused:
        alter("max.message.bytes", AlterConfigOpType.SET, "-5")
    assert error_of(refused.value).code() == KafkaError.INVALID_CONFIG


def test_the_cluster_and_its_offsets(broker: Broker, unique: Unique) -> None:
    """R5: DescribeCluster, and ListOffsets for the earliest, the latest, the largest time and a time."""
    name = create_topic(broker.bootstrap, unique("topic"))
    client = admin(broker.bootstrap)
    cluster = client.describe_cluster().result(10)
    assert len(cluster.nodes) == 1
    assert cluster.cluster_id
    writer = producer(broker.bootstrap)
    for timestamp in (5000, 9000, 7000):
        writer.produce(name, b"x", timestamp=1_700_000_000_000 + timestamp)
        writer.flush(10)
    at = TopicPartition(name, 0)

    def offset(spec: OffsetSpec) -> int:
        return client.list_offsets({at: spec})[at].result(10).offset

    assert offset(OffsetSpec.earliest()) == 0
    assert offset(OffsetSpec.latest()) == 3
    assert offset(OffsetSpec.max_timestamp()) == 1
    assert offset(OffsetSpec.for_timestamp(1_700_000_000_000 + 6000)) == 1


def test_deleted_records_are_gone(broker: Broker, unique: Unique) -> None:
    """DeleteRecords moves the start of the log; a reader from the beginning starts there, never after the end."""
    name = create_topic(broker.bootstrap, unique("topic"))
    writer = producer(broker.bootstrap)
    for number in range(10):
        writer.produce(name, str(number).encode())
        writer.flush(10)
    client = admin(broker.bootstrap)
    at = TopicPartition(name, 0, 6)
    assert client.delete_records([at])[at].result(10).low_watermark == 6
    reader = consumer(broker.bootstrap, unique("group"))
    assert reader.get_watermark_offsets(TopicPartition(name, 0), timeout=10) == (6, 10)
    reader.close()
    assert values_of(read_all(broker.bootstrap, name)) == [b"6", b"7", b"8", b"9"]
    beyond = TopicPartition(name, 0, 11)
    with pytest.raises(KafkaException) as refused:
        client.delete_records([beyond])[beyond].result(10)
    assert error_of(refused.value).code() == KafkaError.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("protocol", ["classic"])
def test_groups_are_listed_described_and_deleted(broker: Broker, unique: Unique, protocol: str) -> None:
    """O5: a group with members is described and not deleted; an empty one keeps its offsets until it is deleted."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), 2), unique("group")
    client = admin(broker.bootstrap)
    member = consumer(broker.bootstrap, group, group_protocol=protocol, client_id="the member")
    member.subscribe([topic])
    deadline = time.monotonic() + 20
    while len(member.assignment()) < 2:
        assert time.monotonic() < deadline, "no assignment"
        member.poll(0.1)
    member.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    listed = {each.group_id: each for each in client.list_consumer_groups().result(10).valid}
    assert listed[group].state == ConsumerGroupState.STABLE
    described = client.describe_consumer_groups([group])[group].result(10)
    assert [each.client_id for each in described.members] == ["the member"]
    assigned = described.members[0].assignment.topic_partitions
    assert sorted((each.topic, each.partition) for each in assigned) == [(topic, 0), (topic, 1)]
    with pytest.raises(KafkaException) as refused:
        client.delete_consumer_groups([group])[group].result(10)
    assert error_of(refused.value).code() == KafkaError.NON_EMPTY_GROUP
    member.close()
    assert client.describe_consumer_groups([group])[group].result(10).state == ConsumerGroupState.EMPTY
    altered = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1, 7)])
    client.alter_consumer_group_offsets([altered])[group].result(10)
    asked = ConsumerGroupTopicPartitions(group)
    found = client.list_consumer_group_offsets([asked])[group].result(10).topic_partitions
    assert {each.partition: each.offset for each in found} == {0: 1, 1: 7}
    client.delete_consumer_groups([group])[group].result(10)
    assert group not in {each.group_id for each in client.list_consumer_groups().result(10).valid}
    assert committed(broker.bootstrap, group, topic, [0, 1]) == {0: -1001, 1: -1001}


def test_a_group_with_open_transactional_offsets_is_not_deleted(broker: Broker, unique: Unique) -> None:
    """O5: offsets that an open transaction holds keep the group; after the end it can go."""
    topic, group = create_topic(broker.bootstrap, unique("topic")), unique("group")
    client = admin(broker.bootstrap)
    outsider = consumer(broker.bootstrap, group)
    writer = transactional_producer(broker.bootstrap, unique("id"))
    writer.begin_transaction()
    writer.send_offsets_to_transaction([TopicPartition(topic, 0, 3)], outsider.consumer_group_metadata(), 10)
    with pytest.raises(KafkaException) as refused:
        client.delete_consumer_groups([group])[group].result(10)
    assert error_of(refused.value).code() == KafkaError.NON_EMPTY_GROUP
    writer.commit_transaction(10)
    assert committed(broker.bootstrap, group, topic, [0]) == {0: 3}
    client.delete_consumer_groups([group])[group].result(10)
    outsider.close()
