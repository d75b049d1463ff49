"""Lines of standard input become records; a retry never writes one twice, and nothing is lost in silence.

What it does not do: a process that is killed and given its input again writes it again, for a new producer knows nothing of the
old one's records. If that matters, see transactional_producer.py.

    seq 100 | python idempotent_producer.py
"""

from __future__ import annotations

import os
import sys

from confluent_kafka import KafkaError, Message, Producer

failures: list[KafkaError] = []


def delivered(error: KafkaError | None, _: Message) -> None:
    """Called for each record, when the broker has it or will not have it."""
    if error is not None:
        failures.append(error)


def main() -> int:
    """0 if every line is with the broker."""
    producer = Producer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092"),
            "enable.idempotence": True,  # off by default in librdkafka; sets acks=all and keeps the order over retries
            "metadata.recovery.strategy": "none",  # with a single broker: librdkafka's issue 5511
        }
    )
    for line in sys.stdin:
        while True:
            try:
                producer.produce("lines", line.rstrip("\n"), on_delivery=delivered)
                break
            except BufferError:  # its queue is full: wait until there is room
                producer.poll(0.5)
        producer.poll(0)
    waiting = producer.flush(60)
    if failures or waiting:
        sys.stderr.write(f"{len(failures)} refused {failures[:1]}, {waiting} without an answer\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
