"""The words of a handler: ``Record`` comes in, ``Out`` goes out; ``Batch`` is many records at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

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


Raw = Record[bytes | None, bytes | None]


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


def records_of(messages: Sequence[Message], topic: str | None = None) -> list[Raw]:
    """Consumed messages as records of bytes: quicker to read, and no work for the garbage collector.

    ``topic``: that of all of them, where it is known.
    """
    consumed: Sequence[Any] = messages  # nothing is missing of these, though the methods of a message may say so
    return [
        Record(
            topic or sys.intern(each.topic()),  # one string for all: quicker to compare, and nothing to keep
            each.partition(),
            each.offset(),
            each.key(),
            each.value(),
            () if (headers := each.headers()) is None else tuple(headers),
            stamp[1] if (stamp := each.timestamp())[0] != TIMESTAMP_NOT_AVAILABLE else None,
        )
        for each in consumed
    ]
