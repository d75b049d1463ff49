"""A client that says exactly what it is told to, for traces that no library's client will play: one request, one reply.

Speaks the transaction protocol before KIP-890 part 2 (TV1) and that of it (TV2). Finds leaders and coordinators itself; knows
no login.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

from crc32c import crc32c

from oncelog.faults.frames import Address, api_key_of, decode_reply, encode_request

CLIENT_ID: Final = "oncelog-verify"
REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
SECONDS: Final = 20.0
RETRIES_MAX: Final = 200
#: What is over soon. 19: to old clients Kafka says so while it can't verify that a partition is in the transaction (KIP-890).
_LOADING: Final = frozenset((3, 5, 6, 14, 15, 16, 19, 51))
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_TRANSACTIONAL: Final = 0x10


class Connection:
    """One connection to one broker. ConnectionError if it is closed, TimeoutError if no answer comes."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._socket = socket.create_connection(address, timeout=SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._count = 0

    def post(self, api: str, version: int, **tree: Any) -> None:
        """Send, and don't wait."""
        self._count += 1
        self._socket.sendall(encode_request(api, version, self._count, tree, client_id=CLIENT_ID))

    def call(self, api: str, version: int, **tree: Any) -> Any:
        """Send and wait: kio's entity of the reply."""
        self.post(api, version, **tree)
        (length,) = struct.unpack(">i", self._exactly(4))
        if not 4 <= length <= REPLY_BYTES_MAX:
            raise ConnectionError(f"a reply of {length} bytes")
        return decode_reply(api_key_of(api), version, self._exactly(length))

    def close(self) -> None:
        """Done."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise ConnectionError("the broker has closed the connection")
            data += chunk
        return bytes(data)


def coordinator(bootstrap: Address, key: str, *, is_transaction: bool) -> Address:
    """Where the coordinator of a group or a transactional id is. TimeoutError if there is none for long."""
    with Connection(bootstrap) as connection:
        for _ in range(RETRIES_MAX):
            reply = connection.call("find_coordinator", 2, key=key, key_type=1 if is_transaction else 0)
            if int(reply.error_code) == 0:
                return reply.host, reply.port
            time.sleep(0.1)
    raise TimeoutError(f"no coordinator for {key}")


def leader(bootstrap: Address, topic: str, partition: int) -> Address:
    """Where a partition's leader is."""
    with Connection(bootstrap) as connection:
        for _ in range(RETRIES_MAX):
            reply = connection.call("metadata", 7, topics=[{"name": topic}], allow_auto_topic_creation=False)
            nodes = {node.node_id: (node.host, node.port) for node in reply.brokers}
            for each in reply.topics[0].partitions:
                if each.partition_index == partition and each.leader_id in nodes:
                    host, port = nodes[each.leader_id]
                    return host, port
            time.sleep(0.1)
    raise TimeoutError(f"no leader of {topic}/{partition}")


def in_states(bootstrap: Address, transactional_id: str, *states: str) -> bool:
    """Whether its coordinator has a transactional id in one of these: ``Ongoing``, ``PrepareCommit``, ... (KIP-664)."""
    with Connection(coordinator(bootstrap, transactional_id, is_transaction=True)) as connection:
        reply = connection.call("list_transactions", 0, state_filters=list(states), producer_id_filters=[])
    return transactional_id in {each.transactional_id for each in reply.transaction_states}


def transaction_version(bootstrap: Address) -> int:
    """The level of ``transaction.version`` that the cluster has finalized (KIP-584): 2 is TV2; 0 if it knows none."""
    with Connection(bootstrap) as connection:
        reply = connection.call("api_versions", 3, client_software_name=CLIENT_ID, client_software_version="0")
    if reply.finalized_features_epoch < 0:
        return 0
    levels = {feature.name: int(feature.max_version_level) for feature in reply.finalized_features}
    return levels.get("transaction.version", 0)


class Versions(NamedTuple):
    """The versions of requests that make a client one of TV1 or TV2 (rules T6, T10, P7, O6)."""

    init: int
    produce: int
    txn_offset_commit: int
    end: int


TV1: Final = Versions(init=4, produce=9, txn_offset_commit=3, end=3)
#: Partitions and groups join their transaction by Produce and TxnOffsetCommit; each EndTxn gives a new epoch.
TV2: Final = Versions(init=5, produce=12, txn_offset_commit=5, end=5)


