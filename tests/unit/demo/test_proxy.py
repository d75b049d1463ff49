"""The only parsing that the proxy does: which API, and whether a reply will come."""

import struct

import pytest

from oncelog.demo.proxy import RequestHead, read_head


def string(text: str | None) -> bytes:
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()


def compact(text: str | None) -> bytes:
    if text is None:
        return b"\0"
    length = len(text) + 1
    prefix = bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
    return prefix + text.encode()


def frame(api_key: int, version: int, client_id: str | None, rest: bytes) -> bytes:
    body = struct.pack(">hhi", api_key, version, 77) + string(client_id) + rest
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("client_id", [None, "", "rdkafka"])
@pytest.mark.parametrize("transactional_id", [None, "", "invoicing", "x" * 300])
@pytest.mark.parametrize("acks", [0, 1, -1])
@pytest.mark.parametrize("version", [3, 8, 9, 10, 13])
def test_a_produce_wants_a_reply_unless_acks_is_zero(version, acks, transactional_id, client_id):
    """Rule P9: acks=0 gets no reply."""
    names = string(transactional_id) if version < 9 else b"\0" + compact(transactional_id)
    head = read_head(frame(0, version, client_id, names + struct.pack(">h", acks)))
    assert head == RequestHead(api_key=0, correlation_id=77, wants_reply=acks != 0)


def test_other_requests_always_want_one():
    assert read_head(frame(26, 1, "rdkafka", b"")) == RequestHead(api_key=26, correlation_id=77, wants_reply=True)
