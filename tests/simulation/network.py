"""The simulated network: connections that delay, hold, cut and lose, each in order within itself (as TCP).

A ``Pipe`` is one connection. Its broker's end is the transport of the production server's Connection, with a kernel between:
bytes that have arrived wait there until the process reads them, and the end of the stream is known there before it is read
(rule D4). What one connection holds does not hold another: so requests of one client overtake each other between connections,
and a client that has given one up and repeats on the next has its request doubled.
"""

from __future__ import annotations

from typing import Any, Protocol

from tests.simulation.events import MS_US, SECOND_US, Events
from tests.simulation.loop import SimulatedLoop

from oncelog.broker.server import Connection, Server

_ESTABLISHED, _CLOSE_WAIT = 1, 8


class Port(Protocol):
    """Who listens: the machine with the broker. ``server`` is None while nobody does."""

    server: Server | None
    loop: SimulatedLoop
    is_machine_up: bool


class ClientEnd(Protocol):
    """What a client's end of a connection is told."""

    def opened(self) -> None:
        """The connection stands."""

    def received(self, data: bytes) -> None:
        """Bytes have come."""

    def closed(self) -> None:
        """The connection is over."""


class Network:
    """How bad the network is, and the connections that are open. Shares are per message."""

    def __init__(self, events: Events, port: Port) -> None:
        self.events, self.port = events, port
        self.delay_us = events.random.choice((100, 300, 1_000, 3_000))
        self.share_held = events.random.choice((0.0, 0.001, 0.005, 0.01))
        self.share_cut = events.random.choice((0.0, 0.001, 0.005, 0.02))
        self.share_split = events.random.choice((0.0, 0.02))
        self.held_us = events.random.choice((150 * MS_US, 500 * MS_US, 3 * SECOND_US))
        self.pipes: dict[Pipe, None] = {}
        self.connected = self.held = self.cut = 0
        #: The longest that anything was under way to the broker, as far as the network goes.
        self.lag_us = 0

    def heal(self) -> None:
        """No more faults."""
        self.share_held = self.share_cut = 0.0

    def connect(self, end: ClientEnd) -> Pipe:
        """A client opens a connection; it is told when it stands or has failed."""
        return Pipe(self, end)


