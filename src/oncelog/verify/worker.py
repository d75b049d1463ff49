"""One worker of a run, as a process that may be killed, frozen and replaced: ``python -m oncelog.verify.worker '{...}'``.

It works until its stdin is closed. What it is about to ask and what it was told goes to its own file, one line each, before
and after the call. After an error that its producer does not survive it ends with FENCED; whoever started it starts the next
instance. Only confluent-kafka and the history are known here.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from oncelog.verify.clients import error_of, settings, take, words
from oncelog.verify.history import (
    Acknowledged,
    Ended,
    Ending,
    Initialized,
    Isolation,
    Noted,
    OffsetsSent,
    Polled,
    Read,
    Recorder,
    Refused,
    Sent,
    now,
)

#: The exit code of a worker whose producer can't go on.
FENCED: Final = 3
CALL_SECONDS: Final = 15.0
#: How long a commit whose call says "try again" is tried.
COMMIT_SECONDS_MAX: Final = 60.0
NUMBERS_APART: Final = 1_000_000
COPY_RECORDS_MAX: Final = 20

Role = Literal["append", "plain", "source", "copy", "bank", "offsets", "reader"]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told. ``name`` stays over all its instances, ``number`` counts them."""

    role: Role
    name: str
    number: int
    index: int
    bootstrap: str
    client: dict[str, str]
    topics: list[str]
    partitions: int
    group: str
    isolation: Isolation
    transaction_timeout_ms: int
    seed: int
    history: str

    @property
    def instance(self) -> str:
        """``append-0.3``: the third instance of append-0."""
        return f"{self.name}.{self.number}"


class Replaced(Exception):
    """The producer can't go on: it was fenced, or nobody knows how its transaction ended."""


class Unsaid(Exception):
    """The transaction was aborted, or is to be: the work may be done again."""


class Sender:
    """A producer that says what it sends, and what becomes of it."""

    def __init__(self, task: Task, recorder: Recorder, **given: Any) -> None:
        self._task, self._recorder = task, recorder
        self._values = 0
        self.producer = Producer(settings(task.bootstrap, task.client, linger_ms=1, **given))

    def send(self, key: str | None, topic: str, partition: int, **about: Any) -> None:
        """One record, in transaction ``key``."""
        self._values += 1
        value, instance = f"{self._task.instance}:{self._values}", self._task.instance
        where: dict[str, Any] = {"topic": topic, "partition": partition, "transaction": key}
        self._recorder.write(Sent(at=now(), instance=instance, value=value, **where, **about))
        self.producer.produce(topic, value.encode(), partition=partition, on_delivery=self._delivered)

    def flush(self) -> int:
        """How many records have no answer yet. KafkaException, or Replaced if the client is too broken to say why."""
        try:
            return self.producer.flush(CALL_SECONDS)
        except SystemError as failure:
            # The client met a fatal error and yet called back, or returned without saying it. Its producer is done for.
            self._recorder.write(Noted(at=now(), who=self._task.instance, what=str(failure.__cause__ or failure)))
            raise Replaced from None

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        value, offset = (message.value() or b"").decode(), message.offset()
        if error is None:
            self._recorder.write(Acknowledged(at=now(), value=value, offset=-1 if offset is None else max(offset, -1)))
        else:
            self._recorder.write(Refused(at=now(), value=value, error=error.name()))


