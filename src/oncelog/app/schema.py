"""The tables that sinks and outboxes keep in a user's database, made and brought up to date by ``oncelog app schema``.

``oncelog_offsets``: for each group, topic and partition the next offset and the owner's epoch, which only grows.
``oncelog_dead_letters``: records that a sink could not store. An outbox table: rows that become records. Of PostgreSQL it needs
version 13 or later; SQLite will do for one machine.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sql
from sqlalchemy import Column, Engine, MetaData, Table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.schema import CreateTable

from oncelog.app.errors import ConfigurationError
from oncelog.app.serializing import Serializer, encode

VERSION: Final = 1
DIALECTS: Final = ("postgresql", "sqlite")

#: An execution option: SQLite's lock for writing is not needed, nor waited for.
_READS_ONLY: Final = "oncelog_reads_only"

_BIG: Final = sql.BigInteger().with_variant(sql.Integer(), "sqlite")

_ours = MetaData()

schema_version = Table("oncelog_schema", _ours, Column("version", sql.Integer, primary_key=True, autoincrement=False))

offsets = Table(
    "oncelog_offsets",
    _ours,
    Column("consumer_group", sql.String(255), primary_key=True),
    Column("topic", sql.String(255), primary_key=True),
    Column("partition", sql.Integer, primary_key=True, autoincrement=False),
    Column("next_offset", sql.BigInteger, nullable=False),
    Column("owner_epoch", sql.BigInteger, nullable=False),
)

dead_letters = Table(
    "oncelog_dead_letters",
    _ours,
    Column("consumer_group", sql.String(255), primary_key=True),
    Column("topic", sql.String(255), primary_key=True),
    Column("partition", sql.Integer, primary_key=True, autoincrement=False),
    Column("record_offset", sql.BigInteger, primary_key=True, autoincrement=False),
    Column("record_key", sql.LargeBinary),
    Column("record_value", sql.LargeBinary),
    Column("headers", sql.Text, nullable=False),
    Column("attempts", sql.Integer, nullable=False),
    Column("error", sql.Text, nullable=False),
    Column("created_at", sql.DateTime, server_default=sql.func.current_timestamp(), nullable=False),
)


def outbox_table(name: str, dialect: str) -> Table:
    """An outbox. ``transaction_id`` makes PostgreSQL's rows readable in an order in which none can come in later."""
    current = sql.text("(pg_current_xact_id()::text::bigint)") if dialect == "postgresql" else sql.text("0")
    return Table(
        name,
        MetaData(),
        Column("id", _BIG, *([sql.Identity(always=True)] if dialect == "postgresql" else []), primary_key=True),
        Column("transaction_id", sql.BigInteger, server_default=current, nullable=False, index=True),
        Column("record_key", sql.LargeBinary),
        Column("record_value", sql.LargeBinary),
        Column("headers", sql.Text, server_default="[]", nullable=False),
        Column("created_at", sql.DateTime, server_default=sql.func.current_timestamp(), nullable=False),
        sqlite_autoincrement=True,
    )


def engine_of(url: str) -> Engine:
    """A pool of connections. ConfigurationError for a URL that can't be one of ours."""
    try:
        engine = sql.create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"database {url!r}: {error}. Give a URL such as postgresql+psycopg://user@host/name or sqlite:///file.db"
        ) from error
    if engine.dialect.name not in DIALECTS:
        raise ConfigurationError(f"database {engine.dialect.name}: only {' and '.join(DIALECTS)} are supported")
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _sqlite_connected)
        sql.event.listen(engine, "begin", _sqlite_begins)
    return engine


def _sqlite_connected(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event opens transactions, so that they take the lock at once
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error:
        connection.close()  # the pool does not know it yet
        raise


def _sqlite_begins(connection: Connection) -> None:
    how = "DEFERRED" if connection.get_execution_options().get(_READS_ONLY) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {how}")


@contextmanager
def _reached(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        url, why = engine.url.render_as_string(hide_password=True), " ".join(str(error.orig).split())
        raise ConfigurationError(
            f"the database {url} can't be used: {why}. Is it there, and is the URL right?"
        ) from error


def create(engine: Engine, outboxes: Iterable[str] = ()) -> None:
    """Makes what is missing, in one transaction. ConfigurationError if a newer release was here."""
    with _reached(engine), engine.begin() as db:
        _ours.create_all(db)
        for name in outboxes:
            outbox_table(name, engine.dialect.name).create(db, checkfirst=True)
        found = db.execute(sql.select(sql.func.max(schema_version.c.version))).scalar()
        if found is None:
            db.execute(schema_version.insert().values(version=VERSION))
        elif found > VERSION:
            raise ConfigurationError(
                f"the database was set up by a newer release (schema {found}, this one knows {VERSION})"
            )


def check(engine: Engine, outboxes: Sequence[str] = ()) -> None:
    """All is there; else a ConfigurationError that says how to make it. Whoever writes meanwhile is not waited for."""
    with _reached(engine):
        present = set(sql.inspect(engine.execution_options(**{_READS_ONLY: True})).get_table_names())
    missing = sorted({*_ours.tables, *outboxes} - present)
    if missing:
        raise ConfigurationError(f"the database lacks {', '.join(missing)}: run `oncelog app schema MODULE:APP` once")


def statements(dialect_of: Engine, outboxes: Iterable[str] = ()) -> str:
    """What ``create`` would run in an empty database, for those who run their own migrations."""
    tables = [*_ours.sorted_tables, *(outbox_table(name, dialect_of.dialect.name) for name in outboxes)]
    return "\n".join(str(CreateTable(table).compile(dialect_of)).strip() + ";" for table in tables)


class Outbox:
    """What ``app.outbox(...)`` gives to the code that writes rows: ``put``, in the caller's own database transaction."""

    def __init__(self, table: str, serializer: Serializer | None) -> None:
        self._name = table
        self._serializer = serializer

    def put(
        self, db: Connection, key: Any = None, value: Any = None, *, headers: Sequence[tuple[str, bytes | None]] = ()
    ) -> None:
        """One row: a record, if and when the transaction of ``db`` commits. Values as ``Out`` takes them."""
        kept = json.dumps([[name, None if content is None else content.hex()] for name, content in headers])
        row = {"record_key": encode(key), "record_value": encode(value, self._serializer), "headers": kept}
        db.execute(outbox_table(self._name, db.dialect.name).insert().values(row))


def headers_of(text: str) -> tuple[tuple[str, bytes | None], ...]:
    """The headers of an outbox row."""
    return tuple((name, None if content is None else bytes.fromhex(content)) for name, content in json.loads(text))
