"""``make chaos-apps``: whole applications tormented at random, as processes on a real broker; then every result is counted.

    python -m tests.chaos.applications --minutes 10 --seed 1

Two instances of the application of shop.py, now and then a third, each with two workers, stand behind a proxy before a broker
with a data folder. Three hands strike at once, each drawn from the seed:

| hand | strike | what happens |
|---|---|---|
| instances | kill | -9, now and then with a request of its transaction under way, that arrives when the next process is there |
| | stop | SIGTERM; it must end with exit code 0; the next start |
| | freeze | SIGSTOP, for shorter and longer than session and transaction timeout |
| | zombie | frozen past its session, replaced by a second process of its name, and woken when that works |
| | twin | two processes of one name, both awake |
| | busy | the database's lock is snatched again and again, and an instance killed while it waits for it |
| | extra | one more instance comes, or it leaves: a rebalance |
| network | cut | all connections |
| | lose | a reply, with its connection |
| | break | a connection, before its request arrives |
| | hold | a request, for up to 9 s |
| | late | a request that arrives when its client has given it up and gone on |
| | doubt | the reply to a commit is lost, and the commit that is repeated meets an error, or a fence: was it committed? |
| broker | | the strikes of tormentor.py |

Meanwhile an idempotent producer feeds numbered records, and rows go into the outbox, some of which are rolled back. At the end
the strikes stop, everything drains, and accounts.py says what is wrong. Exit code 0: nothing.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import sqlalchemy as sql
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from tests.chaos.accounts import Books, Seen, wrongs
from tests.chaos.instances import Instances, Life
from tests.chaos.shop import NAME, SESSION_SECONDS, SINK_GROUP, SINK_SOURCES, SOURCES, TABLE, TOPICS, Entry
from tests.chaos.tormentor import TormentedBroker, Tormentor
from tests.support.confluent import (
    committed,
    consumer,
    create_topic,
    partitions_of,
    producer,
    read_all,
    transactional_producer,
)
from tests.support.proxy import Proxy, Trap
from tests.support.raw import RawClient

from oncelog.app import schema
from oncelog.app.sinks import patiently

PARTITIONS = 4
KEYS = 23
POISON_EVERY = 29
ROLLED_BACK_EVERY = 8
PERMANENT, EXTRA = ("a", "b"), "c"
#: Records and rows a second; two cores have to bear it beside everything else.
RECORDS_A_SECOND, ROWS_A_SECOND = 100, 15
#: So long nothing at all may move when the strikes are over.
STANDSTILL_SECONDS_MAX = 180.0
#: A process is under way so long, at most, that it works.
WORK_SECONDS_MAX = 60.0
DUEL_SECONDS_MAX = 100.0
FREEZE_SECONDS = (0.3, 9.0)
#: INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING.
DOUBTS = (48, 49)
#: So long a request is waited for, and held at most.
CATCH_SECONDS_MAX, HELD_SECONDS_MAX = 3.0, 30.0

ON_INSTANCES = {"kill": 8, "stop": 3, "freeze": 3, "zombie": 3, "twin": 1, "extra": 3, "busy": 4}
ON_NETWORK = {"cut": 2, "lose": 5, "break": 2, "hold": 4, "late": 3, "doubt": 3}
ON_BROKER = {"kill": 5, "settling": 2, "freeze": 2, "stop": 2, "clock": 1, "full": 1}
APIS = {
    "end_txn": 5,
    "txn_offset_commit": 4,
    "add_partitions_to_txn": 3,
    "produce": 4,
    "add_offsets_to_txn": 2,
    "init_producer_id": 2,
    "offset_fetch": 2,
    "join_group": 1,
    "sync_group": 1,
}


class Stuck(Exception):
    """It does not come to an end."""


class Strike(NamedTuple):
    """What was done, in seconds since the beginning."""

    seconds: float
    by: str
    what: str

    def __str__(self) -> str:
        return f"{self.seconds:7.2f} s  {self.by:<9} {self.what}"


class Hand(threading.Thread):
    """Strikes again and again, until it is told that it is over. A strike says what it came to: ``kill a``."""

    def __init__(
        self,
        name: str,
        weights: Mapping[str, int],
        pause_seconds: tuple[float, float],
        strike: Callable[[str, random.Random], str],
        seed: int,
    ) -> None:
        super().__init__(name=f"hand {name}", daemon=True)
        self.strikes: list[Strike] = []
        self.error: Exception | None = None
        self.over = threading.Event()
        self._by, self._weights, self._pause, self._strike = name, weights, pause_seconds, strike
        self._chance = random.Random(seed)
        self._began = time.monotonic()

    def run(self) -> None:
        try:
            while not self.over.wait(self._chance.uniform(*self._pause)):
                how = self._chance.choices(list(self._weights), list(self._weights.values()))[0]
                at = time.monotonic() - self._began
                self.strikes.append(Strike(at, self._by, self._strike(how, self._chance)))
        except Exception as error:  # noqa: BLE001 - part of the verdict
            self.error = error


class Feeder(threading.Thread):
    """Numbered records, acknowledged each, and rows of the outbox; at an uneven pace, until told to stop."""

    def __init__(self, bootstrap: str, database: str, seed: int) -> None:
        super().__init__(name="feeder", daemon=True)
        self.fed: dict[str, tuple[int, int]] = {}
        #: Rows that were committed, in order, each with its key.
        self.rows: dict[str, str] = {}
        self.errors: list[str] = []
        self.stop = threading.Event()
        self._chance = random.Random(seed)
        # a record that is given up would be missing in the middle of the numbers
        self._producer = producer(bootstrap, message_timeout_ms=0)
        self._engine = schema.engine_of(database)
        self._outbox = schema.Outbox("outbox", None)
        self._number = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                burst = self._chance.choice((1, 1, 2, 5, 20, 100))
                for _ in range(burst):
                    self._feed()
                rows = max(1, burst * ROWS_A_SECOND // RECORDS_A_SECOND)
                for _ in range(rows):
                    self._put()
                until = time.monotonic() + self._chance.uniform(0.5, 1.5) * burst / RECORDS_A_SECOND
                while time.monotonic() < until and not self.stop.is_set():
                    self._producer.poll(0.02)
            if self._producer.flush(STANDSTILL_SECONDS_MAX):
                self.errors.append("not all inputs were acknowledged")
        finally:
            self._engine.dispose()

    def _feed(self) -> None:
        self._number += 1
        is_poison = self._number % POISON_EVERY == 0
        entry = Entry(f"in-{self._number}", -1 if is_poison else self._chance.randrange(1, 10))
        key = f"k{self._chance.randrange(KEYS)}"
        self._producer.produce("in", msgspec.json.encode(entry), key.encode(), on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.errors.append(f"the feeder: {error}")
            return
        entry = msgspec.json.decode(message.value() or b"", type=Entry)
        self.fed[entry.id] = (message.partition() or 0, message.offset() or 0)

    def _put(self) -> None:
        """In the web shop's transaction, which may be rolled back."""
        self._number += 1
        name, key = f"row-{self._number}", f"k{self._chance.randrange(KEYS)}"
        is_kept = self._chance.randrange(ROLLED_BACK_EVERY) > 0

        def put() -> None:
            with self._engine.connect() as db, db.begin() as transaction:
                self._outbox.put(db, key, Entry(name))
                if not is_kept:
                    transaction.rollback()

        patiently(put, threading.Event())
        if is_kept:
            self.rows[name] = key


