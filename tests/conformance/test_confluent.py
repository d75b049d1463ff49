"""confluent-kafka (librdkafka), end to end: producing, transactions, reading."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import (
    Deliveries,
    by_partition,
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
from tests.support.raw import until_ended

pytestmark = pytest.mark.client("confluent-kafka")

Unique = Callable[[str], str]
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_idempotent_producing(broker: Broker, unique: Unique, compression: str) -> None:
    """P1, P3: many partitions, every record once and in order; keys, headers, times and tombstones come back as sent."""
    topic = create_topic(broker.bootstrap, unique("records"), 6)
    deliveries = Deliveries()
    writer = producer(broker.bootstrap, compression_type=compression, linger_ms=5)
    sent: dict[int, list[bytes | None]] = {}
    for number in range(600):
        value = None if number % 50 == 0 else f"value {number} {'x' * 40}".encode()
        key, headers = f"key {number}".encode(), [("number", str(number).encode()), ("empty", None)]
        writer.produce(
            topic,
            value,
            key,
            partition=number % 6,
            timestamp=1_700_000_000_000 + number,
            headers=headers,
            on_delivery=deliveries.on_delivery,
        )
        sent.setdefault(number % 6, []).append(value)
    assert writer.flush(30) == 0
    assert deliveries.errors == []
    messages = read_all(broker.bootstrap, topic)
    assert by_partition(messages) == sent
    assert sorted(deliveries.offsets) == sorted((each.partition(), each.offset()) for each in messages)
    assert {each.key(): each.timestamp()[1] for each in messages} == {
        f"key {number}".encode(): 1_700_000_000_000 + number for number in range(600)
    }
    assert all(each.headers() == [("number", each.key()[4:]), ("empty", None)] for each in messages)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_transactions_over_many_partitions(broker: Broker, unique: Unique, compression: str) -> None:
    """R1, R2: what was aborted is hidden from read_committed and shown to read_uncommitted; an open one is hidden."""
    topic = create_topic(broker.bootstrap, unique("records"), 4)
    writer = transactional_producer(broker.bootstrap, unique("id"), compression_type=compression)
    for transaction in range(6):
        writer.begin_transaction()
        for number in range(40):
            writer.produce(topic, f"{transaction}/{number}".encode(), partition=number % 4)
        writer.flush(10)
        if transaction == 5:
            break
        if transaction % 2:
            writer.abort_transaction(10)
        else:
            writer.commit_transaction(10)
    seen = values_of(read_all(broker.bootstrap, topic))
    assert sorted(seen) == sorted(f"{each}/{number}".encode() for each in (0, 2, 4) for number in range(40))
    everything = values_of(read_all(broker.bootstrap, topic, isolation="read_uncommitted"))
    assert sorted(everything) == sorted(f"{each}/{number}".encode() for each in range(6) for number in range(40))
    writer.commit_transaction(10)
    assert len(read_all(broker.bootstrap, topic)) == 160


def test_a_transaction_of_nothing(broker: Broker, unique: Unique) -> None:
    """The client ends it by itself: what the broker does with one is asked by raw requests (T5, D7)."""
    writer = transactional_producer(broker.bootstrap, unique("id"))
    for end in (writer.commit_transaction, writer.abort_transaction, writer.commit_transaction):
        writer.begin_transaction()
        end(10)


def test_offsets_go_with_their_transaction(broker: Broker, unique: Unique) -> None:
    """O1: offsets sent in a transaction count after the commit, and never after an abort; O4: they are waited for."""
    topic, group = create_topic(broker.bootstrap, unique("source"), 2), unique("group")
    plain = producer(broker.bootstrap)
    for number in range(20):
        plain.produce(topic, str(number).encode(), partition=number % 2)
    plain.flush(10)
    reader = consumer(broker.bootstrap, group)
    reader.subscribe([topic])
    got = []
    deadline = time.monotonic() + 20
    while len(got) < 20 and time.monotonic() < deadline:
        got += reader.consume(20 - len(got), 0.2)
    writer = transactional_producer(broker.bootstrap, unique("id"))

    def send(offset: int) -> None:
        writer.begin_transaction()
        positions = [TopicPartition(topic, index, offset) for index in (0, 1)]
        writer.send_offsets_to_transaction(positions, reader.consumer_group_metadata(), 10)

    send(7)
    writer.abort_transaction(10)
    assert committed(broker.bootstrap, group, topic, [0, 1]) == {0: -1001, 1: -1001}
    send(5)
    writer.commit_transaction(10)
    assert committed(broker.bootstrap, group, topic, [0, 1]) == {0: 5, 1: 5}
    send(9)
    writer.abort_transaction(10)
    assert committed(broker.bootstrap, group, topic, [0, 1]) == {0: 5, 1: 5}
    reader.close()


def test_a_second_instance_fences_the_first(broker: Broker, unique: Unique) -> None:
    """T2, T8: the first instance's transaction is aborted, and its next call says fenced, for good."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    first = transactional_producer(broker.bootstrap, transactional_id)
    first.begin_transaction()
    first.produce(topic, b"of the zombie")
    first.flush(10)
    second = transactional_producer(broker.bootstrap, transactional_id)
    second.begin_transaction()
    second.produce(topic, b"of the second")
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(10)
    assert error_of(caught.value).fatal()
    assert error_of(caught.value).code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)
    second.commit_transaction(10)
    assert values_of(read_all(broker.bootstrap, topic)) == [b"of the second"]


