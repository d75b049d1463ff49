"""Requests of simulated clients as bytes, fast: the production code's encoders, made for requests.

The broker reads them with kio's own reader, so that a wrong encoder is seen at once; tests/simulation/test_frames.py holds them
against kio's writer too. A field that is not given is zero, empty or null.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from tests.support.messages import API_KEYS

from oncelog.wire.replies import make_encoder
from oncelog.wire.requests import is_flexible
from oncelog.wire.shapes import FieldShape, Required, Shape, message_class, shape_of

_CLIENT = b"sim"
_head = struct.Struct(">ihhih").pack


@cache
def _encoder(api: str, version: int) -> tuple[int, bytes, Callable[[Any], bytes]]:
    api_key = API_KEYS[api]
    shape = shape_of(message_class(api_key, version, "request"))
    rest = _CLIENT + (b"\0" if is_flexible(api_key, version) else b"")
    return api_key, rest, make_encoder(_lenient(shape))


def _lenient(shape: Shape) -> Shape:
    return replace(shape, fields=tuple(map(_given, shape.fields)))


def _given(field: FieldShape) -> FieldShape:
    entity = _lenient(field.entity) if field.entity is not None else None
    default = field.default
    if default is Required:
        empty: dict[str, Any] = {"string": "", "bytes": b"", "uuid": None, "bool": False}
        default = [] if field.is_array else None if field.is_nullable else empty.get(field.kind, 0)
    return replace(field, entity=entity, default=default)


def encode(api: str, version: int, correlation_id: int, tree: dict[str, Any]) -> bytes:
    """A whole frame, with its length before it. Times in ms."""
    api_key, rest, encoder = _encoder(api, version)
    body = rest + encoder(tree)
    return _head(len(body) + 10, api_key, version, correlation_id, len(_CLIENT)) + body