class Torment:
    """The stage, from ``with`` to its end: broker, proxy, database, instances, feeder, hands."""

    def __init__(self, folder: Path, seed: int, *, weights: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self.folder, self.seed = folder, seed
        self.weights = {"instances": ON_INSTANCES, "network": ON_NETWORK, "broker": ON_BROKER, **(weights or {})}
        self.broker = TormentedBroker(folder / "broker")
        self.broker.options = ["--set", "group.initial.rebalance.delay.ms=0"]
        self.database = f"sqlite:///{folder / 'shop.db'}"
        self.proxy = Proxy(self.broker.port)
        self.instances = Instances("", folder, self.database)
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self.broker.start()
        self.proxy.open()
        self.instances.bootstrap = self.proxy.bootstrap
        for topic in TOPICS:
            create_topic(self.broker.bootstrap, topic, PARTITIONS)
        engine = schema.engine_of(self.database)
        schema.create(engine, ["outbox"])
        with engine.begin() as db:
            db.execute(sql.text(TABLE))
        engine.dispose()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as ending:  # from the last to the first, each whatever becomes of the others
            ending.callback(self.broker.close)
            ending.callback(self.proxy.close)
            ending.callback(self.instances.close)

    def run(self, seconds: float) -> tuple[list[str], list[Strike]]:
        """What is wrong afterwards, and what was done."""
        for name in PERMANENT:
            self.instances.start(name)
        feeder = Feeder(self.broker.bootstrap, self.database, self.seed)
        feeder.start()
        tormentor = Tormentor(self.broker, self.seed)
        hands = [
            Hand("instances", self.weights["instances"], (0.2, 2.5), self.strike_instances, self.seed + 1),
            Hand("network", self.weights["network"], (0.2, 2.0), self.strike_network, self.seed + 2),
            Hand(
                "broker", self.weights["broker"], (3.0, 9.0), lambda how, _: self._broker(tormentor, how), self.seed + 3
            ),
        ]
        for hand in hands:
            hand.start()
        threading.Event().wait(seconds)
        for hand in hands:
            hand.over.set()
        for hand in hands:
            hand.join()
        feeder.stop.set()
        feeder.join()
        strikes = sorted(strike for hand in hands for strike in hand.strikes)
        found = [*feeder.errors, *(f"a strike failed: {hand.error!r}" for hand in hands if hand.error is not None)]
        try:
            found += self._drained(feeder)
        except Stuck as stuck:
            found += [*self.instances.problems, str(stuck)]
        return found, strikes

    # -- strikes on instances -----------------------------------------------------------------------------------------

    def strike_instances(self, how: str, chance: random.Random) -> str:
        """One of ON_INSTANCES."""
        self.instances.supervise()
        name = chance.choice(list(self.instances.living))
        return str(getattr(self, f"_{how}")(name, chance))

    def _kill(self, name: str, chance: random.Random) -> str:
        """At any moment, or with a request of its transaction under way: that arrives when the next process is there."""
        life, trap = self.instances.living[name], self._at_request(name, chance)
        life.kill()
        if trap is not None:
            trap.cut()
        time.sleep(chance.choice((0.0, 0.0, 0.5, 2.0)))
        self.instances.start(name)
        if trap is not None:
            time.sleep(chance.uniform(0.5, 4.0))
            trap.release()
        return f"kill {name}{_under_way(trap)}"

    def _at_request(self, name: str, chance: random.Random) -> Trap | None:
        """Half of the time: a request of this instance's transactions, held."""
        if chance.random() < 0.5:
            return None
        api = chance.choice(("end_txn", "txn_offset_commit", "add_partitions_to_txn", "produce"))
        return self._caught(api, lambda request: f".{name}." in _transactional_id(request))

    def _caught(self, api: str, where: Callable[[Any], bool]) -> Trap | None:
        """The next such request, held, if it comes soon."""
        given_up = threading.Event()
        trap = self.proxy.hold_next(
            api, where=lambda request: not given_up.is_set() and where(request), seconds=HELD_SECONDS_MAX
        )
        self.instances.until(lambda: trap.is_sprung, CATCH_SECONDS_MAX)
        given_up.set()
        return trap if trap.is_sprung else None

    def _busy(self, name: str, chance: random.Random) -> str:
        """Whoever needs two transactions for one thing is met between them; and some wait for the lock in vain."""
        with closing(sqlite3.connect(self.folder / "shop.db", isolation_level=None, timeout=0)) as db:
            for _ in range(chance.randrange(1, 6)):
                if not self.instances.until(lambda: is_locked_by(db), CATCH_SECONDS_MAX, 0.0005):
                    return "nothing, for others have the lock"
                time.sleep(chance.choice((0.05, 0.1, 0.5)))
                db.execute("COMMIT")
            if not self.instances.until(lambda: is_locked_by(db), CATCH_SECONDS_MAX, 0.0005):
                return "nothing, for others have the lock"
            seconds = chance.choice((0.2, 0.5, 6.0))
            time.sleep(seconds)
            self.instances.living[name].kill()
            db.execute("COMMIT")
        self.instances.start(name)
        return f"busy for {seconds} s, kill {name}"

    def _stop(self, name: str, _: random.Random) -> str:
        self.instances.stop(name)
        self.instances.start(name)
        return f"stop {name}"

    def _freeze(self, name: str, chance: random.Random) -> str:
        life, seconds = self.instances.living[name], chance.uniform(*FREEZE_SECONDS)
        life.freeze()
        time.sleep(seconds)
        life.thaw()
        return f"freeze {name} {seconds:.1f} s"

    def _zombie(self, name: str, chance: random.Random) -> str:
        """Frozen past its session, perhaps with a request under way; replaced; woken when the other one works."""
        old, trap = self.instances.living[name], self._at_request(name, chance)
        old.freeze()
        time.sleep(SESSION_SECONDS + chance.uniform(0.5, 4.0))
        return f"zombie {name}{_under_way(trap)}, {self._duel(old, trap)}"

    def _twin(self, name: str, _: random.Random) -> str:
        """Two that are awake."""
        return f"twin {name}, {self._duel(self.instances.living[name], None)}"

    def _duel(self, old: Life, trap: Trap | None) -> str:
        """A second process of the old one's name, until one of the two gives up; who is left has the name."""
        new = self.instances.twin(old.name)
        self.instances.until(lambda: new.works() or {old.code, new.code} != {None}, WORK_SECONDS_MAX)
        if trap is not None:
            trap.release()
        old.thaw()
        if not self.instances.until(lambda: {old.code, new.code} != {None}, DUEL_SECONDS_MAX):
            old.kill()
            return "undecided"
        time.sleep(1.0)  # the other may have been told of a fence, too
        ended = [life for life in (old, new) if life.code is not None]
        for life in ended:
            self.instances.judge(life)
        if len(ended) == 2:
            self.instances.start(old.name, old.folder)
            return "both ended"
        self.instances.living[old.name] = new if old in ended else old
        return "the old one ended" if old in ended else "the new one ended"

    def _extra(self, name: str, _: random.Random) -> str:
        """One more, or one less: a rebalance."""
        if EXTRA in self.instances.living:
            self.instances.stop(EXTRA)
            del self.instances.living[EXTRA]
            return f"extra {EXTRA} leaves"
        self.instances.start(EXTRA)
        return f"extra {EXTRA} comes"

    # -- strikes on the network, and on the broker --------------------------------------------------------------------

    def strike_network(self, how: str, chance: random.Random) -> str:
        """One of ON_NETWORK."""
        if how == "cut":
            return f"cut {self.proxy.cut_all()} connections"
        api = chance.choices(list(APIS), list(APIS.values()))[0]
        skip, seconds = chance.randrange(4), chance.uniform(0.3, 9.0)
        if how == "doubt":
            return self._doubt(chance)
        if how == "late":
            return self._late(api, seconds / 3)
        if how == "lose":
            self.proxy.lose_reply_of_next(api, skip=skip)
        elif how == "break":
            self.proxy.cut_at_next(api, skip=skip)
        else:
            self.proxy.hold_next(api, skip=skip, seconds=seconds)
            return f"hold {api} {seconds:.1f} s"
        return f"{how} {api}"

    def _late(self, api: str, seconds: float) -> str:
        """Its client loses the connection, connects again, goes on; then the old request arrives."""
        trap = self._caught(api, lambda _: True)
        if trap is None:
            return f"nothing, for no {api} came"
        trap.cut()
        time.sleep(seconds)
        trap.release()
        return f"late {api}"

    def _doubt(self, chance: random.Random) -> str:
        """The client can't be told any more what has become of its commit: it has an error for an answer, or a fence."""
        given_up = threading.Event()
        lost = self.proxy.lose_reply_of_next("end_txn", where=lambda it: it.committed and not given_up.is_set())

        def is_again(request: Any) -> bool:
            return lost.is_sprung and not given_up.is_set() and request.transactional_id == _id_in(lost)

        if chance.random() < 0.5:
            again = self.proxy.refuse_next("end_txn", chance.choice(DOUBTS), where=is_again)
        else:
            again = self.proxy.hold_next("end_txn", where=is_again, seconds=HELD_SECONDS_MAX)
        self.instances.until(lambda: again.is_sprung, CATCH_SECONDS_MAX)
        given_up.set()
        if not again.is_sprung:
            return "lose end_txn" if lost.is_sprung else "nothing, for no commit came"
        if again.error_code == 0:
            self.instances.haunt(_id_in(lost).split(".")[1])
            try:
                transactional_producer(self.broker.bootstrap, _id_in(lost))
            except KafkaException as failure:
                return f"lose end_txn: {failure}"
            finally:
                again.release()
        return f"doubt of {_id_in(lost)}, error {again.error_code}"

    def _broker(self, tormentor: Tormentor, how: str) -> str:
        self.broker.assert_healthy()
        return tormentor.strike(how)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _drained(self, feeder: Feeder) -> list[str]:
        """All faults are over: until everything is done, then what is wrong. Stuck."""
        self.proxy.clear()
        address = self.broker.bootstrap
        self._until("the outbox is empty", lambda: (self._rows("SELECT id FROM outbox"), []))
        for topic in SOURCES:
            self._until(f"{NAME} has committed {topic}", lambda: self._group_and_end(topic))  # noqa: B023 - called at once
        for topic in SINK_SOURCES:
            self._until(f"the sink has stored {topic}", lambda: self._sink_and_end(topic))  # noqa: B023 - as well
        self._until("no transaction is open", lambda: (open_transactions(self.broker.port), []))
        for name in list(self.instances.living):
            self.instances.stop(name)
            del self.instances.living[name]
        inputs, totals, dead, orders, slips = (
            seen(address, name) for name in ("in", "totals", "dead", "orders", "slips")
        )
        stored = [str(row) for row in self._rows("SELECT id FROM stored")]
        books = Books(inputs, totals, dead, orders, slips, feeder.rows, stored)
        self.counts.update(records=len(inputs), rows=len(feeder.rows), results=len(slips))
        self.counts["transactions"] = self.instances.told("transaction outcome=committed")
        self.counts["found by offsets"] = self.instances.told("found by its offsets")
        self.broker.assert_healthy()
        held_up = [f"open: something in {topic} holds its readers up" for topic in held_up_topics(address)]
        return [*self.instances.problems, *held_up, *wrongs(books, feeder.fed)]

    def _until(self, what: str, question: Callable[[], tuple[object, object]]) -> None:
        """Until both parts of the answer are the same. Stuck if it does not change for long."""
        told, moved_at = question(), time.monotonic()
        while told[0] != told[1]:
            self.instances.supervise()
            time.sleep(0.3)
            before, told = told, question()
            if before != told:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > STANDSTILL_SECONDS_MAX:
                raise Stuck(f"nothing moves, and not yet is it so that {what}: {told[0]} instead of {told[1]}")

    def _group_and_end(self, topic: str) -> tuple[object, object]:
        end = ends(self.broker.bootstrap, topic)
        return committed(self.broker.bootstrap, NAME, topic, list(end)), end

    def _sink_and_end(self, topic: str) -> tuple[object, object]:
        end = ends(self.broker.bootstrap, topic)
        statement = (
            "SELECT partition, next_offset FROM oncelog_offsets WHERE consumer_group = :group AND topic = :topic"
        )
        kept = {row[0]: row[1] for row in self._rows(statement, group=SINK_GROUP, topic=topic)}
        return {index: kept.get(index, 0) for index in end}, end

    def _rows(self, statement: str, **values: str) -> list[Any]:
        engine = schema.engine_of(self.database)
        try:
            return patiently(lambda: selected(engine, statement, values), threading.Event())
        finally:
            engine.dispose()


def is_locked_by(db: sqlite3.Connection) -> bool:
    """It has the lock now, if it was free."""
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


def selected(engine: sql.Engine, statement: str, values: dict[str, str]) -> list[Any]:
    """Rows, or values where there is one column."""
    with engine.begin() as db:
        rows = db.execute(sql.text(statement), values).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in rows]


