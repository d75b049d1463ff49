"""Sequences of rebalances, fences, failures and retries that are rare and have lost or doubled a result; counted afterwards."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from tests.app.test_state import assert_counted, counter
from tests.support.apps import CLIENT, Child, counted, done, feed, numbers, once, until, until_done
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, producer, read_all
from tests.support.fixtures import Broker
from tests.support.postgres import postgres, postgres_database
from tests.support.proxy import Proxy

from oncelog.app import App, Batch, ConfigurationError, Context, Out, Record, Retry, schema
from oncelog.app.errors import Halted, Undone
from oncelog.app.exchange import Exchange
from oncelog.app.intake import Intake
from oncelog.app.state import Changelog, FileTable

__all__ = ["postgres", "postgres_database"]

Unique = Callable[[str], str]

INVALID_TXN_STATE = 48


def make(bootstrap: str, unique: Unique, partitions: int = 2) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


def feed_both(bootstrap: str, source: str, values: list[str]) -> None:
    """The first half into partition 0, the second into partition 1."""
    half = len(values) // 2
    feed(bootstrap, source, values[:half], partition=0)
    feed(bootstrap, source, values[half:], partition=1)


def hasty(app: App) -> App:
    """It gives partitions away soon, even from a batch in hand."""
    app.limits = replace(app.limits, revoke_budget=0.3)
    return app


@pytest.fixture
def intakes(monkeypatch: pytest.MonkeyPatch) -> list[Intake]:
    """Every member of a group, in the order of their joining."""
    made: list[Intake] = []
    real = Intake.open

    def opened(self: Intake) -> None:
        made.append(self)
        real(self)

    monkeypatch.setattr(Intake, "open", opened)
    return made


# -- partitions that were away ----------------------------------------------------------------------------------------


def test_what_was_put_back_is_not_taken_after_its_partition_was_away(
    broker: Broker, unique: Unique, tmp_path: Path, intakes: list[Intake]
) -> None:
    """A handler is slow, then fails and is to be tried again; meanwhile another member had a partition of its batch."""
    name, source, target = make(broker.bootstrap, unique)
    feed_both(broker.bootstrap, source, numbers(10))
    one, two = (
        App(name, broker.bootstrap, state_folder=tmp_path / i, instance=i, client=CLIENT, commit_interval=1.0)
        for i in ("a", "b")
    )
    entered, leave = threading.Event(), threading.Event()

    @hasty(one).process(source, to=target, retry=Retry(2, 0.0))
    def slow_at_first(record: Record[str, str]) -> Out:
        if not entered.is_set():
            entered.set()
            assert leave.wait(60)
            raise ValueError("once")
        return Out(key=record.key, value=record.value)

    @two.process(source, to=target, name="slow_at_first")
    def copy(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value)

    with one.running():
        assert entered.wait(30)
        with two.running():
            until(lambda: done(broker.bootstrap, name, source)[0] == 5, "the second to process one partition")
        until(lambda: len(intakes[0].owned()) == 2, "the first to have it again")
        leave.set()
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(10))


def test_partitions_that_were_lost_while_paused_are_read_when_they_are_back(
    own_broker: BrokerProcess, unique: Unique, tmp_path: Path, intakes: list[Intake]
) -> None:
    """A handler is slow, the buffer is full and all is paused; then the broker is away for longer than the session lasts."""
    name, source, target = make(own_broker.bootstrap, unique)
    feed_both(own_broker.bootstrap, source, numbers(20))
    app = App(name, own_broker.bootstrap, state_folder=tmp_path / "state", client=CLIENT, batch_records=3)
    entered, leave = threading.Event(), threading.Event()

    @app.process(source, to=target)
    def slow_at_first(record: Record[str, str]) -> Out:
        if not entered.is_set():
            entered.set()
            assert leave.wait(90)
        return Out(key=record.key, value=record.value)

    with app.running():
        assert entered.wait(30)
        (intake,) = intakes
        until(lambda: len(intake._paused) == 2, "both partitions to be paused")
        own_broker.pause()
        until(lambda: not intake.owned(), "the partitions to be lost")
        own_broker.resume()
        until(lambda: len(intake.owned()) == 2, "the partitions to be back")
        leave.set()
        until_done(own_broker.bootstrap, name, source)
    assert counted(own_broker.bootstrap, target) == once(numbers(20))


def test_a_sink_does_not_store_under_an_epoch_that_it_was_given_later(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str, intakes: list[Intake]
) -> None:
    """The same with a sink: its batch is of the time before, and the partition has a new epoch that is its own too."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine)
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE stored (value TEXT)"))
    source = create_topic(broker.bootstrap, unique("in"), 2)
    feed_both(broker.bootstrap, source, numbers(10))
    entered, leave = threading.Event(), threading.Event()

    def stored() -> Counter[str]:
        with engine.begin() as db:
            return Counter(db.execute(sql.text("SELECT value FROM stored")).scalars())

    def app_of(instance: str, is_slow: bool) -> App:
        app = App(
            unique("app"),
            broker.bootstrap,
            state_folder=tmp_path / instance,
            instance=instance,
            client=CLIENT,
            commit_interval=1.0,
        )

        @hasty(app).sink(source, database=postgres_database)
        def store(record: Record[str, str], db: sql.Connection) -> None:
            if is_slow and not entered.is_set():
                entered.set()
                assert leave.wait(60)
            db.execute(sql.text("INSERT INTO stored VALUES (:value)"), {"value": record.value})

        return app

    with app_of("a", True).running():
        assert entered.wait(30)
        with app_of("b", False).running():
            until(lambda: sum(stored().values()) == 5, "the second to store one partition")
        until(lambda: len(intakes[0].owned()) == 2, "the first to have it again")
        leave.set()
        until(lambda: sum(stored().values()) >= 10, "everything to be stored")
    assert stored() == once(numbers(10))
    engine.dispose()


