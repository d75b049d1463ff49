"""ConsumerGroupHeartbeat: join, go on, leave, and what falls due (KIP-848; rule O3; static members as KIP-345).

One request does everything: a member says what has changed, and learns its epoch and its partitions. Functions decide; the
steps are the draft's (reconciling.py).

Differs from Kafka: who is answered UNKNOWN_MEMBER_ID in a group that is not there joins again, where GROUP_ID_NOT_FOUND would
end the client; a static member that comes back under its own member id is let in; a member that has not seen the answer
with its new epoch is shown its partitions again, whatever it says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from oncelog.engine.decision import NOTHING, Decision
from oncelog.engine.groups.classic import check_group_room
from oncelog.engine.groups.consumer import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    NO_PARTITIONS,
    ConsumerGroup,
    ConsumerMember,
    MemberState,
)
from oncelog.engine.groups.reconciling import ConsumerDraft
from oncelog.engine.groups.subscriptions import check_patterns, compile_pattern
from oncelog.engine.groups.values import ClassicGroup
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import LogId
from oncelog.model.limits import (
    GROUP_BYTES_MAX,
    GROUP_MEMBERS_MAX,
    ID_CHARACTERS_MAX,
    MEMBER_BYTES_MAX,
    MEMBER_TOPICS_MAX,
)

_replace = msgspec.structs.replace


class Heartbeat(NamedTuple):
    """A ConsumerGroupHeartbeat. None, and -1 for the timeout, stand for what has not changed.

    ``owned`` are the partitions that the member says it has; those of topics that are gone are left out.
    """

    group_id: str
    member_id: str
    epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: frozenset[LogId] | None = None

    @property
    def is_full(self) -> bool:
        """Whether it says everything: the member joins, or is not sure of what the broker knows."""
        is_subscribing = self.topics is not None or self.pattern is not None
        is_whole = self.rebalance_timeout_ms >= 0 and is_subscribing and self.owned is not None
        return self.epoch == JOIN_EPOCH or is_whole


class Beaten(NamedTuple):
    """The answer. ``assigned`` is None if the member knows it."""

    member_id: str
    epoch: int
    interval_ms: int
    assigned: frozenset[LogId] | None


def decide_consumer_heartbeat(state: State, beat: Heartbeat, now_ms: int) -> Decision:
    """One heartbeat; the reply is a Beaten. Raises Refusal."""
    _check(state, beat)
    if beat.epoch < JOIN_EPOCH:
        return _decide_leave(state, beat, now_ms)
    draft = ConsumerDraft(state, _group_of(state, beat), now_ms)
    before = _joining(draft, beat) if beat.epoch == JOIN_EPOCH else _known(draft.before, beat)
    member = _updated(before, beat)
    if (member.topics, member.pattern) != (before.topics, before.pattern):
        check_patterns(one.pattern for one in (*draft.members.values(), member) if one.pattern)
        _check_room(draft, member)
        draft.bump()
    draft.put(member)
    draft.follow()
    draft.assign()
    member = draft.reconcile(member, beat.owned)
    draft.beat(member.id)
    known = draft.before.members.get(member.id)
    is_shown = beat.is_full or known is None or member.assigned != known.assigned or beat.epoch < known.epoch
    shown = member.assigned if is_shown else None
    return draft.decision(Beaten(member.id, member.epoch, state.settings.consumer_heartbeat_interval_ms, shown))


# -- what a request may say -------------------------------------------------------------------------------------------


def _check(state: State, beat: Heartbeat) -> None:
    """Raises Refusal for a request that no group could accept."""
    if not beat.group_id or not beat.member_id:
        raise Refusal(ErrorCode.INVALID_REQUEST, "the group id and the member id can't be empty")
    if beat.instance_id == "" or beat.rack_id == "":
        raise Refusal(ErrorCode.INVALID_REQUEST, "an instance id or a rack id can't be empty: leave it out")
    if max(map(len, (beat.group_id, beat.member_id, beat.instance_id or "", beat.rack_id or ""))) > ID_CHARACTERS_MAX:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"an id has at most {ID_CHARACTERS_MAX} characters")
    if beat.epoch < LEAVE_STATIC_EPOCH or (beat.epoch == LEAVE_STATIC_EPOCH and beat.instance_id is None):
        raise Refusal(ErrorCode.INVALID_REQUEST, "the member epoch is -1 to leave, or -2 for a static member")
    if beat.epoch == JOIN_EPOCH:
        if beat.rebalance_timeout_ms < 0 or beat.owned is None or (beat.topics is None and beat.pattern is None):
            raise Refusal(ErrorCode.INVALID_REQUEST, "to join, say everything: timeout, subscription, no partitions")
        if beat.owned:
            raise Refusal(ErrorCode.INVALID_REQUEST, "who joins can't have partitions")
    _check_subscription(state, beat)


def _check_subscription(state: State, beat: Heartbeat) -> None:
    if beat.assignor is not None and beat.assignor not in state.settings.consumer_assignors:
        known = ", ".join(state.settings.consumer_assignors)
        raise Refusal(ErrorCode.UNSUPPORTED_ASSIGNOR, f"the broker's assignors are {known}")
    topics = beat.topics or ()
    if len(topics) > MEMBER_TOPICS_MAX or sum(map(len, topics)) > MEMBER_BYTES_MAX:
        raise Refusal(ErrorCode.POLICY_VIOLATION, f"a member subscribes to at most {MEMBER_TOPICS_MAX} topics")
    if beat.pattern:
        compile_pattern(beat.pattern)


def _check_room(draft: ConsumerDraft, member: ConsumerMember) -> None:
    """All members' topics together. Raises Refusal (law 8)."""
    others = (one for one in draft.members.values() if one.id != member.id)
    if sum(len(topic) for one in (member, *others) for topic in one.topics) > GROUP_BYTES_MAX:
        raise Refusal(
            ErrorCode.POLICY_VIOLATION, f"the subscriptions of a group's members have at most {GROUP_BYTES_MAX} bytes"
        )


