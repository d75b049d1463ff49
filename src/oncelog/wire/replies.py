"""Replies: trees of plain values become the bytes of any API and version.

    encode_reply(26, 3, {"throttle_time": 0, "error_code": 0})

One tree serves all versions of an API: its keys are kio's attribute names; an encoder takes the fields that its version has.
Times are ms; error codes are ints; ids are UUID or None. A missing key stands for the field's default; a field without one
must be there (KeyError: our own bug). Tagged fields are written only if they differ from their default, as Kafka does.

An encoder is made from the message's shape when an API and version is first answered: straight Python source, where fields of
fixed size that follow each other are packed with one call. The oracle is kio's own writer (tests/properties).

What may be long is encoded in steps, by a generator from the same source; ``Each`` is an array whose elements are made in
the step that encodes them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from functools import partial
from typing import Any, Final
from uuid import UUID

from oncelog.wire.checking import encode_varint
from oncelog.wire.requests import API_VERSIONS, is_flexible
from oncelog.wire.shapes import FieldShape, Required, Shape, message_class, shape_of

Encoder = Callable[[Mapping[str, Any]], bytes]
SteppingEncoder = Callable[[Mapping[str, Any]], Generator[None, None, list[bytes]]]

_FORMATS: Final = {
    "int8": "b", "uint8": "B", "bool": "?", "int16": "h", "uint16": "H", "error_code": "h", "int32": "i", "uint32": "I",
    "timedelta_i32": "i", "int64": "q", "uint64": "Q", "float64": "d", "timedelta_i64": "q", "datetime_i64": "q", "uuid": "16s",
}  # fmt: skip
_NO_ID: Final = bytes(16)
_SHORT_VARINTS: Final = tuple(bytes((value,)) for value in range(128))

_head = struct.Struct(">ii").pack
_flexible_head = struct.Struct(">iiB").pack
_int16 = struct.Struct(">h").pack
_int32 = struct.Struct(">i").pack

#: Elements of arrays that are encoded in one step: about a millisecond.
_ELEMENTS_A_STEP: Final = 1_000

_encoders: dict[tuple[int, int], Encoder] = {}
_stepping_encoders: dict[tuple[int, int], SteppingEncoder] = {}


class Each:
    """An array of a tree: ``make`` of each of ``of``, called when it is encoded. ``of`` must stay as it is until then."""

    __slots__ = ("_make", "_of")

    def __init__(self, make: Callable[[Any], Any], of: Collection[Any]) -> None:
        self._make, self._of = make, of

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._of)


def encode_reply(api_key: int, version: int, tree: Mapping[str, Any]) -> bytes:
    """The body of a reply. See the module for ``tree``."""
    encoder = _encoders.get((api_key, version))
    if encoder is None:
        encoder = _encoders[api_key, version] = make_encoder(shape_of(message_class(api_key, version, "response")))
    return encoder(tree)


def encode_reply_in_steps(
    api_key: int, version: int, tree: Mapping[str, Any]
) -> Generator[None, None, bytes | list[bytes]]:
    """The same in steps of about a millisecond; the body in one piece or in several."""
    encoder = _stepping_encoders.get((api_key, version))
    if encoder is None:
        shape = shape_of(message_class(api_key, version, "response"))
        encoder = _stepping_encoders[api_key, version] = make_stepping_encoder(shape)
    parts = yield from encoder(tree)
    return parts if len(parts) > 1 else parts[0]


def prepare_reply(api_key: int, version: int) -> None:
    """Make what writes it, both ways, before one is due."""
    shape = shape_of(message_class(api_key, version, "response"))
    if (api_key, version) not in _encoders:
        _encoders[api_key, version] = make_encoder(shape)
    if (api_key, version) not in _stepping_encoders:
        _stepping_encoders[api_key, version] = make_stepping_encoder(shape)


def reply_head(api_key: int, version: int, correlation_id: int, body_bytes: int) -> bytes:
    """What goes before a body: the frame's length and the header. That of ApiVersions never has tags (KIP-511)."""
    if api_key != API_VERSIONS and is_flexible(api_key, version):
        return _flexible_head(body_bytes + 5, correlation_id, 0)
    return _head(body_bytes + 4, correlation_id)


# -- pieces that encoders are made of, and that hand-written ones use too ---------------------------------------------


def uvarint(value: int) -> bytes:
    """An unsigned varint."""
    return _SHORT_VARINTS[value] if value < 128 else encode_varint(value)