def test_the_owners_epoch_alone_stops_a_former_owner(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str
) -> None:
    """A successor has taken the partition and stored nothing yet: the offset is as it was, the epoch is not."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine)
    source = create_topic(broker.bootstrap, unique("in"), 1)
    feed(broker.bootstrap, source, numbers(3))
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    entered, leave = threading.Event(), threading.Event()
    calls: Counter[str] = Counter()
    table = schema.offsets

    @app.sink(source, database=postgres_database)
    def store(record: Record[str, str], db: sql.Connection) -> None:
        del db
        calls[record.value] += 1
        entered.set()
        assert leave.wait(60)

    def row() -> Any:
        with engine.begin() as db:
            return db.execute(sql.select(table.c.next_offset, table.c.owner_epoch)).one()

    with app.running():
        assert entered.wait(30)
        assert tuple(row()) == (0, 1), "an assignment raises the epoch"
        with engine.begin() as db:
            db.execute(table.update().values(owner_epoch=table.c.owner_epoch + 1))
        leave.set()
        until(lambda: row().next_offset == 3, "everything to be stored")
    assert calls["n0"] == 2, "the former owner's transaction was committed"
    assert row().owner_epoch == 3, "it did not take the partition anew"
    engine.dispose()


# -- state ------------------------------------------------------------------------------------------------------------


def test_state_is_read_anew_after_a_peer_had_the_place(
    broker: Broker, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes another's name and its partitions, counts, and ends; the first comes back with a new consumer."""
    name, source, target = make(broker.bootstrap, unique)
    back = threading.Event()
    judge = Exchange._judge

    def patient(self: Exchange, undone: Undone) -> None:
        judge(self, undone)
        if undone.fenced:
            assert back.wait(60)

    monkeypatch.setattr(Exchange, "_judge", patient)
    first, second = (
        App(name, broker.bootstrap, state_folder=tmp_path / side, instance="pod-0", client=CLIENT) for side in "ab"
    )
    for app in (first, second):
        counter(app, source, target)
    fed: list[str] = []

    def more() -> None:
        fed.extend(["x", "y", "z"] * 10)
        feed(broker.bootstrap, source, fed[-30:])
        until_done(broker.bootstrap, name, source)

    with first.running():
        more()
        with second.running():
            more()
        back.set()
        more()
    assert_counted(broker.bootstrap, target, fed)


