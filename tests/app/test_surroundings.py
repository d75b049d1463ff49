"""What happens around an application: disks, clocks, topics and databases that go, change or are not there."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import ConfigResource
from confluent_kafka.cimpl import NewPartitions
from tests.app.test_state import assert_counted, counter, histories
from tests.support.apps import CLIENT, Child, Threaded, counted, done, feed, numbers, once, until, until_done
from tests.support.confluent import admin, create_topic, producer, transactional_producer
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy

from oncelog.app import App, ConfigurationError, Context, Out, Record, schema, state, topics, worker
from oncelog.app.settings import Cluster
from oncelog.app.state import FileTable, MemoryTable
from oncelog.app.topics import create_compacted
from oncelog.app.worker import States

Unique = Callable[[str], str]
#: Notices new partitions and topics soon; librdkafka's own interval is five minutes.
QUICK = {**CLIENT, "topic.metadata.refresh.interval.ms": 300}


def make(bootstrap: str, unique: Unique, partitions: int = 1) -> tuple[str, str, str]:
    for name in ("in", "out"):
        create_topic(bootstrap, unique(name), partitions)
    return unique("app"), unique("in"), unique("out")


# -- state of several processors ---------------------------------------------------------------------------------------


def test_two_processors_have_a_state_each(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """One worker meets the partitions of both: each has a changelog, with the partitions of its own topic."""
    name, source, target = make(broker.bootstrap, unique)
    other, counts = create_topic(broker.bootstrap, unique("other"), 3), create_topic(broker.bootstrap, unique("n"), 1)
    fed = ["x", "y", "x", "z", "x"]
    for round_ in (1, 2):
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        counter(app, source, target)

        @app.process(other, to=counts)
        def second(record: Record[str, str], ctx: Context) -> Out:
            return Out(key=record.key, value=str(ctx.state["count"].add(record.key, 1)))

        for topic in (source, other):
            feed(broker.bootstrap, topic, fed)
        with app.running():
            for topic in (source, other):
                until_done(broker.bootstrap, name, topic)
        for topic in (target, counts):
            assert_counted(broker.bootstrap, topic, fed * round_)
        shutil.rmtree(tmp_path)


class Ends:
    """A changelog that somebody else writes to, too: its end moves on."""

    def __init__(self, *_: object) -> None:
        self.offset = 0

    def restore(self, table: FileTable, topic: str, partition: int) -> int:
        return 0

    def end(self, topic: str, partition: int) -> tuple[int, int]:
        self.offset += 10
        return 0, self.offset

    def close(self) -> None: ...


def test_a_checkpoint_is_of_partitions_that_the_commit_speaks_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two topics came with one assignment, and the partition of one has left since: a commit of the other is no word on it."""
    for name, value in (("Changelog", Ends), ("_CHECKPOINT_SECONDS", 0.0)):
        monkeypatch.setattr(worker, name, value)
    monkeypatch.setattr(worker, "create_compacted", lambda cluster, wanted, **given: None)
    monkeypatch.setattr(worker, "partitions_of", lambda cluster, topic: 1)
    app = App("a")

    @app.process("first", name="first")
    def first(record: Record[str, str], ctx: Context) -> None: ...

    @app.process("second", name="second")
    def second(record: Record[str, str], ctx: Context) -> None: ...

    never = threading.Event()
    states = States("a", Cluster("127.0.0.1:1"), tmp_path, never, never)
    states._checkpoint_at = 0.0
    one, two = app.topology.processors
    states.begin({("first", 0): 7, ("second", 0): 7})
    tables = [states.of(each, (topic, 0)).table for each, topic in ((one, "first"), (two, "second"))]
    states.begin({("second", 0): 7})
    states.before_commit()
    states.committed()
    assert [table.checkpoint for table in tables] == [0, 10]
    states.close()


