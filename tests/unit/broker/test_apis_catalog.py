"""ApiVersions, Metadata and all that administrates topics and settings, as clients see it (rules D2, P10, T10).

Every reply is read by kio, in every version that is served: the trees are whole.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kio.serial import entity_reader
from tests.support.messages import api_name, build, message_type
from tests.unit.broker.test_lane import HandLoop, HandStorage
from tests.unit.engine.world import client_batch

from oncelog.broker.apis import HANDLERS
from oncelog.broker.apis.cluster import TopicPieces
from oncelog.broker.broker import Broker
from oncelog.broker.call import Call
from oncelog.broker.peer import Peer
from oncelog.engine.decision import Decision
from oncelog.engine.partitions import decide_append
from oncelog.model.batch import check_batch
from oncelog.model.errors import ErrorCode, WireError
from oncelog.model.rows import Topic
from oncelog.wire.requests import read_request

METADATA, DESCRIBE_CONFIGS, API_VERSIONS = 3, 32, 18


class QuietPeer(Peer):
    """A client that only takes replies."""

    def __init__(self) -> None:
        self.number, self.address = 1, "127.0.0.1:5000"

    def answered(self, call: Call) -> None: ...

    def is_gone(self) -> bool:
        return False

    def close(self, why: str) -> None:
        raise AssertionError(f"closed: {why}")

    def go_on(self) -> None: ...


class SizedStorage(HandStorage):
    """Every log has as many bytes as its number."""

    def bytes_retained(self, log: int) -> int:
        return log


class Desk:
    """A broker turned by hand, and a client that speaks any version."""

    def __init__(self, *, is_settled: bool = True, **configs: str) -> None:
        self.loop, self.storage = HandLoop(), SizedStorage()
        self.ids = iter(range(1, 1_000))
        self.broker = Broker(
            storage=self.storage,
            loop=self.loop,
            clock_ms=lambda: 1_000_000,
            ids=lambda: UUID(int=next(self.ids)),
            log=SimpleNamespace(debug=lambda *_, **__: None),
            configs={name.replace("_", "."): value for name, value in configs.items()},
        )
        self.broker.open()
        if is_settled:
            self.settle()

    def settle(self) -> None:
        """Everything that was appended becomes written and synced."""
        while self.loop.soon:
            self.loop.turn()
        self.storage.position_synced = self.storage.position_written = self.storage.position_appended
        self.broker.lane.synced(self.storage.position_appended)

    def send(self, api_key: int, version: int, *, client: str = "test", **request: Any) -> Call:
        entity = build(message_type(api_name(api_key), version, "request"), request)
        call = Call(QuietPeer(), api_key, version, 1, client, entity)
        self.broker.route(call)
        return call

    def ask(self, api_key: int, version: int, **request: Any) -> Any:
        """The reply, once everything is synced."""
        call = self.send(api_key, version, **request)
        self.settle()
        return read(call)

    def create(self, *names: str, partitions: int = 1, **configs: str) -> Any:
        pairs = [{"name": name.replace("_", "."), "value": value} for name, value in configs.items()]
        topics = [
            {"name": name, "num_partitions": partitions, "replication_factor": 1, "configs": pairs} for name in names
        ]
        return self.ask(19, 7, topics=topics)

    def produce(self, topic: str, count: int) -> None:
        log = self.broker.state.log_of(topic, 0)
        assert log is not None
        data = client_batch(count=count)
        header = check_batch(data, bytes_max=10_000)
        decision = decide_append(
            self.broker.state, log, header, data, transactional_id=None, version=9, now_ms=self.broker.now_ms()
        )
        self.broker.lane.commit(decision, self.broker.now_ms())
        self.settle()


def read(call: Call) -> Any:
    assert call.body is not None, "no answer"
    body = call.body if isinstance(call.body, bytes) else b"".join(call.body)
    entity, size = entity_reader(message_type(api_name(call.api_key), call.version, "response"))(body, 0)
    assert size == len(body)
    return entity


def codes(results: Any) -> list[int]:
    return [int(result.error_code) for result in results]


def versions_of(*api_keys: int) -> list[tuple[int, int]]:
    return [
        (key, version)
        for key in api_keys
        for version in range(HANDLERS[key].version_min, HANDLERS[key].version_max + 1)
    ]


# -- ApiVersions ------------------------------------------------------------------------------------------------------

SOFTWARE = {"client_software_name": "test", "client_software_version": "1.0"}


def software(version: int) -> dict[str, str]:
    return SOFTWARE if version >= 3 else {}


@pytest.mark.parametrize("version", range(5))
def test_all_that_is_served_is_told(version: int) -> None:
    """P10: Produce is shown from 0."""
    reply = Desk().ask(API_VERSIONS, version, **software(version))
    told = {api.api_key: (api.min_version, api.max_version) for api in reply.api_keys}
    assert set(told) == set(HANDLERS)
    assert told[0] == (0, 13)
    assert told[1] == (4, 18)
    assert reply.error_code == 0


@pytest.mark.parametrize("version", [3, 4])
def test_features_are_told(version: int) -> None:
    """T10: transaction.version 2 with an epoch that is not negative makes clients speak TV2."""
    reply = Desk().ask(API_VERSIONS, version, **SOFTWARE)
    finalized = {one.name: (one.min_version_level, one.max_version_level) for one in reply.finalized_features}
    assert finalized == {"transaction.version": (2, 2), "group.version": (1, 1)}
    assert reply.finalized_features_epoch >= 0
    lowest = 1 if version == 3 else 0
    supported = {one.name: (one.min_version, one.max_version) for one in reply.supported_features}
    assert supported == {"transaction.version": (lowest, 2), "group.version": (lowest, 1)}


@pytest.mark.parametrize("name", ["", "-a", "a b", "a_b"])
def test_clients_name_themselves_properly(name: str) -> None:
    reply = Desk().ask(API_VERSIONS, 3, client_software_name=name, client_software_version="1")
    assert (reply.error_code, reply.api_keys) == (ErrorCode.INVALID_REQUEST, ())


# -- Metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(14))
def test_metadata_shows_topics(version: int) -> None:
    desk = Desk()
    created = {topic.name: topic.topic_id for topic in desk.create("a", "b", partitions=3).topics}
    asked = {} if version == 0 else {"topics": None}
    reply = desk.ask(METADATA, version, **asked)
    (broker,) = reply.brokers
    assert (broker.node_id, broker.host, broker.port) == (1, "127.0.0.1", 9092)
    assert {topic.name: len(topic.partitions) for topic in reply.topics} == {"a": 3, "b": 3}
    assert codes(reply.topics) == [0, 0]
    assert [part.partition_index for part in reply.topics[0].partitions] == [0, 1, 2]
    for part in reply.topics[1].partitions:
        assert (part.error_code, part.leader_id, part.replica_nodes, part.isr_nodes) == (0, 1, (1,), (1,))
        assert getattr(part, "leader_epoch", 0) == 0
        assert getattr(part, "offline_replicas", ()) == ()
    if version >= 10:
        assert {topic.name: topic.topic_id for topic in reply.topics} == created
    if version >= 2:
        assert reply.cluster_id == desk.broker.cluster_id
    if version >= 1:
        assert reply.controller_id == 1
        assert not reply.topics[0].is_internal


@pytest.mark.parametrize("version", range(1, 14))
def test_metadata_of_no_topics(version: int) -> None:
    desk = Desk()
    desk.create("a")
    assert desk.ask(METADATA, version, topics=[]).topics == ()


@pytest.mark.parametrize("version", range(14))
def test_names_nobody_has(version: int) -> None:
    desk = Desk(auto_create_topics_enable="false")
    reply = desk.ask(METADATA, version, topics=[{"name": "x"}, {"name": "a/b"}])
    assert codes(reply.topics) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.INVALID_TOPIC_EXCEPTION]
    assert [topic.name for topic in reply.topics] == ["x", "a/b"]
    assert all(topic.partitions == () for topic in reply.topics)


@pytest.mark.parametrize("version", range(10, 14))
def test_topics_by_id(version: int) -> None:
    desk = Desk()
    known = desk.create("a").topics[0].topic_id
    asked = [{"topic_id": known, "name": None}, {"topic_id": UUID(int=999), "name": None}]
    found, unknown = desk.ask(METADATA, version, topics=asked).topics
    assert (found.name, found.error_code) == ("a", 0)
    assert (unknown.error_code, unknown.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, UUID(int=999))
    assert unknown.name == (None if version >= 12 else "")


@pytest.mark.parametrize("version", range(14))
def test_a_topic_that_is_asked_for_is_made(version: int) -> None:
    """The reply has it already, and leaves when it is synced (rule D2)."""
    desk = Desk(num_partitions="2")
    call = desk.send(METADATA, version, topics=[{"name": "new"}, {"name": "a/b"}])
    assert call.body is None
    desk.settle()
    made, refused = read(call).topics
    assert (made.name, made.error_code, len(made.partitions)) == ("new", 0, 2)
    assert refused.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert set(desk.broker.state.topics) == {"new"}


def test_topics_are_only_made_if_client_and_broker_want_it() -> None:
    asked = {"topics": [{"name": "new"}]}
    assert codes(Desk().ask(METADATA, 4, allow_auto_topic_creation=False, **asked).topics) == [3]
    assert codes(Desk(auto_create_topics_enable="false").ask(METADATA, 4, **asked).topics) == [3]
    assert codes(Desk().ask(METADATA, 4, **asked).topics) == [0]


def test_each_topic_is_shown_once() -> None:
    """Law 8: a short request that names a large topic a thousand times doesn't get a huge reply."""
    desk = Desk()
    desk.create("t", partitions=10)
    reply = desk.ask(METADATA, 9, topics=[{"name": "t"}, {"name": "a/b"}] * 1_000)
    assert [(topic.name, len(topic.partitions)) for topic in reply.topics] == [("t", 10), ("a/b", 0)]
    resource = {"resource_type": 2, "resource_name": "t", "configuration_keys": None}
    reply = desk.ask(32, 4, resources=[resource] * 3)
    assert codes(reply.results) == [ErrorCode.INVALID_REQUEST] * 3
    assert reply.results[0].configs == ()


