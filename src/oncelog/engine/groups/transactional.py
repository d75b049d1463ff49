"""TxnOffsetCommit: offsets that move with a transaction (rules O1, O2, O3, O6).

The offsets become pending rows; the transaction's end turns them into committed ones or drops them. That the group is part
of the open transaction is the coordinator's question (engine/transactions.py).
"""

from __future__ import annotations

from typing import Any

from oncelog.engine.decision import Decision, Level
from oncelog.engine.groups.members import check_transactional_commit
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.limits import ID_CHARACTERS_MAX, TRANSACTION_OFFSETS_MAX
from oncelog.model.rows import GroupOffset, PendingOffset, Row


def decide_transactional_commit(state: State, request: Any, *, version: int, now_ms: int) -> Decision:
    """One pending row for each offset; the reply is the tree of TxnOffsetCommit's answer.

    ``request`` is TxnOffsetCommit's body. Raises Refusal for the whole request: a wrong group, member or generation.
    """
    if not request.group_id or len(request.group_id) > ID_CHARACTERS_MAX:
        raise Refusal(ErrorCode.INVALID_GROUP_ID, "empty or too long group id")
    check_transactional_commit(
        state,
        request.group_id,
        member_id=getattr(request, "member_id", ""),
        generation=getattr(request, "generation_id", -1),
        instance_id=getattr(request, "group_instance_id", None),
        version=version,
    )
    rows: list[Row] = []
    topics: list[dict[str, Any]] = []
    room = TRANSACTION_OFFSETS_MAX - _held(state, request)
    for topic in request.topics:
        partitions: list[dict[str, Any]] = []
        for part in topic.partitions:
            code = _check_offset(state, topic.name, part)
            if code is ErrorCode.NONE and len(rows) >= room:
                code = ErrorCode.INVALID_COMMIT_OFFSET_SIZE
            if code is ErrorCode.NONE:
                rows.append(_pending(state, request, topic.name, part, now_ms))
            partitions.append({"partition_index": part.partition_index, "error_code": int(code)})
        topics.append({"name": topic.name, "partitions": partitions})
    return Decision(tuple(rows), level=Level.WRITTEN, reply={"throttle_time": 0, "topics": topics})


def _held(state: State, request: Any) -> int:
    """Offsets that the open transaction holds already. One that is committed again counts twice until then."""
    transaction = state.transactions.get(request.transactional_id)
    pending = state.offsets.pending
    groups = transaction.groups if transaction is not None else ()
    return sum(len(pending.get(group, {}).get(request.producer_id, ())) for group in groups)


def _check_offset(state: State, topic: str, part: Any) -> ErrorCode:
    if state.log_of(topic, part.partition_index) is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if len(part.committed_metadata or "") > state.settings.offset_metadata_characters_max:
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    return ErrorCode.NONE


def _pending(state: State, request: Any, topic: str, part: Any, now_ms: int) -> PendingOffset:
    offset = GroupOffset(
        group=request.group_id,
        topic=topic,
        partition=part.partition_index,
        offset=part.committed_offset,
        leader_epoch=getattr(part, "committed_leader_epoch", -1),
        metadata=part.committed_metadata or "",
        committed_ms=now_ms,
        expires_ms=-1,
        version=state.version + 1,
    )
    return PendingOffset(request.producer_id, offset)
