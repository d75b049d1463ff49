"""OffsetCommit, OffsetFetch, OffsetDelete, and offsets that expire (rules O4, O5; KIP-98, KIP-211, KIP-447, KIP-496).

A group exists if it has a live value, or committed or pending offsets: clients without members just commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oncelog.engine.decision import Decision
from oncelog.engine.groups.groups import AnyGroup
from oncelog.engine.groups.members import check_commit
from oncelog.engine.groups.values import CONSUMER, Beat, ClassicGroup, ClassicState
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import TopicPartition
from oncelog.model.limits import GROUP_OFFSETS_MAX
from oncelog.model.rows import GroupDeleted, GroupOffset, GroupOffsetDeleted, Row

#: Offsets looked at in one turn of the loop when they are searched for expired ones.
_OFFSETS_A_TURN = 5_000


class Committer(NamedTuple):
    """Who commits. ``generation`` is the member epoch in groups of the consumer protocol; -1 for none."""

    group_id: str
    member_id: str = ""
    generation: int = -1
    instance_id: str | None = None


class Commit(NamedTuple):
    """One offset to commit."""

    at: TopicPartition
    offset: int
    leader_epoch: int
    metadata: str


def decide_commit(
    state: State, committer: Committer, commits: Sequence[Commit], *, retention_ms: int, version: int, now_ms: int
) -> Decision:
    """OffsetCommit; the reply is the list of error codes, one for each of ``commits``. Raises Refusal for all.

    ``retention_ms`` is the client's own (versions up to 4), -1 for none.
    """
    group_id = committer.group_id
    check_commit(
        state,
        group_id,
        member_id=committer.member_id,
        generation=committer.generation,
        instance_id=committer.instance_id,
        version=version,
    )
    before = state.offsets.committed.get(group_id, {})
    rows: dict[TopicPartition, Row] = {}
    codes: list[ErrorCode] = []
    for commit in commits:
        code = check_offset(state, commit)
        if code is ErrorCode.NONE and commit.at not in before and len(before) + len(rows) >= GROUP_OFFSETS_MAX:
            code = ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        if code is ErrorCode.NONE:
            rows[commit.at] = GroupOffset(
                group=group_id,
                topic=commit.at.topic,
                partition=commit.at.partition,
                offset=commit.offset,
                leader_epoch=commit.leader_epoch,
                metadata=commit.metadata,
                committed_ms=now_ms,
                expires_ms=now_ms + retention_ms if retention_ms >= 0 else -1,
                version=state.version + 1,
            )
        codes.append(code)
    return Decision(tuple(rows.values()), reply=codes, volatile=_heard_of(state, committer, now_ms))


def check_offset(state: State, commit: Commit) -> ErrorCode:
    """Whether the offset can be kept at all."""
    if state.log_of(commit.at.topic, commit.at.partition) is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if len(commit.metadata) > state.settings.offset_metadata_characters_max:
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    return ErrorCode.NONE


def _heard_of(state: State, committer: Committer, now_ms: int) -> tuple[Beat, ...]:
    """A commit of a classic member is a heartbeat too."""
    group = state.groups.by_id.get(committer.group_id)
    if isinstance(group, ClassicGroup) and group.state in (ClassicState.STABLE, ClassicState.PREPARING):
        member = group.members.get(committer.member_id)
        if member is not None:
            return (Beat(group.id, member.id, now_ms + member.session_timeout_ms),)
    return ()


# -- reading ----------------------------------------------------------------------------------------------------------


class Fetched(NamedTuple):
    """A committed offset as OffsetFetch shows it; -1 if there is none."""

    at: TopicPartition
    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    code: ErrorCode = ErrorCode.NONE


def fetch_offset(state: State, group_id: str, at: TopicPartition, *, require_stable: bool) -> Fetched:
    """The committed offset of a partition. An unknown group has none (rule O4)."""
    if require_stable and state.offsets.has_pending(group_id, at):
        return Fetched(at, code=ErrorCode.UNSTABLE_OFFSET_COMMIT)
    row = state.offsets.committed.get(group_id, {}).get(at)
    return Fetched(at) if row is None else Fetched(at, row.offset, row.leader_epoch, row.metadata)


# -- deleting ---------------------------------------------------------------------------------------------------------


def exists(state: State, group_id: str) -> bool:
    """Whether there is such a group."""
    return group_id in state.groups.by_id or group_id in state.offsets.committed or group_id in state.offsets.pending


def decide_delete_offsets(state: State, group_id: str, wanted: Sequence[TopicPartition]) -> Decision:
    """OffsetDelete: not what members subscribe to; the reply is a list of error codes. Raises Refusal for all."""
    if not exists(state, group_id):
        raise Refusal(ErrorCode.GROUP_ID_NOT_FOUND)
    group = state.groups.by_id.get(group_id)
    if isinstance(group, ClassicGroup) and not group.is_empty and group.protocol_type != CONSUMER:
        raise Refusal(ErrorCode.NON_EMPTY_GROUP, "what its members read is not known")
    committed = state.offsets.committed.get(group_id, {})
    rows: dict[TopicPartition, Row] = {}
    codes: list[ErrorCode] = []
    topics = _topics_read(group)
    for at in wanted:
        code = ErrorCode.NONE
        if state.log_of(at.topic, at.partition) is None:
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topics is None or at.topic in topics:
            code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
        elif at in committed:
            rows[at] = GroupOffsetDeleted(group_id, at.topic, at.partition)
        codes.append(code)
    return Decision(tuple(rows.values()), reply=codes)


def _topics_read(group: AnyGroup | None) -> frozenset[str] | None:
    """The topics that members subscribe to; None if the broker can't know them."""
    return frozenset() if group is None or group.is_empty else group.topics


