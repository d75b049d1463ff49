"""kafka-python, end to end: producing, transactions, groups, admin, and the tools of T11."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition as by_partition_of_messages
from tests.support.confluent import create_topic, read_all
from tests.support.fixtures import Broker, ignores_forgotten_sockets
from tests.support.kafka_python import kafka
from tests.support.raw import until_ended

pytestmark = [
    pytest.mark.client("kafka-python"),
    ignores_forgotten_sockets,
    # of the client's own making: resources read by an old way, when it meets an API for the first time
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
]

Unique = Callable[[str], str]

KafkaError = kafka.errors.KafkaError
_QUICK = {"retry_backoff_ms": 20, "reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 200}


@contextmanager
def producing(bootstrap: str, transactional_id: str | None = None, **given: Any) -> Iterator[Any]:
    producer = kafka.KafkaProducer(
        bootstrap_servers=bootstrap,
        **{"transactional_id": transactional_id, "enable_idempotence": True, "linger_ms": 1, **_QUICK, **given},
    )
    try:
        if transactional_id is not None:
            producer.init_transactions()
        yield producer
    finally:
        producer.close(5)


@contextmanager
def consuming(bootstrap: str, *topics: str, **given: Any) -> Iterator[Any]:
    common = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "isolation_level": "read_committed"}
    consumer = kafka.KafkaConsumer(
        *topics, bootstrap_servers=bootstrap, fetch_max_wait_ms=50, **{**common, **_QUICK, **given}
    )
    try:
        yield consumer
    finally:
        consumer.close()


@contextmanager
def administering(bootstrap: str) -> Iterator[Any]:
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        yield admin
    finally:
        admin.close()


def read(bootstrap: str, topic: str, partitions: int = 1, isolation: str = "read_committed") -> list[Any]:
    """Everything that this isolation sees now."""
    with consuming(bootstrap, isolation_level=isolation) as consumer:
        everywhere = [kafka.TopicPartition(topic, index) for index in range(partitions)]
        consumer.assign(everywhere)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(everywhere)
        found: list[Any] = []
        deadline = time.monotonic() + 20
        while any(consumer.position(each) < ends[each] for each in everywhere):
            assert time.monotonic() < deadline, f"the end of {topic} was not reached: {len(found)} records"
            for records in consumer.poll(100).values():
                found += records
        return found


def by_partition(records: list[Any]) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record.value)
    return found


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_idempotent_producing(broker: Broker, unique: Unique, compression: str | None) -> None:
    """P1, P3: every record once and in order; keys, headers, times and tombstones; librdkafka reads the same."""
    topic = create_topic(broker.bootstrap, unique("records"), 4)
    sent: dict[int, list[bytes | None]] = {}
    with producing(broker.bootstrap, compression_type=compression) as producer:
        waiting = []
        for number in range(400):
            value = None if number % 40 == 0 else b"value %d " % number + b"x" * 40
            sent.setdefault(number % 4, []).append(value)
            waiting.append(
                producer.send(
                    topic,
                    value,
                    b"key %d" % number,
                    headers=[("number", b"%d" % number)],
                    partition=number % 4,
                    timestamp_ms=1_700_000_000_000 + number,
                )
            )
        assert sorted((each.get(10).partition, each.get(10).offset) for each in waiting) == [
            (index, offset) for index in range(4) for offset in range(100)
        ]
    records = read(broker.bootstrap, topic, 4)
    assert by_partition(records) == sent
    assert all([tuple(header) for header in each.headers] == [("number", each.key[4:])] for each in records)
    assert {each.key: each.timestamp for each in records} == {
        b"key %d" % number: 1_700_000_000_000 + number for number in range(400)
    }
    assert by_partition_of_messages(read_all(broker.bootstrap, topic)) == sent


def test_transactions(broker: Broker, unique: Unique) -> None:
    """R1, R2, O1: commit shows records and offsets of all partitions, abort hides both, an open one is not seen."""
    topic, group = create_topic(broker.bootstrap, unique("records"), 3), unique("group")
    at = kafka.TopicPartition(topic, 0)
    with producing(broker.bootstrap, unique("id")) as producer, consuming(broker.bootstrap, group_id=group) as reader:
        for number in range(6):
            producer.begin_transaction()
            for index in range(3):
                producer.send(topic, b"%d/%d" % (number, index), partition=index)
            producer.send_offsets_to_transaction({at: kafka.OffsetAndMetadata(number, "", -1)}, group)
            if number % 2:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
            assert reader.committed(at) == number - number % 2
        producer.begin_transaction()
        producer.send(topic, b"open", partition=0).get(10)
        committed = {index: [b"%d/%d" % (number, index) for number in (0, 2, 4)] for index in range(3)}
        assert by_partition(read(broker.bootstrap, topic, 3)) == committed
        assert b"open" in [each.value for each in read(broker.bootstrap, topic, 3, "read_uncommitted")]
        producer.abort_transaction()
        assert by_partition(read(broker.bootstrap, topic, 3)) == committed


def test_a_second_instance_fences_the_first(broker: Broker, unique: Unique) -> None:
    """T2, T9: the first instance hears that it is fenced; nothing of its transaction is seen."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    with producing(broker.bootstrap, transactional_id) as first:
        first.begin_transaction()
        first.send(topic, b"of the zombie").get(10)
        with producing(broker.bootstrap, transactional_id) as second:
            with pytest.raises(kafka.errors.ProducerFencedError):
                first.commit_transaction()
            second.begin_transaction()
            second.send(topic, b"of the second")
            second.commit_transaction()
    assert [each.value for each in read(broker.bootstrap, topic)] == [b"of the second"]


