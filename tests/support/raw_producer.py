"""A transactional producer made of raw requests, and raw reads: every step is the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.batches import Batch, batch, batches
from tests.support.raw import RawClient

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


def create_topic(raw: RawClient, topic: str, partitions: int = 1) -> str:
    reply = raw.call(
        "create_topics",
        5,
        topics=[{"name": topic, "num_partitions": partitions, "replication_factor": 1}],
        timeout=10_000,
    )
    assert [each.error_code for each in reply.topics] == [0]
    return topic


class RawProducer:
    """Speaks TV1 (the versions of kafka-python). ``coordinator``, ``leader`` and ``offsets`` may be three connections."""

    def __init__(self, raw: RawClient, transactional_id: str | None, *, timeout_ms: int = 60_000) -> None:
        self.coordinator = self.leader = self.offsets = raw
        self.transactional_id = transactional_id
        self.timeout_ms = timeout_ms
        self.producer_id, self.epoch = -1, -1
        self.sequences: dict[tuple[str, int], int] = {}

    def init(self) -> RawProducer:
        """As a new instance."""
        assert self.init_as(-1, -1) == 0
        return self

    def init_as(self, producer_id: int, epoch: int, *, version: int = 4) -> int:
        """The error code of InitProducerId from a caller that says it is this one (KIP-360)."""
        session = {"producer_id": producer_id, "producer_epoch": epoch} if version >= 3 else {}
        reply = self.coordinator.call(
            "init_producer_id",
            version,
            transactional_id=self.transactional_id,
            transaction_timeout=self.timeout_ms,
            **session,
        )
        if reply.error_code == 0:
            self.producer_id, self.epoch = reply.producer_id, reply.producer_epoch
            self.sequences.clear()
        return int(reply.error_code)

    def add(self, topic: str, *partitions: int) -> list[int]:
        """The error codes of AddPartitionsToTxn."""
        reply = self.coordinator.call(
            "add_partitions_to_txn",
            3,
            v3_and_below_transactional_id=self.transactional_id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[{"name": topic, "partitions": list(partitions)}],
        )
        results = reply.results_by_topic_v3_and_below[0].results_by_partition
        return [int(each.partition_error_code) for each in results]

    def produce(self, topic: str, partition: int, *values: bytes, sequence: int | None = None, version: int = 9) -> Any:
        """The partition's part of the reply. Takes the next sequence number unless told otherwise."""
        at = (topic, partition)
        if sequence is None:
            sequence = self.sequences.get(at, 0)
            self.sequences[at] = sequence + len(values)
        data = batch(
            values,
            producer_id=self.producer_id,
            epoch=self.epoch,
            sequence=sequence,
            transactional=self.transactional_id is not None,
        )
        return produce_bytes(
            self.leader, topic, partition, data, transactional_id=self.transactional_id, version=version
        )

    def add_group(self, group: str) -> int:
        return int(
            self.coordinator.call(
                "add_offsets_to_txn",
                3,
                transactional_id=self.transactional_id,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                group_id=group,
            ).error_code
        )

    def commit_offset(
        self, group: str, topic: str, partition: int, offset: int, *, version: int = 3, **member: Any
    ) -> int:
        """The error code of TxnOffsetCommit; ``member`` may hold ``generation_id`` and ``member_id``."""
        reply = self.offsets.call(
            "txn_offset_commit",
            version,
            transactional_id=self.transactional_id,
            group_id=group,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            **{"generation_id": -1, **member},
            topics=[{"name": topic, "partitions": [{"partition_index": partition, "committed_offset": offset}]}],
        )
        return int(reply.topics[0].partitions[0].error_code)

    def end(self, *, commit: bool, version: int = 3) -> int:
        """The error code of EndTxn; from version 5 on the reply's producer id and epoch are taken over."""
        reply = self.coordinator.call(
            "end_txn",
            version,
            transactional_id=self.transactional_id,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            committed=commit,
        )
        if version >= 5 and reply.error_code == 0:
            self.producer_id, self.epoch = reply.producer_id, reply.producer_epoch
            self.sequences.clear()
        return int(reply.error_code)


