"""SIGTERM, SIGSTOP and starts under load: a stop in good order loses nothing either, and a frozen broker comes back."""

from __future__ import annotations

import time

import pytest
from tests.support.apps import until
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition, create_topic, read_all, transactional_producer, values_of
from tests.support.load import IdempotentWriter, PairWriter

pytestmark = pytest.mark.client("confluent-kafka")

PARTITIONS = 3


def test_stopped_in_good_order_under_load(own_broker: BrokerProcess) -> None:
    """D2, P1, R1: SIGTERM ends with exit code 0, also with requests under way; the next start has everything."""
    bootstrap = own_broker.bootstrap
    for topic in ("plain", "pairs"):
        create_topic(bootstrap, topic, PARTITIONS)
    writer = IdempotentWriter(bootstrap, "plain", PARTITIONS, "one").start()
    pairs = PairWriter(bootstrap, "pairs", PARTITIONS, "pairs", seed=5).start()
    for _ in range(3):
        time.sleep(0.4)
        own_broker.stop()
        own_broker.start()
    until(lambda: len(pairs.committed) > PARTITIONS, "enough to be committed to judge")
    for worker in (writer, pairs):
        worker.finish()
    writer.check(by_partition(read_all(bootstrap, "plain")))
    pairs.check(by_partition(read_all(bootstrap, "pairs")))


def test_an_open_transaction_survives_a_stop(own_broker: BrokerProcess) -> None:
    """D1: what is open when the broker is stopped is open after its start, and commits whole."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "records", PARTITIONS)
    writer = transactional_producer(bootstrap, "id")
    writer.begin_transaction()
    for index in range(PARTITIONS):
        writer.produce(topic, b"%d" % index, partition=index)
    writer.flush(10)
    own_broker.stop()
    own_broker.start()
    assert read_all(bootstrap, topic) == []
    writer.commit_transaction(30)
    assert sorted(values_of(read_all(bootstrap, topic))) == [b"0", b"1", b"2"]


def test_a_frozen_broker_comes_back(own_broker: BrokerProcess) -> None:
    """D4, T7: clients wait while the broker is frozen; nothing is lost or doubled afterwards."""
    bootstrap = own_broker.bootstrap
    for topic in ("plain", "pairs"):
        create_topic(bootstrap, topic, PARTITIONS)
    writer = IdempotentWriter(bootstrap, "plain", PARTITIONS, "one").start()
    pairs = PairWriter(bootstrap, "pairs", PARTITIONS, "pairs", seed=6).start()
    for _ in range(3):
        time.sleep(0.2)
        own_broker.pause()
        time.sleep(0.5)
        own_broker.resume()
    time.sleep(0.3)
    for worker in (writer, pairs):
        worker.finish()
    writer.check(by_partition(read_all(bootstrap, "plain")))
    pairs.check(by_partition(read_all(bootstrap, "pairs")))
