"""CreateTopics 2-7, CreatePartitions 0-3, DeleteTopics 1-6: all that makes and unmakes topics.

Each answer leaves when the change is synced (rule D2), so a topic in an answer is there for everyone and for good; the
requests' own timeouts have nothing to wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from oncelog.broker.call import Call, given_id
from oncelog.engine.catalog import (
    MorePartitions,
    NewTopic,
    OldTopic,
    decide_create_partitions,
    decide_create_topics,
    decide_delete_topics,
)

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_BY_ID_VERSION: Final = 6


def create_topics(broker: Broker, call: Call) -> None:
    """2-7. From 4 with -1 for the default number of partitions and replicas; 5 answers with settings; 7 with topic ids."""
    request = call.request
    wanted = [
        NewTopic(
            topic.name,
            broker.new_id(),
            topic.num_partitions,
            topic.replication_factor,
            tuple((config.name, config.value) for config in topic.configs),
            tuple((one.partition_index, tuple(one.broker_ids)) for one in topic.assignments),
        )
        for topic in request.topics
    ]
    decision = decide_create_topics(
        broker.state,
        wanted,
        node_id=broker.node_id,
        validate_only=request.validate_only,
        now_ms=broker.now_ms(),
    )
    broker.commit(call, decision)


def create_partitions(broker: Broker, call: Call) -> None:
    """0-3. A topic can only grow; the records that are there stay where they are."""
    request = call.request
    wanted = [
        MorePartitions(
            topic.name,
            topic.count,
            None if topic.assignments is None else tuple(tuple(one.broker_ids) for one in topic.assignments),
        )
        for topic in request.topics
    ]
    decision = decide_create_partitions(
        broker.state, wanted, node_id=broker.node_id, validate_only=request.validate_only
    )
    broker.commit(call, decision)


def delete_topics(broker: Broker, call: Call) -> None:
    """1-6. 5 says in words what is wrong; 6 names topics by id too (KIP-516). Records, producers and offsets go as well."""
    request = call.request
    if call.version >= _BY_ID_VERSION:
        wanted = [OldTopic(topic.name, given_id(topic.topic_id)) for topic in request.topics]
    else:
        wanted = [OldTopic(name) for name in request.topic_names]
    broker.commit(call, decide_delete_topics(broker.state, wanted))
