"""The server: connections over asyncio (uvloop), from bytes to Calls and from replies to bytes.

Requests of a connection are decoded and routed one after the other, in the turn of the loop in which they arrive. Replies
leave in the order of the requests, with one write for each connection and turn. Framing and decoding are in wire/, sans-I/O.

Invariants (law 8, model/limits.py): nothing is read from a connection that has too many requests in flight or too many reply
bytes pending, nor from one that writes while producers must pause; one that takes no replies, or leaves a frame unfinished,
is closed.
Broken bytes close their own connection and nothing else. Rule D4: ``is_gone`` asks the kernel, without reading.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Body, Call
from oncelog.broker.log_lines import LineBudget
from oncelog.broker.meters import Meters
from oncelog.model.errors import ErrorCode, WireError
from oncelog.model.limits import (
    CONNECTIONS_MAX,
    FRAME_BYTES_TOTAL_MAX,
    FRAME_STALL_SECONDS_MAX,
    REPLY_BYTES_PENDING_MAX,
    REPLY_BYTES_TOTAL_MAX,
    REPLY_STALL_SECONDS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
)
from oncelog.wire.connection import Buffers, Frame, Framing, HttpError
from oncelog.wire.replies import encode_reply, reply_head
from oncelog.wire.requests import API_VERSIONS, read_request

if TYPE_CHECKING:
    from oncelog.broker.broker import Log

_PRODUCE: Final = 0
_ESTABLISHED: Final = 1
#: Replies up to this are joined before they are written: one buffer costs the kernel less than many.
_JOIN_BYTES_MAX: Final = 64 * 1024
_SWEEP_SECONDS: Final = 5.0
_STOP_POLL_SECONDS: Final = 0.01
_BACKLOG: Final = 1024

_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)


class Connection(asyncio.BufferedProtocol):
    """One client's connection: the Peer of its requests."""

    __slots__ = (
        "_calls", "_frames", "_framing", "_is_dirty", "_is_held", "_is_unfinished", "_is_writing_paused", "_kept_bytes", "_out",
        "_out_bytes", "_server", "_socket", "_stall", "_transport", "_written_bytes", "address", "is_writer", "number",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._framing = Framing(server.buffers)
        self._transport: Any = None
        self._socket: Any = None
        #: Requests that wait for their reply, oldest first.
        self._calls: deque[Call] = deque()
        #: Frames that were read and can't be routed yet.
        self._frames: list[Frame] = []
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._written_bytes = 0
        #: Bytes of replies that are there and wait for one before them.
        self._kept_bytes = 0
        self._is_dirty = self._is_held = self._is_unfinished = self._is_writing_paused = False
        #: What the last sweep saw of progress, and when it saw it first.
        self._stall: tuple[object, float] = (None, 0.0)
        #: Whether it has sent a Produce: only those are held when producers must pause.
        self.is_writer = False
        self.number, self.address = 0, ""

    # -- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self.address = _address(transport.get_extra_info("peername"))
        self._transport.set_write_buffer_limits(high=REPLY_BYTES_PENDING_MAX)
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone; what is still answered goes nowhere."""
        del error
        self._transport = self._socket = None
        self._framing.close()
        self._calls.clear()
        self._frames.clear()
        self._out.clear()
        self._server.lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        del sizehint
        return self._framing.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes were read."""
        framing = self._framing
        frames = framing.received(nbytes)
        is_unfinished = framing.is_unfinished
        if is_unfinished or self._is_unfinished:
            self._is_unfinished = is_unfinished
            self._server.unfinished(self, is_unfinished=is_unfinished)
        if self._frames:
            self._frames += frames
        elif frames:
            self._route(frames)
        if framing.broken is not None and not self._frames:
            self._broken(framing.broken)

    def eof_received(self) -> bool:
        """The client has closed its side: as in Kafka, nothing more is said to it."""
        return False

    def pause_writing(self) -> None:
        """The client does not take its replies."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_writing_paused = False
        self._server.mark(self)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        """Whether no more may be asked by this connection now."""
        return bool(
            len(self._calls) >= REQUESTS_IN_FLIGHT_MAX
            or self._out_bytes + self._kept_bytes > REPLY_BYTES_PENDING_MAX
            or self._is_writing_paused
            or self._server.is_stopping
            or (self._calls and self._calls[-1].is_in_steps)
            or (self.is_writer and self._server.is_pressed)
        )

    def _route(self, frames: list[Frame]) -> None:
        """Route what may be routed and keep the rest."""
        now_ns = time.monotonic_ns()
        for at, frame in enumerate(frames):
            if self._must_wait():
                self._frames = frames[at:]
                self.hold()
                return
            if not self._request(frame, now_ns):
                return

    def _request(self, frame: Frame, now_ns: int) -> bool:
        """Decode and route one request. Whether the connection goes on."""
        server = self._server
        size = len(frame) + 4
        try:
            request = read_request(frame, server.bounds)
        except WireError as error:
            self._broken(error)
            return False
        if not isinstance(frame, bytes):
            server.buffers.give_back(frame)
        api_key, body = request.api_key, request.body
        call = Call(self, api_key, request.version, request.correlation_id, request.client_id, body, now_ns, size)
        self._calls.append(call)
        if body is None:
            server.log.debug("ApiVersions in a version that is not known", peer=self.address)
            call.reply(_versions_refused(server.bounds))
            return True
        if api_key == _PRODUCE:
            self.is_writer = True
        try:
            server.route(call)
        except Exception as bug:  # noqa: BLE001
            # A bug of ours: it stops the broker. The only other place for this is the lane's supervisor.
            server.failed(self, bug)
            return False
        if not call.is_expecting_reply and self._calls and self._calls[-1] is call:
            self._calls.pop()
            self._release()
        return self._transport is not None

    def _broken(self, error: WireError) -> None:
        """Close because of what came."""
        self._server.meters.connections_closed_bad += 1
        if isinstance(error, HttpError) and self._transport is not None and not self._calls:
            self._transport.write(error.answer)
        self.close(str(error))

    # -- reading or not -----------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Read no more for now."""
        if self._transport is not None and not self._is_held:
            self._is_held = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again, if nothing stands against it; first comes what was read before."""
        if not self._is_held or self._transport is None or self._must_wait():
            return
        frames, self._frames = self._frames, []
        self._route(frames)
        if self._frames or self._transport is None or self._transport.is_closing():
            return
        if self._framing.broken is not None:
            self._broken(self._framing.broken)
            return
        if not self._must_wait():
            self._is_held = False
            self._transport.resume_reading()

    # -- replies ------------------------------------------------------------------------------------------------------

    def answered(self, call: Call) -> None:
        """``call`` has its reply; send it when those before it have theirs."""
        calls = self._calls
        if not calls or call.body is None:
            return
        if calls[0].body is not None:
            self._release()
        else:
            self._kept_bytes += _size_of(call.body)
            self._server.untaken(self, self.bytes_untaken)

    def _release(self) -> None:
        """Queue the replies that are due."""
        calls, out, meters = self._calls, self._out, self._server.meters
        now_ns = time.monotonic_ns()
        while calls and (body := calls[0].body) is not None:
            call = calls.popleft()
            api_key, version = call.api_key, call.version
            if isinstance(body, bytes):
                size = len(body)
                out += (reply_head(api_key, version, call.correlation_id, size), body)
            else:
                size = sum(map(len, body))
                out.append(reply_head(api_key, version, call.correlation_id, size))
                out += body
            self._out_bytes += size + 8
            meters.answered(api_key, version, (now_ns - call.received_ns) / 1e9, call.bytes_received, size + 8)
        if self._kept_bytes:
            self._kept_bytes = sum(_size_of(call.body) for call in calls if call.body is not None)
        if out and not self._is_dirty:
            self._server.mark(self)

    def flush(self) -> None:
        """Write what is queued; called once a turn."""
        self._is_dirty = False
        if self._transport is None:
            return
        if self._out:
            self._write()
        if self._is_held:
            self.go_on()

    def _write(self) -> None:
        out, size = self._out, self._out_bytes
        self._out, self._out_bytes = [], 0
        self._written_bytes += size
        if size <= _JOIN_BYTES_MAX:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)
        if pending := self.bytes_untaken:
            self._server.untaken(self, pending)

    @property
    def bytes_untaken(self) -> int:
        """Bytes of replies that the client has not taken, or has made wait behind one that it has asked to be late."""
        if self._transport is None:
            return 0
        unwritten: int = self._transport.get_write_buffer_size()
        return unwritten + self._kept_bytes

    # -- the end ------------------------------------------------------------------------------------------------------

    def is_gone(self) -> bool:
        """Whether the client has closed the connection (rule D4), also if that was not read yet."""
        if self._transport is None or self._transport.is_closing():
            return True
        try:
            option = _TCP_INFO
            if option is not None:
                state: int = self._socket.getsockopt(socket.IPPROTO_TCP, option, 1)[0]
                return state != _ESTABLISHED
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self, why: str) -> None:
        """Close after what was answered is sent; ``why`` is for the log."""
        if self._transport is None or self._transport.is_closing():
            return
        self._server.say_closed(self, why)
        self.end()

    def end(self) -> None:
        """Close without a word, after what was answered is sent."""
        if self._transport is None or self._transport.is_closing():
            return
        self._calls.clear()
        self._frames.clear()
        if self._out:
            self._write()
        self._transport.close()

    def abort(self, why: str) -> None:
        """Close at once."""
        if self._transport is not None:
            self._server.say_closed(self, why)
            self._transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a reply is due or on its way."""
        return self._transport is not None and bool(
            self._calls or self._out or self._transport.get_write_buffer_size() > 0
        )

    def sweep(self, now: float) -> None:
        """Close it if it stands still: takes no replies, or leaves a frame unfinished."""
        if self._transport is None:
            return
        pending: int = self._transport.get_write_buffer_size()
        if pending:
            seen: object = ("replies", self._written_bytes - pending)
        elif self._framing.is_unfinished and not self._is_held:
            seen = ("frame", self._framing.filled)
        else:
            self._stall = (None, now)
            return
        if seen != self._stall[0]:
            self._stall = (seen, now)
        elif pending and now - self._stall[1] >= REPLY_STALL_SECONDS_MAX:
            self.abort(f"took none of its replies for {REPLY_STALL_SECONDS_MAX} s")
        elif not pending and now - self._stall[1] >= FRAME_STALL_SECONDS_MAX:
            self.abort(f"sent no more of an unfinished request for {FRAME_STALL_SECONDS_MAX} s")


class Server:
    """Accepts connections and routes their requests.

    ``bounds``: for each API key the lowest and highest version served. ``on_bug`` is called with an exception out of
    ``route``: a bug of ours, after which no state is to be trusted.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        route: Callable[[Call], None],
        *,
        bounds: Mapping[int, tuple[int, int]],
        log: Log,
        on_bug: Callable[[BaseException], None],
        meters: Meters | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.route, self.bounds, self.log = route, bounds, log
        self.meters = meters or Meters()
        self.buffers = Buffers()
        #: Producers must pause.
        self.is_pressed = False
        self.is_stopping = False
        self._loop, self._on_bug, self._connections_max = loop, on_bug, connections_max
        self._listening: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        #: Those with replies that were not taken at once, the oldest first, and how much the last look showed.
        self._untaken: dict[Connection, int] = {}
        self._untaken_bytes = 0
        #: Those with an unfinished frame, the oldest first.
        self._unfinished: dict[Connection, None] = {}
        self._dirty: list[Connection] = []
        self._number_last = 0
        self._lines = LineBudget()
        self._sweeping: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on an address; port 0 takes any that is free. The address that it became."""
        found = await self._loop.create_server(lambda: Connection(self), host, port, backlog=_BACKLOG)
        self._listening.append(found)
        name = found.sockets[0].getsockname()
        return name[0], name[1]

    async def listen_on(self, sockets: list[socket.socket]) -> None:
        """Listen on sockets that are bound already. They belong to the server from now on."""
        for one in sockets:
            found = await self._loop.create_server(lambda: Connection(self), sock=one, backlog=_BACKLOG)
            self._listening.append(found)

    @property
    def connections_count(self) -> int:
        """Open connections."""
        return len(self._connections)

    def pause_all(self) -> None:
        """Read nothing more from connections that write, until ``resume_all``."""
        self.is_pressed = True
        for connection in self._connections:
            if connection.is_writer:
                connection.hold()

    def resume_all(self) -> None:
        """Read from them again."""
        self.is_pressed = False
        for connection in list(self._connections):
            self.mark(connection)

    async def close(self, grace_seconds: float = 5.0, release: Callable[[], None] = lambda: None) -> None:
        """Accept and read nothing more, wait up to ``grace_seconds`` for the replies that are due, close.

        ``release`` is called before the wait: it answers what would keep its client waiting for long.
        """
        self.is_stopping = True
        for listening in self._listening:
            listening.close()
        for connection in self._connections:
            connection.hold()
        release()
        deadline = self._loop.time() + grace_seconds
        while any(connection.is_busy for connection in self._connections) and self._loop.time() < deadline:
            await asyncio.sleep(_STOP_POLL_SECONDS)
        for connection in list(self._connections):
            connection.end()
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.abort("the broker stops")
        while self._connections:
            await asyncio.sleep(0)
        if self._sweeping is not None:
            self._sweeping.cancel()

    # -- what connections tell ----------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A connection was accepted."""
        self._number_last += 1
        connection.number = self._number_last
        self._connections.add(connection)
        self.meters.connected()
        if len(self._connections) > self._connections_max:
            connection.abort(f"more than {self._connections_max} connections: see max.connections, and ulimit -n")
        elif self._sweeping is None:
            self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def say_closed(self, connection: Connection, why: str) -> None:
        """Write why the broker closes a connection. Who comes again and again has so many lines, and the rest is counted."""
        now = self._loop.time()
        self._tell_left_out(now)
        if self._lines.take(connection.address.rpartition(":")[0], now):
            self.log.info("connection closed", peer=connection.address, why=why)

    def _tell_left_out(self, now: float) -> None:
        for host, count in self._lines.over(now).items():
            self.log.warning(
                "connections closed without a line each", host=host, count=count, of_seconds=LineBudget.seconds
            )

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._unfinished.pop(connection, None)
        self._untaken_bytes -= self._untaken.pop(connection, 0)
        self.meters.disconnected()

    def unfinished(self, connection: Connection, *, is_unfinished: bool) -> None:
        """A connection has an unfinished frame, or no more. If all together hold too much, the oldest must go."""
        if not is_unfinished:
            self._unfinished.pop(connection, None)
            return
        self._unfinished[connection] = None
        if self.buffers.bytes_under_way > FRAME_BYTES_TOTAL_MAX:
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]
            oldest.abort("too many bytes of unfinished requests, and its own is the oldest")

    def untaken(self, connection: Connection, pending: int) -> None:
        """A connection has not taken its replies. If all together leave too much, who has owed for longest must go."""
        self._untaken_bytes += pending - self._untaken.get(connection, 0)
        self._untaken[connection] = pending
        if self._untaken_bytes <= REPLY_BYTES_TOTAL_MAX:
            return
        self._look_at_untaken()
        while self._untaken_bytes > REPLY_BYTES_TOTAL_MAX:
            oldest = next(iter(self._untaken))
            self._untaken_bytes -= self._untaken.pop(oldest)
            oldest.abort("too many bytes of replies that nobody takes, and it has not taken its own for longest")

    def _look_at_untaken(self) -> None:
        """Many have taken theirs since."""
        now = {connection: connection.bytes_untaken for connection in self._untaken}
        self._untaken = {connection: pending for connection, pending in now.items() if pending}
        self._untaken_bytes = sum(self._untaken.values())

    def mark(self, connection: Connection) -> None:
        """A connection has something to do at the end of this turn."""
        connection._is_dirty = True
        self._dirty.append(connection)
        if len(self._dirty) == 1:
            self._loop.call_soon(self._flush)

    def failed(self, connection: Connection, bug: Exception) -> None:
        """A handler has failed."""
        self.log.error("a request met a bug, the broker stops", peer=connection.address, error=repr(bug))
        connection.close("a bug of the broker")
        self._on_bug(bug)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self._look_at_untaken()
        self._tell_left_out(now)
        if self._connections or self._lines.is_anything_left_out:
            self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)


def _size_of(body: Body) -> int:
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


def _address(name: Any) -> str:
    """host:port, an IPv6 host in brackets."""
    if not isinstance(name, tuple):
        return str(name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def _versions_refused(bounds: Mapping[int, tuple[int, int]]) -> Body:
    """ApiVersions in a version that is not known (KIP-511): version 0 with the versions of ApiVersions that are."""
    low, high = bounds[API_VERSIONS]
    served = {"api_key": API_VERSIONS, "min_version": low, "max_version": high}
    return encode_reply(API_VERSIONS, 0, {"error_code": ErrorCode.UNSUPPORTED_VERSION, "api_keys": [served]})
