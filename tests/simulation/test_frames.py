"""What simulated clients send is what kio would write."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from tests.simulation.frames import encode
from tests.support.messages import build, encode_request, message_type

WHO: dict[str, Any] = {"transactional_id": "x", "producer_id": 5, "producer_epoch": 2}
TREES: list[tuple[str, dict[str, Any], range]] = [
    ("init_producer_id", {"transactional_id": "x", "transaction_timeout": 60_000}, range(6)),
    ("end_txn", {**WHO, "committed": True}, range(6)),
    ("add_offsets_to_txn", {**WHO, "group_id": "g"}, range(5)),
    (
        "txn_offset_commit",
        {
            **WHO,
            "group_id": "g",
            "topics": [{"name": "t", "partitions": [{"partition_index": 1, "committed_offset": 7}]}],
        },
        range(6),
    ),
    (
        "produce",
        {
            "transactional_id": "x",
            "acks": -1,
            "timeout": 1_000,
            "topic_data": [{"name": "t", "partition_data": [{"index": 0, "records": b"records"}]}],
        },
        range(3, 13),
    ),
    (
        "fetch",
        {
            "replica_id": -1,
            "max_wait": 500,
            "topics": [{"topic": "t", "partitions": [{"partition": 0, "fetch_offset": 3, "partition_max_bytes": 99}]}],
        },
        range(4, 13),
    ),
    ("offset_fetch", {"group_id": "g", "topics": [{"name": "t", "partition_indexes": [0]}]}, range(5, 8)),
    (
        "join_group",
        {
            "group_id": "g",
            "session_timeout": 300,
            "rebalance_timeout": 2_000,
            "member_id": "m",
            "group_instance_id": "i",
            "protocol_type": "consumer",
            "protocols": [{"name": "spread", "metadata": b"12"}],
        },
        range(5, 10),
    ),
    (
        "consumer_group_heartbeat",
        {
            "group_id": "g",
            "member_id": "m",
            "member_epoch": 3,
            "rebalance_timeout": -1,
            "topic_partitions": [{"topic_id": UUID(int=7), "partitions": [1]}],
        },
        range(1, 2),
    ),
]


@pytest.mark.parametrize(("api", "tree", "versions"), TREES, ids=[each[0] for each in TREES])
def test_frames(api: str, tree: dict[str, Any], versions: range) -> None:
    for version in versions:
        entity = build(message_type(api, version, "request"), tree)
        assert encode(api, version, 77, tree) == encode_request(77, "sim", entity)