class Away(Ends):
    """A changelog that can't be read now."""

    def restore(self, table: Any, topic: str, partition: int) -> int:
        raise ConfigurationError("away")


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_a_restore_that_fails_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it has read so far passes for no state: the next batch restores it again."""
    opened: list[sqlite3.Connection] = []
    monkeypatch.setattr(state, "_connected", lambda path: opened.append(real_connected(path)) or opened[-1])
    monkeypatch.setattr(worker, "Changelog", Away)
    monkeypatch.setattr(worker, "create_compacted", lambda cluster, wanted, **given: None)
    monkeypatch.setattr(worker, "partitions_of", lambda cluster, topic: 1)
    app = App("a")

    @app.process("first", name="first")
    def first(record: Record[str, str], ctx: Context) -> None: ...

    never = threading.Event()
    states = States("a", Cluster("127.0.0.1:1"), tmp_path, never, never)
    states.begin({("first", 0): 7})
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="away"):
            states.of(app.topology.processors[0], ("first", 0))
    assert [is_closed(each) for each in opened] == [False]
    states.close()
    assert [is_closed(each) for each in opened] == [True]


def test_a_file_that_is_no_database_is_closed(tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(b"no database" * 500)
    connection = sqlite3.connect(tmp_path / "shop.db")
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        schema._sqlite_connected(connection, None)
    assert is_closed(connection)


# -- disks, clocks -----------------------------------------------------------------------------------------------------


real_connected = state._connected


def full(path: Path) -> sqlite3.Connection:
    """An SQLite file that can't grow any more: it says what a full disk says."""
    connection = real_connected(path)
    connection.execute("PRAGMA max_page_count = 4")
    return connection


