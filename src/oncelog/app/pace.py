"""How soon a batch may end before its time, so that a result need not wait where a commit costs little.

``commit_interval`` is the longest that records wait for others to share a commit with them. Where few have come and no more are
at hand (which the intake knows) it is waited for nothing, if commits are cheap: a batch may then end when ten times what a
commit takes has passed since the last one. So commits take at most about a tenth of the time of a worker that has little to
do, and slow themselves down where they become dear: on a slow cluster, or on one that many workers keep busy, the interval
alone counts. It does so too after whatever is not a plain commit, and until there was one: what is tried again is not tried
more often than before.

Knows neither brokers nor clocks: time is passed in, in seconds.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

#: A batch may end early when so many times a commit's duration has passed since the last one.
PAUSE_TIMES: Final = 10
#: Their median is what a commit takes: a single slow one does not count, a cluster that has become slow does after three.
_COMMITS: Final = 5


class Pace:
    """Of one worker: tell it of every commit and of all that fails."""

    def __init__(self, *, is_early: bool) -> None:
        self._is_early = is_early
        self._durations: deque[float] = deque(maxlen=_COMMITS)
        #: From this moment on a batch may end as soon as no more records are at hand.
        self.early_at = math.inf

    def committed(self, began_at: float, now: float) -> None:
        """A commit has taken from then until now."""
        self._durations.append(now - began_at)
        if self._is_early:
            self.early_at = now + PAUSE_TIMES * statistics.median(self._durations)

    def undone(self) -> None:
        """One has failed, or its outcome had to be looked up."""
        self.early_at = math.inf
