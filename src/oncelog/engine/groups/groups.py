"""All groups of the broker: the container that State delegates to.

A group's live value is one immutable object; its durable part is the ``Group`` row, and in groups of the consumer protocol a
``GroupMember`` row for each member. A heartbeat that changes nothing replaces one number here. During recovery only rows are
kept; ``restore`` makes live values of them, and ``SessionsBegin`` gives the members their time, once the broker runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, cast

from msgspec.structs import replace

from oncelog.engine.alarms import Alarms
from oncelog.engine.groups.consumer import ConsumerGroup, MemberState, consumer_group
from oncelog.engine.groups.values import CLASSIC, Beat, ClassicGroup, SessionsBegin, Wake, classic_group
from oncelog.model.rows import Group, GroupDeleted, GroupMember, GroupMemberDeleted, Row

AnyGroup: TypeAlias = ClassicGroup | ConsumerGroup
Volatile: TypeAlias = AnyGroup | Beat | Wake | SessionsBegin


class Groups:
    """Groups by id. Changed by rows (``put``, ``put_member``, ``remove_member``, ``remove``), ``restore`` and ``replace`` only,
    all called by State.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, AnyGroup] = {}
        #: Until when each member must be heard of, or each id that was given out be used: by group, by member, ms.
        self.deadlines: dict[str, dict[str, int]] = {}
        self._rows: dict[str, Group] = {}
        self._member_rows: dict[str, dict[str, GroupMember]] = {}

    def put(self, row: Group) -> None:
        """The durable part of a group is replaced; live, the group's new value follows by ``replace``."""
        self._rows[row.id] = row

    def put_member(self, row: GroupMember) -> None:
        """The durable part of a member is replaced, in the order in which members have joined."""
        self._member_rows.setdefault(row.group, {})[row.id] = row

    def remove_member(self, row: GroupMemberDeleted) -> None:
        """The member is gone."""
        members = self._member_rows.get(row.group)
        if members is not None:
            members.pop(row.id, None)
            if not members:
                del self._member_rows[row.group]

    def remove(self, row: GroupDeleted) -> None:
        """The group is gone."""
        self._rows.pop(row.id, None)
        self._member_rows.pop(row.id, None)
        self.by_id.pop(row.id, None)
        self.deadlines.pop(row.id, None)

    def restore(self) -> None:
        """After recovery: the groups as their rows say."""
        self.by_id = {
            row.id: classic_group(row)
            if row.protocol == CLASSIC
            else consumer_group(row, self._member_rows.get(row.id, {}))
            for row in self._rows.values()
        }
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
            self._begin_sessions(change, alarms)
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
            pending = group.pending if isinstance(group, ClassicGroup) else ()
            for member_id in [key for key in deadlines if key not in group.members and key not in pending]:
                del deadlines[member_id]
        waits = group.rebalance_due_ms.values() if isinstance(group, ConsumerGroup) else _waits_of(group)
        for due_ms in waits:
            alarms.set(due_ms, "group", group.id)

    def _begin_sessions(self, begin: SessionsBegin, alarms: Alarms) -> None:
        for group in list(self.by_id.values()):
            if isinstance(group, ConsumerGroup):
                due_ms = dict.fromkeys(group.members, begin.now_ms + begin.consumer_session_timeout_ms)
                waits = {
                    member.id: begin.now_ms + member.rebalance_timeout_ms
                    for member in group.members.values()
                    if member.state is MemberState.UNREVOKED
                }
                self._replace_group(replace(group, rebalance_due_ms=waits), alarms)
            else:
                due_ms = {one.id: begin.now_ms + one.session_timeout_ms for one in group.members.values()}
                if group.unsynced:
                    sync_due_ms = begin.now_ms + group.rebalance_timeout_ms
                    self._replace_group(replace(group, sync_due_ms=sync_due_ms), alarms)
            if due_ms:
                self.deadlines[group.id] = due_ms
                alarms.set(min(due_ms.values()), "group", group.id)

    def rows(self) -> Iterator[Row]:
        """The durable parts, for a checkpoint."""
        yield from self._rows.values()
        for members in self._member_rows.values():
            yield from members.values()


def _waits_of(group: ClassicGroup) -> tuple[int, ...]:
    """The ends of waiting for JoinGroups and SyncGroups."""
    return tuple(due_ms for due_ms in (group.join_due_ms, group.sync_due_ms) if due_ms >= 0)
