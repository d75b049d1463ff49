"""Classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup and what falls due (KIP-134, 345, 394, 800, 814).

Functions decide; the steps of a rebalance are the draft's. Requests that must wait give their ticket, and a later decision
answers it. A lost connection removes nobody: the session does, when it is over.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from oncelog.engine.decision import Decision, Level, Ticket
from oncelog.engine.groups.draft import ClassicDraft, join_refused
from oncelog.engine.groups.values import Beat, ClassicGroup, ClassicMember, ClassicState, Protocol
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.limits import (
    GROUP_BYTES_MAX,
    GROUP_MEMBERS_MAX,
    GROUPS_MAX,
    ID_CHARACTERS_MAX,
    MEMBER_BYTES_MAX,
    MEMBER_PROTOCOLS_MAX,
)

_replace = msgspec.structs.replace


class Join(NamedTuple):
    """A JoinGroup. ``member_id_new`` is an id that nobody has, for a member that has none yet."""

    group_id: str
    member_id: str
    member_id_new: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: tuple[Protocol, ...]
    is_member_id_required: bool
    can_skip_assignment: bool

    def member(self, member_id: str) -> ClassicMember:
        """The member as this request describes it."""
        return ClassicMember(
            member_id,
            self.instance_id,
            self.client_id,
            self.client_host,
            self.session_timeout_ms,
            self.rebalance_timeout_ms,
            self.protocols,
        )


class Leaving(NamedTuple):
    """One member of a LeaveGroup: by its id, or by its instance id alone."""

    member_id: str
    instance_id: str | None


# -- joining ----------------------------------------------------------------------------------------------------------


def decide_join(state: State, join: Join, ticket: Ticket, now_ms: int) -> Decision:
    """JoinGroup. The ticket is answered in this decision, or in a later one. Raises Refusal."""
    _check_join(state, join)
    group = _group_to_join(state, join)
    draft = ClassicDraft(group, state.settings, now_ms)
    _check_room(draft, join)
    if not draft.supports(join.protocol_type, join.protocols):
        raise Refusal(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "no protocol that all members know")
    if join.member_id:
        _join_again(draft, join, ticket)
    elif join.instance_id is not None and join.instance_id in draft.static:
        _replace_static(draft, join, ticket)
    elif join.instance_id is None and join.is_member_id_required:
        draft.add_pending(join.member_id_new, join.session_timeout_ms)
        draft.answer(ticket, join_refused(ErrorCode.MEMBER_ID_REQUIRED, join.member_id_new))
    else:
        draft.add_member(join.member(join.member_id_new), join.protocol_type, ticket)
        draft.rebalance_or_complete()
    return draft.decision()


def _check_join(state: State, join: Join) -> None:
    check_group_id(join.group_id)
    settings = state.settings
    if not settings.group_session_timeout_ms_min <= join.session_timeout_ms <= settings.group_session_timeout_ms_max:
        raise Refusal(ErrorCode.INVALID_SESSION_TIMEOUT, f"session timeout {join.session_timeout_ms} ms")
    if max(len(join.member_id), len(join.instance_id or ""), len(join.protocol_type)) > ID_CHARACTERS_MAX:
        raise Refusal(ErrorCode.INVALID_REQUEST, "an id is too long")
    size = sum(len(one.metadata) for one in join.protocols)
    is_name_long = any(len(one.name) > ID_CHARACTERS_MAX for one in join.protocols)
    if size > MEMBER_BYTES_MAX or len(join.protocols) > MEMBER_PROTOCOLS_MAX or is_name_long:
        raise Refusal(ErrorCode.POLICY_VIOLATION, f"a member's subscription has at most {MEMBER_BYTES_MAX} bytes")


def check_group_id(group_id: str) -> None:
    """Raises Refusal for an id that no group with members can have."""
    if not group_id or len(group_id) > ID_CHARACTERS_MAX:
        raise Refusal(ErrorCode.INVALID_GROUP_ID, "empty or too long group id")


def _group_to_join(state: State, join: Join) -> ClassicGroup:
    group = state.groups.by_id.get(join.group_id)
    if isinstance(group, ClassicGroup):
        return group
    if group is not None:
        if not group.is_empty:
            raise Refusal(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "the group has members of the consumer protocol")
        return ClassicGroup(join.group_id, generation=group.epoch, state_since_ms=group.state_since_ms)
    if join.member_id:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, "no such group")
    check_group_room(state, join.group_id)
    return ClassicGroup(join.group_id)


def check_group_room(state: State, group_id: str) -> None:
    """Raises Refusal if the group would be one too many."""
    groups, offsets = state.groups.by_id, state.offsets
    if group_id in groups:
        return
    is_known = group_id in offsets.committed or group_id in offsets.pending
    is_full = not is_known and max(len(offsets.committed), len(offsets.pending)) >= GROUPS_MAX
    if is_full or len(groups) >= GROUPS_MAX:
        raise Refusal(ErrorCode.GROUP_MAX_SIZE_REACHED, f"the broker has {GROUPS_MAX} groups")


def _check_room(draft: ClassicDraft, join: Join) -> None:
    """A static member that comes back without its member id takes its own place (Kafka turns it away from a full group)."""
    members_max = min(draft.settings.group_members_max, GROUP_MEMBERS_MAX)
    holder = "" if join.instance_id is None else draft.static.get(join.instance_id, "")
    member_id = join.member_id or holder
    if draft.state is ClassicState.PREPARING:
        has_room = member_id in draft.joining or len(draft.joining) < members_max
    else:
        has_room = member_id in draft.members or len(draft.members) < members_max
    if not member_id and len(draft.pending) >= GROUP_MEMBERS_MAX:
        has_room = False
    if not has_room:
        raise Refusal(ErrorCode.GROUP_MAX_SIZE_REACHED, f"the group has {members_max} members")
    others = sum(member.size_bytes for key, member in draft.members.items() if key != member_id)
    if others + join.member(member_id).size_bytes > GROUP_BYTES_MAX:
        raise Refusal(
            ErrorCode.GROUP_MAX_SIZE_REACHED,
            f"the subscriptions of a group's members have at most {GROUP_BYTES_MAX} bytes",
        )


def _join_again(draft: ClassicDraft, join: Join, ticket: Ticket) -> None:
    """A member, or an id that was given out, joins."""
    member_id = join.member_id
    if member_id in draft.pending and join.instance_id is None:
        draft.add_member(join.member(member_id), join.protocol_type, ticket)
        draft.rebalance_or_complete()
        return
    before = check_member(draft.members, draft.static, member_id, join.instance_id)
    is_same = before.protocols == join.protocols
    is_settled = draft.state is ClassicState.COMPLETING or (
        draft.state is ClassicState.STABLE and member_id != draft.leader
    )
    if is_settled and is_same:
        # It has not seen the answer to its JoinGroup: nothing has changed.
        draft.answer(ticket, draft.joined(member_id))
        return
    draft.update_member(_replace(join.member(member_id), assignment=before.assignment), ticket)
    draft.rebalance_or_complete()


def _replace_static(draft: ClassicDraft, join: Join, ticket: Ticket) -> None:
    """A static member came back without its member id: if nothing changes for the others, there is no rebalance."""
    assert join.instance_id is not None
    old = draft.members[draft.static[join.instance_id]]
    leader_before = draft.leader
    new = _replace(join.member(join.member_id_new), assignment=old.assignment)
    draft.replace_static(old, new)
    if draft.state is ClassicState.STABLE and draft.select_protocol() == draft.protocol:
        draft.keep_members()
        is_leader = draft.leader == new.id
        if join.can_skip_assignment:
            draft.answer(ticket, draft.joined(new.id, skip_assignment=is_leader))
        else:
            # Before version 9 it must not think that it leads: it would assign anew without anybody listening.
            draft.answer(ticket, draft.joined(new.id, leader=leader_before))
        return
    draft.joining[new.id] = ticket
    draft.rebalance_or_complete()


def check_member(
    members: dict[str, ClassicMember], static: dict[str, str], member_id: str, instance_id: str | None
) -> ClassicMember:
    """The member of that id. Raises Refusal: unknown, or another member has its instance id."""
    if instance_id is not None:
        holder = static.get(instance_id)
        if holder is not None and holder != member_id:
            raise Refusal(ErrorCode.FENCED_INSTANCE_ID, f"{instance_id} is another member's")
        if holder is None:
            raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"nobody has the instance id {instance_id}")
    member = members.get(member_id)
    if member is None:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"no member {member_id}")
    return member


# -- from one rebalance to the next -----------------------------------------------------------------------------------


class Sync(NamedTuple):
    """A SyncGroup. The leader's carries everybody's assignment."""

    group_id: str
    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol: str | None
    assignments: dict[str, bytes]


def decide_sync(state: State, sync: Sync, ticket: Ticket, now_ms: int) -> Decision:
    """SyncGroup. The ticket is answered in this decision, or in a later one. Raises Refusal."""
    group = _classic(state, sync.group_id)
    check_member(group.members, group.static, sync.member_id, sync.instance_id)
    if sync.generation != group.generation:
        raise Refusal(ErrorCode.ILLEGAL_GENERATION, f"generation {sync.generation}, the group has {group.generation}")
    if sync.protocol_type not in (None, group.protocol_type) or sync.protocol not in (None, group.protocol):
        raise Refusal(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "not the protocol of this generation")
    if group.state is ClassicState.PREPARING:
        raise Refusal(ErrorCode.REBALANCE_IN_PROGRESS)
    draft = ClassicDraft(group, state.settings, now_ms)
    draft.unsynced.discard(sync.member_id)
    if not draft.unsynced:
        draft.sync_due_ms = -1
    if group.state is ClassicState.STABLE:
        draft.answer(ticket, draft.synced(sync.member_id))
        return draft.decision()
    draft.answer_sync(sync.member_id, ErrorCode.REBALANCE_IN_PROGRESS)
    draft.syncing[sync.member_id] = ticket
    if sync.member_id == group.leader:
        _check_assignments(sync.assignments)
        draft.assign(sync.assignments)
    return draft.decision()


def _check_assignments(assignments: dict[str, bytes]) -> None:
    if any(len(assignment) > MEMBER_BYTES_MAX for assignment in assignments.values()):
        raise Refusal(ErrorCode.POLICY_VIOLATION, f"a member's assignment has at most {MEMBER_BYTES_MAX} bytes")
    if sum(map(len, assignments.values())) > GROUP_BYTES_MAX:
        raise Refusal(ErrorCode.POLICY_VIOLATION, f"the assignments of a group have at most {GROUP_BYTES_MAX} bytes")


def decide_heartbeat(
    state: State, group_id: str, member_id: str, instance_id: str | None, generation: int, now_ms: int
) -> Decision:
    """Heartbeat: the session begins anew. Writes nothing and copies nothing. Raises Refusal."""
    group = _classic(state, group_id)
    member = check_member(group.members, group.static, member_id, instance_id)
    if generation != group.generation:
        raise Refusal(ErrorCode.ILLEGAL_GENERATION, f"generation {generation}, the group has {group.generation}")
    code = ErrorCode.REBALANCE_IN_PROGRESS if group.state is ClassicState.PREPARING else ErrorCode.NONE
    return Decision(
        level=Level.NOTHING,
        reply={"throttle_time": 0, "error_code": int(code)},
        volatile=(Beat(group_id, member_id, now_ms + member.session_timeout_ms),),
    )


def decide_leave(state: State, group_id: str, leaving: tuple[Leaving, ...], now_ms: int) -> Decision:
    """LeaveGroup; the reply is the list of error codes, one for each of ``leaving``, also where there is no such group, as in
    Kafka. Raises Refusal for all.
    """
    check_group_id(group_id)
    group = state.groups.by_id.get(group_id)
    if not isinstance(group, ClassicGroup):
        return Decision(reply=[ErrorCode.UNKNOWN_MEMBER_ID] * len(leaving))
    draft = ClassicDraft(group, state.settings, now_ms)
    codes: list[ErrorCode] = []
    for one in leaving:
        try:
            draft.remove(_leaving_member(draft, one))
            codes.append(ErrorCode.NONE)
        except Refusal as no:
            codes.append(no.code)
    if ErrorCode.NONE in codes:
        if draft.state in (ClassicState.STABLE, ClassicState.COMPLETING):
            # An id that was only given out is none of the members' business.
            if len(draft.members) < len(group.members):
                draft.prepare_rebalance()
        else:
            draft.complete_if_all_joined()
    return draft.decision(reply=codes)


def _leaving_member(draft: ClassicDraft, leaving: Leaving) -> str:
    if not leaving.member_id and leaving.instance_id is not None:
        holder = draft.static.get(leaving.instance_id)
        if holder is None:
            raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"nobody has the instance id {leaving.instance_id}")
        return holder
    if leaving.member_id in draft.pending:
        return leaving.member_id
    return check_member(draft.members, draft.static, leaving.member_id, leaving.instance_id).id


def _classic(state: State, group_id: str) -> ClassicGroup:
    check_group_id(group_id)
    group = state.groups.by_id.get(group_id)
    if not isinstance(group, ClassicGroup):
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, "no classic group of that id")
    return group


# -- what falls due ---------------------------------------------------------------------------------------------------


def decide_classic_due(state: State, group: ClassicGroup, now_ms: int) -> Decision:
    """Sessions that are over, and the ends of waiting for JoinGroups and SyncGroups."""
    draft = ClassicDraft(group, state.settings, now_ms)
    deadlines = state.groups.deadlines.get(group.id, {})
    over = [key for key, due_ms in deadlines.items() if due_ms <= now_ms and not group.is_parked(key)]
    for member_id in over:
        draft.remove(member_id)
    if any(member_id in group.members for member_id in over):
        draft.rebalance_or_complete()
    else:
        draft.complete_if_all_joined()
    if draft.sync_due_ms >= 0 and draft.sync_due_ms <= now_ms and draft.unsynced:
        for member_id in list(draft.unsynced):
            draft.remove(member_id)
        draft.prepare_rebalance()
    if draft.state is ClassicState.PREPARING and 0 <= draft.join_due_ms <= now_ms:
        if draft.is_initial:
            draft.complete_initial_or_wait()
        else:
            draft.complete_join()
    return draft.decision()


def next_due_ms(group: ClassicGroup, deadlines: dict[str, int]) -> int | None:
    """When something of the group falls due next."""
    due = [due_ms for key, due_ms in deadlines.items() if not group.is_parked(key)]
    due += [due_ms for due_ms in (group.join_due_ms, group.sync_due_ms) if due_ms >= 0]
    return min(due, default=None)
