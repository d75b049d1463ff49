"""The one timer's memory: what falls due when (rule D5).

At most one alarm for each (kind, key): it may fire early, never late. Who is woken looks at its row and sets the alarm
again if it is not due yet; so moving a deadline back costs nothing.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple


class Alarm(NamedTuple):
    """``kind`` names the family ("transaction", "group", ...), ``key`` the thing in it."""

    due_ms: int
    kind: str
    key: str


class Alarms:
    """A heap of alarms, bounded by the number of things that can have one."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._armed: dict[tuple[str, str], int] = {}

    def set(self, due_ms: int, kind: str, key: str) -> None:
        """Wake (kind, key) at ``due_ms`` or earlier."""
        armed = self._armed.get((kind, key))
        if armed is not None and armed <= due_ms:
            return
        self._armed[kind, key] = due_ms
        heappush(self._heap, Alarm(due_ms, kind, key))

    @property
    def next_ms(self) -> int | None:
        """When the earliest alarm is due."""
        return self._heap[0].due_ms if self._heap else None

    def take_due(self, now_ms: int) -> list[Alarm]:
        """Remove and return what is due."""
        due: list[Alarm] = []
        while self._heap and self._heap[0].due_ms <= now_ms:
            alarm = heappop(self._heap)
            if self._armed.get((alarm.kind, alarm.key)) == alarm.due_ms:
                del self._armed[alarm.kind, alarm.key]
                due.append(alarm)
        return due
