"""The pipeline: read `orders`, write one invoice for each to `invoices`. One file, one process; made to be copied.

The three functions `at_most_once`, `at_least_once` and `exactly_once`, with the settings in `producer_settings`, are all
the difference between the semantics. A worker may die at any line: the next one with the same name goes on from the
group's committed offsets.

- The group instance id and the transactional id are the worker's name. So a new process takes over from a dead one at
  once, without waiting for its session to expire, and it fences the old one should that still be alive (a zombie).
- After a transaction was aborted the consumer has to go back to the committed offsets: `rewind`.
- Only `pause_for_faults` and the lines on stdout belong to the demo: they tell it where the worker is. Leave them out.

Exit codes: 0 all orders are done; 1 failed, start another; 3 fenced, another producer has this transactional id;
4 replaced, another consumer has this group instance id.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

ALL_DONE: Final = 0
FAILED: Final = 1
FENCED: Final = 3
REPLACED: Final = 4

WAIT_SECONDS: Final = 30.0
ATTEMPTS_MAX: Final = 10
FENCED_CODES: Final = frozenset((KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH))
REPLACED_CODES: Final = frozenset((KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID))

Settings = dict[str, Any]
Part = TypeVar("Part")


class Semantics(StrEnum):
    """What a pipeline promises for each record."""

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"
    EXACTLY_ONCE = "exactly-once"


class Undone(Exception):
    """The transaction was aborted; its orders have to be read again."""


def connection_settings(bootstrap: str) -> Settings:
    """What every client here has: the address, quick attempts to connect again (milliseconds), and no bootstrapping anew.

    librdkafka 2.16 starts from its bootstrap addresses again when no broker is connected; with one broker that is after
    each cut. send_offsets_to_transaction may then wait for the broker object just given up (its issue 5511).
    """
    backoff: Settings = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}
    return {"bootstrap.servers": bootstrap, "metadata.recovery.strategy": "none", **backoff}


def consumer_settings(options: argparse.Namespace) -> Settings:
    """A static member of the group that commits by itself, never in the background.

    A fetch waits less than the 100 ms after which a commit is repeated (retry.backoff.ms). On other brokers than this one the
    answer to "who is the coordinator?" comes behind the fetch, and librdkafka 2.16 gives up the coordinator again as long as
    it comes too late; when the session is over it joins anew, and is fenced by itself.
    """
    return {
        **connection_settings(options.bootstrap),
        "group.id": options.group,
        "group.instance.id": options.name,
        "session.timeout.ms": 6000,
        "fetch.wait.max.ms": 50,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }


def producer_settings(options: argparse.Namespace) -> Settings:
    """The producer's half of the three semantics."""
    promises: dict[str, Settings] = {
        Semantics.AT_MOST_ONCE: {"acks": 0, "retries": 0},
        Semantics.AT_LEAST_ONCE: {"acks": "all", "enable.idempotence": False},
        Semantics.EXACTLY_ONCE: {"transactional.id": f"{options.group}-{options.name}"},
    }
    return {**connection_settings(options.bootstrap), **promises[options.semantics]}


