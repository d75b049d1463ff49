"""The published traces, with a client of KIP-890 part 2 (TV2), whose transactions have an epoch each.

No library in Python speaks it, so these are played by raw requests: what is late goes by a connection that is older than all
others, after the client has repeated it and moved on, as if a network had held it. The rest is as in known.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from oncelog.verify.raw import TV2, Connection, RawProducer, coordinator, leader, transaction_version
from oncelog.verify.stage import Judgement, NotApplicable, Stage, must, said

#: The level of ``transaction.version`` that TV2 needs.
_LEVEL: Final = 2


@contextmanager
def _producer(stage: Stage) -> Iterator[RawProducer]:
    """A producer that is ready."""
    level = transaction_version(stage.address)
    if level < _LEVEL:
        raise NotApplicable(f"the cluster has finalized transaction.version {level}; TV2 is {_LEVEL}")
    producer = RawProducer(stage.address, stage.name, versions=TV2)
    try:
        must("init", producer.init())
        yield producer
    finally:
        producer.close()


def late_commit(stage: Stage) -> tuple[Judgement, str]:
    """A commit arrives again when its client is in the next transaction."""
    topic = stage.topic()
    with (
        Connection(coordinator(stage.address, stage.name, is_transaction=True)) as late,
        _producer(stage) as producer,
        Connection(leader(stage.address, topic, 0)) as writer,
    ):
        epoch = producer.epoch
        must("produce", producer.produce(writer, topic, 0, b"first", sequence=0, is_repeated=True))
        must("commit", producer.end(commit=True))
        must("produce", producer.produce(writer, topic, 0, b"to be aborted", sequence=0, is_repeated=True))
        answer = said(producer.end_late(late, epoch, commit=True))
        told = said(producer.end(commit=False))
    read = stage.values(topic)
    return (
        "holds" if read == ["first"] else "violated"
    ), f"late commit {answer}; abort {told}; read: {', '.join(read)}"


def late_abort(stage: Stage) -> tuple[Judgement, str]:
    """An abort arrives again when its client is in the next transaction."""
    topic = stage.topic(2)
    with (
        Connection(coordinator(stage.address, stage.name, is_transaction=True)) as late,
        _producer(stage) as producer,
        Connection(leader(stage.address, topic, 0)) as writer,
        Connection(leader(stage.address, topic, 1)) as other,
    ):
        epoch = producer.epoch
        must("produce", producer.produce(writer, topic, 0, b"aborted", sequence=0, is_repeated=True))
        must("abort", producer.end(commit=False))
        must("produce", producer.produce(writer, topic, 0, b"half", sequence=0, is_repeated=True))
        answer = said(producer.end_late(late, epoch, commit=False))
        code = producer.produce(other, topic, 1, b"other half", sequence=0, is_repeated=True)
        told = said(code or producer.end(commit=True))
    read = stage.values(topic, (0, 1))
    whole: list[str] = [] if told.startswith("refused") else ["half", "other half"]
    return (
        "holds" if read == whole else "violated"
    ), f"late abort {answer}; commit {told}; read: {', '.join(read) or 'nothing'}"


def late_offsets(stage: Stage) -> tuple[Judgement, str]:
    """TxnOffsetCommit arrives again in the next transaction."""
    topic, group = stage.topic(), f"{stage.name}-group"
    with Connection(coordinator(stage.address, group, is_transaction=False)) as late, _producer(stage) as producer:
        epoch = producer.epoch
        must("offset", producer.commit_offset(group, topic, 5))
        must("commit", producer.end(commit=True))
        must("offset", producer.commit_offset(group, topic, 9))
        answer = said(producer.commit_offset_by(late, group, topic, 5, epoch=epoch))
        told = said(producer.end(commit=True))
    found = stage.offset(group, topic)
    return (
        "holds" if found == 9 else "violated"
    ), f"late offset 5 {answer}; commit of 9 {told}; committed offset {found}"


def late_produce(stage: Stage) -> tuple[Judgement, str]:
    """A batch that its client has repeated arrives again after the commit's marker."""
    topic = stage.topic()
    with (
        Connection(leader(stage.address, topic, 0)) as late,
        _producer(stage) as producer,
        Connection(leader(stage.address, topic, 0)) as writer,
    ):
        epoch = producer.epoch
        must("produce", producer.produce(writer, topic, 0, b"one", sequence=0, is_repeated=True))
        must("commit", producer.end(commit=True))
        stage.settle(topic)
        answer = said(producer.produce(late, topic, 0, b"one", sequence=0, epoch=epoch))
        if stage.is_stuck(topic):
            return "violated", f"late batch {answer}; it has opened a transaction"
        code = producer.produce(writer, topic, 0, b"two", sequence=0, is_repeated=True)
        told = said(code or producer.end(commit=True))
    read = stage.values(topic)
    expected = ["one"] if told.startswith("refused") else ["one", "two"]
    return (
        "holds" if read == expected else "violated"
    ), f"late batch {answer}; next transaction {told}; read: {', '.join(read)}"


