"""aiokafka, end to end: producing, transactions, groups, admin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, ProducerFenced, TopicAlreadyExistsError
from aiokafka.structs import OffsetAndMetadata
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition as by_partition_of_messages
from tests.support.confluent import create_topic, read_all
from tests.support.confluent import producer as confluent_producer
from tests.support.fixtures import Broker, ignores_forgotten_sockets
from tests.support.raw import until_ended

pytestmark = [pytest.mark.client("aiokafka"), ignores_forgotten_sockets]

Unique = Callable[[str], str]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


@asynccontextmanager
async def producing(
    bootstrap: str, transactional_id: str | None = None, **given: Any
) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=transactional_id,
        enable_idempotence=True,
        retry_backoff_ms=20,
        **given,
    )
    await producer.start()
    try:
        yield producer
    finally:
        with contextlib.suppress(ProducerFenced):
            await producer.stop()


@asynccontextmanager
async def consuming(bootstrap: str, *topics: str, **given: Any) -> AsyncIterator[AIOKafkaConsumer]:
    common = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "isolation_level": "read_committed"}
    consumer = AIOKafkaConsumer(
        *topics, bootstrap_servers=bootstrap, fetch_max_wait_ms=50, retry_backoff_ms=20, **{**common, **given}
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def read(
    bootstrap: str, topic: str, partitions: int = 1, isolation: str = "read_committed"
) -> list[ConsumerRecord]:
    """Everything that this isolation sees now."""
    async with consuming(bootstrap, isolation_level=isolation) as consumer:
        everywhere = [TopicPartition(topic, index) for index in range(partitions)]
        consumer.assign(everywhere)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(everywhere)
        found: list[ConsumerRecord] = []
        for _ in range(400):
            if all([await consumer.position(each) >= ends[each] for each in everywhere]):
                return found
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += records
        raise AssertionError(f"the end of {topic} was not reached: {len(found)} records")


def by_partition(records: list[ConsumerRecord]) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record.value)
    return found


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_idempotent_producing(broker: Broker, unique: Unique, compression: str | None) -> None:
    """P1, P3: every record once and in order; keys, headers, times and tombstones; librdkafka reads the same."""
    topic = create_topic(broker.bootstrap, unique("records"), 4)

    async def scenario() -> None:
        sent: dict[int, list[bytes | None]] = {}
        async with producing(broker.bootstrap, compression_type=compression, linger_ms=5) as producer:
            waiting = []
            for number in range(400):
                value = None if number % 40 == 0 else b"value %d " % number + b"x" * 40
                sent.setdefault(number % 4, []).append(value)
                waiting.append(
                    await producer.send(
                        topic,
                        value,
                        b"key %d" % number,
                        partition=number % 4,
                        timestamp_ms=1_700_000_000_000 + number,
                        headers=[("number", b"%d" % number)],
                    )
                )
            await asyncio.gather(*waiting)
        records = await read(broker.bootstrap, topic, 4)
        assert by_partition(records) == sent
        assert all(each.headers == (("number", each.key[4:]),) for each in records)
        assert {each.key: each.timestamp for each in records} == {
            b"key %d" % number: 1_700_000_000_000 + number for number in range(400)
        }
        assert by_partition_of_messages(read_all(broker.bootstrap, topic)) == sent

    run(scenario())


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_librdkafka_wrote(broker: Broker, unique: Unique, compression: str) -> None:
    """R4: batches pass through untouched, whoever compressed them."""
    topic = create_topic(broker.bootstrap, unique("records"))
    writer = confluent_producer(broker.bootstrap, compression_type=compression, linger_ms=20)
    values = [b"value %d " % number + b"y" * 100 for number in range(200)]
    for value in values:
        writer.produce(topic, value)
    assert writer.flush(10) == 0

    async def scenario() -> None:
        assert [each.value for each in await read(broker.bootstrap, topic)] == values

    run(scenario())


def test_transactions(broker: Broker, unique: Unique) -> None:
    """R1, R2, O1: commit shows records and offsets of all partitions, abort hides both, an open one is not seen."""
    topic, group = create_topic(broker.bootstrap, unique("records"), 3), unique("group")
    at = TopicPartition(topic, 0)

    async def scenario() -> None:
        async with (
            producing(broker.bootstrap, unique("id")) as producer,
            consuming(broker.bootstrap, group_id=group) as reader,
        ):
            for number in range(6):
                await producer.begin_transaction()
                for index in range(3):
                    await producer.send_and_wait(topic, b"%d/%d" % (number, index), partition=index)
                await producer.send_offsets_to_transaction({at: OffsetAndMetadata(number, "")}, group)
                if number % 2:
                    await producer.abort_transaction()
                else:
                    await producer.commit_transaction()
                assert await reader.committed(at) == number - number % 2
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"open", partition=0)
            committed = {index: [b"%d/%d" % (number, index) for number in (0, 2, 4)] for index in range(3)}
            assert by_partition(await read(broker.bootstrap, topic, 3)) == committed
            assert len(await read(broker.bootstrap, topic, 3, "read_uncommitted")) == 19
            await producer.abort_transaction()
            assert by_partition(await read(broker.bootstrap, topic, 3)) == committed

    run(scenario())


def test_a_second_instance_fences_the_first(broker: Broker, unique: Unique) -> None:
    """T2, T9: the first instance hears that it is fenced; nothing of its transaction is seen."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")

    async def scenario() -> None:
        async with producing(broker.bootstrap, transactional_id) as first:
            await first.begin_transaction()
            await first.send_and_wait(topic, b"of the zombie")
            async with producing(broker.bootstrap, transactional_id) as second:
                with pytest.raises(ProducerFenced):
                    await first.commit_transaction()
                async with second.transaction():
                    await second.send_and_wait(topic, b"of the second")
        assert [each.value for each in await read(broker.bootstrap, topic)] == [b"of the second"]

    run(scenario())


