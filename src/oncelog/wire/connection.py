"""Framing: the bytes of a connection are cut into frames (a length of four bytes, then a request). Sans-I/O.

The caller asks ``room()`` for a buffer, reads into it, and tells ``received(count)``; what is complete comes back. Most reads
end with the last byte of a frame: they go through one scratch buffer that all connections share, so that idle connections
own no memory. A frame that did not come whole gets a buffer of its own, and the rest is read straight into it.

Invariants: the scratch buffer holds nothing between two reads; a buffer of one's own grows with what has really come, never
with what a length claims; ``Buffers.bytes_under_way`` is what unfinished frames hold together. Law 8.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeAlias

from oncelog.model.errors import WireError
from oncelog.model.limits import FRAME_BYTES_MAX

#: A request without its length. A view is of a buffer that may be used again: ``Buffers.give_back``.
Frame: TypeAlias = bytes | memoryview

_SCRATCH_BYTES: Final = 256 * 1024
_LENGTH_BYTES: Final = 4
#: Frames above this, and up to the size of a buffer that is kept, use kept buffers: new memory is dear.
_KEPT_FROM_BYTES: Final = 64 * 1024
_KEPT_BYTES: Final = 1024 * 1024 + 64 * 1024
_KEPT_COUNT: Final = 8

_length = struct.Struct(">i").unpack_from

_HTTP_STARTS: Final = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")
_TLS_HANDSHAKE: Final = b"\x16\x03"


class HttpError(WireError):
    """Somebody speaks HTTP to us. ``answer`` is what a browser shows."""

    answer: Final = (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 38\r\nConnection: close\r\n\r\n"
        b"This is a Kafka port, not an HTTP one\n"
    )


class Buffers:
    """The buffers of all connections of a server."""

    def __init__(self) -> None:
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        #: Bytes that unfinished frames hold.
        self.bytes_under_way = 0
        self._kept: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer for the beginning of a frame of ``size`` bytes, maybe for all of it."""
        if size > _KEPT_FROM_BYTES:
            return self._kept.pop() if self._kept else bytearray(_KEPT_BYTES)
        return bytearray(size)

    def give_back(self, frame: Frame) -> None:
        """``frame`` was decoded; nothing looks at it any more."""
        if isinstance(frame, memoryview):
            buffer: Any = frame.obj
            frame.release()
            self._keep(buffer)

    def _keep(self, buffer: bytearray) -> None:
        if len(buffer) == _KEPT_BYTES and len(self._kept) < _KEPT_COUNT:
            self._kept.append(buffer)


class Framing:
    """The frames of one connection. After ``broken`` is set, what comes is ignored."""

    __slots__ = ("_buffers", "_own", "_rest", "_size", "broken", "filled", "is_unfinished")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._rest = b""
        self._own: bytearray | None = None
        #: Whether a frame has begun that is not whole.
        self.is_unfinished = False
        self._size = 0
        #: Bytes of the unfinished frame that are here.
        self.filled = 0
        #: Set when what came is no frame.
        self.broken: WireError | None = None

    def room(self) -> memoryview:
        """Where the next bytes are to be put; never empty."""
        own = self._own
        if own is None:
            return self._buffers.scratch
        if self.filled == len(own):
            more = min(self._size, 2 * len(own)) - len(own)
            own += bytes(more)
            self._buffers.bytes_under_way += more
        return memoryview(own)[self.filled : self._size]

    def received(self, count: int) -> list[Frame]:
        """``count`` bytes were put there. The frames that are whole now."""
        own = self._own
        if own is None:
            return self._cut(self._buffers.scratch, count)
        self.filled += count
        if self.filled < self._size:
            return []
        self._let_go()
        return [memoryview(own)[: self._size].toreadonly()]

    def receive(self, data: bytes) -> list[Frame]:
        """The same for bytes that are somewhere else already."""
        frames: list[Frame] = []
        at = 0
        while at < len(data) and self.broken is None:
            count = self._copy(data, at)
            frames += self.received(count)
            at += count
        return frames

    def _copy(self, data: bytes, at: int) -> int:
        """In a function of its own: a view that lives on would keep the buffer from growing."""
        room = self.room()
        count = min(len(room), len(data) - at)
        room[:count] = data[at : at + count]
        return count

    def close(self) -> None:
        """The connection is gone: what was unfinished is dropped."""
        if self._own is not None:
            own = self._own
            self._let_go()
            self._buffers._keep(own)
        self._rest = b""

    def _let_go(self) -> None:
        assert self._own is not None, "no unfinished frame"
        self._buffers.bytes_under_way -= min(self._size, len(self._own))
        self._own = None
        self.is_unfinished = False

    def _cut(self, data: Any, end: int) -> list[Frame]:
        if self._rest:
            data = self._rest + bytes(data[:end])
            end = len(data)
            self._rest = b""
        frames: list[Frame] = []
        at = 0
        while end - at >= _LENGTH_BYTES:
            (size,) = _length(data, at)
            if not 0 <= size <= FRAME_BYTES_MAX:
                self.broken = no_frame(bytes(data[at : at + _LENGTH_BYTES]), size)
                return frames
            at += _LENGTH_BYTES
            if end - at < size:
                self._begin(data[at:end], size)
                return frames
            frames.append(bytes(data[at : at + size]))
            at += size
        self._rest = bytes(data[at:end])
        return frames

    def _begin(self, data: Any, size: int) -> None:
        """A frame has begun with ``data``."""
        own = self._buffers.take(size)
        own[: len(data)] = data
        self._own, self._size, self.filled = own, size, len(data)
        self.is_unfinished = True
        self._buffers.bytes_under_way += min(size, len(own))


def no_frame(start: bytes, size: int) -> WireError:
    """What to say of four bytes that are no length of a frame."""
    if start in _HTTP_STARTS:
        return HttpError("an HTTP request came to the Kafka port")
    if start.startswith(_TLS_HANDSHAKE):
        return WireError("a TLS handshake came, but this port speaks Kafka's protocol without TLS")
    if size < 0:
        return WireError(f"a frame of {size} bytes")
    return WireError(f"a frame of {size} bytes, more than {FRAME_BYTES_MAX}")
