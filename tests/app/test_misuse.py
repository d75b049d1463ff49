"""Handlers that do what they should not: kept contexts, changed copies, ends of their own, strange results."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from tests.support.apps import CLIENT, counted, feed, numbers, once, until, until_done
from tests.support.confluent import create_topic, producer, read_all
from tests.support.fixtures import Broker
from tests.support.postgres import database, engine, postgres, stored

from oncelog.app import App, ConfigurationError, Context, Driver, Out, Record, Retry, schema

__all__ = ["database", "engine", "postgres"]

Unique = Callable[[str], str]


def make(bootstrap: str, unique: Unique, partitions: int = 1) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


# -- a context that is kept --------------------------------------------------------------------------------------------


def test_a_thread_that_keeps_the_context_changes_no_state(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """It would write into the transaction of whichever record is next."""
    name, source, target = make(broker.bootstrap, unique)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    returned, tried = threading.Event(), threading.Event()
    told: list[Exception] = []

    def late(ctx: Context, key: str) -> None:
        assert returned.wait(30)
        try:
            ctx.state["count"].add(key, 100)
        except ConfigurationError as error:
            told.append(error)
        tried.set()

    @app.process(source, to=target)
    def count(record: Record[str, str], ctx: Context) -> Out:
        if record.value == "first":
            threading.Thread(target=late, args=(ctx, "k")).start()
        else:
            returned.set()
            assert tried.wait(30)
        return Out(key="k", value=str(ctx.state["count"].add("k", 1)))

    feed(broker.bootstrap, source, ["first", "second", "third"])
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert [message.value() for message in read_all(broker.bootstrap, target)] == [b"1", b"2", b"3"]
    assert "after its handler had returned" in str(told[0])


def test_a_store_that_is_kept_is_refused() -> None:
    """In a variable of the module it would be that of another partition, sooner or later."""
    app = App("kept")
    kept: list[Any] = []

    @app.process("in")
    def count(record: Record[str, str], ctx: Context) -> None:
        kept.append(ctx.state["count"])
        kept[0].add(record.key, 1)

    driver = Driver(app).feed("in", "k", "1")
    with pytest.raises(ConfigurationError, match="after its handler had returned"):
        driver.feed("in", "k", "2")
    assert driver.state("count", "count") == {"k": 1}


# -- values that are changed in place ----------------------------------------------------------------------------------


def baskets(stores: Callable[[Any, str, list[str], str], None]) -> Driver:
    app = App("baskets")

    @app.process("in")
    def put(record: Record[str, str], ctx: Context) -> None:
        basket = ctx.state["baskets"].get(record.key, [])
        stores(ctx.state["baskets"], record.key, basket, record.value)

    return Driver(app)


def test_a_value_that_is_changed_and_not_stored_is_refused() -> None:
    """It is a copy: the change would be lost without a word."""

    def forgets(store: Any, key: str, basket: list[str], value: str) -> None:
        basket.append(value)

    def stores(store: Any, key: str, basket: list[str], value: str) -> None:
        basket.append(value)
        store[key] = basket

    driver = baskets(stores).feed("in", "ann", "apple").feed("in", "ann", "bread")
    assert driver.state("put", "baskets") == {"ann": ["apple", "bread"]}
    with pytest.raises(ConfigurationError, match=r"'ann' in ctx.state\['baskets'\] was changed and not stored"):
        baskets(forgets).feed("in", "ann", "apple")


def test_a_value_that_is_changed_after_it_was_stored_is_refused() -> None:
    def too_late(store: Any, key: str, basket: list[str], value: str) -> None:
        store[key] = basket
        basket.append(value)

    def replaces(store: Any, key: str, basket: list[str], value: str) -> None:
        basket.clear()
        store[key] = [value]

    def only_reads(store: Any, key: str, basket: list[str], value: str) -> None:
        assert list(basket) == []
        store["other"] = 1

    with pytest.raises(ConfigurationError, match="changed and not stored"):
        baskets(too_late).feed("in", "ann", "apple")
    assert baskets(replaces).feed("in", "ann", "apple").state("put", "baskets") == {"ann": ["apple"]}
    assert baskets(only_reads).feed("in", "ann", "apple").state("put", "baskets") == {"other": 1}


# -- what handlers raise and give --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_what_was_yielded_before_a_failure_is_not_seen(
    broker: Broker, unique: Unique, tmp_path: Path, kind: str
) -> None:
    name, source, target = make(broker.bootstrap, unique)
    dead = create_topic(broker.bootstrap, unique("dead"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    def halves(record: Record[str, str]) -> Iterator[Out]:
        yield Out(key=record.key, value=f"{record.value}/1")
        if record.value == "n2":
            raise ValueError("in the middle")
        yield Out(key=record.key, value=f"{record.value}/2")

    async def asynchronous(record: Record[str, str]) -> AsyncIterator[Out]:
        for out in halves(record):
            yield out

    handler = halves if kind == "generator" else asynchronous
    app.process(source, to=target, retry=Retry(2, 0.01), dead_letter=dead)(handler)
    feed(broker.bootstrap, source, numbers(5))
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once([f"n{n}/{half}" for n in (0, 1, 3, 4) for half in (1, 2)])
    assert counted(broker.bootstrap, dead) == once(["n2"])


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_ends_the_program_ends_the_application_with_nothing_half(
    broker: Broker, unique: Unique, tmp_path: Path, error: BaseException, is_async: bool
) -> None:
    """sys.exit in a handler: no dead letter, no skipped record; a start without it goes on."""
    name, source, target = make(broker.bootstrap, unique)
    dead = create_topic(broker.bootstrap, unique("dead"))
    feed(broker.bootstrap, source, numbers(6))

    def app_of(fails: bool) -> App:
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        def copy(record: Record[str, str]) -> Out:
            if fails and record.value == "n3":
                raise error
            return Out(key=record.key, value=record.value)

        async def asynchronous(record: Record[str, str]) -> Out:
            return copy(record)

        app.process(source, to=target, dead_letter=dead)(asynchronous if is_async else copy)
        return app

    with pytest.raises(type(error)):
        app_of(True).running().wait()
    with app_of(False).running():
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(6))
    assert counted(broker.bootstrap, dead) == {}


def test_what_is_no_output_is_said_and_costs_no_record(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique)
    dead = create_topic(broker.bootstrap, unique("dead"))
    feed(broker.bootstrap, source, numbers(3))
    for given in (5, "text", {"a": 1}):
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        @app.process(source, to=target, dead_letter=dead)
        def copy(record: Record[str, str]) -> Any:
            return given  # noqa: B023 - it runs before the next one is made

        with pytest.raises(ConfigurationError, match="a processor yields or returns Out"):
            app.running().wait()
    assert counted(broker.bootstrap, dead) == {}


def test_nothing_passes_through_as_nothing(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """No key, no value, no headers: none of them is an empty one afterwards, nor is an empty one none."""
    name, source, target = make(broker.bootstrap, unique)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    @app.process(source, to=target)
    def copy(record: Record[bytes | None, bytes | None]) -> Out:
        return Out(key=record.key, value=record.value, headers=record.headers or None)  # type: ignore[arg-type]

    writer = producer(broker.bootstrap)
    wanted = [(None, None), (None, b""), (b"", None), (b"", b""), (b"k", b"v")]
    for key, value in wanted:
        writer.produce(source, value, key, headers=[("h", None), ("h", b"")] if key else None)
    assert writer.flush(30) == 0
    with app.running():
        until_done(broker.bootstrap, name, source)
    found = read_all(broker.bootstrap, target)
    assert [(message.key(), message.value()) for message in found] == wanted
    assert found[-1].headers() == [("h", None), ("h", b"")]


def test_bytes_of_every_kind_are_bytes() -> None:
    app = App("bytes")

    @app.process("in", to="out")
    def copy(record: Record[bytes, bytes]) -> Out:
        return Out(key=memoryview(record.key), value=bytearray(record.value))

    @app.process("out", to="end")
    def check(record: Record[bytes, bytes]) -> Out:
        return Out(key=record.key, value=record.value)

    assert Driver(app).feed("in", b"k", b"v").outputs("end") == [Out(key=b"k", value=b"v")]


# -- sinks -------------------------------------------------------------------------------------------------------------


INSERT = sql.text("INSERT INTO stored VALUES (:value)")


@pytest.mark.parametrize("end", ["commit", "rollback", "swallowed"])
def test_a_sink_that_ends_its_transaction_stores_nothing(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine, end: str
) -> None:
    """What it wrote would be there without the offset, and be written again."""
    source = create_topic(broker.bootstrap, unique("in"), 1)
    feed(broker.bootstrap, source, numbers(3))

    def app_of(ends: bool) -> App:
        app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        @app.sink(source, database=database, retry=1)
        def store(record: Record[str, str], db: sql.Connection) -> None:
            db.execute(INSERT, {"value": record.value})
            if ends and end == "swallowed":
                try:
                    db.commit()
                except ConfigurationError:
                    return
            elif ends:
                getattr(db, end)()

        return app

    with pytest.raises(ConfigurationError, match="commits or rolls back"):
        app_of(True).running().wait()
    assert stored(engine) == {}
    with app_of(False).running():
        until(lambda: sum(stored(engine).values()) >= 3, "everything to be stored")
    assert stored(engine) == once(numbers(3))


def test_a_sink_may_take_back_a_part(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    """A savepoint is no end; and what the function returns is nobody's business."""
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    @app.sink(source, database=database)
    def store(record: Record[str, str], db: sql.Connection) -> Any:
        with db.begin_nested() as part:
            db.execute(INSERT, {"value": "not to be"})
            part.rollback()
        return db.execute(INSERT, {"value": record.value})

    feed(broker.bootstrap, source, numbers(5))
    with app.running():
        until(lambda: sum(stored(engine).values()) >= 5, "everything to be stored")
    assert stored(engine) == once(numbers(5))


