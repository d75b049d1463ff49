"""Applications as users write them: handlers of every kind, retries, dead letters, workers, signals, exit codes."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from tests.support.apps import CLIENT, Child, counted, feed, numbers, once, until, until_done
from tests.support.confluent import create_topic, producer, read_all
from tests.support.fixtures import Broker

from oncelog.app import App, Batch, ConfigurationError, Context, Out, PoisonRecord, Record, Retry

Unique = Callable[[str], str]
Raw = Record[bytes | None, bytes | None]


def app_of(broker: Broker, unique: Unique, folder: Path, **given: Any) -> App:
    client = {**CLIENT, **given.pop("client", {})}
    return App(unique("app"), broker.bootstrap, state_folder=folder, client=client, **given)


@pytest.fixture
def topics(broker: Broker, unique: Unique) -> Callable[..., list[str]]:
    def make(*names: str, partitions: int = 3) -> list[str]:
        return [create_topic(broker.bootstrap, unique(name), partitions) for name in names]

    return make


Topics = Callable[..., list[str]]


def test_workers_share_the_partitions(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target = topics("in", "out", partitions=4)
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target)
    def copy(record: Raw) -> Out:
        return Out(key=record.key, value=record.value)

    values = numbers(2000)
    feed(broker.bootstrap, source, values)
    with app.running(workers=3):
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once(values)


class Order(msgspec.Struct):
    id: str
    amount: int


class Invoice(pydantic.BaseModel):
    order: str
    total: int


def test_records_are_what_the_annotations_say(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    orders, invoices, totals = topics("orders", "invoices", "totals", partitions=1)
    app = app_of(broker, unique, tmp_path)

    @app.process(orders, to=invoices)
    async def bill(order: Record[str, Order]) -> AsyncIterator[Out]:
        yield Out(
            key=order.key, value=Invoice(order=order.value.id, total=order.value.amount * 2), headers=order.headers
        )

    @app.process(invoices, to=totals)
    async def total(invoice: Record[str, Invoice]) -> list[Out]:
        return [Out(key=invoice.key, value=str(invoice.value.total), headers=invoice.headers)]

    writer = producer(broker.bootstrap)
    writer.produce(orders, json.dumps({"id": "o1", "amount": 4}), "k", headers=[("trace", b"t1")], timestamp=1_700_000)
    writer.flush()
    with app.running():
        until(lambda: bool(read_all(broker.bootstrap, totals)), "the total")
    (found,) = read_all(broker.bootstrap, totals)
    assert (found.key(), found.value(), found.headers()) == (b"k", b"8", [("trace", b"t1")])
    (invoice,) = read_all(broker.bootstrap, invoices)
    assert json.loads(invoice.value() or b"") == {"order": "o1", "total": 8}


def test_partitions_and_timestamps_pass_through(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target = topics("in", "out")
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target)
    def mirror(record: Raw) -> Iterator[Out]:
        yield Out(key=record.key, value=record.value, partition=record.partition, timestamp=record.timestamp)

    feed(broker.bootstrap, source, numbers(30), timestamp=1_700_000_000_000)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    there = {(each.value(), each.partition()) for each in read_all(broker.bootstrap, source)}
    assert {(each.value(), each.partition()) for each in read_all(broker.bootstrap, target)} == there
    assert {each.timestamp()[1] for each in read_all(broker.bootstrap, target)} == {1_700_000_000_000}


def test_a_failing_record_is_tried_again_and_its_neighbours_count_once(
    broker: Broker, unique: Unique, topics: Topics, tmp_path: Path
) -> None:
    source, target = topics("in", "out")
    app = app_of(broker, unique, tmp_path)
    attempts: Counter[str] = Counter()

    @app.process(source, to=target, retry=Retry(5, back_off=0.01))
    def moody(record: Record[str, str], ctx: Context) -> Out:
        attempts[record.value] += 1
        if record.value in {"n3", "n40"} and ctx.attempt < 4:
            raise RuntimeError("not yet")
        return Out(key=record.key, value=record.value)

    values = numbers(60)
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once(values)
    assert attempts["n3"] == 4


def test_dead_letters_say_where_they_come_from(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target, dead = topics("in", "out", "dead")
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target, retry=Retry(2, back_off=0.01), dead_letter=dead)
    def parse(record: Record[str, int]) -> Out:
        if record.value == 7:
            raise ValueError("seven")
        return Out(key=record.key, value=record.value)

    values = [*map(str, range(20)), "not a number"]
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once([value for value in values[:-1] if value != "7"])
    letters = {letter.value(): dict(letter.headers() or ()) for letter in read_all(broker.bootstrap, dead)}
    places = {each.value(): each for each in read_all(broker.bootstrap, source)}
    assert set(letters) == {b"7", b"not a number"}
    for value, headers in letters.items():
        assert headers["oncelog.topic"] == source.encode()
        assert headers["oncelog.partition"] == str(places[value].partition()).encode()
        assert headers["oncelog.offset"] == str(places[value].offset()).encode()
    assert letters[b"7"]["oncelog.attempts"] == b"2"
    assert letters[b"7"]["oncelog.error"] == b"ValueError: seven"
    assert letters[b"not a number"]["oncelog.attempts"] == b"1"


def test_without_dead_letters_a_poison_record_stops_the_app(
    broker: Broker, unique: Unique, topics: Topics, tmp_path: Path
) -> None:
    source, target = topics("in", "out", partitions=1)
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target, retry=1)
    def copy(record: Record[str, str]) -> Out:
        if record.value == "n5":
            raise ValueError("five")
        return Out(key=record.key, value=record.value)

    feed(broker.bootstrap, source, numbers(10))
    with pytest.raises(PoisonRecord, match=r"offset 5 failed 1 times: ValueError: five") as caught:
        app.running().wait()
    assert (caught.value.topic, caught.value.offset, caught.value.exit_code) == (source, 5, 3)
    assert counted(broker.bootstrap, target) == once(numbers(5)), "what came before it is committed"


def test_batch_handlers_isolate_their_poison(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target, dead = topics("in", "out", "dead", partitions=1)
    app = app_of(broker, unique, tmp_path)
    sizes: list[int] = []

    @app.process(source, to=target, retry=Retry(2, back_off=0.01), dead_letter=dead)
    def together(batch: Batch[Record[str, str]]) -> list[Out]:
        sizes.append(len(batch))
        if any(record.value == "n13" for record in batch):
            raise ValueError("unlucky")
        return [Out(key=record.key, value=record.value) for record in batch]

    values = numbers(40)
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once([value for value in values if value != "n13"])
    assert counted(broker.bootstrap, dead) == once(["n13"])
    assert max(sizes) > 1


def test_an_output_that_is_too_large_is_found_and_put_aside(
    broker: Broker, unique: Unique, topics: Topics, tmp_path: Path
) -> None:
    source, dead = topics("in", "dead", partitions=1)
    target = create_topic(broker.bootstrap, unique("small"), 1, max_message_bytes=20_000)
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target, dead_letter=dead)
    def grow(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=b"x" * 30_000 if record.value == "n4" else record.value)

    values = numbers(10)
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once([value for value in values if value != "n4"])
    assert counted(broker.bootstrap, dead) == once(["n4"])


def test_a_missing_topic_of_an_output_is_found(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target, dead = topics("in", "out", "dead", partitions=1)
    app = app_of(broker, unique, tmp_path)

    @app.process(source, to=target, dead_letter=dead)
    def route(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value, topic=unique("no such") if record.value == "n4" else None)

    values = numbers(8)
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once([value for value in values if value != "n4"])
    assert counted(broker.bootstrap, dead) == once(["n4"])


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_weaker_deliveries_have_their_names(
    broker: Broker, unique: Unique, topics: Topics, tmp_path: Path, delivery: str
) -> None:
    source, target = topics("in", "out")
    app = app_of(broker, unique, tmp_path, delivery=delivery)

    @app.process(source, to=target)
    def copy(record: Raw) -> Out:
        return Out(key=record.key, value=record.value)

    values = numbers(500)
    feed(broker.bootstrap, source, values)
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert counted(broker.bootstrap, target) == once(values)


def test_each_transaction_is_one_line(
    broker: Broker, unique: Unique, topics: Topics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = topics("in", "out", partitions=1)
    app = app_of(broker, unique, tmp_path, client={"statistics.interval.ms": 50})

    @app.process(source, to=target)
    def copy(record: Raw) -> Out:
        return Out(key=record.key, value=record.value)

    caplog.set_level(logging.INFO, "oncelog.app")
    with app.running():
        for number in range(3):
            feed(broker.bootstrap, source, [f"n{number}"])
            until_done(broker.bootstrap, app.name, source)
    lines = [line for line in caplog.messages if line.startswith("transaction outcome=committed")]
    assert len(lines) == 3
    assert f"offsets={source}[0]=3" in lines[-1]
    assert "records=1 outputs=1" in lines[-1]
    assert "producer_id=-1" not in lines[-1]
    metrics = app.meters.registry
    assert metrics.get_sample_value("oncelog_app_transactions_total", {"outcome": "committed"}) == 3
    assert metrics.get_sample_value("oncelog_app_records_total") == 3


PROGRAM = """
import sys, logging
from oncelog.app import App, Out, Record
from tests.support.apps import CLIENT
bootstrap, folder, name, source, target = sys.argv[1:]
app = App(name, bootstrap, state_folder=folder, client=CLIENT)
@app.process(source, to=target, retry=1)
def copy(record: Record[str, str]) -> Out:
    if record.value == "bad":
        raise ValueError("bad")
    return Out(key=record.key, value=record.value)
