"""Checkers: a walk over the bytes of a request before it is decoded, made for each API and version from its shape.

kio's native reader makes room for as many elements as an array's count says, before it looks at them: five bytes of a
stranger end the process. It also takes no tagged field that it does not know, which every broker must skip (KIP-482). So a
checker goes before it: it adds up the counts, finds the end of the message, and notes the tagged fields to be cut out.
A checker is straight code over the bytes, generated from the shape: about a microsecond for a small Produce.

Invariants: a message that passes ends where its bytes end, and all its arrays together have no more elements than the caller
allows. Strings and nulls are kio's to check.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from oncelog.model.errors import WireError
from oncelog.wire.shapes import FIXED_BYTES, FieldShape, Shape

_INT32: Final = struct.Struct(">i").unpack_from
_VARINT_BYTES_MAX: Final = 5


class Cut(NamedTuple):
    """Bytes ``start`` to ``end`` of a message are to be replaced by ``instead``."""

    start: int
    end: int
    instead: bytes


#: (bytes, where to begin, elements allowed, cuts to be noted) -> where the message ends.
Checker = Callable[[Any, int, int, list[Cut]], int]


def varint(data: Any, at: int) -> tuple[int, int]:
    """An unsigned varint of at most 32 bits, and where it ends."""
    value = shift = 0
    for end in range(at, at + _VARINT_BYTES_MAX):
        byte = data[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end + 1
        shift += 7
    raise WireError("a number of more than 32 bits")


def encode_varint(value: int) -> bytes:
    """An unsigned varint."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def check_tagged(data: Any, at: int, left: int, cuts: list[Cut], known: dict[int, Checker]) -> int:
    """Walk over a section of tagged fields; note how to leave out those that are not known. Where it ends."""
    start = at
    count, at = varint(data, at)
    kept: list[bytes] = []
    inner: list[Cut] = []
    for _ in range(count):
        field_start = at
        tag, at = varint(data, at)
        size, at = varint(data, at)
        end = at + size
        if end > len(data):
            raise WireError("a tagged field is longer than the message")
        checker = known.get(tag)
        if checker is not None:
            if checker(data, at, left, inner) != end:
                raise WireError(f"the tagged field {tag} does not fill its bytes")
            kept.append(bytes(data[field_start:end]))
        at = end
    if inner:
        raise WireError("unknown tagged fields inside a tagged field")
    if len(kept) < count:
        cuts.append(Cut(start, at, encode_varint(len(kept)) + b"".join(kept)))
    return at


def without(data: Any, cuts: list[Cut]) -> bytes:
    """The bytes after the cuts, which are in order."""
    parts: list[Any] = []
    at = 0
    for cut in cuts:
        parts += (data[at : cut.start], cut.instead)
        at = cut.end
    parts.append(data[at:])
    return b"".join(parts)


def too_many(count: int) -> WireError:
    """What to raise for a count that is more than is left."""
    return WireError(f"an array of {count} elements, more than the bytes or the bounds allow")


def no_array() -> WireError:
    """What to raise for a null where there must be an array."""
    return WireError("a null array where the protocol has none")


def make_checker(shape: Shape) -> Checker:
    """The checker of a message's body."""
    source = _Source()
    source.message("check", shape)
    exec(compile(source.text(), f"<checker of {shape.name}>", "exec"), source.names)
    made: Checker = source.names["check"]
    return made


