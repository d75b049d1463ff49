"""The lines of a file become records of the topic `lines`, each once, however often it is killed and started again.

A transaction alone is not enough: a new process has to learn how far the old one came. So each transaction also writes the next
line's number to the topic `positions` (one partition), and a start reads the last committed one.

    python transactional_producer.py FILE
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

AT = {
    "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092"),
    "metadata.recovery.strategy": "none",  # with a single broker: librdkafka's issue 5511
}
LINES_IN_TRANSACTION = 10


def position() -> int:
    """The line after the last that was committed. Call it after init_transactions: nothing of the old process is open then."""
    reader = Consumer(
        {**AT, "group.id": "unused", "enable.auto.commit": False, "isolation.level": "read_committed",
         "auto.offset.reset": "earliest", "enable.partition.eof": True}
    )  # fmt: skip
    reader.assign([TopicPartition("positions", 0, 0)])
    last = 0
    while True:
        message = reader.poll(60)
        if message is None:
            raise TimeoutError("the topic positions could not be read")
        error = message.error()
        if error is None:
            last = int(message.value() or b"0")
        elif error.code() == KafkaError._PARTITION_EOF:
            reader.close()
            return last
        else:
            raise KafkaException(error)


def main(path: str) -> None:
    """Raises KafkaException for what a new start cures."""
    producer = Producer({**AT, "transactional.id": "import-lines"})  # the same after a restart, not shared
    producer.init_transactions()  # ends what a dead process left open, locks out one that still lives
    with Path(path).open(encoding="utf-8") as file:
        at = position()
        rest = islice(file, at, None)
        while lines := list(islice(rest, LINES_IN_TRANSACTION)):
            at += len(lines)
            producer.begin_transaction()
            for line in lines:
                producer.produce("lines", line.rstrip("\n"))
            producer.produce("positions", str(at), partition=0)
            producer.commit_transaction()  # any error: end; the next start knows whether it was committed


if __name__ == "__main__":
    main(sys.argv[1])
