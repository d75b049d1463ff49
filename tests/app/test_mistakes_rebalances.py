"""Mistakes in and around rebalances (8, 9, 10, 11, 15): provoked, and the result counted by an independent reader."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.apps import (
    CLIENT,
    Child,
    copying,
    counted,
    done,
    feed,
    numbers,
    once,
    session,
    until,
    until_done,
)
from tests.support.confluent import create_topic, read_all, transactional_producer
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy

from oncelog.app import App, Batch, Out, Record
from oncelog.app.errors import Undone
from oncelog.app.intake import GroupPositions, Intake, generation_of
from oncelog.app.settings import Cluster, Limits

Unique = Callable[[str], str]


def make(bootstrap: str, unique: Unique, partitions: int = 4) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


def slow_copier(bootstrap: str, folder: Path, name: str, source: str, target: str, instance: str) -> App:
    app = App(name, bootstrap, state_folder=folder, instance=instance, client=CLIENT)

    @app.process(source, to=target)
    def copy(record: Record[bytes, bytes]) -> Out:
        time.sleep(0.01)
        return Out(key=record.key, value=record.value)

    return app


def test_mistake_08_a_rebalance_in_the_middle_of_batches(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Members come and go while handlers run; partitions are handed over with their batches finished."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(800))
    one, two, three = (slow_copier(broker.bootstrap, tmp_path / i, name, source, target, i) for i in ("a", "b", "c"))
    with one.running(workers=2):
        until(lambda: done(broker.bootstrap, name, source)[0] > 50, "the first to work")
        with two.running():
            until(lambda: done(broker.bootstrap, name, source)[0] > 250, "both to work")
            with three.running():
                until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(800))


def test_mistake_08_a_revoked_partition_waits_for_its_batch(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """The group wants half of the partitions while a batch with records of all is in hand: it is finished, not run twice."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(40))
    one, two = (App(name, broker.bootstrap, state_folder=tmp_path / i, instance=i, client=CLIENT) for i in ("a", "b"))
    entered, leave = threading.Event(), threading.Event()
    calls: Counter[str] = Counter()

    for app in (one, two):

        @app.process(source, to=target)
        def together(batch: Batch[Record[str, str]]) -> list[Out]:
            calls.update(record.value for record in batch)
            entered.set()
            assert leave.wait(30)
            return [Out(key=record.key, value=record.value) for record in batch]

    with one.running():
        assert entered.wait(30)
        with two.running():
            time.sleep(2)  # the second has asked to join, and the first was told to give partitions back
            leave.set()
            until_done(broker.bootstrap, name, source)
    assert calls == once(numbers(40)), "a batch was thrown away that could have been finished"
    assert counted(broker.bootstrap, target) == once(numbers(40))


FROZEN = """
import sys, time, pathlib
from tests.support.apps import session
bootstrap, folder, app, source, target = sys.argv[1:]
with session(bootstrap, folder, app=app, topics=[source], instance="frozen", transaction_timeout=60) as running:
    for batch in running:
        with batch.transaction() as tx:
            for record in batch:
                tx.send(target, record.key, record.value)
            print("taken", flush=True)
            pathlib.Path(folder, "taken").touch()
            while not pathlib.Path(folder, "go").exists():
                time.sleep(0.02)
"""


