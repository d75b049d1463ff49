"""Groups of KIP-848 by raw requests and by confluent-kafka: what only this protocol has (rules O2, O3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, ConsumerGroupType, KafkaException, TopicPartition
from confluent_kafka.admin import NewPartitions
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import admin, committed, consumer, create_topic, error_of, read_all, transactional_producer
from tests.support.confluent_groups import PROTOCOLS, Member, eventually, fill, members
from tests.support.fixtures import Broker
from tests.support.raw import RawClient
from tests.support.raw_producer import RawProducer, committed_offset

__all__ = ["members"]

pytestmark = pytest.mark.client("confluent-kafka")

Unique = Callable[[str], str]

NONE, ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, UNSUPPORTED_VERSION, INVALID_REQUEST = 0, 22, 25, 35, 42
GROUP_ID_NOT_FOUND, FENCED_MEMBER_EPOCH, UNRELEASED_INSTANCE_ID, UNSUPPORTED_ASSIGNOR = 69, 110, 111, 112
STALE_MEMBER_EPOCH, INVALID_REGULAR_EXPRESSION = 113, 128
CONSUMER = PROTOCOLS["consumer"]


def beat(raw: RawClient, group: str, member: str, epoch: int, *, version: int = 1, **given: Any) -> Any:
    asked: dict[str, Any] = {
        "group_id": group,
        "member_id": member,
        "member_epoch": epoch,
        "instance_id": None,
        "rack_id": None,
        "rebalance_timeout": -1,
        "subscribed_topic_names": None,
        "server_assignor": None,
        "topic_partitions": None,
    }
    if version >= 1:
        asked["subscribed_topic_regex"] = None
    return raw.call("consumer_group_heartbeat", version, **{**asked, **given})


def join(raw: RawClient, group: str, member: str, *topics: str, version: int = 1, **given: Any) -> Any:
    asked = {"rebalance_timeout": 30_000, "subscribed_topic_names": topics, "topic_partitions": (), **given}
    return beat(raw, group, member, 0, version=version, **asked)


def shown(reply: Any) -> list[tuple[UUID, list[int]]]:
    return [(each.topic_id, list(each.partitions)) for each in reply.assignment.topic_partitions]


def commit(raw: RawClient, group: str, topic: str, member: str, epoch: int, *, version: int = 9) -> int:
    reply = raw.call(
        "offset_commit",
        version,
        group_id=group,
        member_id=member,
        generation_id_or_member_epoch=epoch,
        group_instance_id=None,
        topics=[
            {
                "name": topic,
                "partitions": [
                    {
                        "partition_index": 0,
                        "committed_offset": 5,
                        "committed_leader_epoch": -1,
                        "committed_metadata": "",
                    }
                ],
            }
        ],
    )
    return int(reply.topics[0].partitions[0].error_code)


# -- request by request -----------------------------------------------------------------------------------------------


def test_the_heartbeat_on_the_wire(broker: Broker, raw: RawClient, unique: Unique) -> None:
    topic, group, member = create_topic(broker.bootstrap, unique("topic"), 2), unique("group"), str(uuid4())
    given = join(raw, group, member, topic)
    assert (given.error_code, given.member_id) == (NONE, member)
    epoch = given.member_epoch
    ((topic_id, partitions),) = shown(given)
    assert partitions == [0, 1]
    quiet = beat(raw, group, member, epoch, topic_partitions=[{"topic_id": topic_id, "partitions": (0, 1)}])
    assert (quiet.error_code, quiet.member_epoch, quiet.assignment) == (NONE, epoch, None)
    for reply, code in (
        (beat(raw, group, member, epoch + 1), FENCED_MEMBER_EPOCH),
        (beat(raw, group, "nobody", epoch), UNKNOWN_MEMBER_ID),
        (beat(raw, group, "", epoch), INVALID_REQUEST),
        (join(raw, group, "", topic), INVALID_REQUEST),
        (join(raw, group, "x", topic, server_assignor="mine"), UNSUPPORTED_ASSIGNOR),
        (join(raw, group, "x", topic, subscribed_topic_regex="("), INVALID_REGULAR_EXPRESSION),
    ):
        assert (reply.error_code, bool(reply.error_message), reply.assignment) == (code, True, None)
    assert beat(raw, group, member, -1).member_epoch == -1
    assert beat(raw, group, member, epoch).error_code == UNKNOWN_MEMBER_ID


def test_version_0_gives_the_member_its_id(broker: Broker, raw: RawClient, unique: Unique) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 1), unique("group")
    given = join(raw, group, "", topic, version=0)
    assert given.error_code == NONE
    assert given.member_id
    assert beat(raw, group, given.member_id, given.member_epoch, version=0).error_code == NONE


def test_static_members_on_the_wire(broker: Broker, raw: RawClient, unique: Unique) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 1), unique("group")
    epoch = join(raw, group, "a", topic, instance_id="one").member_epoch
    assert join(raw, group, "b", topic, instance_id="one").error_code == UNRELEASED_INSTANCE_ID
    assert beat(raw, group, "a", -2, instance_id="one").member_epoch == -2
    back = join(raw, group, "b", topic, instance_id="one")
    assert (back.error_code, back.member_epoch) == (NONE, epoch)
    assert shown(back)[0][1] == [0]


def test_commits_on_the_wire(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """O3: the same epoch is right; stale is 113, or ILLEGAL_GENERATION inside a transaction."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), 1), unique("group")
    epoch = join(raw, group, "a", topic).member_epoch
    assert commit(raw, group, topic, "a", epoch) == NONE
    assert commit(raw, group, topic, "a", epoch + 1) == STALE_MEMBER_EPOCH
    assert commit(raw, group, topic, "a", epoch - 1) == STALE_MEMBER_EPOCH
    assert commit(raw, group, topic, "b", epoch) == UNKNOWN_MEMBER_ID
    assert commit(raw, group, topic, "a", epoch, version=8) == UNSUPPORTED_VERSION
    writer = RawProducer(raw, unique("id")).init()
    writer.add_group(group)
    assert writer.commit_offset(group, topic, 0, 7, generation_id=epoch - 1, member_id="a") == ILLEGAL_GENERATION
    assert writer.commit_offset(group, topic, 0, 7, generation_id=epoch, member_id="b") == UNKNOWN_MEMBER_ID
    assert writer.commit_offset(group, topic, 0, 7, generation_id=epoch, member_id="a") == NONE
    assert writer.end(commit=True) == NONE
    assert committed_offset(raw, group, topic, 0) == (NONE, 7)


