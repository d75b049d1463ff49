"""The driver runs an application without any broker; describe draws it."""

from __future__ import annotations

import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sql

from oncelog.app import App, ConfigurationError, Context, Driver, Out, PoisonRecord, Record, Retry


class Order(msgspec.Struct):
    id: str
    amount: int


class Invoice(msgspec.Struct):
    id: str
    total: int


def billing() -> App:
    app = App("billing")

    @app.process("orders", to="invoices", retry=Retry(3), dead_letter="orders.dead")
    def bill(order: Record[str, Order], ctx: Context) -> Iterator[Out]:
        total = ctx.state["total"].add(order.key, order.value.amount)
        if order.value.amount < 0:
            raise ValueError("negative")
        yield Out(key=order.key, value=Invoice(order.value.id, total))

    @app.process("invoices", to="mails")
    async def mail(invoice: Record[str, Invoice]) -> Out:
        return Out(key=invoice.key, value=f"you owe {invoice.value.total}")

    @app.sink("invoices", database="sqlite:///never-opened.db", name="store")
    def store(invoice: Record[str, Invoice], db: sql.Connection) -> None:
        db.execute(sql.text("INSERT INTO invoices VALUES (:id, :total)"), msgspec.structs.asdict(invoice.value))

    app.outbox("orders", database="postgresql+psycopg://me:secret@db.example/shop", table="outbox")
    return app


def test_outputs_follow_through_all_processors() -> None:
    driver = Driver(billing()).feed("orders", "k", Order("o1", 5)).feed("orders", "k", Order("o2", 6))
    assert driver.outputs("invoices") == [Out(key="k", value=Invoice("o1", 5)), Out(key="k", value=Invoice("o2", 11))]
    assert driver.outputs("mails") == [Out(key="k", value="you owe 5"), Out(key="k", value="you owe 11")]
    assert driver.state("bill", "total") == {"k": 11}


def test_failures_become_dead_letters_and_leave_no_state() -> None:
    driver = Driver(billing()).feed("orders", "k", Order("o1", -5)).feed("orders", "k", b"not an order")
    letters = driver.outputs("orders.dead")
    assert dict(letters[0].headers)["oncelog.error"] == b"ValueError: negative"
    assert [dict(letter.headers)["oncelog.attempts"] for letter in letters] == [b"3", b"1"]
    assert driver.state("bill", "total") == {}
    assert driver.outputs("invoices") == []


def test_without_dead_letters_poison_is_raised() -> None:
    app = App("a")

    @app.process("in", to="out", retry=2)
    def fail(record: Record[str, str]) -> Out:
        raise RuntimeError(record.value)

    with pytest.raises(PoisonRecord, match="failed 2 times: RuntimeError: x"):
        Driver(app).feed("in", "k", "x")
    with pytest.raises(ConfigurationError, match="nothing in a reads other"):
        Driver(app).feed("other")


def test_sinks_run_in_a_given_database() -> None:
    engine = sql.create_engine("sqlite://")
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE invoices (id TEXT, total INTEGER)"))
    Driver(billing(), database=engine).feed("orders", "k", Order("o1", 5))
    with engine.begin() as db:
        assert db.execute(sql.text("SELECT id, total FROM invoices")).all() == [("o1", 5)]
    engine.dispose()


def test_an_app_that_feeds_itself_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.app.driver._RECORDS_MAX", 100)
    app = App("loop")

    @app.process("in", to="in")
    def again(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value)

    with pytest.raises(ConfigurationError, match="feed itself"):
        Driver(app).feed("in", "k", "v")


def test_describe_draws_everything_without_secrets() -> None:
    app = billing()
    shown = app.describe()
    rows = [[part.strip() for part in line.replace("──▶", "|").split("|")] for line in shown.splitlines()[1:]]
    assert shown.splitlines()[0] == "billing (exactly-once)"
    assert rows[0][:2] == ["orders", "bill"]
    assert rows[0][2].split(maxsplit=1)[1].strip() == (
        "3 attempts; dead letters: orders.dead; state: billing.bill.changelog"
    )
    assert rows[1] == ["invoices", "mail", "mails                     3 attempts; a poison record stops the app"]
    assert rows[2] == ["invoices", "store", "sqlite:/never-opened.db   offsets in the database"]
    assert rows[3][0] == "postgresql://db.example/shop outbox"
    picture = xml.etree.ElementTree.fromstring(app.describe_svg())
    words = " ".join(node.text or "" for node in picture.iter())
    assert all(word in words for word in ("billing", "orders", "bill", "invoices", "mails"))
    assert "secret" not in shown + words


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="letters, digits"):
        App("a b")
    with pytest.raises(ConfigurationError, match="at most half of"):
        App("a", commit_interval=6)
    with pytest.raises(ConfigurationError, match="no processor, sink or outbox"):
        App("a", "127.0.0.1:1", state_folder=tmp_path).running()


def test_a_poison_record_has_no_effect_at_all() -> None:
    """One processor counts it, the next one fails: in a worker nothing of it would be committed."""
    app = App("halves")

    @app.process("in", to="out")
    def count(record: Record[str, str], ctx: Context) -> Out:
        return Out(key=record.key, value=str(ctx.state["count"].add(record.key, 1)))

    @app.process("in")
    def check(record: Record[str, str]) -> None:
        if record.value == "bad":
            raise ValueError

    driver = Driver(app).feed("in", "k", "good")
    with pytest.raises(PoisonRecord):
        driver.feed("in", "k", "bad")
    assert driver.state("count", "count") == {"k": 1}
    driver.feed("in", "k", "good")
    assert [out.value for out in driver.outputs("out")] == ["1", "2"]
