"""A classic group while a decision is made on it: a working copy, and the steps of a rebalance.

    draft = ClassicDraft(group, settings, now_ms)
    draft.add_member(member, ticket)
    draft.rebalance_or_complete()
    decision = draft.decision(reply)

Nothing here touches the group that it was made from (law 1). The steps and their order are those of Kafka's classic groups
(KIP-134, KIP-345, KIP-394, KIP-814). Differs: the generation is durable when the members are told of it, so that no
generation is ever given twice, also if the broker dies before the leader has sent the assignments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from oncelog.engine.configs import BrokerSettings
from oncelog.engine.decision import Decision, Level, Ticket
from oncelog.engine.groups.values import (
    Beat,
    ClassicGroup,
    ClassicMember,
    ClassicState,
    Protocol,
    classic_row,
    subscribed_topics,
)
from oncelog.model.errors import ErrorCode
from oncelog.model.rows import Row

#: How long a new member may wait for its first generation; Kafka's group.new.member.join.timeout.
NEW_MEMBER_TIMEOUT_MS: Final = 300_000

_replace = msgspec.structs.replace


class ClassicDraft:
    """See the module. The fields are those of ClassicGroup, in mutable form."""

    def __init__(self, group: ClassicGroup, settings: BrokerSettings, now_ms: int) -> None:
        self.group, self.settings, self.now_ms = group, settings, now_ms
        self.state, self.generation = group.state, group.generation
        self.protocol_type, self.protocol, self.leader = group.protocol_type, group.protocol, group.leader
        self.members, self.static = dict(group.members), dict(group.static)
        self.joining, self.syncing = dict(group.joining), dict(group.syncing)
        self.pending, self.unsynced = set(group.pending), set(group.unsynced)
        self.new_members = set(group.new_members)
        self.is_initial, self.has_new_members = group.is_initial, group.has_new_members
        self.initial_remaining_ms = group.initial_remaining_ms
        self.join_due_ms, self.sync_due_ms = group.join_due_ms, group.sync_due_ms
        self.state_since_ms, self.topics = group.state_since_ms, group.topics
        self.is_durable = False
        self._answers: list[tuple[Ticket, Any]] = []
        self._beats: dict[str, int] = {}

    def decision(self, reply: Any = None, extra_rows: Iterable[Row] = ()) -> Decision:
        """What the steps come to."""
        if not self.unsynced:
            self.sync_due_ms = -1
        group = ClassicGroup(
            self.group.id, self.state, self.generation, self.protocol_type, self.protocol, self.leader, self.members,
            self.static, frozenset(self.pending), self.joining, self.syncing, frozenset(self.unsynced), self.is_initial,
            self.has_new_members, self.initial_remaining_ms, frozenset(self.new_members), self.join_due_ms,
            self.sync_due_ms, self.state_since_ms, self.topics,
        )  # fmt: skip
        rows: tuple[Row, ...] = (classic_row(group),) if self.is_durable else ()
        beats = (Beat(group.id, member, due_ms) for member, due_ms in self._beats.items())
        return Decision(
            (*extra_rows, *rows),
            level=Level.SYNCED,
            reply=reply,
            volatile=(group, *beats),
            answers=tuple(self._answers),
        )

    # -- asking -------------------------------------------------------------------------------------------------------

    def supports(self, protocol_type: str, protocols: tuple[Protocol, ...]) -> bool:
        """Whether a member with these protocols can be in the group: every member must share one of them."""
        if not self.members:
            return bool(protocol_type and protocols)
        if protocol_type != self.protocol_type:
            return False
        common = self._common_protocols()
        return any(one.name in common for one in protocols)

    def _common_protocols(self) -> set[str]:
        members = iter(self.members.values())
        first = next(members, None)
        common = {one.name for one in first.protocols} if first is not None else set()
        for member in members:
            common.intersection_update(one.name for one in member.protocols)
        return common

    @property
    def has_all_joined(self) -> bool:
        """Whether nobody is waited for."""
        return len(self.joining) == len(self.members) and not self.pending

    @property
    def _rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    # -- members ------------------------------------------------------------------------------------------------------

    def add_pending(self, member_id: str, session_timeout_ms: int) -> None:
        """The id was given out; who got it has this long to join with it (KIP-394)."""
        self.pending.add(member_id)
        self._beats[member_id] = self.now_ms + session_timeout_ms

    def add_member(self, member: ClassicMember, protocol_type: str, ticket: Ticket) -> None:
        """A new member, whose JoinGroup waits."""
        if not self.members:
            self.protocol_type = protocol_type
        if self.state is ClassicState.PREPARING and self.is_initial:
            self.has_new_members = True
        self.members[member.id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member.id
        self.leader = self.leader or member.id
        self.pending.discard(member.id)
        self.new_members.add(member.id)
        self.joining[member.id] = ticket
        self._beats[member.id] = self.now_ms + NEW_MEMBER_TIMEOUT_MS

    def update_member(self, member: ClassicMember, ticket: Ticket) -> None:
        """A member joins again, whose JoinGroup waits."""
        self.answer_join(member.id, ErrorCode.REBALANCE_IN_PROGRESS)
        self.members[member.id] = member
        self.joining[member.id] = ticket

    def replace_static(self, old: ClassicMember, new: ClassicMember) -> None:
        """Another process has the instance id now; the old one is fenced (KIP-345)."""
        assert new.instance_id is not None
        self.answer_join(old.id, ErrorCode.FENCED_INSTANCE_ID, shown=old.id)
        self.answer_sync(old.id, ErrorCode.FENCED_INSTANCE_ID)
        # In its place: the order of members decides who leads next.
        self.members = {new.id if key == old.id else key: one for key, one in self.members.items()}
        self.members[new.id] = new
        self.static[new.instance_id] = new.id
        if old.id in self.unsynced:
            self.unsynced.add(new.id)
        # The new one is none of the new members, which have a deadline while they wait: its instance has its session.
        for waiting in (self.new_members, self.unsynced):
            waiting.discard(old.id)
        if self.leader == old.id:
            self.leader = new.id
        self.beat(new)

    def remove(self, member_id: str) -> None:
        """The member, or the id that was given out, is gone; a request of it that waits is answered."""
        self.answer_join(member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        self.answer_sync(member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        member = self.members.pop(member_id, None)
        if member is not None and member.instance_id is not None:
            self.static.pop(member.instance_id, None)
        for waiting in (self.pending, self.unsynced, self.new_members):
            waiting.discard(member_id)
        self._beats.pop(member_id, None)
        if self.leader == member_id:
            self.leader = next(iter(self.members), "")

    def keep_members(self) -> None:
        """The members of this generation have changed, and are told so: what they are, and read, must survive."""
        self.is_durable = True
        self.topics = subscribed_topics(self.protocol_type, self.protocol, self.members)

    def beat(self, member: ClassicMember) -> None:
        """The member was heard of: its session begins anew."""
        self._beats[member.id] = self.now_ms + member.session_timeout_ms

    # -- the steps of a rebalance -------------------------------------------------------------------------------------

    def rebalance_or_complete(self) -> None:
        """The members have changed: begin a rebalance, or see whether the one under way is over."""
        if self.state is ClassicState.PREPARING:
            self.complete_if_all_joined()
        else:
            self.prepare_rebalance()

    def prepare_rebalance(self) -> None:
        """Ask everybody to join again."""
        if self.state is ClassicState.COMPLETING:
            self.members = {key: _replace(member, assignment=b"") for key, member in self.members.items()}
            for member_id in list(self.syncing):
                self.beat(self.members[member_id])
                self.answer_sync(member_id, ErrorCode.REBALANCE_IN_PROGRESS)
        self.unsynced.clear()
        self.sync_due_ms = -1
        self.is_initial = self.state is ClassicState.EMPTY
        self._go(ClassicState.PREPARING)
        delay_ms = self.settings.group_initial_rebalance_delay_ms
        if self.is_initial and delay_ms > 0:
            self.has_new_members = False
            self.initial_remaining_ms = max(self._rebalance_timeout_ms - delay_ms, 0)
            self.join_due_ms = self.now_ms + delay_ms
        elif self.is_initial or self.has_all_joined:
            self.complete_join()
        else:
            self.join_due_ms = self.now_ms + self._rebalance_timeout_ms

    def complete_if_all_joined(self) -> None:
        """The end of waiting, unless the first members are given time to come together."""
        if self.state is ClassicState.PREPARING and not self.is_initial and self.has_all_joined:
            self.complete_join()

    def complete_initial_or_wait(self) -> None:
        """The delay before a first generation is over: wait once more while members keep coming."""
        if self.has_new_members and self.initial_remaining_ms:
            delay_ms = self.settings.group_initial_rebalance_delay_ms
            self.has_new_members = False
            self.join_due_ms = self.now_ms + min(delay_ms, self.initial_remaining_ms)
            self.initial_remaining_ms = max(self.initial_remaining_ms - delay_ms, 0)
        else:
            self.complete_join()

    def complete_join(self) -> None:
        """A new generation of those who have joined; static members stay for their session (KIP-345)."""
        self.join_due_ms = -1
        for member in list(self.members.values()):
            if member.id not in self.joining and member.instance_id is None:
                self.remove(member.id)
        if self.members and self.leader not in self.joining:
            joined = next((key for key in self.members if key in self.joining), None)
            if joined is None:
                self.join_due_ms = self.now_ms + self._rebalance_timeout_ms
                return
            self.leader = joined
        self.generation += 1
        self.is_initial = False
        self.unsynced.clear()
        if self.members:
            self._begin_generation()
        else:
            self.protocol, self.leader = "", ""
            self._go(ClassicState.EMPTY)
        self.keep_members()

    def _begin_generation(self) -> None:
        self.protocol = self.select_protocol()
        self._go(ClassicState.COMPLETING)
        for member in self.members.values():
            ticket = self.joining.pop(member.id, None)
            if ticket is not None:
                self._answers.append((ticket, self.joined(member.id)))
            self.beat(member)
        self.new_members.clear()
        self.unsynced = set(self.members)
        self.sync_due_ms = self.now_ms + self._rebalance_timeout_ms

    def select_protocol(self) -> str:
        """The protocol that most members prefer among those that all know; of equals the one voted for first."""
        common = self._common_protocols()
        votes: dict[str, int] = {}
        for member in self.members.values():
            vote = next(one.name for one in member.protocols if one.name in common)
            votes[vote] = votes.get(vote, 0) + 1
        return max(votes, key=votes.__getitem__)

    def assign(self, assignments: dict[str, bytes]) -> None:
        """The leader has assigned: everybody who waits for it learns its part."""
        self.members = {
            key: _replace(member, assignment=assignments.get(key, b"")) for key, member in self.members.items()
        }
        self._go(ClassicState.STABLE)
        self.is_durable = True
        for member_id in list(self.syncing):
            self.beat(self.members[member_id])
            self.answer_sync(member_id)

    def _go(self, state: ClassicState) -> None:
        self.state, self.state_since_ms = state, self.now_ms

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, ticket: Ticket, tree: dict[str, Any]) -> None:
        """Answer a request that waits."""
        self._answers.append((ticket, tree))

    def answer_join(self, member_id: str, code: ErrorCode, *, shown: str = "") -> None:
        """Refuse the member's JoinGroup, if one waits; ``shown`` is the member id in the answer."""
        ticket = self.joining.pop(member_id, None)
        if ticket is not None:
            self._answers.append((ticket, join_refused(code, shown)))

    def answer_sync(self, member_id: str, code: ErrorCode = ErrorCode.NONE) -> None:
        """Answer the member's SyncGroup, if one waits."""
        ticket = self.syncing.pop(member_id, None)
        if ticket is not None:
            self._answers.append((ticket, self.synced(member_id) if code is ErrorCode.NONE else sync_refused(code)))

    def joined(self, member_id: str, *, leader: str | None = None, skip_assignment: bool = False) -> dict[str, Any]:
        """JoinGroup's answer to a member; the leader's names all members."""
        leader = self.leader if leader is None else leader
        shown = self.members.values() if member_id == leader else ()
        return {
            "throttle_time": 0,
            "error_code": 0,
            "generation_id": self.generation,
            "protocol_type": self.protocol_type,
            "protocol_name": self.protocol,
            "leader": leader,
            "skip_assignment": skip_assignment,
            "member_id": member_id,
            "members": [
                {
                    "member_id": member.id,
                    "group_instance_id": member.instance_id,
                    "metadata": member.metadata(self.protocol),
                }
                for member in shown
            ],
        }

    def synced(self, member_id: str) -> dict[str, Any]:
        """SyncGroup's answer to a member."""
        return {
            "throttle_time": 0,
            "error_code": 0,
            "protocol_type": self.protocol_type,
            "protocol_name": self.protocol,
            "assignment": self.members[member_id].assignment,
        }


def join_refused(code: ErrorCode, member_id: str = "") -> dict[str, Any]:
    """JoinGroup's answer with an error. Versions before 7 can't say that there is no protocol name."""
    return {
        "throttle_time": 0,
        "error_code": int(code),
        "generation_id": -1,
        "protocol_type": None,
        "protocol_name": "",
        "leader": "",
        "skip_assignment": False,
        "member_id": member_id,
        "members": [],
    }


def sync_refused(code: ErrorCode) -> dict[str, Any]:
    """SyncGroup's answer with an error."""
    return {
        "throttle_time": 0,
        "error_code": int(code),
        "protocol_type": None,
        "protocol_name": None,
        "assignment": b"",
    }
