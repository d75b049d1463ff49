"""Connections over a transport of our own: order of replies, one write a turn, and every bound."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.messages import build, encode_request, message_type

from oncelog.broker import server as server_module
from oncelog.broker.call import Call
from oncelog.broker.meters import Meters
from oncelog.broker.server import Connection, Server
from oncelog.model.limits import (
    FRAME_STALL_SECONDS_MAX,
    REPLY_BYTES_PENDING_MAX,
    REPLY_STALL_SECONDS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
)

BOUNDS = {0: (3, 13), 12: (0, 4), 18: (0, 4)}
HEARTBEAT = 12


class FakeSocket:
    state = 1

    def getsockopt(self, *_: int) -> bytes:
        return bytes((self.state,))


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.socket = FakeSocket()
        self.written: list[bytes] = []
        self.is_reading_now = True
        self.is_closed = self.is_aborted = False
        self.pending = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.socket, "peername": ("::1", 4242, 0, 0)}[name]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.pending

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.written.append(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


class FakeLoop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        self.now = 100.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay_seconds: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        """Everything that waits, and what that brings."""
        while self.soon:
            self.soon.pop(0)()

    def sweep(self, after_seconds: float) -> None:
        self.now += after_seconds
        self.later.pop(0)()


class Lines:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **named: Any) -> None:
        self.lines.append((event, named))

    info = warning = error = debug


class World:
    """A server whose router keeps the calls."""

    def __init__(self) -> None:
        self.loop, self.log = FakeLoop(), Lines()
        self.calls: list[Call] = []
        self.bugs: list[BaseException] = []
        self.route: Callable[[Call], None] = self.calls.append
        self.meters = Meters()
        loop: Any = self.loop
        self.server = Server(
            loop,
            lambda call: self.route(call),
            bounds=BOUNDS,
            log=self.log,
            on_bug=self.bugs.append,
            meters=self.meters,
            connections_max=3,
        )

    def connect(self) -> tuple[Connection, FakeTransport]:
        connection, transport = Connection(self.server), FakeTransport()
        connection.connection_made(transport)
        return connection, transport


@pytest.fixture
def world() -> World:
    return World()


def feed(connection: Connection, data: bytes) -> None:
    while data:
        room = connection.get_buffer(-1)
        count = min(len(room), len(data))
        room[:count] = data[:count]
        del room
        connection.buffer_updated(count)
        data = data[count:]


def heartbeat(number: int) -> bytes:
    tree = {"group_id": "g", "generation_id": number, "member_id": "m"}
    return encode_request(number, "c", build(message_type("heartbeat", 3, "request"), tree))


def produce(number: int, acks: int = -1, size: int = 10) -> bytes:
    topics = [{"name": "t", "partition_data": [{"index": 0, "records": b"x" * size}]}]
    tree = {"transactional_id": None, "acks": acks, "timeout": 1000, "topic_data": topics}
    return encode_request(number, "c", build(message_type("produce", 9, "request"), tree))


def numbers(data: bytes) -> list[int]:
    """Correlation ids of replies, in order."""
    found = []
    while data:
        size, number = struct.unpack_from(">ii", data)
        found.append(number)
        data = data[4 + size :]
    return found


OK = {"throttle_time": 0, "error_code": 0}


def test_requests_are_routed_in_the_turn_in_which_they_come(world: World) -> None:
    connection, _ = world.connect()
    feed(connection, heartbeat(1) + heartbeat(2))
    assert [(call.api_key, call.version, call.correlation_id, call.client_id) for call in world.calls] == [
        (HEARTBEAT, 3, 1, "c"),
        (HEARTBEAT, 3, 2, "c"),
    ]
    assert world.calls[0].peer is connection
    assert world.calls[0].bytes_received == len(heartbeat(1))


def test_replies_leave_in_the_order_of_the_requests(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1) + heartbeat(2) + heartbeat(3))
    for at in (2, 1):
        world.calls[at].reply(world.calls[at].encode(OK))
        world.loop.turn()
    assert transport.written == []
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert numbers(transport.written[0]) == [1, 2, 3]


def test_nothing_more_is_read_while_a_request_goes_in_steps(world: World) -> None:
    """Law 8: as Kafka does with every request; what came after it is routed when it is done."""
    connection, transport = world.connect()

    def route(call: Call) -> None:
        world.calls.append(call)
        call.is_in_steps = call.correlation_id == 2

    world.route = route
    feed(connection, heartbeat(1) + heartbeat(2) + heartbeat(3))
    assert [call.correlation_id for call in world.calls] == [1, 2]
    assert not transport.is_reading_now
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert len(world.calls) == 2
    world.calls[1].is_in_steps = False
    connection.go_on()
    assert [call.correlation_id for call in world.calls] == [1, 2, 3]
    assert transport.is_reading_now


def test_who_comes_again_and_again_has_so_many_lines(world: World) -> None:
    """Law 8: the log of a broker does not grow as fast as its worst client likes."""
    for _ in range(500):
        connection, _ = world.connect()
        feed(connection, b"GET / HTTP/1.1\r\n\r\n")
        connection.connection_lost(None)
    assert world.meters.connections_closed_bad == 500
    closed = [fields for event, fields in world.log.lines if event == "connection closed"]
    assert len(closed) == 10
    world.log.lines.clear()
    world.loop.sweep(5.0)
    assert not world.log.lines
    world.loop.sweep(60.0)
    assert world.log.lines == [
        ("connections closed without a line each", {"host": "[::1]", "count": 490, "of_seconds": 60.0})
    ]


def test_one_write_a_turn_for_each_connection(world: World) -> None:
    """Law: what became ready together leaves together."""
    (one, first), (two, second) = world.connect(), world.connect()
    feed(one, heartbeat(1) + heartbeat(2))
    feed(two, heartbeat(3))
    for call in world.calls:
        call.reply(call.encode(OK))
    assert len(world.loop.soon) == 1
    assert first.written == []
    world.loop.turn()
    assert [numbers(data) for data in first.written] == [[1, 2]]
    assert [numbers(data) for data in second.written] == [[3]]


def test_a_body_of_several_buffers_is_one_reply(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1))
    world.calls[0].reply([b"a" * 50_000, memoryview(b"b" * 50_000)])
    world.loop.turn()
    (data,) = transport.written
    assert data[:8] == struct.pack(">ii", 100_004, 1)
    assert data[8:] == b"a" * 50_000 + b"b" * 50_000


def test_produce_without_acks_takes_no_slot(world: World) -> None:
    """P9."""

    def route(call: Call) -> None:
        call.is_expecting_reply = not (call.api_key == 0 and call.request.acks == 0)
        world.calls.append(call)

    world.route = route
    connection, transport = world.connect()
    feed(connection, heartbeat(1) + produce(2, acks=0) + heartbeat(3))
    world.calls[2].reply(world.calls[2].encode(OK))
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert numbers(b"".join(transport.written)) == [1, 3]


def test_a_newer_api_versions_is_answered_as_version_0(world: World) -> None:
    """KIP-511: error 35 and the versions that are known."""
    connection, transport = world.connect()
    feed(connection, struct.pack(">ihhih", 14, 18, 99, 5, -1) + b"????")
    world.loop.turn()
    assert world.calls == []
    body = struct.pack(">hihhh", 35, 1, 18, 0, 4)
    assert transport.written == [struct.pack(">ii", 4 + len(body), 5) + body]


@pytest.mark.parametrize(
    "data",
    [struct.pack(">ihhih", 10, 99, 0, 1, -1), struct.pack(">ihhih", 10, 0, 2, 1, -1), b"\0\0\0\1x", b"\xff" * 8],
    ids=["api", "version", "no header", "no frame"],
)
def test_broken_bytes_close_their_connection_alone(world: World, data: bytes) -> None:
    (bad, bad_transport), (good, good_transport) = world.connect(), world.connect()
    feed(bad, data)
    feed(good, heartbeat(1))
    assert bad_transport.is_closed
    assert not good_transport.is_closed
    assert len(world.calls) == 1
    assert world.log.lines[-1][1]["peer"] == "[::1]:4242"
    assert world.meters.connections_closed_bad == 1


def test_what_was_asked_before_broken_bytes_is_routed(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1) + b"\xff" * 8)
    assert len(world.calls) == 1
    assert transport.is_closed


def test_http_is_told_what_this_port_is(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.written[0].startswith(b"HTTP/1.1 400 ")
    assert transport.is_closed


def test_no_more_is_read_when_too_many_requests_wait(world: World) -> None:
    """Law 8: REQUESTS_IN_FLIGHT_MAX."""
    connection, transport = world.connect()
    feed(connection, b"".join(map(heartbeat, range(REQUESTS_IN_FLIGHT_MAX + 5))))
    assert len(world.calls) == REQUESTS_IN_FLIGHT_MAX
    assert not transport.is_reading_now
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert len(world.calls) == REQUESTS_IN_FLIGHT_MAX + 1
    for call in world.calls[1:]:
        call.reply(call.encode(OK))
    world.loop.turn()
    for call in world.calls[REQUESTS_IN_FLIGHT_MAX + 1 :]:
        call.reply(call.encode(OK))
    world.loop.turn()
    assert transport.is_reading_now
    assert numbers(b"".join(transport.written)) == list(range(REQUESTS_IN_FLIGHT_MAX + 5))


def test_broken_bytes_after_requests_that_must_wait_close_later(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, b"".join(map(heartbeat, range(REQUESTS_IN_FLIGHT_MAX + 1))) + b"\xff" * 8)
    assert not transport.is_closed
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert len(world.calls) == REQUESTS_IN_FLIGHT_MAX + 1
    assert transport.is_closed


def test_replies_that_wait_behind_a_late_one_are_bounded(world: World) -> None:
    """Law 8: REPLY_BYTES_PENDING_MAX, REPLY_BYTES_TOTAL_MAX: one fetch that waits must not pile up replies behind it."""
    connection, transport = world.connect()
    feed(connection, heartbeat(1))
    late = world.calls[0]
    world.route = lambda call: call.reply(bytes(REPLY_BYTES_PENDING_MAX // 2))
    feed(connection, b"".join(heartbeat(number) for number in range(2, 20)))
    world.loop.turn()
    assert len(connection._calls) == 4 and not transport.is_reading_now
    late.reply(b"late")
    world.loop.turn()
    assert numbers(b"".join(transport.written)) == list(range(1, 20))
    assert transport.is_reading_now and connection._kept_bytes == 0


def test_who_lets_too_many_replies_wait_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REPLY_BYTES_TOTAL_MAX", 1000)
    connection, transport = world.connect()
    feed(connection, b"".join(map(heartbeat, range(3))))
    world.calls[1].reply(bytes(600))
    assert not transport.is_aborted
    world.calls[2].reply(bytes(600))
    assert transport.is_aborted


def test_no_more_is_routed_when_too_many_reply_bytes_wait(world: World) -> None:
    """Law 8: REPLY_BYTES_PENDING_MAX."""
    world.route = lambda call: call.reply(bytes(REPLY_BYTES_PENDING_MAX // 2))
    connection, transport = world.connect()
    feed(connection, b"".join(map(heartbeat, range(10))))
    assert connection._out_bytes < 2 * REPLY_BYTES_PENDING_MAX
    assert not transport.is_reading_now
    connection.pause_writing()
    world.loop.turn()
    before = len(b"".join(transport.written))
    connection.resume_writing()
    world.loop.turn()
    assert len(b"".join(transport.written)) > before
    assert transport.is_reading_now


def test_only_connections_that_write_are_held_under_pressure(world: World) -> None:
    (writer, writing), (reader, reading) = world.connect(), world.connect()
    feed(writer, produce(1))
    feed(reader, heartbeat(2))
    world.server.pause_all()
    assert (writing.is_reading_now, reading.is_reading_now) == (False, True)
    feed(writer, produce(3))
    assert len(world.calls) == 2
    world.server.resume_all()
    world.loop.turn()
    assert [call.correlation_id for call in world.calls] == [1, 2, 3]
    assert writing.is_reading_now


def test_a_bug_in_a_handler_stops_the_broker(world: World) -> None:
    """Architecture, errors: never swallowed."""
    bug = AssertionError("no")

    def route(call: Call) -> None:
        raise bug

    world.route = route
    connection, transport = world.connect()
    feed(connection, heartbeat(1) + heartbeat(2))
    assert world.bugs == [bug]
    assert transport.is_closed


def test_a_reply_after_the_connection_is_gone_goes_nowhere(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1))
    connection.connection_lost(None)
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    assert transport.written == []
    assert world.server.connections_count == 0


def test_is_gone_asks_the_kernel(world: World) -> None:
    """D4: a close that was not read yet counts."""
    connection, transport = world.connect()
    assert not connection.is_gone()
    transport.socket.state = 8
    assert connection.is_gone()
    transport.socket.state = 1
    connection.close("test")
    assert connection.is_gone()


def test_closing_sends_what_was_answered(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1) + heartbeat(2))
    world.calls[0].reply(world.calls[0].encode(OK))
    connection.close("test")
    world.loop.turn()
    assert numbers(b"".join(transport.written)) == [1]
    assert transport.is_closed
    assert ("connection closed", {"peer": "[::1]:4242", "why": "test"}) in world.log.lines


def test_too_many_connections_are_turned_away(world: World) -> None:
    """Law 8: CONNECTIONS_MAX; those that are there stay."""
    transports = [world.connect()[1] for _ in range(4)]
    assert [transport.is_aborted for transport in transports] == [False, False, False, True]


def test_who_takes_no_replies_is_closed(world: World) -> None:
    """Law 8: REPLY_STALL_SECONDS_MAX."""
    connection, transport = world.connect()
    connection._written_bytes = 1000
    transport.pending = 500
    world.loop.sweep(5)
    transport.pending = 400
    world.loop.sweep(REPLY_STALL_SECONDS_MAX)
    assert not transport.is_aborted, "it has taken some"
    world.loop.sweep(REPLY_STALL_SECONDS_MAX)
    assert transport.is_aborted


def test_who_leaves_a_request_unfinished_is_closed(world: World) -> None:
    """Law 8: FRAME_STALL_SECONDS_MAX."""
    connection, transport = world.connect()
    data = heartbeat(1)
    feed(connection, data[:10])
    world.loop.sweep(5)
    feed(connection, data[10:12])
    world.loop.sweep(FRAME_STALL_SECONDS_MAX)
    assert not transport.is_aborted, "it has sent some"
    world.loop.sweep(FRAME_STALL_SECONDS_MAX)
    assert transport.is_aborted


def test_an_idle_connection_stays(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1))
    for _ in range(5):
        world.loop.sweep(1000)
    assert not transport.is_aborted


def test_unfinished_requests_have_a_bound_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: FRAME_BYTES_TOTAL_MAX; the oldest goes."""
    monkeypatch.setattr(server_module, "FRAME_BYTES_TOTAL_MAX", 3_000_000)
    links = [world.connect() for _ in range(3)]
    start = struct.pack(">i", 50_000_000) + b"x"
    for connection, _ in links[:2]:
        feed(connection, start)
    assert [transport.is_aborted for _, transport in links] == [False, False, False]
    feed(links[2][0], start)
    assert [transport.is_aborted for _, transport in links] == [True, False, False]


def test_a_big_request_is_routed_and_its_buffer_used_again(world: World) -> None:
    connection, _ = world.connect()
    feed(connection, produce(1, size=500_000) + produce(2, size=500_000))
    sizes = [len(call.request.topic_data[0].partition_data[0].records) for call in world.calls]
    assert sizes == [500_000, 500_000]
    assert len(world.server.buffers._kept) == 1
    assert world.server._unfinished == {}


def test_what_was_answered_is_metered(world: World) -> None:
    connection, transport = world.connect()
    feed(connection, heartbeat(1))
    world.calls[0].reply(world.calls[0].encode(OK))
    world.loop.turn()
    cell = world.meters.requests[HEARTBEAT, 3]
    assert (cell.count, cell.bytes_in, cell.bytes_out) == (1, len(heartbeat(1)), len(transport.written[0]))