class Transactor(Sender):
    """One instance of a transactional id, and everything it says."""

    def __init__(self, task: Task, recorder: Recorder) -> None:
        super().__init__(task, recorder, transactional_id=task.name, transaction_timeout_ms=task.transaction_timeout_ms)
        self._count = 0
        invoked = now()
        self._retried(lambda: self.producer.init_transactions(CALL_SECONDS))
        recorder.write(Initialized(at=now(), instance=task.instance, transactional_id=task.name, invoked=invoked))

    def run(self, write: Callable[[str], None], *, commit: bool) -> None:
        """One transaction: ``write`` gets its key and sends. Raises Unsaid if it came to nothing, Replaced if no more can."""
        self._count += 1
        key = f"{self._task.instance}-{self._count}"
        try:
            self.producer.begin_transaction()
            write(key)
            if self.flush():
                raise Unsaid
        except (KafkaException, Unsaid) as failure:
            if isinstance(failure, KafkaException) and error_of(failure).fatal():
                raise self._replaced(failure) from None
            self._abort(key)
            raise Unsaid from None
        if not commit:
            self._abort(key)
            return
        self._commit(key)

    def send_offsets(self, key: str, group: str, topic: str, offsets: dict[int, int], membership: Any) -> None:
        """Offsets in the transaction, on behalf of a member (or of nobody)."""
        self._recorder.write(OffsetsSent(at=now(), transaction=key, group=group, topic=topic, offsets=offsets))
        positions = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        self._retried(lambda: self.producer.send_offsets_to_transaction(positions, membership, CALL_SECONDS))

    def _commit(self, key: str) -> None:
        self._recorder.write(Ending(at=now(), transaction=key, instance=self._task.instance, commit=True))
        try:
            self._retried(lambda: self.producer.commit_transaction(CALL_SECONDS))
        except KafkaException as failure:
            can_abort = error_of(failure).txn_requires_abort()
            self._ended(key, True, "failed" if can_abort else "unknown", failure)
            if not can_abort:
                raise self._replaced(failure) from None
            self._abort(key)
            raise Unsaid from None
        self._ended(key, True, "ok", None)

    def _abort(self, key: str) -> None:
        self._recorder.write(Ending(at=now(), transaction=key, instance=self._task.instance, commit=False))
        try:
            self._retried(lambda: self.producer.abort_transaction(CALL_SECONDS))
        except KafkaException as failure:
            self._ended(key, False, "unknown", failure)
            raise self._replaced(failure) from None
        self._ended(key, False, "ok", None)

    def _ended(self, key: str, commit: bool, outcome: Any, failure: KafkaException | None) -> None:
        error = None if failure is None else words(failure)
        self._recorder.write(Ended(at=now(), transaction=key, commit=commit, outcome=outcome, error=error))

    def _replaced(self, failure: KafkaException) -> Replaced:
        self._recorder.write(Noted(at=now(), who=self._task.instance, what=words(failure)))
        return Replaced()

    def _retried(self, call: Callable[[], None]) -> None:
        """As the client's documentation asks: what is retriable is called again."""
        deadline = now() + COMMIT_SECONDS_MAX
        while True:
            try:
                return call()
            except KafkaException as failure:
                if not error_of(failure).retriable() or now() > deadline:
                    raise


class Worker:
    """One role, played until ``stop`` is set."""

    def __init__(self, task: Task, stop: threading.Event) -> None:
        self.task, self.stop = task, stop
        # A file of its own: the line that a killed instance was writing must not be gone on with by the next.
        self.recorder = Recorder(Path(f"{task.history}.{task.number}.jsonl"))
        self.random = random.Random(f"{task.seed}/{task.instance}")

    def play(self) -> int:
        """The exit code."""
        roles: dict[str, Callable[[], None]] = {
            "append": self.append,
            "plain": self.plain,
            "source": self.append,
            "copy": self.copy,
            "bank": self.bank,
            "offsets": self.offsets,
            "reader": self.read,
        }
        try:
            roles[self.task.role]()
        except Replaced:
            return FENCED
        except KafkaException as failure:
            self.note(words(failure))
            return FENCED
        return 0

    def note(self, what: str) -> None:
        """For the report."""
        self.recorder.write(Noted(at=now(), who=self.task.instance, what=what))

    def pause(self) -> None:
        """Between two steps: mostly nothing, sometimes long enough for others to come between."""
        self.stop.wait(self.random.choice((0, 0, 0.002, 0.01, 0.05)))

    def transactions(self, write: Callable[[Transactor, str], None]) -> None:
        """One after the other; a quarter is aborted."""
        transactor = Transactor(self.task, self.recorder)
        while not self.stop.is_set():
            try:
                transactor.run(lambda key: write(transactor, key), commit=self.random.random() < 0.75)
            except Unsaid:
                continue
            self.pause()

    # -- roles --------------------------------------------------------------------------------------------------------

    def append(self) -> None:
        """One to six records on any partitions."""

        def write(transactor: Transactor, key: str) -> None:
            for _ in range(self.random.randint(1, 6)):
                transactor.send(key, self.task.topics[0], self.random.randrange(self.task.partitions))
            self.pause()

        self.transactions(write)

    def bank(self) -> None:
        """An amount goes from one account to another: two records that add up to nothing."""

        def write(transactor: Transactor, key: str) -> None:
            giver, taker = self.random.sample(range(self.task.partitions), 2)
            amount = self.random.randint(1, 100)
            transactor.send(key, self.task.topics[0], giver, amount=-amount)
            self.pause()
            transactor.send(key, self.task.topics[0], taker, amount=amount)

        self.transactions(write)

    def offsets(self) -> None:
        """A number as a record and as the committed offset of this worker's partition, in one transaction."""
        task = self.task
        outsider = Consumer(settings(task.bootstrap, task.client, group_id=task.group))
        membership = outsider.consumer_group_metadata()
        outsider.close()
        numbers = iter(range(task.number * NUMBERS_APART, (task.number + 1) * NUMBERS_APART))

        def write(transactor: Transactor, key: str) -> None:
            number = next(numbers)
            transactor.send(key, task.topics[0], task.index, number=number)
            transactor.send_offsets(key, task.group, task.topics[0], {task.index: number}, membership)
            self.pause()

        self.transactions(write)

    def plain(self) -> None:
        """Records outside of transactions, by an idempotent producer."""
        sender = Sender(self.task, self.recorder, enable_idempotence=True)
        while not self.stop.wait(0.01):
            for _ in range(self.random.randint(1, 5)):
                sender.send(None, self.task.topics[0], self.random.randrange(self.task.partitions))
            sender.flush()

    def copy(self) -> None:
        """From the source to the target, exactly once."""
        Copier(self).run()

    def read(self) -> None:
        """Every partition from offset 0 on."""
        task = self.task
        reader = Consumer(
            settings(
                task.bootstrap,
                task.client,
                group_id=f"{task.group}-{task.name}",
                isolation_level=task.isolation,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_wait_max_ms=50,
            )
        )
        reader.assign([TopicPartition(topic, index, 0) for topic in task.topics for index in range(task.partitions)])
        while not self.stop.is_set():
            invoked = now()
            records = take(reader, 500, 0.1)
            if records:
                self.recorder.write(
                    Polled(at=now(), reader=task.instance, isolation=task.isolation, invoked=invoked, records=records)
                )
        reader.close()


