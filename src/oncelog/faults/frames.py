"""Frames as somebody in the middle sees them: heads, addresses in replies, refusals in a broker's place.

Bodies are read and written by ``kio``, in the version that client and broker agreed on. What ``kio`` does not know is
Unreadable, and never an error of its own. Sans I/O; knows nothing of connections.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, Final, NamedTuple

from kio.index import KioIndexError
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError

from oncelog.wire.replies import encode_reply as encode_reply_tree
from oncelog.wire.replies import make_encoder, reply_head
from oncelog.wire.shapes import Direction, message_class, shape_of

Address = tuple[str, int]

API_KEYS: Final[dict[str, int]] = {name: key for key, name in api_key_map.items()}

PRODUCE: Final = API_KEYS["produce"]
#: Replies that always carry addresses.
WITH_ADDRESSES: Final = frozenset(API_KEYS[name] for name in ("metadata", "find_coordinator", "describe_cluster"))
#: Replies that carry them after a change of leader (KIP-951), and the first version that does.
WITH_HINTS: Final = {PRODUCE: 10, API_KEYS["fetch"]: 16, API_KEYS["share_fetch"]: 1, API_KEYS["share_acknowledge"]: 1}
#: Where a reply holds a list of nodes.
_NODE_LISTS: Final = ("brokers", "coordinators", "node_endpoints")

#: How many pairs of API and version are remembered: a client may make up any.
KNOWN_MAX: Final = 4096

_head = struct.Struct(">hhi")


class Unreadable(Exception):
    """A message that kio can't read: an API or a version newer than it, or bytes that are none of it. The text says which."""


class Head(NamedTuple):
    """The fixed part of a request's header."""

    api_key: int
    version: int
    correlation_id: int


def api_name(api_key: int) -> str:
    """``end_txn`` for 26; a number that nobody knows is shown as it is."""
    return str(api_key_map.get(api_key, f"api_{api_key}"))


def api_key_of(api: str | int) -> int:
    """The key of ``end_txn``. ValueError for a name that is none."""
    if isinstance(api, int):
        return api
    if api not in API_KEYS:
        raise ValueError(f"there is no Kafka API named {api!r}; names are written like end_txn, produce, join_group")
    return API_KEYS[api]


def read_head(body: bytes) -> Head:
    """The head of a request's body (a frame without its length). struct.error if it has none."""
    return Head(*_head.unpack_from(body))


def decode_request(body: bytes) -> Any:
    """Kio's entity of a request. Unreadable."""
    head = read_head(body)
    return _decoded(head.api_key, head.version, "request", body)


def decode_reply(api_key: int, version: int, body: bytes) -> Any:
    """Kio's entity of a reply to such a request. Unreadable."""
    return _decoded(api_key, version, "response", body)


@lru_cache(KNOWN_MAX)
def is_known(api_key: int, version: int) -> bool:
    """Whether kio knows such requests and their replies."""
    try:
        message_class(api_key, version, "request")
        message_class(api_key, version, "response")
    except KioIndexError:
        return False
    return True


def _decoded(api_key: int, version: int, direction: Direction, body: bytes) -> Any:
    try:
        kind = message_class(api_key, version, direction)
        _, at = _reader(kind.__header_schema__)(body, 0)
        return _reader(kind)(body, at)[0]
    except (KioIndexError, SerialError, ValueError, IndexError, OverflowError) as error:
        raise Unreadable(f"{api_name(api_key)} version {version} can't be read here ({direction}): {error}") from error


def encode_reply(correlation_id: int, entity: Any) -> bytes:
    """A whole frame, with its length before it."""
    buffer = BytesIO()
    head = entity.__header_schema__(correlation_id=correlation_id)
    entity_writer(type(head))(buffer, head)
    entity_writer(type(entity))(buffer, entity)
    body = buffer.getvalue()
    return struct.pack(">i", len(body)) + body


def encode_request(
    api: str | int, version: int, correlation_id: int, tree: Mapping[str, Any], *, client_id: str
) -> bytes:
    """A whole frame from plain values: kio's names, times in ms, ids as UUID or None."""
    api_key = api_key_of(api)
    encode, is_flexible = _request_encoder(api_key, version)
    name = client_id.encode()
    head = _head.pack(api_key, version, correlation_id) + struct.pack(">h", len(name)) + name
    body = head + (b"\0" if is_flexible else b"") + encode(tree)
    return struct.pack(">i", len(body)) + body


def error_codes(entity: Any) -> list[int]:
    """All error codes of a reply, at every depth."""
    found: list[int] = []
    for field in fields(entity):
        value = getattr(entity, field.name)
        if field.name.endswith("error_code"):
            found.append(int(value))
        elif isinstance(value, tuple):
            for each in value:
                if is_dataclass(each) and not isinstance(each, type):
                    found += error_codes(each)
    return found


# -- addresses --------------------------------------------------------------------------------------------------------


