"""Records are found inside batches of every compression (rule R5)."""

from __future__ import annotations

import struct

import cramjam
import pytest
from crc32c import crc32c
from tests.support.nonsense import NONSENSE

from oncelog.model.batch import HEADER_BYTES, offset_after, read_header
from oncelog.model.errors import Refusal
from oncelog.model.records import Record, record_places, records


def varint(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def batch(times: list[int], compression: int, *, base_offset: int = 100, append_time: int | None = None) -> bytes:
    body = b""
    for index, time in enumerate(times):
        record = b"\0" + varint(time - times[0]) + varint(index) + varint(-1) + varint(300) + bytes(300) + b"\0"
        body += varint(len(record)) + record
    if compression == 1:
        body = bytes(cramjam.gzip.compress(body))
    elif compression == 2:
        body = bytes(cramjam.snappy.compress_raw(body))
    elif compression == 3:
        body = bytes(cramjam.lz4.compress(body))
    elif compression == 4:
        body = bytes(cramjam.zstd.compress(body))
    elif compression == 22:
        blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in (body[:500], body[500:])]
        body = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
        body += b"".join(struct.pack(">i", len(block)) + block for block in blocks)
        compression = 2
    attributes = compression | (8 if append_time is not None else 0)
    time_max = max(times) if append_time is None else append_time
    tail = struct.pack(">hiqqqhii", attributes, len(times) - 1, times[0], time_max, -1, -1, -1, len(times)) + body
    return struct.pack(">qii", base_offset, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4, 22])
def test_offset_and_time_of_each_record(compression: int) -> None:
    """R5: gzip, snappy plain and in Xerial's blocks, lz4, zstd; times may go back."""
    times = [1_700_000_000_000, 1_700_000_000_500, 1_699_999_999_000, 1_800_000_000_000]
    assert list(record_places(batch(times, compression))) == [(100 + index, time) for index, time in enumerate(times)]


def test_log_append_time_is_every_records_time() -> None:
    """R5: message.timestamp.type=LogAppendTime."""
    assert list(record_places(batch([1, 2, 3], 4, append_time=9))) == [(100, 9), (101, 9), (102, 9)]


def packed(text: bytes | None) -> bytes:
    return varint(-1) if text is None else varint(len(text)) + text


def one_record(key: bytes | None, value: bytes | None, headers: list[tuple[bytes, bytes | None]]) -> bytes:
    """A batch of one record at offset 7."""
    record = b"\0\0\0" + packed(key) + packed(value) + varint(len(headers))
    record += b"".join(packed(name) + packed(text) for name, text in headers)
    body = varint(len(record)) + record
    tail = struct.pack(">hiqqqhii", 0, 0, 5, 5, -1, -1, -1, 1) + body
    return struct.pack(">qii", 7, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail


def test_whole_records() -> None:
    data = one_record(b"key", None, [(b"a", b"1"), (b"a", None), ("\u00e9".encode(), b"")])
    headers = (("a", b"1"), ("a", None), ("\u00e9", b""))
    assert list(records(data)) == [Record(7, 5, b"key", None, headers)]
    assert [record.offset for record in records(batch([1, 2, 3], 4))] == [100, 101, 102]


@pytest.mark.parametrize("cut", range(HEADER_BYTES, len(one_record(b"key", b"value", [(b"a", b"1")]))))
def test_a_record_that_ends_too_soon_says_so(cut: int) -> None:
    with pytest.raises(Refusal, match="CORRUPT_MESSAGE"):
        list(records(one_record(b"key", b"value", [(b"a", b"1")])[:cut]))


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
def test_a_batch_that_cannot_be_opened_says_so(compression: int) -> None:
    """A client's CRC may be right over nonsense: CORRUPT_MESSAGE for who asks, nothing else happens."""
    data = batch([1, 2, 3], compression)
    broken = data[: HEADER_BYTES + 5] if compression == 0 else data[:HEADER_BYTES] + b"\xff" * 30
    with pytest.raises(Refusal, match="CORRUPT_MESSAGE"):
        list(record_places(broken))


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: what a batch may become when it is opened is bounded."""
    from oncelog.model import records

    monkeypatch.setattr(records, "RECORDS_BYTES_MAX", 500)
    with pytest.raises(Refusal, match="CORRUPT_MESSAGE"):
        list(record_places(batch([1, 2, 3], 4)))


def test_the_offset_after_several_batches() -> None:
    """R2: the end of what a fetch returns."""
    two = batch([1, 2], 0) + batch([1, 2, 3], 4, base_offset=102)
    assert offset_after(two) == offset_after(memoryview(two)) == 105
    assert read_header(two).offset_next == 102


@pytest.mark.parametrize("name", NONSENSE)
def test_numbers_that_no_reply_has_room_for_are_no_records(name: str) -> None:
    """A client's CRC may be right over nonsense; a reply that can't be encoded would end the broker."""
    with pytest.raises(Refusal, match="CORRUPT_MESSAGE"):
        list(record_places(NONSENSE[name]))
    with pytest.raises(Refusal, match="CORRUPT_MESSAGE"):
        list(records(NONSENSE[name]))