def hanging_transaction(stage: Stage) -> tuple[Judgement, str]:
    """A batch that was given up arrives after the abort's marker: under TV2 it could begin a transaction by itself."""
    topic = stage.topic()
    with (
        Connection(leader(stage.address, topic, 0)) as late,
        _producer(stage) as producer,
        Connection(leader(stage.address, topic, 0)) as writer,
    ):
        epoch = producer.epoch
        must("produce", producer.produce(writer, topic, 0, b"aborted", sequence=0, is_repeated=True))
        must("abort", producer.end(commit=False))
        stage.settle(topic)
        code = producer.produce(late, topic, 0, b"given up", sequence=1, epoch=epoch)
    time.sleep(0.5)
    if stage.is_stuck(topic):
        return "violated", f"late batch {said(code)}: the last stable offset stands still"
    return "holds", f"late batch {said(code)}; no transaction hangs"


def late_produce_in_next(stage: Stage) -> tuple[Judgement, str]:
    """A batch of an aborted transaction, given up by its client, arrives when the next one has written its partition."""
    return _given_up(stage, is_first=False)


def late_produce_first(stage: Stage) -> tuple[Judgement, str]:
    """The same, before the client has sent any batch of the next transaction."""
    return _given_up(stage, is_first=True)


def _given_up(stage: Stage, *, is_first: bool) -> tuple[Judgement, str]:
    topic = stage.topic()
    with (
        Connection(leader(stage.address, topic, 0)) as late,
        _producer(stage) as producer,
        Connection(leader(stage.address, topic, 0)) as writer,
    ):
        epoch, code = producer.epoch, 0
        must("produce", producer.produce(late, topic, 0, b"aborted", sequence=0, is_repeated=True))
        must("abort", producer.end(commit=False))
        stage.settle(topic)  # before its marker a late batch is aborted with its own transaction
        if is_first:
            code = producer.produce(late, topic, 0, b"given up", sequence=1, epoch=epoch)
        must("produce", producer.produce(writer, topic, 0, b"next", sequence=0, is_repeated=True))
        if not is_first:
            code = producer.produce(late, topic, 0, b"given up", sequence=1, epoch=epoch)
        must("commit", producer.end(commit=True))
    read = stage.values(topic)
    return ("violated" if "given up" in read else "holds"), f"late batch {said(code)}; read: {', '.join(read)}"


TRACES_TV2: Final[tuple[tuple[str, str, Callable[[Stage], tuple[Judgement, str]]], ...]] = (
    ("a late commit ends the next transaction", "KAFKA-17754", late_commit),
    ("a late abort ends the next transaction", "KAFKA-17754", late_abort),
    ("late offsets join the next transaction", "KAFKA-17754", late_offsets),
    ("a repeated batch arrives after the marker", "KIP-98", late_produce),
    ("a batch given up arrives after the marker", "KIP-890", hanging_transaction),
    ("a batch given up arrives in the next transaction", "KIP-890", late_produce_in_next),
    ("a batch given up arrives first in the next transaction", "KIP-890", late_produce_first),
)
