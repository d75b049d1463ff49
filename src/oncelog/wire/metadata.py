"""Metadata replies, written by hand: a piece for each topic that can be kept, and the frame around the pieces.

Encoding hundreds of partitions field by field costs more than all else about a Metadata request; the pieces change only when
topics do. Versions 0-13; from 9 on the compact form with tagged fields. Knows no state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple
from uuid import UUID

from oncelog.wire.replies import compact_string, plain_string, uvarint

#: "Operations were not asked for", on the wire.
OPERATIONS_UNASKED: Final = -(2**31)

_COMPACT: Final = 9
_NO_ID: Final = bytes(16)
_int32: Final = struct.Struct(">i").pack


class BrokerAddress(NamedTuple):
    """A node and where clients find it."""

    node_id: int
    host: str
    port: int


def topic_piece(
    version: int,
    name: str | None,
    topic_id: UUID | None,
    partitions: int,
    *,
    leader_id: int,
    error_code: int = 0,
    operations: int = OPERATIONS_UNASKED,
) -> bytes:
    """One topic of the reply. All partitions have the same leader, and it is the only replica.

    ``name`` may be None from version 12 on, where a topic was asked for by an id that nobody has.
    """
    parts = [struct.pack(">h", error_code), _string(version, name, is_nullable=version >= 12)]
    if version >= 10:
        parts.append(topic_id.bytes if topic_id is not None else _NO_ID)
    if version >= 1:
        parts.append(b"\0")
    parts.append(_count(version, partitions))
    tail = _partition_tail(version, leader_id)
    for index in range(partitions):
        parts += (b"\0\0", _int32(index), tail)
    if version >= 8:
        parts.append(_int32(operations))
    if version >= _COMPACT:
        parts.append(b"\0")
    return b"".join(parts)


@cache
def _partition_tail(version: int, leader_id: int) -> bytes:
    """What follows a partition's index: it is the same for all."""
    alone = _count(version, 1) + _int32(leader_id)
    parts = [_int32(leader_id)]
    if version >= 7:
        parts.append(_int32(0))
    parts += (alone, alone)
    if version >= 5:
        parts.append(_count(version, 0))
    if version >= _COMPACT:
        parts.append(b"\0")
    return b"".join(parts)


def metadata_reply(
    version: int,
    brokers: Iterable[BrokerAddress],
    topics: Sequence[bytes],
    *,
    cluster_id: str,
    controller_id: int,
    operations: int = OPERATIONS_UNASKED,
) -> bytes:
    """The body of the reply around the topics' pieces."""
    parts = [_int32(0)] if version >= 3 else []
    nodes = [_broker(version, broker) for broker in brokers]
    parts += (_count(version, len(nodes)), *nodes)
    if version >= 2:
        parts.append(_string(version, cluster_id, is_nullable=True))
    if version >= 1:
        parts.append(_int32(controller_id))
    parts.append(_count(version, len(topics)))
    parts += topics
    if 8 <= version <= 10:
        parts.append(_int32(operations))
    if version >= 13:
        parts.append(b"\0\0")
    if version >= _COMPACT:
        parts.append(b"\0")
    return b"".join(parts)


def _broker(version: int, broker: BrokerAddress) -> bytes:
    parts = [_int32(broker.node_id), _string(version, broker.host), _int32(broker.port)]
    if version >= 1:
        parts.append(_string(version, None, is_nullable=True))
    if version >= _COMPACT:
        parts.append(b"\0")
    return b"".join(parts)


def _string(version: int, text: str | None, *, is_nullable: bool = False) -> bytes:
    if text is None:
        assert is_nullable, "null where the protocol has no null"
        return b"\0" if version >= _COMPACT else b"\xff\xff"
    return compact_string(text) if version >= _COMPACT else plain_string(text)


def _count(version: int, number: int) -> bytes:
    return uvarint(number + 1) if version >= _COMPACT else _int32(number)