def test_mistake_09_a_member_of_yesterday_commits_nothing(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """A worker is frozen in mid-batch until the group has given its partitions to another; then it wakes and commits."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(100))
    with Child(FROZEN, broker.bootstrap, str(tmp_path), name, source, target) as zombie:
        until((tmp_path / "taken").exists, "the batch to be taken")
        os.kill(zombie.process.pid, signal.SIGSTOP)
        with copying(session(broker.bootstrap, tmp_path, app=name, topics=[source], instance="next"), target):
            until_done(broker.bootstrap, name, source)
            (tmp_path / "go").touch()
            os.kill(zombie.process.pid, signal.SIGCONT)
            feed(broker.bootstrap, source, numbers(100, 100))
            until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(200))


def test_mistake_09_no_generation_no_commit(broker: Broker, unique: Unique) -> None:
    """Before the join there is no generation; brokers would accept that without a check, so it is refused here."""
    settings = Cluster(broker.bootstrap).for_consumer(client_id="c", group=unique("app"), instance="i")
    intake = Intake(settings, ["t"], Limits(), GroupPositions(), threading.Event())
    assert generation_of(intake._metadata) == -1
    with pytest.raises(Undone, match="out of the group"):
        intake.metadata({})
    with pytest.raises(Undone, match="handed over"):
        intake.metadata({("t", 0): 1})
    intake._consumer.close()


def test_mistake_10_an_old_generation_is_no_reason_to_crash(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """Offsets are on their way while the group moves on; the broker answers ILLEGAL_GENERATION, and the worker goes on."""
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(200))
    held = proxy.hold_next("txn_offset_commit")
    running = session(proxy.bootstrap, tmp_path, app=name, topics=[source], instance="a", transaction_timeout=60)
    running._limits = replace(running._limits, revoke_budget=0.5)
    with copying(running, target) as first:
        held.wait()
        with copying(session(broker.bootstrap, tmp_path, app=name, topics=[source], instance="b"), target):
            until(
                lambda: not running._exchange._intake.must_hurry and done(broker.bootstrap, name, source)[0] > 0,
                "b to work",
            )  # type: ignore[union-attr]
            held.release()
            until_done(broker.bootstrap, name, source)
            feed(broker.bootstrap, source, numbers(200, 200))
            until_done(broker.bootstrap, name, source)
        assert first.is_running
    reply = held.reply()
    codes = {partition.error_code for topic in reply.topics for partition in topic.partitions}
    assert {int(code) for code in codes} == {22}, "ILLEGAL_GENERATION was not provoked"
    assert counted(broker.bootstrap, target) == once(numbers(400))


def test_mistake_11_a_handler_may_take_longer_than_any_timeout(
    broker: Broker, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourteen seconds for one record, with a session timeout and a poll interval of six and a transaction timeout of one.

    A member that does not poll is silent from the sixth second on, and given up in the twelfth.
    """
    name, source, target = make(broker.bootstrap, unique, 1)
    for_consumer = Cluster.for_consumer

    def short(self: Cluster, **names: str) -> dict[str, Any]:
        return {**for_consumer(self, **names), "max.poll.interval.ms": 6000}

    monkeypatch.setattr(Cluster, "for_consumer", short)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, transaction_timeout=5)
    calls: Counter[str] = Counter()

    @app.process(source, to=target)
    def slow(record: Record[str, str]) -> Out:
        calls[record.value] += 1
        if record.value == "n1":
            time.sleep(14)
        return Out(key=record.key, value=record.value)

    feed(broker.bootstrap, source, numbers(4))
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert calls == once(numbers(4)), "a timeout made the batch come again"
    assert counted(broker.bootstrap, target) == once(numbers(4))


def test_mistake_15_no_transaction_is_open_while_a_handler_runs(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """While one app's handler takes its time, readers of the target see what others commit there."""
    name, source, target = make(broker.bootstrap, unique, 1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    entered, leave = threading.Event(), threading.Event()

    @app.process(source, to=target)
    def wait(record: Record[str, str]) -> list[Out]:
        outs = [Out(key=record.key, value=record.value)]
        if record.value == "n1":
            entered.set()
            assert leave.wait(30)
        return outs

    feed(broker.bootstrap, source, numbers(2))
    with app.running():
        assert entered.wait(30)
        other = transactional_producer(broker.bootstrap, unique("other"))
        other.begin_transaction()
        other.produce(target, b"of another")
        other.commit_transaction(30)
        visible = [message.value() for message in read_all(broker.bootstrap, target)]
        leave.set()
        until_done(broker.bootstrap, name, source)
    assert visible == [b"of another"], "the stable offset was held back"
    assert counted(broker.bootstrap, target) == once(["of another", *numbers(2)])