def test_a_zombie_cannot_write(broker: Broker, unique: Unique) -> None:
    """P2, T8: a batch of the old epoch, sent after the fence, is refused and leaves nothing behind."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    first = transactional_producer(broker.bootstrap, transactional_id)
    first.begin_transaction()
    first.produce(topic, b"before")
    first.flush(10)
    transactional_producer(broker.bootstrap, transactional_id)
    first.produce(topic, b"after")
    with pytest.raises(KafkaException) as told:
        first.flush(10)
    assert error_of(told.value).fatal()
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(10)
    assert error_of(caught.value).fatal()
    assert read_all(broker.bootstrap, topic) == []
    assert values_of(read_all(broker.bootstrap, topic, isolation="read_uncommitted")) == [b"before"]


def test_a_timeout_aborts_when_due_and_a_new_instance_goes_on(broker: Broker, unique: Unique) -> None:
    """T7, D5: what took too long is aborted at its time; the old epoch is refused for good, as librdkafka documents."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")
    writer = transactional_producer(broker.bootstrap, transactional_id, transaction_timeout_ms=2000)
    writer.begin_transaction()
    writer.produce(topic, b"too late")
    writer.flush(10)
    started = time.monotonic()
    while last_stable(broker.bootstrap, topic) == 0:
        assert time.monotonic() - started < 9, "the timeout did not fire when due"
        time.sleep(0.05)
    writer.produce(topic, b"of the old epoch")
    with pytest.raises(KafkaException):
        writer.flush(10)
    for end in (writer.commit_transaction, writer.abort_transaction):
        with pytest.raises(KafkaException) as fenced:
            end(10)
        assert error_of(fenced.value).fatal()
    after = transactional_producer(broker.bootstrap, transactional_id)
    after.begin_transaction()
    after.produce(topic, b"in time")
    after.commit_transaction(10)
    assert values_of(read_all(broker.bootstrap, topic)) == [b"in time"]
    everything = values_of(read_all(broker.bootstrap, topic, isolation="read_uncommitted"))
    assert everything == [b"too late", b"in time"]


def test_a_commit_after_the_timeout_is_refused(broker: Broker, unique: Unique) -> None:
    """T7: the commit of a transaction that timed out fails, and nothing of it is seen."""
    topic = create_topic(broker.bootstrap, unique("records"))
    writer = transactional_producer(broker.bootstrap, unique("id"), transaction_timeout_ms=2000)
    writer.begin_transaction()
    writer.produce(topic, b"too late")
    writer.flush(10)
    until_ended(broker.bootstrap, unique("id"))
    with pytest.raises(KafkaException) as caught:
        writer.commit_transaction(10)
    assert not error_of(caught.value).retriable()
    assert read_all(broker.bootstrap, topic) == []


def last_stable(bootstrap: str, topic: str) -> int:
    """The offset after the last that read_committed may see."""
    reader = consumer(bootstrap, "watermarks")
    try:
        return reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
    finally:
        reader.close()


def test_rewinding_gives_everything_again(broker: Broker, unique: Unique) -> None:
    """R6: a consumer that seeks back gets every message again from there."""
    topic = create_topic(broker.bootstrap, unique("records"))
    writer = transactional_producer(broker.bootstrap, unique("id"))
    for number in range(30):
        writer.begin_transaction()
        writer.produce(topic, str(number).encode())
        if number % 3:
            writer.commit_transaction(10)
        else:
            writer.abort_transaction(10)
    expected = [str(number).encode() for number in range(30) if number % 3]
    reader = consumer(broker.bootstrap, unique("group"))
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    first = read_some(reader, 20)
    reader.seek(TopicPartition(topic, 0, 0))
    assert values_of(first) == values_of(read_some(reader, 20)) == expected
    reader.seek(TopicPartition(topic, 0, first[11].offset()))
    assert values_of(read_some(reader, 9)) == expected[11:]
    reader.close()


def read_some(reader, count: int) -> list:
    got = []
    deadline = time.monotonic() + 20
    while len(got) < count:
        assert time.monotonic() < deadline, f"only {len(got)} of {count}"
        got += [each for each in reader.consume(count - len(got), 0.2) if each.error() is None]
    return got


