"""The reply that refuses a whole request with one error code, for any API: made from the shapes of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oncelog.broker.call import Call
from oncelog.model.errors import ErrorCode
from oncelog.wire.shapes import FieldShape, Required, Shape, message_class, shape_of

_BLANK = {"string": "", "bytes": b"", "records": b"", "bool": False, "uuid": None}


def refusal_of(call: Call, code: ErrorCode) -> dict[str, Any]:
    """The tree of the reply: what the request names is there, each with the error; everything else is blank."""
    return _mirror(shape_of(message_class(call.api_key, call.version, "response")), call.request, code)


def _mirror(shape: Shape, asked: Any, code: ErrorCode) -> dict[str, Any]:
    lists = [value for value in vars_of(asked).values() if _is_list(value)]
    return {field.name: _value(field, asked, lists, code) for field in shape.fields}


def _value(field: FieldShape, asked: Any, lists: Sequence[Any], code: ErrorCode) -> Any:
    if field.kind == "error_code":
        return int(code)
    if field.is_array:
        if field.entity is None or not lists:
            return []
        return [_mirror(field.entity, one, code) for one in lists[0]]
    same = vars_of(asked).get(field.name)
    if field.entity is None and same is not None and not _is_list(same):
        return same
    if field.default is not Required:
        return field.default
    return None if field.is_nullable else _BLANK.get(field.kind, 0 if field.name == "throttle_time" else -1)


def vars_of(entity: Any) -> dict[str, Any]:
    """The fields of one of kio's entities; of a plain value (an index in a list) its likely names."""
    if isinstance(entity, int | str):
        return dict.fromkeys(("name", "key", "group_id", "partition_index", "index", "group_name"), entity)
    return {name: getattr(entity, name) for name in type(entity).__dataclass_fields__}


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple | list)
