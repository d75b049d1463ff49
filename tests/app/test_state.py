"""``ctx.state``: in the same transaction as outputs and offsets, restored exactly, whatever happens to files and processes."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.apps import CLIENT, Child, done, feed, until, until_done
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, read_all
from tests.support.fixtures import TEST_OPTIONS, Broker
from tests.support.proxy import Proxy
from tests.support.raw import until_ended

from oncelog.app import App, Context, Out, Record
from oncelog.app.state import FileTable, PartitionState, Stores

Unique = Callable[[str], str]

COUNTER = """
import sys
from oncelog.app import App, Context, Out, Record
from tests.support.apps import CLIENT
bootstrap, folder, name, source, target = sys.argv[1:]
app = App(name, bootstrap, state_folder=folder, client=CLIENT, batch_records=20)
@app.process(source, to=target)
def count(record: Record[str, str], ctx: Context) -> Out:
    return Out(key=record.key, value=str(ctx.state["count"].add(record.key, 1)))
app.run(workers=2)
"""


def counter(app: App, source: str, target: str) -> None:
    @app.process(source, to=target)
    def count(record: Record[str, str], ctx: Context) -> Iterator[Out]:
        yield Out(key=record.key, value=str(ctx.state["count"].add(record.key, 1)))


def histories(bootstrap: str, topic: str) -> dict[str, list[int]]:
    """Each key's counts in the order written."""
    found: dict[str, list[int]] = {}
    for message in read_all(bootstrap, topic):
        found.setdefault((message.key() or b"").decode(), []).append(int(message.value() or b""))
    return found


