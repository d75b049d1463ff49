"""Stores the records of `invoices` in a database, each once: rows and offsets are one database transaction.

The database says where it goes on, so Kafka's committed offsets are not used. Two processes may have one partition in hand for
a moment (one was frozen): who comes second finds that the database is further on, and stores nothing.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

TABLES = """
CREATE TABLE IF NOT EXISTS invoices (id TEXT, content TEXT);
CREATE TABLE IF NOT EXISTS places (topic TEXT, part INTEGER, next INTEGER, PRIMARY KEY (topic, part));
"""


def next_offset(db: sqlite3.Connection, place: TopicPartition) -> int:
    """Where the database is in a partition."""
    found = db.execute(
        "SELECT next FROM places WHERE topic = ? AND part = ?", (place.topic, place.partition)
    ).fetchone()
    return int(found[0]) if found else OFFSET_BEGINNING


def store(db: sqlite3.Connection, messages: Sequence[Message]) -> bool:
    """The records of one partition and its offset, both or neither. False: another process was here, nothing is stored."""
    topic, part = str(messages[0].topic()), messages[0].partition()
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    with db:  # commits; rolls back if anything is raised
        db.execute("BEGIN IMMEDIATE")
        at = next_offset(db, TopicPartition(topic, part or 0))
        if at > first:
            return False
        db.executemany(
            "INSERT INTO invoices VALUES (?, ?)", [(_text(one.key()), _text(one.value())) for one in messages]
        )
        db.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (topic, part, last + 1))
    return True


def _text(data: bytes | str | None) -> str:
    return data.decode() if isinstance(data, bytes) else data or ""


def main() -> None:
    """Until SIGTERM."""
    is_stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: is_stopped.append(number))
    db = sqlite3.connect(os.environ.get("DATABASE", "invoices.db"), isolation_level=None, timeout=30)
    db.executescript(TABLES)

    def assigned(consumer: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            place.offset = next_offset(db, place)
        consumer.assign(places)

    consumer = Consumer(
        {"bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092"), "metadata.recovery.strategy": "none",
         "group.id": "sink", "group.instance.id": os.environ.get("INSTANCE", "0"), "session.timeout.ms": 10_000,
         "enable.auto.commit": False, "isolation.level": "read_committed", "auto.offset.reset": "error"}
    )  # fmt: skip
    consumer.subscribe(["invoices"], on_assign=assigned)
    while not is_stopped:
        parts: dict[int, list[Message]] = {}
        for message in consumer.consume(100, timeout=0.2):
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            parts.setdefault(message.partition() or 0, []).append(message)
        for part, messages in parts.items():
            if not store(db, messages):
                consumer.seek(TopicPartition("invoices", part, next_offset(db, TopicPartition("invoices", part))))
    consumer.close()
    db.close()


if __name__ == "__main__":
    sys.exit(main())
