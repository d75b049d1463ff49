"""Batches whose CRC is right, and whose records say what no record can."""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c


def _varint(value: int) -> bytes:
    """Zigzag, of any size."""
    rest = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _batch(*, time: int, offset: int = 0, first_ms: int = 10) -> bytes:
    """Of one record, whose time is so much after ``first_ms``, and whose offset so much after the batch's."""
    body = b"\0" + _varint(time) + _varint(offset) + _varint(1) + b"k" + _varint(1) + b"v" + _varint(0)
    tail = struct.pack(">hiqqqhii", 0, 0, first_ms, 10, -1, -1, -1, 1) + _varint(len(body)) + body
    return struct.pack(">qii", 0, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail


NONSENSE: Final = {
    "a time of 68 bits": _batch(time=2**67),
    "a time whose sum has 65 bits": _batch(time=2**62, first_ms=2**63 - 1),
    "a time before all time": _batch(time=-(2**63), first_ms=-(2**63)),
    "an offset of 68 bits": _batch(time=0, offset=2**67),
    "an offset behind the batch": _batch(time=0, offset=1),
    "an offset before the batch": _batch(time=0, offset=-5),
}
