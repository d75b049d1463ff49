"""A group of the consumer protocol while a decision is made on it: epochs, the target, and a member's next step to it.

    draft = ConsumerDraft(state, group, now_ms)
    draft.put(member)               # who is in the group, and what it subscribes to
    draft.follow()                  # topics that are new or gone; the group's epoch
    draft.assign()                  # the target of that epoch
    draft.reconcile(member, owned)  # what this member has, gives up, is given
    decision = draft.decision(reply)

Nothing here touches the group that it was made from (law 1); what does not change is not copied. Invariants: no partition is
assigned to a member while another has it or may still have it; epochs only grow.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from oncelog.engine.decision import Decision, Level
from oncelog.engine.groups.assignors import ASSIGNORS, Reader
from oncelog.engine.groups.consumer import (
    NO_PARTITIONS,
    ConsumerGroup,
    ConsumerMember,
    MemberState,
    consumer_row,
    member_row,
    topics_by_member,
)
from oncelog.engine.groups.subscriptions import matches_of
from oncelog.engine.groups.values import Beat
from oncelog.engine.state import State
from oncelog.model.ids import LogId
from oncelog.model.rows import GroupMemberDeleted, Row

_replace = msgspec.structs.replace


class ConsumerDraft:
    """See the module. ``members`` and the other containers are replaced, never changed."""

    def __init__(self, state: State, group: ConsumerGroup, now_ms: int) -> None:
        self.catalog, self.now_ms = state, now_ms
        self.before = group
        self.epoch, self.assignment_epoch, self.assignor = group.epoch, group.assignment_epoch, group.assignor
        self.members, self.static, self.targets = group.members, group.static, group.targets
        self.partitions, self.matches = group.partitions, group.matches
        self.rebalance_due_ms = group.rebalance_due_ms
        self.catalog_version = group.catalog_version
        self._rows: dict[tuple[str, bool], Row] = {}
        self._beats: list[Beat] = []
        self._is_changed = False

    def decision(self, reply: Any = None) -> Decision:
        """What the steps come to. The reply waits for all that is applied: none of it may be taken back (rule D2)."""
        before = self.before
        rows = list(self._rows.values())
        is_new = (self.epoch, self.assignment_epoch) != (before.epoch, before.assignment_epoch)
        is_looked_at = self.catalog_version != before.catalog_version
        if not (rows or is_new or is_looked_at or self.rebalance_due_ms is not before.rebalance_due_ms):
            return Decision(level=Level.SYNCED, reply=reply, volatile=tuple(self._beats))
        group = self._group()
        if is_new or self._is_changed:
            rows.append(consumer_row(group))
        return Decision(tuple(rows), level=Level.SYNCED, reply=reply, volatile=(group, *self._beats))

    def _group(self) -> ConsumerGroup:
        before = self.before
        since_ms = before.state_since_ms
        if before.is_empty != (not self.members) or since_ms < 0:
            since_ms = self.now_ms
        return ConsumerGroup(
            before.id, self.epoch, self.assignment_epoch, self.assignor, self.members, self.static, self.targets,
            self.partitions, self.matches, since_ms, self.catalog_version, self.rebalance_due_ms,
        )  # fmt: skip

    # -- members ------------------------------------------------------------------------------------------------------

    def bump(self) -> None:
        """A new epoch of the group, once in a decision: its target will be made anew."""
        self.epoch = self.before.epoch + 1

    def put(self, member: ConsumerMember) -> None:
        """A member is new or has changed."""
        before = self.members.get(member.id)
        if before == member:
            return
        self.members = {**self.members, member.id: member}
        self._rows[member.id, True] = member_row(self.before.id, member)
        if before is None or before.instance_id != member.instance_id:
            self.static = {key: holder for key, holder in self.static.items() if holder != member.id}
            if member.instance_id is not None:
                self.static[member.instance_id] = member.id

    def remove(self, member_id: str) -> None:
        """The member is gone, with its part of the target."""
        self.members = {key: one for key, one in self.members.items() if key != member_id}
        self.static = {key: holder for key, holder in self.static.items() if holder != member_id}
        self.targets = {key: logs for key, logs in self.targets.items() if key != member_id}
        self.disarm(member_id)
        self._rows.pop((member_id, True), None)
        self._rows[member_id, False] = GroupMemberDeleted(self.before.id, member_id)
        self._is_changed = True

    def replace_static(self, old: ConsumerMember, member_id: str) -> ConsumerMember:
        """Another process has the instance id, and with it what the old one had (KIP-345)."""
        target = self.targets.get(old.id, NO_PARTITIONS)
        self.remove(old.id)
        if member_id in self.members:
            self.remove(member_id)
        self.targets = {**self.targets, member_id: target}
        return _replace(old, id=member_id)

    def beat(self, member_id: str) -> None:
        """The member was heard of: its session begins anew."""
        due_ms = self.now_ms + self.catalog.settings.consumer_session_timeout_ms
        self._beats.append(Beat(self.before.id, member_id, due_ms))

    def disarm(self, member_id: str) -> None:
        """The member is no longer waited for."""
        if member_id in self.rebalance_due_ms:
            self.rebalance_due_ms = {key: due for key, due in self.rebalance_due_ms.items() if key != member_id}

    # -- the target ---------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Look at the topics again if they or the members have changed; new or other partitions are a new epoch."""
        if self.catalog_version == self.catalog.catalog_version and self.epoch == self.before.epoch:
            return
        self.catalog_version = self.catalog.catalog_version
        topics = self.catalog.topics
        matches = matches_of((member.pattern for member in self.members.values()), topics)
        names = frozenset[str]().union(*set(topics_by_member(self.members, matches).values()))
        partitions = frozenset(log for name in names if name in topics for log in topics[name].logs)
        if matches != self.matches or partitions != self.partitions:
            self.matches, self.partitions = matches, partitions
            self._is_changed = True
            self.bump()

    def assign(self) -> None:
        """Make the target of the group's epoch, unless it is there."""
        if self.assignment_epoch == self.epoch:
            return
        topics = topics_by_member(self.members, self.matches)
        readers = [
            Reader(one.id, one.instance_id, topics[one.id], self.targets.get(one.id, NO_PARTITIONS))
            for one in self.members.values()
        ]
        names = frozenset[str]().union(*set(topics.values()))
        logs = {name: self.catalog.topics[name].logs for name in names if name in self.catalog.topics}
        self.assignor = self._preferred_assignor()
        self.targets = ASSIGNORS[self.assignor](readers, logs)
        self.assignment_epoch = self.epoch

    def _preferred_assignor(self) -> str:
        """The one that most members ask for; of equals, and if nobody asks, the one that comes first in the settings."""
        known = self.catalog.settings.consumer_assignors
        votes = Counter(member.assignor for member in self.members.values() if member.assignor in known)
        return max(known, key=lambda name: votes[name])

    # -- one member's step --------------------------------------------------------------------------------------------

    def reconcile(self, member: ConsumerMember, owned: frozenset[LogId] | None) -> ConsumerMember:
        """The member's next step to its target, if there is one; ``owned`` is what it says it has, None if unchanged."""
        target = self.targets.get(member.id, NO_PARTITIONS)
        # What is gone with its topic needs not be given up.
        there = frozenset(log for log in member.assigned if log in self.catalog.logs)
        if there != member.assigned:
            member = _replace(member, assigned=there)
        if not member.is_settled(self.assignment_epoch):
            member = stepped(member, owned, self.assignment_epoch, target, self._taken_from(member.id))
        before = self.before.members.get(member.id)
        if member.state is not MemberState.UNREVOKED:
            self.disarm(member.id)
        elif before is None or (before.state, before.epoch) != (member.state, member.epoch):
            self.rebalance_due_ms = {**self.rebalance_due_ms, member.id: self.now_ms + member.rebalance_timeout_ms}
        self.put(member)
        return member

    def _taken_from(self, member_id: str) -> set[LogId]:
        """The partitions that others have, or may still have."""
        taken: set[LogId] = set()
        for member in self.members.values():
            if member.id != member_id:
                taken.update(member.assigned, member.revoking)
        return taken


def stepped(
    member: ConsumerMember, owned: frozenset[LogId] | None, epoch: int, target: frozenset[LogId], taken: set[LogId]
) -> ConsumerMember:
    """A member on its way to the ``target`` of ``epoch``: it gives up first, and is given what nobody else has."""
    epoch_reached = member.epoch
    if member.state is MemberState.UNREVOKED:
        if owned is None or owned & member.revoking:
            return member
        epoch_reached += 1
    kept = member.assigned & target
    revoking = member.assigned - target
    if revoking and (owned is None or owned & revoking):
        # From here on it must say this very epoch: an older request does not know what it has.
        return _replace(
            member,
            state=MemberState.UNREVOKED,
            epoch=epoch_reached,
            epoch_previous=member.epoch,
            assigned=kept,
            revoking=revoking,
        )
    free = target - kept - taken
    return _replace(
        member,
        state=MemberState.STABLE if kept | free == target else MemberState.UNRELEASED,
        epoch=epoch,
        epoch_previous=member.epoch_previous if member.epoch == epoch else member.epoch,
        assigned=kept | free,
        revoking=NO_PARTITIONS,
    )
