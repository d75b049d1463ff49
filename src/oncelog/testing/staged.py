"""A broker on a test's stage: its clock can be moved, requests be met on their way; it can be killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from oncelog.broker.call import Call
from oncelog.broker.clock import Clock
from oncelog.broker.embedded import Broker
from oncelog.broker.node import Node, Stage
from oncelog.broker.settings import AddressError, Settings
from oncelog.storage.memory import MemoryDisk, MemoryStorage

Route = Callable[[Call], None]

_MS: Final = 1_000
#: How often the port is asked for again after a kill; the system lets go of it in its own time.
_LISTEN_TRIES: Final = 200
_LISTEN_PAUSE_SECONDS: Final = 0.01


class MovableClock:
    """Milliseconds since the epoch, and as much later as was asked for."""

    def __init__(self) -> None:
        self._real, self._ahead_ms = Clock(), 0

    def __call__(self) -> int:
        return self._real() + self._ahead_ms

    def begin_at(self, now_ms: int) -> None:
        """After a restart on the same stage it is later anyhow."""
        assert now_ms <= self()

    def wall_ms(self) -> int:
        return self()

    def advance(self, milliseconds: int) -> None:
        """It is so much later now. Raises ValueError for less than nothing."""
        if milliseconds < 0:
            raise ValueError("time does not go back")
        self._ahead_ms += milliseconds


class StagedBroker(Broker):
    """oncelog.Broker in memory, with what tests need. ``through`` is put on the way of every request."""

    def __init__(self, through: Callable[[Route], Route], **settings: Any) -> None:
        self._clock, self._disk, self._through = MovableClock(), MemoryDisk(), through
        super().__init__(**settings)
        if self.settings.data is not None:
            raise ValueError("a test's broker keeps everything in memory; for one in a folder use oncelog.Broker")

    def new_node(self, settings: Settings) -> Node:
        """A node over the same disk."""
        node = super().new_node(settings)
        return Node(settings, node.log, Stage(self._clock, lambda: MemoryStorage(self._disk), self._through))

    def post(self, what: Callable[[], None]) -> None:
        """Run something on the broker's loop, soon."""
        assert self._loop is not None, "start the broker first"
        self._loop.call_soon_threadsafe(what)

    def advance(self, seconds: float) -> None:
        """It is later now; what has fallen due has happened when this returns."""
        assert self._loop is not None, "start the broker first"
        asyncio.run_coroutine_threadsafe(self._advance(round(seconds * _MS)), self._loop).result()

    async def _advance(self, milliseconds: int) -> None:
        self._clock.advance(milliseconds)
        core = self._node.broker
        assert core is not None
        core.upkeep.ring()
        core.lane.arm()
        await asyncio.sleep(0)

    def restart(self) -> None:
        """Kill it and start it again on the same port, with all that it had acknowledged."""
        assert self._loop is not None, "start the broker first"
        asyncio.run_coroutine_threadsafe(self._restart(), self._loop).result()

    def restart_soon(self) -> None:
        """The same, from the broker's own loop."""
        assert self._loop is not None
        self._restarting = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        await self._node.kill()
        settings = self.settings._replace(listen=self.settings.listen._replace(port=self._node.port))
        for tries_left in reversed(range(_LISTEN_TRIES)):
            node = self.new_node(settings)
            node.on_failure = self._failed
            try:
                await node.start()
            except AddressError:
                if not tries_left:
                    raise
                await asyncio.sleep(_LISTEN_PAUSE_SECONDS)
            else:
                self._node = node
                return
