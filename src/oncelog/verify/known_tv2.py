"""The published traces, with a client of KIP-890 part 2 (TV2), whose transactions have an epoch each.

No library in Python speaks it, so these are played by raw requests: what is late goes by a connection that is older than all
others, after the client has repeated it and moved on, as if a network had held it. The rest is as in known.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from oncelog.faults.frames import Address
from oncelog.verify.raw import TV2, Connection, RawProducer, coordinator, leader, transaction_version
from oncelog.verify.stage import Judgement, NotApplicable, Stage, must, said

#: The level of ``transaction.version`` that TV2 needs.
_LEVEL: Final = 2


class _Client:
    """A producer that is ready, its connections to the leaders of a topic, and ``late``, which is older than all of them."""

    def __init__(self, producer: RawProducer, topic: str, late: Connection, leaders: list[Connection]) -> None:
        self.producer, self.late = producer, late
        self._topic, self._leaders = topic, leaders

    def send(self, value: bytes, *, partition: int = 0, by: Connection | None = None) -> int:
        """The first record that the transaction at hand has in a partition."""
        connection = by or self._leaders[partition]
        return self.producer.produce(connection, self._topic, partition, value, sequence=0, is_repeated=True)

    def end(self, *, commit: bool) -> int:
        """The epoch that the transaction had, which is over: whatever of it comes now is late."""
        epoch = self.producer.epoch
        must("commit" if commit else "abort", self.producer.end(commit=commit))
        return epoch

    def send_late(self, value: bytes, *, epoch: int, sequence: int) -> int:
        """A record of a transaction that is over arrives."""
        return self.producer.produce(self.late, self._topic, 0, value, sequence=sequence, epoch=epoch)


@contextmanager
def _client(stage: Stage, topic: str, late_at: Address, partitions: int = 1) -> Iterator[_Client]:
    """``late_at``: where what is late arrives."""
    level = transaction_version(stage.address)
    if level < _LEVEL:
        raise NotApplicable(f"the cluster has finalized transaction.version {level}; TV2 is {_LEVEL}")
    with ExitStack() as closing:
        late = closing.enter_context(Connection(late_at))
        producer = RawProducer(stage.address, stage.name, versions=TV2)
        closing.callback(producer.close)
        must("init", producer.init())
        nodes = [leader(stage.address, topic, index) for index in range(partitions)]
        yield _Client(producer, topic, late, [closing.enter_context(Connection(node)) for node in nodes])


def _judged(holds: bool, detail: str) -> tuple[Judgement, str]:
    return "holds" if holds else "violated", detail


def late_commit(stage: Stage) -> tuple[Judgement, str]:
    """A commit arrives again when its client is in the next transaction."""
    topic = stage.topic()
    with _client(stage, topic, coordinator(stage.address, stage.name, is_transaction=True)) as client:
        must("produce", client.send(b"first"))
        epoch = client.end(commit=True)
        must("produce", client.send(b"to be aborted"))
        answer = said(client.producer.end_late(client.late, epoch, commit=True))
        told = said(client.producer.end(commit=False))
    read = stage.values(topic)
    return _judged(read == ["first"], f"late commit {answer}; abort {told}; read: {', '.join(read)}")


def late_abort(stage: Stage) -> tuple[Judgement, str]:
    """An abort arrives again when its client is in the next transaction."""
    topic = stage.topic(2)
    with _client(stage, topic, coordinator(stage.address, stage.name, is_transaction=True), 2) as client:
        must("produce", client.send(b"aborted"))
        epoch = client.end(commit=False)
        must("produce", client.send(b"half"))
        answer = said(client.producer.end_late(client.late, epoch, commit=False))
        code = client.send(b"other half", partition=1) or client.producer.end(commit=True)
    read = stage.values(topic, (0, 1))
    whole = [] if code else ["half", "other half"]
    return _judged(read == whole, f"late abort {answer}; commit {said(code)}; read: {', '.join(read) or 'nothing'}")


def late_offsets(stage: Stage) -> tuple[Judgement, str]:
    """TxnOffsetCommit arrives again in the next transaction."""
    topic, group = stage.topic(), f"{stage.name}-group"
    with _client(stage, topic, coordinator(stage.address, group, is_transaction=False)) as client:
        must("offset", client.producer.commit_offset(group, topic, 5))
        epoch = client.end(commit=True)
        must("offset", client.producer.commit_offset(group, topic, 9))
        answer = said(client.producer.commit_offset_by(client.late, group, topic, 5, epoch=epoch))
        told = said(client.producer.end(commit=True))
    found = stage.offset(group, topic)
    return _judged(found == 9, f"late offset 5 {answer}; commit of 9 {told}; committed offset {found}")


def late_produce(stage: Stage) -> tuple[Judgement, str]:
    """A batch that its client has repeated arrives again after the commit's marker."""
    topic = stage.topic()
    with _client(stage, topic, leader(stage.address, topic, 0)) as client:
        must("produce", client.send(b"one"))
        epoch = client.end(commit=True)
        stage.settle(topic)
        answer = said(client.send_late(b"one", epoch=epoch, sequence=0))
        if stage.is_stuck(topic):
            return "violated", f"late batch {answer}; it has opened a transaction"
        code = client.send(b"two") or client.producer.end(commit=True)
    read = stage.values(topic)
    expected = ["one"] if code else ["one", "two"]
    return _judged(read == expected, f"late batch {answer}; next transaction {said(code)}; read: {', '.join(read)}")