def test_reading_offsets_on_the_wire(broker: Broker, raw: RawClient, unique: Unique) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 1), unique("group")
    epoch = join(raw, group, "a", topic).member_epoch

    def fetch(member: str | None, epoch: int) -> int:
        asked = {"group_id": group, "member_id": member, "member_epoch": epoch}
        asked["topics"] = [{"name": topic, "partition_indexes": (0,)}]
        return int(raw.call("offset_fetch", 9, groups=[asked], require_stable=True).groups[0].error_code)

    assert [fetch("a", epoch), fetch(None, -1)] == [NONE, NONE]
    assert [fetch("a", epoch - 1), fetch("b", epoch)] == [STALE_MEMBER_EPOCH, UNKNOWN_MEMBER_ID]


def test_groups_are_described(broker: Broker, raw: RawClient, unique: Unique) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 2), unique("group")
    join(raw, group, "a", topic, rack_id="r", server_assignor="range")
    join(raw, group, "b", subscribed_topic_names=None, subscribed_topic_regex=f"{topic}.*")
    for version in (0, 1):
        reply = raw.call(
            "consumer_group_describe", version, group_ids=[group, "nowhere"], include_authorized_operations=False
        )
        by_id = {each.group_id: each for each in reply.groups}
        found = by_id[group]
        assert by_id["nowhere"].error_code == GROUP_ID_NOT_FOUND
        assert (found.group_state, found.group_epoch) == ("Reconciling", found.assignment_epoch)
        assert found.assignor_name == "range"
        a, b = sorted(found.members, key=lambda each: each.member_id)
        assert (a.member_id, a.rack_id, a.subscribed_topic_names, b.subscribed_topic_regex) == (
            "a",
            "r",
            (topic,),
            f"{topic}.*",
        )
        assert [(each.topic_name, each.partitions) for each in a.assignment.topic_partitions] == [(topic, (0, 1))]
        assert [each.partitions for each in a.target_assignment.topic_partitions] == [(0,)]
    listed = raw.call("list_groups", 5, states_filter=(), types_filter=("consumer",)).groups
    assert {each.group_id: each.group_type for each in listed}[group] == "consumer"