def produce_bytes(
    raw: RawClient, topic: str, partition: int, data: bytes, *, transactional_id: str | None = None, version: int = 9
) -> Any:
    """The partition's part of the reply to a Produce of some bytes."""
    reply = raw.call(
        "produce",
        version,
        transactional_id=transactional_id,
        acks=-1,
        timeout=10_000,
        topic_data=[{"name": topic, "partition_data": [{"index": partition, "records": data}]}],
    )
    return reply.responses[0].partition_responses[0]


def fetch(
    raw: RawClient,
    topic: str,
    partitions: int | Sequence[int],
    offset: int = 0,
    *,
    isolation: int = READ_COMMITTED,
    bytes_max: int = 1 << 24,
    wait_ms: int = 0,
) -> Any:
    """The part of the reply for a partition; for several, a list by partition."""
    indexes = [partitions] if isinstance(partitions, int) else list(partitions)
    reply = raw.call(
        "fetch",
        11,
        max_wait=wait_ms,
        min_bytes=1 if wait_ms else 0,
        max_bytes=bytes_max,
        isolation_level=isolation,
        session_epoch=-1,
        topics=[
            {
                "topic": topic,
                "partitions": [
                    {"partition": index, "fetch_offset": offset, "partition_max_bytes": bytes_max} for index in indexes
                ],
            }
        ],
        rack_id="",
    )
    assert reply.error_code == 0
    parts = sorted(reply.responses[0].partitions, key=lambda part: part.partition_index)
    assert [part.partition_index for part in parts] == sorted(indexes)
    return parts[0] if isinstance(partitions, int) else parts


def fetched(part: Any) -> list[Batch]:
    assert part.error_code == 0
    return batches(part.records)


def values(part: Any) -> list[bytes | None]:
    """The values of a fetched part as a read_committed consumer shows them: without control batches and what was aborted."""
    aborts = sorted((each.first_offset, each.producer_id) for each in part.aborted_transactions or ())
    aborting: set[int] = set()
    found: list[bytes | None] = []
    for each in fetched(part):
        while aborts and aborts[0][0] <= each.offset_last:
            aborting.add(aborts.pop(0)[1])
        if each.is_control:
            if not each.is_commit:
                aborting.discard(each.producer_id)
        elif not (each.is_transactional and each.producer_id in aborting):
            found += [record.value for record in each.records]
    return found


def list_offset(raw: RawClient, topic: str, partition: int, timestamp: int, *, isolation: int) -> tuple[int, int]:
    """(offset, timestamp) that ListOffsets answers. -1 latest, -2 earliest, -3 the largest timestamp."""
    reply = raw.call(
        "list_offsets",
        7,
        replica_id=-1,
        isolation_level=isolation,
        topics=[{"name": topic, "partitions": [{"partition_index": partition, "timestamp": timestamp}]}],
    )
    part = reply.topics[0].partitions[0]
    assert part.error_code == 0
    moment = part.timestamp
    return part.offset, -1 if moment is None else int(moment.timestamp() * 1000) if hasattr(
        moment, "timestamp"
    ) else moment


def transaction_state(raw: RawClient, transactional_id: str) -> str:
    """Kafka's name of the state (rule T1).

    Read by hand: the start time of what is not open is -1, which ``kio`` does not take for a time.
    """
    body = raw.call_bytes("describe_transactions", 0, transactional_ids=[transactional_id])
    at = 4 + 1 + 4  # correlation id, no tags, throttle time
    assert body[at] == 2, "one transactional id"
    assert body[at + 1 : at + 3] == b"\0\0", "error code"
    at += 3
    at += body[at]  # the transactional id, a compact string shorter than 127 bytes
    return body[at + 1 : at + body[at]].decode()


def committed_offset(
    raw: RawClient, group: str, topic: str, partition: int, *, stable: bool = False
) -> tuple[int, int]:
    """(error code, committed offset) of OffsetFetch."""
    reply = raw.call(
        "offset_fetch",
        7,
        group_id=group,
        topics=[{"name": topic, "partition_indexes": [partition]}],
        require_stable=stable,
    )
    assert reply.error_code == 0
    part = reply.topics[0].partitions[0]
    return int(part.error_code), int(part.committed_offset)