def test_a_timeout(broker: Broker, unique: Unique) -> None:
    """T7, D5: a transaction that took too long is aborted; aiokafka (InitProducerId v0) says fenced; a new one goes on."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("records")), unique("id")

    async def scenario() -> None:
        async with producing(broker.bootstrap, transactional_id, transaction_timeout_ms=2000) as late:
            await late.begin_transaction()
            await late.send_and_wait(topic, b"too late")
            await asyncio.to_thread(until_ended, broker.bootstrap, transactional_id)
            with pytest.raises(KafkaError):
                await late.commit_transaction()
        async with producing(broker.bootstrap, transactional_id) as producer, producer.transaction():
            await producer.send_and_wait(topic, b"in time")
        assert [each.value for each in await read(broker.bootstrap, topic)] == [b"in time"]

    run(scenario())


def test_rewinding_and_times(broker: Broker, unique: Unique) -> None:
    """R5, R6: seeking back gives all again; look-ups by time."""
    topic = create_topic(broker.bootstrap, unique("records"))
    at = TopicPartition(topic, 0)

    async def scenario() -> None:
        async with producing(broker.bootstrap) as producer:
            for number in range(10):
                await producer.send_and_wait(topic, b"%d" % number, timestamp_ms=1_700_000_000_000 + 1000 * number)
        async with consuming(broker.bootstrap) as consumer:
            consumer.assign([at])
            for start in (0, 4, 0):
                consumer.seek(at, start)
                values = [(await consumer.getone()).value for _ in range(10 - start)]
                assert values == [b"%d" % number for number in range(start, 10)]
            found = await consumer.offsets_for_times({at: 1_700_000_003_500})
            assert found[at].offset == 4
            assert await consumer.offsets_for_times({at: 1_800_000_000_000}) == {at: None}

    run(scenario())


class NoRebalanceMeanwhile(ConsumerRebalanceListener):
    """Partitions are given up between transactions only.

    Aiokafka does not send its generation with the offsets (KIP-447), so the broker can't refuse those of a member that has
    lost its partitions: the member itself must see to it.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        async with self.lock:
            pass

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        pass


async def copy(
    bootstrap: str, source: str, target: str, group: str, transactional_id: str, enough: asyncio.Event
) -> int:
    """A member that copies exactly once until ``enough``; the transactions it has committed."""
    done = 0
    working = NoRebalanceMeanwhile()
    settings = {"group_id": group, "session_timeout_ms": 6000, "heartbeat_interval_ms": 200}
    async with producing(bootstrap, transactional_id) as producer, consuming(bootstrap, **settings) as consumer:
        consumer.subscribe([source], listener=working)
        while not enough.is_set():
            await asyncio.sleep(0.01)  # the lock is free here
            async with working.lock:
                batch = await consumer.getmany(timeout_ms=50, max_records=9)
                if not batch:
                    continue
                async with producer.transaction():
                    for at, records in batch.items():
                        for record in records:
                            await producer.send(target, record.value, partition=at.partition)
                    ends = {at: OffsetAndMetadata(records[-1].offset + 1, "") for at, records in batch.items()}
                    await producer.send_offsets_to_transaction(ends, group)
                done += 1
    return done


