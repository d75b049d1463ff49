"""Addresses and refusals in every version that kio knows."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from kio.schema.errors import ErrorCode
from tests.support.messages import build, decode_response, encode_request, message_type

from oncelog.faults.frames import (
    API_KEYS,
    REFUSABLE,
    addresses_in,
    api_key_of,
    decode_reply,
    encode_reply,
    error_codes,
    moved,
    refusal,
)
from oncelog.faults.frames import encode_request as encode_plain

THERE, HERE = ("broker-1.example", 9092), ("127.0.0.1", 4711)

VERSIONS = {
    "metadata": range(14),
    "find_coordinator": range(7),
    "describe_cluster": range(3),
    "produce": range(3, 14),
    "offset_commit": range(2, 10),
    "txn_offset_commit": range(6),
    "add_partitions_to_txn": range(6),
    "init_producer_id": range(6),
    "add_offsets_to_txn": range(5),
    "end_txn": range(6),
    "heartbeat": range(5),
    "leave_group": range(6),
}

REQUESTS: dict[str, dict[str, Any]] = {
    "produce": {"topic_data": [{"name": "t", "partition_data": [{"index": 3, "records": b"x"}]}]},
    "offset_commit": {"topics": [{"name": "t", "partitions": [{"partition_index": 3}]}]},
    "txn_offset_commit": {"topics": [{"name": "t", "partitions": [{"partition_index": 3}]}]},
    "add_partitions_to_txn": {
        "v3_and_below_topics": [{"name": "t", "partitions": [3]}],
        "transactions": [{"transactional_id": "x", "topics": [{"name": "t", "partitions": [3]}]}],
    },
    "find_coordinator": {"key": "g", "coordinator_keys": ["g"]},
}


def known(kind: Any, tree: Any) -> Any:
    """The part of a tree that this version has."""
    names = set(kind.__dataclass_fields__)
    return {name: value for name, value in tree.items() if name in names}


def node(kind: Any) -> dict[str, Any]:
    address = {"host": THERE[0], "port": THERE[1], "node_id": 1, "broker_id": 1, "key": "g"}
    return known(kind, {**address, "error_code": ErrorCode.none})


@pytest.mark.parametrize(
    ("api", "version"), [(api, version) for api in list(VERSIONS)[:3] for version in VERSIONS[api]]
)
def test_addresses_are_found_and_moved(api: str, version: int) -> None:
    kind = message_type(api, version, "response")
    lists = {"brokers", "coordinators"} & set(kind.__dataclass_fields__)
    inner = {name: [node(kind.__dataclass_fields__[name].type.__args__[0])] for name in lists}
    entity = build(kind, {**node(kind), **inner})
    assert addresses_in(entity) == {THERE}
    frame = encode_reply(17, moved(entity, {THERE: HERE}))
    (length,) = struct.unpack_from(">i", frame)
    assert length == len(frame) - 4
    correlation_id, read = decode_response(api, version, frame[4:])
    assert correlation_id == 17
    assert addresses_in(read) == {HERE}
    assert moved(read, {HERE: THERE}) == entity
    assert moved(entity, {}) == entity


@pytest.mark.parametrize(("api", "version"), [(api, version) for api in REFUSABLE for version in VERSIONS[api]])
def test_a_refusal_answers_what_was_asked(api: str, version: int) -> None:
    kind = message_type(api, version, "request")
    request = build(kind, known(kind, _versioned(kind, REQUESTS.get(api, {}))))
    body = encode_request(5, "c", request)[4:]
    frame = refusal(body, 51)
    correlation_id, reply = decode_response(api, version, frame[4:])
    assert correlation_id == 5
    assert 51 in error_codes(reply)
    assert set(error_codes(reply)) <= {0, 51}
    assert decode_reply(API_KEYS[api], version, frame[4:]) == reply


def _versioned(kind: Any, tree: dict[str, Any]) -> dict[str, Any]:
    """Topics are named by ids in newer versions."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, list) and name in kind.__dataclass_fields__ and isinstance(value[0], dict):
            inner = kind.__dataclass_fields__[name].type.__args__[0]
            found[name] = [known(inner, each) for each in value]
        else:
            found[name] = value
    return found


def test_requests_from_plain_values() -> None:
    for version in VERSIONS["end_txn"]:
        tree = {"transactional_id": "x", "producer_id": 7, "producer_epoch": 1, "committed": True}
        expected = encode_request(9, "me", build(message_type("end_txn", version, "request"), tree))
        assert encode_plain("end_txn", version, 9, tree, client_id="me") == expected


def test_names() -> None:
    assert api_key_of("end_txn") == api_key_of(26) == 26
    with pytest.raises(ValueError, match="no Kafka API named 'EndTxn'"):
        api_key_of("EndTxn")