def decide_delete_group(state: State, group_id: str) -> Decision:
    """DeleteGroups, for one. Raises Refusal: it has members, or an open transaction holds offsets in it (rule O5)."""
    if not exists(state, group_id):
        raise Refusal(ErrorCode.GROUP_ID_NOT_FOUND)
    group = state.groups.by_id.get(group_id)
    if group is not None and not group.is_empty:
        raise Refusal(ErrorCode.NON_EMPTY_GROUP, "it has members")
    if group_id in state.offsets.pending:
        raise Refusal(ErrorCode.NON_EMPTY_GROUP, "an open transaction holds offsets in it (O5)")
    return Decision((GroupDeleted(group_id),))


# -- expiry -----------------------------------------------------------------------------------------------------------


def decide_offset_expiry(state: State, now_ms: int) -> Iterator[Decision]:
    """Offsets past their time, and empty groups that have none left (rule O5). One decision for a bounded piece of work."""
    looked_at = 0
    for group_id in {**state.groups.by_id, **state.offsets.committed}:
        looked_at += 1 + len(state.offsets.committed.get(group_id, ()))
        decision = _expiry_of(state, group_id, now_ms)
        if decision.is_durable or looked_at >= _OFFSETS_A_TURN:
            looked_at = 0
            yield decision


def _expiry_of(state: State, group_id: str, now_ms: int) -> Decision:
    """Raises nothing: what was deleted meanwhile has nothing left to expire."""
    group = state.groups.by_id.get(group_id)
    committed = state.offsets.committed.get(group_id, {})
    is_moving = isinstance(group, ClassicGroup) and group.state not in (ClassicState.EMPTY, ClassicState.STABLE)
    topics = None if is_moving else _topics_read(group)
    expired = [
        row
        for row in committed.values()
        if topics is not None and row.topic not in topics and _is_expired(state, group, row, now_ms)
    ]
    has_members = group is not None and not group.is_empty
    has_given_ids = isinstance(group, ClassicGroup) and bool(group.pending)
    # Without offsets it is kept for a while after its last member: who looks for it, or deletes it, is to find it.
    kept_until_ms = -1 if group is None or committed else group.state_since_ms + state.settings.empty_group_kept_ms
    is_over = not has_members and not has_given_ids and len(expired) == len(committed) and now_ms >= kept_until_ms
    if is_over and exists(state, group_id) and group_id not in state.offsets.pending:
        return Decision((GroupDeleted(group_id),))
    return Decision(tuple(GroupOffsetDeleted(row.group, row.topic, row.partition) for row in expired))


def _is_expired(state: State, group: AnyGroup | None, row: GroupOffset, now_ms: int) -> bool:
    if state.offsets.has_pending(row.group, TopicPartition(row.topic, row.partition)):
        return False
    since_ms = row.committed_ms
    if group is not None and group.is_empty:
        since_ms = max(since_ms, group.state_since_ms)
    if row.expires_ms >= 0:
        return now_ms >= row.expires_ms
    return now_ms - since_ms >= state.settings.offsets_retention_ms
