"""The relay of an outbox: rows of a table become records, each once.

The rows and the relay's position (the last row sent) are one Kafka transaction; the position is a record of a compacted topic.
At the start the transactional id is taken over first, which ends what an earlier relay left open, then the position is
read (read_committed). So the position is never older or newer than the records. Sent rows are deleted later; whether they
are does not matter.

One relay works at a time, over all instances: whoever is given the only partition of the position's topic. It fences the one
before it by its transactional id.

Rows are read in an order in which none can come in later. In PostgreSQL ids are given before commits, so a row with a smaller
id may appear after one with a larger id was sent: therefore the order is by the row's transaction, and only transactions
older than every running one are read. SQLite has one writer, so ids are in the order of commits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sql
from confluent_kafka import Consumer
from sqlalchemy.engine import Connection

from oncelog.app import schema
from oncelog.app.errors import ConfigurationError, Undone
from oncelog.app.exchange import Fences, Name, member_of
from oncelog.app.intake import Intake, Place
from oncelog.app.meters import Meters
from oncelog.app.settings import Cluster, Limits, client_id_of
from oncelog.app.sinks import patiently
from oncelog.app.state import Changelog, MemoryTable
from oncelog.app.topics import create_compacted
from oncelog.app.topology import OutboxRoute
from oncelog.app.transactions import Sent, TransactionalProducer, initialized

log = logging.getLogger("oncelog.app")

_ROWS_MAX: Final = 1000
_LOOK_SECONDS: Final = 0.1
_START: Final = (0, 0)
_KEY: Final = b"position"

Position = tuple[int, int]
"""The transaction and the id of a row."""


class _Nothing:
    """The position's topic is read apart from the group; the group only says whose turn it is."""

    def of(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """From the beginning: there is one record for each transaction, soon compacted."""
        del consumer, halt
        return dict.fromkeys(places, 0)

    taken = of


class OutboxJob:
    """The relay, in a thread of its own."""

    def __init__(
        self,
        name: Name,
        route: OutboxRoute,
        cluster: Cluster,
        limits: Limits,
        meters: Meters,
        stop: threading.Event,
        halt: threading.Event,
    ) -> None:
        self._name = name
        self._route = route
        self._cluster = cluster
        self._limits = limits
        self._meters = meters
        self._stop = stop
        self._halt = halt
        self._engine = schema.engine_of(route.database)
        self._table = schema.outbox_table(route.table, self._engine.dialect.name)
        self._topic = f"{name.app}.position"
        self._fences = Fences()
        self._intake: Intake | None = None
        self._producer: TransactionalProducer | None = None
        self._position: Position = _START
        self._assignment = 0
        self._rows_max = _ROWS_MAX

    def run(self) -> None:
        """Until the application stops."""
        create_compacted(self._cluster, {self._topic: 1})
        try:
            while not self._stop.is_set():
                try:
                    self._round()
                except Undone as undone:
                    self._recover(undone)
        finally:
            self._drop_producer()
            if self._intake is not None:
                self._intake.close()
            self._engine.dispose()

    def _round(self) -> None:
        """Some rows, or a short wait."""
        if not self._is_our_turn():
            self._drop_producer()
            self._stop.wait(_LOOK_SECONDS)
            return
        producer = self._ready_producer()
        rows = patiently(self._rows, self._halt)
        if not rows:
            self._stop.wait(_LOOK_SECONDS)
            return
        if producer.is_disturbed:
            raise Undone("a connection was cut", renew=True)
        try:
            self._relay(producer, rows)
        except Undone as undone:
            if undone.blames_a_record:
                self._blame(rows, undone)
            raise
        self._rows_max = min(2 * self._rows_max, _ROWS_MAX)

    def _blame(self, rows: Sequence[sql.Row[Any]], undone: Undone) -> None:
        """Fewer rows at once, until it is known which one can't be sent. To send it is for a person then: order counts."""
        if len(rows) == 1:
            raise ConfigurationError(
                f"the row with id {rows[0].id} of the outbox {self._route.table} can't be sent: {undone}. Mend or delete it, "
                "and start again; the rows before it are sent"
            ) from undone
        self._rows_max = len(rows) // 2

    def _is_our_turn(self) -> bool:
        """Whether the group has given us the partition; a new assignment means that another may have had it."""
        if self._intake is None:
            self._intake = member_of(self._name, self._cluster, [self._topic], self._limits, _Nothing(), self._halt)
        self._intake.drain()
        number = self._intake.owned().get((self._topic, 0))
        if number is not None and number != self._assignment:
            self._drop_producer()
            self._assignment = number
        return number is not None

    def _ready_producer(self) -> TransactionalProducer:
        """Takes the id over, then reads where the one before has come to."""
        if self._producer is None:
            settings = self._cluster.for_producer(
                client_id=client_id_of(str(self._name)),
                transactional_id=self._name.app,
                timeout_seconds=self._limits.transaction_timeout,
            )
            self._producer = initialized(settings, self._halt)
            self._position = self._read_position()
            patiently(self._check_position, self._halt)
            log.info("relaying outbox=%s from position=%s", self._route.table, self._position)
        return self._producer

    def _read_position(self) -> Position:
        table = MemoryTable()
        settings = self._cluster.for_consumer(client_id=self._topic, group="", instance="")
        changelog = Changelog(settings, self._halt, self._stop)
        try:
            changelog.restore(table, self._topic, 0)
        finally:
            changelog.close()
        found = table.get(_KEY)
        return _START if found is None else msgspec.json.decode(found, type=Position)

    def _check_position(self) -> None:
        """A database that was moved to another server counts its transactions anew: below the position nothing is read."""
        with self._engine.begin() as db:
            horizon = self._horizon(db)
        if self._position[0] >= horizon:
            raise ConfigurationError(
                f"the outbox {self._route.table} was sent up to transaction {self._position[0]}, and its database has only "
                f"come to {horizon}: it was restored, or moved. Delete the rows that were sent, then the topic {self._topic}"
            )

    def _rows(self) -> Sequence[sql.Row[Any]]:
        table = self._table
        with self._engine.begin() as db:
            after = sql.tuple_(table.c.transaction_id, table.c.id) > sql.tuple_(*map(sql.literal, self._position))
            wanted = sql.select(table).where(after, table.c.transaction_id < self._horizon(db))
            return db.execute(wanted.order_by(table.c.transaction_id, table.c.id).limit(self._rows_max)).all()

    def _horizon(self, db: Connection) -> int:
        """All transactions below it have ended, and what they wrote is visible."""
        if db.dialect.name == "sqlite":
            return 1
        return int(db.execute(sql.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")).scalar_one())

    def _relay(self, producer: TransactionalProducer, rows: Sequence[sql.Row[Any]]) -> None:
        started = time.monotonic()
        position: Position = (int(rows[-1].transaction_id), int(rows[-1].id))
        sent = [self._record(row) for row in rows]
        sent.append(Sent(self._topic, _KEY, msgspec.json.encode(position), (), 0))
        producer.begin()
        producer.send(sent)
        producer.commit()
        self._position = position
        seconds = time.monotonic() - started
        self._meters.transaction("committed", len(rows), len(rows), seconds)
        log.info(
            "transaction outcome=committed outbox=%s producer_id=%d epoch=%d rows=%d position=%s ms=%d",
            *(self._route.table, producer.producer_id, producer.epoch, len(rows), position, seconds * 1000),
        )
        patiently(self._delete_sent, self._halt)

    def _record(self, row: sql.Row[Any]) -> Sent:
        try:
            headers = schema.headers_of(row.headers)
        except (TypeError, ValueError) as error:
            raise Undone(f"its headers are no list of names and values: {error}", blames_a_record=True) from error
        return Sent(self._route.topic, _content(row.record_key), _content(row.record_value), headers)

    def _delete_sent(self) -> None:
        """Rows up to the position; their records are committed."""
        table = self._table
        upto = sql.tuple_(table.c.transaction_id, table.c.id) <= sql.tuple_(*map(sql.literal, self._position))
        with self._engine.begin() as db:
            db.execute(table.delete().where(upto))

    def _recover(self, undone: Undone) -> None:
        """Whatever happened: a new producer, and the position decides. A fence means that it is another's turn."""
        log.info("undone outbox=%s: %s", self._route.table, undone)
        self._meters.transaction("aborted", 0, 0, 0.0)
        self._drop_producer()
        if undone.rejoin and self._intake is not None:
            self._intake.close()
            self._intake = None
        if undone.fenced:
            self._meters.fenced()
            if undone.rejoin:
                self._fences.check(self._cluster, self._name, undone)
        self._stop.wait(_LOOK_SECONDS)

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None


def _content(column: Any) -> bytes | None:
    return None if column is None else bytes(column)