def test_librdkafka_asks_for_all_topics() -> None:
    """Its null array has four bytes where one is enough; as in Kafka the rest means nothing. More than that is an error."""
    desk = Desk()
    desk.create("t")
    frame = bytes.fromhex("0003000d00000003000772646b61666b610000000000010000")
    request = read_request(frame, {METADATA: (0, 13)})
    call = Call(QuietPeer(), METADATA, 13, 3, request.client_id, request.body)
    desk.broker.route(call)
    desk.settle()
    assert [topic.name for topic in read(call).topics] == ["t"]
    with pytest.raises(WireError, match="4 bytes follow"):
        read_request(frame + b"\0", {METADATA: (0, 13)})


def test_operations_are_told_on_request() -> None:
    desk = Desk()
    desk.create("a")
    unasked = -(2**31)
    for wanted in (True, False, True):
        reply = desk.ask(
            METADATA,
            8,
            topics=None,
            include_cluster_authorized_operations=wanted,
            include_topic_authorized_operations=wanted,
        )
        assert (reply.cluster_authorized_operations != unasked) is wanted
        assert (reply.topics[0].topic_authorized_operations != unasked) is wanted


def test_metadata_shows_only_what_is_synced() -> None:
    """D2: a reply that has seen a change waits for it; one that has not does not wait for anything."""
    desk = Desk()
    desk.create("old")
    first = desk.send(METADATA, 12, topics=None)
    assert first.body is not None
    desk.send(19, 7, topics=[{"name": "new", "num_partitions": 1, "replication_factor": 1}])
    second = desk.send(METADATA, 12, topics=None)
    assert second.body is None
    desk.settle()
    assert len(read(second).topics) == 2
    assert len(read(first).topics) == 1