def _group_of(state: State, beat: Heartbeat) -> ConsumerGroup:
    """The group, made if the member joins. Raises Refusal."""
    group = state.groups.by_id.get(beat.group_id)
    if isinstance(group, ConsumerGroup):
        return group
    if beat.epoch != JOIN_EPOCH:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, "no such group of the consumer protocol: join again")
    if isinstance(group, ClassicGroup):
        if not group.is_empty:
            raise Refusal(
                ErrorCode.GROUP_ID_NOT_FOUND,
                "the group has members of the classic protocol: it changes its protocol when they have left",
            )
        # Epochs go on from the generations, so that no number is ever given twice in a group.
        return ConsumerGroup(group.id, group.generation, group.generation, state_since_ms=group.state_since_ms)
    check_group_room(state, beat.group_id)
    return ConsumerGroup(beat.group_id)


# -- who it is --------------------------------------------------------------------------------------------------------


def _joining(draft: ConsumerDraft, beat: Heartbeat) -> ConsumerMember:
    """Who joins: somebody new, a static member come back, or a member that begins anew. Raises Refusal."""
    holder = None if beat.instance_id is None else draft.static.get(beat.instance_id)
    known = draft.members.get(beat.member_id if holder is None else holder)
    if known is None:
        members_max = min(draft.catalog.settings.consumer_members_max, GROUP_MEMBERS_MAX)
        if len(draft.members) >= members_max:
            raise Refusal(ErrorCode.GROUP_MAX_SIZE_REACHED, f"the group has {members_max} members")
        draft.bump()
        return ConsumerMember(beat.member_id)
    if known.epoch == LEAVE_STATIC_EPOCH:
        if known.id != beat.member_id:
            known = draft.replace_static(known, beat.member_id)
    elif known.id != beat.member_id:
        raise Refusal(ErrorCode.UNRELEASED_INSTANCE_ID, f"{beat.instance_id} is the member {known.id}'s")
    elif known.epoch_previous == JOIN_EPOCH:
        return known  # it has not seen the answer to its joining
    else:
        draft.bump()  # it was fenced: nothing that it said before counts any more
    return _replace(known, epoch=JOIN_EPOCH, epoch_previous=JOIN_EPOCH)


