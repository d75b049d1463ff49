"""Prints the committed records of the topic `lines`; none is lost, the last ones may be printed again after a crash.

Printing can't be part of a transaction, so this is at least once. For exactly once see consume_process_produce.py (results in
Kafka) and sql_sink.py (results in a database).
"""

from __future__ import annotations

import os
import signal
import sys

from confluent_kafka import Consumer, KafkaException


def main() -> None:
    """Until SIGTERM."""
    is_stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: is_stopped.append(number))
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092"),
            "metadata.recovery.strategy": "none",  # with a single broker: librdkafka's issue 5511
            "group.id": "printer",
            "group.instance.id": os.environ.get("INSTANCE", "0"),  # a restart gets its partitions back at once
            "session.timeout.ms": 10_000,
            "fetch.wait.max.ms": 50,  # below retry.backoff.ms, or a cut commit may cost the session (docs/limits.md)
            "isolation.level": "read_committed",  # librdkafka's default; Java, aiokafka and kafka-python: read_uncommitted
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,  # else offsets run ahead of the work, and a crash loses records
        }
    )
    consumer.subscribe(["lines"])
    while not is_stopped:
        messages = consumer.consume(100, timeout=0.2)
        for message in messages:
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            sys.stdout.write((message.value() or b"").decode() + "\n")
        sys.stdout.flush()
        if messages:
            consumer.commit(asynchronous=False)  # the work is done: now the offsets
    consumer.close()


if __name__ == "__main__":
    main()
