"""Topics are made, grown and deleted, and their records deleted; each resource of a request has its own error."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from tests.unit.engine.world import World, everything, refusal

from oncelog.engine import catalog
from oncelog.engine.catalog import (
    DeleteUpTo,
    MorePartitions,
    NewTopic,
    OldTopic,
    check_name,
    decide_create_partitions,
    decide_create_topics,
    decide_delete_records,
    decide_delete_topics,
)
from oncelog.engine.decision import Level
from oncelog.model.errors import ErrorCode
from oncelog.model.rows import GroupOffset, LogStart, PendingOffset

NODE = 1


def new(name: str, *arguments: Any, **named: Any) -> NewTopic:
    return NewTopic(name, UUID(int=sum(name.encode()) + 1_000), *arguments, **named)


def create(world: World, *wanted: NewTopic, validate_only: bool = False) -> dict[str, dict[str, Any]]:
    """The result of each topic; the state is untouched by deciding, and replay gives what is live."""
    before = everything(world.state)
    decision = decide_create_topics(world.state, wanted, node_id=NODE, validate_only=validate_only, now_ms=world.now_ms)
    assert everything(world.state) == before
    assert decision.level is Level.SYNCED
    reply = world.apply(decision)
    assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())
    return {result["name"]: result for result in reply["topics"]}


def code_of(world: World, wanted: NewTopic) -> ErrorCode:
    result = create(world, wanted)[wanted.name]
    assert (result["error_message"] is None) == (result["error_code"] == 0)
    assert (wanted.name in world.state.topics) == (result["error_code"] in (0, ErrorCode.TOPIC_ALREADY_EXISTS))
    return result["error_code"]


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "...", "x" * 249, "__consumer_offsets"])
def test_names_that_may_be(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "a:b", "\0"])
def test_names_that_may_not_be(name: str) -> None:
    assert refusal(check_name, name) is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert code_of(World(), new(name)) is ErrorCode.INVALID_TOPIC_EXCEPTION


def test_a_topic_is_made() -> None:
    world = World()
    wanted = new("t", 3, 1, configs=(("retention.ms", "5"),))
    result = create(world, wanted)["t"]
    topic = world.state.topics["t"]
    assert (topic.id, len(topic.logs), topic.configs, topic.created_ms) == (
        wanted.id,
        3,
        {"retention.ms": "5"},
        world.now_ms,
    )
    assert [world.log("t", index).settings.retention_ms for index in range(3)] == [5, 5, 5]
    assert (result["topic_id"], result["num_partitions"], result["replication_factor"]) == (wanted.id, 3, 1)
    shown = {config["name"]: (config["value"], config["config_source"]) for config in result["configs"]}
    assert shown["retention.ms"] == ("5", 1)
    assert shown["flush.messages"] == (str(2**63 - 1), 5)


def test_the_broker_says_how_many_partitions() -> None:
    world = World()
    world.state.settings = world.state.settings._replace(partitions_default=4)
    assert create(world, new("t"))["t"]["num_partitions"] == 4


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (new("__cluster_metadata"), ErrorCode.INVALID_REQUEST),
        (new("t", 0), ErrorCode.INVALID_PARTITIONS),
        (new("t", -2), ErrorCode.INVALID_PARTITIONS),
        (new("t", 10_001), ErrorCode.INVALID_PARTITIONS),
        (new("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR),
        (new("t", 1, -2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (new("t", 1, 3), ErrorCode.INVALID_REPLICATION_FACTOR),
        (new("t", configs=(("retention.ms", None),)), ErrorCode.INVALID_CONFIG),
        (new("t", configs=(("retention.ms", "x"),)), ErrorCode.INVALID_CONFIG),
        (new("t", configs=(("no.such", "1"),)), ErrorCode.INVALID_CONFIG),
        (new("t", 1, -1, assignments=((0, (1,)),)), ErrorCode.INVALID_REQUEST),
        (new("t", -1, 1, assignments=((0, (1,)),)), ErrorCode.INVALID_REQUEST),
        (new("t", assignments=((0, (2,)),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", assignments=((0, (1, 2)),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", assignments=((0, (1, 1)),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", assignments=((0, ()),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", assignments=((1, (1,)),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", assignments=((0, (1,)), (0, (1,)))), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (new("t", 1, 1), ErrorCode.NONE),
        (new("t", 1, -1), ErrorCode.NONE),
        (new("t", assignments=((1, (1,)), (0, (1,)))), ErrorCode.NONE),
    ],
)
def test_what_a_topic_may_be(wanted: NewTopic, code: ErrorCode) -> None:
    assert code_of(World(), wanted) is code


def test_a_name_is_used_once() -> None:
    world = World()
    world.topic("a.b")
    assert code_of(world, new("a.b")) is ErrorCode.TOPIC_ALREADY_EXISTS
    assert code_of(world, new("a_b")) is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert code_of(world, new("a-b")) is ErrorCode.NONE
    results = create(world, new("c.d"), new("c_d"))
    assert [result["error_code"] for result in results.values()] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION]


def test_each_topic_of_a_request_has_its_own_error() -> None:
    world = World()
    results = create(world, new("a"), new("b"), new("b"), new("c", 0), new("d"))
    assert {name: int(result["error_code"]) for name, result in results.items()} == {"a": 0, "b": 42, "c": 37, "d": 0}
    assert set(world.state.topics) == {"a", "d"}
    assert len(world.journal) == 1


def test_validation_makes_nothing() -> None:
    world = World()
    assert create(world, new("a", 2), validate_only=True)["a"]["num_partitions"] == 2
    assert world.state.topics == {}
    assert world.journal == []


def test_topics_and_partitions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "TOPICS_MAX", 3)
    monkeypatch.setattr(catalog, "PARTITIONS_MAX", 5)
    world = World()
    codes = [int(result["error_code"]) for result in create(world, new("a", 4), new("b", 2), new("c", 1)).values()]
    assert codes == [0, ErrorCode.POLICY_VIOLATION, 0]
    more = decide_create_partitions(world.state, [MorePartitions("c", 2)], node_id=NODE, validate_only=False)
    assert [result["error_code"] for result in more.reply["results"]] == [ErrorCode.POLICY_VIOLATION]
    monkeypatch.setattr(catalog, "PARTITIONS_MAX", 50)
    codes = [int(result["error_code"]) for result in create(world, new("d"), new("e")).values()]
    assert codes == [0, ErrorCode.POLICY_VIOLATION]


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: one request can't hold the loop for long, nor can one name make a long reply."""
    monkeypatch.setattr(catalog, "RESOURCES_PER_REQUEST_MAX", 2)
    world = World()
    assert {int(one["error_code"]) for one in create(world, new("a"), new("b"), new("c")).values()} == {44}
    assert {int(one["error_code"]) for one in create(world, new("a"), new("b")).values()} == {0}
    assert {code for *_, code in delete(world, *map(OldTopic, "abc"))} == {44}
    assert set(grow(world, *(MorePartitions(name, 2) for name in "abc")).values()) == {44}
    for reply in (
        decide_create_topics(world.state, [new("x" * 9_999)], node_id=1, validate_only=False, now_ms=0).reply["topics"],
        decide_delete_topics(world.state, [OldTopic("x" * 9_999)]).reply["responses"],
        decide_create_partitions(world.state, [MorePartitions("x" * 9_999, 2)], node_id=1, validate_only=False).reply[
            "results"
        ],
    ):
        assert len(reply[0]["error_message"]) < 300


