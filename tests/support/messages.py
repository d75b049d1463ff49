"""Kafka's messages for tests: entities from plain values, and frames from entities and back.

The shapes come from ``kio``, so a test can speak any version of any API without a client in between. What a client would
never send can be sent too. Nothing here may import oncelog: this is the other side of the wire.
"""

from __future__ import annotations

import datetime
import importlib
import io
import struct
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map
from kio.serial import entity_reader, entity_writer

API_KEYS: dict[str, int] = {name: key for key, name in api_key_map.items()}

_ZERO: dict[str, Any] = {
    "error_code": ErrorCode.none,
    "string": "",
    "bytes": b"",
    "records": b"",
    "bool": False,
    "float64": 0.0,
    "uuid": None,
}


def api_name(api: str | int) -> str:
    """``end_txn`` for 26 and for ``end_txn``."""
    return api_key_map[api] if isinstance(api, int) else api


@cache
def message_type(api: str, version: int, kind: str) -> type[Any]:
    """The entity class of an API's ``request`` or ``response`` in a version."""
    module = importlib.import_module(f"kio.schema.{api}.v{version}.{kind}")
    return getattr(module, api.title().replace("_", "") + kind.title())


def build(entity_type: type[Any], tree: Mapping[str, Any]) -> Any:
    """An entity from plain values: dicts and lists for nested ones, ms for times. A field not given is empty or zero;

    a name that this version does not have is a TypeError.
    """
    known = {item.name: item for item in fields(entity_type)}
    if unknown := set(tree) - set(known):
        raise TypeError(f"{entity_type.__module__} has no {sorted(unknown)}, only {sorted(known)}")
    return entity_type(
        **{name: _value(item, tree[name]) if name in tree else _empty(item) for name, item in known.items()}
    )


def _inner(item: Field[Any]) -> tuple[Any, bool, bool]:
    """(type without ``| None`` and tuple, whether it is an array, whether it may be None)."""
    kind: Any = item.type
    optional = get_origin(kind) is UnionType
    if optional:
        kind = next(option for option in get_args(kind) if option is not NoneType)
    is_array = get_origin(kind) is tuple
    return (get_args(kind)[0] if is_array else kind), is_array, optional


def _value(item: Field[Any], value: Any) -> Any:
    kind, is_array, _ = _inner(item)
    if value is None:
        return None
    if is_array:
        return tuple(_scalar(item, kind, each) for each in value)
    return _scalar(item, kind, value)


def _scalar(item: Field[Any], kind: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(kind, value)
    kafka_type = item.metadata.get("kafka_type", "")
    if isinstance(value, int) and kafka_type.startswith("timedelta"):
        return datetime.timedelta(milliseconds=value)
    if isinstance(value, int) and kafka_type.startswith("datetime"):
        return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC)
    return value


def _empty(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return item.default
    kind, is_array, optional = _inner(item)
    if is_array:
        return ()
    if optional:
        return None
    if hasattr(kind, "__dataclass_fields__"):
        return build(kind, {})
    return _scalar(item, kind, _ZERO.get(item.metadata["kafka_type"], 0))


def encode_request(correlation_id: int, client_id: str | None, entity: Any) -> bytes:
    """A whole frame, with its length before it."""
    head_type = entity.__header_schema__
    names = {item.name for item in fields(head_type)}
    values = {
        "request_api_key": entity.__api_key__,
        "request_api_version": entity.__version__,
        "correlation_id": correlation_id,
        "client_id": client_id,
    }
    head = head_type(**{name: value for name, value in values.items() if name in names})
    return _frame(head, entity)


def encode_response(correlation_id: int, entity: Any) -> bytes:
    """A whole frame, with its length before it."""
    return _frame(entity.__header_schema__(correlation_id=correlation_id), entity)


def _frame(head: Any, entity: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(head))(buffer, head)
    entity_writer(type(entity))(buffer, entity)
    body = buffer.getvalue()
    return struct.pack(">i", len(body)) + body


def decode_response(api: str, version: int, body: bytes) -> tuple[int, Any]:
    """(correlation id, entity) of a reply's body, which must have no byte too many."""
    kind = message_type(api, version, "response")
    head, at = entity_reader(kind.__header_schema__)(body, 0)
    entity, size = entity_reader(kind)(body, at)
    assert at + size == len(body), f"{api} v{version}: {len(body) - at - size} bytes after the reply"
    return head.correlation_id, entity


def decode_request(body: bytes) -> tuple[int, Any]:
    """(correlation id, entity) of a request's body."""
    api_key, version, correlation_id = struct.unpack_from(">hhi", body)
    kind = message_type(api_key_map[api_key], version, "request")
    _, at = entity_reader(kind.__header_schema__)(body, 0)
    return correlation_id, entity_reader(kind)(body, at)[0]


def error_codes(entity: Any) -> list[int]:
    """All error codes of a reply, at every depth."""
    found: list[int] = []
    for item in fields(entity):
        value = getattr(entity, item.name)
        if item.name.endswith("error_code"):
            found.append(int(value))
        elif isinstance(value, tuple):
            for each in value:
                if is_dataclass(each) and not isinstance(each, type):
                    found += error_codes(each)
    return found