def words(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [f"w{chance.randrange(20)}" for _ in range(count)]


def assert_counted(bootstrap: str, topic: str, fed: list[str]) -> None:
    """Every key was counted 1, 2, 3, ... to its number: nothing lost, nothing twice, and the state was never wrong."""
    expected = {word: list(range(1, times + 1)) for word, times in Counter(fed).items()}
    assert histories(bootstrap, topic) == expected


def test_state_survives_restarts_and_lost_files(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    source, target = (create_topic(broker.bootstrap, unique(name), 3) for name in ("in", "out"))
    fed: list[str] = []
    for number in range(4):
        app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)
        counter(app, source, target)
        more = words(150, number)
        feed(broker.bootstrap, source, more)
        fed += more
        with app.running(workers=1 + number % 2):
            until_done(broker.bootstrap, app.name, source)
        if number == 1:
            for file in tmp_path.rglob("*.sqlite*"):
                file.unlink()
    assert_counted(broker.bootstrap, target, fed)


def test_state_moves_with_its_partition(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    """Another instance takes over in the middle, and gives back what it has changed."""
    source, target = (create_topic(broker.bootstrap, unique(name), 4) for name in ("in", "out"))
    fed: list[str] = []

    def more(seed: int) -> None:
        fed.extend(words(100, seed))
        feed(broker.bootstrap, source, fed[-100:])
        until_done(broker.bootstrap, unique("app"), source)

    first, second = (
        App(unique("app"), broker.bootstrap, state_folder=tmp_path / name, instance=name, client=CLIENT)
        for name in ("one", "two")
    )
    for app in (first, second):
        counter(app, source, target)
    with first.running():
        more(1)
        with second.running():
            more(2)
            more(3)
        more(4)
    assert_counted(broker.bootstrap, target, fed)


def test_state_is_exact_after_kills(own_broker: BrokerProcess, unique: Unique, tmp_path: Path) -> None:
    source, target = (create_topic(own_broker.bootstrap, unique(name), 3) for name in ("in", "out"))
    arguments = (own_broker.bootstrap, str(tmp_path / "state"), unique("app"), source, target)
    chance, fed = random.Random(3), []
    for number in range(4):
        before, _ = done(own_broker.bootstrap, unique("app"), source)
        fed += words(300, number)
        feed(own_broker.bootstrap, source, fed[-300:])
        with Child(COUNTER, *arguments):
            until(lambda: done(own_broker.bootstrap, unique("app"), source)[0] > before, "progress")  # noqa: B023
            time.sleep(chance.random() * 0.05)
        if number == 2:
            shutil.rmtree(tmp_path / "state")
    with Child(COUNTER, *arguments) as last:
        until_done(own_broker.bootstrap, unique("app"), source)
        assert last.terminate() == 0, last.err
    assert_counted(own_broker.bootstrap, target, fed)


def test_an_aborted_transaction_leaves_no_state(broker: Broker, proxy: Proxy, unique: Unique, tmp_path: Path) -> None:
    """The broker ends a transaction that holds state; the same records come again, on the state from before."""
    source, target = (create_topic(broker.bootstrap, unique(name), 1) for name in ("in", "out"))
    app = App(unique("app"), proxy.bootstrap, state_folder=tmp_path, client=CLIENT, transaction_timeout=1)
    counter(app, source, target)
    fed = words(60, 9)
    feed(broker.bootstrap, source, fed)
    held = proxy.hold_next("txn_offset_commit")
    with app.running():
        held.wait()
        until_ended(broker.bootstrap, app.name)
        held.release()
        until_done(broker.bootstrap, app.name, source)
    aborted = app.meters.registry.get_sample_value("oncelog_app_transactions_total", {"outcome": "aborted"})
    assert aborted, "the transaction did not fail"
    assert_counted(broker.bootstrap, target, fed)


def test_state_is_restored_from_a_compacted_changelog(unique: Unique, tmp_path: Path) -> None:
    """A changelog that is compacted all the time, transactions that abort among it, and no file to begin with."""
    options = [*TEST_OPTIONS, "--set", "log.cleaner.backoff.ms=50"]
    with BrokerProcess(tmp_path / "broker", options=options) as broker:
        source, target = (create_topic(broker.bootstrap, unique(name), 2) for name in ("in", "out"))
        eager = {"cleanup_policy": "compact", "segment_ms": 1, "min_cleanable_dirty_ratio": 0.01}
        changelog = create_topic(broker.bootstrap, f"{unique('app')}.count.changelog", 2, **eager)
        fed: list[str] = []
        for number in range(4):
            app = App(unique("app"), broker.bootstrap, state_folder=tmp_path / "state", client=CLIENT, batch_records=10)
            counter(app, source, target)
            fed += words(200, number)
            feed(broker.bootstrap, source, fed[-200:])
            with app.running():
                until_done(broker.bootstrap, app.name, source)
            shutil.rmtree(tmp_path / "state")
            keys = len(set(fed))
            until(lambda: len(read_all(broker.bootstrap, changelog)) <= keys + 2 * 10, "compaction")  # noqa: B023
            if number == 1:
                broker.restart()
        assert_counted(broker.bootstrap, target, fed)
        broker.stop()


def test_a_failed_attempt_leaves_no_state(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    source, target, dead = (create_topic(broker.bootstrap, unique(name), 1) for name in ("in", "out", "dead"))
    app = App(unique("app"), broker.bootstrap, state_folder=tmp_path, client=CLIENT)

    @app.process(source, to=target, retry=2, dead_letter=dead)
    def count(record: Record[str, str], ctx: Context) -> Out:
        total = ctx.state["count"].add("all", 1)
        if record.value == "bad":
            raise ValueError
        return Out(key="all", value=str(total))

    feed(broker.bootstrap, source, ["a", "bad", "b", "bad", "c"])
    with app.running():
        until_done(broker.bootstrap, app.name, source)
    assert histories(broker.bootstrap, target) == {"all": [1, 2, 3]}


def test_a_store_is_a_mapping(tmp_path: Path) -> None:
    state = PartitionState(FileTable(tmp_path / "s.sqlite"))
    stores = Stores(state)
    one, two = stores["one"], stores["two"]
    one["b"], one["a"], two["a"] = 1, {"x": [1, 2]}, "other"
    assert list(one.items()) == [("a", {"x": [1, 2]}), ("b", 1)]
    state.keep_record()
    state.committed(10)
    del one["b"]
    assert ("b" in one, one.get("b", 5), two["a"]) == (False, 5, "other")
    state.keep_record()
    state.aborted()
    assert one["b"] == 1
    assert isinstance(state.table, FileTable)
    assert state.table.checkpoint == 10
    state.table.close()
