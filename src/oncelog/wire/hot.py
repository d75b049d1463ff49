"""Replies written by hand: Produce 3-13 and Fetch 4-18.

Produce because it is the most frequent, Fetch because records must reach the socket as the buffers that they are, never copied.
All other replies are made by the encoders of replies.py, which need a microsecond or less for the small ones.

Fields for replicas, tiers and other leaders are left at their defaults: this is the only node. The throttle time is always 0.
The oracle of the tests is kio's writer, as for replies.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from oncelog.wire.replies import (
    compact_string,
    plain_string,
    plain_string_or_null,
    uuid_bytes,
    uvarint,
)

#: (partition, error code, base offset, append time in ms or -1, log start offset, what is wrong in words)
ProducedPartition: TypeAlias = tuple[int, int, int, int, int, str | None]

#: First versions with topic ids.
_PRODUCE_IDS: Final = 13
_FETCH_IDS: Final = 13

_int32 = struct.Struct(">i").pack
_aborted = struct.Struct(">qq").pack

# -- Produce ----------------------------------------------------------------------------------------------------------

_produced_3 = struct.Struct(">ihqq").pack
_produced_5 = struct.Struct(">ihqqq").pack
#: 8: no record errors follow, then the message.
_produced_8 = struct.Struct(">ihqqqi").pack
#: 9: the same, compact; the message and the tags follow.
_produced_9 = struct.Struct(">ihqqqB").pack
#: 9, the common case: no record errors, no message, no tags.
_produced_9_well = struct.Struct(">ihqqqBBB").pack
_NO_THROTTLE: Final = bytes(4)
#: No tags after the topic, no throttle time, no tags after all.
_PRODUCE_END_9: Final = bytes(5)


def produce_reply(version: int, topics: Sequence[tuple[str | UUID, Sequence[ProducedPartition]]]) -> bytes:
    """The body. Topics by name, from version 13 on by id. A message for people goes out from version 8 on."""
    if version >= 9:
        return _produce_reply_9(version, topics)
    parts = [_int32(len(topics))]
    for topic, partitions in topics:
        assert isinstance(topic, str), "a topic id before version 13"
        parts += (plain_string(topic), _int32(len(partitions)))
        for index, error, offset, time_ms, offset_start, message in partitions:
            if version >= 8:
                parts.append(_produced_8(index, error, offset, time_ms, offset_start, 0))
                parts.append(plain_string_or_null(message))
            elif version >= 5:
                parts.append(_produced_5(index, error, offset, time_ms, offset_start))
            else:
                parts.append(_produced_3(index, error, offset, time_ms))
    parts.append(_NO_THROTTLE)
    return b"".join(parts)


def _produce_reply_9(version: int, topics: Sequence[tuple[str | UUID, Sequence[ProducedPartition]]]) -> bytes:
    parts = [uvarint(len(topics) + 1)]
    for topic, partitions in topics:
        parts += (_topic(topic, is_id=version >= _PRODUCE_IDS), uvarint(len(partitions) + 1))
        for index, error, offset, time_ms, offset_start, message in partitions:
            if message is None:
                parts.append(_produced_9_well(index, error, offset, time_ms, offset_start, 1, 0, 0))
            else:
                parts.append(_produced_9(index, error, offset, time_ms, offset_start, 1))
                parts += (compact_string(message), b"\0")
        parts.append(b"\0")
    parts.append(_PRODUCE_END_9)
    return b"".join(parts)


def _topic(topic: str | UUID | None, *, is_id: bool) -> bytes:
    """A topic's name or id, flexible form. No id is the zero id."""
    if is_id:
        assert not isinstance(topic, str), "a topic's name where its id is due"
        return uuid_bytes(topic)
    assert isinstance(topic, str), "a topic's id where its name is due"
    return compact_string(topic)


# -- Fetch ------------------------------------------------------------------------------------------------------------


class FetchedPartition(NamedTuple):
    """What a fetch got from one partition. Offsets are -1 with an error. Records are whole batches, in order."""

    partition: int
    error: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    #: (producer id, first offset) of aborted transactions, for read_committed; else None (rule R2).
    aborted: Sequence[tuple[int, int]] | None
    records: Sequence[bytes | memoryview]


_fetched_4 = struct.Struct(">ihqq").pack
_fetched_5 = struct.Struct(">ihqqq").pack
#: Throttle time, error, session.
_fetch_head_7 = struct.Struct(">ihi").pack
_NO_REPLICA: Final = b"\xff\xff\xff\xff"
#: Partitions that are encoded in one step.
_PARTITIONS_A_STEP: Final = 1_000


def fetch_reply(
    version: int, error: int, session_id: int, topics: Sequence[tuple[str | UUID, Sequence[FetchedPartition]]]
) -> list[bytes | memoryview]:
    """The body as buffers, the records among them as they were given. Topics by name, from version 13 on by id.

    ``error`` and ``session_id`` exist from version 7 on.
    """
    steps = fetch_reply_in_steps(version, error, session_id, topics)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            pieces: list[bytes | memoryview] = end.value
            return pieces


def fetch_reply_in_steps(
    version: int, error: int, session_id: int, topics: Sequence[tuple[str | UUID, Sequence[FetchedPartition]]]
) -> Generator[None, None, list[bytes | memoryview]]:
    """The same in steps."""
    count_left = _PARTITIONS_A_STEP
    pieces: list[bytes | memoryview] = []
    parts = [_NO_THROTTLE if version < 7 else _fetch_head_7(0, error, session_id)]
    is_flexible = version >= 12
    count: Callable[..., bytes] = _compact_count if is_flexible else _int32
    parts.append(count(len(topics)))
    for topic, partitions in topics:
        if is_flexible:
            parts.append(_topic(topic, is_id=version >= _FETCH_IDS))
        else:
            assert isinstance(topic, str), "a topic id before version 13"
            parts.append(plain_string(topic))
        parts.append(count(len(partitions)))
        for part in partitions:
            count_left -= 1
            if count_left == 0:
                count_left = _PARTITIONS_A_STEP
                yield
            _add_partition(parts, version, part)
            if part.records:
                parts.append(count(sum(map(len, part.records))))
                pieces.append(b"".join(parts))
                pieces += part.records
                parts = []
            else:
                parts.append(count(0))
            if is_flexible:
                parts.append(b"\0")
        if is_flexible:
            parts.append(b"\0")
    if is_flexible:
        parts.append(b"\0")
    if parts:
        pieces.append(b"".join(parts))
    return pieces


def _compact_count(number: int) -> bytes:
    return uvarint(number + 1)


def _add_partition(parts: list[bytes], version: int, part: FetchedPartition) -> None:
    """Everything of a partition that stands before its records."""
    index, error, high_watermark, offset_stable, offset_start, aborted, _ = part
    if version >= 5:
        parts.append(_fetched_5(index, error, high_watermark, offset_stable, offset_start))
    else:
        parts.append(_fetched_4(index, error, high_watermark, offset_stable))
    if version >= 12:
        if aborted is None:
            parts.append(b"\0")
        else:
            parts.append(uvarint(len(aborted) + 1))
            parts += [_aborted(*one) + b"\0" for one in aborted]
    elif aborted is None:
        parts.append(b"\xff\xff\xff\xff")
    else:
        parts.append(_int32(len(aborted)))
        parts += [_aborted(*one) for one in aborted]
    if version >= 11:
        parts.append(_NO_REPLICA)
