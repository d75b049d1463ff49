"""Simulated time: one queue of events, one source of chance, and a trace of what happened last.

Everything in the world happens in an event. Events at the same instant happen in the order in which they were planned, so that
a seed gives the same world each time. A *step* is one event that did something; cancelled timers are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

SECOND_US = 1_000_000
MS_US = 1_000


class Event(list[Any]):
    """[time in us, number, what to call or None, arguments]."""

    __slots__ = ()

    def cancel(self) -> None:
        """It does not happen."""
        self[2] = None


class Events:
    """See the module."""

    def __init__(self, seed: int, trace_lines: int = 400) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.steps = 0
        self._heap: list[Event] = []
        self._count = 0
        self._trace: deque[tuple[int, str, str, tuple[Any, ...]]] = deque(maxlen=trace_lines)

    def at(self, delay_us: int, act: Callable[..., object], *arguments: Any) -> Event:
        """Do something later."""
        self._count += 1
        event = Event((self.now_us + delay_us, self._count, act, arguments))
        heappush(self._heap, event)
        return event

    def step(self) -> bool:
        """The next event happens; False if there is none."""
        heap = self._heap
        while heap:
            time_us, _, act, arguments = heappop(heap)
            if act is not None:
                self.now_us = time_us
                self.steps += 1
                act(*arguments)
                return True
        return False

    # -- chance -------------------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        """True in that share of all cases."""
        return self.random.random() < share

    def about(self, mean_us: float) -> int:
        """A time that is mostly short and sometimes long."""
        return int(self.random.expovariate(1 / mean_us)) + 1

    # -- trace --------------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, *values: Any) -> None:
        """Remember a line: formatted only if somebody reads it."""
        self._trace.append((self.now_us, who, what, values))

    def trace(self) -> str:
        """The last lines."""
        return "\n".join(
            f"{time_us / SECOND_US:12.6f}  {who:<14} {what.format(*values)}"
            for time_us, who, what, values in self._trace
        )