def test_a_rebalance_in_the_middle(broker: Broker, unique: Unique) -> None:
    """O1, R1: a second member joins between transactions; each record is copied once and in order."""
    bootstrap = broker.bootstrap
    source, target = create_topic(bootstrap, unique("source"), 4), create_topic(bootstrap, unique("target"), 4)
    group = unique("group")

    async def scenario() -> None:
        stops = [asyncio.Event(), asyncio.Event()]
        tasks = [asyncio.create_task(copy(bootstrap, source, target, group, unique("one"), stops[0]))]
        async with producing(bootstrap, linger_ms=2) as producer:
            for number in range(600):
                await producer.send_and_wait(source, b"%d" % number, partition=number % 4)
                if number == 200:
                    tasks.append(asyncio.create_task(copy(bootstrap, source, target, group, unique("two"), stops[1])))
                if number == 450:
                    stops[0].set()
        expected = by_partition(await read(bootstrap, source, 4))
        for _ in range(300):
            if (copied := by_partition(await read(bootstrap, target, 4))) == expected:
                break
            await asyncio.sleep(0.1)
        stops[1].set()
        assert (await tasks[0]) > 0
        assert (await tasks[1]) > 0
        assert copied == expected
        assert by_partition(await read(bootstrap, target, 4)) == expected

    run(scenario())


def test_restarts(own_broker: BrokerProcess, unique: Unique) -> None:
    """D1, D2: the broker is killed in mid-transaction; the same producer commits it, a consumer's group goes on."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "records", 2)

    async def scenario() -> None:
        async with (
            producing(bootstrap, unique("id")) as producer,
            consuming(bootstrap, topic, group_id="group", heartbeat_interval_ms=200) as reader,
        ):
            seen = []
            for number in range(3):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, b"%d/0" % number, partition=0)
                await asyncio.to_thread(own_broker.restart)
                await producer.send_and_wait(topic, b"%d/1" % number, partition=1)
                await producer.commit_transaction()
                seen += [(await reader.getone()).value, (await reader.getone()).value]
                await reader.commit()
            assert sorted(seen) == [b"%d/%d" % (number, index) for number in range(3) for index in (0, 1)]
            own_broker.restart()
            everywhere = [TopicPartition(topic, index) for index in (0, 1)]
            # After the last record, or after the marker that follows it, if the client has met that already.
            assert {await reader.committed(each) for each in everywhere} <= {5, 6}
        assert len(await read(bootstrap, topic, 2)) == 6

    run(scenario())


def test_admin(broker: Broker, unique: Unique) -> None:
    """Topics, partitions, records, groups and their offsets by aiokafka's admin client."""
    topic, group = unique("topic"), unique("group")

    async def scenario() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, 2, 1, topic_configs={"retention.ms": "60000"})])
            with pytest.raises(TopicAlreadyExistsError):
                raise_first(await admin.create_topics([NewTopic(topic, 2, 1)]))
            assert topic in await admin.list_topics()
            described = await admin.describe_topics([topic])
            assert len(described[0]["partitions"]) == 2
            assert (await admin.describe_cluster())["brokers"]
            async with producing(broker.bootstrap) as producer:
                for number in range(6):
                    await producer.send_and_wait(topic, b"%d" % number, partition=0)
            async with consuming(broker.bootstrap, topic, group_id=group) as consumer:
                for _ in range(6):
                    await consumer.getone()
                await consumer.commit()
                assert group in [each[0] for each in await admin.list_consumer_groups()]
                assert await admin.describe_consumer_groups([group])
            offsets = await admin.list_consumer_group_offsets(group)
            assert offsets[TopicPartition(topic, 0)].offset == 6
            await admin.delete_topics([topic])
            assert topic not in await admin.list_topics()
        finally:
            await admin.close()

    run(scenario())


def raise_first(reply: Any) -> None:
    """Raise what the reply to CreateTopics says of its first topic."""
    from aiokafka.errors import for_code

    raise for_code(reply.topic_errors[0][1])
