"""The durable rows: what the broker must know after a restart, as frozen values.

A row is replaced, never changed. Its durable form is a msgpack array ``[tag, fields...]``; the tag names the kind of row
and its version, so a row written by a newer release is refused with a sentence instead of being misread.
Rows that come with every batch or transaction are not tracked by the garbage collector: no row can hold a cycle.
New fields are added at the end with a default. Times are ms since the epoch; -1 means "never" or "none".

Two kinds follow from batch headers alone (``Partition``, ``Producer``): they are journalled only in a checkpoint.
Rules P1, P8, T1, T2, D8, O1, O5.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from oncelog.model.errors import StorageError
from oncelog.model.ids import NO_EPOCH, NO_PRODUCER, Epoch, LogId, ProducerId


class TransactionState(IntEnum):
    """The states of rule T1, under Kafka's names."""

    EMPTY = 0
    ONGOING = 1
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5


class Topic(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A topic: ``logs[i]`` is the log of partition i; ``configs`` holds only what was set on the topic."""

    name: str
    id: UUID
    logs: tuple[LogId, ...]
    configs: dict[str, str]
    created_ms: int


class TopicDeleted(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The topic and its logs are gone."""

    name: str


class BrokerConfig(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A dynamic broker setting; ``value`` None removes it."""

    name: str
    value: str | None


class ProducerIds(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The next producer id to give out."""

    next: ProducerId


class ProducerIdMarks(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """When producer ids were given out: ids from ``marks[i][0]`` on at ``marks[i][1]`` or later (rule D6)."""

    marks: tuple[tuple[ProducerId, int], ...]


class Cluster(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The id of this broker's cluster, made once."""

    id: str


class LogIds(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The next log's number: what deleted topics had is not given again. Written in checkpoints only."""

    next: LogId


class Transaction(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=20):
    """One transactional id (rules T1, T2, D8).

    ``logs`` and ``groups`` are what the open transaction has touched. ``last_epoch`` is the epoch before the newest bump
    (KIP-360), ``timed_out_epoch`` the epoch that a timeout ended while no other instance has taken over (rule D8).
    ``fence_reason`` says why the last producer was fenced, ``client_address`` where the present one is (rule D5).
    """

    id: str
    producer_id: ProducerId
    epoch: Epoch
    timeout_ms: int
    state: TransactionState
    previous_producer_id: ProducerId = NO_PRODUCER
    last_epoch: Epoch = NO_EPOCH
    timed_out_epoch: Epoch = NO_EPOCH
    logs: tuple[LogId, ...] = ()
    groups: tuple[str, ...] = ()
    started_ms: int = -1
    updated_ms: int = -1
    fence_reason: str = ""
    client_address: str = ""


class TransactionForgotten(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """The transactional id expired."""

    id: str


class WrittenBatch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One of the last batches of a producer on a partition, for the duplicate check (rule P1)."""

    sequence_first: int
    sequence_last: int
    offset_base: int
    timestamp_ms: int


class Producer(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=30):
    """What a partition knows of a producer: newest epoch, the window of its last batches, its open transaction."""

    log: LogId
    id: ProducerId
    epoch: Epoch
    window: tuple[WrittenBatch, ...]
    transaction_first_offset: int
    updated_ms: int
    coordinator_epoch: int = -1


class ProducerForgotten(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """The partition's producer expired (rule P8)."""

    log: LogId
    id: ProducerId


class AbortedRange(msgspec.Struct, frozen=True, array_like=True):
    """An aborted transaction on a partition: its first record's offset and its marker's (rule R2).

    ``stable_offset`` is the last stable offset after the marker: what ends later began there or after it.
    """

    producer_id: ProducerId
    offset_first: int
    offset_marker: int
    stable_offset: int


class Partition(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """A partition's log: bounds and aborted transactions. Written in checkpoints, and alone when records are deleted."""

    log: LogId
    topic: str
    index: int
    created_ms: int
    producer_id_created: ProducerId
    offset_start: int
    offset_next: int
    timestamp_max: int = -1
    aborted: tuple[AbortedRange, ...] = ()
    offset_compacted: int = 0


class LogStart(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """The log of a partition now starts at ``offset`` (retention, DeleteRecords)."""

    log: LogId
    offset: int


class LogCompacted(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """What is before ``offset`` is compacted: of aborted transactions that ended there nothing is left."""

    log: LogId
    offset: int


class GroupOffset(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=40):
    """A committed offset. ``version`` is the State's version when it was decided: later wins (rule O1)."""

    group: str
    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    committed_ms: int
    expires_ms: int
    version: int


class GroupOffsetDeleted(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """A committed offset was deleted or expired."""

    group: str
    topic: str
    partition: int


class PendingOffset(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=42):
    """An offset committed inside an open transaction: invisible until the commit, gone at the abort (rule O1)."""

    producer_id: ProducerId
    offset: GroupOffset


class PendingOffsetsSettled(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=43):
    """The producer's pending offsets in the group are over, whatever the outcome."""

    group: str
    producer_id: ProducerId


class Group(msgspec.Struct, frozen=True, array_like=True, tag=50):
    """A consumer group as it must survive a restart; ``body`` is the durable form of engine/groups' own value."""

    id: str
    protocol: str  # "classic" or "consumer"
    body: bytes


class GroupDeleted(msgspec.Struct, frozen=True, array_like=True, tag=51):
    """The group is gone, with its offsets."""

    id: str


class GroupMember(msgspec.Struct, frozen=True, array_like=True, tag=52):
    """A member of a group of the consumer protocol; ``body`` is the durable form of engine/groups' own value."""

    group: str
    id: str
    body: bytes


class GroupMemberDeleted(msgspec.Struct, frozen=True, array_like=True, tag=53):
    """The member has left, or was removed."""

    group: str
    id: str


Row: TypeAlias = (
    Topic
    | TopicDeleted
    | BrokerConfig
    | ProducerIds
    | ProducerIdMarks
    | Cluster
    | LogIds
    | Transaction
    | TransactionForgotten
    | Producer
    | ProducerForgotten
    | Partition
    | LogStart
    | LogCompacted
    | GroupOffset
    | GroupOffsetDeleted
    | PendingOffset
    | PendingOffsetsSettled
    | Group
    | GroupDeleted
    | GroupMember
    | GroupMemberDeleted
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Row])


def encode_rows(rows: Iterable[Row]) -> bytes:
    """The durable form of some rows."""
    return _encoder.encode(list(rows))


def decode_rows(data: bytes | memoryview) -> list[Row]:
    """The rows of ``encode_rows``. Raises StorageError for rows of a newer release or damaged ones."""
    try:
        return _decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise StorageError(
            f"a stored row can't be read ({error}): the data was written by a newer oncelog, or is damaged. "
            "Start the release that wrote it, or another --data folder."
        ) from None
