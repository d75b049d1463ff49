"""Mistakes with ids and processes (1, 2, 3, 18): provoked, and the result counted by an independent reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.apps import CLIENT, Child, copying, counted, done, feed, numbers, once, session, until, until_done
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic
from tests.support.fixtures import TEST_OPTIONS, Broker
from tests.support.proxy import Proxy
from tests.support.raw import RawClient

from oncelog.app import App, FencedByPeer, Out, Record

Unique = Callable[[str], str]

COPIER = """
import sys
from tests.support.apps import session
bootstrap, folder, app, source, target = sys.argv[1:]
with session(bootstrap, folder, app=app, topics=[source], transaction_timeout=120) as running:
    for batch in running:
        with batch.transaction() as tx:
            for record in batch:
                tx.send(target, record.key, record.value)
"""


def make(bootstrap: str, unique: Unique, partitions: int = 3) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


def copier(bootstrap: str, folder: Path, name: str, source: str, target: str, instance: str | None = None) -> App:
    app = App(name, bootstrap, state_folder=folder, instance=instance, client=CLIENT, batch_records=50)

    @app.process(source, to=target)
    def copy(record: Record[bytes, bytes]) -> Out:
        return Out(key=record.key, value=record.value)

    return app


def test_mistake_01_one_transactional_id_for_each_worker(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """Two processes' instances with two workers each on four partitions: four ids, none shared, none for a partition."""
    name, source, target = make(broker.bootstrap, unique, 4)
    values = numbers(1500)
    feed(broker.bootstrap, source, values)
    ids: list[str] = []
    proxy.cut_at_next("init_producer_id", where=lambda request: ids.append(request.transactional_id) is not None)
    one, two = (copier(proxy.bootstrap, tmp_path, name, source, target) for _ in range(2))
    with one.running(workers=2), two.running(workers=2):
        until_done(broker.bootstrap, name, source)
        feed(broker.bootstrap, source, numbers(500, 1500))
        until_done(broker.bootstrap, name, source)
    proxy.clear()
    assert len(ids) == len(set(ids)) == 4
    assert counted(broker.bootstrap, target) == once(numbers(2000))


def test_mistake_02_a_restart_ends_the_transaction_of_the_dead(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """A process dies with its transaction open, whose timeout is two minutes. A restart does not wait for that."""
    name, source, target = make(broker.bootstrap, unique)
    values = numbers(100)
    feed(broker.bootstrap, source, values)
    held = proxy.hold_next("end_txn")
    with Child(COPIER, proxy.bootstrap, str(tmp_path), name, source, target):
        held.wait()
    held.cut()
    with copying(session(broker.bootstrap, tmp_path, app=name, topics=[source]), target):
        until_done(broker.bootstrap, name, source)
    held.release()
    assert counted(broker.bootstrap, target) == once(values), "a reader would wait for an open transaction, in vain"


def test_mistake_03_a_peer_with_the_same_id_is_named_and_does_not_fight_for_ever(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    name, source, target = make(broker.bootstrap, unique)
    feed(broker.bootstrap, source, numbers(200))
    one, two = (copier(broker.bootstrap, tmp_path / side, name, source, target, "pod-0") for side in ("a", "b"))
    running = [one.running()]
    until_done(broker.bootstrap, name, source)
    running.append(two.running())
    feed(broker.bootstrap, source, numbers(200, 200))
    until(lambda: not all(each.is_running for each in running), "one of the two to give up")
    (loser,) = [each for each in running if not each.is_running]
    (winner,) = [each for each in running if each.is_running]
    with pytest.raises(FencedByPeer, match=rf"another process runs as {name}\.pod-0\.0.*{name}.*@.*:\d+ at "):
        loser.wait()
    feed(broker.bootstrap, source, numbers(200, 400))
    until_done(broker.bootstrap, name, source)
    with winner:
        pass
    assert counted(broker.bootstrap, target) == once(numbers(600))


def test_mistake_18_an_expired_id_is_made_again(unique: Unique, tmp_path: Path) -> None:
    """The broker forgets an id that was idle; the next transaction finds that out."""
    options = (*TEST_OPTIONS, "--set", "transactional.id.expiration.ms=1500")
    options += ("--set", "log.retention.check.interval.ms=200")
    with BrokerProcess(tmp_path / "broker", options=options) as broker:
        name, source, target = make(broker.bootstrap, unique)
        feed(broker.bootstrap, source, numbers(100))
        with copying(session(broker.bootstrap, tmp_path, app=name, topics=[source]), target):
            until_done(broker.bootstrap, name, source)
            until(lambda: not transactional_ids(broker.bootstrap), "the broker to forget the id")
            feed(broker.bootstrap, source, numbers(100, 100))
            until_done(broker.bootstrap, name, source)
        assert done(broker.bootstrap, name, source) == (200, 200)
        assert counted(broker.bootstrap, target) == once(numbers(200))


def transactional_ids(bootstrap: str) -> list[str]:
    """What the broker knows."""
    with RawClient(int(bootstrap.rpartition(":")[2])) as client:
        reply = client.call("list_transactions", 0, state_filters=(), producer_id_filters=())
    return [state.transactional_id for state in reply.transaction_states]