def test_state_is_right_where_a_commit_was_in_doubt_while_a_partition_left(
    broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path
) -> None:
    """A commit is done, its answer is lost, the next one is an error; while that is cleared up a partition is handed over.

    The other partition has stayed: what was committed of it is in its state.
    """
    name, source, target = make(broker.bootstrap, unique)
    one, two = (
        App(name, bootstrap, state_folder=tmp_path / i, instance=i, client=CLIENT, commit_interval=1.0)
        for i, bootstrap in (("a", proxy.bootstrap), ("b", broker.bootstrap))
    )
    for app in (hasty(one), two):
        counter(app, source, target)
    fed = list("xxxyyy")
    feed_both(broker.bootstrap, source, fed)
    lost = proxy.lose_reply_of_next("end_txn")
    refused = proxy.refuse_next("end_txn", INVALID_TXN_STATE)
    renewed = proxy.hold_next("init_producer_id", where=lambda _: refused.is_sprung)
    with one.running():
        lost.wait()
        renewed.wait()
        with two.running():
            until(lambda: done(broker.bootstrap, name, source) == (6, 6), "the commit to count")
            more = ["x", "y"]
            feed(broker.bootstrap, source, more[:1], partition=0)
            feed(broker.bootstrap, source, more[1:], partition=1)
            until(lambda: done(broker.bootstrap, name, source) == (7, 8), "the second to have one partition")
            renewed.release()
            until_done(broker.bootstrap, name, source)
    assert_counted(broker.bootstrap, target, fed + more)


