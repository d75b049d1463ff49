"""Record batches as producers write them and consumers read them: an encoder and a decoder of the tests' own.

Format version 2. Kept apart from oncelog's code on purpose: the one checks the other; of the codecs gzip is Python's own here,
and the framing of snappy is written anew.
"""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import cramjam
from crc32c import crc32c

TRANSACTIONAL = 0x10
CONTROL = 0x20

_HEADER = struct.Struct(">qiibIhiqqqhii")
_SIZE = _HEADER.size


class Codec(IntEnum):
    """How clients compress; snappy as Java does (Xerial's blocks), and as librdkafka does. Three bits go on the wire."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4
    SNAPPY_XERIAL = 10


_XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
#: Small, so that there are several.
_XERIAL_BLOCK_BYTES = 64


class Record(NamedTuple):
    """``header``: of a record without a value, the value of its first header."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    header: bytes | None = None

    @property
    def name(self) -> bytes:
        """What tells it from all others: its value, or the name that a tombstone has in a header."""
        return (self.value if self.value is not None else self.header) or b""


@dataclass(frozen=True)
class Batch:
    """A batch that a broker returned. ``data`` is all of it."""

    base_offset: int
    attributes: int
    timestamp_max: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int
    offset_last: int
    data: bytes

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def is_commit(self) -> bool:
        """Of a control batch: whether it commits."""
        key = self.records[0].key
        assert self.is_control
        assert key is not None
        return struct.unpack(">hh", key)[1] == 1

    @property
    def records(self) -> list[Record]:
        return list(_records(self.data[:_SIZE] + _unpacked(self.codec, self.data[_SIZE:]), self.base_offset))

    @property
    def codec(self) -> Codec:
        """How it is compressed."""
        codec = Codec(self.attributes & 7)
        return Codec.SNAPPY_XERIAL if codec is Codec.SNAPPY and self.data.startswith(_XERIAL, _SIZE) else codec


def batch(
    values: Sequence[bytes | None],
    *,
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[bytes | None] | None = None,
    timestamp_ms: int | None = None,
    codec: Codec = Codec.NONE,
) -> bytes:
    """One batch of some values, all at the same time (now, if none is given). ``headers``: of each record the value of one."""
    now_ms = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
    body = b"".join(
        _record(
            index,
            keys[index] if keys is not None else None,
            value,
            headers[index] if headers is not None else None,
        )
        for index, value in enumerate(values)
    )
    attributes = (TRANSACTIONAL if transactional else 0) | (CONTROL if control else 0)
    if codec:
        attributes, body = attributes | codec & 7, _PACK[codec](body)
    count = len(values)
    tail = struct.pack(">hiqqqhii", attributes, count - 1, now_ms, now_ms, producer_id, epoch, sequence, count) + body
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, crc32c(tail)) + tail


def batches(data: bytes | None) -> list[Batch]:
    """All whole batches of what a fetch returned; each must be sound."""
    found = []
    rest = data or b""
    while len(rest) >= _HEADER.size:
        head = _HEADER.unpack_from(rest)
        size = head[1] + 12
        if size > len(rest):
            break
        whole, rest = rest[:size], rest[size:]
        base_offset, _, _, magic, crc, attributes, delta, _, timestamp_max, producer_id, epoch, sequence, count = head
        assert magic == 2
        assert crc32c(whole[21:]) == crc, f"broken CRC at offset {base_offset}"
        found.append(
            Batch(
                base_offset, attributes, timestamp_max, producer_id, epoch, sequence, count, base_offset + delta, whole
            )
        )
    return found


def _packed_xerial(body: bytes) -> bytes:
    pieces = [_XERIAL]
    for at in range(0, len(body), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(body[at : at + _XERIAL_BLOCK_BYTES]))
        pieces.append(struct.pack(">i", len(block)) + block)
    return b"".join(pieces)


def _unpacked_xerial(data: bytes) -> bytes:
    pieces, at = [], len(_XERIAL)
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        block = data[at + 4 : at + 4 + size]
        assert len(block) == size, "half a block"
        pieces.append(bytes(cramjam.snappy.decompress_raw(block)))
        at += 4 + size
    return b"".join(pieces)


_PACK: dict[Codec, Callable[[bytes], Any]] = {
    Codec.GZIP: lambda body: gzip.compress(body, 1, mtime=0),
    Codec.SNAPPY: lambda body: bytes(cramjam.snappy.compress_raw(body)),
    Codec.LZ4: lambda body: bytes(cramjam.lz4.compress(body)),
    Codec.ZSTD: lambda body: bytes(cramjam.zstd.compress(body)),
    Codec.SNAPPY_XERIAL: _packed_xerial,
}
_UNPACK: dict[Codec, Callable[[bytes], Any]] = {
    Codec.GZIP: gzip.decompress,
    Codec.SNAPPY: cramjam.snappy.decompress_raw,
    Codec.LZ4: cramjam.lz4.decompress,
    Codec.ZSTD: cramjam.zstd.decompress,
    Codec.SNAPPY_XERIAL: _unpacked_xerial,
}


def _unpacked(codec: Codec, data: bytes) -> bytes:
    return bytes(_UNPACK[codec](data)) if codec else data


def _record(index: int, key: bytes | None, value: bytes | None, header: bytes | None) -> bytes:
    headers = _varint(0) if header is None else _varint(1) + _bytes(b"h") + _bytes(header)
    body = b"\x00" + _varint(0) + _varint(index) + _bytes(key) + _bytes(value) + headers
    return _varint(len(body)) + body


def _bytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(value: int) -> bytes:
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _records(data: bytes, base_offset: int) -> Iterator[Record]:
    first_ms = _HEADER.unpack_from(data)[7]
    at = _HEADER.size
    while at < len(data):
        length, at = _read_varint(data, at)
        end = at + length
        delta_ms, at = _read_varint(data, at + 1)
        delta, at = _read_varint(data, at)
        key, at = _read_bytes(data, at)
        value, at = _read_bytes(data, at)
        header = _read_header(data, at) if value is None else None
        yield Record(base_offset + delta, first_ms + delta_ms, key, value, header)
        at = end


def _read_header(data: bytes, at: int) -> bytes | None:
    count, at = _read_varint(data, at)
    if not count:
        return None
    _, at = _read_bytes(data, at)
    return _read_bytes(data, at)[0]


def _read_bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _read_varint(data, at)
    return (None, at) if length < 0 else (data[at : at + length], at + length)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
