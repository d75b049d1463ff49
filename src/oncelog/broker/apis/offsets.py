"""OffsetCommit, OffsetFetch, OffsetDelete (rules O4, O5): a commit is answered when it is safe, a read shows only that (D2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Call, given_id, milliseconds
from oncelog.engine.groups import commits
from oncelog.engine.groups.commits import Commit, Committer, Fetched
from oncelog.engine.groups.members import check_fetch
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import TopicPartition
from oncelog.model.limits import ID_CHARACTERS_MAX

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_COMMIT_BY_TOPIC_ID: Final = 10
_FETCH_BY_TOPIC_ID: Final = 10
_FETCH_BATCHED: Final = 8


def offset_commit(broker: Broker, call: Call) -> None:
    """2-10. Up to 4 with the client's own retention; 7 knows static members; 9 member epochs (KIP-848); 10 topic ids."""
    request = call.request
    names = [_name_of(broker, topic, by_id=call.version >= _COMMIT_BY_TOPIC_ID) for topic in request.topics]
    asked = [
        Commit(
            TopicPartition(name, part.partition_index),
            part.committed_offset,
            getattr(part, "committed_leader_epoch", -1),
            part.committed_metadata or "",
        )
        for name, topic in zip(names, request.topics, strict=True)
        if name is not None
        for part in topic.partitions
    ]
    retention = getattr(request, "retention_time", None)
    try:
        if len(request.group_id) > ID_CHARACTERS_MAX:
            raise Refusal(ErrorCode.INVALID_GROUP_ID, "too long group id")
        decision = commits.decide_commit(
            broker.state,
            Committer(
                request.group_id,
                request.member_id,
                request.generation_id_or_member_epoch,
                getattr(request, "group_instance_id", None),
            ),
            asked,
            retention_ms=-1 if retention is None else milliseconds(retention),
            version=call.version,
            now_ms=broker.now_ms(),
        )
    except Refusal as no:
        code = broker.refused(call, no)
        topics = [_committed(name, topic, [code] * len(topic.partitions)) for name, topic in zip(names, request.topics)]
        broker.answer_read(call, {"throttle_time": 0, "topics": topics})
        return
    codes = iter(decision.reply)
    topics = []
    for name, topic in zip(names, request.topics, strict=True):
        of_topic = [ErrorCode.UNKNOWN_TOPIC_ID if name is None else next(codes) for _ in topic.partitions]
        topics.append(_committed(name, topic, of_topic))
    broker.commit(call, decision._replace(reply={"throttle_time": 0, "topics": topics}))


def _name_of(broker: Broker, topic: Any, *, by_id: bool) -> str | None:
    """The topic's name, None if no topic has the id."""
    if not by_id:
        return str(topic.name)
    topic_id = given_id(topic.topic_id)
    return None if topic_id is None else broker.state.topic_names.get(topic_id)


def _committed(name: str | None, topic: Any, codes: list[ErrorCode]) -> dict[str, Any]:
    return {
        "name": name or "",
        "topic_id": getattr(topic, "topic_id", None),
        "partitions": [
            {"partition_index": part.partition_index, "error_code": int(code)}
            for part, code in zip(topic.partitions, codes, strict=True)
        ],
    }


# -- OffsetFetch ------------------------------------------------------------------------------------------------------


def offset_fetch(broker: Broker, call: Call) -> None:
    """1-10. 2 may ask for everything; 7 for stable offsets only (rule O4); 8 for several groups; 9 carries the member
    (KIP-848); 10 topic ids.
    """
    request = call.request
    require_stable = getattr(request, "require_stable", False)
    if call.version >= _FETCH_BATCHED:
        # All of a group's offsets once, however often it is named: a short request must not ask for a huge reply.
        asked = {
            (group.group_id, at if group.topics is not None else -1): group for at, group in enumerate(request.groups)
        }
        groups = [_fetch_group(broker, call, group, require_stable) for group in asked.values()]
        broker.answer_read(call, {"throttle_time": 0, "groups": groups})
    else:
        broker.answer_read(call, {"throttle_time": 0, **_fetch_group(broker, call, request, require_stable)})


def _fetch_group(broker: Broker, call: Call, group: Any, require_stable: bool) -> dict[str, Any]:
    try:
        check_fetch(
            broker.state,
            group.group_id,
            member_id=getattr(group, "member_id", None),
            member_epoch=getattr(group, "member_epoch", -1),
        )
    except Refusal as no:
        return {"group_id": group.group_id, "topics": [], "error_code": int(broker.refused(call, no))}
    by_id = call.version >= _FETCH_BY_TOPIC_ID
    if group.topics is None:
        topics = _all_offsets(broker, group.group_id, require_stable)
    else:
        topics = [_fetch_topic(broker, group.group_id, topic, require_stable, by_id) for topic in group.topics]
    return {"group_id": group.group_id, "topics": topics, "error_code": 0}


def _all_offsets(broker: Broker, group_id: str, require_stable: bool) -> list[dict[str, Any]]:
    by_topic: dict[str, list[Fetched]] = {}
    for fetched in commits.fetch_offsets(broker.state, group_id, None, require_stable=require_stable):
        by_topic.setdefault(fetched.at.topic, []).append(fetched)
    return [
        {"name": name, "topic_id": broker.state.topics[name].id, "partitions": list(map(_fetched, of_topic))}
        for name, of_topic in by_topic.items()
    ]


def _fetch_topic(broker: Broker, group_id: str, topic: Any, require_stable: bool, by_id: bool) -> dict[str, Any]:
    name = _name_of(broker, topic, by_id=by_id)
    at = [TopicPartition(name or "", index) for index in topic.partition_indexes]
    if name is None:
        found = [Fetched(one, code=ErrorCode.UNKNOWN_TOPIC_ID) for one in at]
    else:
        found = commits.fetch_offsets(broker.state, group_id, at, require_stable=require_stable)
    return {
        "name": name or "",
        "topic_id": getattr(topic, "topic_id", None),
        "partitions": list(map(_fetched, found)),
    }


def _fetched(fetched: Fetched) -> dict[str, Any]:
    return {
        "partition_index": fetched.at.partition,
        "committed_offset": fetched.offset,
        "committed_leader_epoch": fetched.leader_epoch,
        "metadata": fetched.metadata,
        "error_code": int(fetched.code),
    }


# -- OffsetDelete -----------------------------------------------------------------------------------------------------


def offset_delete(broker: Broker, call: Call) -> None:
    """0."""
    request = call.request
    at = [TopicPartition(topic.name, part.partition_index) for topic in request.topics for part in topic.partitions]
    try:
        decision = commits.decide_delete_offsets(broker.state, request.group_id, at)
    except Refusal as no:
        broker.answer_read(call, {"throttle_time": 0, "error_code": int(broker.refused(call, no)), "topics": []})
        return
    codes = iter(decision.reply)
    topics = [
        {
            "name": topic.name,
            "partitions": [
                {"partition_index": part.partition_index, "error_code": int(next(codes))} for part in topic.partitions
            ],
        }
        for topic in request.topics
    ]
    broker.commit(call, decision._replace(reply={"throttle_time": 0, "error_code": 0, "topics": topics}))
