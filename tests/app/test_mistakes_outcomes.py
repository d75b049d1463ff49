"""Mistakes about how a transaction ended (12, 13, 14, 19): provoked, and the result counted by an independent reader."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from tests.support.apps import copying, counted, done, feed, numbers, once, session, until, until_done
from tests.support.confluent import create_topic
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy
from tests.support.raw import until_ended

from oncelog.app import App, Session
from oncelog.app.errors import Fate, blames_a_record, fate_of
from oncelog.app.session import SessionTransaction

Unique = Callable[[str], str]


def make(bootstrap: str, unique: Unique, partitions: int = 2) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


@pytest.mark.parametrize(
    ("code", "fate"),
    [
        (KafkaError.PRODUCER_FENCED, Fate.FENCED),
        (KafkaError.INVALID_PRODUCER_EPOCH, Fate.FENCED),
        (KafkaError._FENCED, Fate.FENCED),
        (KafkaError.INVALID_PRODUCER_ID_MAPPING, Fate.RENEW),
        (KafkaError.INVALID_TXN_STATE, Fate.RENEW),
        (KafkaError.ILLEGAL_GENERATION, Fate.ABORT),
        (KafkaError.UNKNOWN_MEMBER_ID, Fate.ABORT),
        (KafkaError.MSG_SIZE_TOO_LARGE, Fate.ABORT),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Fate.STOP),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, Fate.STOP),
        (KafkaError.UNKNOWN, Fate.RENEW),
    ],
)
def test_mistake_12_every_error_has_one_meaning(code: int, fate: Fate) -> None:
    assert fate_of(KafkaError(code)) is fate
    assert blames_a_record(KafkaError(code)) == (code == KafkaError.MSG_SIZE_TOO_LARGE)


def test_mistake_12_what_looks_fatal_is_recovered(broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path) -> None:
    """The broker times the transaction out and fences the producer: the client calls that fatal; a new producer goes on."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(100))
    held = [proxy.hold_next("txn_offset_commit"), proxy.hold_next("txn_offset_commit")]
    running = session(proxy.bootstrap, tmp_path, app=name, topics=[source], transaction_timeout=1)
    with copying(running, target) as copier:
        for each in held:
            each.wait()
            until_ended(broker.bootstrap, name)
            each.release()
        until_done(broker.bootstrap, name, source)
        assert copier.is_running
    assert counted(broker.bootstrap, target) == once(numbers(100))


@pytest.mark.parametrize("fault", ["lose_reply_of_next", "drop_reply_of_next", "cut_at_next"])
def test_mistake_13_a_commit_without_an_answer(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path, fault: str
) -> None:
    """The commit was done and its answer lost, or it never arrived: both times every record counts once."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(100))
    trap = getattr(proxy, fault)("end_txn")
    client = {"socket.timeout.ms": 1500}
    with copying(session(proxy.bootstrap, tmp_path, app=name, topics=[source], client=client), target):
        trap.wait()
        until_done(broker.bootstrap, name, source)
        feed(broker.bootstrap, source, numbers(100, 100))
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(200))


@pytest.mark.parametrize("is_done", [True, False])
def test_mistake_13_the_committed_offsets_decide(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path, is_done: bool
) -> None:
    """No answer to the commit, and then a fence: whether it was done is read from the offsets."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(100))
    trap = proxy.lose_reply_of_next("end_txn") if is_done else proxy.hold_next("end_txn")
    again = None

    def on_batch(number: int) -> None:
        nonlocal again
        if number == 0 and is_done:
            again = proxy.hold_next("end_txn", where=lambda _: trap.is_sprung)

    running = session(proxy.bootstrap, tmp_path, app=name, topics=[source], instance="i", transaction_timeout=1)
    with copying(running, target, on_batch):
        trap.wait()
        if again is not None:
            again.wait()
            intruder(broker.bootstrap, f"{name}.i.0")
            again.release()
        else:
            until_ended(broker.bootstrap, name)
            trap.release()
        until_done(broker.bootstrap, name, source)
        feed(broker.bootstrap, source, numbers(20, 100))  # processed when the outcome is decided
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(120))


def intruder(bootstrap: str, transactional_id: str) -> None:
    """Somebody takes the id for a moment."""
    from tests.support.confluent import transactional_producer

    transactional_producer(bootstrap, transactional_id)


def test_mistake_14_no_timeout_can_be_passed_to_a_commit(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """There is no parameter for it; and a commit that takes three seconds is waited for."""
    for function in (SessionTransaction.send, SessionTransaction.__exit__, Session.__init__, App.__init__, App.run):
        names = set(inspect.signature(function).parameters)
        assert not [name for name in names if "timeout" in name and name != "transaction_timeout"]
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(50))
    late = proxy.delay_next("end_txn", 3)
    taken: list[bytes | None] = []
    with session(proxy.bootstrap, tmp_path, app=name, topics=[source]) as running:
        for batch in running:
            with batch.transaction() as tx:
                for record in batch:
                    taken.append(record.value)
                    tx.send(target, record.key, record.value)
            if done(broker.bootstrap, name, source) == (50, 50):
                running.stop()
    assert late.is_sprung
    assert len(taken) == 50, "a slow commit was taken for one that has failed"
    assert counted(broker.bootstrap, target) == once(numbers(50))


def test_mistake_19_a_late_commit_meets_no_later_transaction(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """A commit is stuck in the network while the client reconnects, commits again and moves on; then it arrives, in the

    middle of a transaction that is going to be aborted. Before that transaction the producer was made anew (KAFKA-17754).
    """
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(10))
    late = proxy.hold_next("end_txn")
    stages: list[Any] = []

    def on_batch(number: int) -> None:
        if number == 1 and not stages:
            stages.append("released")
            until(lambda: late.is_sprung, "the late commit")

    running = session(proxy.bootstrap, tmp_path, app=name, topics=[source])
    with copying(running, target, on_batch):
        late.wait()
        late.cut()
        until_done(broker.bootstrap, name, source)
        before = apis(proxy)
        second = proxy.hold_next("txn_offset_commit")
        feed(broker.bootstrap, source, numbers(10, 10))
        second.wait()  # the next transaction is open, with all its records sent
        late.release()
        assert late.reply() is None or late.reply().error_code != 0, "the late commit was taken"
        second.release()
        until_done(broker.bootstrap, name, source)
    after = apis(proxy)[len(before) :]
    assert "init_producer_id" in after[: after.index("txn_offset_commit")], "the same epoch was used again"
    assert counted(broker.bootstrap, target) == once(numbers(20))


def apis(proxy: Proxy) -> list[str]:
    return [api for _, api in proxy.seen]
