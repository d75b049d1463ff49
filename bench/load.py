"""One load in its own process: `python -m bench.load KIND BOOTSTRAP [ARGUMENT...]` prints one JSON line of figures.

The clients are confluent-kafka's, the same code for every broker. ``units`` is what the broker's CPU time is divided by.
Every load checks that all it sent was delivered, or all it wanted was read.
"""

import json
import os
import resource
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

Figures = dict[str, float | str]

PARTITIONS = 4
RECORD = b"x" * 1024
SMALL = b"x" * 100
PRODUCERS = 10
MANY_PRODUCERS = 50
MANY_PARTITIONS = 10
COMMIT_S = 0.1
_CHUNK = 500
_TIMEOUT_S = 60


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def tail_ms(seconds: list[float], name: str = "") -> dict[str, float]:
    """p50 and p99 in ms."""
    return {f"{name}p50_ms": percentile(seconds, 0.5) * 1e3, f"{name}p99_ms": percentile(seconds, 0.99) * 1e3}


def new_topic(bootstrap: str, partitions: int) -> str:
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})  # must outlive its futures
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    return topic


def delete_topic(bootstrap: str, topic: str) -> None:
    """Bulk would fill disks and memories otherwise."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.delete_topics([topic])[topic].result(30)


def transactional(bootstrap: str, transactional_id: str, **settings: object) -> Producer:
    known = {"bootstrap.servers": bootstrap, "transactional.id": transactional_id, "linger.ms": 0, "log_level": 0}
    return Producer({**known, **settings})


# -- transactions ---------------------------------------------------------------------------------------------------------


def _transact(producer: Producer, topic: str, records: int, partitions: int) -> None:
    producer.begin_transaction()
    for number in range(records * partitions):
        producer.produce(topic, SMALL, partition=number % partitions)
    producer.commit_transaction(_TIMEOUT_S)


def transactions(bootstrap: str, seconds: float, records: int, partitions: int) -> Figures:
    """One producer, one transaction after the other."""
    topic = new_topic(bootstrap, partitions)
    producer = transactional(bootstrap, topic)
    producer.init_transactions(_TIMEOUT_S)
    _transact(producer, topic, records, partitions)
    taken = _transact_until(time.monotonic() + seconds, producer, topic, records, partitions)
    return {"units": len(taken) + 1, "per_s": len(taken) / sum(taken), **tail_ms(taken)}


def _transact_until(until: float, producer: Producer, topic: str, records: int, partitions: int) -> list[float]:
    taken: list[float] = []
    while (start := time.monotonic()) < until or not taken:
        _transact(producer, topic, records, partitions)
        taken.append(time.monotonic() - start)
    return taken


def transactions_at_once(bootstrap: str, seconds: float) -> Figures:
    """Ten producers, each with a thread of its own, 1 x 1 on a partition of its own."""
    topic = new_topic(bootstrap, 1)
    producers = [transactional(bootstrap, f"{topic}-{number}") for number in range(PRODUCERS)]
    for producer in producers:
        producer.init_transactions(_TIMEOUT_S)
        _transact(producer, topic, 1, 1)
    taken: list[list[float]] = [[] for _ in producers]
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        taken[number] = _transact_until(until, producers[number], topic, 1, 1)

    _in_threads(work, PRODUCERS)
    everything = [one for some in taken for one in some]
    rate = sum(len(some) / sum(some) for some in taken if some)
    return {"units": len(everything) + PRODUCERS, "per_s": rate, **tail_ms(everything)}


def _in_threads(work: Callable[[int], None], count: int) -> None:
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except (KafkaException, BufferError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def new_ids(bootstrap: str, seconds: float) -> Figures:
    """A producer with a new transactional.id, from its construction to its first commit."""
    topic = new_topic(bootstrap, 1)
    taken: list[float] = []
    until = time.monotonic() + seconds
    while (start := time.monotonic()) < until or not taken:
        first_commit(bootstrap, topic, f"{topic}-{len(taken)}")
        taken.append(time.monotonic() - start)
    return {"units": len(taken), "per_s": len(taken) / sum(taken), **tail_ms(taken)}


def first_commit(bootstrap: str, topic: str, transactional_id: str) -> None:
    producer = transactional(
        bootstrap, transactional_id, **{"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50}
    )
    producer.init_transactions(120)
    _transact(producer, topic, 1, 1)


def visible(bootstrap: str, seconds: float) -> Figures:
    """From the return of commit, and from begin, until a waiting read_committed reader has the record."""
    topic = new_topic(bootstrap, 1)
    seen_at: list[float] = []
    arrived, stop = threading.Semaphore(0), threading.Event()

    def read() -> None:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed"})
        consumer.assign([TopicPartition(topic, 0, 0)])
        while not stop.is_set():
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                seen_at.append(time.monotonic())
                arrived.release()
        consumer.close()

    reader = threading.Thread(target=read)
    reader.start()
    producer = transactional(bootstrap, topic)
    producer.init_transactions(_TIMEOUT_S)
    shown: list[float] = []
    consumed: list[float] = []
    until = time.monotonic() + seconds
    try:
        while (begun := time.monotonic()) < until or not shown:
            _transact(producer, topic, 1, 1)
            committed = time.monotonic()
            assert arrived.acquire(timeout=30), "a committed record did not arrive"
            shown.append(max(0.0, seen_at[-1] - committed))
            consumed.append(seen_at[-1] - begun)
    finally:
        stop.set()
        reader.join()
    # The first ones wait for the reader's connection and its first fetch.
    shown, consumed = shown[5:] or shown, consumed[5:] or consumed
    return {"units": len(shown), **tail_ms(shown, "shown_"), **tail_ms(consumed, "consumed_")}


# -- bulk -----------------------------------------------------------------------------------------------------------------

_BULK: dict[str, dict[str, object]] = {
    "plain": {"acks": "all", "enable.idempotence": False},
    "idempotent": {"enable.idempotence": True},
    "transactional": {"enable.idempotence": True},
}


def bulk(bootstrap: str, count: int, kind: str, topic: str = "") -> Figures:
    """``count`` records of 1 KB; transactions are committed every 100 ms. The topic stays."""
    topic = topic or new_topic(bootstrap, PARTITIONS)
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "log_level": 0,
            "queue.buffering.max.messages": 100_000,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _: failed.append(error),
            **_BULK[kind],
            **({"transactional.id": topic} if kind == "transactional" else {}),
        }
    )
    if kind == "transactional":
        producer.init_transactions(_TIMEOUT_S)
    _send(producer, topic, [SMALL] * PARTITIONS, is_transactional=kind == "transactional")
    begun = time.monotonic()
    _send(producer, topic, [RECORD] * count, is_transactional=kind == "transactional")
    took = time.monotonic() - begun
    assert not failed, failed[:1]
    return {"units": count, "per_s": count / took, "topic": topic, "count": count + PARTITIONS}


def _send(producer: Producer, topic: str, values: list[bytes], *, is_transactional: bool) -> None:
    """All of them, in chunks, partition by partition; returns when all are acknowledged."""
    until = 0.0
    for number, at in enumerate(range(0, len(values), _CHUNK)):
        if is_transactional and time.monotonic() >= until:
            if until:
                producer.commit_transaction(_TIMEOUT_S)
            producer.begin_transaction()
            until = time.monotonic() + COMMIT_S
        chunk = [{"value": value} for value in values[at : at + _CHUNK]]
        while producer.produce_batch(topic, chunk, partition=number % PARTITIONS) < len(chunk):
            chunk = [{"value": one["value"]} for one in chunk if "_error" in one]
            producer.poll(0.005)
    if is_transactional:
        producer.commit_transaction(_TIMEOUT_S)
    assert producer.flush(_TIMEOUT_S) == 0, "not all was delivered"


def consume(bootstrap: str, topic: str, count: int) -> Figures:
    """Read all of a topic, read_committed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, one, 0) for one in range(PARTITIONS)])
    got, begun, first = 0, time.monotonic(), 0.0
    while got < count and time.monotonic() - begun < _TIMEOUT_S:
        messages = consumer.consume(10_000, 0.2)
        first = first or (time.monotonic() if messages else 0.0)
        got += sum(map(_is_sound, messages))
    took = time.monotonic() - begun
    consumer.close()
    assert got == count, (got, count)
    return {"units": got, "per_s": got / took}