def test_a_timeout_fences_by_the_coordinator(broker: Broker, unique: Unique) -> None:
    """T7, D5: the commit of what timed out is refused, and nothing of it is seen; a new instance goes on."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    with producing(broker.bootstrap, transactional_id, transaction_timeout_ms=2000) as late:
        late.begin_transaction()
        late.send(topic, b"too late").get(10)
        until_ended(broker.bootstrap, transactional_id)
        with pytest.raises(kafka.errors.ProducerFencedError):
            late.commit_transaction()
    with producing(broker.bootstrap, transactional_id) as producer:
        producer.begin_transaction()
        producer.send(topic, b"in time")
        producer.commit_transaction()
    assert [each.value for each in read(broker.bootstrap, topic)] == [b"in time"]


def test_rewinding_and_times(broker: Broker, unique: Unique) -> None:
    """R5, R6: seeking back gives all again; look-ups by time."""
    topic = create_topic(broker.bootstrap, unique("records"))
    at = kafka.TopicPartition(topic, 0)
    with producing(broker.bootstrap) as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, timestamp_ms=1_700_000_000_000 + 1000 * number).get(10)
    with consuming(broker.bootstrap, consumer_timeout_ms=10_000) as consumer:
        consumer.assign([at])
        for start in (0, 4, 0):
            consumer.seek(at, start)
            assert [next(consumer).value for _ in range(10 - start)] == [b"%d" % number for number in range(start, 10)]
        assert consumer.offsets_for_times({at: 1_700_000_003_500})[at].offset == 4
        assert consumer.offsets_for_times({at: 1_800_000_000_000})[at] is None
        assert consumer.beginning_offsets([at]) == {at: 0}


def test_a_rebalance_in_the_middle(broker: Broker, unique: Unique) -> None:
    """O1, O2: a second member joins in the middle of a transaction, whose offsets are then refused; all is copied once."""
    bootstrap, group = broker.bootstrap, unique("group")
    source, target = create_topic(bootstrap, unique("source"), 2), create_topic(bootstrap, unique("target"), 2)
    with producing(bootstrap) as producer:
        for number in range(40):
            producer.send(source, b"%d" % number, partition=number % 2)
        producer.flush(10)
    settings = {"group_id": group, "session_timeout_ms": 6000, "heartbeat_interval_ms": 100, "max_poll_records": 10}
    with (
        producing(bootstrap, unique("one")) as one,
        producing(bootstrap, unique("two")) as two,
        consuming(bootstrap, source, **settings) as first,
    ):
        batch = poll(first)
        stale = first.group_metadata()
        one.begin_transaction()
        send(one, target, batch)
        with consuming(bootstrap, source, **settings) as second:
            share(first, second)
            with pytest.raises(KafkaError):
                one.send_offsets_to_transaction(offsets_after(batch), stale)
            one.abort_transaction()
            for member in (first, second):
                for at in member.assignment():
                    member.seek(at, member.committed(at) or 0)
            copy_all({first: one, second: two}, target, 40)
    assert by_partition(read(bootstrap, target, 2)) == by_partition(read(bootstrap, source, 2))


def share(first: Any, second: Any) -> None:
    """Poll both until each has its part."""
    deadline = time.monotonic() + 20
    while not (first.assignment() and second.assignment() and not first.assignment() & second.assignment()):
        assert time.monotonic() < deadline, "no rebalance"
        second.poll(50, max_records=1)
        first.poll(50, max_records=1)


def copy_all(members: dict[Any, Any], target: str, count: int) -> None:
    """Each member copies with its producer, until ``count`` records are copied."""
    copied = 0
    deadline = time.monotonic() + 20
    while copied < count:
        assert time.monotonic() < deadline, f"only {copied} of {count} copied"
        for member, producer in members.items():
            batch = member.poll(50)
            if batch:
                producer.begin_transaction()
                send(producer, target, batch)
                producer.send_offsets_to_transaction(offsets_after(batch), member.group_metadata())
                producer.commit_transaction()
                copied += sum(map(len, batch.values()))


def poll(consumer: Any) -> dict[Any, list[Any]]:
    deadline = time.monotonic() + 20
    while not (batch := consumer.poll(100)):
        assert time.monotonic() < deadline, "no records"
    return batch


def send(producer: Any, target: str, batch: dict[Any, list[Any]]) -> None:
    for at, records in batch.items():
        for record in records:
            producer.send(target, record.value, partition=at.partition)


def offsets_after(batch: dict[Any, list[Any]]) -> dict[Any, Any]:
    return {at: kafka.OffsetAndMetadata(records[-1].offset + 1, "", -1) for at, records in batch.items()}


def test_restarts(own_broker: BrokerProcess, unique: Unique) -> None:
    """D1, D2: the broker is killed in mid-transaction; the same producer commits it, a consumer's group goes on."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "records", 2)
    everywhere = [kafka.TopicPartition(topic, index) for index in (0, 1)]
    with (
        producing(bootstrap, unique("id")) as producer,
        consuming(bootstrap, topic, group_id="group", heartbeat_interval_ms=200, consumer_timeout_ms=20_000) as reader,
    ):
        seen = []
        for number in range(3):
            producer.begin_transaction()
            producer.send(topic, b"%d/0" % number, partition=0).get(20)
            own_broker.restart()
            producer.send(topic, b"%d/1" % number, partition=1).get(20)
            producer.commit_transaction()
            seen += [next(reader).value, next(reader).value]
            reader.commit()
        assert sorted(seen) == [b"%d/%d" % (number, index) for number in range(3) for index in (0, 1)]
        own_broker.restart()
        # After the last record, or after the marker that follows it, if the client has met that already.
        assert all(reader.committed(each) in (5, 6) for each in everywhere)
    assert len(read(bootstrap, topic, 2)) == 6


