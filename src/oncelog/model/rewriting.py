"""Batches opened for their keys, and written again without some of their records: what compaction does with bytes.

A batch that is written again keeps its base offset and last offset delta, its producer id, epoch and base sequence, its
codec, and its records their offsets and times. Count, largest time, length and CRC follow from the records that are
left.

A *horizon* is the time from which the tombstones of a batch may go. It is kept where Kafka keeps it: attribute bit 6
says that the base timestamp is the horizon, and the records' times are relative to it (KIP-534). Knows no log.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import cramjam

from oncelog.model.batch import HEADER_BYTES, RECORD_BYTES_MIN, packed
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import DELETE_HORIZON, BatchHeader
from oncelog.model.limits import COMPACTED_BATCH_RECORDS_MAX
from oncelog.model.records import TIME_MAX, XERIAL, decompressed, read_varint

#: Records that are looked at before others get the interpreter: some hundred microseconds.
_STEP: Final = 64
_XERIAL_VERSIONS: Final = struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES: Final = 32 * 1024
#: Frame descriptor: version 1, independent blocks (Java's decoder takes no others), at most 64 KiB each, and its check byte.
_LZ4_HEAD: Final = b"\x04\x22\x4d\x18\x60\x40\x82"
_LZ4_BLOCK_BYTES: Final = 64 * 1024
_LZ4_RAW: Final = 1 << 31
_LZ4_END: Final = bytes(4)


class Keyed(NamedTuple):
    """A record's key, and where it is in the decompressed records; a tombstone has no value."""

    start: int
    end: int
    timestamp_delta: int
    offset_delta: int
    key: bytes | None
    is_tombstone: bool


def opened(batch: bytes | memoryview, header: BatchHeader) -> bytes:
    """The records of a batch, decompressed. Raises Refusal if they can't be, or if they are more than may be looked at."""
    if header.record_count > COMPACTED_BATCH_RECORDS_MAX:
        raise Refusal(
            ErrorCode.INVALID_RECORD,
            f"{header.record_count} records in a batch of a compacted topic, at most {COMPACTED_BATCH_RECORDS_MAX} may be",
        )
    return bytes(decompressed(header.compression, bytes(memoryview(batch)[HEADER_BYTES:])))


def keyed_records(body: bytes, header: BatchHeader, breathe: Callable[[], None] | None = None) -> Iterator[Keyed]:
    """The records with their keys, in order. Raises Refusal(INVALID_RECORD) where they contradict themselves or the header."""
    at, offset_last = 0, -1
    try:
        for number in range(header.record_count):
            if breathe is not None and number % _STEP == _STEP - 1:
                breathe()
            start = at
            length, at = read_varint(body, at)
            end = at + length
            if length < RECORD_BYTES_MIN - 1 or end > len(body):
                raise IndexError
            timestamp_delta, at = read_varint(body, at + 1)
            offset_delta, at = read_varint(body, at)
            key_length, at = read_varint(body, at)
            key = None
            if key_length >= 0:
                key = body[at : at + key_length]
                at += key_length
            value_length, at = read_varint(body, at)
            if at + max(value_length, 0) > end or not offset_last < offset_delta <= header.offset_delta_last:
                raise IndexError
            if not -1 <= header.timestamp_base + timestamp_delta <= TIME_MAX:
                raise IndexError
            offset_last = offset_delta
            yield Keyed(start, end, timestamp_delta, offset_delta, key, value_length < 0)
            at = end
    except IndexError:
        raise Refusal(ErrorCode.INVALID_RECORD, "the records in the batch are not what its header says") from None
    if at != len(body):
        raise Refusal(ErrorCode.INVALID_RECORD, "there is something behind the last record of the batch")


def check_keys(batch: bytes | memoryview, header: BatchHeader) -> None:
    """Raise Refusal unless every record of a batch for a compacted topic has a key (rule P4)."""
    for number, record in enumerate(keyed_records(opened(batch, header), header)):
        if record.key is None:
            raise Refusal(ErrorCode.INVALID_RECORD, f"record {number} has no key, and the topic is compacted")
        if record.offset_delta != number:
            raise Refusal(ErrorCode.INVALID_RECORD, f"record {number} has offset delta {record.offset_delta}")


def rewritten(
    batch: bytes | memoryview,
    header: BatchHeader,
    body: bytes,
    kept: Sequence[tuple[int, int]],
    *,
    count: int,
    timestamp_max: int,
    horizon_ms: int | None,
) -> bytes:
    """The batch with only the ``count`` records at ``kept`` of ``body``; with ``horizon_ms``, with that horizon from now on."""
    records = b"".join([body[start:end] for start, end in kept])
    attributes, timestamp_base = header.attributes, header.timestamp_base
    if horizon_ms is not None:
        records = _shifted(records, count, timestamp_base - horizon_ms)
        attributes, timestamp_base = attributes | DELETE_HORIZON, horizon_ms
    changed = header._replace(
        attributes=attributes, timestamp_base=timestamp_base, timestamp_max=timestamp_max, record_count=count
    )
    return packed(changed, _compressed(header.compression, records, batch))


def _shifted(records: bytes, count: int, by_ms: int) -> bytes:
    """The records with their time deltas so much larger."""
    pieces: list[bytes] = []
    at = 0
    for _ in range(count):
        length, at = read_varint(records, at)
        end = at + length
        delta, rest = read_varint(records, at + 1)
        time = _varint(delta + by_ms)
        pieces += (_varint(1 + len(time) + end - rest), records[at : at + 1], time, records[rest:end])
        at = end
    return b"".join(pieces)


def _varint(value: int) -> bytes:
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _compressed(compression: int, records: bytes, before: bytes | memoryview) -> bytes:
    """With the codec of ``before``, snappy in its framing."""
    if compression == 0:
        return records
    if compression == 1:
        return bytes(cramjam.gzip.compress(records))
    if compression == 2:
        if bytes(memoryview(before)[HEADER_BYTES : HEADER_BYTES + len(XERIAL)]) == XERIAL:
            return _xerial(records)
        return bytes(cramjam.snappy.compress_raw(records))
    if compression == 3:
        return _lz4(records)
    return bytes(cramjam.zstd.compress(records))


def _xerial(records: bytes) -> bytes:
    pieces = [XERIAL, _XERIAL_VERSIONS]
    for at in range(0, len(records), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(records[at : at + _XERIAL_BLOCK_BYTES]))
        pieces += (struct.pack(">i", len(block)), block)
    return b"".join(pieces)


def _lz4(records: bytes) -> bytes:
    pieces = [_LZ4_HEAD]
    for at in range(0, len(records), _LZ4_BLOCK_BYTES):
        raw = records[at : at + _LZ4_BLOCK_BYTES]
        block = bytes(cramjam.lz4.compress_block(raw, store_size=False))
        if len(block) < len(raw):
            pieces += (struct.pack("<I", len(block)), block)
        else:
            pieces += (struct.pack("<I", len(raw) | _LZ4_RAW), raw)
    pieces.append(_LZ4_END)
    return b"".join(pieces)
