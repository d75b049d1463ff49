"""Mistakes with offsets and failures (4, 5, 6, 7, 16, 17): provoked, and the result counted by an independent reader."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sql
from tests.support.apps import CLIENT, counted, feed, numbers, once, session, until, until_done
from tests.support.confluent import committed, create_topic
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy
from tests.support.raw import until_ended

from oncelog.app import App, Batch, ConfigurationError, Context, Out, Record, Retry, Session, schema
from oncelog.app.session import SessionBatch, SessionTransaction

Unique = Callable[[str], str]


def make(bootstrap: str, unique: Unique, *names: str, partitions: int = 3) -> tuple[str, ...]:
    return unique("app"), *(create_topic(bootstrap, unique(name), partitions) for name in names)


def test_mistake_04_nothing_commits_offsets_outside_the_transaction(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """Auto-commit can't be turned on, no method commits, and a batch that fails late leaves no offset behind."""
    name, source, target = make(broker.bootstrap, unique, "in", "out", partitions=1)
    for setting in ("enable.auto.commit", "enable.auto.offset.store", "group.id", "transactional.id"):
        with pytest.raises(ConfigurationError, match="is not yours to give"):
            Session(bootstrap="b:1", app="a", topics=["t"], client={setting: "x"})
    for kind in (Session, SessionBatch, SessionTransaction, App):
        public = [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]
        assert [name for name in public if "commit" in name or "offset" in name] == []
    feed(broker.bootstrap, source, numbers(10))
    with (
        pytest.raises(RuntimeError),
        session(broker.bootstrap, tmp_path, app=name, topics=[source]) as running,
    ):
        for batch in running:
            with batch.transaction() as tx:
                for record in batch:
                    tx.send(target, record.key, record.value)
                time.sleep(6)  # longer than the interval of auto-commit
                raise RuntimeError
    assert committed(broker.bootstrap, name, source, [0]) == {0: -1001}
    assert counted(broker.bootstrap, target) == {}