def _is_sound(message: Message) -> bool:
    return message.error() is None


def fill(bootstrap: str, count: int) -> Figures:
    """``count`` records, and a transaction that is left open: the process ends without a word."""
    figures = bulk(bootstrap, count, "idempotent")
    topic = str(figures["topic"])
    producer = transactional(bootstrap, topic)
    producer.init_transactions(_TIMEOUT_S)
    producer.begin_transaction()
    for number in range(100):
        producer.produce(topic, SMALL, partition=number % PARTITIONS)
    assert producer.flush(_TIMEOUT_S) == 0, "not all was delivered"
    print(json.dumps(figures), flush=True)
    os._exit(0)


# -- many small requests --------------------------------------------------------------------------------------------------


def many(bootstrap: str, seconds: float) -> Figures:
    """50 producers, each with one record of 100 bytes under way at a time, no linger: one request a record."""
    topic = new_topic(bootstrap, MANY_PARTITIONS)
    settings = {"bootstrap.servers": bootstrap, "linger.ms": 0, "batch.num.messages": 1, "acks": "all"}
    producers = [Producer(settings) for _ in range(MANY_PRODUCERS)]
    taken: list[list[float]] = [[] for _ in producers]
    until = [0.0]

    def work(number: int) -> None:
        producer, mine, partition = producers[number], taken[number], number % MANY_PARTITIONS

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            mine.append(message.latency())

        while time.monotonic() < until[0] or not mine:
            producer.produce(topic, SMALL, partition=partition, on_delivery=delivered)
            assert producer.flush(_TIMEOUT_S) == 0, "not delivered"

    _in_threads(work, MANY_PRODUCERS)  # connects all
    for some in taken:
        some.clear()
    begun = time.monotonic()
    until[0] = begun + seconds
    _in_threads(work, MANY_PRODUCERS)
    took = time.monotonic() - begun
    everything = [one for some in taken for one in some]
    return {"units": len(everything), "per_s": len(everything) / took, **tail_ms(everything)}