class _Socket:
    """What the server asks the kernel about a connection."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return bytes([_CLOSE_WAIT if self._pipe.is_end_arrived else _ESTABLISHED])


class Pipe:
    """One connection. Methods named as asyncio's are the broker's end."""

    def __init__(self, network: Network, end: ClientEnd) -> None:
        self._network, self._events, self._end = network, network.events, end
        self._loop = network.port.loop
        self._base_us = self._events.about(network.delay_us)
        self._up_us = self._down_us = 0
        self._kernel = bytearray()
        self._connection: Connection | None = None
        self._is_client_done = self._is_broker_done = self._is_lost = False
        self._is_reading, self._is_read_planned = True, False
        #: What the client has sent since somebody began to hold it; None if nobody does.
        self._kept: list[bytes] | None = None
        self._kept_since_us = 0
        self.is_end_arrived = False
        self._events.at(self._delay_up(), self._arrive_open)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _delay_up(self) -> int:
        """When the next thing sent to the broker arrives: never before what was sent before."""
        network, events = self._network, self._events
        due_us = events.now_us + self._base_us + events.about(network.delay_us / 4)
        if network.share_held and events.chance(network.share_held):
            network.held += 1
            due_us += events.about(network.held_us)
            events.note("network", "holds what {} sends", self._end)
        self._up_us = max(self._up_us, due_us)
        lag_us = self._up_us - events.now_us
        if lag_us > network.lag_us:
            network.lag_us = lag_us
        return lag_us

    def _delay_down(self) -> int:
        network, events = self._network, self._events
        due_us = events.now_us + self._base_us + events.about(network.delay_us / 4)
        if network.share_held and events.chance(network.share_held):
            network.held += 1
            due_us += events.about(network.held_us)
        self._down_us = max(self._down_us, due_us)
        return self._down_us - events.now_us

    # -- the client's end ---------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """The client sends."""
        if self._is_client_done:
            return
        if self._kept is not None:
            self._kept.append(data)
            return
        network, events = self._network, self._events
        if network.share_cut and events.chance(network.share_cut):
            if events.chance(0.5):
                events.at(self._delay_up(), self._arrive, data)
            self.cut()
            return
        events.at(self._delay_up(), self._arrive, data)

    def close_by_client(self, *, is_silent: bool = False) -> None:
        """The client closes; ``is_silent``: its machine is gone, nobody says so to the broker."""
        self._is_client_done = True
        if self._kept is not None:
            return
        if not is_silent:
            self._events.at(self._delay_up(), self._arrive_end)

    def hold(self) -> None:
        """What the client sends from now on arrives when it is let go, not before, nor does the end."""
        if self._kept is None:
            self._kept, self._kept_since_us = [], self._events.now_us

    def let_go(self, end_after_us: int) -> None:
        """What was held arrives now, and the end of the connection, if the client has closed it, so much later."""
        kept, self._kept = self._kept or [], None
        self._network.lag_us = max(self._network.lag_us, self._events.now_us - self._kept_since_us)
        for data in kept:
            self._events.at(0, self._arrive, data)
        if self._is_client_done:
            self._events.at(end_after_us, self._arrive_end)

    def cut(self) -> None:
        """The network loses the connection: both ends hear of it, each in its time; what is under way may still arrive."""
        self._network.cut += 1
        self._is_lost = True
        self._events.note("network", "cuts {}", self._end)
        self._events.at(self._delay_down(), self._tell_closed)
        self._events.at(self._delay_up(), self._arrive_end)

    # -- what arrives at the broker's machine -------------------------------------------------------------------------

    def _arrive_open(self) -> None:
        port = self._network.port
        if port.server is None:
            if port.is_machine_up:
                self._events.at(self._base_us, self._tell_closed)
            return
        self._loop = port.loop
        self._loop.call_soon(self._accept, port.server)

    def _accept(self, server: Server) -> None:
        self._network.connected += 1
        self._network.pipes[self] = None
        self._connection = Connection(server)
        self._connection.connection_made(self)  # type: ignore[arg-type]
        self._events.at(self._delay_down(), self._tell_opened)

    def _arrive(self, data: bytes) -> None:
        if self._loop.is_dead or self._is_broker_done or self._connection is None:
            # Nobody knows the connection any more: the kernel says so.
            if self._network.port.is_machine_up:
                self._events.at(self._base_us, self._tell_closed)
            return
        self._kernel += data
        self._plan_read()

    def _arrive_end(self) -> None:
        self.is_end_arrived = True
        if not self._loop.is_dead and self._connection is not None:
            self._plan_read()

    def _plan_read(self) -> None:
        if not self._is_read_planned and self._is_reading:
            self._is_read_planned = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._is_read_planned = False
        connection = self._connection
        while self._kernel and self._is_reading and not self._is_broker_done and connection is not None:
            room = connection.get_buffer(-1)
            count = min(len(room), len(self._kernel))
            if self._network.share_split and self._events.chance(self._network.share_split):
                count = self._events.random.randint(1, count)
            room[:count] = self._kernel[:count]
            del room
            del self._kernel[:count]
            connection.buffer_updated(count)
        if self.is_end_arrived and not self._kernel and self._is_reading and not self._is_broker_done:
            self.close()

    # -- the broker's end: what the server asks of a transport --------------------------------------------------------

    def get_extra_info(self, name: str) -> Any:
        return _Socket(self) if name == "socket" else ("10.0.0.1", 40_000 + self._network.connected)

    def set_write_buffer_limits(self, *, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_broker_done

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        if self._kernel or self.is_end_arrived:
            self._plan_read()

    def write(self, data: bytes) -> None:
        if self._is_broker_done or self._is_lost:
            return
        network, events = self._network, self._events
        if network.share_cut and events.chance(network.share_cut):
            if events.chance(0.5):
                events.at(self._delay_down(), self._tell, bytes(data))
            self.cut()
            return
        events.at(self._delay_down(), self._tell, bytes(data))

    def writelines(self, pieces: list[bytes | memoryview]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        if self._is_broker_done:
            return
        self._is_broker_done = True
        self._events.at(self._delay_down(), self._tell_closed)
        self._loop.call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self._network.pipes.pop(self, None)
        if self._connection is not None:
            self._connection.connection_lost(None)
            self._connection = None

    def die(self, *, is_silent: bool) -> None:
        """The broker's process is gone; ``is_silent``: the machine with it."""
        self._is_broker_done = True
        self._network.pipes.pop(self, None)
        if not is_silent:
            self._events.at(self._delay_down() + self._events.about(MS_US), self._tell_closed)

    # -- what arrives at the client -----------------------------------------------------------------------------------

    def _tell_opened(self) -> None:
        if not self._is_client_done:
            self._end.opened()

    def _tell(self, data: bytes) -> None:
        if not self._is_client_done:
            self._end.received(data)

    def _tell_closed(self) -> None:
        if not self._is_client_done:
            self._is_client_done = True
            self._end.closed()
