"""confluent-kafka in a few words: producers, consumers, and readers that read to the end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, TopicMetadata

READ_SECONDS_MAX = 60.0

#: Quick to come back after a cut connection or a restart of the broker. Librdkafka's "rebootstrap" is off: when its only
#: broker was away, it may go on to use the handle that it has given up, and send_offsets_to_transaction never returns.
_QUICK: dict[str, Any] = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 20,
    "log_level": 0,
    "metadata.recovery.strategy": "none",
}


def settings(bootstrap: str, given: dict[str, Any]) -> dict[str, Any]:
    """``linger_ms=5`` as ``linger.ms``."""
    return {
        "bootstrap.servers": bootstrap,
        **_QUICK,
        **{name.replace("_", "."): value for name, value in given.items()},
    }


def admin(bootstrap: str) -> AdminClient:
    return AdminClient(settings(bootstrap, {}))


def create_topic(bootstrap: str, topic: str, partitions: int = 1, **config: Any) -> str:
    """A new topic that is ready; its name. ``retention_ms=1`` as ``retention.ms``."""
    configs = {name.replace("_", "."): str(value) for name, value in config.items()}
    client = admin(bootstrap)  # its end would end the request
    client.create_topics([NewTopic(topic, partitions, 1, config=configs)], request_timeout=15)[topic].result(15)
    deadline = time.monotonic() + 30  # Apache Kafka answers a little before its own metadata has the topic
    while len(client.list_topics(timeout=15).topics.get(topic, TopicMetadata()).partitions) < partitions:
        assert time.monotonic() < deadline, f"{topic} was created, and is not there"
        time.sleep(0.01)
    return topic


def producer(bootstrap: str, **given: Any) -> Producer:
    return Producer(settings(bootstrap, {"linger_ms": 1, "enable_idempotence": True, **given}))


def transactional_producer(bootstrap: str, transactional_id: str, **given: Any) -> Producer:
    """A producer whose id is initialized: it has fenced those before it."""
    made = producer(bootstrap, transactional_id=transactional_id, **given)
    made.init_transactions(30)
    return made


def consumer(bootstrap: str, group: str, **given: Any) -> Consumer:
    common = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "isolation_level": "read_committed"}
    return Consumer(settings(bootstrap, {"group_id": group, "fetch_wait_max_ms": 50, **common, **given}))


def partitions_of(bootstrap: str, topic: str) -> list[int]:
    return sorted(admin(bootstrap).list_topics(topic, timeout=15).topics[topic].partitions)


def read_all(
    bootstrap: str, topic: str, *, isolation: str = "read_committed", partitions: Sequence[int] | None = None
) -> list[Message]:
    """Everything that a reader of this isolation sees of a topic now, from its beginning to its end."""
    indexes = list(partitions_of(bootstrap, topic) if partitions is None else partitions)
    reader = consumer(bootstrap, "reader", isolation_level=isolation, enable_partition_eof=True)
    try:
        reader.assign([TopicPartition(topic, index, 0) for index in indexes])
        waiting, found = set(indexes), []
        deadline = time.monotonic() + READ_SECONDS_MAX
        while waiting:
            assert time.monotonic() < deadline, f"no end of {topic} {sorted(waiting)} after {len(found)} messages"
            for message in reader.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
        return found
    finally:
        reader.close()


def values_of(messages: Sequence[Message]) -> list[bytes | None]:
    return [message.value() for message in messages]


def by_partition(messages: Sequence[Message]) -> dict[int, list[bytes | None]]:
    """The values of each partition in the order read."""
    found = defaultdict(list)
    for message in messages:
        found[message.partition()].append(message.value())
    return dict(found)


def committed(bootstrap: str, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """The group's committed offsets; -1001 where there is none."""
    reader = consumer(bootstrap, group)
    try:
        answers = reader.committed([TopicPartition(topic, index) for index in partitions], timeout=15)
        return {answer.partition: answer.offset for answer in answers}
    finally:
        reader.close()


def error_of(failure: KafkaException) -> KafkaError:
    return failure.args[0]


class Deliveries:
    """Counts what the broker has acknowledged of a producer's records; ``on_delivery`` is its callback."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes | None] = []
        self.offsets: list[tuple[int, int]] = []
        self.errors: list[KafkaError] = []

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged.append(message.value())
            self.offsets.append((message.partition(), message.offset()))
        else:
            self.errors.append(error)