def test_a_full_disk_ends_the_application_and_costs_nothing(
    broker: Broker, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is in the changelog; after room was made the state is what it should be."""
    name, source, target = make(broker.bootstrap, unique)
    fed = [f"{'w' * 400}{number}" for number in range(60)]
    feed(broker.bootstrap, source, fed)

    def app_of() -> App:
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, batch_records=10)
        counter(app, source, target)
        return app

    with monkeypatch.context() as patch:
        patch.setattr(state, "_connected", full)
        with pytest.raises(ConfigurationError, match=r"sqlite can't be used: database or disk is full. Make room"):
            app_of().running().wait()
    feed(broker.bootstrap, source, fed)
    with app_of().running():
        until_done(broker.bootstrap, name, source)
    assert_counted(broker.bootstrap, target, fed * 2)


class Unreadable:
    """In place of a connection: nothing can be read."""

    def execute(self, *_: object) -> object:
        raise sqlite3.OperationalError("disk I/O error")


def test_state_that_can_not_be_read_makes_no_dead_letters(
    broker: Broker, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is at fault, not the record; all else of the file could go on."""
    name, source, target = make(broker.bootstrap, unique)
    dead = create_topic(broker.bootstrap, unique("dead"))
    feed(broker.bootstrap, source, ["x", "y", "bad", "z"])
    real = FileTable.get

    def get(self: FileTable, key: bytes) -> bytes | None:
        if not key.endswith(b"bad"):
            return real(self, key)
        with monkeypatch.context() as bad_sector:
            bad_sector.setattr(self, "_connection", Unreadable())
            return real(self, key)

    def app_of() -> App:
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        @app.process(source, to=target, dead_letter=dead)
        def count(record: Record[str, str], ctx: Context) -> Out:
            return Out(key=record.key, value=str(ctx.state["count"].add(record.key, 1)))

        return app

    with monkeypatch.context() as patch:
        patch.setattr(FileTable, "get", get)
        ends = pytest.raises(ConfigurationError, match="or delete the file: it is a copy")
        with ends, app_of().running() as running:
            until(lambda: not running.is_running, "the application to end")
    with app_of().running():
        until_done(broker.bootstrap, name, source)
    assert histories(broker.bootstrap, target) == {"x": [1], "y": [1], "bad": [1], "z": [1]}
    assert counted(broker.bootstrap, dead) == {}


def test_a_damaged_file_is_made_again(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique)
    fed: list[str] = []
    for damage in (b"", b"no database at all" * 1000):
        fed += ["x", "y", "x"]
        feed(broker.bootstrap, source, ["x", "y", "x"])
        for path in tmp_path.rglob("*.sqlite"):
            path.write_bytes(damage or path.read_bytes())
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        counter(app, source, target)
        with app.running():
            until_done(broker.bootstrap, name, source)
    assert_counted(broker.bootstrap, target, fed)


def test_a_state_folder_may_be_removed_while_it_is_used(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique, 2)
    fed: list[str] = []
    for _ in range(2):
        app = App(name, broker.bootstrap, state_folder=tmp_path / "state", client=CLIENT)
        counter(app, source, target)
        with app.running():
            for word in ("x", "y"):
                fed += [word] * 20
                feed(broker.bootstrap, source, fed[-20:])
                until_done(broker.bootstrap, name, source)
                shutil.rmtree(tmp_path / "state", ignore_errors=True)
    assert_counted(broker.bootstrap, target, fed)


def test_a_checkpoint_from_the_future_is_not_gone_on_from(broker: Broker, unique: Unique) -> None:
    """The clock was set back since: how old it is nobody knows, and deletions may be gone from the changelog."""
    changelog = create_topic(broker.bootstrap, unique("changelog"))
    writer = producer(broker.bootstrap)
    writer.produce(changelog, b"1", key=b"kept", partition=0)
    assert writer.flush(30) == 0
    now = time.time()

    class Dated(MemoryTable):
        def __init__(self, at: float) -> None:
            super().__init__()
            self.write([(b"deleted", b"1")], 1)
            self._at = at

        @property
        def checkpoint_at(self) -> float:
            return self._at

    never = threading.Event()
    restoring = state.Changelog({"bootstrap.servers": broker.bootstrap}, never, never)
    for at, found in ((now - 3600, b"1"), (now + 30, b"1"), (now + 7200, None), (now - 13 * 3600, None)):
        table = Dated(at)
        restoring.restore(table, changelog, 0)
        assert table.get(b"deleted") == found, at - now
    restoring.close()


def test_a_restore_waits_for_the_transaction_of_the_last_owner(broker: Broker, unique: Unique) -> None:
    """It may be committed already, and its marker not yet there: to go on without what it holds would be a wrong state."""
    changelog = create_topic(broker.bootstrap, unique("changelog"))
    writer = transactional_producer(broker.bootstrap, unique("id"))
    writer.begin_transaction()
    writer.produce(changelog, b"1", key=b"k", partition=0)
    assert writer.flush(30) == 0
    never, table = threading.Event(), MemoryTable()
    restoring = state.Changelog({"bootstrap.servers": broker.bootstrap}, never, never)
    until(lambda: restoring.end(changelog, 0)[1] == 1, "what is open to be on disk")
    restore = Threaded(lambda: restoring.restore(table, changelog, 0))
    time.sleep(0.5)
    assert restore.is_running, "it has not waited"
    writer.commit_transaction(30)
    restore.result()
    restoring.close()
    assert table.get(b"k") == b"1"


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_changelog_that_goes_while_it_is_read_is_said(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch, is_made_again: bool
) -> None:
    """A restore waits for the transaction of the last owner; it would wait for ever for what can't come any more."""
    monkeypatch.setattr(state, "_LOOK_SECONDS", 0.2)
    changelog = create_topic(broker.bootstrap, unique("changelog"))
    writer = transactional_producer(broker.bootstrap, unique("id"))
    for number in range(2):
        writer.begin_transaction()
        writer.produce(changelog, b"1", key=b"%d" % number, partition=0)
        assert writer.flush(30) == 0
        if number == 0:
            writer.commit_transaction(30)
    never, table = threading.Event(), MemoryTable()
    restoring = state.Changelog({"bootstrap.servers": broker.bootstrap}, never, never)
    until(lambda: restoring.end(changelog, 0)[1] == 3, "what is open to be on disk")
    restore = Threaded(lambda: restoring.restore(table, changelog, 0))
    until(lambda: table.get(b"0") == b"1", "what is committed")
    delete(broker.bootstrap, changelog)
    if is_made_again:
        create_topic(broker.bootstrap, changelog)
    wanted = "ended at 3 and ends at 0 now" if is_made_again else f"topic {changelog} is gone"
    with pytest.raises(ConfigurationError, match=wanted):
        restore.result()
    restoring.close()


def test_a_deleted_changelog_is_no_empty_state(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """All counts would begin anew in the middle, without a word."""
    name, source, target = make(broker.bootstrap, unique)
    for _ in range(2):  # the second one restores, and so has a checkpoint
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        counter(app, source, target)
        feed(broker.bootstrap, source, ["x"])
        with app.running():
            until_done(broker.bootstrap, name, source)
    delete(broker.bootstrap, f"{name}.count.changelog")
    feed(broker.bootstrap, source, ["x"])
    wanted = r"ends at 0, and .*count-0\.sqlite has read it up to \d+: it was deleted"
    with pytest.raises(ConfigurationError, match=wanted), app.running() as running:
        until(lambda: not running.is_running, "the application to end")
    assert histories(broker.bootstrap, target) == {"x": [1, 2]}


# -- topics ------------------------------------------------------------------------------------------------------------


def grow(bootstrap: str, topic: str, partitions: int) -> None:
    client = admin(bootstrap)  # its end would end the request
    client.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)


def delete(bootstrap: str, topic: str) -> None:
    client = admin(bootstrap)
    client.delete_topics([topic])[topic].result(30)


def test_partitions_that_are_added_are_read(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, target = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=QUICK)

    @app.process(source, to=target)
    def copy(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value)

    feed(broker.bootstrap, source, numbers(20))
    with app.running(workers=2):
        until_done(broker.bootstrap, name, source)
        grow(broker.bootstrap, source, 5)
        feed(broker.bootstrap, source, numbers(100, 20))
        until_done(broker.bootstrap, name, source)
    assert counted(broker.bootstrap, target) == once(numbers(120))


def test_partitions_that_are_added_under_a_state_end_the_application(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """A key has moved between old partitions, where no record of a new one tells: nothing is counted on the wrong state."""
    name, source, target = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    counter(app, source, target)
    feed(broker.bootstrap, source, ["moves"] * 3, partition=0)
    feed(broker.bootstrap, source, ["stays"], partition=1)
    wanted = r"has 3 partitions now, .*changelog was made with 2: keys have left"
    with pytest.raises(ConfigurationError, match=wanted), app.running(workers=2) as running:
        until_done(broker.bootstrap, name, source)
        grow(broker.bootstrap, source, 3)
        feed(broker.bootstrap, source, ["moves"], partition=1)
        until(lambda: not running.is_running, "the application to end")
    with pytest.raises(ConfigurationError, match="has 3 partitions now"):
        app.running()
    assert histories(broker.bootstrap, target) == {"moves": [1, 2, 3], "stays": [1]}


def test_a_producer_that_learns_first_of_added_partitions_spoils_no_state(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """It writes all the time, by the new number at once; the application has the client's five minutes."""
    name, source, target = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT, batch_records=20)
    counter(app, source, target)
    words = [f"w{number}" for number in range(50)]

    def write(rounds: int) -> None:
        writer = producer(broker.bootstrap)
        for _ in range(rounds):
            for word in words:
                writer.produce(source, word, word)
        assert writer.flush(30) == 0

    with pytest.raises(ConfigurationError, match="has 5 partitions now"), app.running(workers=2) as running:
        write(20)
        until(lambda: done(broker.bootstrap, name, source)[0] > 0, "a state to be there")
        grow(broker.bootstrap, source, 5)
        write(20)
        until(lambda: not running.is_running, "the application to end")
    found = histories(broker.bootstrap, target)
    assert found == {word: list(range(1, len(counts) + 1)) for word, counts in found.items()}


def test_a_record_of_an_added_partition_ends_the_application(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """There is no changelog for it to wait for."""
    name, source, target = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=QUICK)
    counter(app, source, target)
    feed(broker.bootstrap, source, numbers(20))
    with pytest.raises(ConfigurationError, match="has 3 partitions now"), app.running() as running:
        until_done(broker.bootstrap, name, source)
        grow(broker.bootstrap, source, 3)
        feed(broker.bootstrap, source, ["new"], partition=2)
        until(lambda: not running.is_running, "the application to end")
    assert "new" not in histories(broker.bootstrap, target)


def test_partitions_that_were_added_while_a_batch_was_handled_are_noticed(
    broker: Broker, unique: Unique, tmp_path: Path
) -> None:
    """Before the commit, not only when the records are taken."""
    name, source, target = make(broker.bootstrap, unique, 1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    entered, grown = threading.Event(), threading.Event()

    @app.process(source, to=target)
    def count(record: Record[str, str], ctx: Context) -> Out:
        count = ctx.state["count"].add(record.key, 1)
        entered.set()
        assert grown.wait(60)
        return Out(key=record.key, value=str(count))

    feed(broker.bootstrap, source, ["x"])
    with pytest.raises(ConfigurationError, match="has 2 partitions now"), app.running() as running:
        assert entered.wait(60)
        grow(broker.bootstrap, source, 2)
        grown.set()
        until(lambda: not running.is_running, "the application to end")
    assert histories(broker.bootstrap, target) == {}


def test_a_changelog_that_another_made_meanwhile_has_to_fit(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers make it, and partitions of its source are added between their looks at it."""
    changelog = unique("changelog")
    create_compacted(Cluster(broker.bootstrap), {changelog: 2})
    counts: list[dict[str, int]] = [{}, topics.partition_counts(Cluster(broker.bootstrap))]
    monkeypatch.setattr(topics, "partition_counts", lambda _: counts.pop(0))
    with pytest.raises(ConfigurationError, match="has 2 partitions and needs 3"):
        create_compacted(Cluster(broker.bootstrap), {changelog: 3})


def test_a_topic_is_deleted_and_made_again(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Its offsets begin anew, and the application with the oldest record of the new one."""
    name, source, target = make(broker.bootstrap, unique, 2)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=QUICK)

    @app.process(source, to=target)
    def copy(record: Record[str, str]) -> Out:
        return Out(key=record.key, value=record.value)

    feed(broker.bootstrap, source, numbers(40))
    with app.running():
        until_done(broker.bootstrap, name, source)
        delete(broker.bootstrap, source)
        create_topic(broker.bootstrap, source, 2)
        feed(broker.bootstrap, source, numbers(10, 40))
        until(lambda: sum(counted(broker.bootstrap, target).values()) >= 50, "the records of the new topic")
    assert counted(broker.bootstrap, target) == once(numbers(50))


# -- starts and ends ---------------------------------------------------------------------------------------------------

RESTORING = """
import pathlib, sys, time
from oncelog.app import App, Context, Record, state
from tests.support.apps import CLIENT
bootstrap, folder, name, source = sys.argv[1:]
app = App(name, bootstrap, state_folder=folder, client=CLIENT)
write = state.FileTable.write
def slow(self, *words):
    pathlib.Path(folder, "restoring").touch()
    time.sleep(0.2)
    write(self, *words)
state.FileTable.write = slow
@app.process(source)
def count(record: Record[str, str], ctx: Context) -> None:
    ctx.state["count"].add(record.key, 1)
app.run()
"""


def test_a_signal_ends_a_restore(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Nothing was processed yet, so there is nothing to finish: it does not wait for the budget of a stop."""
    name, source, _ = make(broker.bootstrap, unique)
    changelog = create_topic(broker.bootstrap, f"{name}.count.changelog", 1, cleanup_policy="compact")
    writer = producer(broker.bootstrap)
    for number in range(90_000):
        writer.produce(changelog, b"0", key=b"count\0%d" % number, partition=0)
    assert writer.flush(30) == 0
    feed(broker.bootstrap, source, ["x"])
    with Child(RESTORING, broker.bootstrap, str(tmp_path), name, source) as child:
        until((tmp_path / "restoring").exists, "the restore")
        began = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        assert child.wait() == 0, child.err
        assert time.monotonic() - began < 18


def test_a_database_that_is_away_is_said_in_a_sentence(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    name, source, _ = make(broker.bootstrap, unique)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    for url in (f"postgresql+psycopg://me:secret@127.0.0.1:{port}/shop", f"sqlite:///{tmp_path}/no/such/folder/a.db"):
        app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)

        @app.sink(source, database=url)
        def store(record: Record[str, str], db: Any) -> None: ...

        with pytest.raises(ConfigurationError, match="can't be used: ") as caught:
            app.running()
        assert "secret" not in str(caught.value)


def test_what_is_not_installed_is_named() -> None:
    program = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from oncelog.app import App\n"
        "App('a').outbox('orders', database='sqlite://', table='outbox')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ConfigurationError: databases need more: pip install 'oncelog[sql]'" in ran.stderr


METRICS = """
import sys
from oncelog.app import App, Record
app = App(sys.argv[2], sys.argv[1])
@app.process(sys.argv[3])
def count(record: Record[str, str]) -> None: ...
app.run(metrics=sys.argv[4])
"""


@pytest.mark.parametrize("metrics", ["nonsense", "127.0.0.1:99999", "192.0.2.1:9465"])
def test_metrics_that_can_not_be_served_are_a_setting(broker: Broker, unique: Unique, metrics: str) -> None:
    with Child(METRICS, broker.bootstrap, unique("app"), unique("in"), metrics) as child:
        assert child.wait() == 2
    assert f"metrics={metrics!r}" in child.err and "Traceback" not in child.err


def test_a_changelog_that_would_forget_is_refused(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Somebody has made it by hand, or a broker by itself: after a week its oldest values are gone, and so is the state."""
    name, source, target = make(broker.bootstrap, unique)
    create_topic(broker.bootstrap, f"{name}.count.changelog", 1)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    counter(app, source, target)
    feed(broker.bootstrap, source, ["x"])
    with pytest.raises(ConfigurationError, match=r"cleanup\.policy=delete: what it is to keep would be forgotten"):
        app.running().wait()
    assert counted(broker.bootstrap, target) == {}


def test_a_changelog_that_forgets_deletions_too_soon_is_refused(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """A checkpoint of up to 12 hours is gone on from: what was deleted since has to be told by the changelog still."""
    name, source, target = make(broker.bootstrap, unique)
    changelog = f"{name}.count.changelog"
    create_topic(broker.bootstrap, changelog, cleanup_policy="compact", delete_retention_ms=3_600_000)
    app = App(name, broker.bootstrap, state_folder=tmp_path, client=CLIENT)
    counter(app, source, target)
    feed(broker.bootstrap, source, ["x"])
    running = app.running()
    until(lambda: not running.is_running, "the application to end")
    with pytest.raises(ConfigurationError, match=r"delete\.retention\.ms=3600000: .*Set it to 86400000 or more"):
        running.wait()
    assert counted(broker.bootstrap, target) == {}


def test_a_changelog_keeps_deletions_whatever_the_brokers_default(broker: Broker, unique: Unique) -> None:
    """Brokers may have another ``log.cleaner.delete.retention.ms`` than Kafka's day."""
    changelog = unique("changelog")
    create_compacted(Cluster(broker.bootstrap), {changelog: 1})
    resource = ConfigResource(ConfigResource.Type.TOPIC, changelog)
    client = admin(broker.bootstrap)  # its end would end the request
    entry = client.describe_configs([resource])[resource].result(30)["delete.retention.ms"]
    assert (entry.value, entry.is_default) == ("86400000", False)


@pytest.mark.parametrize("fault", ["cut_at_next", "lose_reply_of_next"])
def test_a_topic_is_asked_for_again_where_its_creation_was_cut_off(
    broker: Broker, proxy: Proxy, unique: Unique, fault: str
) -> None:
    """Whether it was made or not; an application that starts while the network falters must not end."""
    changelog = unique("changelog")
    trap = getattr(proxy, fault)("create_topics")
    create_compacted(Cluster(proxy.bootstrap), {changelog: 2})
    assert trap.is_sprung
    assert len(admin(broker.bootstrap).list_topics(timeout=30).topics[changelog].partitions) == 2


@pytest.mark.parametrize("fault", ["cut_at_next", "lose_reply_of_next"])
def test_the_settings_of_a_changelog_are_asked_for_again_where_that_was_cut_off(
    broker: Broker, proxy: Proxy, unique: Unique, fault: str
) -> None:
    """One that forgets what it is to keep is refused, also in a moment when the network falters."""
    changelog = create_topic(broker.bootstrap, unique("changelog"))
    trap = getattr(proxy, fault)("describe_configs")
    with pytest.raises(ConfigurationError, match=r"cleanup\.policy=delete"):
        create_compacted(Cluster(proxy.bootstrap), {changelog: 1})
    assert trap.is_sprung
