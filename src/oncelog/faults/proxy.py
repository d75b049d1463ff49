"""A TCP proxy that understands Kafka's frames: it holds, loses, delays, refuses, doubles and cuts what it is told to.

    with Proxy("127.0.0.1:9092") as proxy:            # clients connect to proxy.bootstrap and stay behind it
        held = proxy.hold_next("end_txn")
        ...                                           # the client commits
        held.wait()                                   # the request is here; the broker has not seen it
        held.cut()                                    # the client loses its connection; ours to the broker stays
        ...                                           # the client reconnects, repeats it, and begins another transaction
        held.release()                                # the old request arrives, by its old connection
        print(held.reply().error_code)

Each trap waits for one request of an API (that ``where`` accepts, after ``skip`` others), springs once and is gone. Addresses
in replies (Metadata, FindCoordinator, DescribeCluster, and the leader hints of KIP-951) are rewritten: every broker of the
cluster gets a port here. The proxy lives on an event loop in its own thread; all public methods may be used from any thread.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from oncelog.faults.frames import REFUSABLE, Address, Head, api_key_of, api_name, is_known
from oncelog.faults.links import WAIT_SECONDS, Action, Link, ProxyError, Request, Side, Trap

HOST: Final = "127.0.0.1"
#: How many requests and errors are remembered.
SEEN_MAX: Final = 100_000
BROKERS_MAX: Final = 1_000
FAILURES_MAX: Final = 100
#: How many pairs of API and version are counted: a client may make up any.
UNREAD_MAX: Final = 1_000
CONNECT_SECONDS_MAX: Final = 10.0
_END_SECONDS_MAX: Final = 2.0

Where = Callable[[Any], bool] | None


class Proxy:
    """In front of a cluster, from ``open`` to ``close``. ``upstream``: HOST:PORT, or several with commas between them.

    ``doubles``: keep a second connection to the broker beside each client's, for ``double_next``.
    """

    def __init__(self, upstream: str, *, doubles: bool = False) -> None:
        self.upstream: list[Address] = [_address(each) for each in upstream.split(",")]
        #: (link, api) of the requests that came, in order.
        self.seen: deque[tuple[int, str]] = deque(maxlen=SEEN_MAX)
        #: (api, error code) of errors in the replies to producers.
        self.errors: deque[tuple[str, int]] = deque(maxlen=SEEN_MAX)
        #: How many requests of each (api, version) passed that can't be read here: newer than kio, or none of its making.
        self.unread: Counter[tuple[str, int]] = Counter()
        #: What went wrong in the proxy itself; ``check`` and ``close`` raise it.
        self.failures: deque[BaseException] = deque(maxlen=FAILURES_MAX)
        self._doubles = doubles
        self._ports: dict[Address, int] = {}
        self._servers: list[asyncio.Server] = []
        self._traps: list[Trap] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="oncelog proxy", daemon=True)

    # -- from open to close -------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that leads to the first broker of ``upstream``."""
        return self._ports[self.upstream[0]]

    @property
    def bootstrap(self) -> str:
        """For a client's ``bootstrap.servers``."""
        return ",".join(f"{HOST}:{self._ports[address]}" for address in self.upstream)

    def open(self) -> Self:
        """Begin to listen; returns when clients may connect."""
        self._thread.start()
        for address in self.upstream:
            asyncio.run_coroutine_threadsafe(self._port_for(address), self._loop).result(WAIT_SECONDS)
        return self

    def close(self) -> None:
        """Cuts every connection and ends the thread. Raises ProxyError if the proxy itself has failed meanwhile."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()
        self.check()

    def check(self) -> None:
        """ProxyError if the proxy itself has failed: a reply that it had to rewrite and could not read, for one."""
        if self.failures:
            failure = self.failures[0]
            raise ProxyError(
                str(failure) if isinstance(failure, ProxyError) else f"the proxy has failed: {failure!r}"
            ) from failure

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- single requests ----------------------------------------------------------------------------------------------

    def hold_next(self, api: str | int, *, where: Where = None, skip: int = 0, seconds: float = 0) -> Trap:
        """Keep the next such request until ``release``, or for some seconds; its connection waits behind it."""
        return self._set(Trap(self._call, api_key_of(api), Action.HOLD, where=where, skip=skip, seconds=seconds))

    def cut_at_next(self, api: str | int, *, where: Where = None, skip: int = 0) -> Trap:
        """Cut the connection by which the next such request comes, before the broker sees it."""
        return self._set(Trap(self._call, api_key_of(api), Action.CUT, where=where, skip=skip))

    def lose_reply_of_next(self, api: str | int, *, where: Where = None, skip: int = 0) -> Trap:
        """Let the broker do and answer the next such request, then cut the connection instead of answering."""
        return self._set(Trap(self._call, api_key_of(api), Action.LOSE_REPLY, where=where, skip=skip))

    def drop_reply_of_next(self, api: str | int, *, where: Where = None, skip: int = 0) -> Trap:
        """Swallow the answer to the next such request; the client waits until its own timeout."""
        return self._set(Trap(self._call, api_key_of(api), Action.DROP_REPLY, where=where, skip=skip))

    def delay_next(self, api: str | int, seconds: float, *, where: Where = None, skip: int = 0) -> Trap:
        """Pass the next such request on later."""
        return self._set(Trap(self._call, api_key_of(api), Action.DELAY, where=where, skip=skip, seconds=seconds))

    def refuse_next(self, api: str | int, error_code: int, *, where: Where = None, skip: int = 0) -> Trap:
        """Answer the next such request with an error in the broker's place. ValueError for an API that can't be refused."""
        trap = Trap(self._call, api_key_of(api), Action.REFUSE, where=where, skip=skip, error_code=error_code)
        if trap.api_key not in {api_key_of(name) for name in REFUSABLE}:
            raise ValueError(f"{api} can't be refused here, only {', '.join(REFUSABLE)}")
        return self._set(trap)

    def double_next(self, api: str | int, *, where: Where = None, skip: int = 0) -> Trap:
        """Send the next such request twice: first a copy, by a second connection, then the client's own."""
        if not self._doubles:
            raise ValueError("make the proxy with doubles=True: the second connections have to be there before")
        return self._set(Trap(self._call, api_key_of(api), Action.DOUBLE, where=where, skip=skip))

    def clear(self) -> None:
        """Take all traps away that have not sprung."""
        self._call(self._traps.clear)

    # -- whole connections --------------------------------------------------------------------------------------------

    def cut_all(self) -> int:
        """Cut every connection there is, on both sides; how many."""
        links = set(self._links)

        def cut() -> None:
            for link in links:
                link.cut()

        self._call(cut)
        return len(links)

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once, until ``refuse(False)``."""
        self._is_refusing = refusing

    # -- on the loop --------------------------------------------------------------------------------------------------

    def passed(self, request: Request) -> Trap | None:
        """Notes a request; the first trap that it springs, which is gone then."""
        self.seen.append((request.link, request.api))
        if not is_known(request.api_key, request.version):
            self.note_unread(request.head)
        for trap in self._traps:
            if trap.accepts(request):
                self._traps.remove(trap)
                return trap
        return None

    def note_error(self, api: str, code: int) -> None:
        """An error that a producer was answered with."""
        self.errors.append((api, code))

    def note_unread(self, head: Head) -> None:
        """A request or a reply that was passed on without a look into it."""
        key = (api_name(head.api_key), head.version)
        if key in self.unread or len(self.unread) < UNREAD_MAX:
            self.unread[key] += 1

    async def moves(self, addresses: set[Address]) -> dict[Address, Address]:
        """The ports here that lead to these brokers; new ones for brokers not met before."""
        return {address: (HOST, await self._port_for(address)) for address in addresses}

    def _set(self, trap: Trap) -> Trap:
        self._call(lambda: self._traps.append(trap))
        return trap

    def _call(self, function: Callable[[], None]) -> None:
        """Call it on the loop, and wait until it has run."""

        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(WAIT_SECONDS)

    async def _port_for(self, address: Address) -> int:
        if address not in self._ports:
            if len(self._ports) >= BROKERS_MAX:
                raise ProxyError(f"the cluster has named more than {BROKERS_MAX} addresses")
            server = await asyncio.start_server(lambda *streams: self._accept(address, Side(*streams)), HOST, 0)
            if address in self._ports:  # another reply named it meanwhile
                server.close()
            else:
                self._servers.append(server)
                self._ports[address] = server.sockets[0].getsockname()[1]
        return self._ports[address]

    def _accept(self, address: Address, client: Side) -> None:
        if self._is_refusing:
            client.cut()
            return
        task = self._loop.create_task(self._serve(address, client))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.failures.append(failure)

    async def _serve(self, address: Address, client: Side) -> None:
        shadow: Side | None = None
        try:
            if self._doubles:  # before the client's own: a broker takes the copy for a request of an older connection
                shadow = await _connected(address)
            broker = await _connected(address)
        except OSError:
            client.cut()
            if shadow is not None:
                shadow.cut()
            return
        link = Link(self, next(self._numbers), client, broker, shadow)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _shut(self) -> None:
        for server in self._servers:
            server.close()
        for link in set(self._links):
            link.cut()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=_END_SECONDS_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.sleep(0)  # the callbacks of what has ended


async def _connected(address: Address) -> Side:
    """OSError if it can't be had, or not soon."""
    return Side(*await asyncio.wait_for(asyncio.open_connection(*address), CONNECT_SECONDS_MAX))


def _address(text: str) -> Address:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is no HOST:PORT of a broker")
    return host, int(port)