def grow(world: World, *wanted: MorePartitions, validate_only: bool = False) -> dict[str, int]:
    decision = decide_create_partitions(world.state, wanted, node_id=NODE, validate_only=validate_only)
    reply = world.apply(decision)
    assert everything(world.replayed()) == everything(world.state)
    for result in reply["results"]:
        assert (result["error_message"] is None) == (result["error_code"] == 0)
    return {result["name"]: int(result["error_code"]) for result in reply["results"]}


def test_partitions_are_added() -> None:
    world = World()
    first = world.topic("a", 2)
    world.topic("b")
    world.produce(log=first)
    assert grow(world, MorePartitions("a", 4), MorePartitions("b", 2, ((1,),))) == {"a": 0, "b": 0}
    topic = world.state.topics["a"]
    assert [world.log("a", index).offset_next for index in range(4)] == [1, 0, 0, 0]
    assert len(set(topic.logs) | set(world.state.topics["b"].logs)) == 6
    assert len(world.journal) == 4


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (MorePartitions("x", 2), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (MorePartitions("a", 2), ErrorCode.INVALID_PARTITIONS),
        (MorePartitions("a", 1), ErrorCode.INVALID_PARTITIONS),
        (MorePartitions("a", -1), ErrorCode.INVALID_PARTITIONS),
        (MorePartitions("a", 10_001), ErrorCode.INVALID_PARTITIONS),
        (MorePartitions("a", 3, ((2,),)), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (MorePartitions("a", 3, ((1,), (1,))), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (MorePartitions("a", 3, ()), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_partitions_that_cannot_be_added(wanted: MorePartitions, code: ErrorCode) -> None:
    world = World()
    world.topic("a", 2)
    assert grow(world, wanted) == {wanted.topic: code}
    assert len(world.state.topics["a"].logs) == 2


def test_growing_twice_in_a_request_and_only_validating() -> None:
    world = World()
    world.topic("a")
    assert grow(world, MorePartitions("a", 2), MorePartitions("a", 3)) == {"a": ErrorCode.INVALID_REQUEST}
    assert grow(world, MorePartitions("a", 2), validate_only=True) == {"a": 0}
    assert len(world.state.topics["a"].logs) == 1


def delete(world: World, *wanted: OldTopic) -> list[tuple[str | None, UUID | None, int]]:
    reply = world.apply(decide_delete_topics(world.state, wanted))
    assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())
    return [(result["name"], result["topic_id"], int(result["error_code"])) for result in reply["responses"]]


def test_topics_are_deleted_by_name_and_id() -> None:
    world = World()
    ids = {name: world.state.topics[world.topic(name).topic].id for name in "abc"}
    assert delete(world, OldTopic("a"), OldTopic(None, ids["b"])) == [("a", ids["a"], 0), ("b", ids["b"], 0)]
    assert set(world.state.topics) == {"c"}
    assert len(world.state.logs) == 1


def test_topics_that_cannot_be_deleted() -> None:
    world = World()
    topic_id = world.state.topics[world.topic("a").topic].id
    nobody = UUID(int=77)
    assert delete(world, OldTopic("x"), OldTopic(None, nobody), OldTopic(None), OldTopic("a", topic_id)) == [
        ("x", None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (None, nobody, ErrorCode.UNKNOWN_TOPIC_ID),
        (None, None, ErrorCode.INVALID_REQUEST),
        ("a", topic_id, ErrorCode.INVALID_REQUEST),
    ]
    assert [code for *_, code in delete(world, OldTopic("a"), OldTopic(None, topic_id))] == [42, 42]
    assert delete(world, OldTopic("a"), OldTopic("a")) == [("a", None, 42)]
    world.state.settings = world.state.settings._replace(is_deletion_allowed=False)
    assert [code for *_, code in delete(world, OldTopic("a"))] == [ErrorCode.TOPIC_DELETION_DISABLED]
    assert "a" in world.state.topics


def offset(group: str, topic: str, partition: int = 0) -> GroupOffset:
    return GroupOffset(group, topic, partition, 5, -1, "", 0, -1, 1)


def test_committed_offsets_go_with_their_topic() -> None:
    """O5: pending ones stay with their transaction."""
    world = World()
    world.topic("a", 2)
    world.topic("b")
    pending = PendingOffset(world.init().producer_id, offset("g", "a"))
    rows = (offset("g", "a"), offset("g", "a", 1), offset("g", "b"), offset("h", "a"), pending)
    world.state.apply(rows, (), 0)
    world.state.apply(decide_delete_topics(world.state, [OldTopic("a")]).rows, (), 0)
    assert {group: [at.topic for at in offsets] for group, offsets in world.state.offsets.committed.items()} == {
        "g": ["b"]
    }
    assert len(world.state.offsets.pending["g"]) == 1


def test_an_open_transaction_outlives_its_topic() -> None:
    """D1: its other partitions are ended as if the deleted one had never been there."""
    world = World()
    gone, kept = world.topic("gone"), world.topic("kept")
    session = world.init()
    world.add(session, gone, kept)
    for log in (gone, kept):
        world.produce(session, 0, transactional_id="x", log=log)
    delete(world, OldTopic("gone"))
    world.end(session, commit=True)
    assert kept.stable_offset == 2
    assert everything(world.replayed()) == everything(world.state)


def test_a_topic_made_again_is_a_new_one() -> None:
    """Log numbers are never used twice, so nothing of the old topic can be seen in the new one."""
    world = World()
    create(world, new("t", 2))
    old = world.state.topics["t"]
    world.produce()
    delete(world, OldTopic("t"))
    create(world, NewTopic("t", UUID(int=9), 2))
    again = world.state.topics["t"]
    assert again.id != old.id
    assert set(again.logs).isdisjoint(old.logs)
    delete(world, OldTopic("t"))
    assert world.checkpointed().log_id_next == world.state.log_id_next == 5
    create(world, new("t"))
    assert world.log().offset_next == 0


def trim(world: World, *wanted: DeleteUpTo) -> list[tuple[int, int]]:
    reply = world.apply(decide_delete_records(world.state, wanted))
    assert everything(world.replayed()) == everything(world.state)
    return [(low, int(code)) for low, code in reply]


def test_records_are_deleted_up_to_an_offset() -> None:
    world = World()
    log = world.topic("t", 2)
    for _ in range(5):
        world.produce()
    assert trim(world, DeleteUpTo("t", 0, 3), DeleteUpTo("t", 1, -1)) == [(3, 0), (0, 0)]
    assert trim(world, DeleteUpTo("t", 0, 1)) == [(3, 0)]
    assert trim(world, DeleteUpTo("t", 0, -1)) == [(5, 0)]
    assert (log.offset_start, log.offset_next) == (5, 5)
    assert len([row for rows, *_ in world.journal for row in rows]) > 0


def test_records_that_cannot_be_deleted() -> None:
    world = World()
    log = world.topic("t")
    world.topic("c", **{"cleanup.policy": "compact"})
    for _ in range(5):
        world.produce()
    log.high_watermark = 4
    wanted = [
        DeleteUpTo("t", 0, 5),
        DeleteUpTo("t", 0, -2),
        DeleteUpTo("t", 1, 0),
        DeleteUpTo("x", 0, 0),
        DeleteUpTo("c", 0, 0),
    ]
    assert decide_delete_records(world.state, wanted).reply == [
        (-1, ErrorCode.OFFSET_OUT_OF_RANGE),
        (-1, ErrorCode.OFFSET_OUT_OF_RANGE),
        (-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (-1, ErrorCode.POLICY_VIOLATION),
    ]
    assert decide_delete_records(world.state, wanted).rows == ()


def test_deleted_records_of_an_open_transaction() -> None:
    """R1: the last stable offset is never before the start of the log, and moves on at the transaction's end."""
    world = World()
    log = world.topic("t")
    session = world.init()
    world.add(session)
    world.produce(session, 0, 3, transactional_id="x")
    assert trim(world, DeleteUpTo("t", 0, 2)) == [(2, 0)]
    assert (log.offset_start, log.stable_offset, log.high_watermark) == (2, 2, 3)
    world.end(session, commit=False)
    assert (log.stable_offset, log.high_watermark) == (4, 4)
    assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())


def test_a_partition_named_twice_keeps_the_higher_start() -> None:
    world = World()
    log = world.topic("t")
    for _ in range(5):
        world.produce()
    decision = decide_delete_records(world.state, [DeleteUpTo("t", 0, 4), DeleteUpTo("t", 0, 2)])
    assert decision.reply == [(4, ErrorCode.NONE), (4, ErrorCode.NONE)]
    assert decision.rows == (LogStart(log.id, 4),)
