"""OffsetCommit, OffsetFetch, OffsetDelete (rules O4, O5): a commit is answered when it is safe, a read shows only that (D2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Call, given_id, milliseconds
from oncelog.engine.groups import commits
from oncelog.engine.groups.commits import Commit, Committer, Fetched
from oncelog.engine.groups.members import check_fetch
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import TopicPartition
from oncelog.model.limits import ID_CHARACTERS_MAX
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_COMMIT_BY_TOPIC_ID: Final = 10
_FETCH_BY_TOPIC_ID: Final = 10
_FETCH_BATCHED: Final = 8
#: Offsets that are committed or deleted in one step, by a decision and an entry of its own: some five milliseconds.
_OFFSETS_A_STEP: Final = 1_000


def offset_commit(broker: Broker, call: Call) -> None:
    """2-10. Up to 4 with the client's own retention; 7 knows static members; 9 member epochs (KIP-848); 10 topic ids."""
    broker.in_steps(call, _offset_commit(broker, call))


def _offset_commit(broker: Broker, call: Call) -> Iterator[None]:
    """Of more than a thousand offsets each thousand is a decision, for each offset has an error of its own."""
    request = call.request
    names = [_name_of(broker, topic, by_id=call.version >= _COMMIT_BY_TOPIC_ID) for topic in request.topics]
    committer = Committer(
        request.group_id,
        request.member_id,
        request.generation_id_or_member_epoch,
        getattr(request, "group_instance_id", None),
    )
    places = ((name, part) for name, topic in zip(names, request.topics, strict=True) for part in topic.partitions)
    codes: list[int] = []
    while True:
        some = list(islice(places, _OFFSETS_A_STEP))
        answers = iter(_commit_some(broker, call, committer, [each for each in some if each[0] is not None]))
        codes += [ErrorCode.UNKNOWN_TOPIC_ID if name is None else next(answers) for name, _ in some]
        if len(some) < _OFFSETS_A_STEP:
            break
        yield
    rest = iter(codes)
    of_topics = [
        (name, topic, list(islice(rest, len(topic.partitions))))
        for name, topic in zip(names, request.topics, strict=True)
    ]
    yield from broker.answering_read(call, {"throttle_time": 0, "topics": Each(_committed, of_topics)})


def _commit_some(
    broker: Broker, call: Call, committer: Committer, places: Sequence[tuple[str | None, Any]]
) -> Sequence[int]:
    """Commit, or not; an error code for each."""
    retention = getattr(call.request, "retention_time", None)
    asked = [
        Commit(
            TopicPartition(name or "", part.partition_index),
            part.committed_offset,
            getattr(part, "committed_leader_epoch", -1),
            part.committed_metadata or "",
        )
        for name, part in places
    ]
    try:
        if len(committer.group_id) > ID_CHARACTERS_MAX:
            raise Refusal(ErrorCode.INVALID_GROUP_ID, "too long group id")
        decision = commits.decide_commit(
            broker.state,
            committer,
            asked,
            retention_ms=-1 if retention is None else milliseconds(retention),
            version=call.version,
            now_ms=broker.now_ms(),
        )
    except Refusal as no:
        return [broker.refused(call, no)] * len(asked)
    broker.commit(None, decision)
    codes: Sequence[int] = decision.reply
    return codes


def _name_of(broker: Broker, topic: Any, *, by_id: bool) -> str | None:
    """The topic's name, None if no topic has the id."""
    if not by_id:
        return str(topic.name)
    topic_id = given_id(topic.topic_id)
    return None if topic_id is None else broker.state.topic_names.get(topic_id)


