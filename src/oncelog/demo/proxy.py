"""A small TCP proxy between the clients and the broker, which can lose a reply on its way.

The broker advertises the proxy's port, so every client comes through here. Of each request only the header is read (API key
and correlation id; for Produce, whether it wants a reply at all), of each reply only the correlation id. The bytes
themselves pass unchanged. A trap waits for one request or reply of some APIs, springs once, and is gone.

It lives on an event loop in its own thread; `arm`, `disarm` and `upstream_port` may be used from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from oncelog.demo.faults import Moment, Target

PRODUCE: Final = 0
OFFSET_COMMIT: Final = 8
END_TXN: Final = 26
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
#: The first Produce whose header and strings are compact (KIP-482).
PRODUCE_COMPACT_FROM: Final = 9

API_KEYS: Final[dict[Target, frozenset[int]]] = {
    Target.PRODUCE: frozenset((PRODUCE,)),
    Target.COMMIT: frozenset((OFFSET_COMMIT, END_TXN)),
}


@dataclass(frozen=True, slots=True)
class Trap:
    """Cuts the connection at one request or reply of `target`; `spring` is called first, on the proxy's thread."""

    target: Target
    moment: Moment
    spring: Callable[[], None]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What the proxy reads of a request."""

    api_key: int
    correlation_id: int
    wants_reply: bool


class _Cut(Exception):
    """The connection has to be cut now."""


class Proxy:
    """Listens on a free port of 127.0.0.1 from `open` to `close`."""

    def __init__(self) -> None:
        self.port = 0
        #: Where the broker is; None while it is down: clients are turned away at once.
        self.upstream_port: int | None = None
        self._trap: Trap | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self) -> None:
        """Returns when it listens."""
        self._thread.start()
        self._listening.wait()

    def close(self) -> None:
        """Cuts every connection and ends the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def arm(self, trap: Trap) -> None:
        """Sets the one trap; replaces an earlier one that has not sprung."""
        self._trap = trap

    def disarm(self) -> bool:
        """Takes the trap away; whether one was still waiting."""
        was_armed = self._trap is not None
        self._trap = None
        return was_armed

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until either side closes or a trap springs; then both sides are cut."""
        port = self.upstream_port
        try:
            if port is None:
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        else:
            waiting: dict[int, int] = {}
            pumps = [
                asyncio.create_task(self._pump_requests(reader, up_writer, waiting)),
                asyncio.create_task(self._pump_replies(up_reader, writer, waiting)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                up_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _pump_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: dict[int, int]
    ) -> None:
        with contextlib.suppress(_Cut, OSError, EOFError):
            while True:
                frame = await _read_frame(reader)
                head = read_head(frame)
                if head.wants_reply:
                    waiting[head.correlation_id] = head.api_key
                writer.write(frame)
                await writer.drain()
                self._spring(head.api_key, Moment.REQUEST)
                if not head.wants_reply:
                    self._spring(head.api_key, Moment.REPLY)

    async def _pump_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: dict[int, int]
    ) -> None:
        with contextlib.suppress(_Cut, OSError, EOFError):
            while True:
                frame = await _read_frame(reader)
                (correlation_id,) = struct.unpack_from(">i", frame, 4)
                api_key = waiting.pop(correlation_id, None)
                if api_key is not None:
                    self._spring(api_key, Moment.REPLY)
                writer.write(frame)
                await writer.drain()

    def _spring(self, api_key: int, moment: Moment) -> None:
        """Raises _Cut if the trap was set for this."""
        trap = self._trap
        if trap is not None and trap.moment is moment and api_key in API_KEYS[trap.target]:
            self._trap = None
            trap.spring()
            raise _Cut


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """One message with its length before it."""
    prefix = await reader.readexactly(4)
    (length,) = struct.unpack(">i", prefix)
    if not 4 <= length <= FRAME_BYTES_MAX:
        raise _Cut
    return prefix + await reader.readexactly(length)


def read_head(frame: bytes) -> RequestHead:
    """The header of a request frame (length included). A Produce with acks=0 gets no reply (rule P9)."""
    api_key, version, correlation_id, client_id_bytes = struct.unpack_from(">hhih", frame, 4)
    if api_key != PRODUCE:
        return RequestHead(api_key, correlation_id, wants_reply=True)
    position = 14 + max(client_id_bytes, 0)
    if version >= PRODUCE_COMPACT_FROM:
        position += 1  # no tagged fields
        length, position = _read_uvarint(frame, position)
        position += max(length - 1, 0)
    else:
        (length,) = struct.unpack_from(">h", frame, position)
        position += 2 + max(length, 0)
    (acks,) = struct.unpack_from(">h", frame, position)
    return RequestHead(api_key, correlation_id, wants_reply=acks != 0)


def _read_uvarint(frame: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = frame[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