def compact_string(text: str) -> bytes:
    """A string that is never null, flexible form."""
    data = text.encode()
    return uvarint(len(data) + 1) + data


def compact_string_or_null(text: str | None) -> bytes:
    """A string, flexible form."""
    return b"\0" if text is None else compact_string(text)


def plain_string(text: str) -> bytes:
    """A string that is never null, form with fixed lengths."""
    data = text.encode()
    return _int16(len(data)) + data


def plain_string_or_null(text: str | None) -> bytes:
    """A string, form with fixed lengths."""
    return b"\xff\xff" if text is None else plain_string(text)


def compact_bytes(data: bytes) -> bytes:
    """Bytes that are never null, flexible form."""
    return uvarint(len(data) + 1) + data


def compact_bytes_or_null(data: bytes | None) -> bytes:
    """Bytes, flexible form."""
    return b"\0" if data is None else compact_bytes(data)


def plain_bytes(data: bytes) -> bytes:
    """Bytes that are never null, form with fixed lengths."""
    return _int32(len(data)) + data


def plain_bytes_or_null(data: bytes | None) -> bytes:
    """Bytes, form with fixed lengths."""
    return b"\xff\xff\xff\xff" if data is None else plain_bytes(data)


def uuid_bytes(value: UUID | None) -> bytes:
    """An id; none is the zero id."""
    return _NO_ID if value is None else value.bytes


def _tagged_section(found: list[tuple[int, bytes]]) -> bytes:
    return uvarint(len(found)) + b"".join(uvarint(tag) + uvarint(len(data)) + data for tag, data in found)


# -- making encoders --------------------------------------------------------------------------------------------------


def make_encoder(shape: Shape) -> Encoder:
    """The encoder of a message's body."""
    source = _Source()
    source.function("encode", lambda: source.shape(shape, "t"))
    exec(compile(source.text(), f"<encoder of {shape.name}>", "exec"), source.names)
    made: Encoder = source.names["encode"]
    return made


def make_stepping_encoder(shape: Shape) -> SteppingEncoder:
    """The encoder of a message's body in steps."""
    source = _Source()
    source.function("encode", lambda: source.shape(shape, "t"), in_steps=True)
    exec(compile(source.text(), f"<encoder of {shape.name} in steps>", "exec"), source.names)
    made: SteppingEncoder = source.names["encode"]
    return made


