"""``ctx.state``: keyed state of a processor, one SQLite file a partition, with a changelog in the same Kafka transaction.

What a handler changes is kept beside the file first. It goes into the changelog topic in the transaction that holds the
record's outputs and offset, and into the file when that transaction is known to be committed. So the file never holds
what was aborted. The file knows a **checkpoint**: an offset of the changelog before which it lacks nothing. What is
written twice is the same value, so reading the changelog from the checkpoint to its end always gives the exact state:
after a crash, after another process has had the partition, or with no file at all.

The state belongs to a partition of the source: records that must meet the same state need the same key, and a processor with
state reads one topic. Values are anything that JSON holds; memory is bounded, the rest is on disk.

What a handler was given is of no use when it has returned: a thread, a task or a variable that kept it would write into the
next record's transaction, or into another partition. And a value that it was given is a copy: one that was changed and not
stored again is refused, for the change would be lost without a word.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition

from oncelog.app.errors import ConfigurationError, Fate, Halted, fate_of
from oncelog.app.intake import asked, pause_after
from oncelog.app.topics import MISSING_SECONDS
from oncelog.app.transactions import STEP_SECONDS, Sent

log = logging.getLogger("oncelog.app")

Key = str | bytes | int
T = TypeVar("T")

_SEPARATOR: Final = b"\x00"
#: What nobody can change.
_IMMUTABLE: Final = frozenset((int, str, float, bool, type(None)))
#: Empty defaults of these classes are those that a handler may mean to fill. Others may be anything, and are not compared.
_TO_FILL: Final = (list, dict)
_MISSING: Final = object()
_READ_AT_ONCE: Final = 1000
_CACHE_KIB: Final = 8192
#: A checkpoint older than this is not gone on from: compaction removes the record of a deletion after a day (Kafka's
#: delete.retention.ms), and what was deleted meanwhile would stay.
CHECKPOINT_SECONDS_MAX: Final = 12 * 3600.0
#: One from the future was written before the clock was set back, and may be of any age; by less than this no clock matters.
_CLOCK_SECONDS: Final = 60.0
#: A restore that gets nothing for this long says why, and looks whether there is anything left to wait for.
_LOOK_SECONDS: Final = 5.0
#: Where it gets errors only, it ends after this time.
_ERROR_SECONDS_MAX: Final = 60.0
_PROGRESS: Final = (
    "CREATE TABLE IF NOT EXISTS progress "
    "(one INTEGER PRIMARY KEY CHECK (one = 1), changelog_offset INTEGER NOT NULL, written_at REAL NOT NULL)"
)


class Table(ABC):
    """The rows of one partition's state; all stores of a processor are in it."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """A value; None if there is none."""

    @abstractmethod
    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """All keys that begin so."""

    @abstractmethod
    def write(
        self, changes: Iterable[tuple[bytes, bytes | None]], checkpoint: int | None, as_of: float | None = None
    ) -> None:
        """All of it or nothing. None deletes; ``checkpoint`` None leaves that as it is; ``as_of`` None is now."""

    @property
    @abstractmethod
    def checkpoint(self) -> int:
        """The changelog's offset before which nothing is missing here."""

    @property
    @abstractmethod
    def checkpoint_at(self) -> float:
        """As of when that is so, in seconds since 1970: what was deleted later may be gone from the changelog."""

    @abstractmethod
    def clear(self) -> None:
        """As new."""


