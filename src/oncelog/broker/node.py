"""A node: storage, broker, server and metrics put together, started and stopped in the right order.

The order of a start: reserve the addresses (nothing is touched if one is taken), recover the data, listen. The order of a
stop: accept nothing more, answer what is under way, make everything safe, close. ``oncelog serve`` (broker/serving.py) and
the in-process broker (broker/embedded.py) are thin around this. Laws 3, 7; rule D2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec

from oncelog.broker import observe
from oncelog.broker.admin_http import AdminServer, Answer
from oncelog.broker.apis import HANDLERS
from oncelog.broker.broker import Broker, Log
from oncelog.broker.call import Call
from oncelog.broker.clock import AnyClock, Clock
from oncelog.broker.server import Server
from oncelog.broker.settings import Address, AddressError, Durability, Settings, advertised
from oncelog.model.batch import are_sound
from oncelog.model.errors import StorageError
from oncelog.model.limits import DESCRIPTORS_KEPT
from oncelog.storage.contract import Storage

_JSON: Final = "application/json"

#: How long a stop waits for requests that are under way.
GRACE_SECONDS: Final = 10.0


class Stage(NamedTuple):
    """What tests put in the place of the real thing: the clock, the storage, and something on the way of each request."""

    clock: AnyClock
    storage: Callable[[], Storage]
    through: Callable[[Callable[[Call], None]], Callable[[Call], None]]


class Node:
    """See the module. ``on_failure`` is called once, on the loop, with what ended the node from within."""

    def __init__(self, settings: Settings, log: Log, stage: Stage | None = None) -> None:
        self.settings, self.log = settings, log
        self._stage = stage or Stage(Clock(), lambda: open_storage(settings), lambda route: route)
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self.broker: Broker | None = None
        self.port = 0
        self.metrics_port = 0
        self._server: Server | None = None
        self._admin: AdminServer | None = None
        self._storage: Storage | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Everything up to serving. Raises AddressError, StorageError; then nothing is left behind."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._bug)
        with contextlib.ExitStack() as undo:
            sockets = _reserved(undo, self.settings.listen)
            admin_sockets = _reserved(undo, self.settings.metrics) if self.settings.metrics is not None else []
            self.port = sockets[0].getsockname()[1]
            broker = self._open(loop)
            undo.callback(self._let_go)
            self._server = server = self._serve(loop, broker)
            with _told_as(self.settings.listen):
                await server.listen_on(sockets)
            if self.settings.metrics is not None:
                self.metrics_port = admin_sockets[0].getsockname()[1]
                self._admin = AdminServer(self._routes(broker))
                with _told_as(self.settings.metrics):
                    await self._admin.listen(admin_sockets)
            undo.pop_all()

    def _open(self, loop: asyncio.AbstractEventLoop) -> Broker:
        storage = self._stage.storage()
        broker = Broker(
            storage=storage,
            loop=loop,
            clock_ms=self._stage.clock,
            ids=uuid4,
            log=self.log,
            configs=self.settings.configs,
        )
        told = advertised(self.settings, self.port, socket.gethostname())
        broker.advertised = (told.host, told.port)
        if self.settings.data is not None:
            broker.folder = str(self.settings.data.absolute())
        broker.on_failure = self._failed
        broker.on_recovered = self._stage.clock.begin_at
        broker.wall_ms = self._stage.clock.wall_ms
        self._storage = storage
        with _no_collection():
            broker.open()
        self.broker = broker
        return broker

    def _serve(self, loop: asyncio.AbstractEventLoop, broker: Broker) -> Server:
        server = Server(
            loop,
            self._stage.through(broker.route),
            bounds={api_key: (handler.version_min, handler.version_max) for api_key, handler in HANDLERS.items()},
            log=self.log,
            on_bug=self._failed,
            meters=broker.meters,
            connections_max=connections_allowed(broker.state.settings.connections_max),
        )
        broker.on_pressure = lambda is_high: server.pause_all() if is_high else server.resume_all()
        return server

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Answer what is under way, make everything safe, release everything. After a failure only the latter.

        Again, also while it stops: waits for the same end.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(grace_seconds))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_seconds: float) -> None:
        if self._admin is not None:
            self._admin.close()
        if self._server is not None:
            release = self.broker.release if self.broker is not None else lambda: None
            await self._server.close(0 if self._failure is not None else grace_seconds, release)
        self._let_go()

    async def kill(self) -> None:
        """End as by kill -9: nobody gets another word, nothing more is decided or saved. For storages without threads."""
        self._failure = StorageError("The node was killed, as asked.")
        if self.broker is not None:
            self.broker.halt(self._failure)
        if self._server is not None:
            await self._server.close(0)

    def _let_go(self) -> None:
        """Close broker and storage. Raises StorageError if something can't be made safe, unless that is known already."""
        if self.broker is None:
            if self._storage is not None:
                self._storage.close()
            return
        try:
            self.broker.close()
        except StorageError:
            if self._failure is None:
                raise

    # -- what ends a node from within ---------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self.on_failure(error)

    def _bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught on the loop: our own bug, and no state is to be trusted after it."""
        del loop
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            self.log.debug("event loop", why=context.get("message", ""), error=repr(error))
            return
        self._failed(error)

    # -- pages --------------------------------------------------------------------------------------------------------

    def _routes(self, broker: Broker) -> dict[str, Callable[[], Answer]]:
        from oncelog.broker.exposition import CONTENT_TYPE, BrokerCollector, text_of

        collector = BrokerCollector(
            broker.meters,
            broker.state,
            api_names={api_key: handler.name for api_key, handler in HANDLERS.items()},
            clock_ms=broker.now_ms,
            journal_bytes=lambda: broker.storage.journal_bytes,
            unsynced_bytes=lambda: broker.storage.bytes_unsynced,
            damaged_count=lambda: broker.damaged_count,
        )
        return {
            "/metrics": lambda: Answer(200, text_of(collector), CONTENT_TYPE),
            "/healthz": lambda: self._health(broker),
            "/transactions": lambda: Answer(200, _json(observe.transactions(broker.state, broker.now_ms())), _JSON),
            "/fences": lambda: Answer(200, _json(list(broker.fences)), _JSON),
        }

    def _health(self, broker: Broker) -> Answer:
        if self._failure is not None or self._stopping is not None:
            return Answer(503, b"stopping\n")
        totals = observe.totals(broker.state, broker.now_ms())
        return Answer(200, _json({"is_ready": True} | totals._asdict()), _JSON)


def _json(value: object) -> bytes:
    if isinstance(value, list):
        value = [item._asdict() for item in value]
    return msgspec.json.encode(value) + b"\n"


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings ask for, not opened yet."""
    if settings.data is None:
        from oncelog.storage.memory import MemoryStorage

        return MemoryStorage()
    from oncelog.storage.files import FileStorage

    return FileStorage(
        settings.data,
        durability="fsync" if settings.durability is Durability.FSYNC else "written",
        are_sound=are_sound,
    )


