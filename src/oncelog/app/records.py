"""The words of a handler: ``Record`` comes in, ``Out`` goes out; ``Batch`` is many records at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from oncelog.app.intake import offset_of, place_of

K = TypeVar("K")
V = TypeVar("V")

Headers = tuple[tuple[str, bytes | None], ...]


class Record(msgspec.Struct, Generic[K, V], frozen=True):
    """A record that was read. ``timestamp``: ms since 1970, None if it has none. ``headers``: in order, names may repeat."""

    topic: str
    partition: int
    offset: int
    key: K
    value: V
    headers: Headers = ()
    timestamp: int | None = None

    def header(self, name: str) -> bytes | None:
        """The last header of this name; None if there is none."""
        return next((value for known, value in reversed(self.headers) if known == name), None)


class Out(msgspec.Struct, frozen=True, kw_only=True):
    """A record to send. ``topic``: the processor's ``to`` if not given. ``partition``: by the key if not given.

    ``key`` and ``value`` are bytes, str, or anything that the processor's serializer takes. ``timestamp``: ms since 1970.
    """

    key: Any = None
    value: Any = None
    topic: str | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None
    timestamp: int | None = None


class Batch(Sequence[V], Generic[V]):
    """Many records for one call of a handler: ``def store(batch: Batch[Record[str, Order]])``."""

    def __init__(self, records: Sequence[V]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index]

    def __iter__(self) -> Iterator[V]:
        return iter(self._records)


def record_of(message: Message) -> Record[bytes | None, bytes | None]:
    """A consumed message as a record of bytes."""
    topic, partition = place_of(message)
    kind, timestamp = message.timestamp()
    headers: Any = message.headers()
    return Record(
        topic,
        partition,
        offset_of(message),
        _raw(message.key()),
        _raw(message.value()),
        tuple((name, _raw(value)) for name, value in headers) if headers else (),
        None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
    )


def _raw(part: str | bytes | None) -> bytes | None:
    return part.encode() if isinstance(part, str) else part
