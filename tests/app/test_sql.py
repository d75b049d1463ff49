"""Sinks and outboxes on SQLite and on a real PostgreSQL: killed at every step, frozen, cut off; counted afterwards."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sql
from tests.support.apps import CLIENT, Child, counted, feed, numbers, once, until
from tests.support.confluent import create_topic, read_all
from tests.support.fixtures import Broker
from tests.support.postgres import database, engine, postgres, postgres_database, stored
from tests.support.proxy import Proxy

from oncelog.app import App, ConfigurationError, PoisonRecord, Record, Retry, schema

__all__ = ["database", "engine", "postgres", "postgres_database"]

Unique = Callable[[str], str]

#: A child that dies by SIGKILL when it comes to a method for the third time (or another): before or after it.
CRASHING = """
import importlib, os, signal, sys
def crash(where, when, times="3"):
    module, owner, name = where.split(":")
    holder = getattr(importlib.import_module(module), owner)
    real, calls = getattr(holder, name), []
    def dying(*words, **named):
        calls.append(1)
        if len(calls) == int(times) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*words, **named)
        if len(calls) == int(times) and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(holder, name, dying)
"""
SINK = (
    CRASHING
    + """
from oncelog.app import App, Record
from tests.support.apps import CLIENT
import sqlalchemy as sql
bootstrap, folder, name, source, url, step = sys.argv[1:]
if step != "none":
    crash(*step.split("@"))
app = App(name, bootstrap, state_folder=folder, client=CLIENT, batch_records=10)
@app.sink(source, database=url)
def store(record: Record[str, str], db):
    db.execute(sql.text("INSERT INTO stored VALUES (:value)"), {"value": record.value})
app.run()
"""
)
RELAY = (
    CRASHING
    + """
from oncelog.app import App
from tests.support.apps import CLIENT
bootstrap, folder, name, target, url, step = sys.argv[1:]
if step != "none":
    crash(*step.split("@"))
app = App(name, bootstrap, state_folder=folder, client=CLIENT)
app.outbox(target, database=url, table="outbox")
app.run()
"""
)


SINK_STEPS = [
    "oncelog.app.handlers:Handler:call@after",
    "oncelog.app.sinks:DatabasePositions:advance@before",
    "oncelog.app.sinks:DatabasePositions:advance@after",
    "oncelog.app.sinks:DatabasePositions:advanced@before",
    "oncelog.app.intake:Intake:settle@after",
]


def test_a_sink_killed_at_every_step_stores_once(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    source = create_topic(broker.bootstrap, unique("in"), 2)
    arguments = (broker.bootstrap, str(tmp_path / "state"), unique("app"), source, database)
    for number, step in enumerate(SINK_STEPS):
        feed(broker.bootstrap, source, numbers(60, 60 * number))
        with Child(SINK, *arguments, step) as child:
            assert child.wait() == -signal.SIGKILL, child.err
    values = numbers(60 * len(SINK_STEPS) + 60)
    feed(broker.bootstrap, source, values[-60:])
    with Child(SINK, *arguments, "none") as last:
        until(lambda: sum(stored(engine).values()) >= len(values), "everything to be stored")
        assert last.terminate() == 0, last.err
    assert stored(engine) == once(values)


def sink(bootstrap: str, folder: Path, name: str, source: str, url: str, **given: object) -> App:
    app = App(name, bootstrap, state_folder=folder, client=CLIENT, batch_records=10)

    @app.sink(source, database=url, **given)  # type: ignore[arg-type]
    def store(record: Record[str, str], db: sql.Connection) -> None:
        if record.value == "bad":
            raise ValueError("bad")
        db.execute(sql.text("INSERT INTO stored VALUES (:value)"), {"value": record.value})

    return app


def test_a_frozen_sink_can_not_store_after_its_successor(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str
) -> None:
    """In the middle of a batch, another stores the same records: the compare-and-set finds no row, all is rolled back."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine)
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE stored (value TEXT)"))
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = sink(broker.bootstrap, tmp_path, unique("app"), source, postgres_database)
    handler = app.topology.sinks[0].handler
    real = handler.function
    entered, leave = threading.Event(), threading.Event()

    def stuck(record: Record[str, str], db: sql.Connection) -> None:
        entered.set()
        assert leave.wait(60)
        real(record, db)

    handler.function = stuck
    feed(broker.bootstrap, source, numbers(30))
    with app.running() as running:
        assert entered.wait(30)
        with engine.begin() as db:  # what a successor does: takes the partition over, stores, moves the offset
            table = schema.offsets
            moved = table.update().values(owner_epoch=table.c.owner_epoch + 1, next_offset=20)
            assert db.execute(moved.where(table.c.topic == source)).rowcount == 1
            for value in numbers(20):
                db.execute(sql.text("INSERT INTO stored VALUES (:value)"), {"value": value})
        leave.set()
        until(lambda: sum(stored(engine).values()) >= 30, "everything to be stored")
        assert running.is_running
    assert stored(engine) == once(numbers(30))
    engine.dispose()


