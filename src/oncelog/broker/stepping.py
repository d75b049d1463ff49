"""Long requests are done in steps: between two steps everybody else has a turn of the loop.

A request may name tens of thousands of things, or ask for all that there are. Its handler is a generator then: it yields
wherever others may have their turn. The first step is done at once, so a short request is answered in the turn in which it
came. What is left waits in one queue for all connections, and each turn does one step of the oldest request: however many
there are, a turn is held for one step, and only one reply is under construction.

Nothing more is read from a connection whose newest request goes in steps, as Kafka does with every request. State may change
between two steps: each thing that a reply names is shown as it was at some instant between request and reply.
Law 8: the requests that wait are bounded; above the bound one is done in one go, however long it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from oncelog.broker.call import Call
from oncelog.broker.lane import Loop
from oncelog.model.limits import STEPPED_BYTES_MAX, STEPPED_REQUESTS_MAX


class Stepping:
    """The requests that go in steps, the oldest first."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Call, Iterator[None]]] = deque()
        self._bytes = 0
        self._is_planned = False

    def begin(self, call: Call, steps: Iterator[None]) -> None:
        """Do the first step now and the others later. ``steps`` sees to it that ``call`` is answered."""
        for _ in steps:
            break
        else:
            return
        size = call.bytes_received
        if self._waiting and (len(self._waiting) >= STEPPED_REQUESTS_MAX or self._bytes + size > STEPPED_BYTES_MAX):
            for _ in steps:
                pass
            return
        call.is_in_steps = True
        self._bytes += size
        self._waiting.append((call, steps))
        self._plan()

    def stop(self) -> None:
        """Nothing is begun or ended any more."""
        self._waiting.clear()
        self._bytes = 0

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_planned = False
        if not self._waiting:
            return
        call, steps = self._waiting[0]
        for _ in steps:
            self._plan()
            return
        # A failed storage may have emptied the queue meanwhile.
        if self._waiting and self._waiting[0][0] is call:
            self._waiting.popleft()
            self._bytes -= call.bytes_received
        call.is_in_steps = False
        call.peer.go_on()
        if self._waiting:
            self._plan()
