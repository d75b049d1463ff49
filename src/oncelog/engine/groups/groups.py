"""All groups of the broker: the container that State delegates to.

A group's live value is one immutable object; its durable part is the ``Group`` row. A heartbeat replaces one number here and
nothing else. During recovery only rows are kept; ``restore`` makes live values of them, and ``SessionsBegin`` gives the
members their time, once the broker runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, cast

from msgspec.structs import replace

from oncelog.engine.alarms import Alarms
from oncelog.engine.groups.values import CLASSIC, Beat, ClassicGroup, SessionsBegin, Wake, classic_group
from oncelog.model.rows import Group, GroupDeleted, Row

AnyGroup: TypeAlias = ClassicGroup
Volatile: TypeAlias = AnyGroup | Beat | Wake | SessionsBegin


class Groups:
    """Groups by id. Changed by ``put``, ``remove``, ``restore`` and ``replace`` only, all called by State."""

    def __init__(self) -> None:
        self.by_id: dict[str, AnyGroup] = {}
        #: Until when each member must be heard of, or each id that was given out be used: by group, by member, ms.
        self.deadlines: dict[str, dict[str, int]] = {}
        self._rows: dict[str, Group] = {}

    def put(self, row: Group) -> None:
        """The durable part of a group is replaced; live, the group's new value follows by ``replace``."""
        self._rows[row.id] = row

    def remove(self, row: GroupDeleted) -> None:
        """The group is gone."""
        self._rows.pop(row.id, None)
        self.by_id.pop(row.id, None)
        self.deadlines.pop(row.id, None)

    def restore(self) -> None:
        """After recovery: the groups as their rows say."""
        self.by_id = {row.id: classic_group(row) for row in self._rows.values() if row.protocol == CLASSIC}
        self.deadlines = {}

    def replace(self, value: object, alarms: Alarms) -> None:
        """One value of ``Decision.volatile``; applied after the rows."""
        change = cast(Volatile, value)
        if isinstance(change, Beat):
            self.deadlines.setdefault(change.group, {})[change.member] = change.due_ms
            alarms.set(change.due_ms, "group", change.group)
        elif isinstance(change, Wake):
            alarms.set(change.due_ms, "group", change.group)
        elif isinstance(change, SessionsBegin):
            self._begin_sessions(change.now_ms, alarms)
        else:
            self._replace_group(change, alarms)

    def _replace_group(self, group: AnyGroup, alarms: Alarms) -> None:
        if group.is_nothing and group.id not in self._rows:
            self.by_id.pop(group.id, None)
            self.deadlines.pop(group.id, None)
            return
        self.by_id[group.id] = group
        deadlines = self.deadlines.get(group.id)
        if deadlines:
            for member_id in [key for key in deadlines if key not in group.members and key not in group.pending]:
                del deadlines[member_id]
        for due_ms in (group.join_due_ms, group.sync_due_ms):
            if due_ms >= 0:
                alarms.set(due_ms, "group", group.id)

    def _begin_sessions(self, now_ms: int, alarms: Alarms) -> None:
        for group in list(self.by_id.values()):
            if group.unsynced:
                self._replace_group(replace(group, sync_due_ms=now_ms + group.rebalance_timeout_ms), alarms)
            for member in group.members.values():
                due_ms = now_ms + member.session_timeout_ms
                self.deadlines.setdefault(group.id, {})[member.id] = due_ms
                alarms.set(due_ms, "group", group.id)

    def rows(self) -> Iterator[Row]:
        """The durable parts, for a checkpoint."""
        return iter(self._rows.values())