# -- confluent-kafka --------------------------------------------------------------------------------------------------


def settled(given: list[Member], partitions: int, each: tuple[int, ...]) -> bool:
    held = [index for member in given for index in member.assignment]
    return sorted(held) == list(range(partitions)) and sorted(len(one.assignment) for one in given) == sorted(each)


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_three_members_share(broker: Broker, unique: Unique, members: Callable[..., Member], assignor: str) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 7), unique("group")
    three = [members(broker.bootstrap, group, topic, group_remote_assignor=assignor, **CONSUMER) for _ in range(3)]
    eventually(lambda: settled(three, 7, (2, 2, 3)), "the partitions are not shared")
    if assignor == "range":
        for one in three:
            assert one.assignment == list(range(one.assignment[0], one.assignment[-1] + 1))
    client = admin(broker.bootstrap)  # its end would end the request
    described = client.describe_consumer_groups([group], request_timeout=15)[group].result(15)
    assert (described.type, described.state.name, described.partition_assignor) == (
        ConsumerGroupType.CONSUMER,
        "STABLE",
        assignor,
    )
    assert sorted(each.partition for one in described.members for each in one.assignment.topic_partitions) == list(
        range(7)
    )
    sent = fill(broker.bootstrap, topic, 70, 7)
    eventually(lambda: sum(len(one.values) for one in three) == 70, "not everything was read")
    three[0].close()
    eventually(lambda: settled(three[1:], 7, (3, 4)), "the partitions of who left are nobody's")
    sent += fill(broker.bootstrap, topic, 70, 7)
    eventually(lambda: sum(len(one.values) for one in three) == 140, "not everything was read")
    assert sorted(value for one in three for value in one.values) == sorted(sent)


def test_topics_by_a_pattern(broker: Broker, unique: Unique, members: Callable[..., Member]) -> None:
    """A topic that is made later is read too; one that the pattern does not match as a whole is not."""
    prefix, group = unique("orders"), unique("group")
    first = create_topic(broker.bootstrap, f"{prefix}-1", 2)
    create_topic(broker.bootstrap, f"my-{prefix}-2", 2)
    member = members(broker.bootstrap, group, f"^{prefix}-.*", topic_metadata_refresh_interval_ms=200, **CONSUMER)
    eventually(lambda: member.assignment == [0, 1], "the pattern matches nothing")
    sent = fill(broker.bootstrap, first, 10, 2)
    second = create_topic(broker.bootstrap, f"{prefix}-2", 1)
    eventually(lambda: member.assignment == [0, 0, 1], "the new topic is not assigned")
    sent += fill(broker.bootstrap, second, 10, 1)
    eventually(lambda: len(member.values) == 20, "not everything was read")
    assert sorted(member.values) == sorted(sent)


