"""Requests, byte by byte: what the header says, what is refused, and what would end the process if kio saw it."""

from __future__ import annotations

import struct

import pytest

from oncelog.model.errors import WireError
from oncelog.model.limits import ARRAY_ELEMENTS_MAX
from oncelog.wire.checking import encode_varint, varint
from oncelog.wire.forms import Request
from oncelog.wire.requests import UnservedError, read_request

BOUNDS = {0: (3, 13), 1: (4, 18), 3: (0, 13), 18: (0, 4), 66: (0, 2)}


def head(api_key: int, version: int, client_id: bytes | None = b"c") -> bytes:
    name = struct.pack(">h", -1) if client_id is None else struct.pack(">h", len(client_id)) + client_id
    return struct.pack(">hhi", api_key, version, 7) + name


def test_a_header_with_client_id() -> None:
    request = read_request(head(3, 1) + struct.pack(">i", -1), BOUNDS)
    assert (request.api_key, request.version, request.correlation_id, request.client_id) == (3, 1, 7, "c")
    assert request.body.topics is None


def test_a_flexible_header_skips_its_tagged_fields() -> None:
    """KIP-482."""
    frame = head(3, 9, None) + b"\x01\x05\x03abc" + b"\x00\x01\x00\x00\x00"
    assert read_request(frame, BOUNDS).body.allow_auto_topic_creation is True


def test_tagged_fields_of_nested_messages_are_skipped() -> None:
    """KIP-482."""
    topics = b"\x03" + b"\x02a" + b"\x01\x09\x02hi" + b"\x02b" + b"\x00"
    request = read_request(head(3, 9) + b"\0" + topics + b"\0\0\0" + b"\x02\x07\x00\x08\x01x", BOUNDS)
    assert [topic.name for topic in request.body.topics] == ["a", "b"]


def test_an_unknown_api_is_unserved() -> None:
    with pytest.raises(UnservedError, match="API 99"):
        read_request(head(99, 0), BOUNDS)


@pytest.mark.parametrize("version", [-1, 0, 2, 14, 32767])
def test_an_unknown_version_is_unserved(version: int) -> None:
    """P10: Produce 0-2 are shown and refused."""
    with pytest.raises(UnservedError, match="version"):
        read_request(head(0, version), BOUNDS)


def test_a_newer_api_versions_is_let_through_without_a_body() -> None:
    """KIP-511: whatever its form may be, the answer is version 0."""
    request = read_request(head(18, 77) + b"\xff" * 9, BOUNDS)
    assert request == Request(18, 0, 7, None, None)


@pytest.mark.parametrize(
    "count", [b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x07", b"\x80\x80\x80\x80\x08"], ids=["32", "31", "31+1"]
)
def test_absurd_counts_never_reach_kio(count: bytes) -> None:
    """kio makes room for as many elements as the count says, and the process ends: seen with 0xffffffff."""
    with pytest.raises(WireError, match="elements"):
        read_request(head(3, 9) + b"\0" + count + b"\0\0\0\0", BOUNDS)


def test_absurd_counts_of_old_versions_never_reach_kio() -> None:
    with pytest.raises(WireError, match="2147483647 elements"):
        read_request(head(3, 1) + b"\x7f\xff\xff\xff", BOUNDS)


def test_elements_are_counted_over_all_arrays() -> None:
    """Nested counts that are each possible, but not together."""
    topic = b"\x00\x01t" + struct.pack(">i", 40)
    frame = head(0, 3) + struct.pack(">hhi", -1, -1, 1000) + struct.pack(">i", 3) + topic
    with pytest.raises(WireError, match="40 elements"):
        read_request(frame + b"\0" * 8, BOUNDS)


def test_more_elements_than_allowed_are_refused_though_their_bytes_are_there() -> None:
    count = ARRAY_ELEMENTS_MAX + 1
    with pytest.raises(WireError, match="elements"):
        read_request(head(3, 1) + struct.pack(">i", count) + b"\0\0" * count, BOUNDS)


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">i", -2),
        struct.pack(">ih", 1, -2),
        struct.pack(">ih", 1, -1),
        struct.pack(">ih", 1, 300),
        struct.pack(">ih3s", 1, 3, b"\xff\xfe\xfd"),
        b"",
        b"\0\0",
    ],
    ids=["negative count", "negative length", "null", "too long", "not utf-8", "nothing", "half a count"],
)
def test_broken_bodies(body: bytes) -> None:
    with pytest.raises(WireError):
        read_request(head(3, 1) + body, BOUNDS)


@pytest.mark.parametrize(
    "frame", [b"", b"\0", b"\0" * 9, head(3, 1, b"\xff\xff"), struct.pack(">hhih", 3, 1, 7, -2), head(3, 9)[:-1]]
)
def test_broken_heads(frame: bytes) -> None:
    with pytest.raises(WireError):
        read_request(frame, BOUNDS)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**28, 2**32 - 1])
def test_varints_go_both_ways(value: int) -> None:
    assert varint(b"x" + encode_varint(value), 1) == (value, 1 + len(encode_varint(value)))


def test_a_varint_of_more_than_five_bytes_is_refused() -> None:
    with pytest.raises(WireError):
        varint(b"\xff" * 6, 0)


ALL_TOPICS = head(3, 12) + b"\0" + b"\0" + b"\0\0" + b"\0"


def test_three_bytes_may_follow_a_request_for_all_topics() -> None:
    """librdkafka writes a null of four bytes where one is due, and lives with how Kafka reads that."""
    assert read_request(ALL_TOPICS + b"\1\0\0", BOUNDS).body.topics is None
    with pytest.raises(WireError, match="4 bytes follow"):
        read_request(ALL_TOPICS + b"\1\0\0\0", BOUNDS)
