"""The records inside a batch, opened only where the protocol asks for a single record's offset or time.

Kafka's record format v2: zigzag varints; compression of the whole list by gzip, snappy (Xerial's blocks or plain), lz4
frames or zstd. Rule R5; KIP-98.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import cramjam

from oncelog.model.batch import HEADER_BYTES, TIMESTAMP_LOG_APPEND, read_header
from oncelog.model.errors import StorageError

_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES: Final = 16


class RecordPlace(NamedTuple):
    """One record's offset and its time in ms."""

    offset: int
    timestamp_ms: int


def record_places(batch: bytes | memoryview) -> Iterator[RecordPlace]:
    """Offset and time of each record of a stored batch, in order. Raises StorageError if it can't be opened."""
    header = read_header(batch)
    if header.attributes & TIMESTAMP_LOG_APPEND:
        for delta in range(header.record_count):
            yield RecordPlace(header.base_offset + delta, header.timestamp_max)
        return
    body = _decompressed(header.compression, bytes(memoryview(batch)[HEADER_BYTES:]))
    at = 0
    try:
        for _ in range(header.record_count):
            length, at = _varint(body, at)
            end = at + length
            timestamp_delta, at = _varint(body, at + 1)
            offset_delta, at = _varint(body, at)
            yield RecordPlace(header.base_offset + offset_delta, header.timestamp_base + timestamp_delta)
            at = end
    except IndexError:
        raise StorageError(f"the records of the batch at offset {header.base_offset} end too soon") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def _decompressed(compression: int, data: bytes) -> bytes:
    try:
        if compression == 0:
            return data
        if compression == 1:
            return bytes(cramjam.gzip.decompress(data))
        if compression == 2:
            return _unsnapped(data)
        if compression == 3:
            return bytes(cramjam.lz4.decompress(data))
        return bytes(cramjam.zstd.decompress(data))
    except cramjam.DecompressionError as error:
        raise StorageError(f"a batch can't be decompressed: {error}") from None


def _unsnapped(data: bytes) -> bytes:
    if not data.startswith(_XERIAL):
        return bytes(cramjam.snappy.decompress_raw(data))
    parts: list[bytes] = []
    at = _XERIAL_HEAD_BYTES
    while at + 4 <= len(data):
        (length,) = struct.unpack_from(">i", data, at)
        parts.append(bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + length])))
        at += 4 + length
    return b"".join(parts)
