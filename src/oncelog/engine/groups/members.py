"""Who may commit and read offsets: the member, its generation or epoch, its instance (rules O2, O3, O4; KIP-447, KIP-848)."""

from __future__ import annotations

from oncelog.engine.groups.classic import check_group_room, check_member
from oncelog.engine.groups.consumer import ConsumerGroup
from oncelog.engine.groups.values import ClassicGroup, ClassicState
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal

#: From these versions on clients know the errors of the consumer protocol.
_COMMIT_KNOWS_EPOCHS = 9
_TRANSACTIONAL_COMMIT_KNOWS_EPOCHS = 6


def check_commit(
    state: State, group_id: str, *, member_id: str, generation: int, instance_id: str | None, version: int
) -> None:
    """OffsetCommit: a member in its generation, or nobody's if the group has no members. Raises Refusal."""
    group = state.groups.by_id.get(group_id)
    if group is None:
        if generation >= 0:
            knows = version >= _COMMIT_KNOWS_EPOCHS
            raise Refusal(ErrorCode.GROUP_ID_NOT_FOUND if knows else ErrorCode.ILLEGAL_GENERATION, "no such group")
        if group_id not in state.offsets.committed:
            check_group_room(state, group_id)
        return
    if isinstance(group, ClassicGroup):
        _check_classic(group, member_id, generation, instance_id, is_transactional=False)
    elif generation >= 0 or not group.is_empty:
        if member_id in group.members and version < _COMMIT_KNOWS_EPOCHS:
            raise Refusal(
                ErrorCode.UNSUPPORTED_VERSION, "members of the consumer protocol commit by version 9 or newer"
            )
        _check_epoch(group, member_id, generation)


def check_transactional_commit(
    state: State, group_id: str, *, member_id: str, generation: int, instance_id: str | None, version: int
) -> None:
    """TxnOffsetCommit: as OffsetCommit, but all empty is accepted though a classic group has members (rule O2), and so is
    a commit while it rebalances. Clients that don't know stale epochs are told of an illegal generation (rule O3).
    Raises Refusal.
    """
    group = state.groups.by_id.get(group_id)
    if group is None:
        if generation >= 0:
            raise Refusal(ErrorCode.ILLEGAL_GENERATION, "no such group")
        if group_id not in state.offsets.committed and group_id not in state.offsets.pending:
            check_group_room(state, group_id)
        return
    if isinstance(group, ClassicGroup):
        _check_classic(group, member_id, generation, instance_id, is_transactional=True)
    elif generation >= 0 or not group.is_empty:
        try:
            _check_epoch(group, member_id, generation)
        except Refusal as no:
            if no.code is ErrorCode.STALE_MEMBER_EPOCH and version < _TRANSACTIONAL_COMMIT_KNOWS_EPOCHS:
                raise Refusal(ErrorCode.ILLEGAL_GENERATION, no.why) from None
            raise


def _check_classic(
    group: ClassicGroup, member_id: str, generation: int, instance_id: str | None, *, is_transactional: bool
) -> None:
    if generation < 0 and group.is_empty:
        return
    if generation >= 0 or member_id or instance_id is not None:
        check_member(group.members, group.static, member_id, instance_id)
        if generation != group.generation:
            raise Refusal(ErrorCode.ILLEGAL_GENERATION, f"generation {generation}, the group has {group.generation}")
    elif not is_transactional:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, "the group has members, the request comes from none")
    if not is_transactional and group.state is ClassicState.COMPLETING:
        raise Refusal(ErrorCode.REBALANCE_IN_PROGRESS)


def _check_epoch(group: ConsumerGroup, member_id: str, epoch: int) -> None:
    """The very epoch that the member has now (rule O3); a static member that has left has none."""
    member = group.members.get(member_id)
    if member is None:
        raise Refusal(ErrorCode.UNKNOWN_MEMBER_ID, f"no member {member_id}")
    if epoch != member.epoch or epoch < 0:
        raise Refusal(ErrorCode.STALE_MEMBER_EPOCH, f"member epoch {epoch}, the group knows {member.epoch}")


def check_fetch(state: State, group_id: str, *, member_id: str | None, member_epoch: int) -> None:
    """OffsetFetch: a member of the consumer protocol says its epoch. An unknown group is no error (rule O4)."""
    group = state.groups.by_id.get(group_id)
    if isinstance(group, ConsumerGroup) and (member_id or member_epoch >= 0):
        _check_epoch(group, member_id or "", member_epoch)
