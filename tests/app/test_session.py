"""The thin line: batches, transactions, rewinds, and crashes of client and broker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.apps import Child, copying, counted, done, feed, numbers, once, session, until, until_done
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import committed, create_topic
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy

from oncelog.app import ConfigurationError

Unique = Callable[[str], str]

COPIER = """
import sys, logging
from tests.support.apps import session
logging.basicConfig(level=logging.INFO)
bootstrap, folder, app, source, target = sys.argv[1:]
with session(bootstrap, folder, app=app, topics=[source], batch_records=20) as running:
    for batch in running:
        with batch.transaction() as tx:
            for record in batch:
                tx.send(target, record.key, record.value)
"""


def topics(broker: Broker, unique: Unique, partitions: int = 3) -> tuple[str, str, str]:
    """Names of an app, of its source and of its target."""
    for name in ("in", "out"):
        create_topic(broker.bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


def test_everything_is_copied_once(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    app, source, target = topics(broker, unique)
    values = numbers(2500)
    feed(broker.bootstrap, source, values)
    with copying(session(broker.bootstrap, tmp_path, app=app, topics=[source]), target):
        until_done(broker.bootstrap, app, source)
    assert counted(broker.bootstrap, target) == once(values)


def test_an_error_in_the_body_aborts_and_the_batch_comes_again(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    app, source, target = topics(broker, unique)
    values = numbers(50)
    feed(broker.bootstrap, source, values)
    failures = 0
    seen: list[bytes | None] = []
    with session(broker.bootstrap, tmp_path, app=app, topics=[source]) as running:
        for batch in running:
            try:
                with batch.transaction() as tx:
                    for record in batch:
                        tx.send(target, record.key, record.value)
                        seen.append(record.value)
                    if failures < 3:
                        failures += 1
                        raise ValueError("not today")
            except ValueError:
                continue
            if counted(broker.bootstrap, target) == once(values):
                running.stop()
    assert failures == 3
    assert len(seen) > len(values), "nothing came again"
    assert counted(broker.bootstrap, target) == once(values)


def test_an_error_leaves_the_loop_with_nothing_done(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    app, source, target = topics(broker, unique, 1)
    feed(broker.bootstrap, source, numbers(5))
    with (
        pytest.raises(ZeroDivisionError),
        session(broker.bootstrap, tmp_path, app=app, topics=[source]) as running,
    ):
        for batch in running:
            with batch.transaction() as tx:
                for record in batch:
                    tx.send(target, record.key, record.value)
                raise ZeroDivisionError
    assert counted(broker.bootstrap, target) == {}
    assert committed(broker.bootstrap, app, source, [0]) == {0: -1001}


def test_a_batch_without_its_transaction_is_refused(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    app, source, _ = topics(broker, unique, 1)
    feed(broker.bootstrap, source, numbers(5))
    with (
        pytest.raises(ConfigurationError, match="without `with batch"),
        session(broker.bootstrap, tmp_path, app=app, topics=[source]) as running,
    ):
        for _ in running:
            pass


def test_a_missing_topic_is_named(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=unique("nowhere")),
        session(broker.bootstrap, tmp_path, app=unique("app"), topics=[unique("nowhere")]),
    ):
        pass


@pytest.mark.parametrize(
    "api", ["produce", "add_offsets_to_txn", "txn_offset_commit", "end_txn", "add_partitions_to_txn"]
)
@pytest.mark.parametrize("fault", ["cut_at_next", "lose_reply_of_next"])
def test_cut_connections_change_nothing(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path, api: str, fault: str
) -> None:
    app, source, target = topics(broker, unique)
    values = numbers(200)
    feed(broker.bootstrap, source, values)
    traps = []

    def spring(number: int) -> None:
        if number < 2:
            traps.append(getattr(proxy, fault)(api))

    running = session(proxy.bootstrap, tmp_path, app=app, topics=[source], batch_records=40)
    with copying(running, target, spring):
        until_done(broker.bootstrap, app, source)
    assert traps
    assert all(trap.is_sprung for trap in traps)
    assert counted(broker.bootstrap, target) == once(values)


def test_a_killed_process_loses_and_repeats_nothing(own_broker: BrokerProcess, unique: Unique, tmp_path: Path) -> None:
    app, source, target = topics(own_broker, unique)
    arguments = (own_broker.bootstrap, str(tmp_path / "state"), app, source, target)
    seeded = random.Random(7)
    for number in range(4):
        before, _ = done(own_broker.bootstrap, app, source)
        feed(own_broker.bootstrap, source, numbers(500, 500 * number))
        with Child(COPIER, *arguments):
            until(lambda: done(own_broker.bootstrap, app, source)[0] > before, "progress")  # noqa: B023
            time.sleep(seeded.random() * 0.05)
    with Child(COPIER, *arguments) as last:
        until_done(own_broker.bootstrap, app, source)
        assert last.terminate() == -15
    assert counted(own_broker.bootstrap, target) == once(numbers(2000))


def test_a_killed_broker_loses_and_repeats_nothing(own_broker: BrokerProcess, unique: Unique, tmp_path: Path) -> None:
    app, source, target = topics(own_broker, unique)
    values = numbers(3000)
    feed(own_broker.bootstrap, source, values)
    batches: list[int] = []
    running = session(own_broker.bootstrap, tmp_path / "state", app=app, topics=[source], batch_records=20)
    with copying(running, target, batches.append):
        for wanted in (5, 30, 60):
            until(lambda: len(batches) >= wanted, f"{wanted} batches")  # noqa: B023
            own_broker.restart()
        until_done(own_broker.bootstrap, app, source)
    assert counted(own_broker.bootstrap, target) == once(values)