def _transactional_id(request: Any) -> str:
    """Its name depends on the version of AddPartitionsToTxn."""
    return getattr(request, "transactional_id", None) or getattr(request, "v3_and_below_transactional_id", None) or ""


def _id_in(trap: Trap) -> str:
    """Of the request that has sprung it."""
    return _transactional_id(trap.wait(0).entity)


def _under_way(trap: Trap | None) -> str:
    return "" if trap is None else f" in {trap.wait(0).api}"


def seen(bootstrap: str, topic: str) -> list[Seen]:
    """All that counts, as somebody sees it who takes part in nothing else."""
    return [
        Seen(
            message.partition() or 0,
            message.offset() or 0,
            (message.key() or b"").decode(),
            msgspec.json.decode(message.value() or b"", type=Entry),
        )
        for message in read_all(bootstrap, topic)
    ]


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    """Of each partition that has a record: the offset after its last one. Control batches come after that."""
    found: dict[int, int] = {}
    for message in read_all(bootstrap, topic):
        found[message.partition() or 0] = (message.offset() or 0) + 1
    return found


def open_transactions(port: int) -> list[str]:
    """Their transactional ids."""
    with RawClient(port) as client:
        reply = client.call("list_transactions", 0, state_filters=("Ongoing",), producer_id_filters=())
    return [state.transactional_id for state in reply.transaction_states]


