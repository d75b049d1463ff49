"""A TCP proxy that understands Kafka's frames: it holds, loses, delays and cuts what a test names.

    with Proxy(broker.port) as proxy:                 # clients connect to proxy.bootstrap and stay behind it
        held = proxy.hold_next("end_txn")
        ...                                           # the client commits
        held.wait()                                   # the request is here; the broker has not seen it
        held.cut()                                    # the client loses its connection; ours to the broker stays
        ...                                           # the client reconnects, repeats it, and begins another transaction
        held.release()                                # the old request arrives, by its old connection
        assert held.reply().error_code == 51

Each trap waits for one request of an API (that ``where`` accepts), springs once and is gone. Addresses in replies (Metadata,
FindCoordinator, DescribeCluster, and the leader hints of Produce and Fetch) are rewritten; every broker of a cluster gets
a port here. It lives on an event loop in its own thread; all public methods may be used from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import Any

from tests.support.messages import (
    API_KEYS,
    api_name,
    decode_request,
    decode_response,
    encode_response,
    error_codes,
)

FRAME_BYTES_MAX = 256 * 1024 * 1024
WAIT_SECONDS = 20.0

Address = tuple[str, int]

#: Replies that carry addresses always; Produce and Fetch do only after a change of leader.
_WITH_ADDRESSES = {API_KEYS[name] for name in ("metadata", "find_coordinator", "describe_cluster")}
_WITH_HINTS = {API_KEYS[name] for name in ("produce", "fetch")}
_OF_PRODUCERS = {
    API_KEYS[name]
    for name in (
        "produce",
        "init_producer_id",
        "add_partitions_to_txn",
        "add_offsets_to_txn",
        "txn_offset_commit",
        "end_txn",
    )
}


class Action(Enum):
    """What a trap does to the request that springs it."""

    HOLD = "keep it until release()"
    CUT = "cut the connection, the broker does not see it"
    LOSE_REPLY = "let the broker answer, then cut the connection without the answer"
    DROP_REPLY = "swallow the answer, the connection stays"
    DELAY = "pass it on some seconds later"


@dataclass(frozen=True)
class Request:
    """A request that passed. ``link`` numbers the client's connection."""

    link: int
    api_key: int
    version: int
    correlation_id: int
    body: bytes

    @property
    def api(self) -> str:
        return api_name(self.api_key)

    @property
    def entity(self) -> Any:
        return decode_request(self.body)[1]


class Trap:
    """One request that is waited for, and what became of it."""

    def __init__(
        self, proxy: Proxy, api: str | int, action: Action, where: Callable[[Any], bool] | None, seconds: float
    ) -> None:
        self.api_key = API_KEYS[api_name(api)]
        self.action = action
        self.seconds = seconds
        self._proxy = proxy
        self._where = where
        self._link: _Link | None = None
        self._request: Request | None = None
        self._reply: bytes | None = None
        self._caught = threading.Event()
        self._answered = threading.Event()
        self.released = asyncio.Event()

    def accepts(self, request: Request) -> bool:
        return request.api_key == self.api_key and (self._where is None or self._where(request.entity))

    def spring(self, link: _Link, request: Request) -> None:
        self._link, self._request = link, request
        self._caught.set()

    def answer(self, body: bytes | None) -> None:
        """The broker's answer, or None: its connection has ended without one."""
        self._reply = body
        self._answered.set()

    @property
    def is_sprung(self) -> bool:
        return self._caught.is_set()

    def wait(self, timeout_seconds: float = WAIT_SECONDS) -> Request:
        """Until the trap has sprung: the request."""
        assert self._caught.wait(timeout_seconds), f"no {api_name(self.api_key)} request came"
        assert self._request is not None
        return self._request

    def cut(self) -> None:
        """Cut the client's side of the connection by which the request came; the broker's side stays open."""
        link = self._link
        assert link is not None, "nothing was caught yet"
        self._proxy.run(link.cut_client)

    def release(self) -> None:
        """Pass the held request on, by the connection that it was sent on."""
        self._proxy.run(self.released.set)

    def reply(self, timeout_seconds: float = WAIT_SECONDS) -> Any:
        """The broker's answer to the request; None if it closed the connection instead."""
        assert self._answered.wait(timeout_seconds), f"the broker has not answered {api_name(self.api_key)}"
        request = self._request
        assert request is not None
        return None if self._reply is None else decode_response(request.api, request.version, self._reply)[1]


