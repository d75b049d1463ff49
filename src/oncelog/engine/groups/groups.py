"""All groups of the broker: the container that State delegates to.

A group's live value (members, waiting requests, timers) is one immutable object; its durable part is the ``Group`` row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oncelog.engine.alarms import Alarms
from oncelog.model.rows import Group, GroupDeleted, Row


class Groups:
    """Groups by id. Changed by ``put``, ``remove`` and ``replace`` only, all called by State.apply."""

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}

    def put(self, row: Group, alarms: Alarms, now_ms: int) -> None:
        """Restore a group from its row; its members' sessions begin anew."""

    def remove(self, row: GroupDeleted) -> None:
        """The group is gone."""
        self.by_id.pop(row.id, None)

    def replace(self, value: Any, alarms: Alarms) -> None:
        """The live value of a group, from ``Decision.volatile``; applied after the rows."""

    def rows(self) -> Iterator[Row]:
        """The durable parts, for a checkpoint."""
        return iter(())
