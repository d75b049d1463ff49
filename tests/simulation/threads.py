"""Threads of the production storage, stepped by the seed: each is a greenlet that goes on when the world says so.

A thread gives up its turn where a real one may lose it for long: when it waits for a queue, rests, or waits for the disk.
It goes on in an event of the world, as long as its process lives and is not stopped. ``installed`` puts this and the
simulated file system in the place of the real ones, in all modules of oncelog.storage.
"""

from __future__ import annotations

import fcntl
import importlib
import mmap
import os
import pkgutil
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet
from tests.simulation.events import SECOND_US, Events
from tests.simulation.filesystem import FileTree, Killed, Process, SimulatedPath
from tests.simulation.loop import Handle, SimulatedLoop

import oncelog.storage

#: Mean time until a thread that was woken goes on, and that it rests.
_WAKE_US, _REST_US = 30, 300


class Life:
    """The threads and the calls of one life of the process. ``sync_us``: how long the next sync takes."""

    #: Whose turn it is.
    current: Life

    def __init__(
        self, tree: FileTree, loop: SimulatedLoop, sync_us: Callable[[], int], on_death: Callable[[bool], None]
    ) -> None:
        self.events: Events = tree.events
        self.loop, self._sync_us = loop, sync_us
        self.process = Process(tree, self._wait_for_disk, on_death)
        self.threads: list[Thread] = []

    def enter(self) -> None:
        """It is this life that does something."""
        Life.current = self
        SimulatedPath.process = self.process

    def die(self) -> None:
        """kill -9. Not to be called by one of its threads."""
        self.process.die()
        self.loop.is_dead = True
        self.process.tree.forget_syncs()
        for thread in self.threads:
            thread.kill()

    def _wait_for_disk(self) -> None:
        """Threads wait while the world goes on; the loop's own thread holds everything up."""
        if (thread := self.thread_of_now()) is not None:
            thread.rest(self._sync_us())

    def thread_of_now(self) -> Thread | None:
        """Which thread calls, None for the loop's own."""
        now = getcurrent()
        return next((thread for thread in self.threads if thread.greenlet is now), None)


class Thread:
    """threading.Thread."""

    def __init__(self, *, target: Callable[..., object], name: str, daemon: bool, args: tuple[Any, ...] = ()) -> None:
        self.name, self.life = name, Life.current
        self.greenlet = greenlet(partial(target, *args))
        self._next: Handle | None = None

    def start(self) -> None:
        self.life.threads = [thread for thread in self.life.threads if not thread.greenlet.dead] + [self]
        self.wake()

    def wake(self) -> None:
        """It goes on soon."""
        if self._next is None:
            self._next = self.life.loop.call_after(self.life.events.about(_WAKE_US), self._go_on)

    def rest(self, time_us: int) -> None:
        """Called by itself: the others have their turn."""
        self._next = self.life.loop.call_after(time_us, self._go_on)
        self.wait()

    def wait(self) -> None:
        """Called by itself: until somebody wakes it."""
        parent = self.greenlet.parent
        assert parent is not None
        parent.switch()

    def _go_on(self) -> None:
        self._next = None
        if not self.greenlet.dead:
            self.greenlet.parent = getcurrent()
            self.greenlet.switch()

    def join(self) -> None:
        """The world stands still meanwhile."""
        while not self.greenlet.dead:
            assert self._next is not None, f"{self.name} never ends"
            self._next.cancel()
            self._go_on()

    def kill(self) -> None:
        """It dies where it is."""
        if not self.greenlet.dead and self.greenlet is not getcurrent():
            self.greenlet.parent = getcurrent()
            self.greenlet.throw(Killed)


class SimpleQueue:
    """queue.SimpleQueue."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: Thread | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.wake()

    def get(self) -> Any:
        while not self._items:
            self._waiting = Life.current.thread_of_now()
            assert self._waiting is not None, "the loop waits for a queue"
            self._waiting.wait()
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class Mapped(bytes):
    """mmap.mmap of a file: as it is now, for what is mapped is not written any more. A file in memory is given itself."""

    def __new__(cls, descriptor: int, size: int, access: int = 0) -> Any:
        if size:
            return Life.current.process.file(descriptor).content
        return super().__new__(cls, Life.current.process.file(descriptor).content)

    def madvise(self, advice: int) -> None: ...

    def close(self) -> None: ...


class _Real:
    """A module with some of its names replaced; functions that are not replaced are refused."""

    def __init__(self, real: Any, replaced: Mapping[str, Any]) -> None:
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if callable(found):
            raise AssertionError(f"{self._real.__name__}.{name} is not simulated")
        return found


class _System:
    """The module os, of the process whose turn it is."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return getattr(Life.current.process, name) if callable(found) else found


def _flock(descriptor: int, operation: int) -> None:
    assert operation == fcntl.LOCK_EX | fcntl.LOCK_NB
    Life.current.process.flock(descriptor)


def _rest(seconds: float) -> None:
    if (thread := Life.current.thread_of_now()) is not None:
        thread.rest(Life.current.events.about(_REST_US))


def _now() -> float:
    return Life.current.events.now_us / SECOND_US


#: What stands in the place of what in the modules of oncelog.storage, by the name that they have imported it under.
_REPLACED: dict[str, tuple[Any, Any]] = {
    "os": (os, _System()),
    "fcntl": (fcntl, _Real(fcntl, {"flock": _flock, "fcntl": lambda *_: 0})),
    "mmap": (mmap, _Real(mmap, {"mmap": Mapped})),
    "secrets": (secrets, SimpleNamespace(randbits=lambda bits: Life.current.events.random.getrandbits(bits))),
    "threading": (threading, SimpleNamespace(Thread=Thread)),
    "queue": (queue, SimpleNamespace(SimpleQueue=SimpleQueue)),
    "time": (time, SimpleNamespace(monotonic=_now, perf_counter=_now, sleep=_rest)),
    "Path": (Path, SimulatedPath),
}


@contextmanager
def installed(numbers: Mapping[str, Any]) -> Iterator[None]:
    """The storage runs on what is simulated. ``numbers``: other values for constants, by module and name."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.iter_modules(oncelog.storage.__path__, "oncelog.storage.")
    ]
    before: list[tuple[Any, str, Any]] = []

    def put(module: Any, name: str, value: Any) -> None:
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    try:
        for module in modules:
            for name, (real, simulated) in _REPLACED.items():
                if getattr(module, name, None) is real:
                    put(module, name, simulated)
        put(
            importlib.import_module("oncelog.storage.folder"),
            "_boot_id",
            lambda: Life.current.process.tree.boot_id,
        )
        for name, value in numbers.items():
            module, _, constant = name.rpartition(".")
            put(importlib.import_module(f"oncelog.storage.{module}"), constant, value)
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)
