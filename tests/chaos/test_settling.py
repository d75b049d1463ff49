"""kill -9 of the real process in the middle of settling, with more data than the journal holds: all there, once, in order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import Deliveries, consumer, create_topic, producer

pytestmark = pytest.mark.client("confluent-kafka")

PARTITIONS = 3
RECORD_BYTES = 40_000
KILLS = 2
WAIT_SECONDS_MAX = 120.0


def segment_files(data: Path) -> set[str]:
    return {path.name for path in (data / "segments").iterdir()}


def checkpoint_ns(data: Path) -> int:
    path = data / "checkpoint"
    return path.stat().st_mtime_ns if path.exists() else 0


class Writer:
    """Numbers in turn over the partitions, each record large."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.deliveries = Deliveries()
        self.sent = 0
        self._topic = topic
        self._producer = producer(bootstrap, linger_ms=2, queue_buffering_max_kbytes=16_384)

    def write(self, count: int) -> None:
        for _ in range(count):
            value = b"%010d" % self.sent + bytes(RECORD_BYTES)
            self._produce(value)
            self.sent += 1

    def _produce(self, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, partition=self.sent % PARTITIONS, on_delivery=self.deliveries.on_delivery
                )
            except BufferError:
                self._producer.poll(0.1)
                continue
            self._producer.poll(0)
            return

    def finish(self) -> None:
        assert self._producer.flush(WAIT_SECONDS_MAX) == 0
        assert self.deliveries.errors == []


def numbers(bootstrap: str, topic: str) -> dict[int, list[int]]:
    """What a foreign reader finds, without keeping it."""
    reader = consumer(bootstrap, "reader", enable_partition_eof=True)
    reader.assign([TopicPartition(topic, index, 0) for index in range(PARTITIONS)])
    found: dict[int, list[int]] = {index: [] for index in range(PARTITIONS)}
    waiting: set[Any] = set(found)
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while waiting:
        assert time.monotonic() < deadline
        for message in reader.consume(200, 0.2):
            error = message.error()
            if error is None:
                assert len(message.value()) == RECORD_BYTES + 10
                found[message.partition()].append(int(message.value()[:10]))
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            elif not error.retriable():
                raise KafkaException(error)
    reader.close()
    return found


def test_killed_while_it_settles(own_broker: BrokerProcess) -> None:
    """D2, P1: also what was read from segments; and nothing of a half-done settling is left on the disk."""
    topic = create_topic(own_broker.bootstrap, "records", PARTITIONS)
    writer = Writer(own_broker.bootstrap, topic)
    for _ in range(KILLS):
        before, deadline = segment_files(own_broker.data), time.monotonic() + WAIT_SECONDS_MAX
        while segment_files(own_broker.data) <= before:
            assert time.monotonic() < deadline, "it does not settle"
            writer.write(50)
        own_broker.restart()
    before_ns, deadline = checkpoint_ns(own_broker.data), time.monotonic() + WAIT_SECONDS_MAX
    while checkpoint_ns(own_broker.data) == before_ns:
        assert time.monotonic() < deadline, "it does not settle"
        writer.write(50)
    writer.finish()
    expected = {index: list(range(index, writer.sent, PARTITIONS)) for index in range(PARTITIONS)}
    assert numbers(own_broker.bootstrap, topic) == expected
    own_broker.restart()
    assert numbers(own_broker.bootstrap, topic) == expected
    own_broker.stop()
    own_broker.start()
    assert numbers(own_broker.bootstrap, topic) == expected
    assert segment_files(own_broker.data), "nothing was settled: too little to judge"