class Proxy:
    """In front of the broker at ``upstream_port``, from ``open`` to ``close``."""

    def __init__(self, upstream_port: int, *, host: str = "127.0.0.1") -> None:
        self.upstream: Address = (host, upstream_port)
        #: (link, api) of every request that came, in order.
        self.seen: list[tuple[int, str]] = []
        #: (api, error code) of every error in the replies to producers.
        self.errors: list[tuple[str, int]] = []
        #: What went wrong in the proxy itself; ``close`` raises it.
        self.failures: list[BaseException] = []
        self._ports: dict[Address, int] = {}
        self._servers: list[asyncio.Server] = []
        self._traps: list[Trap] = []
        self._links: set[_Link] = set()
        self._numbers = itertools.count(1)
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def port(self) -> int:
        return self._ports[self.upstream]

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.port_for(self.upstream), self._loop).result(WAIT_SECONDS)
        return self

    def close(self) -> None:
        """Cuts every connection and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()
        if self.failures:
            raise AssertionError("the proxy has failed") from self.failures[0]

    def __enter__(self) -> Proxy:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, function: Callable[[], None]) -> None:
        """Call it on the proxy's thread, and wait until it has run."""

        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(WAIT_SECONDS)

    def hold_next(self, api: str | int, *, where: Callable[[Any], bool] | None = None) -> Trap:
        """Keep the next such request until ``release``; what its connection sends after it waits behind it."""
        return self._set(Trap(self, api, Action.HOLD, where, 0))

    def cut_at_next(self, api: str | int, *, where: Callable[[Any], bool] | None = None) -> Trap:
        """Cut the connection by which the next such request comes, before the broker sees it."""
        return self._set(Trap(self, api, Action.CUT, where, 0))

    def lose_reply_of_next(self, api: str | int, *, where: Callable[[Any], bool] | None = None) -> Trap:
        """Let the broker do and answer the next such request, then cut the connection instead of answering."""
        return self._set(Trap(self, api, Action.LOSE_REPLY, where, 0))

    def drop_reply_of_next(self, api: str | int, *, where: Callable[[Any], bool] | None = None) -> Trap:
        """Swallow the answer to the next such request; the client waits until its own timeout."""
        return self._set(Trap(self, api, Action.DROP_REPLY, where, 0))

    def delay_next(self, api: str | int, seconds: float, *, where: Callable[[Any], bool] | None = None) -> Trap:
        """Pass the next such request on later."""
        return self._set(Trap(self, api, Action.DELAY, where, seconds))

    def cut_all(self) -> None:
        """Cut every connection there is, on both sides."""
        self.run(lambda: [link.cut() for link in set(self._links)] and None)

    def clear(self) -> None:
        """Take all traps away that have not sprung."""
        self.run(self._traps.clear)

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once, until ``refuse(False)``."""
        self._is_refusing = refusing

    def _set(self, trap: Trap) -> Trap:
        self.run(lambda: self._traps.append(trap))
        return trap

    def take_trap(self, request: Request) -> Trap | None:
        """The first trap that the request springs; it is gone then."""
        for trap in self._traps:
            if trap.accepts(request):
                self._traps.remove(trap)
                return trap
        return None

    async def port_for(self, address: Address) -> int:
        """The port here that leads to a broker; a new one for a broker not met before."""
        if address not in self._ports:
            server = await asyncio.start_server(lambda *streams: self._connected(address, *streams), "127.0.0.1", 0)
            if address in self._ports:  # another reply named it meanwhile
                server.close()
            else:
                self._servers.append(server)
                self._ports[address] = server.sockets[0].getsockname()[1]
        return self._ports[address]

    async def _connected(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*address)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, next(self._numbers), reader, writer, up_reader, up_writer)
        self._links.add(link)
        try:
            await link.run()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        except BaseException as failure:  # noqa: BLE001 - it belongs to the test, which reads it in close()
            self.failures.append(failure)
        finally:
            self._links.discard(link)
            link.end()

    async def _shut(self) -> None:
        for server in self._servers:
            server.close()
        for link in set(self._links):
            link.cut()
        for _ in range(200):
            if not self._links:
                break
            await asyncio.sleep(0.01)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Link:
    """One client's connection and ours to the broker."""

    def __init__(
        self,
        proxy: Proxy,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._number = number
        self._reader, self._writer = reader, writer
        self._up_reader, self._up_writer = up_reader, up_writer
        self._waiting: dict[int, tuple[Request, Trap | None]] = {}
        self._is_client_gone = False

    async def run(self) -> None:
        """Until either side ends. A cut client's side does not end it while a request is held, or a held one unanswered."""
        requests = asyncio.create_task(self._pump_requests())
        replies = asyncio.create_task(self._pump_replies())
        try:
            await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
            self._is_client_gone = requests.done()
            if self._is_client_gone and self._owes_an_answer():
                await replies
        finally:
            for task in (requests, replies):
                task.cancel()
            ended = await asyncio.gather(requests, replies, return_exceptions=True)
            for _, trap in self._waiting.values():
                if trap is not None:
                    trap.answer(None)
        for failure in ended:
            if isinstance(failure, _Cut):
                self.cut()
            elif isinstance(failure, Exception) and not isinstance(failure, OSError | EOFError):
                raise failure

    def _owes_an_answer(self) -> bool:
        return any(trap is not None for _, trap in self._waiting.values())

    def end(self) -> None:
        """Close both sides as a client that is done does; what was written still arrives."""
        self._writer.close()
        self._up_writer.close()

    def cut_client(self) -> None:
        self._writer.transport.abort()

    def cut(self) -> None:
        self._writer.transport.abort()
        self._up_writer.transport.abort()

    async def _pump_requests(self) -> None:
        while True:
            frame = await _read_frame(self._reader)
            api_key, version, correlation_id = struct.unpack_from(">hhi", frame, 4)
            request = Request(self._number, api_key, version, correlation_id, frame[4:])
            self._proxy.seen.append((self._number, request.api))
            trap = self._proxy.take_trap(request)
            if trap is not None:
                trap.spring(self, request)
                if trap.action is Action.CUT:
                    raise _Cut
                if trap.action is Action.DELAY:
                    await asyncio.sleep(trap.seconds)
                if trap.action is Action.HOLD:
                    await trap.released.wait()
            self._waiting[correlation_id] = (request, trap)
            self._up_writer.write(frame)
            await self._up_writer.drain()

    async def _pump_replies(self) -> None:
        while True:
            frame = await _read_frame(self._up_reader)
            (correlation_id,) = struct.unpack_from(">i", frame, 4)
            request, trap = self._waiting.pop(correlation_id, (None, None))
            if trap is not None:
                trap.answer(frame[4:])
                if trap.action is Action.LOSE_REPLY:
                    raise _Cut
                if trap.action is Action.DROP_REPLY:
                    continue
            if request is not None:
                if request.api_key in _OF_PRODUCERS:
                    self._note_errors(request, frame)
                frame = await self._rewritten(request, frame)
            with contextlib.suppress(OSError):  # a cut client's answers are read and thrown away
                self._writer.write(frame)
                await self._writer.drain()
            if self._is_client_gone and not self._owes_an_answer():
                return

    def _note_errors(self, request: Request, frame: bytes) -> None:
        _, entity = decode_response(request.api, request.version, frame[4:])
        self._proxy.errors += [(request.api, code) for code in error_codes(entity) if code != 0]

    async def _rewritten(self, request: Request, frame: bytes) -> bytes:
        key = request.api_key
        if key not in _WITH_ADDRESSES and (key not in _WITH_HINTS or self._proxy.upstream[0].encode() not in frame):
            return frame
        correlation_id, entity = decode_response(request.api, request.version, frame[4:])
        return encode_response(correlation_id, await self._moved(entity))

    async def _moved(self, entity: Any) -> Any:
        """The entity with the proxy's address in place of each broker's."""
        for name in ("brokers", "coordinators", "node_endpoints"):
            nodes = getattr(entity, name, None)
            if nodes:
                entity = replace(entity, **{name: tuple([await self._moved_node(node) for node in nodes])})
        return await self._moved_node(entity) if hasattr(entity, "port") else entity

    async def _moved_node(self, node: Any) -> Any:
        if not node.host or node.port < 0:
            return node
        return replace(node, host="127.0.0.1", port=await self._proxy.port_for((node.host, node.port)))


class _Cut(Exception):
    """The connection is to be cut now."""


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """One message with its length before it."""
    prefix = await reader.readexactly(4)
    (length,) = struct.unpack(">i", prefix)
    if not 4 <= length <= FRAME_BYTES_MAX:
        raise _Cut
    return prefix + await reader.readexactly(length)