#: What a machine without IPv6 says of a name that has an IPv6 address too.
_NOT_HERE: Final = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL))


def connections_allowed(connections_max: int) -> int:
    """So many, but no more than there are descriptors for: who only connects must not keep the storage from its files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return connections_max
    return max(1, min(connections_max, max(descriptors - DESCRIPTORS_KEPT, descriptors // 2)))


def reserve(address: Address) -> list[socket.socket]:
    """Sockets bound to an address, not yet listening: a name may mean several. Raises AddressError."""
    bound: list[socket.socket] = []
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            port = bound[0].getsockname()[1] if bound else address.port
            try:
                bound.append(_bound(family, (where[0], port, *where[2:])))
            except OSError as error:
                problem = error
                if error.errno not in _NOT_HERE:
                    break
    except OSError as error:
        problem = error
    if bound and (problem is None or problem.errno in _NOT_HERE):
        return bound
    for one in bound:
        one.close()
    raise _taken(address, problem)


def _reserved(undo: contextlib.ExitStack, address: Address) -> list[socket.socket]:
    sockets = reserve(address)
    for one in sockets:
        undo.callback(one.close)
    return sockets


def _taken(address: Address, problem: OSError | None) -> AddressError:
    why = problem.strerror if problem is not None and problem.strerror else problem
    return AddressError(
        f"can't listen on {address}: {why}. "
        "Stop what uses that address, or choose another one (port 0 takes any that is free)."
    )


@contextlib.contextmanager
def _told_as(address: Address) -> Iterator[None]:
    """Another process may have begun to listen on the same address since it was reserved."""
    try:
        yield
    except OSError as error:
        raise _taken(address, error) from error


def _bound(family: int, where: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(where)
    except OSError:
        one.close()
        raise
    return one


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Recovery makes many objects and no garbage: looking for cycles meanwhile would only cost time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
