"""The values that classic groups are made of, and what the deadlines of all groups are moved by.

All are immutable: a decision makes a new value and hands it over in ``Decision.volatile``; containers inside a value are never
changed after it was made. The durable part of a group is the body of its ``Group`` row: what members need to go on after a
restart of the broker without a rebalance. Who waits for what, and deadlines, are not durable: sessions begin anew.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from oncelog.engine.decision import Ticket
from oncelog.model.rows import Group

#: The value of ``Group.protocol`` for groups of JoinGroup and SyncGroup, and for those of KIP-848.
CLASSIC: Final = "classic"
CONSUMER: Final = "consumer"


class ClassicState(StrEnum):
    """The states of a classic group, under the names that DescribeGroups shows.

    Empty → PreparingRebalance → CompletingRebalance → Stable; every one of them → PreparingRebalance when the members
    change; PreparingRebalance → Empty when nobody is left.
    """

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class Protocol(msgspec.Struct, frozen=True, array_like=True):
    """A way to assign that a member knows, and what it says of itself for it (an embedded subscription, as a rule)."""

    name: str
    metadata: bytes


class ClassicMember(msgspec.Struct, frozen=True, array_like=True):
    """One member of a classic group; ``protocols`` in its order of preference."""

    id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[Protocol, ...]
    assignment: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What it says of itself, and what others know of its client."""
        of_client = len(self.id) + len(self.client_id) + len(self.client_host)
        return of_client + sum(len(one.name) + len(one.metadata) for one in self.protocols)

    def metadata(self, protocol: str) -> bytes:
        """What the member says of itself for a protocol; empty if it does not know it."""
        return next((one.metadata for one in self.protocols if one.name == protocol), b"")


class ClassicGroup(msgspec.Struct, frozen=True):
    """A classic group as it lives.

    ``static`` maps instance ids to member ids.
    ``joining`` and ``syncing`` hold the tickets of members whose JoinGroup or SyncGroup waits; ``pending`` the ids that were
    given out with MEMBER_ID_REQUIRED and not used yet; ``unsynced`` the members that have not asked for their assignment in
    this generation. Deadlines are ms, -1 for none. ``topics``: what the members subscribe to, None if that can't be read.
    """

    id: str
    state: ClassicState = ClassicState.EMPTY
    generation: int = 0
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: dict[str, ClassicMember] = {}
    static: dict[str, str] = {}
    pending: frozenset[str] = frozenset()
    joining: dict[str, Ticket] = {}
    syncing: dict[str, Ticket] = {}
    unsynced: frozenset[str] = frozenset()
    is_initial: bool = False
    has_new_members: bool = False
    initial_remaining_ms: int = 0
    new_members: frozenset[str] = frozenset()
    join_due_ms: int = -1
    sync_due_ms: int = -1
    state_since_ms: int = -1
    topics: frozenset[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no members; ids that were only given out don't count."""
        return self.state is ClassicState.EMPTY

    @property
    def is_nothing(self) -> bool:
        """Whether forgetting it loses nothing: it never had a generation."""
        return self.generation == 0 and self.is_empty and not self.pending

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long the slowest member may take to join again."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    def is_parked(self, member_id: str) -> bool:
        """Whether a request of the member waits here, so that it can't send heartbeats; new members have a deadline."""
        if member_id in self.joining:
            return member_id not in self.new_members
        return member_id in self.syncing


class _ClassicBody(msgspec.Struct, frozen=True, array_like=True):
    """The durable form of a classic group. New fields come at the end, with a default."""

    generation: int
    protocol_type: str
    protocol: str
    leader: str
    is_stable: bool
    state_since_ms: int
    members: tuple[ClassicMember, ...]


class Beat(NamedTuple):
    """A member has until ``due_ms`` to be heard of again."""

    group: str
    member: str
    due_ms: int


class Wake(NamedTuple):
    """The group is to be looked at again at ``due_ms``."""

    group: str
    due_ms: int


class SessionsBegin(NamedTuple):
    """The broker has started: every member's session begins anew. Members of the consumer protocol don't say their own."""

    now_ms: int
    consumer_session_timeout_ms: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_classic: Final = msgspec.msgpack.Decoder(_ClassicBody).decode


def classic_row(group: ClassicGroup) -> Group:
    """The durable part of a classic group."""
    body = _ClassicBody(
        group.generation,
        group.protocol_type,
        group.protocol,
        group.leader,
        group.state is ClassicState.STABLE,
        group.state_since_ms,
        tuple(group.members.values()),
    )
    return Group(group.id, CLASSIC, _encode(body))


def classic_group(row: Group) -> ClassicGroup:
    """A classic group after a restart. Where members had no assignments yet, they may still ask for them."""
    body = _decode_classic(row.body)
    members = {member.id: member for member in body.members}
    if not members:
        state = ClassicState.EMPTY
    else:
        state = ClassicState.STABLE if body.is_stable else ClassicState.COMPLETING
    return ClassicGroup(
        row.id,
        state,
        body.generation,
        body.protocol_type,
        body.protocol,
        body.leader,
        members,
        {member.instance_id: member.id for member in body.members if member.instance_id is not None},
        unsynced=frozenset(members) if state is ClassicState.COMPLETING else frozenset(),
        state_since_ms=body.state_since_ms,
        topics=subscribed_topics(body.protocol_type, body.protocol, members),
    )


# -- what classic consumers say of themselves -------------------------------------------------------------------------


def subscribed_topics(protocol_type: str, protocol: str, members: dict[str, ClassicMember]) -> frozenset[str] | None:
    """The topics that consumers subscribe to, as their clients wrote it; None if it is something else."""
    if protocol_type != CONSUMER:
        return None
    try:
        return frozenset(topic for one in members.values() for topic in _topics_of(one.metadata(protocol)))
    except ValueError:
        return None


def _topics_of(metadata: bytes) -> list[str]:
    """The topics of an embedded subscription: int16 version, then an array of strings. Raises ValueError."""
    at, topics = 6, []
    count = int.from_bytes(metadata[2:6], "big", signed=True)
    for _ in range(count):
        size = int.from_bytes(metadata[at : at + 2], "big")
        at += 2 + size
        if size > 0x7FFF or at > len(metadata):
            raise ValueError("not a subscription")
        topics.append(metadata[at - size : at].decode())
    return topics