def test_the_cluster_has_one_id() -> None:
    """D2: nobody is told an id that a crash could take back."""
    desk = Desk(is_settled=False)
    calls = [desk.send(METADATA, 12, topics=None), desk.send(60, 2)]
    assert [call.body for call in calls] == [None, None]
    desk.settle()
    assert {read(call).cluster_id for call in calls} == {desk.broker.cluster_id}


def test_metadata_follows_every_change() -> None:
    """Pieces are kept only while the topic is the same."""
    desk = Desk()
    desk.create("t")

    def seen() -> list[tuple[str, int, UUID]]:
        return [(one.name, len(one.partitions), one.topic_id) for one in desk.ask(METADATA, 13, topics=None).topics]

    before = seen()
    desk.ask(37, 3, topics=[{"name": "t", "count": 4, "assignments": None}])
    assert [count for _, count, _ in seen()] == [4]
    desk.ask(20, 6, topics=[{"name": "t"}])
    assert seen() == []
    desk.create("t")
    assert [count for _, count, _ in seen()] == [1]
    assert seen()[0][2] != before[0][2]


def test_kept_pieces_are_bounded() -> None:
    pieces = TopicPieces()
    kept = [Topic(str(number), UUID(int=number), (), {}, 0) for number in range(10)]
    for topic in kept * 3:
        pieces.piece(13, topic, leader_id=1, with_operations=False, kept_max=4)
        assert len(pieces._kept) <= 4


