"""Fetch sessions (KIP-227) on the wire: whose they are, and what they may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic
from tests.support.fixtures import Broker
from tests.support.raw import RawClient

Unique = Callable[[str], str]

UNKNOWN_TOPIC_OR_PARTITION = 3
ID_NOT_FOUND = 70
TOPIC_ID_ERROR = 106


def fetch(raw: RawClient, version: int, session_id: int, epoch: int, topic: dict[str, Any] | None = None) -> Any:
    """A fetch that waits for nothing; ``topic`` is how it names the topic, if it names one."""
    partitions = [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}]
    return raw.call(
        "fetch",
        version,
        max_wait=0,
        min_bytes=0,
        max_bytes=1000,
        isolation_level=1,
        session_id=session_id,
        session_epoch=epoch,
        topics=[] if topic is None else [{**topic, "partitions": partitions}],
    )


def id_of(raw: RawClient, topic: str) -> Any:
    return raw.call("metadata", 12, topics=[{"name": topic}]).topics[0].topic_id


def test_a_session_has_ids_or_names(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """KIP-516: a client that loses a topic's id and falls back to names, as the Java one does, is told to begin anew."""
    topic = create_topic(broker.bootstrap, unique("records"))
    by_name, by_id = {"topic": topic}, {"topic_id": id_of(raw, topic)}
    for first, second, named in ((12, 13, by_id), (13, 12, by_name)):
        begun = fetch(raw, first, 0, 0, by_name if first == 12 else by_id)
        assert begun.error_code == 0
        assert fetch(raw, second, begun.session_id, 1, named).error_code == TOPIC_ID_ERROR
        assert fetch(raw, second, begun.session_id, 1).error_code == TOPIC_ID_ERROR
        assert fetch(raw, first, begun.session_id, 1).error_code == 0


def test_a_session_from_before_a_restart_is_nobody_elses(own_broker: BrokerProcess, unique: Unique) -> None:
    """A consumer that comes back must not read on in the session that another one has begun meanwhile."""
    topic = create_topic(own_broker.bootstrap, unique("records"))
    with RawClient(own_broker.port) as raw:
        before = [fetch(raw, 12, 0, 0, {"topic": topic}).session_id for _ in range(20)]
    own_broker.restart()
    with RawClient(own_broker.port) as raw:
        after = [fetch(raw, 12, 0, 0, {"topic": topic}).session_id for _ in range(20)]
        assert set(before) & set(after) == set()
        for session_id in before:
            assert fetch(raw, 12, session_id, 1).error_code == ID_NOT_FOUND


def test_what_comes_after_it_was_named_is_found(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """KIP-227: a partition is named once in a session; when its topic is made, grows or is made again, it is there."""
    topic = unique("records")
    begun = fetch(raw, 12, 0, 0, {"topic": topic})
    assert begun.responses[0].partitions[0].error_code == UNKNOWN_TOPIC_OR_PARTITION
    epoch = 1

    def error_now() -> list[int]:
        nonlocal epoch
        reply = fetch(raw, 12, begun.session_id, epoch)
        epoch += 1
        return [part.error_code for each in reply.responses for part in each.partitions]

    assert error_now() == [UNKNOWN_TOPIC_OR_PARTITION]
    create_topic(broker.bootstrap, topic)
    assert error_now() == [0]
    assert raw.call("delete_topics", 5, topic_names=[topic], timeout=1000).responses[0].error_code == 0
    assert error_now() == [UNKNOWN_TOPIC_OR_PARTITION]
    create_topic(broker.bootstrap, topic)
    assert error_now() == [0]
    assert error_now() == []