class _Source:
    """Python source that grows. Inside a function: ``d`` bytes, ``i`` place, ``left`` elements, ``cuts``, ``n`` a length."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._functions: list[list[str]] = []
        self._depth = 1
        self._skipped = 0
        self.names: dict[str, Any] = {
            "varint": varint, "int32": _INT32, "check_tagged": check_tagged, "too_many": too_many,
            "no_array": no_array,
        }  # fmt: skip

    def text(self) -> str:
        """All functions."""
        return "\n".join(line for function in self._functions for line in function)

    def message(self, name: str, shape: Shape) -> None:
        """A function that walks over a shape."""
        self._function(name, lambda: self._shape(shape))

    def _function(self, name: str, write_body: Callable[[], None]) -> None:
        outer = self._lines, self._depth, self._skipped
        self._lines, self._depth, self._skipped = [f"def {name}(d, i, left, cuts):"], 1, 0
        write_body()
        self._flush()
        self._line("return i")
        self._functions.append(self._lines)
        self._lines, self._depth, self._skipped = outer

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    def _flush(self) -> None:
        """Write down the step over fields of fixed size that is due."""
        if self._skipped:
            self._line(f"i += {self._skipped}")
            self._skipped = 0

    def _shape(self, shape: Shape) -> None:
        for field in shape.fields:
            self._field(field, shape.is_flexible, is_nullable=field.is_nullable)
        if shape.is_flexible:
            self._tagged(shape)

    def _tagged(self, shape: Shape) -> None:
        known = f"known_{len(self.names)}"
        checkers = self.names[known] = {}
        self._flush()
        self._line(f"if d[i]: i = check_tagged(d, i, left, cuts, {known})")
        self._line("else: i += 1")
        for field in shape.tagged:
            name = f"{known}_{field.tag}"
            self._function(name, partial(self._field, field, is_flexible=True, is_nullable=False))
            checkers[field.tag] = _Late(self.names, name)

    def _field(self, field: FieldShape, is_flexible: bool, *, is_nullable: bool) -> None:
        if field.is_array:
            self._array(field, is_flexible, is_nullable=is_nullable)
        elif field.entity is not None:
            self._entity(field.entity, is_nullable=is_nullable)
        else:
            self._value(field.kind, is_flexible)

    def _entity(self, shape: Shape, *, is_nullable: bool) -> None:
        if not is_nullable:
            self._shape(shape)
            return
        self._flush()
        self._line("i += 1")
        self._line("if d[i - 1] < 128:")
        self._depth += 1
        self._shape(shape)
        self._flush()
        self._depth -= 1

    def _array(self, field: FieldShape, is_flexible: bool, *, is_nullable: bool) -> None:
        self._flush()
        if is_flexible:
            self._compact_length()
            self._line("n -= 1")
        else:
            self._line("n = int32(d, i)[0]")
            self._line("i += 4")
        if not is_nullable:  # kio reads a null there, which no handler expects
            self._line("if n < 0: raise no_array()")
        self._line("if n > 0:")
        self._depth += 1
        self._line("left -= n")
        self._line("if left < 0: raise too_many(n)")
        if field.kind in FIXED_BYTES:
            self._line(f"i += n * {FIXED_BYTES[field.kind]}")
        else:
            self._line("for _ in range(n):")
            self._depth += 1
            if field.entity is not None:
                self._shape(field.entity)
            else:
                self._value(field.kind, is_flexible)
            self._flush()
            self._depth -= 1
        self._depth -= 1

    def _value(self, kind: str, is_flexible: bool) -> None:
        if kind in FIXED_BYTES:
            self._skipped += FIXED_BYTES[kind]
            return
        self._flush()
        if is_flexible:
            self._compact_length()
            self._line("if n: i += n - 1")
        elif kind == "string":
            self._line("n = d[i] << 8 | d[i + 1]")
            self._line("i += n + 2 if n < 32768 else 2")
        else:
            self._line("n = int32(d, i)[0]")
            self._line("i += n + 4 if n > 0 else 4")

    def _compact_length(self) -> None:
        self._line("n = d[i]")
        self._line("i += 1")
        self._line("if n > 127: n, i = varint(d, i - 1)")


class _Late:
    """A checker that is looked up when it is called: its source is compiled after its name is known."""

    def __init__(self, names: dict[str, Any], name: str) -> None:
        self._names, self._name = names, name

    def __call__(self, data: Any, at: int, left: int, cuts: list[Cut]) -> int:
        end: int = self._names[self._name](data, at, left, cuts)
        return end