# -- topics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api_key", "version"), versions_of(19))
def test_create_topics(api_key: int, version: int) -> None:
    """Each topic has its own error; the answer waits until the topics are synced (rule D2)."""
    desk = Desk()
    topics = [
        {"name": "a", "num_partitions": 2, "replication_factor": 1, "configs": [{"name": "retention.ms", "value": "5"}]},
        {"name": "b", "num_partitions": 1, "replication_factor": 3},
        {"name": "c", "num_partitions": -1, "replication_factor": -1,
         "assignments": [{"partition_index": 0, "broker_ids": [1]}]},
    ]  # fmt: skip
    call = desk.send(api_key, version, topics=topics)
    assert call.body is None
    desk.settle()
    reply = read(call)
    assert codes(reply.topics) == [0, ErrorCode.INVALID_REPLICATION_FACTOR, 0]
    assert "ask for 1" in reply.topics[1].error_message
    assert {name: len(topic.logs) for name, topic in desk.broker.state.topics.items()} == {"a": 2, "c": 1}
    if version >= 5:
        assert (reply.topics[0].num_partitions, reply.topics[0].replication_factor) == (2, 1)
        shown = {config.name: (config.value, config.config_source) for config in reply.topics[0].configs}
        assert shown["retention.ms"] == ("5", 1)
    if version >= 7:
        assert reply.topics[0].topic_id == desk.broker.state.topics["a"].id


@pytest.mark.parametrize(("api_key", "version"), versions_of(20))
def test_delete_topics(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("a", "b")
    by_id = desk.broker.state.topics["b"].id
    if version >= 6:
        asked = {"topics": [{"name": "a"}, {"name": "x"}, {"name": None, "topic_id": by_id}]}
    else:
        asked = {"topic_names": ["a", "x", "b"]}
    reply = desk.ask(api_key, version, **asked)
    assert codes(reply.responses) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0]
    assert [one.name for one in reply.responses] == ["a", "x", "b"]
    assert desk.broker.state.topics == {}


