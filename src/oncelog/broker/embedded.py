"""A whole broker inside a Python process, for tests and small programs: ``oncelog.Broker``.

It runs in a thread and an event loop of its own, listens on a free port of the loopback address and keeps everything in
memory, unless told otherwise. Any number of them may run at once. What goes wrong at the start is raised in the caller; if
the storage fails later the broker ends (law 7), and ``close`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import uvloop

from oncelog.broker.broker import Broker as Core
from oncelog.broker.log_lines import LogLines
from oncelog.broker.node import Node
from oncelog.broker.settings import Address, Settings, settings_of
from oncelog.model.errors import StorageError

Value = str | int | float | bool
T = TypeVar("T")


class Broker:
    """A broker, from ``start`` (or ``with``) to ``close``.

    ``data``: a folder; without one everything is in memory. ``durability``: fsync, written or memory; fsync with a folder.
    ``listen``, ``advertise``, ``metrics``: HOST:PORT as for ``oncelog serve``. ``settings``: Kafka's names and values;
    names without dots may be given as arguments too, with _ for a dot: ``Broker(num_partitions=3)``.

    Raises SettingError at once; ``start`` raises AddressError and StorageError.
    """

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        durability: str | None = None,
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        metrics: str | None = None,
        settings: Mapping[str, Value] | None = None,
        log_level: str = "warning",
        **named: Value,
    ) -> None:
        given = {**(settings or {}), **{name.replace("_", "."): value for name, value in named.items()}}
        self.settings: Settings = settings_of(
            listen=listen,
            advertise=advertise,
            data=data,
            durability=durability or ("memory" if data is None else "fsync"),
            metrics=metrics,
            configs_set={name: _text(value) for name, value in given.items()},
        )
        self._log_level = log_level
        self._node = self.new_node(self.settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_closed = False
        self._stopping: asyncio.Task[None] | None = None
        self._closing = threading.Lock()

    def new_node(self, settings: Settings) -> Node:
        """The node that it is to be."""
        return Node(settings, LogLines(self._log_level))

    # -- where it is --------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """Where it listens."""
        return self.settings.listen.host

    @property
    def port(self) -> int:
        """Where it listens; 0 before the start."""
        return self._node.port

    @property
    def bootstrap(self) -> str:
        """HOST:PORT for a client's ``bootstrap.servers``."""
        assert self.port, "start the broker first"
        return str(Address(self.host, self.port))

    @property
    def metrics(self) -> str | None:
        """HOST:PORT of /metrics and /healthz, if asked for."""
        address = self.settings.metrics
        return None if address is None else str(address._replace(port=self._node.metrics_port))

    @property
    def is_running(self) -> bool:
        """Whether it serves now."""
        return self._thread is not None and not self._is_closed and self._failure is None

    def ask(self, question: Callable[[Core], T]) -> T:
        """Ask something of what runs inside, on the broker's own loop; for tools. The answer must be a copy."""

        async def answer() -> T:
            assert self._node.broker is not None
            return question(self._node.broker)

        assert self._loop is not None, "start the broker first"
        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    # -- from start to close ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to serve; returns when clients may connect. Once."""
        assert self._loop is None, "a broker starts once; make a new one"
        self._node.on_failure = self._failed
        loop = self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="oncelog broker", daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._node.start(), loop)
        try:
            starting.result()
        finally:
            if starting.exception() is not None:
                self._is_closed = True
                self._end_thread(loop)
        return self

    def close(self) -> None:
        """Stop in good order. Again: nothing. Raises what ended the broker from within, if anything did."""
        with self._closing:
            if self._loop is None or self._is_closed:
                return
            self._is_closed = True
            try:
                asyncio.run_coroutine_threadsafe(self._node.stop(), self._loop).result()
            finally:
                self._end_thread(self._loop)
        if self._failure is not None:
            raise self._failure

    def _end_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._thread is not None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def _failed(self, error: BaseException) -> None:
        """On the loop: no client is served after this; ``close`` tells."""
        self._failure = error
        assert self._loop is not None
        self._stopping = self._loop.create_task(self._node.stop())
        self._stopping.add_done_callback(_looked_at)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(StorageError):  # the caller's own error is the one to see
            self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)


def _looked_at(stopping: asyncio.Task[None]) -> None:
    """What ended the broker is known already; what went wrong while it let go comes after it."""
    if not stopping.cancelled():
        stopping.exception()


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
