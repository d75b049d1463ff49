"""The event loop of one life of the broker process, in simulated time: what broker/lane.py and broker/server.py ask for.

A process that was stopped (SIGSTOP, a long collection, a busy machine) does all that has become due when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.events import SECOND_US, Event, Events
from tests.simulation.filesystem import Killed

from oncelog.model.errors import StorageError


class SimulatedLoop:
    """See the module. After ``is_dead`` nothing happens any more."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.is_dead = False
        self.stopped_until_us = 0
        #: Told of a failed storage that nobody caught, as broker/node.py is by the real loop.
        self.on_failure: Callable[[StorageError], None] | None = None

    def time(self) -> float:
        """Monotonic seconds."""
        return self._events.now_us / SECOND_US

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Handle:
        return self.call_after(0, callback, *arguments)

    call_soon_threadsafe = call_soon

    def call_later(self, delay_seconds: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        return self.call_after(max(0, round(delay_seconds * SECOND_US)), callback, *arguments)

    def call_after(self, delay_us: int, callback: Callable[..., object], *arguments: Any) -> Handle:
        handle = Handle(callback, arguments)
        handle.event = self._events.at(delay_us, self._run, handle)
        return handle

    def _run(self, handle: Handle) -> None:
        """Now, unless the process is stopped or dead. It may die at that."""
        if self.is_dead:
            return
        wait_us = self.stopped_until_us - self._events.now_us
        if wait_us > 0:
            handle.event = self._events.at(wait_us, self._run, handle)
            return
        try:
            handle.callback(*handle.arguments)
        except Killed:
            assert self.is_dead
        except StorageError as error:
            if self.on_failure is None:
                raise
            self.on_failure(error)


class Handle:
    """Something planned; it may be put off while the process is stopped."""

    __slots__ = ("arguments", "callback", "event")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.callback, self.arguments = callback, arguments
        self.event: Event | None = None

    def cancel(self) -> None:
        """It does not happen."""
        if self.event is not None:
            self.event.cancel()
