"""Requests that arrive after their client has reconnected, repeated them and moved on (D4, KAFKA-17754)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import (
    committed,
    consumer,
    create_topic,
    read_all,
    transactional_producer,
    values_of,
)
from tests.support.fixtures import Broker
from tests.support.messages import error_codes
from tests.support.proxy import Proxy, Trap
from tests.support.raw import RawClient
from tests.support.raw_producer import RawProducer, committed_offset, fetch, transaction_state, values
from tests.support.raw_producer import create_topic as create_raw_topic

Unique = Callable[[str], str]

CONCURRENT_TRANSACTIONS, NOT_LEADER_OR_FOLLOWER = 51, 6


def while_held(held: Trap, call: Callable[[], Any]) -> None:
    """Run ``call``, whose request is held; cut its connection; it must succeed by the client's own retry."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    held.wait()
    held.cut()
    thread.join(30)
    assert not thread.is_alive(), "the client did not get through"
    if failures:
        raise failures[0]


def was_refused(held: Trap, code: int) -> None:
    """The late request is released; the broker refuses it."""
    held.release()
    reply = held.reply()
    assert reply is not None
    assert set(error_codes(reply)) == {code}


def produce(writer: Producer, topic: str, *sent: bytes, partition: int = 0) -> None:
    for value in sent:
        writer.produce(topic, value, partition=partition)
    assert writer.flush(20) == 0


@pytest.mark.client("confluent-kafka")
def test_a_late_commit_does_not_commit_the_next_transaction(broker: Broker, proxy: Proxy, unique: Unique) -> None:
    """D4: KAFKA-17754, first harm: without the rule the second transaction is committed though its client aborts it."""
    topic = create_topic(broker.bootstrap, unique("topic"))
    writer = transactional_producer(proxy.bootstrap, unique("id"))
    writer.begin_transaction()
    produce(writer, topic, b"first")
    held = proxy.hold_next("end_txn")
    while_held(held, lambda: writer.commit_transaction(30))
    writer.begin_transaction()
    produce(writer, topic, b"second")
    was_refused(held, CONCURRENT_TRANSACTIONS)
    assert values_of(read_all(broker.bootstrap, topic)) == [b"first"]
    writer.abort_transaction(30)
    writer.begin_transaction()
    produce(writer, topic, b"third")
    writer.commit_transaction(30)
    assert values_of(read_all(broker.bootstrap, topic)) == [b"first", b"third"]


@pytest.mark.client("confluent-kafka")
def test_a_late_abort_does_not_abort_the_next_transaction(broker: Broker, proxy: Proxy, unique: Unique) -> None:
    """D4: KAFKA-17754, second harm: without the rule the first half of the second transaction is lost."""
    topic = create_topic(broker.bootstrap, unique("topic"), 2)
    writer = transactional_producer(proxy.bootstrap, unique("id"))
    writer.begin_transaction()
    produce(writer, topic, b"aborted")
    held = proxy.hold_next("end_txn")
    while_held(held, lambda: writer.abort_transaction(30))
    writer.begin_transaction()
    produce(writer, topic, b"half")
    was_refused(held, CONCURRENT_TRANSACTIONS)
    produce(writer, topic, b"other half", partition=1)
    writer.commit_transaction(30)
    assert sorted(values_of(read_all(broker.bootstrap, topic))) == [b"half", b"other half"]


@pytest.mark.client("confluent-kafka")
def test_a_late_add_partitions_does_not_begin_a_transaction(
    broker: Broker, proxy: Proxy, raw: RawClient, unique: Unique
) -> None:
    """D4: without the rule a transaction is open that nobody will end, until it times out and fences its producer."""
    topic, transactional_id = create_topic(broker.bootstrap, unique("topic"), 2), unique("id")
    writer = transactional_producer(proxy.bootstrap, transactional_id)
    writer.begin_transaction()
    held = proxy.hold_next("add_partitions_to_txn")
    while_held(held, lambda: produce(writer, topic, b"one", partition=1))
    writer.commit_transaction(30)
    assert transaction_state(raw, transactional_id) == "CompleteCommit"
    was_refused(held, CONCURRENT_TRANSACTIONS)
    assert transaction_state(raw, transactional_id) == "CompleteCommit"
    writer.begin_transaction()
    produce(writer, topic, b"two")
    writer.commit_transaction(30)
    assert sorted(values_of(read_all(broker.bootstrap, topic))) == [b"one", b"two"]