def test_a_driver_refuses_what_a_running_sink_would() -> None:
    app = App("driven")

    @app.sink("in", database="sqlite://")
    def store(record: Record[str, str], db: sql.Connection) -> None:
        db.commit()

    engine = sql.create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="commits or rolls back"):
        Driver(app, database=engine).feed("in", "k", "v")
    engine.dispose()


def test_what_a_mailer_returns_is_not_a_failure(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Taken for one, the mail would be sent again."""
    source = create_topic(broker.bootstrap, unique("in"), 1)
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    mails: list[str] = []

    @app.sink(source, delivery="at-least-once")
    def mail(record: Record[str, str]) -> int:
        mails.append(record.value)
        return 250

    feed(broker.bootstrap, source, numbers(5))
    with app.running():
        until_done(broker.bootstrap, f"{app.name}.mail", source)
    assert mails == numbers(5)


def test_a_sink_gives_no_records() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match="must take one parameter"):
        app.sink("in", delivery="at-least-once")(lambda record, db: None)

    @app.sink("in", delivery="at-least-once")
    def store(record: Record[str, str]) -> Out:
        return Out(value="lost")

    with pytest.raises(ConfigurationError, match="gave an Out, and is a sink"):
        Driver(app).feed("in", "k", "v")


def test_a_dead_letter_takes_the_place_of_an_older_one(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, engine: sql.Engine
) -> None:
    """The offsets were set back in the database, to try again; the record fails again."""
    source = create_topic(broker.bootstrap, unique("in"), 1)
    feed(broker.bootstrap, source, ["bad", "good"])

    def run(why: str) -> list[str]:
        app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        @app.sink(source, database=database, retry=1, dead_letter=True)
        def store(record: Record[str, str], db: sql.Connection) -> None:
            if record.value == "bad":
                raise ValueError(why)

        def next_offset() -> int:
            with engine.begin() as db:
                return int(db.execute(sql.select(schema.offsets.c.next_offset)).scalar_one_or_none() or 0)

        with app.running() as running:
            until(lambda: next_offset() == 2 or not running.is_running, "both records")
        with engine.begin() as db:
            db.execute(schema.offsets.update().values(next_offset=0))
            return list(db.execute(sql.select(schema.dead_letters.c.error)).scalars())

    assert run("first") == ["ValueError: first"]
    assert run("second") == ["ValueError: second"]


@pytest.mark.parametrize("wrong", ["too large", "no headers"])
def test_a_row_that_can_not_be_sent_is_named(
    broker: Broker, unique: Unique, tmp_path: Path, database: str, wrong: str
) -> None:
    """The relay stops: the rows before it are sent, and those behind it are, when it was mended."""
    engine = schema.engine_of(database)
    schema.create(engine, ["outbox"])
    target = create_topic(broker.bootstrap, unique("out"), 1)

    def app_of() -> tuple[App, schema.Outbox]:
        app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        return app, app.outbox(target, database=database, table="outbox")

    app, box = app_of()
    table = schema.outbox_table("outbox", engine.dialect.name)
    for value in numbers(12):
        with engine.begin() as db:
            if value == "n7" and wrong == "too large":
                box.put(db, value=b"x" * 2_000_000)
            elif value == "n7":
                db.execute(table.insert().values(record_value=b"n7", headers="[1]"))
            else:
                box.put(db, value=value)
    with pytest.raises(ConfigurationError, match="the row with id 8 of the outbox outbox can't be sent"):
        app.running().wait()
    assert counted(broker.bootstrap, target) == once(numbers(7))
    with engine.begin() as db:
        db.execute(table.update().where(table.c.id == 8).values(record_value=b"n7", headers="[]"))
    app, _ = app_of()
    with app.running():
        until(lambda: sum(counted(broker.bootstrap, target).values()) >= 12, "the others")
    assert counted(broker.bootstrap, target) == once(numbers(12))
    engine.dispose()


# -- declarations ------------------------------------------------------------------------------------------------------


def test_what_was_meant_otherwise_is_said_when_it_is_declared() -> None:
    app = App("a")
    with pytest.raises(ConfigurationError, match=r'write @app.process\("orders"\)'):

        @app.process
        def bare(record: Record[str, str]) -> None: ...

    with pytest.raises(ConfigurationError, match="exactly-once, at-least-once, at-most-once"):
        App("a", delivery="exactly_once")
    with pytest.raises(ConfigurationError, match="main thread"):
        _in_a_thread(app.run)


def _in_a_thread(function: Callable[[], None]) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except (ConfigurationError, SystemExit) as error:
            caught.append(error.__cause__ or error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    raise caught[0]