def test_state_of_one_handler_is_not_kept_when_the_next_one_fails(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """Two handlers of a topic: one counts, the other fails at first. The record comes again; it was counted once."""
    name, source, target = make(broker.bootstrap, unique, 1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    counter(app, source, target)
    failed: set[int] = set()

    @app.process(source, retry=Retry(2, 0.0))
    def moody(record: Record[str, str]) -> None:
        if record.offset % 3 == 0 and record.offset not in failed:
            failed.add(record.offset)
            raise ValueError("not yet")

    fed = ["x", "y"] * 10
    feed(broker.bootstrap, source, fed)
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert failed
    assert_counted(broker.bootstrap, target, fed)


def test_state_of_a_batch_that_is_repeated_one_by_one_is_not_kept(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """A batch handler has had all records, and some are counted, when another handler fails at the sixth."""
    name, source, target = make(broker.bootstrap, unique, 1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    sizes: list[int] = []

    @app.process(source)
    def together(batch: Batch[Record[str, str]]) -> None:
        sizes.append(len(batch))

    counter(app, source, target)
    failed: list[int] = []

    @app.process(source, retry=Retry(2, 0.0))
    def moody(record: Record[str, str]) -> None:
        if record.offset == 5 and not failed:
            failed.append(record.offset)
            raise ValueError("not yet")

    fed = ["x", "y"] * 10
    feed(broker.bootstrap, source, fed)
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert failed and max(sizes) > 5
    assert_counted(broker.bootstrap, target, fed)


def test_state_of_an_aborted_batch_joins_no_later_one(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """An output of one partition is too large; the records come again one by one, so the next batch is of the other alone."""
    name, source, target = make(broker.bootstrap, unique)
    dead = create_topic(broker.bootstrap, unique("dead"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, commit_interval=1.0)

    @app.process(source, to=target, dead_letter=dead)
    def count(record: Record[str, str], ctx: Context) -> Out:
        total = ctx.state["count"].add(record.key, 1)
        return Out(key=record.key, value=bytes(2_000_000) if record.value == "large" else str(total))

    feed(broker.bootstrap, source, ["x"] * 3, partition=0)
    feed(broker.bootstrap, source, ["y", "y", "large"], partition=1)
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert_counted(broker.bootstrap, target, ["x"] * 3 + ["y"] * 2)
    assert counted(broker.bootstrap, dead) == once(["large"])


def test_an_old_checkpoint_is_not_gone_on_from(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Compaction forgets deletions after a day, so a file from before may hold what was deleted since."""
    name, source, target = make(broker.bootstrap, unique, 1)
    fed: list[str] = []

    def counts(word: str) -> None:
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        counter(app, source, target)
        fed.append(word)
        feed(broker.bootstrap, source, fed[-1:])
        with app.running():
            until_done(broker.bootstrap, name, source)

    counts("x")
    counts("x")  # restores, and so has a checkpoint
    (path,) = tmp_path.rglob("*.sqlite")
    with sqlite3.connect(path) as file:
        (offset,) = file.execute("SELECT changelog_offset FROM progress").fetchone()
        file.execute("INSERT INTO rows VALUES (?, ?)", (b"count\x00deleted", b"70"))
        file.execute("UPDATE progress SET written_at = written_at - 13 * 3600")
    file.close()
    assert offset > 0
    counts("deleted")
    assert_counted(broker.bootstrap, target, fed)


def test_a_restore_that_is_cut_short_leaves_an_old_checkpoint_old(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """What it had read so far was true as of the checkpoint that it began with; deletions since may be gone later."""
    changelog = create_topic(broker.bootstrap, unique("changelog"))
    writer = producer(broker.bootstrap)
    for number in range(5000):
        writer.produce(changelog, b"0", key=b"%d" % number, partition=0)
    assert writer.flush(30) == 0
    table = FileTable(tmp_path / "0.sqlite")
    an_hour_ago = time.time() - 3600
    table.write((), 1, an_hour_ago)

    class AfterOnePiece(threading.Event):
        def is_set(self) -> bool:
            return table.checkpoint > 1

    cut_short = Changelog({"bootstrap.servers": broker.bootstrap}, AfterOnePiece(), threading.Event())
    with pytest.raises(Halted):
        cut_short.restore(table, changelog, 0)
    cut_short.close()
    assert 1 < table.checkpoint < 5000 and table.checkpoint_at == an_hour_ago
    whole = Changelog({"bootstrap.servers": broker.bootstrap}, threading.Event(), threading.Event())
    whole.restore(table, changelog, 0)
    whole.close()
    assert table.checkpoint == 5000 and table.checkpoint_at > an_hour_ago
    table.close()
    table.close()


# -- what can't be sent, what is raised -------------------------------------------------------------------------------


def test_one_output_among_many_large_ones_can_not_be_sent(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """There is more than is kept in memory, so some is sent before the rest; one record's output is too large."""
    name, source, target = make(broker.bootstrap, unique, 1)
    dead = create_topic(broker.bootstrap, unique("dead"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, commit_interval=3.0)

    @app.process(source, to=target, dead_letter=dead)
    def grow(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=bytes(2_000_000 if record.value == "n3" else 900_000))

    feed(broker.bootstrap, source, numbers(24))
    with app.running():
        until_done(broker.bootstrap, name, source)
    found = Counter((message.key() or b"").decode() for message in read_all(broker.bootstrap, target))
    assert found == once([value for value in numbers(24) if value != "n3"])
    assert counted(broker.bootstrap, dead) == once(["n3"])


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_what_is_no_record_becomes_a_dead_letter(broker: Broker, unique: Unique, tmp_path: Path, delivery: str) -> None:
    """The client can't take it at all: that is the handler's failure at one record, not the application's end."""
    name, source, target = make(broker.bootstrap, unique, 1)
    dead = create_topic(broker.bootstrap, unique("dead"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, delivery=delivery)
    wrong: dict[str, dict[str, Any]] = {
        "n1": {"headers": {"a": b"1"}},
        "n2": {"headers": [("a", 1)]},
        "n3": {"partition": "0"},
        "n4": {"timestamp": 2**80},
        "n5": {"partition": 2**40},
    }

    @app.process(source, to=target, retry=1, dead_letter=dead)
    def route(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value, **wrong.get(record.value, {}))

    feed(broker.bootstrap, source, numbers(8))
    with app.running():
        until_done(broker.bootstrap, name, source)
    found = counted(broker.bootstrap, target), counted(broker.bootstrap, dead)
    assert [set(each) for each in found] == [{"n0", "n6", "n7"}, {"n1", "n2", "n3", "n4", "n5"}]
    assert delivery == "at-least-once" or set(found[0].values()) | set(found[1].values()) == {1}


def test_a_handler_that_cancels_itself_has_failed(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique, 1)
    dead = create_topic(broker.bootstrap, unique("dead"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    @app.process(source, to=target, retry=1, dead_letter=dead)
    async def cancels(record: Record[str, str]) -> Out:
        if record.value == "n2":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        return Out(key=record.key, value=record.value)

    @app.process(source, retry=1, dead_letter=dead, name="without_key")
    def counts(record: Record[bytes | None, str], ctx: Context) -> None:
        ctx.state["count"].add(record.key, 1)

    feed(broker.bootstrap, source, numbers(5))
    with app.running():
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(["n0", "n1", "n3", "n4"])
    assert counted(broker.bootstrap, dead) == once(["n2"])


def test_a_topic_that_is_read_is_written_too(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Each record is passed on three times, into the topic that it came from."""
    name, source, _ = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, batch_records=7)

    @app.process(source, to=source)
    def again(record: Record[str, str]) -> Iterator[Out]:
        word, _, round_ = record.value.partition("/")
        if int(round_ or 0) < 3:
            yield Out(key=record.key, value=f"{word}/{int(round_ or 0) + 1}")

    feed(broker.bootstrap, source, numbers(30))
    wanted = once([*numbers(30), *(f"{word}/{round_}" for word in numbers(30) for round_ in (1, 2, 3))])
    with app.running():
        until(lambda: sum(counted(broker.bootstrap, source).values()) >= 120, "all rounds")
        time.sleep(0.5)  # whatever would come too often comes now
    assert counted(broker.bootstrap, source) == wanted


# -- starts and ends --------------------------------------------------------------------------------------------------


def test_a_topic_may_come_a_moment_later(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """As on Apache Kafka, whose metadata has a new topic a little after its creation was answered."""
    name, source, target = unique("app"), unique("in"), create_topic(broker.bootstrap, unique("out"))
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    @app.process(source, to=target)
    def copy(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value)

    later = threading.Timer(0.3, create_topic, (broker.bootstrap, source))
    later.start()
    with app.running():
        later.join()
        feed(broker.bootstrap, source, numbers(5))
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(5))


BUSY = """
import pathlib, sys, time
from oncelog.app import App, Out, Record
from tests.support.apps import CLIENT
bootstrap, folder, name, source, target = sys.argv[1:]
app = App(name, bootstrap, state_folder=folder, client=CLIENT)
@app.process(source, to=target)
def copy(record: Record[str, str]) -> Out:
    if not pathlib.Path(folder, "entered").exists():
        pathlib.Path(folder, "entered").touch()
        time.sleep(600)
    return Out(key=record.key, value=record.value)
app.run()
"""


def test_a_second_signal_ends_a_handler_that_does_not(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique, 1)
    feed(broker.bootstrap, source, numbers(10))
    arguments = (broker.bootstrap, str(tmp_path), name, source, target)
    with Child(BUSY, *arguments) as busy:
        until((tmp_path / "entered").exists, "the handler to be busy")
        busy.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            busy.process.wait(0.5)
        busy.process.send_signal(signal.SIGTERM)
        assert busy.wait() == 128 + signal.SIGTERM
    with Child(BUSY, *arguments) as again:
        until_done(broker.bootstrap, name, source)
        assert again.terminate() == 0, again.err
    assert counted(broker.bootstrap, target) == once(numbers(10))


def test_an_outbox_that_was_moved_to_another_server_says_so(
    broker: Broker, unique: Unique, tmp_path: Path, postgres_database: str
) -> None:
    """There transactions are counted anew: its rows would stand below the position for ever, and be deleted unsent."""
    engine = schema.engine_of(postgres_database)
    schema.create(engine, ["outbox"])
    target = create_topic(broker.bootstrap, unique("out"))
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    box = app.outbox(target, database=postgres_database, table="outbox")
    position = create_topic(broker.bootstrap, f"{app.name}.outbox.outbox.position", cleanup_policy="compact")
    writer = producer(broker.bootstrap)
    writer.produce(position, b"[1000000000,7]", b"position")
    assert writer.flush(30) == 0
    with engine.begin() as db:
        box.put(db, "k", "v")
    with pytest.raises(ConfigurationError, match="sent up to transaction 1000000000"):
        app.running().wait()
    engine.dispose()