def _known(group: ConsumerGroup, beat: Heartbeat) -> ConsumerMember:
    """The member that goes on. Raises Refusal: it is unknown, or fenced."""
    member = _holder(group, beat)
    if beat.epoch == member.epoch:
        return member
    is_answer_lost = beat.epoch == member.epoch_previous and beat.owned is not None and beat.owned <= member.assigned
    if beat.epoch > member.epoch or not is_answer_lost:
        raise Refusal(ErrorCode.FENCED_MEMBER_EPOCH, f"member epoch {beat.epoch}, the group knows {member.epoch}")
    return member


def _holder(group: ConsumerGroup, beat: Heartbeat) -> ConsumerMember:
    """The member by its id and, if it says one, its instance id. Raises Refusal."""
    if beat.instance_id is not None:
        holder = group.static.get(beat.instance_id)
        if holder is None:
            raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"nobody has the instance id {beat.instance_id}")
        if holder != beat.member_id:
            raise Refusal(ErrorCode.FENCED_INSTANCE_ID, f"{beat.instance_id} is the member {holder}'s")
    member = group.members.get(beat.member_id)
    if member is None:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"no member {beat.member_id}: join again")
    return member


def _updated(member: ConsumerMember, beat: Heartbeat) -> ConsumerMember:
    """The member as it says it is now."""
    return _replace(
        member,
        instance_id=member.instance_id if beat.instance_id is None else beat.instance_id,
        rack_id=member.rack_id if beat.rack_id is None else beat.rack_id,
        client_id=beat.client_id,
        client_host=beat.client_host,
        rebalance_timeout_ms=(
            member.rebalance_timeout_ms if beat.rebalance_timeout_ms < 0 else beat.rebalance_timeout_ms
        ),
        topics=member.topics if beat.topics is None else tuple(sorted(set(beat.topics))),
        pattern=member.pattern if beat.pattern is None else beat.pattern,
        assignor=member.assignor if beat.assignor is None else beat.assignor,
    )


# -- who goes ---------------------------------------------------------------------------------------------------------


def _decide_leave(state: State, beat: Heartbeat, now_ms: int) -> Decision:
    """Leave for good, or for a while: then what a static member has is kept for it until its session is over."""
    group = state.groups.by_id.get(beat.group_id)
    if not isinstance(group, ConsumerGroup):
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, "no such group of the consumer protocol")
    member = _holder(group, beat)
    draft = ConsumerDraft(state, group, now_ms)
    if beat.epoch == LEAVE_EPOCH:
        draft.remove(member.id)
        draft.bump()
        draft.follow()
    else:
        draft.disarm(member.id)
        draft.put(_replace(member, epoch=LEAVE_STATIC_EPOCH, state=MemberState.STABLE, revoking=NO_PARTITIONS))
    return draft.decision(Beaten(member.id, beat.epoch, state.settings.consumer_heartbeat_interval_ms, None))


def decide_consumer_due(state: State, group: ConsumerGroup, now_ms: int) -> Decision:
    """Members whose session is over, or that have not given up in their time what others are to have."""
    silent = {key for key, due_ms in state.groups.deadlines.get(group.id, {}).items() if due_ms <= now_ms}
    slow = {key for key, due_ms in group.rebalance_due_ms.items() if due_ms <= now_ms}
    over = [member_id for member_id in group.members if member_id in silent | slow]
    if not over:
        return NOTHING
    draft = ConsumerDraft(state, group, now_ms)
    for member_id in over:
        draft.remove(member_id)
    draft.bump()
    draft.follow()
    return draft.decision()


def next_consumer_due_ms(group: ConsumerGroup, deadlines: dict[str, int]) -> int | None:
    """When something of the group falls due next."""
    sessions = (deadlines[member_id] for member_id in group.members if member_id in deadlines)
    return min((*sessions, *group.rebalance_due_ms.values()), default=None)


def assigned_trees(state: State, logs: frozenset[LogId], *, with_names: bool = False) -> list[dict[str, Any]]:
    """Partitions as replies show them, by topic; what is gone with its topic is left out."""
    by_topic: dict[str, list[int]] = {}
    for log_id in logs:
        log = state.logs.get(log_id)
        if log is not None:
            by_topic.setdefault(log.topic, []).append(log.index)
    return [
        {
            "topic_id": state.topics[name].id,
            **({"topic_name": name} if with_names else {}),
            "partitions": tuple(sorted(indexes)),
        }
        for name, indexes in sorted(by_topic.items())
    ]