def test_mistake_05_offsets_come_from_processed_records_only(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """The body takes three records of each batch and leaves: the next batch begins with the fourth; all count once."""
    name, source, target = make(broker.bootstrap, unique, "in", "out", partitions=1)
    values = numbers(20)
    feed(broker.bootstrap, source, values)
    taken: list[int] = []

    def take_three(batch: SessionBatch, send: Callable[..., None]) -> None:
        for number, record in enumerate(batch):
            send(target, record.key, record.value)
            if number == 2:
                break

    with session(broker.bootstrap, tmp_path, app=name, topics=[source]) as running:
        for batch in running:
            with batch.transaction() as tx:
                take_three(batch, tx.send)
            (offset,) = committed(broker.bootstrap, name, source, [0]).values()
            taken.append(offset)
            if offset == 20:
                running.stop()
    assert taken == [3, 6, 9, 12, 15, 18, 20]
    assert counted(broker.bootstrap, target) == once(values)


def test_mistake_06_after_an_abort_the_records_come_again(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Every batch fails once: the first one too, when nothing is committed yet."""
    name, source, target = make(broker.bootstrap, unique, "in", "out")
    values = numbers(100)
    feed(broker.bootstrap, source, values)
    fails = True
    failures = 0
    with session(broker.bootstrap, tmp_path, app=name, topics=[source], batch_records=30) as running:
        for batch in running:
            fails = not fails
            try:
                with batch.transaction() as tx:
                    for record in batch:
                        tx.send(target, record.key, record.value)
                    if not fails:
                        raise ValueError("every other time")
            except ValueError:
                failures += 1
            else:
                if (
                    sum(max(0, offset) for offset in committed(broker.bootstrap, name, source, [0, 1, 2]).values())
                    == 100
                ):
                    running.stop()
    assert failures >= 4
    assert counted(broker.bootstrap, target) == once(values)


@pytest.mark.parametrize("in_batches", [False, True])
def test_mistake_07_only_the_poison_record_is_put_aside(
    broker: Broker, unique: Unique, tmp_path: Path, in_batches: bool
) -> None:
    """One bad record in a batch of a hundred, with a handler of single records and with one of whole batches."""
    name, source, target, dead = make(broker.bootstrap, unique, "in", "out", "dead", partitions=1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    sizes: list[int] = []

    def single(record: Record[str, str]) -> Out:
        if record.value == "n50":
            raise ValueError
        return Out(key=record.key, value=record.value)

    def together(batch: Batch[Record[str, str]]) -> list[Out]:
        sizes.append(len(batch))
        return [single(record) for record in batch]

    feed(broker.bootstrap, source, numbers(100))
    app.process(source, to=target, retry=Retry(2, 0.01), dead_letter=dead)(together if in_batches else single)
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once([value for value in numbers(100) if value != "n50"])
    assert counted(broker.bootstrap, dead) == {"n50": 1}
    assert not in_batches or max(sizes) > 50, "there was no batch to lose"


def test_mistake_16_effects_go_through_sinks(broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path) -> None:
    """Handlers run more than once (a transaction is made to fail); the effect in the database is there once."""
    name, source, target = make(broker.bootstrap, unique, "in", "out", partitions=1)
    url = f"sqlite:///{tmp_path / 'effects.db'}"
    engine = schema.engine_of(url)
    schema.create(engine)
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE mails (recipient TEXT)"))
    app = App(name, proxy.bootstrap, state_folder=tmp_path, client=CLIENT, transaction_timeout=1)
    calls: Counter[str] = Counter()

    @app.process(source, to=target)
    def decide(record: Record[str, str], ctx: Context) -> Out:
        assert not [word for word in dir(ctx) if word in {"producer", "consumer", "commit", "connection", "send"}]
        calls[record.value] += 1
        return Out(key=record.key, value=record.value)

    @app.sink(target, database=url)
    def mail(record: Record[str, str], db: sql.Connection) -> None:
        db.execute(sql.text("INSERT INTO mails VALUES (:who)"), {"who": record.value})

    feed(broker.bootstrap, source, numbers(20))
    held = proxy.hold_next("txn_offset_commit", where=lambda request: request.transactional_id.startswith(name))

    def mails() -> list[str]:
        with engine.begin() as db:
            return sorted(db.execute(sql.text("SELECT recipient FROM mails")).scalars())

    with app.running():
        held.wait()
        until_ended(broker.bootstrap, name)
        held.release()
        until(lambda: mails() == sorted(numbers(20)), "twenty mails")
    assert max(calls.values()) > 1, "no handler ran twice"
    assert mails() == sorted(numbers(20))
    engine.dispose()


def test_mistake_17_dead_letters_are_part_of_the_transaction(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """The transaction with the dead letter is made to fail: afterwards there is one dead letter, not two."""
    name, source, target, dead = make(broker.bootstrap, unique, "in", "out", "dead", partitions=1)
    app = App(name, proxy.bootstrap, state_folder=tmp_path, client=CLIENT, transaction_timeout=1)
    calls: Counter[str] = Counter()

    @app.process(source, to=target, retry=1, dead_letter=dead)
    def pick(record: Record[str, str]) -> Out:
        calls[record.value] += 1
        if record.value == "n3":
            raise ValueError
        return Out(key=record.key, value=record.value)

    feed(broker.bootstrap, source, numbers(8))
    held = proxy.hold_next("txn_offset_commit")
    with app.running():
        held.wait()
        until_ended(broker.bootstrap, name)
        held.release()
        until_done(broker.bootstrap, name, source)
    assert calls["n3"] > 1, "the transaction did not fail"
    assert counted(broker.bootstrap, dead) == {"n3": 1}
    assert counted(broker.bootstrap, target) == once([value for value in numbers(8) if value != "n3"])
