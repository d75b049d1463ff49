"""The values of groups of the consumer protocol (KIP-848): members, groups, their durable forms.

All are immutable, as those of classic groups. A partition is named by the number of its log, which is never given twice: the
partitions of a topic that was deleted and made again are others. A member's row changes when the member does, the group's row
when an epoch or the target assignment does; so a step of one member never writes what all others have.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from oncelog.engine.groups.values import CONSUMER
from oncelog.model.ids import LogId
from oncelog.model.rows import Group, GroupMember

#: The epoch by which a member joins, and those by which it leaves; the last one only for now, if it is a static member.
JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2
NO_PARTITIONS: Final[frozenset[LogId]] = frozenset()


class MemberState(IntEnum):
    """Where a member is on its way to its target: it gives up first, then it is given.

    STABLE → (target changed) UNREVOKED → (it has given up) UNRELEASED → (others have given up) STABLE.
    """

    STABLE = 0
    UNREVOKED = 1
    UNRELEASED = 2


class ConsumerMember(msgspec.Struct, frozen=True, array_like=True):
    """A member. ``assigned`` is what it was told to have, ``revoking`` what it was told to give up and may still have.

    ``epoch_previous`` is accepted too, from a member that has not seen the answer with its new epoch. New fields come at
    the end, with a default.
    """

    id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topics: tuple[str, ...] = ()
    pattern: str = ""
    assignor: str | None = None
    epoch: int = JOIN_EPOCH
    epoch_previous: int = JOIN_EPOCH
    state: MemberState = MemberState.STABLE
    assigned: frozenset[LogId] = NO_PARTITIONS
    revoking: frozenset[LogId] = NO_PARTITIONS

    def is_settled(self, epoch: int) -> bool:
        """Whether it has what the target of that epoch gives it."""
        return self.state is MemberState.STABLE and self.epoch == epoch


class ConsumerGroup(msgspec.Struct, frozen=True):
    """A group of the consumer protocol as it lives.

    ``epoch`` grows when members, subscriptions or topics change, ``assignment_epoch`` follows when the target is made.
    ``partitions`` are all that the members subscribe to, ``matches`` the topics of each regular expression. Not durable:
    ``catalog_version`` says which catalog these two were made from, ``rebalance_due_ms`` until when members must have given
    up what they were told to.
    """

    id: str
    epoch: int = 0
    assignment_epoch: int = 0
    assignor: str = ""
    members: dict[str, ConsumerMember] = {}
    static: dict[str, str] = {}
    targets: dict[str, frozenset[LogId]] = {}
    partitions: frozenset[LogId] = NO_PARTITIONS
    matches: dict[str, frozenset[str]] = {}
    state_since_ms: int = -1
    catalog_version: int = -1
    rebalance_due_ms: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it has no members."""
        return not self.members

    @property
    def is_nothing(self) -> bool:
        """Whether forgetting it loses nothing: it never had an epoch."""
        return self.epoch == 0 and not self.members

    @property
    def topics(self) -> frozenset[str]:
        """What its members read; made anew at each call."""
        return frozenset().union(*set(topics_by_member(self.members, self.matches).values()))

    @property
    def state(self) -> str:
        """The state's name, as operators see it."""
        if not self.members:
            return "Empty"
        if self.epoch > self.assignment_epoch:
            return "Assigning"
        if all(member.is_settled(self.assignment_epoch) for member in self.members.values()):
            return "Stable"
        return "Reconciling"


def topics_by_member(
    members: dict[str, ConsumerMember], matches: dict[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """The topics that each member subscribes to, by name and by its pattern; one set for all that say the same."""
    made: dict[tuple[tuple[str, ...], str], frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for member in members.values():
        said = (member.topics, member.pattern)
        topics = made.get(said)
        if topics is None:
            topics = made[said] = frozenset(member.topics) | matches.get(member.pattern, frozenset())
        found[member.id] = topics
    return found


class _ConsumerBody(msgspec.Struct, frozen=True, array_like=True):
    """The durable form of a group of the consumer protocol. New fields come at the end, with a default."""

    epoch: int
    assignment_epoch: int
    assignor: str
    targets: dict[str, frozenset[LogId]]
    partitions: frozenset[LogId]
    matches: dict[str, frozenset[str]]
    state_since_ms: int


_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_group: Final = msgspec.msgpack.Decoder(_ConsumerBody).decode
_decode_member: Final = msgspec.msgpack.Decoder(ConsumerMember).decode


def consumer_row(group: ConsumerGroup) -> Group:
    """The durable part of the group itself."""
    body = _ConsumerBody(
        group.epoch,
        group.assignment_epoch,
        group.assignor,
        group.targets,
        group.partitions,
        group.matches,
        group.state_since_ms,
    )
    return Group(group.id, CONSUMER, _encode(body))


def member_row(group_id: str, member: ConsumerMember) -> GroupMember:
    """The durable part of a member: all of it."""
    return GroupMember(group_id, member.id, _encode(member))


def consumer_group(row: Group, member_rows: dict[str, GroupMember]) -> ConsumerGroup:
    """A group after a restart; its members in the order in which they joined."""
    body = _decode_group(row.body)
    members = {member_id: _decode_member(one.body) for member_id, one in member_rows.items()}
    return ConsumerGroup(
        row.id,
        body.epoch,
        body.assignment_epoch,
        body.assignor,
        members,
        {member.instance_id: member.id for member in members.values() if member.instance_id is not None},
        body.targets,
        body.partitions,
        body.matches,
        body.state_since_ms,
    )