def test_admin_of_topics_and_groups(broker: Broker, unique: Unique) -> None:
    """Topics, settings, records, groups and offsets by kafka-python's admin client."""
    topic, group = unique("topic"), unique("group")
    at = kafka.TopicPartition(topic, 0)
    with administering(broker.bootstrap) as admin:
        admin.create_topics([kafka.admin.NewTopic(topic, 2, 1)])
        with pytest.raises(kafka.errors.TopicAlreadyExistsError):
            admin.create_topics([kafka.admin.NewTopic(topic, 2, 1)])
        assert topic in admin.list_topics()
        assert len(admin.describe_topics([topic])[0]["partitions"]) == 2
        with producing(broker.bootstrap) as producer:
            for number in range(6):
                producer.send(topic, b"%d" % number, partition=0).get(10)
        with consuming(broker.bootstrap, topic, group_id=group, consumer_timeout_ms=10_000) as consumer:
            assert [next(consumer).value for _ in range(6)] == [b"%d" % number for number in range(6)]
            consumer.commit()
            assert group in str(admin.list_groups())
            assert "Stable" in str(admin.describe_groups([group]))
        assert "offset=6" in str(admin.list_group_offsets([group])).replace("'offset': ", "offset=")
        assert admin.delete_records({at: 4})
        assert [each.value for each in read(broker.bootstrap, topic, 2)] == [b"4", b"5"]
        admin.delete_groups([group])
        assert group not in str(admin.list_groups())
        admin.delete_topics([topic])
        assert topic not in admin.list_topics()


def test_tools_for_transactions(broker: Broker, unique: Unique) -> None:
    """T1, T11: list, describe, find the producers of a partition, and abort there as an operator."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    at = kafka.TopicPartition(topic, 0)
    with producing(broker.bootstrap, transactional_id) as producer, administering(broker.bootstrap) as admin:

        def state() -> str:
            return admin.describe_transactions([transactional_id])[transactional_id].state.value

        def listed(**filters: Any) -> list[str]:
            nodes = admin.list_transactions(**filters).values()
            names = [each.transactional_id for listings in nodes for each in listings]
            return [name for name in names if name == transactional_id]

        assert state() == "Empty"
        producer.begin_transaction()
        producer.send(topic, b"open").get(10)
        described = admin.describe_transactions([transactional_id])[transactional_id]
        assert described.state.value == "Ongoing"
        assert described.topic_partitions == {at}
        assert abs(described.transaction_start_time_ms - time.time() * 1000) < 60_000
        assert listed(state_filters=["Ongoing"]) == [transactional_id]
        assert listed(state_filters=["CompleteCommit"]) == []
        assert listed(producer_id_filters=[described.producer_id]) == [transactional_id]
        assert listed(transactional_id_pattern=transactional_id[:-1] + ".*") == [transactional_id]
        active = admin.describe_producers([at])[at].active_producers
        assert [(each.producer_id, each.current_transaction_start_offset) for each in active] == [
            (described.producer_id, 0)
        ]
        producer.commit_transaction()
        assert state() == "CompleteCommit"
        producer.begin_transaction()
        producer.send(topic, b"hangs").get(10)
        spec = kafka.admin.AbortTransactionSpec(at, described.producer_id, described.producer_epoch)
        admin.abort_transaction(spec)
        with consuming(broker.bootstrap) as reader:
            assert reader.end_offsets([at]) == {at: 4}
        assert [each.value for each in read(broker.bootstrap, topic)] == [b"open"]
        with pytest.raises(
            kafka.errors.ProducerFencedError
        ):  # the operator has ended all of it, not one partition (D1)
            producer.commit_transaction()