class RawProducer:
    """A transactional producer, step by step. Every method gives error codes; nothing is tried again but loading."""

    def __init__(
        self, bootstrap: Address, transactional_id: str, timeout_ms: int = 60_000, *, versions: Versions = TV1
    ) -> None:
        self.bootstrap, self.transactional_id, self.timeout_ms = bootstrap, transactional_id, timeout_ms
        self.versions = versions
        self.coordinator = Connection(coordinator(bootstrap, transactional_id, is_transaction=True))
        self.producer_id, self.epoch = -1, -1

    def init(self, producer_id: int = -1, epoch: int = -1) -> int:
        """As a new instance, or as the one that it says it is (KIP-360)."""
        for _ in range(RETRIES_MAX):
            reply = self.coordinator.call(
                "init_producer_id",
                self.versions.init,
                transactional_id=self.transactional_id,
                transaction_timeout=self.timeout_ms,
                producer_id=producer_id,
                producer_epoch=epoch,
            )
            code = int(reply.error_code)
            if code not in _LOADING:
                break
            time.sleep(0.1)
        if code == 0:
            self.producer_id, self.epoch = reply.producer_id, reply.producer_epoch
        return code

    def add(self, topic: str, partition: int) -> int:
        """AddPartitionsToTxn."""
        return self._settled(
            "add_partitions_to_txn",
            3,
            lambda reply: reply.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code,
            v3_and_below_transactional_id=self.transactional_id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=[{"name": topic, "partitions": [partition]}],
        )

    def add_group(self, group: str) -> int:
        """AddOffsetsToTxn."""
        return self._settled(
            "add_offsets_to_txn",
            3,
            lambda reply: reply.error_code,
            transactional_id=self.transactional_id,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            group_id=group,
        )

    def end(self, *, commit: bool) -> int:
        """EndTxn. Under TV2 the next transaction has another epoch."""
        code, self.producer_id, self.epoch = self._end(self.coordinator, self.epoch, commit, tries_max=RETRIES_MAX)
        return code

    def end_late(self, connection: Connection, epoch: int, *, commit: bool) -> int:
        """EndTxn of a transaction that had this epoch, by another connection, once. It changes nothing here."""
        return self._end(connection, epoch, commit, tries_max=1)[0]

    def _end(self, connection: Connection, epoch: int, commit: bool, *, tries_max: int) -> tuple[int, int, int]:
        """Error code, and the producer id and epoch from here on."""
        for _ in range(tries_max):
            reply = connection.call(
                "end_txn",
                self.versions.end,
                transactional_id=self.transactional_id,
                producer_id=self.producer_id,
                producer_epoch=epoch,
                committed=commit,
            )
            code = int(reply.error_code)
            if code not in _LOADING:
                break
            time.sleep(0.05)
        if code or self.versions.end < TV2.end:
            return code, self.producer_id, self.epoch
        return code, int(reply.producer_id), int(reply.producer_epoch)

    def produce(
        self,
        connection: Connection,
        topic: str,
        partition: int,
        value: bytes,
        *,
        sequence: int,
        epoch: int | None = None,
        is_repeated: bool = False,
    ) -> int:
        """One record by a connection to the leader; ``is_repeated`` while the leader asks to wait. ``epoch``: an older one."""
        epoch = self.epoch if epoch is None else epoch
        records = batch(value, producer_id=self.producer_id, epoch=epoch, sequence=sequence)
        for _ in range(RETRIES_MAX if is_repeated else 1):
            reply = connection.call(
                "produce",
                self.versions.produce,
                transactional_id=self.transactional_id,
                acks=-1,
                timeout=10_000,
                topic_data=[{"name": topic, "partition_data": [{"index": partition, "records": records}]}],
            )
            code = int(reply.responses[0].partition_responses[0].error_code)
            if code not in _LOADING:
                break
            time.sleep(0.05)
        return code

    def commit_offset(self, group: str, topic: str, offset: int, *, generation: int = -1, member: str = "") -> int:
        """TxnOffsetCommit of partition 0."""
        with Connection(coordinator(self.bootstrap, group, is_transaction=False)) as connection:
            return self.commit_offset_by(
                connection, group, topic, offset, generation=generation, member=member, is_repeated=True
            )

    def commit_offset_by(
        self,
        connection: Connection,
        group: str,
        topic: str,
        offset: int,
        *,
        epoch: int | None = None,
        generation: int = -1,
        member: str = "",
        is_repeated: bool = False,
    ) -> int:
        """The same by this connection to the group's coordinator, and in the transaction that had this epoch."""
        for _ in range(RETRIES_MAX if is_repeated else 1):
            reply = connection.call(
                "txn_offset_commit",
                self.versions.txn_offset_commit,
                transactional_id=self.transactional_id,
                group_id=group,
                producer_id=self.producer_id,
                producer_epoch=self.epoch if epoch is None else epoch,
                generation_id=generation,
                member_id=member,
                group_instance_id=None,
                topics=[{"name": topic, "partitions": [_offset(offset)]}],
            )
            code = int(reply.topics[0].partitions[0].error_code)
            if code not in _LOADING:
                break
            time.sleep(0.05)
        return code

    def _settled(self, api: str, version: int, code_of: Any, **tree: Any) -> int:
        """The error code, once the broker has got over what it asks to wait for."""
        for _ in range(RETRIES_MAX):
            code = int(code_of(self.coordinator.call(api, version, **tree)))
            if code not in _LOADING:
                break
            time.sleep(0.05)
        return code

    def close(self) -> None:
        """Done."""
        self.coordinator.close()


def _offset(offset: int) -> dict[str, Any]:
    return {
        "partition_index": 0,
        "committed_offset": offset,
        "committed_leader_epoch": -1,
        "committed_metadata": "",
    }


def stable_offsets(connection: Connection, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """The last stable offsets that a broker tells of its partitions."""
    reply = connection.call(
        "list_offsets",
        5,
        replica_id=-1,
        isolation_level=1,
        topics=[
            {
                "name": topic,
                "partitions": [
                    {"partition_index": index, "current_leader_epoch": -1, "timestamp": -1} for index in partitions
                ],
            }
        ],
    )
    return {each.partition_index: each.offset for each in reply.topics[0].partitions if int(each.error_code) == 0}


def batch(value: bytes, *, producer_id: int, epoch: int, sequence: int) -> bytes:
    """A transactional record batch of one record (format 2)."""
    record = b"\0\0\0\x01" + _varint(len(value)) + value + b"\0"
    records = _varint(len(record)) + record
    now_ms = time.time_ns() // 1_000_000
    whole = bytearray(
        _HEADER.pack(0, 49 + len(records), -1, 2, 0, _TRANSACTIONAL, 0, now_ms, now_ms, producer_id, epoch, sequence, 1)
        + records
    )
    struct.pack_into(">I", whole, 17, crc32c(bytes(whole[21:])))
    return bytes(whole)


def _varint(value: int) -> bytes:
    zigzag, out = value << 1, bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)
