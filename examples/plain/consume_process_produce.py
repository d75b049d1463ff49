"""Reads `orders`, writes `invoices`; each order has its invoice exactly once. The handler may run more than once.

Invoices and offsets are one transaction. What is easily forgotten, and loses or repeats orders:
- after an abort the consumer has to go back, or the aborted orders are passed over (`rewind`);
- the transactional id is the same after a restart and not shared, or nobody ends what a dead process left open;
- offsets go into the transaction together with the group's metadata, and nowhere else (no auto-commit, no commit()).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

NAME = "billing-" + os.environ.get("INSTANCE", "0")
AT = {
    "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092"),
    "metadata.recovery.strategy": "none",  # with a single broker: librdkafka's issue 5511
}
Handler = Callable[[Producer, Message], None]


def bill(producer: Producer, order: Message) -> None:
    """The work itself. It may run again: nothing but records of the transaction may come of it."""
    producer.produce("invoices", b"invoice for " + (order.value() or b""), order.key())


def run(handler: Handler) -> None:
    """Until SIGTERM. Raises KafkaException for what a new start cures: fenced, or fatal for the client."""
    is_stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: is_stopped.append(number))
    consumer = Consumer(
        {**AT, "group.id": "billing", "group.instance.id": NAME, "session.timeout.ms": 10_000, "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )  # fmt: skip
    producer = Producer({**AT, "transactional.id": NAME})
    producer.init_transactions()  # before the first poll: offsets of a dead process must not be pending any more
    consumer.subscribe(["orders"])
    while not is_stopped:
        orders = consumer.consume(100, timeout=0.2)
        for order in orders:
            error = order.error()
            if error is not None:
                raise KafkaException(error)
        if orders:
            transact(consumer, producer, orders, handler)
    consumer.close()


def transact(consumer: Consumer, producer: Producer, orders: Sequence[Message], handler: Handler) -> None:
    """Results and offsets, both or neither."""
    producer.begin_transaction()
    try:
        for order in orders:
            handler(producer, order)
        metadata = consumer.consumer_group_metadata()
        insist(lambda: producer.send_offsets_to_transaction(after(orders), metadata))
        insist(producer.commit_transaction)
    except KafkaException as failure:
        if failure.args[0].fatal():
            raise
        insist(producer.abort_transaction)  # a fenced producer gets its answer here, and ends
        rewind(consumer)


def insist(step: Callable[[], object], attempts: int = 10) -> None:
    """Once more if the client says so: a commit that timed out may have happened, and only the same call can tell."""
    for attempt in range(attempts):
        try:
            step()
            return
        except KafkaException as failure:
            if not failure.args[0].retriable() or attempt == attempts - 1:
                raise


def after(orders: Sequence[Message]) -> list[TopicPartition]:
    """In each partition the offset of the next order, not of the last."""
    places = {(order.topic(), order.partition()): (order.offset() or 0) + 1 for order in orders}
    return [TopicPartition(str(topic), partition or 0, offset) for (topic, partition), offset in places.items()]


def rewind(consumer: Consumer) -> None:
    """Back to the committed offsets: the aborted orders come again."""
    for place in consumer.committed(consumer.assignment(), timeout=60):
        if place.offset < 0:
            place.offset = OFFSET_BEGINNING
        consumer.seek(place)


if __name__ == "__main__":
    sys.exit(run(bill))
