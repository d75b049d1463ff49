"""Record batches, format version 2 (magic 2): a view over bytes.

What lives here: reading and checking a batch's header, stamping its offset, building control batches.
What it may not know: partitions, producers, time. Batches are passed on as the client made them: only the base offset and
the leader epoch are stamped, which the CRC does not cover; LogAppendTime alone makes the CRC be computed again.
Rules P4, R3; KIP-98 (format).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from crc32c import crc32c

from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import COMPRESSION, CONTROL, DELETE_HORIZON, TIMESTAMP_LOG_APPEND, TRANSACTIONAL, BatchHeader
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.limits import RECORDS_BYTES_MAX

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = _HEADER.size  # 61
#: base offset and batch length come before what the length counts
LENGTH_OVERHEAD_BYTES: Final = 12
_CRC_FROM: Final = 21
_STAMP: Final = struct.Struct(">qii")
_BASE_OFFSET: Final = struct.Struct(">q")
#: A header up to the delta of its last offset.
_SOUND: Final = struct.Struct(">qiibIhi")

_OF_THE_BROKER: Final = CONTROL | DELETE_HORIZON
_COMPRESSION_MAX: Final = 4

#: A record without key, value and headers: its length, attributes, two deltas, three more lengths.
RECORD_BYTES_MIN: Final = 7

CONTROL_ABORT: Final = 0
CONTROL_COMMIT: Final = 1


def read_header(data: bytes | bytearray | memoryview, at: int = 0) -> BatchHeader:
    """Read a header of a batch that was checked before; ``struct.error`` if there are fewer than 61 bytes."""
    return BatchHeader(*_HEADER.unpack_from(data, at))


def check_batch(data: bytes | memoryview | None, *, bytes_max: int) -> BatchHeader:
    """Check what one partition of a Produce request carries: exactly one sound batch of magic 2 (rule P4).

    Raises Refusal: MESSAGE_TOO_LARGE above ``bytes_max`` bytes, CORRUPT_MESSAGE for a broken frame or CRC,
    UNSUPPORTED_FOR_MESSAGE_FORMAT for an old magic, INVALID_RECORD for what a producer may not send.
    """
    if not data:
        raise Refusal(ErrorCode.INVALID_RECORD, "no record batch for a partition that the request names")
    if len(data) < HEADER_BYTES:
        raise Refusal(ErrorCode.CORRUPT_MESSAGE, "no whole record batch in the request")
    fields = _HEADER.unpack_from(data)
    _, length, _, magic, crc, attributes, delta, _, _, producer_id, epoch, sequence, count = fields
    if magic != 2:
        code = ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT if magic in (0, 1) else ErrorCode.CORRUPT_MESSAGE
        raise Refusal(code, f"batch of magic {magic}, only magic 2 is stored")
    if len(data) > bytes_max:
        raise Refusal(ErrorCode.MESSAGE_TOO_LARGE, f"batch of {len(data)} bytes, max.message.bytes is {bytes_max}")
    if length + LENGTH_OVERHEAD_BYTES != len(data):
        if HEADER_BYTES <= length + LENGTH_OVERHEAD_BYTES < len(data):
            raise Refusal(ErrorCode.INVALID_RECORD, "more than one batch for a partition in one request")
        raise Refusal(ErrorCode.CORRUPT_MESSAGE, "batch length does not match the bytes sent")
    if crc32c(memoryview(data)[_CRC_FROM:]) != crc:
        raise Refusal(ErrorCode.CORRUPT_MESSAGE, "CRC of the batch does not match")
    if count <= 0 or delta != count - 1:
        raise Refusal(ErrorCode.INVALID_RECORD, f"{count} records but last offset delta {delta}")
    records_bytes = RECORDS_BYTES_MAX if attributes & COMPRESSION else len(data) - HEADER_BYTES
    if count > records_bytes // RECORD_BYTES_MIN:
        raise Refusal(ErrorCode.INVALID_RECORD, f"{count} records can't be in {records_bytes} bytes")
    if attributes & COMPRESSION > _COMPRESSION_MAX:
        raise Refusal(ErrorCode.CORRUPT_MESSAGE, f"unknown compression {attributes & COMPRESSION}")
    if attributes & _OF_THE_BROKER:
        raise Refusal(ErrorCode.INVALID_RECORD, "clients may not write control batches, nor delete horizons")
    if producer_id >= 0 and (sequence < 0 or epoch < 0):
        raise Refusal(ErrorCode.INVALID_RECORD, f"producer id {producer_id} with sequence {sequence}, epoch {epoch}")
    if producer_id < 0 and attributes & TRANSACTIONAL:
        raise Refusal(ErrorCode.INVALID_RECORD, "transactional batch without a producer id")
    return BatchHeader(*fields)


def packed(header: BatchHeader, records: bytes) -> bytes:
    """The batch of that header and those records, compressed as it says; length and CRC are computed."""
    head = bytearray(
        _HEADER.pack(
            header.base_offset,
            HEADER_BYTES - LENGTH_OVERHEAD_BYTES + len(records),
            header.leader_epoch,
            header.magic,
            0,
            header.attributes,
            header.offset_delta_last,
            header.timestamp_base,
            header.timestamp_max,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.record_count,
        )
    )
    struct.pack_into(">I", head, 17, crc32c(records, crc32c(memoryview(head)[_CRC_FROM:])))
    return bytes(head) + records


def stamp(data: bytes | memoryview, base_offset: int, *, append_time_ms: int | None = None) -> bytes:
    """The batch with its base offset (and leader epoch 0) set; with ``append_time_ms``, as LogAppendTime."""
    length = len(data) - LENGTH_OVERHEAD_BYTES
    if append_time_ms is None:
        return b"".join((_STAMP.pack(base_offset, length, 0), memoryview(data)[16:]))
    copy = bytearray(data)
    _STAMP.pack_into(copy, 0, base_offset, length, 0)
    attributes = struct.unpack_from(">h", copy, _CRC_FROM)[0] | TIMESTAMP_LOG_APPEND
    struct.pack_into(">h", copy, _CRC_FROM, attributes)
    struct.pack_into(">q", copy, 35, append_time_ms)
    struct.pack_into(">I", copy, 17, crc32c(memoryview(copy)[_CRC_FROM:]))
    return bytes(copy)


def control_batch(
    base_offset: int,
    *,
    producer_id: ProducerId,
    epoch: Epoch,
    commit: bool,
    timestamp_ms: int,
    coordinator_epoch: int = 0,
) -> bytes:
    """The batch of one record that ends a transaction on a partition (rule R3).

    Key int16 0, int16 (0 abort, 1 commit); value int16 0, int32 coordinator epoch.
    """
    _, rest = _control_rest(producer_id, epoch, commit, timestamp_ms, coordinator_epoch)
    return _BASE_OFFSET.pack(base_offset) + rest


def control_header(
    *, producer_id: ProducerId, epoch: Epoch, commit: bool, timestamp_ms: int, coordinator_epoch: int = 0
) -> BatchHeader:
    """The header of such a batch, with base offset 0."""
    return _control_rest(producer_id, epoch, commit, timestamp_ms, coordinator_epoch)[0]


@lru_cache(maxsize=4)
def _control_rest(
    producer_id: ProducerId, epoch: Epoch, commit: bool, timestamp_ms: int, coordinator_epoch: int
) -> tuple[BatchHeader, bytes]:
    """All but the base offset, which the CRC does not cover: the same for all partitions of a transaction."""
    key = struct.pack(">hh", 0, CONTROL_COMMIT if commit else CONTROL_ABORT)
    value = struct.pack(">hi", 0, coordinator_epoch)
    # attributes, timestamp delta 0, offset delta 0, key, value, no headers; lengths are zigzag varints below 64
    record = b"\x00\x00\x00" + bytes([len(key) << 1]) + key + bytes([len(value) << 1]) + value + b"\x00"
    body = bytes([len(record) << 1]) + record
    tail = (
        struct.pack(">hiqqqhii", TRANSACTIONAL | CONTROL, 0, timestamp_ms, timestamp_ms, producer_id, epoch, -1, 1)
        + body
    )
    whole = _STAMP.pack(0, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail
    return read_header(whole), whole[_BASE_OFFSET.size :]


def control_outcome(data: bytes | memoryview) -> bool:
    """True if the control batch ``data`` commits, False if it aborts."""
    # the header, then: record length, attributes, two deltas, key length (one byte each), key version
    return bool(struct.unpack_from(">h", data, HEADER_BYTES + 7)[0] == CONTROL_COMMIT)


def are_sound(batches: bytes | memoryview, offset: int, offset_end: int) -> bool:
    """Whether these are whole batches as they were written, one after another between the two offsets.

    The CRC covers all but the first 16 bytes of a batch; of these the leader epoch tells readers nothing here.
    """
    view, at, offset_next = memoryview(batches), 0, offset
    while at < len(view):
        if at + HEADER_BYTES > len(view):
            return False
        base_offset, length, _, magic, crc, _, offset_delta_last = _SOUND.unpack_from(view, at)
        end = at + LENGTH_OVERHEAD_BYTES + length
        if magic != 2 or base_offset < offset_next or not at + HEADER_BYTES <= end <= len(view):
            return False
        if crc32c(view[at + _CRC_FROM : end]) != crc:
            return False
        at, offset_next = end, base_offset + offset_delta_last + 1
    return offset_next <= offset_end


def offset_after(batches: bytes | memoryview) -> int:
    """The offset after the last of some whole batches that follow each other."""
    at, last = 0, 0
    while at < len(batches):
        last = at
        at += LENGTH_OVERHEAD_BYTES + int.from_bytes(batches[at + 8 : at + 12], "big")
    return read_header(batches, last).offset_next