class Copier:
    """Consume, process, produce: a batch is one transaction with its offsets.

    The membership that offsets are sent with is the one under which their records came, taken when the partitions were
    assigned. Asked for later, a client that has left its group meanwhile gives one that nobody checks (generation -1).
    """

    def __init__(self, worker: Worker) -> None:
        task = self._task = worker.task
        self._worker = worker
        self._membership: Any = None
        self._reader = Consumer(
            settings(
                task.bootstrap,
                task.client,
                group_id=task.group,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_wait_max_ms=50,
                session_timeout_ms=6000,
                heartbeat_interval_ms=1000,
                topic_metadata_refresh_interval_ms=5000,
            )
        )
        self._subscribe()

    def run(self) -> None:
        """Until the worker is told to stop."""
        worker = self._worker
        try:
            transactor = Transactor(self._task, worker.recorder)
            while not worker.stop.is_set():
                records = self._poll()
                if records:
                    commit = worker.random.random() < 0.9
                    try:
                        transactor.run(partial(self._write, transactor, records), commit=commit)
                    except Unsaid:
                        commit = False
                    if not commit:
                        self._rewind()
        finally:
            self._reader.close()

    def _poll(self) -> list[Read]:
        """Records of the present membership only: those that came while it changed are read again."""
        membership = self._membership
        found = take(self._reader, COPY_RECORDS_MAX, 0.1)
        if found and (membership is None or self._membership is not membership):
            self._rewind()
            return []
        return found

    def _write(self, transactor: Transactor, records: Sequence[Read], key: str) -> None:
        source, target = self._task.topics
        offsets: dict[int, int] = {}
        for _, partition, offset, _ in records:
            transactor.send(key, target, partition % self._task.partitions, source=(source, partition, offset))
            offsets[partition] = offset + 1
        transactor.send_offsets(key, self._task.group, source, offsets, self._membership)

    def _subscribe(self) -> None:
        def assigned(reader: Consumer, _partitions: Any) -> None:
            self._membership = reader.consumer_group_metadata()

        def gone(_reader: Consumer, _partitions: Any) -> None:
            self._membership = None

        self._reader.subscribe([self._task.topics[0]], on_assign=assigned, on_revoke=gone, on_lost=gone)

    def _rewind(self) -> None:
        """To the committed offsets. If the assignment changes meanwhile, the next one begins there by itself."""
        assigned = self._reader.assignment()
        if not assigned:
            return
        try:
            for each in self._reader.committed(assigned, timeout=CALL_SECONDS):
                self._reader.seek(TopicPartition(each.topic, each.partition, max(each.offset, 0)))
        except KafkaException:
            self._membership = None
            self._reader.unsubscribe()
            self._subscribe()


def _until_stdin_ends(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main(argument: str) -> int:
    """The exit code of a worker."""
    stop = threading.Event()
    threading.Thread(target=_until_stdin_ends, args=(stop,), daemon=True).start()
    return Worker(msgspec.json.decode(argument, type=Task), stop).play()


if __name__ == "__main__":
    # Librdkafka's threads may wait for brokers that are gone; all that was to be said is in the file.
    os._exit(main(sys.argv[1]))
