"""One load in its own process: `python -m bench.load KIND BOOTSTRAP SECONDS` prints one JSON line of figures."""

import json
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SHAPES = {"txn-1x1": (1, 1), "txn-100x4": (100, 4)}


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def new_topic(bootstrap: str, partitions: int) -> str:
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must outlive its futures
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    return topic


def transactions(bootstrap: str, seconds: float, records: int, partitions: int) -> dict[str, float]:
    topic = new_topic(bootstrap, partitions)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "linger.ms": 0})
    begun = time.monotonic()
    producer.init_transactions(60)
    taken: list[float] = []
    first_ms = 0.0
    until = begun + seconds
    while (start := time.monotonic()) < until or not taken:
        producer.begin_transaction()
        for number in range(records * partitions):
            producer.produce(topic, b"x" * 100, partition=number % partitions)
        producer.commit_transaction(60)
        now = time.monotonic()
        taken.append(now - start)
        first_ms = first_ms or (now - begun) * 1e3
    rate = len(taken) / sum(taken)
    tail = {"p50_ms": percentile(taken, 0.5) * 1e3, "p99_ms": percentile(taken, 0.99) * 1e3}
    return {"units": len(taken), "per_s": rate, "first_commit_ms": first_ms, **tail}


def bulk(bootstrap: str, seconds: float) -> dict[str, float]:
    topic = new_topic(bootstrap, 4)
    failed: list[object] = []
    bounds = {"linger.ms": 5, "queue.buffering.max.messages": 200_000}
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, **bounds})
    sent, begun = 0, time.monotonic()

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    while time.monotonic() - begun < seconds:
        try:
            producer.produce(topic, b"x" * 1024, partition=sent // 64 % 4, on_delivery=delivered)
            sent += 1
        except BufferError:
            producer.poll(0.05)
    assert producer.flush(60) == 0 and not failed, failed[:1]
    return {"units": sent, "per_s": sent / (time.monotonic() - begun), "topic": topic}  # type: ignore[dict-item]


def consume(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, one, 0) for one in range(4)])
    got, begun = 0, time.monotonic()
    while got < count and time.monotonic() - begun < 60:
        got += sum(1 for message in consumer.consume(10_000, 0.2) if message.error() is None)
    took = time.monotonic() - begun
    consumer.close()
    assert got == count, (got, count)
    return {"units": got, "per_s": got / took}


def main() -> None:
    kind, bootstrap, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if kind == "consume":
        figures = consume(bootstrap, rest[0], int(rest[1]))
    elif kind == "bulk":
        figures = bulk(bootstrap, float(rest[0]))
    else:
        figures = transactions(bootstrap, float(rest[0]), *SHAPES[kind])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
