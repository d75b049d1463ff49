"""The records inside a batch, opened only where the protocol asks for a single record's offset or time, and for people.

Kafka's record format v2: zigzag varints; compression of the whole list by gzip, snappy (Xerial's blocks or plain), lz4
frames or zstd. Rule R5; KIP-98.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import cramjam

from oncelog.model.batch import HEADER_BYTES, RECORD_BYTES_MIN, read_header
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import TIMESTAMP_LOG_APPEND, BatchHeader
from oncelog.model.limits import RECORDS_BYTES_MAX

XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES: Final = 16
_FIRST_BYTES: Final = 1024 * 1024
_VARINT_SHIFT_MAX: Final = 63
#: What a reply has room for: a client may write a number of any size, or two whose sum is larger.
TIME_MAX: Final = 2**63 - 1


class RecordPlace(NamedTuple):
    """One record's offset and its time in ms."""

    offset: int
    timestamp_ms: int


class Record(NamedTuple):
    """A whole record; ``headers`` in their order."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def record_places(batch: bytes | memoryview) -> Iterator[RecordPlace]:
    """Offset and time of each record of a stored batch, in order. Raises Refusal(CORRUPT_MESSAGE) if it can't be opened:

    a client's CRC may be right over nonsense.
    """
    header = read_header(batch)
    if header.attributes & TIMESTAMP_LOG_APPEND and header.record_count == header.offset_delta_last + 1:
        for delta in range(header.record_count):
            yield RecordPlace(header.base_offset + delta, header.timestamp_max)
        return
    is_append_time = bool(header.attributes & TIMESTAMP_LOG_APPEND)
    for offset, timestamp_ms, _, _ in _opened(batch, header):
        yield RecordPlace(offset, header.timestamp_max if is_append_time else timestamp_ms)


def records(batch: bytes | memoryview) -> Iterator[Record]:
    """All records of a stored batch, in order. Raises Refusal(CORRUPT_MESSAGE) as ``record_places`` does."""
    header = read_header(batch)
    is_append_time = bool(header.attributes & TIMESTAMP_LOG_APPEND)
    for offset, timestamp_ms, body, at in _opened(batch, header):
        try:
            key, at = _bytes(body, at)
            value, at = _bytes(body, at)
            headers = _headers(body, at)
        except (IndexError, UnicodeDecodeError):
            raise _damaged(header) from None
        yield Record(offset, header.timestamp_max if is_append_time else timestamp_ms, key, value, headers)


def _opened(batch: bytes | memoryview, header: BatchHeader) -> Iterator[tuple[int, int, bytes | memoryview, int]]:
    """Offset and time of each record, and where in the decompressed bytes its key begins."""
    body = decompressed(header.compression, bytes(memoryview(batch)[HEADER_BYTES:]))
    at = 0
    try:
        for _ in range(header.record_count):
            length, at = read_varint(body, at)
            if length < RECORD_BYTES_MIN - 1:
                raise IndexError
            end = at + length
            timestamp_delta, at = read_varint(body, at + 1)
            offset_delta, at = read_varint(body, at)
            timestamp_ms = header.timestamp_base + timestamp_delta
            if not 0 <= offset_delta <= header.offset_delta_last or not -TIME_MAX <= timestamp_ms <= TIME_MAX:
                raise IndexError
            yield header.base_offset + offset_delta, timestamp_ms, body, at
            at = end
    except IndexError:
        raise _damaged(header) from None


def _damaged(header: BatchHeader) -> Refusal:
    return Refusal(
        ErrorCode.CORRUPT_MESSAGE, f"the records of the batch at {header.base_offset} are none, or end too soon"
    )


def _bytes(data: bytes | memoryview, at: int) -> tuple[bytes | None, int]:
    length, at = read_varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise IndexError
    return bytes(data[at : at + length]), at + length


def _headers(data: bytes | memoryview, at: int) -> tuple[tuple[str, bytes | None], ...]:
    count, at = read_varint(data, at)
    found: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _bytes(data, at)
        value, at = _bytes(data, at)
        found.append(((name or b"").decode(), value))
    return tuple(found)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > _VARINT_SHIFT_MAX:
            raise IndexError("a number of more than 64 bits")


def decompressed(compression: int, data: bytes) -> bytes | memoryview:
    """The records of a batch, by the codec's number. Raises Refusal(CORRUPT_MESSAGE), also for too many bytes."""
    if compression == 0:
        return data
    if compression == 2 and data.startswith(XERIAL):
        return b"".join(_into(cramjam.snappy.decompress_raw_into, block) for block in _xerial_blocks(data))
    return _into(_INTO[compression], data)


_INTO: Final[dict[int, Callable[[bytes, bytearray], int]]] = {
    1: cramjam.gzip.decompress_into,
    2: cramjam.snappy.decompress_raw_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


def _into(decompress_into: Callable[[bytes, bytearray], int], data: bytes) -> memoryview:
    """Decompress into a buffer of bounded size; larger ones are only made when smaller ones did not do."""
    size = min(_FIRST_BYTES, RECORDS_BYTES_MAX)
    while True:
        out = bytearray(size)
        try:
            return memoryview(out)[: decompress_into(data, out)]
        except cramjam.DecompressionError as error:
            if size >= RECORDS_BYTES_MAX:
                raise Refusal(ErrorCode.CORRUPT_MESSAGE, f"the batch can't be decompressed: {error}") from None
        size = min(size * 16, RECORDS_BYTES_MAX)


def _xerial_blocks(data: bytes) -> Iterator[bytes]:
    at = _XERIAL_HEAD_BYTES
    while at + 4 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length
