"""``oncelog log``: the batches of a partition as they lie there, with the fate of each transaction (rules R1-R3).

Read-only. Everything up to the high watermark is looked at, whatever the isolation: aborted and open batches are shown and
named as such. Knows only headers; records are not opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from oncelog.cli.cluster import Cluster

_FETCH: Final = 1
_FETCH_BYTES: Final = 8 * 1024 * 1024
_COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_COLUMNS: Final = (
    "offsets", "records", "bytes", "time", "compression", "producer", "epoch", "sequences", "kind", "fate",
)  # fmt: skip


class _Batch(NamedTuple):
    header: Any
    size: int
    #: Of a control batch: whether it commits.
    is_commit: bool


def dump(topic: str, partition: int, *, offset_from: int | None, count: int, bootstrap: str, is_json: bool) -> None:
    """Print up to ``count`` batches from an offset on. Raises CommandError."""
    from oncelog.cli.cluster import Cluster, refused
    from oncelog.cli.tables import show
    from oncelog.cli.topics import offset_of

    with Cluster(bootstrap) as cluster:
        leaders = {part.partition_index: part.leader_id for part in cluster.topic(topic).partitions}
        if partition not in leaders:
            raise refused(f"{topic}-{partition}", 3, f"The topic has partitions 0 to {len(leaders) - 1}.")
        leader = leaders[partition]
        start = offset_of(cluster, topic, partition, leader, -2)
        end = offset_of(cluster, topic, partition, leader, -1)
        found: list[_Batch] = []
        fates: dict[int, str] = {}
        waiting: dict[int, list[int]] = {}
        for batch in _batches(cluster, topic, partition, leader, max(start, offset_from or start), end):
            if len(found) < count:
                found.append(batch)
                if batch.header.is_transactional and not batch.header.is_control:
                    waiting.setdefault(batch.header.producer_id, []).append(len(found) - 1)
            if batch.header.is_control:
                ended = dict.fromkeys(waiting.pop(batch.header.producer_id, ()), _fate(batch))
                fates.update(ended)
            if len(found) >= count and not waiting:
                break
    fates.update({at: "open" for batches in waiting.values() for at in batches})
    show([_row(batch, fates.get(at, "")) for at, batch in enumerate(found)], _COLUMNS, is_json=is_json)


def _fate(batch: _Batch) -> str:
    return "committed" if batch.is_commit else "aborted"


def _row(batch: _Batch, fate: str) -> dict[str, Any]:
    from oncelog.cli.tables import moment

    header = batch.header
    last = header.offset_next - 1
    kind = "control" if header.is_control else "transactional" if header.is_transactional else "plain"
    has_sequence = header.base_sequence >= 0
    sequences = f"{header.base_sequence}-{(header.base_sequence + header.offset_delta_last) % 2**31}"
    return {
        "offsets": f"{header.base_offset}-{last}" if last > header.base_offset else f"{last}",
        "offset_first": header.base_offset,
        "offset_last": last,
        "records": header.record_count,
        "bytes": batch.size,
        "time": moment(header.timestamp_max),
        "compression": _COMPRESSIONS[header.compression],
        "producer": header.producer_id if header.producer_id >= 0 else None,
        "epoch": header.producer_epoch if header.producer_id >= 0 else None,
        "sequences": sequences if has_sequence else None,
        "kind": kind,
        "fate": _fate(batch) if header.is_control else fate,
    }


def _batches(cluster: Cluster, topic: str, partition: int, leader: int, offset: int, end: int) -> Iterator[_Batch]:
    """The headers of all batches that hold offsets from ``offset`` to before ``end``."""
    from oncelog.cli.cluster import refused

    while offset < end:
        asked = {"partition": partition, "current_leader_epoch": -1, "fetch_offset": offset, "log_start_offset": -1}
        tree = {
            "replica_id": -1, "max_wait": 1_000, "min_bytes": 1, "max_bytes": _FETCH_BYTES, "isolation_level": 0,
            "session_id": 0, "session_epoch": -1, "forgotten_topics_data": (), "rack_id": "",
            "topics": [{"topic": topic, "partitions": [asked | {"partition_max_bytes": _FETCH_BYTES}]}],
        }  # fmt: skip
        reply = cluster.ask(_FETCH, 11, tree, node=leader)
        part = reply.responses[0].partitions[0]
        if part.error_code:
            raise refused(f"reading {topic}-{partition} at {offset}", int(part.error_code))
        before = offset
        for batch in _cut(bytes(part.records or b"")):
            yield batch
            offset = batch.header.offset_next
        if offset == before:
            return


def _cut(data: bytes) -> Iterator[_Batch]:
    """The whole batches of a reply; the last one may be cut off."""
    from oncelog.model.batch import HEADER_BYTES, LENGTH_OVERHEAD_BYTES, control_outcome, read_header

    at = 0
    while at + HEADER_BYTES <= len(data):
        header = read_header(data, at)
        size = LENGTH_OVERHEAD_BYTES + header.length
        if at + size > len(data):
            return
        yield _Batch(header, size, header.is_control and control_outcome(data[at : at + size]))
        at += size
