"""The broker's clock: milliseconds since the epoch that never go back and never jump.

Deadlines hang on it (rules T7, D5, P8): if the machine's time is set back by an hour, a dead producer's transaction must not
hold its readers for an hour longer; if it is set forward, living producers must not all time out. So what passes is counted by
the monotonic clock, and the difference to the machine's time is made up slowly: an hour takes ten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

_NS_PER_MS: Final = 1_000_000
#: A second of ours is between 0.9 and 1.1 seconds long while a difference is made up.
_SLEW_DIVISOR: Final = 10


class AnyClock(Protocol):
    """What the broker needs of a clock; tests and the simulator have their own."""

    def __call__(self) -> int:
        """Now, in ms since the epoch; never less than before."""

    def begin_at(self, now_ms: int) -> None:
        """It is ``now_ms`` at least."""

    def wall_ms(self) -> int:
        """The machine's own time, which may jump: what clients and their records go by."""


class Clock:
    """See the module. ``wall_ns`` and ``monotonic_ns`` are the machine's clocks."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._now_ns, self._seen_ns = wall_ns(), monotonic_ns()

    def __call__(self) -> int:
        """Now, in ms."""
        seen_ns = self._monotonic_ns()
        passed_ns = seen_ns - self._seen_ns
        behind_ns = self._wall_ns() - self._now_ns - passed_ns
        slack_ns = passed_ns // _SLEW_DIVISOR
        self._seen_ns = seen_ns
        self._now_ns += passed_ns + max(-slack_ns, min(slack_ns, behind_ns))
        return self._now_ns // _NS_PER_MS

    def begin_at(self, now_ms: int) -> None:
        """It is ``now_ms`` at least: what was decided before a restart was not decided in the future."""
        self._now_ns = max(self._now_ns, now_ms * _NS_PER_MS)

    def wall_ms(self) -> int:
        """See AnyClock. After a night's sleep of the machine this clock is hours behind it, for days."""
        return self._wall_ns() // _NS_PER_MS