# -- the process ----------------------------------------------------------------------------------------------------------

LOADS: dict[str, Callable[..., Figures]] = {
    "txn-1x1": lambda bootstrap, seconds: transactions(bootstrap, float(seconds), 1, 1),
    "txn-100x4": lambda bootstrap, seconds: transactions(bootstrap, float(seconds), 100, 4),
    "txn-10-producers": lambda bootstrap, seconds: transactions_at_once(bootstrap, float(seconds)),
    "visible": lambda bootstrap, seconds: visible(bootstrap, float(seconds)),
    "new-id": lambda bootstrap, seconds: new_ids(bootstrap, float(seconds)),
    "bulk-plain": lambda bootstrap, count: bulk(bootstrap, int(count), "plain"),
    "bulk-idempotent": lambda bootstrap, count: bulk(bootstrap, int(count), "idempotent"),
    "bulk-transactional": lambda bootstrap, count: bulk(bootstrap, int(count), "transactional"),
    "consume": lambda bootstrap, topic, count: consume(bootstrap, topic, int(count)),
    "fill": lambda bootstrap, count: fill(bootstrap, int(count)),
    "many": lambda bootstrap, seconds: many(bootstrap, float(seconds)),
}


def run(kind: str, arguments: Iterable[str]) -> Figures:
    figures = LOADS[kind](*arguments)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    figures["client_cpu_us"] = (spent.ru_utime + spent.ru_stime) / float(figures["units"]) * 1e6
    return figures


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2:])))