def test_more_partitions_are_noticed(broker: Broker, unique: Unique, members: Callable[..., Member]) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic"), 2), unique("group")
    two = [members(broker.bootstrap, group, topic, topic_metadata_refresh_interval_ms=200, **CONSUMER) for _ in "ab"]
    eventually(lambda: settled(two, 2, (1, 1)), "the partitions are not shared")
    client = admin(broker.bootstrap)
    client.create_partitions([NewPartitions(topic, 6)], request_timeout=15)[topic].result(15)
    eventually(lambda: settled(two, 6, (3, 3)), "the new partitions are nobody's")


def test_offsets_of_a_stale_epoch_are_refused_in_a_transaction(
    broker: Broker, unique: Unique, members: Callable[..., Member]
) -> None:
    """O3: who has been given less meanwhile can't commit what it read under the epoch before, nor its results."""
    source = create_topic(broker.bootstrap, unique("source"), 2)
    target = create_topic(broker.bootstrap, unique("target"), 1)
    group = unique("group")
    reader: Consumer = consumer(broker.bootstrap, group, **CONSUMER)
    reader.subscribe([source])
    fill(broker.bootstrap, source, 4, 2)
    read: list[Any] = []
    eventually(lambda: bool(read.extend(reader.consume(4, 0.1)) or len(read) >= 4), "nothing was read")
    stale = reader.consumer_group_metadata()
    other = members(broker.bootstrap, group, source, **CONSUMER)

    def is_shared() -> bool:
        reader.poll(0.05)
        return len(reader.assignment()) == len(other.assignment) == 1

    eventually(is_shared, "the partitions are not shared")
    writer = transactional_producer(broker.bootstrap, unique("id"))
    writer.begin_transaction()
    writer.produce(target, b"result")
    with pytest.raises(KafkaException) as failure:
        writer.send_offsets_to_transaction([TopicPartition(source, 0, 2)], stale, 15)
    assert error_of(failure.value).txn_requires_abort()
    writer.abort_transaction(15)
    assert read_all(broker.bootstrap, target) == []
    mine = reader.assignment()[0].partition
    writer.begin_transaction()
    writer.produce(target, b"result")
    writer.send_offsets_to_transaction([TopicPartition(source, mine, 2)], reader.consumer_group_metadata(), 15)
    writer.commit_transaction(15)
    reader.close()
    assert committed(broker.bootstrap, group, source, [mine]) == {mine: 2}
    assert len(read_all(broker.bootstrap, target)) == 1


def test_the_broker_dies_in_the_middle_of_a_rebalance(
    own_broker: BrokerProcess, members: Callable[..., Member]
) -> None:
    """D2, O3: the third member has just come when the broker is killed; all go on, and each partition is somebody's."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "topic", 6)
    three = [members(bootstrap, "group", topic, **CONSUMER) for _ in range(2)]
    eventually(lambda: settled(three, 6, (3, 3)), "the partitions are not shared")
    for _ in range(3):
        three.append(members(bootstrap, "group", topic, **CONSUMER))
        own_broker.restart()
        eventually(lambda: settled(three, 6, (2, 2, 2)), "the partitions are not shared", 60)
        three.pop().close()
        eventually(lambda: settled(three, 6, (3, 3)), "the partitions are not shared", 60)
    sent = fill(bootstrap, topic, 60, 6)
    eventually(lambda: sum(len(one.values) for one in three) >= 60, "not everything was read")
    assert sorted(value for one in three for value in one.values) == sorted(sent)


def test_a_group_changes_its_protocol_when_it_is_empty(
    broker: Broker, unique: Unique, members: Callable[..., Member]
) -> None:
    """Both ways; offsets stay."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), 2), unique("group")
    for number, protocol in enumerate(("range", "consumer", "range", "consumer")):
        fill(broker.bootstrap, topic, 10, 2)
        one = members(broker.bootstrap, group, topic, **PROTOCOLS[protocol])
        eventually(lambda: len(one.values) == 10, f"{protocol} reads nothing")  # noqa: B023
        one.close()
        assert committed(broker.bootstrap, group, topic, [0, 1]) == dict.fromkeys([0, 1], 5 * (number + 1))
