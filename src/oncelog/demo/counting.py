"""Counts what arrived, as a stranger to the pipeline would: reads the topics from their beginning to their end.

Every invoice carries its order's id. Nothing that a worker said is used here.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from oncelog.demo.processes import DemoError
from oncelog.demo.worker import Semantics, connection_settings, required

SILENCE_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Count:
    """What the topics hold: orders sent; of them delivered and lost; invoices beyond the first of an order; invoices
    of no order; and all invoices in the log, those of aborted transactions included.
    """

    sent: int
    delivered: int
    lost: int
    duplicated: int
    unknown: int
    in_log: int

    @property
    def aborted(self) -> int:
        """Invoices in the log that readers of committed data are not shown."""
        return self.in_log - self.delivered - self.duplicated - self.unknown


def compare(orders: Counter[str], invoices: Counter[str], in_log: int) -> Count:
    """Sets the invoices against the orders."""
    known = {order: times for order, times in invoices.items() if order in orders}
    return Count(
        sent=len(orders),
        delivered=len(known),
        lost=len(orders) - len(known),
        duplicated=sum(known.values()) - len(known),
        unknown=sum(invoices.values()) - sum(known.values()),
        in_log=in_log,
    )


def count_topics(port: int, target: str, semantics: Semantics) -> Count:
    """Reads `orders` and `target`; the invoices as read_committed if they were promised exactly once, else all."""
    orders = count_ids(port, "orders", "id", "read_uncommitted")
    everything = count_ids(port, target, "order", "read_uncommitted")
    shown = count_ids(port, target, "order", "read_committed") if semantics is Semantics.EXACTLY_ONCE else everything
    return compare(orders, shown, in_log=sum(everything.values()))


def count_ids(port: int, topic: str, field: str, isolation: str) -> Counter[str]:
    """How often each id stands in `field` of the messages of a topic."""
    return Counter(json.loads(required(message.value()))[field] for message in read_all(port, topic, isolation))


def read_all(port: int, topic: str, isolation: str) -> Iterator[Message]:
    """Every message of a topic up to the end that this isolation level may see. DemoError if the broker falls silent."""
    consumer = Consumer(
        {
            **connection_settings(f"127.0.0.1:{port}"),
            "group.id": "counting",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=SILENCE_SECONDS_MAX).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        open_partitions = set(partitions)
        heard_at = time.monotonic()
        while open_partitions:
            messages = consumer.consume(1000, timeout=0.2)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > SILENCE_SECONDS_MAX:
                raise DemoError(f"reading {topic}: nothing more came from partitions {sorted(open_partitions)}")
            for message in messages:
                if (error := message.error()) is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(required(message.partition()))
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
