"""CreateTopics 2-7, CreatePartitions 0-3, DeleteTopics 1-6: all that makes and unmakes topics.

Each answer leaves when the change is synced (rule D2), so a topic in an answer is there for everyone and for good; the
requests' own timeouts have nothing to wait for. A request of many topics is decided in parts (parts.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.apis.parts import in_parts
from oncelog.broker.call import Call, given_id
from oncelog.engine.catalog import (
    Draft,
    MorePartitions,
    Naming,
    NewTopic,
    OldTopic,
    decide_create_partitions,
    decide_create_topics,
    decide_delete_topics,
    topic_of,
)

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_BY_ID_VERSION: Final = 6
#: Partitions that are made or grown in the time that one topic takes.
_PARTITIONS_A_WEIGHT: Final = 8


def create_topics(broker: Broker, call: Call) -> None:
    """2-7. From 4 with -1 for the default number of partitions and replicas; 5 answers with settings; 7 with topic ids."""
    broker.in_steps(call, _create_topics(broker, call))


def _create_topics(broker: Broker, call: Call) -> Iterator[None]:
    request, state = call.request, broker.state
    naming = Naming(topic.name for topic in request.topics)
    draft = Draft(state) if request.validate_only else None
    # A topic that is named twice is refused once.
    once = {topic.name: topic for topic in request.topics}

    def weight(topic: Any) -> int:
        return topic_weight(max(topic.num_partitions, len(topic.assignments)), state.settings.partitions_default)

    results: list[dict[str, Any]] = []
    for some in in_parts(once.values(), weight):
        if results:
            yield
        decision = decide_create_topics(
            state,
            [_wanted(broker, topic) for topic in some],
            node_id=broker.node_id,
            validate_only=request.validate_only,
            now_ms=broker.now_ms(),
            naming=naming,
            draft=draft,
        )
        broker.commit(None, decision)
        results += decision.reply["topics"]
    yield from broker.answering_read(call, {"throttle_time": 0, "topics": results})


def _wanted(broker: Broker, topic: Any) -> NewTopic:
    return NewTopic(
        topic.name,
        broker.new_id(),
        topic.num_partitions,
        topic.replication_factor,
        tuple((config.name, config.value) for config in topic.configs),
        tuple((one.partition_index, tuple(one.broker_ids)) for one in topic.assignments),
    )


def topic_weight(partitions: int, partitions_default: int) -> int:
    """What a new topic weighs in a part of a request; -1 partitions are the default's."""
    return 1 + (partitions if partitions >= 0 else partitions_default) // _PARTITIONS_A_WEIGHT


def create_partitions(broker: Broker, call: Call) -> None:
    """0-3. A topic can only grow; the records that are there stay where they are."""
    broker.in_steps(call, _create_partitions(broker, call))


def _create_partitions(broker: Broker, call: Call) -> Iterator[None]:
    request, state = call.request, broker.state
    naming = Naming(topic.name for topic in request.topics)
    draft = Draft(state) if request.validate_only else None
    once = {topic.name: topic for topic in request.topics}
    results: list[dict[str, Any]] = []
    for some in in_parts(once.values(), lambda topic: topic_weight(max(0, topic.count), 0)):
        if results:
            yield
        wanted = [
            MorePartitions(
                topic.name,
                topic.count,
                None if topic.assignments is None else tuple(tuple(one.broker_ids) for one in topic.assignments),
            )
            for topic in some
        ]
        decision = decide_create_partitions(
            state, wanted, node_id=broker.node_id, validate_only=request.validate_only, naming=naming, draft=draft
        )
        broker.commit(None, decision)
        results += decision.reply["results"]
    yield from broker.answering_read(call, {"throttle_time": 0, "results": results})


def delete_topics(broker: Broker, call: Call) -> None:
    """1-6. 5 says in words what is wrong; 6 names topics by id too (KIP-516). Records, producers and offsets go as well."""
    broker.in_steps(call, _delete_topics(broker, call))


def _delete_topics(broker: Broker, call: Call) -> Iterator[None]:
    request, state = call.request, broker.state
    if call.version >= _BY_ID_VERSION:
        wanted = [OldTopic(topic.name, given_id(topic.topic_id)) for topic in request.topics]
    else:
        wanted = [OldTopic(name) for name in request.topic_names]
    naming = Naming(topic_of(state, old) for old in wanted)
    results: list[dict[str, Any]] = []
    for some in in_parts(dict.fromkeys(wanted), lambda old: _weight_of(broker, old)):
        if results:
            yield
        decision = decide_delete_topics(state, some, naming=naming)
        broker.commit(None, decision)
        results += decision.reply["responses"]
    yield from broker.answering_read(call, {"throttle_time": 0, "responses": results})


def _weight_of(broker: Broker, old: OldTopic) -> int:
    name = topic_of(broker.state, old)
    topic = broker.state.topics.get(name) if isinstance(name, str) else None
    return topic_weight(len(topic.logs) if topic is not None else 0, 0)