class _Source:
    """Python source that grows. Inside a function: ``t`` the value to encode, ``push`` takes the next bytes.

    In steps also: ``parts`` what the steps before have made, ``n`` elements since then.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._functions: list[list[str]] = []
        self._depth = 1
        self._count = 0
        self._packed: list[tuple[str, str]] = []
        self._is_stepping = False
        self.names: dict[str, Any] = {
            f.__name__: f
            for f in (
                uvarint, compact_string, compact_string_or_null, plain_string, plain_string_or_null,
                compact_bytes, compact_bytes_or_null, plain_bytes, plain_bytes_or_null, uuid_bytes,
            )
        }  # fmt: skip
        self.names |= {"int32": _int32, "tagged_section": _tagged_section}

    def text(self) -> str:
        """All functions."""
        return "\n".join(line for function in self._functions for line in function)

    def function(self, name: str, write_body: Callable[[], None], *, in_steps: bool = False) -> None:
        """A function that gives the bytes of its argument; in steps, a generator that returns a list of them."""
        outer = self._lines, self._depth, self._packed, self._is_stepping
        self._lines, self._depth, self._packed, self._is_stepping = [f"def {name}(t):"], 1, [], in_steps
        self._line("out = []")
        self._line("push = out.append")
        if in_steps:
            self._line("parts, n = [], 0")
            self._line("if 0: yield")
        write_body()
        self._flush()
        self._line('return [*parts, b"".join(out)]' if in_steps else 'return b"".join(out)')
        self._functions.append(self._lines)
        self._lines, self._depth, self._packed, self._is_stepping = outer

    def shape(self, shape: Shape, tree: str) -> None:
        """Push all fields of a mapping."""
        for field in shape.fields:
            self._value(field, self._get(field, tree), shape.is_flexible, is_nullable=field.is_nullable)
        if shape.tagged:
            self._tagged(shape, tree)
        elif shape.is_flexible:
            self._packed.append(("B", "0"))

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    def _new_name(self, value: Any = None) -> str:
        self._count += 1
        name = f"v{self._count}"
        if value is not None:
            self.names[name] = value
        return name

    def _get(self, field: FieldShape, tree: str) -> str:
        """The expression that takes a field out of a mapping."""
        if field.default is Required:
            return f"{tree}[{field.name!r}]"
        default = repr(field.default) if isinstance(field.default, int | str | bytes | type(None)) else None
        return f"{tree}.get({field.name!r}, {default or self._new_name(field.default)})"

    def _flush(self) -> None:
        """Write down the fields of fixed size that are due, as one call of pack."""
        if self._packed:
            form = ">" + "".join(kind for kind, _ in self._packed)
            pack = self._new_name(struct.Struct(form).pack)
            self._line(f"push({pack}({', '.join(value for _, value in self._packed)}))")
            self._packed = []

    def _value(self, field: FieldShape, value: str, is_flexible: bool, *, is_nullable: bool) -> None:
        if field.is_array:
            self._array(field, value, is_flexible)
        elif field.entity is not None:
            self._entity(field.entity, value, is_nullable=is_nullable)
        else:
            self._scalar(field.kind, value, is_flexible, is_nullable=is_nullable)

    def _entity(self, shape: Shape, value: str, *, is_nullable: bool) -> None:
        self._flush()
        name = self._new_name()
        self._line(f"{name} = {value}")
        if not is_nullable:
            self.shape(shape, name)
            return
        self._line(f'if {name} is None: push(b"\\xff")')
        self._line("else:")
        self._depth += 1
        self._packed.append(("b", "1"))
        self.shape(shape, name)
        self._flush()
        self._depth -= 1

    def _array(self, field: FieldShape, value: str, is_flexible: bool) -> None:
        """Whether it may be null or not: as in kio, what is null is written as null."""
        self._flush()
        items, item = self._new_name(), self._new_name()
        self._line(f"{items} = {value}")
        null, count = ('b"\\0"', "uvarint({} + 1)") if is_flexible else ('b"\\xff\\xff\\xff\\xff"', "int32({})")
        self._line(f"if {items} is None: push({null})")
        self._line("else:")
        self._depth += 1
        self._line(f"push({count.format(f'len({items})')})")
        self._line(f"for {item} in {items}:")
        self._depth += 1
        if field.entity is not None:
            self.shape(field.entity, item)
        else:
            self._scalar(field.kind, item, is_flexible, is_nullable=False)
        self._flush()
        if self._is_stepping:
            self._line("n += 1")
            self._line(f"if n >= {_ELEMENTS_A_STEP}: parts.append(b''.join(out)); out.clear(); n = 0; yield")
        self._depth -= 2

    def _scalar(self, kind: str, value: str, is_flexible: bool, *, is_nullable: bool) -> None:
        if kind in _FORMATS:
            if kind == "uuid":
                value = f"uuid_bytes({value})"
            elif kind == "datetime_i64" and is_nullable:
                name = self._new_name()
                value = f"(-1 if ({name} := {value}) is None else {name})"
            self._packed.append((_FORMATS[kind], value))
            return
        self._flush()
        form = "compact" if is_flexible else "plain"
        what = "string" if kind == "string" else "bytes"
        self._line(f"push({form}_{what}{'_or_null' if is_nullable else ''}({value}))")

    def _tagged(self, shape: Shape, tree: str) -> None:
        """Push the tagged fields that are there and not their default. They are compared as bytes."""
        self._flush()
        found = self._new_name()
        self._line(f"{found} = []")
        for field in shape.tagged:
            encode, data = self._new_name(), self._new_name()
            self.function(encode, partial(self._value, field, "t", is_flexible=True, is_nullable=_is_text(field)))
            self._line(f"if {field.name!r} in {tree}:")
            self._depth += 1
            self._line(f"{data} = {encode}({tree}[{field.name!r}])")
            default = self._new_name(_Default(self.names, encode, field.default))
            self._line(f"if {data} != {default}(): {found}.append(({field.tag}, {data}))")
            self._depth -= 1
        self._line(f"push(tagged_section({found}) if {found} else b'\\0')")


def _is_text(field: FieldShape) -> bool:
    """Tagged entities are never null on the wire: a null is the default, and left out."""
    return field.is_nullable and field.kind == "string"


class _Default:
    """The encoded default of a tagged field, made on first use: its encoder is compiled after its name is known."""

    def __init__(self, names: dict[str, Any], encode: str, default: Any) -> None:
        self._names, self._encode, self._default = names, encode, default
        self._data: bytes | None = None

    def __call__(self) -> bytes | None:
        if self._data is None:
            self._data = self._names[self._encode](self._default)
        return self._data
