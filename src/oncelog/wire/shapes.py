"""The shape of Kafka's messages, read out of kio's dataclasses: what is encoded in which order, and how.

kio carries the protocol's definitions as frozen dataclasses, one module for each API and version. Here they become ``Shape``s,
plain descriptions from which requests.py makes its checkers and replies.py its encoders. kio's modules are imported when
a shape of theirs is first asked for: each costs milliseconds.

Knows how kio writes types down; knows nothing of any single API.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Final, Literal, Union, cast, get_args, get_origin

from kio.index import load_request_schema, load_response_schema

#: Bytes of each kind that always has as many.
FIXED_BYTES: Final = {
    "int8": 1, "uint8": 1, "bool": 1, "int16": 2, "uint16": 2, "error_code": 2, "int32": 4, "uint32": 4,
    "timedelta_i32": 4, "int64": 8, "uint64": 8, "float64": 8, "timedelta_i64": 8, "datetime_i64": 8, "uuid": 16,
}  # fmt: skip
_MS: Final = timedelta(milliseconds=1)

Direction = Literal["request", "response"]


class Required:
    """Stands for the default of a field that has none."""


@dataclass(frozen=True, slots=True)
class FieldShape:
    """One field. ``kind`` is Kafka's type of the value or of an array's elements; of an entity it is "entity".

    ``default`` is in plain form: times in ms, entities as dicts. ``tag`` is None for fields that are always written.
    """

    name: str
    kind: str
    entity: Shape | None
    is_array: bool
    is_nullable: bool
    tag: int | None
    default: Any


@dataclass(frozen=True, slots=True)
class Shape:
    """A message or a part of one. A flexible one has compact lengths and tagged fields (KIP-482)."""

    name: str
    is_flexible: bool
    fields: tuple[FieldShape, ...]
    tagged: tuple[FieldShape, ...]


def message_class(api_key: int, version: int, direction: Direction) -> Any:
    """Kio's class of a message. kio's KioIndexError if it doesn't know it."""
    load = load_request_schema if direction == "request" else load_response_schema
    return load(api_key, version)


@cache
def shape_of(message: Any) -> Shape:
    """The shape of one of kio's dataclasses."""
    found = [_field(field) for field in fields(message)]
    return Shape(
        message.__name__,
        message.__flexible__,
        tuple(field for field in found if field.tag is None),
        tuple(sorted((field for field in found if field.tag is not None), key=lambda field: field.tag or 0)),
    )


def _field(field: Field[Any]) -> FieldShape:
    value, is_nullable = _without_none(field.type)
    is_array = get_origin(value) is tuple
    if is_array:
        value, _ = _without_none(get_args(value)[0])
    entity = shape_of(cast("type", value)) if is_dataclass(value) else None
    kind = "entity" if entity is not None else field.metadata["kafka_type"]
    default = Required if field.default is MISSING else plain(field.default)
    tag = field.metadata.get("tag")
    if default is Required and tag is not None:
        default = _implicit(kind, entity)
    return FieldShape(field.name, kind, entity, is_array, is_nullable, tag, default)


def _implicit(kind: str, entity: Shape | None) -> Any:
    """The default of a tagged field that the protocol's definition gives none."""
    if entity is not None:
        return {
            inner.name: _implicit(inner.kind, inner.entity) if inner.default is Required else inner.default
            for inner in (*entity.fields, *entity.tagged)
        }
    return {"string": "", "bytes": b"", "uuid": None}.get(kind, 0)


def _without_none(value: Any) -> tuple[Any, bool]:
    if get_origin(value) not in (UnionType, Union):
        return value, False
    (inner,) = (arm for arm in get_args(value) if arm is not type(None))
    return inner, True


def plain(value: Any) -> Any:
    """A value of kio's as replies are given: times in ms, entities as dicts, arrays as lists, enums as numbers."""
    if isinstance(value, timedelta):
        return value // _MS
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value
