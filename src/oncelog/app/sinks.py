"""SQL sinks: what a handler writes and the offsets of its records are one database transaction.

The database says where to go on; the group's offsets are a hint for lag tools. Each assignment raises the owner's epoch of its
partitions. The transaction's last step is a compare-and-set on offset and epoch: no row means that another worker has the
partition, so everything is rolled back and this member joins the group anew. A commit whose answer is lost needs no guess:
the offsets are read again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import sqlalchemy as sql
from confluent_kafka import Consumer, KafkaException, TopicPartition
from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from oncelog.app import schema
from oncelog.app.errors import ConfigurationError, Halted, PoisonRecord, Undone
from oncelog.app.exchange import FENCED_SECONDS, Fences, Name, member_of
from oncelog.app.handlers import Trial
from oncelog.app.intake import Intake, Place, oldest, place_of
from oncelog.app.meters import Meters
from oncelog.app.pace import Pace
from oncelog.app.records import Raw
from oncelog.app.serializing import DecodeError
from oncelog.app.settings import Cluster, Limits
from oncelog.app.topology import Sink

log = logging.getLogger("oncelog.app")

_HINT_SECONDS: Final = 2.0
_AWAY_SECONDS: Final = 0.5
#: PostgreSQL's classes and codes of what is over some time: connections, shutdown and start, serialization and deadlock, a lock
#: that was not to be had. Not a statement's own timeout (57014), nor a full disk (53): some record may bring them about always.
_PASSING_STATES: Final = ("08", "57P0", "40", "55P03")

Result = TypeVar("Result")


class DatabasePositions:
    """Where a sink goes on, and under which epoch it owns each partition."""

    def __init__(self, engine: Engine, group: str) -> None:
        self._engine = engine
        self._group = group
        #: By partition: the next offset and the epoch that the compare-and-set expects.
        self.kept: dict[Place, tuple[int, int]] = {}

    def taken(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """For partitions newly assigned: raises their epochs, so that whoever had them before can't commit any more."""
        table = schema.offsets
        for place in places:
            if self._row(place, halt) is None:
                start = oldest(consumer, place, halt)
                patiently(lambda: self._insert(place, start), halt)  # noqa: B023 - called at once

        def own(db: Connection) -> dict[Place, int]:
            for place in places:
                db.execute(table.update().where(self._is(place)).values(owner_epoch=table.c.owner_epoch + 1))
            return self._read(db, places)

        return patiently(lambda: self._in_transaction(own), halt)

    def of(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """After a rollback: as they are in the database. A changed epoch is found out by the next compare-and-set."""
        del consumer
        epochs = {place: self.kept[place][1] for place in places if place in self.kept}
        found = patiently(lambda: self._in_transaction(lambda db: self._read(db, places)), halt)
        for place, epoch in epochs.items():
            self.kept[place] = (self.kept[place][0], epoch)
        return found

    def advance(self, db: Connection, offsets: dict[Place, int], held: Mapping[Place, tuple[int, int]]) -> None:
        """The compare-and-set, with what was ``kept`` when the records were taken. Undone: another has a partition.

        Not with what is kept now: a partition that was away meanwhile, and is here again, has a new epoch.
        """
        table = schema.offsets
        for place, offset in sorted(offsets.items()):
            expected, epoch = held[place]
            unchanged = sql.and_(self._is(place), table.c.next_offset == expected, table.c.owner_epoch == epoch)
            if db.execute(table.update().where(unchanged).values(next_offset=offset)).rowcount != 1:
                raise Undone(f"{place[0]}[{place[1]}] belongs to another worker now", rejoin=True)

    def advanced(self, offsets: dict[Place, int]) -> None:
        """The transaction with these is committed."""
        for place, offset in offsets.items():
            self.kept[place] = (offset, self.kept[place][1])

    def _in_transaction(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.begin() as db:
            return work(db)

    def _row(self, place: Place, halt: threading.Event) -> object:
        table = schema.offsets
        return patiently(
            lambda: self._in_transaction(
                lambda db: db.execute(sql.select(table.c.next_offset).where(self._is(place))).first()
            ),
            halt,
        )

    def _insert(self, place: Place, start: int) -> None:
        table = schema.offsets
        values = {
            "consumer_group": self._group,
            "topic": place[0],
            "partition": place[1],
            "next_offset": start,
            "owner_epoch": 0,
        }
        select = sql.select(*(sql.literal(value) for value in values.values())).where(
            ~sql.exists(sql.select(table.c.topic).where(self._is(place)))
        )
        with Trial() as trial:
            self._in_transaction(lambda db: db.execute(table.insert().from_select(list(values), select)))
        if trial.error is not None and not isinstance(trial.error, sql.exc.IntegrityError):
            raise trial.error  # another worker was first: its row is as good

    def _read(self, db: Connection, places: Sequence[Place]) -> dict[Place, int]:
        table, found = schema.offsets, {}
        for place in places:
            row = db.execute(sql.select(table.c.next_offset, table.c.owner_epoch).where(self._is(place))).one()
            found[place] = int(row.next_offset)
            self.kept[place] = (int(row.next_offset), int(row.owner_epoch))
        return found

    def _is(self, place: Place) -> sql.ColumnElement[bool]:
        table = schema.offsets
        topic, partition = place
        return sql.and_(table.c.consumer_group == self._group, table.c.topic == topic, table.c.partition == partition)


def is_passing(error: Exception) -> bool:
    """The database is away or busy: nobody's fault, and over some time."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if "sqlite" in type(error.orig).__module__:
        return isinstance(error, OperationalError) and ("locked" in str(error.orig) or "busy" in str(error.orig))
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING_STATES)
    return isinstance(error, OperationalError | InterfaceError)


def patiently(work: Callable[[], Result], halt: threading.Event) -> Result:
    """Again while the database is away."""
    while True:
        with Trial() as trial:
            return work()
        assert trial.error is not None
        if not is_passing(trial.error):
            raise trial.error
        log.warning("database away, trying again: %s", trial.error)
        if halt.wait(_AWAY_SECONDS):
            raise Halted("stopped while waiting for the database")


@contextmanager
def lent(db: Connection, name: str) -> Iterator[None]:
    """While a handler has the connection it can't end the transaction: what it wrote and its offsets would come apart."""
    refusals: list[ConfigurationError] = []

    def refused(_: Connection) -> None:
        error = ConfigurationError(
            f"{name} commits or rolls back: what a sink writes is committed with the offsets of its records, by the runtime. "
            "To take something back, raise, or use db.begin_nested()"
        )
        refusals.append(error)
        raise error

    for end in ("commit", "rollback"):
        sql.event.listen(db, end, refused)
    try:
        yield
    finally:
        for end in ("commit", "rollback"):
            sql.event.remove(db, end, refused)
        if refusals:
            # Whatever the handler made of it: the transaction is over for SQLAlchemy, and not for the database.
            db.invalidate()
            raise refusals[0]


class SinkJob:
    """One worker of a sink, in a thread of its own."""

    def __init__(
        self,
        name: Name,
        sink: Sink,
        cluster: Cluster,
        limits: Limits,
        meters: Meters,
        stop: threading.Event,
        halt: threading.Event,
    ) -> None:
        assert sink.database is not None
        self._name = name
        self._sink = sink
        self._cluster = cluster
        self._limits = limits
        self._meters = meters
        self._stop = stop
        self._halt = halt
        self._engine = schema.engine_of(sink.database)
        self._positions = DatabasePositions(self._engine, name.app)
        self._intake: Intake | None = None
        self._runner = asyncio.Runner()
        self._fences = Fences()
        self._pace = Pace(is_early=limits.commit_early)
        self._one_by_one = 0
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._pause_seconds = 0.0
        self._hint_at = 0.0
        self._held: dict[Place, tuple[int, int]] = {}

    def run(self) -> None:
        """Until the application stops."""
        try:
            while not self._stop.is_set():
                try:
                    self._round()
                except Undone as undone:
                    self._recover(undone)
        finally:
            if self._intake is not None:
                self._intake.close()
            self._runner.close()
            self._engine.dispose()

    def _ready_intake(self) -> Intake:
        if self._intake is None:
            self._intake = member_of(
                self._name, self._cluster, self._sink.topics, self._limits, self._positions, self._halt
            )
        return self._intake

    def _round(self) -> None:
        intake = self._ready_intake()
        records_max = 1 if self._one_by_one else self._limits.batch_records
        raws, assignments, offsets = intake.take(
            records_max, self._limits.commit_interval, self._stop, self._pace.early_at
        )
        if not raws:
            return
        self._held = {place: self._positions.kept[place] for place in assignments}
        if intake.assignments(assignments) != assignments:
            raise Undone("partitions were handed over and came back meanwhile")
        with Trial() as trial:
            self._store(raws, offsets)
        if trial.error is not None:
            self._failed(raws, trial.error)
        else:
            self._one_by_one = max(0, self._one_by_one - len(raws))
            self._hint(intake, offsets)
        intake.settle()
        self._pause()

    def _store(self, raws: Sequence[Raw], offsets: dict[Place, int]) -> None:
        """The handler's writes and the offsets, or nothing."""
        started = time.monotonic()
        with self._engine.begin() as db:
            self._write(db, raws)
            written_at = time.monotonic()  # what each record costs by itself is no reason to wait for more of them
            self._ready_intake().read_ahead()
            self._positions.advance(db, offsets, self._held)
        now = time.monotonic()
        self._pace.committed(written_at, now)
        self._positions.advanced(offsets)
        seconds = now - started
        self._meters.transaction("committed", len(raws), 0, seconds)
        places = ",".join(f"{topic}[{partition}]={offset}" for (topic, partition), offset in offsets.items())
        log.info(
            "transaction outcome=committed sink=%s worker=%s records=%d offsets=%s ms=%d",
            *(self._sink.name, self._name, len(raws), places, seconds * 1000),
        )

    def _write(self, db: Connection, raws: Sequence[Raw]) -> None:
        handler = self._sink.handler
        records = [handler.decode(raw) for raw in raws]
        with lent(db, self._sink.name):
            for group in [records] if handler.is_batch else [[record] for record in records]:
                handler.call(group, db, self._runner)

    def _failed(self, raws: Sequence[Raw], error: Exception) -> None:
        """All is rolled back; what was taken comes again, by the offsets in the database."""
        assert self._intake is not None
        self._pace.undone()
        if is_passing(error):
            log.warning("database away, rolled back sink=%s: %s", self._sink.name, error)
            self._pause_seconds = _AWAY_SECONDS
        elif len(raws) > 1:
            log.info("one-by-one sink=%s: %r", self._sink.name, error)
            self._one_by_one = len(raws)
        else:
            self._one_by_one = max(1, self._one_by_one)
            self._blame(raws[0], error)
        self._meters.transaction("aborted", len(raws), 0, 0.0)
        self._intake.rewind()

    def _blame(self, raw: Raw, error: Exception) -> None:
        """A record that fails alone: again, then into the table of dead letters with its offset, or the end."""
        place = (raw.topic, raw.partition, raw.offset)
        attempts = self._attempts[place] = self._attempts.get(place, 0) + 1
        if attempts < self._sink.retry.attempts and not isinstance(error, DecodeError):
            self._meters.retried(self._sink.name)
            self._pause_seconds = self._sink.retry.delay(attempts)
            return
        if not self._sink.dead_letter:
            raise PoisonRecord(raw.topic, raw.partition, raw.offset, attempts, error) from error
        offsets = {place_of(raw): raw.offset + 1}

        def bury() -> None:
            table, letter = schema.dead_letters, _letter(self._name.app, raw, attempts, error)
            same = sql.and_(*(key == letter[key.name] for key in table.primary_key))
            with self._engine.begin() as db:
                db.execute(table.delete().where(same))  # offsets were set back, or the topic was made anew
                db.execute(table.insert().values(letter))
                self._positions.advance(db, offsets, self._held)

        patiently(bury, self._halt)
        self._positions.advanced(offsets)
        del self._attempts[place]
        self._meters.dead_letter(self._sink.name)
        log.warning("dead-letter sink=%s %s[%d] offset=%d attempts=%d: %r", self._sink.name, *place, attempts, error)

    def _pause(self) -> None:
        until, self._pause_seconds = time.monotonic() + self._pause_seconds, 0.0
        while time.monotonic() < until and not self._stop.is_set():
            self._stop.wait(0.02)

    def _hint(self, intake: Intake, offsets: dict[Place, int]) -> None:
        """Kafka's own offsets, now and then; nothing depends on them."""
        if time.monotonic() < self._hint_at:
            return
        self._hint_at = time.monotonic() + _HINT_SECONDS
        try:
            intake.commit([TopicPartition(*place, offset) for place, offset in offsets.items()])
        except KafkaException as failure:
            log.debug("no hint: %s", failure)

    def _recover(self, undone: Undone) -> None:
        log.info("undone sink=%s: %s", self._sink.name, undone)
        self._pace.undone()
        if undone.fenced:
            self._meters.fenced()
            self._fences.check(self._cluster, self._name, undone)
            self._halt.wait(FENCED_SECONDS)
        if self._intake is None:
            return
        if undone.rejoin or undone.fenced:
            self._intake.close()
            self._intake = None
            return
        try:
            self._intake.rewind()
            self._intake.settle()
        except Undone as ended:  # the member itself, meanwhile: perhaps because another has its place
            ended.rejoin = True
            self._recover(ended)


def _letter(group: str, raw: Raw, attempts: int, error: Exception) -> dict[str, object]:
    return {
        "consumer_group": group,
        "topic": raw.topic,
        "partition": raw.partition,
        "record_offset": raw.offset,
        "record_key": raw.key,
        "record_value": raw.value,
        "headers": json.dumps([[name, None if value is None else value.hex()] for name, value in raw.headers]),
        "attempts": attempts,
        "error": f"{type(error).__name__}: {error}"[:1000],
    }