def may_carry_addresses(head: Head) -> bool:
    """Whether the reply to such a request can name a broker's address."""
    return head.api_key in WITH_ADDRESSES or head.version >= WITH_HINTS.get(head.api_key, 1 << 15)


def addresses_in(entity: Any) -> set[Address]:
    """Every address that a reply names."""
    found = {(node.host, node.port) for name in _NODE_LISTS for node in getattr(entity, name, None) or ()}
    if hasattr(entity, "port"):
        found.add((entity.host, entity.port))
    return {(host, port) for host, port in found if host and port > 0}


def moved(entity: Any, ports: Mapping[Address, Address]) -> Any:
    """The reply with other addresses: each that is in ``ports`` is replaced."""
    for name in _NODE_LISTS:
        nodes = getattr(entity, name, None)
        if nodes:
            entity = replace(entity, **{name: tuple(_moved_node(node, ports) for node in nodes)})
    return _moved_node(entity, ports) if hasattr(entity, "port") else entity


def _moved_node(node: Any, ports: Mapping[Address, Address]) -> Any:
    there = ports.get((node.host, node.port))
    return node if there is None else replace(node, host=there[0], port=there[1])


# -- refusals ---------------------------------------------------------------------------------------------------------


def _topics(code: int, topics: Any, inner: str, index: str) -> list[dict[str, Any]]:
    return [
        {
            "name": getattr(topic, "name", ""),
            "topic_id": getattr(topic, "topic_id", None),
            inner: [{"partition_index": getattr(each, index), "error_code": code} for each in topic.partitions],
        }
        for topic in topics
    ]


def _produce(request: Any, code: int) -> dict[str, Any]:
    topics = [
        {
            "name": getattr(topic, "name", ""),
            "topic_id": getattr(topic, "topic_id", None),
            "partition_responses": [
                {"index": each.index, "error_code": code, "base_offset": -1, "record_errors": []}
                for each in topic.partition_data
            ],
        }
        for topic in request.topic_data
    ]
    return {"responses": topics, "throttle_time": 0}


def _add_partitions(request: Any, code: int) -> dict[str, Any]:
    def results(topics: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": topic.name,
                "results_by_partition": [
                    {"partition_index": index, "partition_error_code": code} for index in topic.partitions
                ],
            }
            for topic in topics
        ]

    transactions = [
        {"transactional_id": each.transactional_id, "topic_results": results(each.topics)}
        for each in getattr(request, "transactions", ())
    ]
    return {
        "throttle_time": 0,
        "error_code": 0,
        "results_by_transaction": transactions,
        "results_by_topic_v3_and_below": results(getattr(request, "v3_and_below_topics", ())),
    }


def _coordinator(request: Any, code: int) -> dict[str, Any]:
    nowhere = {"node_id": -1, "host": "", "port": -1, "error_code": code, "error_message": None}
    keys = getattr(request, "coordinator_keys", ())
    return {"throttle_time": 0, **nowhere, "coordinators": [{"key": key, **nowhere} for key in keys]}


def _offsets(request: Any, code: int) -> dict[str, Any]:
    return {"throttle_time": 0, "topics": _topics(code, request.topics, "partitions", "partition_index")}


def _bare(request: Any, code: int) -> dict[str, Any]:  # noqa: ARG001 - all refusals have one form
    return {"throttle_time": 0, "error_code": code, "producer_id": -1, "producer_epoch": -1}


_REFUSALS: Final[dict[int, Callable[[Any, int], dict[str, Any]]]] = {
    API_KEYS[name]: form
    for name, form in {
        "produce": _produce,
        "offset_commit": _offsets,
        "txn_offset_commit": _offsets,
        "find_coordinator": _coordinator,
        "add_partitions_to_txn": _add_partitions,
        "init_producer_id": _bare,
        "add_offsets_to_txn": _bare,
        "end_txn": _bare,
        "heartbeat": _bare,
        "leave_group": lambda _request, code: {"throttle_time": 0, "error_code": code, "members": []},
    }.items()
}
REFUSABLE: Final = tuple(api_name(key) for key in _REFUSALS)


def refusal(body: bytes, code: int) -> bytes:
    """The frame of a reply that refuses a request, as its broker would. Only for the APIs in REFUSABLE."""
    head = read_head(body)
    reply = encode_reply_tree(head.api_key, head.version, _REFUSALS[head.api_key](decode_request(body), code))
    return reply_head(head.api_key, head.version, head.correlation_id, len(reply)) + reply


@cache
def _reader(kind: Any) -> Callable[[bytes, int], tuple[Any, int]]:
    return entity_reader(kind)


@cache
def _request_encoder(api_key: int, version: int) -> tuple[Callable[[Mapping[str, Any]], bytes], bool]:
    kind = message_class(api_key, version, "request")
    return make_encoder(shape_of(kind)), kind.__header_schema__.__version__ >= 2
