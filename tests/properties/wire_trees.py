"""Random messages of every API and version, drawn from kio's dataclasses, as plain trees and as kio's entities.

The oracle side of the wire's tests: nothing here comes from oncelog.
"""

from __future__ import annotations

import datetime
import io
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from hypothesis import strategies
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_writer
from tests.support.messages import message_type

#: Every (API key, version) that kio knows.
MESSAGES = [(key, version) for key, name in sorted(api_key_map.items()) for version in sorted(schema_name_map[name])]
NAMES = [f"{api_key_map[key]}-{version}" for key, version in MESSAGES]

text = strategies.text(max_size=8) | strategies.just("x" * 300)
some_bytes = strategies.binary(max_size=12) | strategies.just(b"\xfe" * 200)

SCALARS: dict[str, strategies.SearchStrategy[Any]] = {
    "int8": strategies.integers(-(2**7), 2**7 - 1),
    "int16": strategies.integers(-(2**15), 2**15 - 1),
    "int32": strategies.integers(-(2**31), 2**31 - 1),
    "int64": strategies.integers(-(2**63), 2**63 - 1),
    "uint16": strategies.integers(0, 2**16 - 1),
    "float64": strategies.floats(allow_nan=False),
    "bool": strategies.booleans(),
    "string": text,
    "bytes": some_bytes,
    "records": some_bytes,
    "uuid": strategies.uuids(),
    "error_code": strategies.sampled_from([int(code) for code in ErrorCode]),
    "timedelta_i32": strategies.integers(-(2**31), 2**31 - 1),
    "timedelta_i64": strategies.integers(-(10**12), 10**12),
    "datetime_i64": strategies.integers(0, 250_000_000_000_000),
}


def inner(kind: Any) -> tuple[Any, bool]:
    """The type without ``| None``, and whether it had that."""
    if get_origin(kind) is UnionType:
        return next(arm for arm in get_args(kind) if arm is not NoneType), True
    return kind, False


@cache
def trees(message: Any) -> strategies.SearchStrategy[dict[str, Any]]:
    """Plain trees of one of kio's dataclasses; what has a default may be left out."""
    required, optional = {}, {}
    for item in fields(message):
        (required if item.default is MISSING else optional)[item.name] = _values(item)
    return strategies.fixed_dictionaries(required, optional=optional)


def _values(item: Field[Any]) -> strategies.SearchStrategy[Any]:
    kind, is_nullable = inner(item.type)
    if get_origin(kind) is tuple:
        kind, _ = inner(get_args(kind)[0])
        found = strategies.lists(_one(item, kind), max_size=2)
    else:
        found = _one(item, kind)
    # kio writes no null into a tagged field: there it can only be the default.
    if is_nullable and ("tag" not in item.metadata or item.default is None):
        found |= strategies.none()
    return found


def _one(item: Field[Any], kind: Any) -> strategies.SearchStrategy[Any]:
    return trees(kind) if is_dataclass(kind) else SCALARS[item.metadata["kafka_type"]]


def entity(message: Any, tree: dict[str, Any]) -> Any:
    """Kio's entity of a tree."""
    return message(**{item.name: _value(item, tree[item.name]) for item in fields(message) if item.name in tree})


def _value(item: Field[Any], value: Any) -> Any:
    kind, _ = inner(item.type)
    if value is None:
        return None
    if get_origin(kind) is tuple:
        kind, _ = inner(get_args(kind)[0])
        return tuple(_scalar(item, kind, one) for one in value)
    return _scalar(item, kind, value)


def _scalar(item: Field[Any], kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return entity(kind, value)
    kafka_type = item.metadata["kafka_type"]
    if kafka_type == "error_code":
        return ErrorCode(value)
    if kafka_type.startswith("timedelta"):
        return datetime.timedelta(milliseconds=value)
    if kafka_type.startswith("datetime"):
        return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=value)
    return value


def written(message: Any) -> bytes:
    """What kio writes for an entity."""
    buffer = io.BytesIO()
    entity_writer(type(message))(buffer, message)
    return buffer.getvalue()


def kio_type(api_key: int, version: int, kind: str) -> Any:
    """Kio's class of a message."""
    return message_type(api_key_map[api_key], version, kind)