class Pipeline:
    """A consumer of `orders` and a producer of `invoices`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.consumer = Consumer(consumer_settings(options))
        self.producer = Producer(producer_settings(options))
        self.failures: list[KafkaError] = []
        # The commit of a transaction answers for all its invoices; a report on each would only disturb fatal errors.
        self.on_delivery = None if options.semantics is Semantics.EXACTLY_ONCE else self.delivered
        self.deliver: Callable[[Sequence[Message]], None] = {
            Semantics.AT_MOST_ONCE: self.at_most_once,
            Semantics.AT_LEAST_ONCE: self.at_least_once,
            Semantics.EXACTLY_ONCE: self.exactly_once,
        }[options.semantics]

    def run(self) -> None:
        """Works until no order is left. Raises KafkaException for what another worker has to cure."""
        if self.options.semantics is Semantics.EXACTLY_ONCE:
            self.producer.init_transactions(WAIT_SECONDS)  # aborts what a dead worker left open, fences a living one
        self.consumer.subscribe([self.options.source])
        at_end: set[int] = set()
        while not at_end or len(at_end) < len(self.consumer.assignment()):
            orders = self.read(at_end)
            if not orders:
                continue
            try:
                self.deliver(orders)
            except Undone:
                at_end.clear()
                self.rewind()
            else:
                say("done", len(orders))
        self.consumer.close()

    def read(self, at_end: set[int]) -> list[Message]:
        """The next orders; notes in `at_end` the partitions that have no more."""
        orders = []
        for message in self.consumer.consume(self.options.batch, timeout=0.5):
            error = message.error()
            if error is None:
                orders.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end.add(required(message.partition()))
            else:
                raise KafkaException(error)
        return orders

    def at_most_once(self, orders: Sequence[Message]) -> None:
        """Commits, then works: who dies in between has lost orders."""
        self.consumer.commit(offsets=after(orders), asynchronous=False)
        self.write(orders)

    def at_least_once(self, orders: Sequence[Message]) -> None:
        """Works, then commits: who dies in between does it again."""
        self.write(orders)
        self.consumer.commit(offsets=after(orders), asynchronous=False)

    def exactly_once(self, orders: Sequence[Message]) -> None:
        """Invoices and offsets are one transaction: both are there, or neither is."""
        try:
            self.producer.begin_transaction()
            self.write(orders)
            member = self.consumer.consumer_group_metadata()
            patiently(lambda: self.producer.send_offsets_to_transaction(after(orders), member, WAIT_SECONDS))
            patiently(lambda: self.producer.commit_transaction(WAIT_SECONDS))
        except KafkaException as failure:
            patiently(lambda: self.producer.abort_transaction(WAIT_SECONDS))  # a fenced producer gets its answer here
            raise Undone from failure

    def write(self, orders: Sequence[Message]) -> None:
        """One invoice for each order, keyed as the order was; returns when the producer has no more to send."""
        for done, order in enumerate(orders):
            if done == len(orders) // 2:
                pause_for_faults(self.producer, done)
            self.producer.produce(self.options.target, invoice(order), order.key(), on_delivery=self.on_delivery)
            self.producer.poll(0)
        if self.producer.flush(WAIT_SECONDS):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "invoices were not acknowledged in time"))
        if self.failures and self.options.semantics is not Semantics.AT_MOST_ONCE:
            raise KafkaException(self.failures.pop())

    def delivered(self, error: KafkaError | None, _: Message) -> None:
        """What became of one invoice."""
        if error is not None:
            self.failures.append(error)

    def rewind(self) -> None:
        """Goes back to the committed offsets, as a restarted worker would."""
        self.failures.clear()
        for place in self.consumer.committed(self.consumer.assignment(), WAIT_SECONDS):
            place.offset = place.offset if place.offset >= 0 else OFFSET_BEGINNING
            self.consumer.seek(place)


def invoice(order: Message) -> bytes:
    """The work itself. It carries the order's id, by which the demo counts, and who wrote it."""
    content = json.loads(required(order.value()))
    total_cents = content["quantity"] * content["price_cents"]
    return json.dumps({"order": content["id"], "total_cents": total_cents, "process": os.getpid()}).encode()


def after(orders: Sequence[Message]) -> list[TopicPartition]:
    """The offsets to commit: in each partition the one after the last order."""
    places = {(required(order.topic()), required(order.partition())): required(order.offset()) + 1 for order in orders}
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in places.items()]


def required(value: Part | None) -> Part:
    """A part that every consumed message has."""
    if value is None:
        raise ValueError("the message lacks a part that every consumed message has")
    return value


def patiently(step: Callable[[], None]) -> None:
    """Does a step of a transaction, again if the client says that it may be done again."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return step()
        except KafkaException as failure:
            if not failure.args[0].retriable() or attempt == ATTEMPTS_MAX:
                raise
    return None


def pause_for_faults(producer: Producer, done: int) -> None:
    """Demo only: half of a batch is with the broker; says so, and waits for leave to go on (or for its end)."""
    producer.flush(WAIT_SECONDS)
    say("half", done)
    if not sys.stdin.readline():
        raise SystemExit(FAILED)


def say(word: str, count: int) -> None:
    """Demo only: one line for the process that watches."""
    sys.stdout.write(f"{word} {count}\n")
    sys.stdout.flush()


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m oncelog.demo.worker", description="read orders, write invoices")
    parser.add_argument("--bootstrap", required=True, help="HOST:PORT of a broker")
    parser.add_argument("--semantics", type=Semantics, choices=list(Semantics), required=True)
    parser.add_argument("--name", default="worker-0", help="names this worker; the same after a restart")
    parser.add_argument("--group", required=True, help="the consumer group")
    parser.add_argument("--source", default="orders", help="topic to read")
    parser.add_argument("--target", default="invoices", help="topic to write")
    parser.add_argument("--batch", type=int, default=100, help="orders in one transaction, at most")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs one worker; returns its exit code."""
    try:
        Pipeline(options_of(arguments)).run()
    except KafkaException as failure:
        error = failure.args[0]
        sys.stderr.write(f"worker {os.getpid()}: {error}\n")
        return FENCED if error.code() in FENCED_CODES else REPLACED if error.code() in REPLACED_CODES else FAILED
    return ALL_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
