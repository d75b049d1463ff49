"""confluent-kafka in consumer groups: rebalances in mid-work, static members, both group protocols, restarts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition, committed, consumer, create_topic, read_all, values_of
from tests.support.confluent_groups import CLASSIC, PROTOCOLS, Feeder, Member, eventually, fill, members
from tests.support.copier import Copier
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy

__all__ = ["members"]

pytestmark = pytest.mark.client("confluent-kafka")

Unique = Callable[[str], str]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rebalance_in_the_middle_of_exactly_once_copying(broker: Broker, unique: Unique, protocol: str) -> None:
    """O1, O2, O3, R1: members come and go while records are copied; each is in the result once, in its order."""
    source = create_topic(broker.bootstrap, unique("source"), 4)
    target = create_topic(broker.bootstrap, unique("target"), 4)
    group = unique("group")
    feeder = Feeder(broker.bootstrap, source, 4)

    def copier(name: str) -> Copier:
        names = (source, target, group, unique(name))
        return Copier(broker.bootstrap, *names, batch_records=11, **PROTOCOLS[protocol]).start()

    first = copier("first")
    eventually(lambda: first.transactions > 2, "the first member does not begin")
    second = copier("second")
    eventually(lambda: second.transactions > 2, "the second member gets nothing", 40)
    first.finish()
    third = copier("third")
    eventually(lambda: third.transactions > 2, "the third member gets nothing", 40)
    feeder.close()
    eventually(lambda: len(read_all(broker.bootstrap, target)) >= feeder.count, "not everything is copied", 40)
    for each in (second, third):
        each.finish()
    copied = by_partition(read_all(broker.bootstrap, target))
    assert sum(len(values) for values in copied.values()) == feeder.count
    assert copied == by_partition(read_all(broker.bootstrap, source))
    assert committed(broker.bootstrap, group, source, range(4)) == {each: len(copied[each]) for each in range(4)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_group_shares_the_partitions(
    broker: Broker, unique: Unique, members: Callable[..., Member], protocol: str
) -> None:
    """O2, O3: two members share six partitions; when one leaves, the other has all; offsets are kept."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), 6), unique("group")
    settings = PROTOCOLS[protocol]
    first = members(broker.bootstrap, group, topic, **settings)
    eventually(lambda: first.assignment == [0, 1, 2, 3, 4, 5], "the first member has not all partitions")
    second = members(broker.bootstrap, group, topic, **settings)
    eventually(
        lambda: (
            len(first.assignment) == len(second.assignment) == 3
            and sorted(first.assignment + second.assignment) == [0, 1, 2, 3, 4, 5]
        ),
        "the partitions are not shared",
    )
    sent = fill(broker.bootstrap, topic, 60, 6)
    eventually(lambda: len(first.values) + len(second.values) == 60, "not everything was read")
    assert len(first.values) == 30
    assert sorted(first.values + second.values) == sorted(sent)
    first.close()
    eventually(lambda: second.assignment == [0, 1, 2, 3, 4, 5], "the second member has not taken over")
    second.close()
    assert committed(broker.bootstrap, group, topic, range(6)) == dict.fromkeys(range(6), 10)


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_a_static_member_comes_back_without_a_rebalance(
    broker: Broker, unique: Unique, members: Callable[..., Member], protocol: str
) -> None:
    """O2, O3 (KIP-345): a static member that returns within its session has its partitions; the other notices nothing."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), 4), unique("group")
    settings = PROTOCOLS[protocol]
    first = members(broker.bootstrap, group, topic, group_instance_id="one", **settings)
    second = members(broker.bootstrap, group, topic, group_instance_id="two", **settings)
    eventually(lambda: len(first.assignment) == len(second.assignment) == 2, "the partitions are not shared")
    before, mine = first.rebalances, second.assignment
    second.close()
    again = members(broker.bootstrap, group, topic, group_instance_id="two", **settings)
    eventually(lambda: again.assignment == mine, "the static member has not its partitions back")
    fill(broker.bootstrap, topic, 40, 4)
    eventually(lambda: len(first.values) == 20 and len(again.values) == 20, "not everything was read")
    assert first.rebalances == before


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_a_group_survives_a_restart_of_the_broker(
    own_broker: BrokerProcess, members: Callable[..., Member], protocol: str
) -> None:
    """D2, O3: after kill -9 the members go on where they were; nothing is read twice, nothing is missed."""
    bootstrap = own_broker.bootstrap
    topic = create_topic(bootstrap, "topic", 4)
    both = [members(bootstrap, "group", topic, **PROTOCOLS[protocol]) for _ in range(2)]
    eventually(lambda: [len(each.assignment) for each in both] == [2, 2], "the partitions are not shared")
    sent = fill(bootstrap, topic, 40, 4)
    eventually(lambda: sum(len(each.values) for each in both) == 40, "not everything was read")
    stored = dict.fromkeys(range(4), 10)
    eventually(lambda: committed(bootstrap, "group", topic, range(4)) == stored, "not everything was committed")
    before = [each.rebalances for each in both]
    own_broker.restart()
    assert committed(bootstrap, "group", topic, range(4)) == stored
    sent += fill(bootstrap, topic, 40, 4)
    eventually(lambda: sum(len(each.values) for each in both) >= 80, "the members do not go on")
    assert sorted(both[0].values + both[1].values) == sorted(sent)
    assert [each.rebalances for each in both] == before


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_copying_goes_on_over_restarts(own_broker: BrokerProcess, unique: Unique, protocol: str) -> None:
    """D1, D2, O1: the broker is killed again and again under two copiers; the result is exact and in order."""
    bootstrap = own_broker.bootstrap
    source, target = create_topic(bootstrap, "source", 4), create_topic(bootstrap, "target", 4)
    sent = fill(bootstrap, source, 1200, 4)
    copiers = [
        Copier(bootstrap, source, target, "group", unique(name), batch_records=9, **PROTOCOLS[protocol]).start()
        for name in "ab"
    ]
    for wanted in (10, 30, 50):
        eventually(lambda: sum(each.transactions for each in copiers) >= wanted, "the copiers do not go on")  # noqa: B023
        own_broker.restart()
    eventually(lambda: len(read_all(bootstrap, target)) >= len(sent), "not everything is copied", 40)
    for each in copiers:
        each.finish()
    result = read_all(bootstrap, target)
    assert sorted(values_of(result)) == sorted(sent)
    assert by_partition(result) == by_partition(read_all(bootstrap, source))


@pytest.mark.parametrize("instance", [{}, {"group_instance_id": "one"}], ids=["dynamic", "static"])
def test_a_commit_whose_reply_is_lost_is_repeated_soon(own_broker: BrokerProcess, instance: dict[str, str]) -> None:
    """librdkafka asks for its coordinator behind a fetch that waits, and gives the coordinator up again if the answer takes
    longer than its retry.backoff.ms: so until the session is over, and then a static member fences itself.
    """
    with Proxy(own_broker.port) as proxy:
        topic = create_topic(proxy.bootstrap, "topic")
        fill(proxy.bootstrap, topic, 1, 1)
        reader = consumer(proxy.bootstrap, "group", fetch_wait_max_ms=20_000, **CLASSIC, **instance)
        reader.subscribe([topic])
        read = reader.poll(20)
        assert read is not None and read.value() == b"0"
        lost = proxy.lose_reply_of_next("offset_commit")
        begun = time.monotonic()
        (place,) = reader.commit(message=read, asynchronous=False)
        assert lost.wait() and place.error is None
        assert time.monotonic() - begun < 18, "the client has waited for its own fetch"
        reader.close()


#: API, and how many of its requests go before the one whose reply is lost; a static member joins by one request.
_CLASSIC_REPLIES = [("join_group", 0), ("sync_group", 0), ("heartbeat", 0), ("offset_fetch", 0), ("offset_commit", 0)]
_CONSUMER_REPLIES = [*(("consumer_group_heartbeat", skip) for skip in range(3)), ("offset_commit", 0)]
_LOST_REPLIES = [
    *(("range", None, *reply) for reply in (*_CLASSIC_REPLIES, ("join_group", 1))),
    *(("range", "one", *reply) for reply in _CLASSIC_REPLIES),
    *(("consumer", instance, *reply) for instance in (None, "one") for reply in _CONSUMER_REPLIES),
]


@pytest.mark.parametrize(("protocol", "instance", "api", "skip"), _LOST_REPLIES)
def test_a_lost_reply_costs_a_member_nothing(
    broker: Broker,
    unique: Unique,
    proxy: Proxy,
    members: Callable[..., Member],
    protocol: str,
    instance: str | None,
    api: str,
    skip: int,
) -> None:
    """O2, O3 (KIP-345, KIP-394, KIP-848): what the member was not told it asks again, and nobody else has its place.

    A static member's JoinGroup comes again as if from another process, and takes its own place; on Apache Kafka 4.4 a static
    member of the consumer protocol that was not told of its joining ends with UNRELEASED_INSTANCE_ID.
    """
    topic, group = create_topic(broker.bootstrap, unique("topic"), 2), unique("group")
    sent = fill(broker.bootstrap, topic, 20, 2)
    lost = proxy.lose_reply_of_next(api, skip=skip)
    settings = PROTOCOLS[protocol] if instance is None else {**PROTOCOLS[protocol], "group_instance_id": instance}
    member = members(proxy.bootstrap, group, topic, **settings)
    lost.wait()
    eventually(lambda: len(member.values) >= len(sent), "not everything was read")
    stored = dict.fromkeys(range(2), 10)
    eventually(lambda: committed(broker.bootstrap, group, topic, range(2)) == stored, "not everything was committed")
    assert sorted(member.values) == sorted(sent)
    assert member.rebalances == 1