def test_a_sink_survives_cut_connections(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str
) -> None:
    """PostgreSQL ends the sink's connections again and again, some in the middle of a commit."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine)
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE stored (value TEXT)"))
    source = create_topic(broker.bootstrap, unique("in"), 2)
    app = sink(broker.bootstrap, tmp_path, unique("app"), source, postgres_database)
    values = numbers(600)
    feed(broker.bootstrap, source, values)
    cut = sql.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with app.running():
        for wanted in (10, 100, 200, 300):
            until(lambda: sum(stored(engine).values()) >= wanted, f"{wanted} rows")  # noqa: B023
            with engine.begin() as db:
                db.execute(cut)
        until(lambda: sum(stored(engine).values()) >= 600, "everything to be stored")
    assert stored(engine) == once(values)
    engine.dispose()


def test_a_sinks_dead_letters_are_in_its_transaction(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = sink(broker.bootstrap, tmp_path, unique("app"), source, database, retry=Retry(2, 0.01), dead_letter=True)
    feed(broker.bootstrap, source, [*numbers(5), "bad", *numbers(5, 5)])
    with app.running():
        until(lambda: sum(stored(engine).values()) >= 10, "everything to be stored")
    assert stored(engine) == once(numbers(10))
    with engine.begin() as db:
        (letter,) = db.execute(sql.select(schema.dead_letters)).all()
    assert (letter.topic, letter.record_offset, letter.attempts, letter.error) == (source, 5, 2, "ValueError: bad")
    assert bytes(letter.record_value) == b"bad"


def test_a_poison_record_stops_a_sink(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = sink(broker.bootstrap, tmp_path, unique("app"), source, database, retry=1)
    feed(broker.bootstrap, source, [*numbers(3), "bad"])
    with pytest.raises(PoisonRecord, match="offset 3"):
        app.running().wait()
    assert stored(engine) == once(numbers(3))


RELAY_STEPS = [
    "oncelog.app.outbox:OutboxJob:_relay@before@1",
    "oncelog.app.transactions:TransactionalProducer:begin@after@1",
    "oncelog.app.transactions:TransactionalProducer:send@before@1",
    "oncelog.app.transactions:TransactionalProducer:send@after@1",
    "oncelog.app.transactions:TransactionalProducer:commit@before@1",
    "oncelog.app.transactions:TransactionalProducer:commit@after@1",
    "oncelog.app.outbox:OutboxJob:_delete_sent@before@1",
    "oncelog.app.outbox:OutboxJob:_delete_sent@after@1",
]


def write(engine: sql.Engine, values: list[str]) -> None:
    """Rows in several transactions."""
    box = schema.Outbox("outbox", None)
    for start in range(0, len(values), 4):
        with engine.begin() as db:
            for value in values[start : start + 4]:
                box.put(db, value, value, headers=[("h", b"1")])


def test_a_relay_killed_at_every_step_sends_once(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    target = create_topic(broker.bootstrap, unique("out"), 2)
    arguments = (broker.bootstrap, str(tmp_path / "state"), unique("app"), target, database)
    for number, step in enumerate(RELAY_STEPS):
        write(engine, numbers(20, 20 * number))
        with Child(RELAY, *arguments, step) as child:
            assert child.wait() == -signal.SIGKILL, child.err
    values = numbers(20 * len(RELAY_STEPS) + 20)
    write(engine, values[-20:])
    with Child(RELAY, *arguments, "none") as last:
        until(lambda: sum(counted(broker.bootstrap, target).values()) >= len(values), "everything to be sent")
        assert last.terminate() == 0, last.err
    assert counted(broker.bootstrap, target) == once(values)
    assert read_all(broker.bootstrap, target)[0].headers() == [("h", b"1")]


def test_rows_that_are_committed_late_are_sent_too(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str
) -> None:
    """The row with the smaller id is committed after one with a larger id was there to be sent."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine, ["outbox"])
    target = create_topic(broker.bootstrap, unique("out"), 1)
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    box = app.outbox(target, database=postgres_database, table="outbox")
    relayed = app.meters.registry
    with app.running(), engine.connect() as slow:
        write(engine, ["first id"])
        until(lambda: relayed.get_sample_value("oncelog_app_records_total") == 1, "the relay to work")
        box.put(slow, value="second id")
        write(engine, ["third id"])
        time.sleep(1)  # the relay looks ten times
        slow.commit()
        until(lambda: relayed.get_sample_value("oncelog_app_records_total") == 3, "three rows to be sent")
    assert counted(broker.bootstrap, target) == once(["first id", "second id", "third id"])
    engine.dispose()