app.run(workers=2)
"""


def test_sigterm_finishes_the_batch(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target = topics("in", "out")
    feed(broker.bootstrap, source, numbers(300))
    with Child(PROGRAM, broker.bootstrap, str(tmp_path), unique("app"), source, target) as child:
        until(lambda: bool(counted(broker.bootstrap, target)), "the first outputs")
        assert child.terminate() == 0, child.err
    feed(broker.bootstrap, source, numbers(300, 300))
    with Child(PROGRAM, broker.bootstrap, str(tmp_path), unique("app"), source, target) as child:
        until_done(broker.bootstrap, unique("app"), source)
        assert child.terminate() == 0, child.err
    assert counted(broker.bootstrap, target) == once(numbers(600))


def test_exit_codes_tell_what_is_wrong(broker: Broker, unique: Unique, topics: Topics, tmp_path: Path) -> None:
    source, target = topics("in", "out")
    feed(broker.bootstrap, source, ["bad"])
    with Child(PROGRAM, broker.bootstrap, str(tmp_path), unique("app"), source, target) as child:
        assert child.wait() == 3
        assert "PoisonRecord" in child.err
    with Child(PROGRAM, broker.bootstrap, str(tmp_path), unique("app"), unique("nowhere"), target) as child:
        assert child.wait() == 2
        assert "no such topic" in child.err


def test_what_can_not_work_is_refused_at_once(tmp_path: Path) -> None:
    app = App("a", "127.0.0.1:1", state_folder=tmp_path)
    with pytest.raises(ConfigurationError, match="reads no topic"):
        app.process()(lambda record: None)
    with pytest.raises(ConfigurationError, match="one or two parameters"):
        app.process("in")(lambda: None)
    with pytest.raises(ConfigurationError, match="must be a Record"):

        @app.process("in")
        def wrong(record: dict[str, str]) -> None: ...

    @app.process("in", name="same")
    def one(record: Raw) -> None: ...

    with pytest.raises(ConfigurationError, match="a handler named same"):
        app.process("in", name="same")(one)