def held_up_topics(bootstrap: str) -> list[str]:
    """Those where a reader of committed records does not come to the end."""
    clients = [consumer(bootstrap, "ends", isolation_level=f"read_{kind}") for kind in ("committed", "uncommitted")]
    try:
        return [
            name
            for name in sorted(clients[0].list_topics(timeout=30).topics)
            for place in (TopicPartition(name, index) for index in partitions_of(bootstrap, name))
            if len({client.get_watermark_offsets(place, timeout=30)[1] for client in clients}) == 2
        ]
    finally:
        for client in clients:
            client.close()


# -- the command ------------------------------------------------------------------------------------------------------


def report(torment: Torment, found: Sequence[str], strikes: Sequence[Strike]) -> str:
    """What was done, in a table; if something is wrong, all of it."""
    done = Counter(strike.what.split()[0] if strike.by != "broker" else "broker" for strike in strikes)
    instances = torment.instances.counts
    names = ("records", "rows", "results", "transactions", "found by offsets")
    columns = {
        **{name: torment.counts[name] for name in names},
        "processes": instances["starts"],
        **{name: done[name] for name in (*ON_INSTANCES, *ON_NETWORK)},
        "zombies fenced": instances["fenced"],
        "broker struck": done["broker"],
        "broker starts": torment.broker.starts,
        "violations": len(found),
    }
    table = (
        f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n| {' | '.join(f'{n:,}' for n in columns.values())} |\n"
    )
    lines = [f"seed {torment.seed}", *(str(strike) for strike in strikes), *(f"WRONG: {each}" for each in found)]
    return table + ("\n".join(lines) + "\n" if found else "")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.applications", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="show the strikes of a run where nothing is wrong, too")
    parser.add_argument("--instances", default="", help="only these strikes on instances, by comma")
    options = parser.parse_args()
    weights = {name: ON_INSTANCES[name] for name in options.instances.split(",") if name} or ON_INSTANCES
    logging.getLogger("oncelog.app").setLevel(logging.ERROR)  # the feeder's: that the database is busy is no news
    folder = Path(tempfile.mkdtemp(prefix="oncelog-torment-"))
    with Torment(folder, options.seed, weights={"instances": weights}) as torment:
        found, strikes = torment.run(options.minutes * 60)
        sys.stdout.write(report(torment, found, strikes))
    if options.verbose and not found:
        sys.stdout.write("".join(f"{strike}\n" for strike in strikes))
    if found:
        sys.stdout.write(f"what the processes have logged, the broker's folder and the database are kept in {folder}\n")
        return 1
    shutil.rmtree(folder)
    sys.stdout.write(f"seed {options.seed}, {options.minutes:g} minutes of strikes: nothing is wrong\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