def test_large_messages(broker: Broker, unique: Unique) -> None:
    """P4, R4: a batch up to max.message.bytes is stored and read whole, even by a reader with small limits."""
    topic = create_topic(broker.bootstrap, unique("large"), 1, max_message_bytes=4_000_000)
    deliveries = Deliveries()
    writer = producer(broker.bootstrap, message_max_bytes=10_000_000, compression_type="none")
    for size in (3_900_000, 4_100_000, 10):
        writer.produce(topic, bytes(size), on_delivery=deliveries.on_delivery)
        writer.flush(20)
    assert [len(value or b"") for value in deliveries.acknowledged] == [3_900_000, 10]
    assert [error.code() for error in deliveries.errors] == [KafkaError.MSG_SIZE_TOO_LARGE]
    reader = consumer(
        broker.bootstrap, unique("group"), fetch_max_bytes=1000, message_max_bytes=1000, max_partition_fetch_bytes=1000
    )
    reader.assign([TopicPartition(topic, 0, 0)])
    assert [len(each.value()) for each in read_some(reader, 2)] == [3_900_000, 10]
    reader.close()


def test_offsets_for_times(broker: Broker, unique: Unique) -> None:
    """R5: the first offset at or after a time; the end if there is none; nothing of an open transaction."""
    topic = create_topic(broker.bootstrap, unique("times"))
    writer = producer(broker.bootstrap)
    for number in range(10):
        writer.produce(topic, b"x", timestamp=1_700_000_000_000 + 1000 * number)
        writer.flush(10)
    reader = consumer(broker.bootstrap, unique("group"))
    for asked_ms, offset in ((0, 0), (1_700_000_000_000, 0), (1_700_000_003_500, 4), (1_700_000_009_000, 9)):
        answer = reader.offsets_for_times([TopicPartition(topic, 0, asked_ms)], timeout=10)
        assert answer[0].offset == offset
    opener = transactional_producer(broker.bootstrap, unique("id"))
    opener.begin_transaction()
    opener.produce(topic, b"open", timestamp=1_700_000_020_000)
    opener.flush(10)
    assert reader.offsets_for_times([TopicPartition(topic, 0, 1_700_000_015_000)], timeout=10)[0].offset == -1
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (0, 10)
    opener.commit_transaction(10)
    assert reader.offsets_for_times([TopicPartition(topic, 0, 1_700_000_015_000)], timeout=10)[0].offset == 10
    reader.close()


@pytest.mark.parametrize("acks", [0, 1])
def test_producers_that_promise_less(broker: Broker, unique: Unique, acks: int) -> None:
    """P9: acks=0 gets no reply, and the connection goes on; acks=1 is as durable as all."""
    topic = create_topic(broker.bootstrap, unique("records"))
    deliveries = Deliveries()
    writer = producer(broker.bootstrap, enable_idempotence=False, acks=acks, linger_ms=0)
    for number in range(50):
        writer.produce(topic, str(number).encode(), on_delivery=deliveries.on_delivery)
        writer.poll(0)
    assert writer.flush(10) == 0
    assert len(deliveries.acknowledged) == 50
    deadline = time.monotonic() + 20
    while len(seen := values_of(read_all(broker.bootstrap, topic))) < 50 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == [str(number).encode() for number in range(50)]


def test_a_killed_broker_goes_on_with_an_open_transaction(own_broker: BrokerProcess, unique: Unique) -> None:
    """D1, D2, D6: kill -9 in mid-transaction; the producer does not notice, and the whole transaction commits."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "records", 3)
    writer = transactional_producer(bootstrap, unique("id"))
    expected = []
    for transaction in range(4):
        writer.begin_transaction()
        for number in range(30):
            value = f"{transaction}/{number}".encode()
            writer.produce(topic, value, partition=number % 3)
            expected.append(value)
            if number == 15:
                writer.flush(10)
                own_broker.restart()
        writer.commit_transaction(30)
    assert sorted(values_of(read_all(bootstrap, topic))) == sorted(expected)


def test_a_killed_client_is_followed_by_a_new_instance(own_broker: BrokerProcess, unique: Unique) -> None:
    """T2, D1: broker and client die in mid-transaction; the new instance aborts what was open, and goes on."""
    bootstrap, transactional_id = own_broker.bootstrap, unique("id")
    topic = create_topic(bootstrap, "records", 2)
    first = transactional_producer(bootstrap, transactional_id)
    first.begin_transaction()
    for index in (0, 1):
        first.produce(topic, b"never committed", partition=index)
    first.flush(10)
    own_broker.restart()
    second = transactional_producer(bootstrap, transactional_id)
    assert read_all(bootstrap, topic) == []
    second.begin_transaction()
    second.produce(topic, b"committed", partition=1)
    second.commit_transaction(10)
    own_broker.restart()
    assert values_of(read_all(bootstrap, topic)) == [b"committed"]
    assert len(read_all(bootstrap, topic, isolation="read_uncommitted")) == 3
