"""Who may commit, read and delete offsets in groups of both kinds, and what operators see (rules O2-O5; KIP-848)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.engine.groups.group_world import GroupWorld
from tests.unit.engine.groups.members import ClassicClient
from tests.unit.engine.world import refusal

from oncelog.engine.groups import commits, listing
from oncelog.engine.groups.commits import Commit, Committer
from oncelog.engine.groups.consumer import LEAVE_EPOCH, LEAVE_STATIC_EPOCH, ConsumerGroup
from oncelog.engine.groups.members import check_fetch, check_transactional_commit
from oncelog.engine.groups.values import ClassicGroup
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import TopicPartition

AT = TopicPartition("t", 0)
NEWEST = 10


@pytest.fixture
def world() -> GroupWorld:
    made = GroupWorld()
    made.topic("t", 4)
    made.topic("u", 1)
    return made


def commit(
    world: GroupWorld, member: str = "", epoch: int = -1, *, version: int = NEWEST, at: TopicPartition = AT
) -> ErrorCode:
    """The code for the whole commit, or for its one partition."""

    def decided() -> Any:
        return world.decide(
            commits.decide_commit,
            Committer("g", member, epoch),
            [Commit(at, 7, -1, "")],
            retention_ms=-1,
            version=version,
            now_ms=world.now_ms,
        )

    return refusal(decided)


def commit_in_transaction(world: GroupWorld, member: str = "", epoch: int = -1, *, version: int = 3) -> ErrorCode:
    return refusal(
        check_transactional_commit,
        world.state,
        "g",
        member_id=member,
        generation=epoch,
        instance_id=None,
        version=version,
    )


def fetch(world: GroupWorld, member: str | None, epoch: int) -> ErrorCode:
    return refusal(check_fetch, world.state, "g", member_id=member, member_epoch=epoch)


def test_a_member_commits_in_its_very_epoch(world: GroupWorld) -> None:
    """O3: the same epoch is right, any other is stale."""
    world.join("a")
    world.join("b")
    assert [commit(world, "a", epoch) for epoch in (0, 1, 2)] == [
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.NONE,
        ErrorCode.STALE_MEMBER_EPOCH,
    ]
    kept = world.beat("a", 1).assigned
    assert commit(world, "a", 1) is ErrorCode.NONE, "it gives up, and may commit what it has read"
    world.beat("a", 1, owned=kept)
    assert commit(world, "a", 1) is ErrorCode.STALE_MEMBER_EPOCH
    assert commit(world, "a", 2) is ErrorCode.NONE
    assert commit(world, "nobody", 2) is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(world) is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(world, "a", 2, version=8) is ErrorCode.UNSUPPORTED_VERSION


def test_offsets_in_a_transaction_are_checked_too(world: GroupWorld) -> None:
    """O3: versions that don't know a stale epoch say that the generation is illegal; nobody's are refused."""
    world.join("a")
    assert commit_in_transaction(world, "a", 1) is ErrorCode.NONE
    assert commit_in_transaction(world, "a", 0) is ErrorCode.ILLEGAL_GENERATION
    assert commit_in_transaction(world, "a", 2, version=6) is ErrorCode.STALE_MEMBER_EPOCH
    assert commit_in_transaction(world, "b", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit_in_transaction(world) is ErrorCode.UNKNOWN_MEMBER_ID
    world.beat("a", LEAVE_EPOCH)
    assert commit_in_transaction(world) is ErrorCode.NONE
    assert commit_in_transaction(world, "a", 1) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_static_member_that_has_left_has_no_epoch(world: GroupWorld) -> None:
    world.join("a", instance_id="one")
    world.beat("a", LEAVE_STATIC_EPOCH, instance_id="one")
    for epoch in (1, -1, LEAVE_STATIC_EPOCH):
        assert commit(world, "a", epoch) is ErrorCode.STALE_MEMBER_EPOCH
        assert commit_in_transaction(world, "a", epoch) is ErrorCode.ILLEGAL_GENERATION


def test_members_say_their_epoch_to_read_offsets(world: GroupWorld) -> None:
    world.join("a")
    assert fetch(world, "a", 1) is ErrorCode.NONE
    assert fetch(world, "a", 0) is ErrorCode.STALE_MEMBER_EPOCH
    assert fetch(world, "b", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert fetch(world, None, 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert fetch(world, None, -1) is ErrorCode.NONE
    world.beat("a", LEAVE_EPOCH)
    assert refusal(check_fetch, world.state, "other", member_id="a", member_epoch=1) is ErrorCode.NONE


def test_commits_without_a_group(world: GroupWorld) -> None:
    assert commit(world, "a", 1) is ErrorCode.GROUP_ID_NOT_FOUND
    assert commit(world, "a", 1, version=8) is ErrorCode.ILLEGAL_GENERATION
    assert commit(world) is ErrorCode.NONE


# -- deleting and expiring --------------------------------------------------------------------------------------------


def sweep(world: GroupWorld) -> None:
    for decision in commits.decide_offset_expiry(world.state, world.now_ms):
        world.apply(decision)


def test_what_members_read_is_neither_deleted_nor_expired(world: GroupWorld) -> None:
    """KIP-496, O5: what no member reads any more may go."""
    world.topic("u1", 1)
    other = TopicPartition("u", 0)
    world.beat("a", 0, pattern="t", rebalance_timeout_ms=1, owned=frozenset())
    assert commit(world, "a", 1) is ErrorCode.NONE
    assert commit(world, "a", 1, at=other) is ErrorCode.NONE
    world.restart()  # patterns are known at once
    codes = world.decide(commits.decide_delete_offsets, "g", [AT])
    assert codes == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC]
    world.now_ms += world.state.settings.offsets_retention_ms
    sweep(world)
    assert set(world.state.offsets.committed["g"]) == {AT}
    assert refusal(commits.decide_delete_group, world.state, "g") is ErrorCode.NON_EMPTY_GROUP
    world.beat("a", LEAVE_EPOCH)
    assert world.decide(commits.decide_delete_offsets, "g", [AT]) == [ErrorCode.NONE]
    world.decide(commits.decide_delete_group, "g")
    assert world.state.groups.by_id == {}
    world.assert_durable()


def test_an_empty_group_goes_when_its_offsets_have_expired(world: GroupWorld) -> None:
    """KIP-211: the time begins when the last member has left."""
    retention_ms = world.state.settings.offsets_retention_ms
    world.join("a")
    commit(world, "a", 1)
    world.now_ms += retention_ms
    world.beat("a", LEAVE_EPOCH)
    world.now_ms += retention_ms - 1
    sweep(world)
    assert "g" in world.state.groups.by_id
    world.now_ms += 1
    sweep(world)
    assert (world.state.groups.by_id, world.state.offsets.committed) == ({}, {})
    world.assert_durable()


def test_a_group_without_offsets_is_found_for_a_while_after_its_members(world: GroupWorld) -> None:
    """A sweep between two commands of one person, who empties a group and then deletes it, takes nothing away."""
    world.join("a")
    world.beat("a", LEAVE_EPOCH)
    world.now_ms += world.state.settings.empty_group_kept_ms - 1
    sweep(world)
    assert "g" in world.state.groups.by_id
    world.now_ms += 1
    sweep(world)
    assert world.state.groups.by_id == {}
    world.assert_durable()


# -- from one protocol to the other -----------------------------------------------------------------------------------


def test_an_empty_group_changes_its_protocol_both_ways(world: GroupWorld) -> None:
    """Offsets stay, and no generation or epoch is ever given twice."""
    classic = ClassicClient(world, "c")
    classic.join()
    classic.run()
    assert classic.generation == 1
    assert commit(world, classic.id, 1) is ErrorCode.NONE
    assert refusal(world.join, "a") is ErrorCode.GROUP_ID_NOT_FOUND
    classic.leave()
    generation = world.state.groups.by_id["g"].generation  # type: ignore[union-attr]
    given = world.join("a")
    assert given.epoch == generation + 1
    assert isinstance(world.state.groups.by_id["g"], ConsumerGroup)
    world.restart()
    assert commit(world, "a", given.epoch) is ErrorCode.NONE
    again = ClassicClient(world, "d")
    assert again.join() is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    world.beat("a", LEAVE_EPOCH)
    epoch = world.group.epoch
    again.join()
    again.run()
    assert again.generation > epoch
    assert isinstance(world.state.groups.by_id["g"], ClassicGroup)
    assert world.beat_refused("a", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.state.offsets.committed["g"][AT].offset == 7
    world.restart()
    assert isinstance(world.state.groups.by_id["g"], ClassicGroup)


# -- operators --------------------------------------------------------------------------------------------------------


def test_groups_of_both_kinds_are_listed_and_described(world: GroupWorld) -> None:
    world.join("a", instance_id="one", rack_id="r", client_id="me", client_host="/127.0.0.1", assignor="range")
    world.join("b", group="h")
    commits_only = Committer("offsets")
    world.decide(
        commits.decide_commit, commits_only, [Commit(AT, 1, -1, "")], retention_ms=-1, version=9, now_ms=world.now_ms
    )
    listed = {each["group_id"]: each for each in listing.list_groups(world.state, (), ())}
    assert listed["g"] == {
        "group_id": "g",
        "protocol_type": "consumer",
        "group_state": "Stable",
        "group_type": "consumer",
    }
    assert listed["offsets"]["group_type"] == "classic"
    assert [each["group_id"] for each in listing.list_groups(world.state, ("STABLE",), ("Consumer",))] == ["g", "h"]
    assert [each["group_id"] for each in listing.list_groups(world.state, (), ("classic",))] == ["offsets"]
    shown = listing.describe_consumer_group(world.state, "g")
    assert (shown["group_state"], shown["group_epoch"], shown["assignment_epoch"]) == ("Stable", 1, 1)
    assert shown["assignor_name"] == "range"
    (member,) = shown["members"]
    topic = {"topic_id": world.state.topics["t"].id, "topic_name": "t", "partitions": (0, 1, 2, 3)}
    assert member["assignment"] == member["target_assignment"] == {"topic_partitions": [topic]}
    assert (member["instance_id"], member["rack_id"], member["member_type"]) == ("one", "r", 1)
    assert (member["subscribed_topic_names"], member["subscribed_topic_regex"]) == (["t"], None)
    for group in ("offsets", "nowhere"):
        assert listing.describe_consumer_group(world.state, group)["error_code"] == ErrorCode.GROUP_ID_NOT_FOUND
    assert listing.describe_group(world.state, "g", version=6)["error_code"] == ErrorCode.GROUP_ID_NOT_FOUND
    assert listing.describe_group(world.state, "g", version=5)["group_state"] == "Dead"


def test_the_states_of_a_group(world: GroupWorld) -> None:
    def state() -> str:
        return str(listing.describe_consumer_group(world.state, "g")["group_state"])

    world.join("a")
    assert state() == "Stable"
    world.join("b")
    assert state() == "Reconciling"
    world.beat("b", LEAVE_EPOCH)
    assert state() == "Assigning"
    world.beat("a", LEAVE_EPOCH)
    assert state() == "Empty"