def hanging_transaction(stage: Stage) -> tuple[Judgement, str]:
    """A batch that was given up arrives after the abort's marker: under TV2 it could begin a transaction by itself."""
    topic = stage.topic()
    with _client(stage, topic, leader(stage.address, topic, 0)) as client:
        must("produce", client.send(b"aborted"))
        epoch = client.end(commit=False)
        stage.settle(topic)
        answer = said(client.send_late(b"given up", epoch=epoch, sequence=1))
    time.sleep(0.5)
    if stage.is_stuck(topic):
        return "violated", f"late batch {answer}: the last stable offset stands still"
    return "holds", f"late batch {answer}; no transaction hangs"


def late_produce_in_next(stage: Stage) -> tuple[Judgement, str]:
    """A batch of an aborted transaction, given up by its client, arrives when the next one has written its partition."""
    return _given_up(stage, is_first=False)


def late_produce_first(stage: Stage) -> tuple[Judgement, str]:
    """The same, before the client has sent any batch of the next transaction."""
    return _given_up(stage, is_first=True)


def _given_up(stage: Stage, *, is_first: bool) -> tuple[Judgement, str]:
    topic, code = stage.topic(), 0
    with _client(stage, topic, leader(stage.address, topic, 0)) as client:
        must("produce", client.send(b"aborted", by=client.late))
        epoch = client.end(commit=False)
        stage.settle(topic)  # before its marker a late batch is aborted with its own transaction
        if is_first:
            code = client.send_late(b"given up", epoch=epoch, sequence=1)
        must("produce", client.send(b"next"))
        if not is_first:
            code = client.send_late(b"given up", epoch=epoch, sequence=1)
        client.end(commit=True)
    read = stage.values(topic)
    return _judged("given up" not in read, f"late batch {said(code)}; read: {', '.join(read)}")


TRACES_TV2: Final[tuple[tuple[str, str, Callable[[Stage], tuple[Judgement, str]]], ...]] = (
    ("a late commit ends the next transaction", "KAFKA-17754", late_commit),
    ("a late abort ends the next transaction", "KAFKA-17754", late_abort),
    ("late offsets join the next transaction", "KAFKA-17754", late_offsets),
    ("a repeated batch arrives after the marker", "KIP-98", late_produce),
    ("a batch given up arrives after the marker", "KIP-890", hanging_transaction),
    ("a batch given up arrives in the next transaction", "KIP-890", late_produce_in_next),
    ("a batch given up arrives first in the next transaction", "KIP-890", late_produce_first),
)