@pytest.mark.parametrize(("api_key", "version"), versions_of(37))
def test_create_partitions(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("a", "b")
    asked = [
        {"name": "a", "count": 3, "assignments": None},
        {"name": "b", "count": 2, "assignments": [{"broker_ids": [1]}]},
        {"name": "x", "count": 2, "assignments": None},
    ]
    assert codes(desk.ask(api_key, version, topics=asked).results) == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert [len(topic.logs) for topic in desk.broker.state.topics.values()] == [3, 2]


def test_validation_only_says_what_would_be() -> None:
    desk = Desk()
    asked = [{"name": "a", "num_partitions": 2, "replication_factor": 1}]
    assert codes(desk.ask(19, 7, topics=asked, validate_only=True).topics) == [0]
    assert desk.broker.state.topics == {}


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api_key", "version"), versions_of(32))
def test_describe_configs(api_key: int, version: int) -> None:
    desk = Desk(log_retention_ms="7")
    desk.create("t", max_message_bytes="9")
    resources = [
        {"resource_type": 2, "resource_name": "t", "configuration_keys": None},
        {"resource_type": 2, "resource_name": "x", "configuration_keys": None},
        {"resource_type": 4, "resource_name": "1", "configuration_keys": ["log.retention.ms"]},
        {"resource_type": 4, "resource_name": "", "configuration_keys": None},
        {"resource_type": 8, "resource_name": "1", "configuration_keys": None},
    ]
    more = {"include_documentation": True} if version >= 3 else {}
    reply = desk.ask(api_key, version, resources=resources, include_synonyms=True, **more)
    assert codes(reply.results) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0, 0, ErrorCode.INVALID_REQUEST]
    topic = {config.name: config for config in reply.results[0].configs}
    assert (topic["max.message.bytes"].value, topic["max.message.bytes"].config_source) == ("9", 1)
    assert (topic["retention.ms"].value, topic["retention.ms"].config_source) == ("7", 4)
    assert [(one.name, one.value, one.source) for one in topic["retention.ms"].synonyms] == [
        ("log.retention.ms", "7", 4),
        ("log.retention.hours", "168", 5),
    ]
    assert not topic["retention.ms"].read_only
    (broker,) = reply.results[2].configs
    assert (broker.name, broker.value, broker.config_source, broker.read_only) == ("log.retention.ms", "7", 4, False)
    assert reply.results[3].configs == ()
    if version >= 3:
        assert topic["retention.ms"].config_type == 5
        assert topic["retention.ms"].documentation.startswith("How long records are kept")


def test_what_is_not_asked_for_is_not_told() -> None:
    desk = Desk()
    reply = desk.ask(32, 4, resources=[{"resource_type": 4, "resource_name": "1", "configuration_keys": []}])
    configs = {config.name: config for config in reply.results[0].configs}
    assert configs["num.io.threads"].value == "8"
    assert configs["transaction.max.timeout.ms"].read_only
    assert all(config.synonyms == () and config.documentation is None for config in configs.values())


@pytest.mark.parametrize(("api_key", "version"), versions_of(33, 44))
def test_alter_configs(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("t", max_message_bytes="9")
    operation = {"config_operation": 0} if api_key == 44 else {}
    change = [{"name": "retention.ms", "value": "5", **operation}]
    resources = [
        {"resource_type": 2, "resource_name": "t", "configs": change},
        {"resource_type": 2, "resource_name": "x", "configs": change},
        {"resource_type": 4, "resource_name": "", "configs": [{"name": "num.partitions", "value": "3", **operation}]},
        {"resource_type": 4, "resource_name": "1", "configs": change},
    ]
    call = desk.send(api_key, version, resources=resources)
    assert call.body is None
    desk.settle()
    reply = read(call)
    assert codes(reply.responses) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0, ErrorCode.INVALID_REQUEST]
    assert [one.resource_name for one in reply.responses] == ["t", "x", "", "1"]
    kept = {"max.message.bytes": "9"} if api_key == 44 else {}
    assert desk.broker.state.topics["t"].configs == {"retention.ms": "5", **kept}
    assert desk.broker.state.settings.partitions_default == 3


@pytest.mark.parametrize(("name", "source"), [("1", 2), ("", 3)])
def test_a_dynamic_value_is_shown_for_who_asks(name: str, source: int) -> None:
    """One node: what is set for this broker and for all is the same, and is called as it was asked for."""
    desk = Desk()
    change = [{"name": "num.partitions", "value": "3", "config_operation": 0}]
    desk.ask(44, 1, resources=[{"resource_type": 4, "resource_name": "1", "configs": change}])
    resource = {"resource_type": 4, "resource_name": name, "configuration_keys": ["num.partitions"]}
    (config,) = desk.ask(32, 4, resources=[resource]).results[0].configs
    assert (config.value, config.config_source) == ("3", source)


