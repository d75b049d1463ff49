"""The low level, still safe: batches of records, each with one transaction that takes outputs and offsets.

    with Session(bootstrap="localhost:9092", app="copy", topics=["in"]) as session:
        for batch in session:
            with batch.transaction() as tx:
                for record in batch:
                    tx.send("out", record.key, record.value)

Leaving the ``with`` commits. An error raised inside aborts, goes back to the committed offsets and is passed on; catch it
around the ``with`` to go on: the records come again. What the brokers refuse for a while is handled inside: the transaction
is aborted, and the same records come in a later batch. The body may therefore run more than once for a record; its result
counts once. There is no method to commit offsets: they follow from the records that the ``for`` has handed out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from oncelog.app.errors import ConfigurationError, Undone
from oncelog.app.exchange import Exchange, Name
from oncelog.app.identity import Identity, checked_name
from oncelog.app.meters import Meters
from oncelog.app.records import Raw
from oncelog.app.settings import (
    BATCH_RECORDS,
    COMMIT_SECONDS,
    TRANSACTION_TIMEOUT_SECONDS,
    Cluster,
    Limits,
)
from oncelog.app.topics import check_topics
from oncelog.app.transactions import Headers, Sent

STATE_FOLDER = ".oncelog"


class Session:
    """A member of the group ``app`` and a transactional producer, from ``with`` to its end. For one thread.

    ``bootstrap``: HOST:PORT. ``topics``: what is read, from the oldest record at first. ``instance``: a name that no other
    living process of this app has and that is the same after a restart; else one is kept in ``state_folder``. ``worker``:
    tells sessions of one process apart. ``commit_interval`` and ``transaction_timeout``: seconds. ``commit_early``: as an
    ``App``'s. ``client``: more settings for librdkafka (security, sizes).

    Raises ConfigurationError and FencedByPeer.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        app: str,
        topics: Sequence[str],
        instance: str | None = None,
        worker: int = 0,
        state_folder: str | Path = STATE_FOLDER,
        batch_records: int = BATCH_RECORDS,
        commit_interval: float = COMMIT_SECONDS,
        commit_early: bool = True,
        transaction_timeout: float = TRANSACTION_TIMEOUT_SECONDS,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        if not topics:
            raise ConfigurationError("a session needs topics to read")
        self._app = checked_name("the application's name", app)
        self._topics = list(topics)
        self._instance = instance
        self._worker = worker
        self._state_folder = Path(state_folder)
        self._cluster = Cluster(bootstrap, client or {})
        self._limits = Limits(
            commit_interval=commit_interval,
            commit_early=commit_early,
            batch_records=batch_records,
            transaction_timeout=transaction_timeout,
        )
        self.meters = Meters()
        self._stop = threading.Event()
        self._halt = threading.Event()
        self._identity: Identity | None = None
        self._exchange: Exchange | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._close, gently=False)
            self._identity = Identity(self._app, self._state_folder, self._instance)
            check_topics(self._cluster, self._topics)
            name = Name(self._app, self._identity.instance, self._worker)
            self._exchange = Exchange(
                name, self._cluster, self._topics, self._limits, self.meters, self._stop, self._halt
            )
            self._exchange.open()
            undoing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(gently=kind is None or issubclass(kind, Exception))

    def _close(self, *, gently: bool) -> None:
        if self._exchange is not None:
            if gently:
                self._exchange.close()
            else:
                self._exchange.abandon()
            self._exchange = None
        if self._identity is not None:
            self._identity.close()
            self._identity = None

    def stop(self) -> None:
        """The iteration ends after the batch at hand. From any thread or signal handler."""
        self._stop.set()

    def __iter__(self) -> Iterator[SessionBatch]:
        exchange = self._exchange
        if exchange is None:
            raise ConfigurationError("a session is used inside its `with`")
        while records := exchange.take():
            batch = SessionBatch(exchange, records)
            yield batch
            if not batch.is_settled:
                exchange.undo("the batch was left without a transaction")
                raise ConfigurationError(
                    "a batch was left without `with batch.transaction()`: its records would come again for ever"
                )


class SessionBatch:
    """Records to process in one transaction; iterate to get them."""

    def __init__(self, exchange: Exchange, records: list[Raw]) -> None:
        self._exchange = exchange
        self._records = records
        self._handed_out = 0
        self.is_settled = False

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Raw]:
        """Each record once. One that was handed out counts as processed when the transaction commits."""
        for record in self._records[self._handed_out :]:
            self._handed_out += 1
            yield record

    def transaction(self) -> SessionTransaction:
        """The transaction of this batch; once."""
        if self.is_settled:
            raise ConfigurationError("a batch has one transaction; take the next batch")
        return SessionTransaction(self)

    def _commit(self) -> None:
        """At the transaction's end."""
        self.is_settled = True
        processed, rest = self._records[: self._handed_out], self._records[self._handed_out :]
        self._exchange.put_back(rest)
        if processed:
            self._exchange.commit(processed, [])
        else:
            self._exchange.undo("no record of the batch was processed")

    def _undo(self, why: str | Undone) -> None:
        """When the body has failed."""
        self.is_settled = True
        self._exchange.undo(why)

    def _send(self, record: Sent) -> None:
        self._exchange.send(record)


class SessionTransaction:
    """What ``with batch.transaction() as tx`` gives: ``send``, and nothing that could end it too early."""

    def __init__(self, batch: SessionBatch) -> None:
        self._batch = batch

    def send(
        self,
        topic: str,
        key: bytes | str | None = None,
        value: bytes | str | None = None,
        *,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """One record, visible to readers when and if the transaction commits. ``timestamp``: ms since 1970."""
        if self._batch.is_settled:
            raise ConfigurationError("the transaction has ended; send inside its `with`")
        self._batch._send(
            Sent(
                topic,
                _bytes(key),
                _bytes(value),
                _headers(headers),
                -1 if partition is None else partition,
                timestamp or 0,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._batch._commit()
            return False
        if isinstance(error, Exception):
            self._batch._undo(error if isinstance(error, Undone) else f"{type(error).__name__}: {error}")
        return isinstance(error, Undone)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    return list(headers)
