"""confluent-kafka in consumer groups: members in threads, a steady writer, waiting for a condition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.support.confluent import consumer, producer

PROTOCOLS: dict[str, dict[str, Any]] = {
    "range": {"partition_assignment_strategy": "range", "session_timeout_ms": 6000, "heartbeat_interval_ms": 200},
    "cooperative": {
        "partition_assignment_strategy": "cooperative-sticky",
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 200,
    },
    "consumer": {"group_protocol": "consumer"},
}
CLASSIC = PROTOCOLS["range"]


def fill(bootstrap: str, topic: str, count: int, partitions: int) -> list[bytes]:
    """Numbered records, in turn over the partitions."""
    writer = producer(bootstrap)
    sent = [str(number).encode() for number in range(count)]
    for number, value in enumerate(sent):
        writer.produce(topic, value, value, partition=number % partitions)
    assert writer.flush(20) == 0
    return sent


class Member:
    """A consumer that is polled in a thread; records what it was given and how often it was rebalanced."""

    def __init__(self, bootstrap: str, group: str, topic: str, **given: Any) -> None:
        self.values: list[bytes] = []
        self.assignment: list[int] = []
        self.rebalances = 0
        self._stop = threading.Event()
        self._consumer = consumer(bootstrap, group, **given)
        self._consumer.subscribe([topic], on_assign=self._count, on_revoke=self._count)
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _count(self, _: Consumer, __: list[TopicPartition]) -> None:
        self.rebalances += 1

    def _poll(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(50, 0.05):
                if message.error() is None:
                    self.values.append(message.value())
                    self._consumer.commit(message=message, asynchronous=True)
            # asked here only: another thread that asks would wait for a callback that waits for it
            self.assignment = sorted(each.partition for each in self._consumer.assignment())
        self._consumer.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def members() -> Iterator[Callable[..., Member]]:
    """Makes members; those that the test has not closed are closed after it."""
    made: list[Member] = []

    def make(*arguments: str, **given: Any) -> Member:
        made.append(Member(*arguments, **given))
        return made[-1]

    yield make
    for member in made:
        member.close()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Feeder:
    """Writes numbered records, a few at a time, until it is closed."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.count = 0
        self._writer = producer(bootstrap)
        self._topic, self._partitions = topic, partitions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        while not self._stop.wait(0.02):
            for _ in range(16):
                value = str(self.count).encode()
                self._writer.produce(self._topic, value, value, partition=self.count % self._partitions)
                self.count += 1
        assert self._writer.flush(20) == 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)