def test_resources_with_settings_are_listed() -> None:
    desk = Desk()
    desk.create("a", "b")
    assert desk.ask(74, 0).config_resources == ()
    listed = desk.ask(74, 1).config_resources
    assert [(one.resource_type, one.resource_name) for one in listed] == [(2, "a"), (2, "b"), (4, "1")]
    assert len(desk.ask(74, 1, resource_types=[2]).config_resources) == 2
    assert desk.ask(74, 1, resource_types=[2, 5]).error_code == ErrorCode.UNSUPPORTED_VERSION


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api_key", "version"), versions_of(21))
def test_delete_records(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("a", "b", partitions=2)
    desk.produce("a", 5)
    topics = [
        {
            "name": "a",
            "partitions": [{"partition_index": 0, "offset": 3}, {"partition_index": 1, "offset": 3}],
        },
        {"name": "b", "partitions": [{"partition_index": 1, "offset": -1}, {"partition_index": 7, "offset": 0}]},
    ]
    reply = desk.ask(api_key, version, topics=topics)
    assert [
        [(part.partition_index, part.low_watermark, int(part.error_code)) for part in topic.partitions]
        for topic in reply.topics
    ] == [[(0, 3, 0), (1, -1, 1)], [(1, 0, 0), (7, -1, 3)]]
    assert [call for call in desk.storage.let_go if call[0] == "trim"] != []


@pytest.mark.parametrize(("api_key", "version"), versions_of(23))
def test_offset_for_leader_epoch(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("t")
    desk.produce("t", 5)

    def asked(epoch: int, *, partition: int = 0, current: int = 0) -> dict[str, int]:
        return {"partition": partition, "leader_epoch": epoch, "current_leader_epoch": current}

    partitions = [asked(0), asked(1), asked(-1), asked(0, current=1), asked(0, partition=9)]
    reply = desk.ask(api_key, version, topics=[{"topic": "t", "partitions": partitions}])
    found = [(int(one.error_code), one.leader_epoch, one.end_offset) for one in reply.topics[0].partitions]
    assert found == [(0, 0, 5), (0, -1, -1), (0, -1, -1), (75, -1, -1), (3, -1, -1)]


# -- the cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api_key", "version"), versions_of(60))
def test_describe_cluster(api_key: int, version: int) -> None:
    desk = Desk()
    reply = desk.ask(api_key, version, include_cluster_authorized_operations=True)
    assert (reply.error_code, reply.cluster_id, reply.controller_id) == (0, desk.broker.cluster_id, 1)
    assert [(one.broker_id, one.host, one.port) for one in reply.brokers] == [(1, "127.0.0.1", 9092)]
    assert reply.cluster_authorized_operations > 0
    if version >= 1:
        assert desk.ask(api_key, version, endpoint_type=2).error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE
        assert desk.ask(api_key, version, endpoint_type=3).error_code == ErrorCode.UNSUPPORTED_ENDPOINT_TYPE


def described(desk: Desk, limit: int, cursor: tuple[str, int] | None, *names: str) -> tuple[Any, Any]:
    at = None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]}
    topics = [{"name": name} for name in names]
    reply = desk.ask(75, 0, topics=topics, response_partition_limit=limit, cursor=at)
    found = [(one.name, [part.partition_index for part in one.partitions], int(one.error_code)) for one in reply.topics]
    after = reply.next_cursor
    return found, None if after is None else (after.topic_name, after.partition_index)