def _committed(answered: tuple[str | None, Any, list[int]]) -> dict[str, Any]:
    name, topic, codes = answered
    return {
        "name": name or "",
        "topic_id": getattr(topic, "topic_id", None),
        "partitions": [
            {"partition_index": part.partition_index, "error_code": code}
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
        groups = Each(partial(_fetch_group, broker, call, require_stable), list(asked.values()))
        broker.answer_read(call, {"throttle_time": 0, "groups": groups})
    else:
        broker.answer_read(call, {"throttle_time": 0, **_fetch_group(broker, call, require_stable, request)})


def _fetch_group(broker: Broker, call: Call, require_stable: bool, group: Any) -> dict[str, Any]:
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
    fetch = partial(_fetched, broker, group.group_id, require_stable)
    if group.topics is None:
        topics = _all_offsets(broker, group.group_id, fetch)
    else:
        topics = Each(partial(_fetch_topic, broker, fetch, by_id), group.topics)
    return {"group_id": group.group_id, "topics": topics, "error_code": 0}


def _all_offsets(broker: Broker, group_id: str, fetch: Callable[[str, int], dict[str, Any]]) -> Each:
    by_topic: dict[str, list[int]] = {}
    for topic, index in broker.state.offsets.committed.get(group_id, ()):
        by_topic.setdefault(topic, []).append(index)

    def of_topic(name: str) -> dict[str, Any]:
        """A topic that was deleted since has no offsets, and no id."""
        topic = broker.state.topics.get(name)
        topic_id = topic.id if topic is not None else None
        return {"name": name, "topic_id": topic_id, "partitions": Each(partial(fetch, name), by_topic[name])}

    return Each(of_topic, tuple(by_topic))


def _fetch_topic(
    broker: Broker, fetch: Callable[[str, int], dict[str, Any]], by_id: bool, topic: Any
) -> dict[str, Any]:
    name = _name_of(broker, topic, by_id=by_id)
    return {
        "name": name or "",
        "topic_id": getattr(topic, "topic_id", None),
        "partitions": Each(_unknown if name is None else partial(fetch, name), topic.partition_indexes),
    }


def _unknown(index: int) -> dict[str, Any]:
    return _tree(Fetched(TopicPartition("", index), code=ErrorCode.UNKNOWN_TOPIC_ID))


def _fetched(broker: Broker, group_id: str, require_stable: bool, name: str, index: int) -> dict[str, Any]:
    at = TopicPartition(name, index)
    return _tree(commits.fetch_offset(broker.state, group_id, at, require_stable=require_stable))


def _tree(fetched: Fetched) -> dict[str, Any]:
    return {
        "partition_index": fetched.at.partition,
        "committed_offset": fetched.offset,
        "committed_leader_epoch": fetched.leader_epoch,
        "metadata": fetched.metadata,
        "error_code": int(fetched.code),
    }


# -- OffsetDelete -----------------------------------------------------------------------------------------------------


def offset_delete(broker: Broker, call: Call) -> None:
    """0. Committed offsets of partitions that no member subscribes to (KIP-496)."""
    broker.in_steps(call, _offset_delete(broker, call))


def _offset_delete(broker: Broker, call: Call) -> Iterator[None]:
    """In steps as ``_offset_commit``; what refuses a later step is the error of each partition in it."""
    request = call.request
    places = (TopicPartition(topic.name, part.partition_index) for topic in request.topics for part in topic.partitions)
    codes: list[int] = []
    while True:
        some = list(islice(places, _OFFSETS_A_STEP))
        try:
            decision = commits.decide_delete_offsets(broker.state, request.group_id, some)
        except Refusal as no:
            code = broker.refused(call, no)
            if not codes:
                tree = {"throttle_time": 0, "error_code": int(code), "topics": []}
                yield from broker.answering_read(call, tree)
                return
            codes += [code] * len(some)
        else:
            broker.commit(None, decision)
            codes += decision.reply
        if len(some) < _OFFSETS_A_STEP:
            break
        yield
    rest = iter(codes)
    of_topics = [(topic.name, topic, list(islice(rest, len(topic.partitions)))) for topic in request.topics]
    yield from broker.answering_read(call, {"throttle_time": 0, "error_code": 0, "topics": Each(_committed, of_topics)})