class MemoryTable(Table):
    """For the driver, and for what is small."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._checkpoint = 0

    @property
    def checkpoint(self) -> int:
        """As of the last write that named one."""
        return self._checkpoint

    @property
    def checkpoint_at(self) -> float:
        """It lives no longer than what it is for."""
        return time.time()

    def clear(self) -> None:
        """As new."""
        self._rows.clear()
        self._checkpoint = 0

    def get(self, key: bytes) -> bytes | None:
        """A value."""
        return self._rows.get(key)

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """All keys that begin so."""
        return [key for key in self._rows if key.startswith(prefix)]

    def write(
        self,
        changes: Iterable[tuple[bytes, bytes | None]],
        checkpoint: int | None,
        as_of: float | None = None,  # noqa: ARG002 - it is always new
    ) -> None:
        """Replaces and deletes."""
        self._checkpoint = self._checkpoint if checkpoint is None else checkpoint
        for key, value in changes:
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value


class FileTable(Table):
    """One SQLite file. Its checkpoint is in the same SQLite transaction as the rows that it speaks of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise self._useless(error) from error

    def __str__(self) -> str:
        """Its path, for messages."""
        return str(self._path)

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:  # what is there is no database: a copy can be made again
            log.warning("state-damaged file=%s, it is restored from its changelog: %s", self._path, error)
            for end in ("", "-wal", "-shm"):
                Path(f"{self._path}{end}").unlink(missing_ok=True)
            return _connected(self._path)

    def _useless(self, error: Exception) -> ConfigurationError:
        """Not the handler's failure: the record that it happened to must not become a dead letter."""
        return ConfigurationError(
            f"the state in {self._path} can't be used: {error}. Make room there, or delete the file: it is a copy, and is "
            "restored from its changelog"
        )

    def _rows(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._useless(error) from error

    @property
    def checkpoint(self) -> int:
        """The changelog's offset before which nothing is missing here."""
        ((offset,),) = self._rows("SELECT changelog_offset FROM progress")
        return int(offset)

    @property
    def checkpoint_at(self) -> float:
        """As of when; 0: never."""
        ((seconds,),) = self._rows("SELECT written_at FROM progress")
        return float(seconds)

    def get(self, key: bytes) -> bytes | None:
        """A value."""
        found = self._rows("SELECT value FROM rows WHERE key = ?", key)
        return bytes(found[0][0]) if found else None

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """All keys that begin so."""
        found = self._rows("SELECT key FROM rows WHERE substr(key, 1, ?) = ?", len(prefix), prefix)
        return [bytes(key) for (key,) in found]

    def write(
        self, changes: Iterable[tuple[bytes, bytes | None]], checkpoint: int | None, as_of: float | None = None
    ) -> None:
        """In one transaction; ``checkpoint`` None leaves it as it is."""
        run = self._connection.execute
        with self._transaction():
            for key, value in changes:
                if value is None:
                    run("DELETE FROM rows WHERE key = ?", (key,))
                else:
                    run(
                        "INSERT INTO rows VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        (key, value),
                    )
            if checkpoint is not None:
                at = time.time() if as_of is None else as_of
                run("UPDATE progress SET changelog_offset = ?, written_at = ?", (checkpoint, at))

    def clear(self) -> None:
        """As new, at once: a checkpoint without its rows would pass for a state that is empty."""
        with self._transaction():
            self._connection.execute("DELETE FROM rows")
            self._connection.execute("UPDATE progress SET changelog_offset = 0, written_at = 0")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield
        except sqlite3.Error as error:
            raise self._useless(error) from error

    def close(self) -> None:
        """The file may be opened again."""
        self._connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    run = connection.execute
    try:
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        run(f"PRAGMA cache_size=-{_CACHE_KIB}")
        run("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        run(_PROGRESS)
        run("INSERT OR IGNORE INTO progress VALUES (1, 0, 0)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class PartitionState:
    """The state of one partition while a worker has it: the table, and what the running batch and record have changed."""

    def __init__(self, table: Table) -> None:
        self.table = table
        #: Counts the handlers' calls: what one was given is not for a later one.
        self.turn = 0
        self._batch: dict[bytes, bytes | None] = {}
        self._record: dict[bytes, bytes | None] = {}
        self._lent: list[tuple[bytes, Any, bytes]] = []
        #: A handler may catch whatever it likes; that the table can't be read ends the application all the same.
        self._failure: ConfigurationError | None = None

    def get(self, key: bytes) -> bytes | None:
        """As the handler sees it."""
        for layer in (self._record, self._batch):
            if key in layer:
                return layer[key]
        try:
            return self.table.get(key)
        except ConfigurationError as error:
            self._failure = error
            raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def put(self, key: bytes, value: bytes | None) -> None:
        """None deletes."""
        self._record[key] = value

    def lend(self, key: bytes, value: Any) -> None:
        """A handler has this value now, and may change it."""
        self._lent.append((key, value, msgspec.json.encode(value)))

    def end_turn(self) -> None:
        """The handler has returned. ConfigurationError if it has changed a value and not stored it, or the table has failed."""
        self.turn += 1
        lent, self._lent = self._lent, []
        self._raise_failure()
        for key, value, before in lent:
            if self._record.get(key, before) == before and msgspec.json.encode(value) != before:
                self.drop_record()
                store, _, name = key.partition(_SEPARATOR)
                raise ConfigurationError(
                    f"the value of {name.decode(errors='replace')!r} in ctx.state[{store.decode()!r}] was changed and not "
                    "stored: it is a copy, so assign it when it is changed, or change a copy of your own (copy.deepcopy)"
                )

    def keys(self, prefix: bytes) -> list[bytes]:
        """All that have a value, sorted."""
        try:
            known = set(self.table.keys(prefix))
        except ConfigurationError as error:
            self._failure = error
            raise
        for layer in (self._batch, self._record):
            for key, value in layer.items():
                if key.startswith(prefix):
                    (known.discard if value is None else known.add)(key)
        return sorted(known)

    def keep_record(self) -> None:
        """The handler has succeeded: its changes join the batch's."""
        self._batch |= self._record
        self._record.clear()

    def drop_record(self) -> None:
        """It has failed. ConfigurationError if the table had failed before: that is nothing for a dead letter."""
        self.turn += 1
        self._lent.clear()
        self._record.clear()
        self._raise_failure()

    def changes(self) -> dict[bytes, bytes | None]:
        """What the batch has changed."""
        return self._batch

    def committed(self, checkpoint: int | None = None) -> None:
        """The transaction with these changes is committed."""
        if self._batch or checkpoint is not None:
            self.table.write(self._batch.items(), checkpoint)
        self._batch = {}

    def aborted(self) -> None:
        """It is not."""
        self._batch = {}
        self._record.clear()


class Store:
    """One named store of a handler's ``ctx.state``, as a mapping: ``get``, ``[]``, ``del``, ``in``, ``add``, ``items``."""

    def __init__(self, state: PartitionState, name: str, turn: int) -> None:
        self._state = state
        self._turn = turn
        self._prefix = name.encode() + _SEPARATOR

    def get(self, key: Key, default: Any = None, *, type: type[T] | Any = Any) -> Any:  # noqa: A002 - reads best
        """A value, or ``default``. ``type``: what it is to be read as, such as a msgspec Struct."""
        full = self._prefix + _key_bytes(key)
        found = self._now().get(full)
        value = default if found is None else msgspec.json.decode(found, type=type)
        cls = value.__class__
        if cls not in _IMMUTABLE if found is not None else cls in _TO_FILL and not value:
            self._state.lend(full, value)
        return value

    def add(self, key: Key, amount: Any) -> Any:
        """Adds to a number (0 at first); the sum."""
        total = self.get(key, 0) + amount
        self[key] = total
        return total

    def __getitem__(self, key: Key) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Key, value: Any) -> None:
        self._now().put(self._prefix + _key_bytes(key), msgspec.json.encode(value))

    def __delitem__(self, key: Key) -> None:
        self._now().put(self._prefix + _key_bytes(key), None)

    def __contains__(self, key: Key) -> bool:
        return self._now().get(self._prefix + _key_bytes(key)) is not None

    def items(self) -> Iterator[tuple[str, Any]]:
        """All keys (as text) and values of this partition, by key. The values are copies: nothing tells of changes to them."""
        for key in self._now().keys(self._prefix):
            found = self._now().get(key)
            if found is not None:
                yield key[len(self._prefix) :].decode(errors="replace"), msgspec.json.decode(found)

    def _now(self) -> PartitionState:
        if self._state.turn != self._turn:
            raise ConfigurationError(
                "ctx.state was used after its handler had returned, by a thread, a task or a variable that kept it. Use the "
                "ctx of each call, within the call"
            )
        return self._state


class Stores:
    """``ctx.state``: stores by name, made at their first use, for one call of a handler."""

    def __init__(self, state: PartitionState) -> None:
        self._state = state
        self._turn = state.turn

    def __getitem__(self, name: str) -> Store:
        if _SEPARATOR.decode() in name:
            raise ConfigurationError(f"a store's name has no zero byte: {name!r}")
        return Store(self._state, name, self._turn)


def _key_bytes(key: Key) -> bytes:
    if isinstance(key, bytes):
        return key
    if isinstance(key, str | int):
        return str(key).encode()
    raise TypeError(f"state is kept by str, bytes or int, not by {key!r}; a record without a key has no state")


def changelog_records(topic: str, partition: int, state: PartitionState) -> Iterator[Sent]:
    """What a batch has changed, for the changelog: None is a tombstone."""
    for key, value in state.changes().items():
        yield Sent(topic, key, value, (), partition, 0)


class Changelog:
    """Reads changelogs with a consumer of its own, outside of any group."""

    def __init__(self, settings: dict[str, Any], halt: threading.Event, stop: threading.Event) -> None:
        plain = {"enable.partition.eof": True, "auto.offset.reset": "earliest", "group.id": "oncelog-restore"}
        self._committed = Consumer(
            {**settings, **plain, "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        self._all = Consumer({**settings, **plain, "isolation.level": "read_uncommitted", "enable.auto.commit": False})
        self._halt = halt
        self._stop = stop

    def end(self, topic: str, partition: int) -> tuple[int, int]:
        """The first and the next offset, whatever is still open included: nothing that was ever committed is beyond."""
        place = TopicPartition(topic, partition)
        while True:
            answer = asked(lambda: self._all.get_watermark_offsets(place, STEP_SECONDS, cached=False), self._halt)
            if answer is not None:
                return answer
            self.partitions(topic)  # it may be gone, and then no attempt helps

    def partitions(self, topic: str) -> int:
        """How many a topic has, asked now. ConfigurationError if it is not there, and does not come back soon."""
        deadline = time.monotonic() + MISSING_SECONDS
        while True:
            found = asked(lambda: self._all.list_topics(topic, STEP_SECONDS).topics[topic], self._halt)
            if found is None:  # no broker answers, so none says that it is missing
                deadline = time.monotonic() + MISSING_SECONDS
            elif found.error is None:
                return len(found.partitions)
            elif time.monotonic() > deadline:
                raise ConfigurationError(
                    f"topic {topic} is gone: {found.error.str()}. Bring it back as it was, or begin anew under another name"
                )
            else:
                pause_after(found.error, self._halt)

    def restore(self, table: Table, topic: str, partition: int) -> int:
        """Brings a table up to the changelog's end; how many records that took.

        The last owner's transaction may be committed and not yet visible in every partition: so the end is the high watermark,
        and reading waits until the last stable offset has come there.
        """
        low, high = self.end(topic, partition)
        if table.checkpoint > high:
            raise ConfigurationError(
                f"changelog {topic}[{partition}] ends at {high}, and {table} has read it up to {table.checkpoint}: it was "
                "deleted, or has lost its end. Bring it back; or, to go on with what is left of this state, delete that file"
            )
        # A restore that is cut short leaves a checkpoint that is as old as the one that it began with.
        as_of, now = table.checkpoint_at, time.time()
        is_young = now - CHECKPOINT_SECONDS_MAX < as_of < now + _CLOCK_SECONDS
        if not is_young or not low <= table.checkpoint:
            table.clear()  # a changelog that has lost its beginning or its deletions since
            as_of = now
        read, position = 0, max(low, table.checkpoint)
        if position < high:
            self._committed.assign([TopicPartition(topic, partition, position)])
        looked_at = moved_at = time.monotonic()
        told: KafkaError | None = None
        while position < high:
            if (
                self._stop.is_set() or self._halt.is_set()
            ):  # there is no batch to be finished: nothing was processed yet
                raise Halted("stopped while state was restored")
            changes, reached, error = self._piece(topic, position)
            table.write(changes, reached, as_of)
            read += len(changes)
            told, now_at = error or told, time.monotonic()
            if reached != position:
                looked_at = moved_at = now_at
            elif now_at - looked_at > _LOOK_SECONDS:
                self._look(TopicPartition(topic, partition, position), high, told, now_at - moved_at)
                looked_at, told = time.monotonic(), None
            position = reached
        self._committed.unassign()
        table.write((), high)
        return read

    def _piece(self, topic: str, position: int) -> tuple[list[tuple[bytes, bytes | None]], int, KafkaError | None]:
        """What has come of a changelog, the offset after it, and an error that was told instead."""
        changes: list[tuple[bytes, bytes | None]] = []
        told = None
        first = self._committed.poll(0.2)
        for message in () if first is None else (first, *self._committed.consume(_READ_AT_ONCE, 0)):
            error = message.error()
            if error is None:
                changes.append((bytes(message.key() or b""), _value_bytes(message.value())))
                position = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                position = message.offset() or 0
            elif fate_of(error) is Fate.STOP:
                raise ConfigurationError(
                    f"changelog {topic}: {error.str()} ({error.name()}). Allow this user to read it"
                )
            else:
                told = error
        return changes, position, told

    def _look(self, place: TopicPartition, high: int, error: KafkaError | None, seconds: float) -> None:
        """Nothing has come for a while. An open transaction is waited for; not what is gone or can't be read."""
        name, (_, end) = f"changelog {place.topic}[{place.partition}]", self.end(place.topic, place.partition)
        if end < high:
            raise ConfigurationError(
                f"{name} ended at {high} and ends at {end} now: it was deleted while it was read. Bring it back as it was, or "
                "begin anew under another name"
            )
        why = "a transaction is open there" if error is None else f"{error.str()} ({error.name()})"
        log.warning("restoring %s offset=%d of=%d seconds=%d: %s", name, place.offset, high, seconds, why)
        if error is not None and seconds > _ERROR_SECONDS_MAX:
            raise ConfigurationError(f"{name} can't be read at offset {place.offset}: {why}. Mend it, and start again")

    def close(self) -> None:
        """Ends both consumers."""
        self._committed.close()
        self._all.close()


def _value_bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