@pytest.mark.client("confluent-kafka")
def test_late_offsets_do_not_join_the_next_transaction(broker: Broker, proxy: Proxy, unique: Unique) -> None:
    """D4, O1: without the rule the offsets of the first transaction replace those of the second."""
    topic, group = create_topic(broker.bootstrap, unique("topic")), unique("group")
    outsider = consumer(broker.bootstrap, group)
    writer = transactional_producer(proxy.bootstrap, unique("id"))

    def send(offset: int) -> None:
        positions = [TopicPartition(topic, 0, offset)]
        writer.send_offsets_to_transaction(positions, outsider.consumer_group_metadata(), 30)

    writer.begin_transaction()
    held = proxy.hold_next("txn_offset_commit")
    while_held(held, lambda: send(5))
    writer.commit_transaction(30)
    assert committed(broker.bootstrap, group, topic, [0]) == {0: 5}
    writer.begin_transaction()
    send(9)
    was_refused(held, CONCURRENT_TRANSACTIONS)
    writer.commit_transaction(30)
    assert committed(broker.bootstrap, group, topic, [0]) == {0: 9}
    outsider.close()


@pytest.mark.client("confluent-kafka")
def test_a_late_batch_is_not_written(broker: Broker, proxy: Proxy, unique: Unique) -> None:
    """D4, P1: a batch that was repeated by a newer connection is refused there, and nothing is written twice."""
    topic = create_topic(broker.bootstrap, unique("topic"))
    writer = transactional_producer(proxy.bootstrap, unique("id"))
    writer.begin_transaction()
    held = proxy.hold_next("produce")
    while_held(held, lambda: produce(writer, topic, b"one"))
    writer.commit_transaction(30)
    writer.begin_transaction()
    produce(writer, topic, b"two")
    was_refused(held, NOT_LEADER_OR_FOLLOWER)
    writer.commit_transaction(30)
    assert values_of(read_all(broker.bootstrap, topic)) == [b"one", b"two"]
    assert len(read_all(broker.bootstrap, topic, isolation="read_uncommitted")) == 2


def test_every_transactional_request_from_an_older_connection(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """D4: refused with a retriable code, state unchanged; each role by itself; the newest connection goes on."""
    topic, group, transactional_id = create_raw_topic(raw, unique("topic"), 2), unique("group"), unique("id")
    with RawClient(broker.port) as old, RawClient(broker.port) as new:
        writer = RawProducer(old, transactional_id).init()
        assert writer.add(topic, 0) == [0]
        assert writer.produce(topic, 0, b"one").error_code == 0
        writer.coordinator = new
        assert writer.add(topic, 0) == [0]
        # the coordinator's role has moved, the two others have not
        assert writer.produce(topic, 0, b"two").error_code == 0
        assert writer.add_group(group) == 0
        assert writer.commit_offset(group, topic, 0, 3) == 0
        writer.coordinator = old
        assert writer.end(commit=False) == CONCURRENT_TRANSACTIONS
        assert writer.add(topic, 1) == [CONCURRENT_TRANSACTIONS]
        assert writer.add_group(unique("other")) == CONCURRENT_TRANSACTIONS
        assert transaction_state(raw, transactional_id) == "Ongoing"
        writer.coordinator = writer.leader = writer.offsets = new
        assert writer.produce(topic, 0, b"three").error_code == 0
        assert writer.commit_offset(group, topic, 0, 4) == 0
        writer.leader = writer.offsets = old
        assert writer.produce(topic, 0, b"late", sequence=3).error_code == NOT_LEADER_OR_FOLLOWER
        assert writer.commit_offset(group, topic, 0, 1) == CONCURRENT_TRANSACTIONS
        assert writer.end(commit=True) == 0
    assert values_of(read_all(broker.bootstrap, topic)) == [b"one", b"two", b"three"]
    assert committed_offset(raw, group, topic, 0) == (0, 4)


def test_a_new_epoch_begins_on_any_connection(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """D4, T2: connections are compared within one epoch only: a new instance may come by an older connection."""
    topic, transactional_id = create_raw_topic(raw, unique("topic")), unique("id")
    with RawClient(broker.port) as old, RawClient(broker.port) as new:
        RawProducer(new, transactional_id).init()
        second = RawProducer(old, transactional_id).init()
        assert second.add(topic, 0) == [0]
        assert second.produce(topic, 0, b"one").error_code == 0
        assert second.end(commit=True) == 0
    assert values_of(read_all(broker.bootstrap, topic)) == [b"one"]


def test_a_request_whose_client_has_gone_is_dropped(own_broker: BrokerProcess, unique: Unique) -> None:
    """D4: the broker was busy while a client sent EndTxn, gave up and closed; the transaction is still its own to end."""
    transactional_id = unique("id")
    with RawClient(own_broker.port) as raw, RawClient(own_broker.port) as other:
        topic = create_raw_topic(other, unique("topic"))
        writer = RawProducer(raw, transactional_id).init()
        assert writer.add(topic, 0) == [0]
        own_broker.pause()
        raw.post(
            "end_txn",
            3,
            transactional_id=transactional_id,
            producer_id=writer.producer_id,
            producer_epoch=writer.epoch,
            committed=False,
        )
        raw.close()
        own_broker.resume()
        assert transaction_state(other, transactional_id) == "Ongoing"
        writer.coordinator = writer.leader = other
        assert writer.produce(topic, 0, b"one").error_code == 0
        assert writer.end(commit=True) == 0
        assert values(fetch(other, topic, 0)) == [b"one"]
