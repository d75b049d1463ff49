"""Batches written again: every codec and framing gives the same records; what has no key is refused (rule P4)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from tests.support.batches import batch, batches
from tests.support.nonsense import NONSENSE

from oncelog.model.batch import check_batch, packed, read_header
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import DELETE_HORIZON
from oncelog.model.limits import COMPACTED_BATCH_RECORDS_MAX
from oncelog.model.records import records
from oncelog.model.rewriting import check_keys, keyed_records, opened, rewritten

XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)


def xerial(data: bytes) -> bytes:
    block = bytes(cramjam.snappy.compress_raw(data))
    return XERIAL + struct.pack(">i", len(block)) + block


CODECS: dict[str, tuple[int, Callable[[bytes], Any]]] = {
    "none": (0, bytes),
    "gzip": (1, cramjam.gzip.compress),
    "snappy": (2, cramjam.snappy.compress_raw),
    "xerial": (2, xerial),
    "lz4": (3, cramjam.lz4.compress),
    "zstd": (4, cramjam.zstd.compress),
}
VALUES = [b"one" * 20_000, None, b"", bytes(range(256)) * 300]
KEYS = [b"a", b"b", b"c", b"d"]


def encoded(codec: str, **fields: Any) -> bytes:
    plain = batch(VALUES, keys=KEYS, timestamp_ms=1_700_000_000_000, producer_id=7, epoch=1, sequence=3, **fields)
    number, compress = CODECS[codec]
    header = read_header(plain)
    return packed(header._replace(base_offset=40, attributes=header.attributes | number), bytes(compress(plain[61:])))


def without(data: bytes, gone: int, horizon_ms: int | None = None) -> bytes:
    header = read_header(data)
    body = opened(data, header)
    kept = [(one.start, one.end) for one in keyed_records(body, header) if one.offset_delta != gone]
    return rewritten(
        data, header, body, kept, count=len(kept), timestamp_max=header.timestamp_max, horizon_ms=horizon_ms
    )


@pytest.mark.parametrize("horizon_ms", [None, 0, 2**63 - 1])
@pytest.mark.parametrize("codec", CODECS)
def test_all_but_one_record(codec: str, horizon_ms: int | None) -> None:
    data = encoded(codec)
    for gone in range(4):
        left = without(data, gone, horizon_ms)
        assert list(records(left)) == [record for record in records(data) if record.offset != 40 + gone]
        (found,) = batches(left)
        before = read_header(data)
        assert (found.base_offset, found.offset_last, found.record_count) == (40, 43, 3)
        assert (found.producer_id, found.producer_epoch, found.base_sequence) == (7, 1, 3)
        assert found.attributes == before.attributes | (DELETE_HORIZON if horizon_ms is not None else 0)
        assert read_header(left).timestamp_base == (before.timestamp_base if horizon_ms is None else horizon_ms)
    assert without(encoded("xerial"), 0)[61:77] == XERIAL


def test_lz4_has_independent_blocks_of_64_kib() -> None:
    """Java's decoder takes no others; incompressible blocks are stored as they are."""
    left = without(encoded("lz4"), 1)
    assert left[61:68] == b"\x04\x22\x4d\x18\x60\x40\x82"
    assert bytes(cramjam.lz4.decompress(left[61:])) == opened(left, read_header(left))


def test_a_record_without_a_key_is_refused() -> None:
    """P4."""
    check_keys(encoded("zstd"), read_header(encoded("zstd")))
    plain = batch([b"1", b"2"], keys=[b"", None])
    with pytest.raises(Refusal, match="record 1 has no key") as refusal:
        check_keys(plain, read_header(plain))
    assert refusal.value.code is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-1],
        lambda body: body + b"\0",
        lambda body: body[:3] + b"\x04" + body[4:],  # another offset delta
        lambda body: b"\x02" + body[1:],  # too short a record
        lambda body: body[:4] + b"\xfe\xff\x03" + body[7:],  # too long a key
    ],
)
def test_records_that_contradict_their_header_are_refused(change: Callable[[bytes], bytes]) -> None:
    plain = batch([b"1234", b"2"], keys=[b"abcd", b"b"])
    header = read_header(plain)
    data = packed(header, change(plain[61:]))
    with pytest.raises(Refusal):
        check_keys(data, read_header(data))


def test_too_many_records_are_refused() -> None:
    plain = batch([b"1"], keys=[b"a"])
    header = read_header(plain)._replace(record_count=COMPACTED_BATCH_RECORDS_MAX + 1)
    with pytest.raises(Refusal, match="at most"):
        check_keys(packed(header, plain[61:]), header)


def test_a_client_may_not_send_a_horizon() -> None:
    plain = batch([b"1"], keys=[b"a"])
    data = packed(read_header(plain)._replace(attributes=DELETE_HORIZON), plain[61:])
    with pytest.raises(Refusal) as refusal:
        check_batch(data, bytes_max=1_000)
    assert refusal.value.code is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("name", NONSENSE)
def test_what_could_not_be_written_again_is_not_taken(name: str) -> None:
    """P4: its time would not fit into the batch that a compaction makes of it."""
    with pytest.raises(Refusal, match="INVALID_RECORD"):
        check_keys(NONSENSE[name], read_header(NONSENSE[name]))