def test_partitions_are_described_page_by_page() -> None:
    desk = Desk()
    desk.create("b", partitions=3)
    desk.create("a", partitions=2)
    assert described(desk, 100, None) == ([("a", [0, 1], 0), ("b", [0, 1, 2], 0)], None)
    assert described(desk, 3, None) == ([("a", [0, 1], 0), ("b", [0], 0)], ("b", 1))
    assert described(desk, 2, ("b", 1)) == ([("b", [1, 2], 0)], None)
    assert described(desk, 2, None) == ([("a", [0, 1], 0)], ("b", 0))
    assert described(desk, 9, None, "b", "x", "a/b") == (
        [("a/b", [], 17), ("b", [0, 1, 2], 0), ("x", [], 3)],
        None,
    )
    assert described(desk, 9, ("b", -1), "b") == ([("b", [], 42)], None)
    assert described(desk, 0, None, "a") == ([("a", [0], 0)], ("a", 1))


def test_pages_are_bounded_by_the_broker() -> None:
    desk = Desk(max_request_partition_size_limit="2")
    desk.create("a", partitions=3)
    assert described(desk, 100, None) == ([("a", [0, 1], 0)], ("a", 2))
    (topic,) = desk.ask(75, 0, topics=[], response_partition_limit=2, cursor=None).topics
    assert topic.topic_authorized_operations > 0
    (partition, _) = topic.partitions
    assert (partition.leader_id, partition.isr_nodes, partition.eligible_leader_replicas) == (1, (1,), ())


@pytest.mark.parametrize(("api_key", "version"), versions_of(35))
def test_describe_log_dirs(api_key: int, version: int) -> None:
    desk = Desk()
    desk.broker.folder = "data"
    desk.create("a", partitions=2)
    desk.create("b")
    for asked, shown in [
        (None, {"a": [1, 2], "b": [3]}),
        ([{"topic": "a", "partitions": [1, 9]}, {"topic": "x", "partitions": [0]}], {"a": [2]}),
    ]:
        (result,) = desk.ask(api_key, version, topics=asked).results
        assert (result.error_code, result.log_dir) == (0, "data")
        assert {one.name: [part.partition_size for part in one.partitions] for one in result.topics} == shown


@pytest.mark.parametrize(("api_key", "version"), versions_of(43))
def test_elect_leaders(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("a")
    reply = desk.ask(api_key, version, topic_partitions=[{"topic": "a", "partitions": [0, 1]}])
    assert codes(reply.replica_election_results[0].partition_result) == [ErrorCode.ELECTION_NOT_NEEDED, 3]
    assert desk.ask(api_key, version, topic_partitions=None).replica_election_results == ()
    if version >= 1:
        reply = desk.ask(api_key, version, topic_partitions=None, election_type=7)
        assert reply.error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(("api_key", "version"), versions_of(45))
def test_alter_partition_reassignments(api_key: int, version: int) -> None:
    desk = Desk()
    desk.create("a")
    wanted = [(0, [1]), (0, [2]), (0, None), (5, [1])]
    partitions = [{"partition_index": index, "replicas": replicas} for index, replicas in wanted]
    reply = desk.ask(api_key, version, topics=[{"name": "a", "partitions": partitions}])
    assert codes(reply.responses[0].partitions) == [
        0,
        ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        ErrorCode.NO_REASSIGNMENT_IN_PROGRESS,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]


def test_nothing_is_being_reassigned() -> None:
    desk = Desk()
    desk.create("a")
    reply = desk.ask(46, 0, topics=None)
    assert (reply.error_code, reply.topics) == (0, ())


def test_a_topic_that_only_a_lost_entry_had_is_not_shown() -> None:
    """D2: no reply showed it, so nobody misses it after the crash."""
    desk = Desk()
    call = desk.send(19, 7, topics=[{"name": "a", "num_partitions": 1, "replication_factor": 1}])
    shown = [desk.send(METADATA, 12, topics=None), desk.send(75, 0, topics=[], response_partition_limit=9)]
    assert [one.body for one in (call, *shown)] == [None, None, None]
    assert desk.broker.lane.catalog_position > desk.storage.position_synced


def test_decisions_without_changes_are_answered() -> None:
    desk = Desk()
    desk.broker.commit(None, Decision())
    call = desk.send(20, 6, topics=[{"name": "nobody"}])
    desk.settle()
    assert codes(read(call).responses) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