def test_one_relay_works_at_a_time(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    """Three instances run the same outbox; the one that works is stopped in the middle."""
    target = create_topic(broker.bootstrap, unique("out"), 2)
    apps = [
        App(unique("app"), proxy.bootstrap, state_folder=tmp_path / name, instance=name, client=CLIENT)
        for name in "abc"
    ]
    for app in apps:
        app.outbox(target, database=database, table="outbox")
    running = [app.running() for app in apps]
    write(engine, numbers(100))
    until(lambda: sum(counted(broker.bootstrap, target).values()) >= 100, "the first rows")
    with running[0]:
        write(engine, numbers(100, 100))
    proxy.cut_all()
    write(engine, numbers(100, 200))
    until(lambda: sum(counted(broker.bootstrap, target).values()) >= 300, "all rows")
    with running[1], running[2]:
        pass
    assert counted(broker.bootstrap, target) == once(numbers(300))


def test_databases_are_checked_before_the_start(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = sink(broker.bootstrap, tmp_path, unique("app"), source, f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(ConfigurationError, match="oncelog app schema"):
        app.running()
    with pytest.raises(ConfigurationError, match="Give a URL"):
        schema.engine_of("no url")
    with pytest.raises(ConfigurationError, match="without one has a delivery"):
        app.sink(source)
    with pytest.raises(ConfigurationError, match="needs two parameters"):
        app.sink(source, database="sqlite://", name="other")(lambda record: None)


def test_the_schema_is_made_once_and_newer_ones_are_left_alone(engine: sql.Engine) -> None:
    schema.create(engine, ["outbox"])
    schema.check(engine, ["outbox"])
    assert "oncelog_offsets" in schema.statements(engine, ["outbox"])
    with engine.begin() as db:
        db.execute(schema.schema_version.insert().values(version=99))
    with pytest.raises(ConfigurationError, match="newer release"):
        schema.create(engine)


def test_a_start_does_not_wait_for_whoever_writes(tmp_path: Path) -> None:
    """Another process holds SQLite's lock for longer than it is waited for: it was frozen in the middle of a transaction."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    ours, others = schema.engine_of(url), schema.engine_of(url)
    schema.create(ours, ["outbox"])
    try:
        with others.begin():
            schema.check(ours, ["outbox"])
    finally:
        ours.dispose()
        others.dispose()


def test_effects_without_a_database_say_how_they_may_go_wrong(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    mails: list[str] = []

    @app.sink(source, delivery="at-least-once")
    def mail(record: Record[str, str]) -> None:
        mails.append(record.value)

    feed(broker.bootstrap, source, numbers(20))
    with app.running():
        until(lambda: len(mails) >= 20, "twenty mails")
    assert sorted(mails) == sorted(numbers(20))
