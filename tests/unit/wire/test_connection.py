"""Framing: every way to cut a stream gives the same frames, and what is no frame is named."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings, strategies

from oncelog.model.limits import FRAME_BYTES_MAX
from oncelog.wire import connection
from oncelog.wire.connection import Buffers, Frame, Framing, HttpError


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


def plain(frames: list[Frame]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


@settings(max_examples=200, deadline=None)
@given(strategies.lists(strategies.binary(max_size=40), max_size=8), strategies.lists(strategies.integers(1, 30)))
def test_frames_come_out_however_the_bytes_come_in(frames: list[bytes], cuts: list[int]) -> None:
    framing = Framing(Buffers())
    data, found = framed(*frames), []
    for size in [*cuts, 10_000]:
        found += plain(framing.receive(data[:size]))
        data = data[size:]
    assert found == frames
    assert framing.broken is None
    assert not framing.is_unfinished


@pytest.mark.parametrize("size", [65_537, 300_000, 1_048_576, 3_000_000])
def test_big_frames_come_whole_in_whatever_pieces(size: int) -> None:
    buffers = Buffers()
    framing = Framing(buffers)
    frame = bytes(range(256)) * (size // 256 + 1)
    data = framed(frame, b"after")
    found = []
    for at in range(0, len(data), 10_007):
        found += plain(framing.receive(data[at : at + 10_007]))
    assert found == [frame, b"after"]
    assert buffers.bytes_under_way == 0


def test_the_length_alone_makes_no_room() -> None:
    """Law 8: memory grows with what came."""
    buffers = Buffers()
    framing = Framing(buffers)
    assert framing.receive(struct.pack(">i", FRAME_BYTES_MAX) + b"x") == []
    assert framing.is_unfinished
    assert 0 < buffers.bytes_under_way < 2_000_000
    framing.close()
    assert buffers.bytes_under_way == 0


def test_buffers_are_used_again() -> None:
    buffers = Buffers()
    framing = Framing(buffers)
    data = framed(b"a" * 500_000)
    (first,) = framing.receive(data)
    assert isinstance(first, memoryview)
    owner = first.obj
    buffers.give_back(first)
    (second,) = framing.receive(data)
    assert isinstance(second, memoryview)
    assert second.obj is owner


def test_a_view_is_read_only() -> None:
    (frame,) = Framing(Buffers()).receive(framed(b"a" * 500_000))
    assert isinstance(frame, memoryview)
    assert frame.readonly


@pytest.mark.parametrize(
    "verb", ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "PRI"]
)
def test_http_is_recognised(verb: str) -> None:
    framing = Framing(Buffers())
    assert framing.receive(f"{verb} / HTTP/1.1\r\n\r\n".encode()) == []
    assert isinstance(framing.broken, HttpError)
    assert framing.broken.answer.endswith(b"not an HTTP one\n")


def test_the_answer_to_http_says_its_own_length() -> None:
    head, text = HttpError.answer.split(b"\r\n\r\n")
    assert f"Content-Length: {len(text)}\r\n".encode() in head


def test_tls_is_recognised() -> None:
    framing = Framing(Buffers())
    framing.receive(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert "TLS" in str(framing.broken)


@pytest.mark.parametrize("size", [-1, -(2**31), FRAME_BYTES_MAX + 1, 2**31 - 1])
def test_impossible_lengths(size: int) -> None:
    framing = Framing(Buffers())
    framing.receive(framed(b"before") + struct.pack(">i", size))
    assert str(size) in str(framing.broken)


def test_frames_before_broken_bytes_still_come() -> None:
    framing = Framing(Buffers())
    assert plain(framing.receive(framed(b"one", b"two") + b"\xff\xff\xff\xff")) == [b"one", b"two"]
    assert framing.broken is not None


def test_the_scratch_buffer_is_shared() -> None:
    """Idle connections own no memory."""
    buffers = Buffers()
    assert Framing(buffers).room() is Framing(buffers).room()
    assert len(buffers.scratch) == connection._SCRATCH_BYTES
