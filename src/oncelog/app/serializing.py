"""Bytes to values and back, by a handler's annotations.

``bytes`` and ``str`` as they are; pydantic models by their own JSON; everything else (numbers, dicts, lists, msgspec Structs,
dataclasses) as JSON by msgspec, checked against the annotation. Other formats: a ``Serializer``, given as ``key=`` or
``value=``.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Final, Protocol, runtime_checkable

import msgspec


@runtime_checkable
class Serializer(Protocol):
    """A format of your own, such as Avro with a registry. An error raised by ``decode`` makes the record a poison record."""

    def encode(self, value: Any) -> bytes:
        """The bytes of a value."""

    def decode(self, content: bytes) -> Any:
        """The value of such bytes."""


class DecodeError(ValueError):
    """The bytes of a record are not what the handler's annotation asks for; trying again can't help."""


class Codec:
    """Decodes one side (key or value) of a processor's records."""

    def __init__(self, annotation: Any, serializer: Serializer | None = None) -> None:
        self._wanted, self._may_be_none = _without_none(annotation)
        self._serializer = serializer
        #: What it decodes is the bytes themselves, whatever they are.
        self.is_raw = serializer is None and self._may_be_none and self._wanted in (bytes, Any)

    def decode(self, content: bytes | None) -> Any:
        """DecodeError, or whatever a serializer of the user's own raises."""
        if content is None:
            if self._may_be_none:
                return None
            raise DecodeError(f"there is no value, and {_name(self._wanted)} is asked for; annotate it with `| None`")
        if self._serializer is not None:
            return self._serializer.decode(content)
        try:
            return _decoded(self._wanted, content)
        except ValueError as error:  # msgspec's, pydantic's and Unicode's errors are all of this kind
            raise DecodeError(f"not a {_name(self._wanted)}: {error}") from error


def _decoded(wanted: Any, content: bytes) -> Any:
    if wanted is bytes or wanted is Any:
        return content
    if wanted is str:
        return content.decode()
    if hasattr(wanted, "model_validate_json"):
        return wanted.model_validate_json(content)
    return msgspec.json.decode(content, type=wanted)


def encode(value: Any, serializer: Serializer | None = None) -> bytes | None:
    """The bytes of what a handler yields; None stays None (a tombstone). TypeError for what has no JSON."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if serializer is not None:
        return serializer.encode(value)
    if hasattr(value, "model_dump_json"):
        text: str = value.model_dump_json()
        return text.encode()
    return msgspec.json.encode(value)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """``X | None`` as (X, True)."""
    if annotation is Any:
        return Any, True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = typing.get_args(annotation)
        others = [kind for kind in kinds if kind is not types.NoneType]
        if len(others) < len(kinds):
            return (others[0] if len(others) == 1 else typing.Union[tuple(others)]), True  # noqa: UP007 - of a list
    return annotation, False


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


#: What a handler without annotations gets.
RAW: Final = bytes | None
