"""ConsumerGroupHeartbeat: every transition of a member and of its group (KIP-848, rules O3, D5)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.engine.groups.group_world import ANY_TIMEOUT_MS, GroupWorld
from tests.unit.engine.world import refusal

from oncelog.engine.groups import heartbeats
from oncelog.engine.groups.consumer import LEAVE_EPOCH, LEAVE_STATIC_EPOCH, MemberState
from oncelog.model.errors import ErrorCode
from oncelog.model.limits import ID_CHARACTERS_MAX, MEMBER_TOPICS_MAX, PATTERNS_PER_GROUP_MAX

NOTHING: frozenset[Any] = frozenset()
SESSION_MS = 45_000


@pytest.fixture
def world() -> GroupWorld:
    made = GroupWorld()
    made.topic("t", 4)
    return made


def shared(world: GroupWorld) -> tuple[frozenset[Any], frozenset[Any]]:
    """Members a and b, each with half of the partitions; what each has."""
    first = world.join("a")
    world.join("b")
    gives = world.beat("a", first.epoch)
    assert gives.assigned is not None
    after = world.beat("a", gives.epoch, owned=gives.assigned)
    given = world.beat("b", world.member("b").epoch)
    assert given.assigned is not None
    assert (after.epoch, given.epoch) == (2, 2)
    assert world.group.state == "Stable"
    return gives.assigned, given.assigned


# -- joining and sharing ----------------------------------------------------------------------------------------------


def test_the_first_member_has_everything_at_once(world: GroupWorld) -> None:
    given = world.join("a")
    assert given == ("a", 1, world.state.settings.consumer_heartbeat_interval_ms, world.logs())
    assert (world.group.epoch, world.group.assignment_epoch, world.group.state) == (1, 1, "Stable")
    world.assert_durable()


def test_a_heartbeat_that_says_nothing_new_writes_nothing(world: GroupWorld) -> None:
    world.join("a")
    entries, group = len(world.journal), world.group
    world.now_ms += 1_000
    assert world.beat("a", 1).assigned is None
    assert len(world.journal) == entries
    assert world.group is group
    assert world.state.groups.deadlines["g"]["a"] == world.now_ms + SESSION_MS


def test_a_full_heartbeat_is_answered_in_full(world: GroupWorld) -> None:
    world.join("a")
    again = world.beat("a", 1, topics=("t",), rebalance_timeout_ms=ANY_TIMEOUT_MS, owned=world.logs())
    assert again.assigned == world.logs()


def test_a_second_member_waits_until_the_first_has_given_up(world: GroupWorld) -> None:
    """Nobody is given what another may still have: revoke, then assign."""
    world.join("a")
    waits = world.join("b")
    assert (waits.epoch, waits.assigned) == (2, NOTHING)
    assert world.member("b").state is MemberState.UNRELEASED
    told = world.beat("a", 1)
    assert told.epoch == 1
    assert told.assigned is not None
    assert len(told.assigned) == 2
    assert world.member("a").state is MemberState.UNREVOKED
    assert world.member("a").revoking == world.logs() - told.assigned
    # It still has them, says so, and says nothing: b gets nothing.
    assert world.beat("a", 1, owned=world.logs()).assigned is None
    assert world.beat("a", 1).assigned is None
    assert world.beat("b", 2).assigned is None
    assert world.beat("a", 1, owned=told.assigned).epoch == 2
    given = world.beat("b", 2)
    assert given.assigned == world.logs() - told.assigned
    assert [one.is_settled(2) for one in world.group.members.values()] == [True, True]
    world.assert_durable()


def test_a_third_target_while_the_second_is_under_way(world: GroupWorld) -> None:
    """The target moves on while a member gives up: it goes on from epoch to epoch, and nobody has too much."""
    world.join("a")
    world.join("b")
    told = world.beat("a", 1)
    world.join("c")
    kept = told.assigned
    assert kept is not None
    # It has given up what epoch 2 took; epoch 3 may take more.
    after = world.beat("a", 1, owned=kept)
    assert after.epoch in (2, 3)
    if after.assigned is not None:
        world.beat("a", after.epoch, owned=after.assigned)
    for _ in range(3):
        for name in "abc":
            world.beat(name, world.member(name).epoch)
    assert world.group.state == "Stable"
    assert sorted(len(world.member(name).assigned) for name in "abc") == [1, 1, 2]


def test_a_member_that_leaves_gives_to_the_others(world: GroupWorld) -> None:
    shared(world)
    assert world.beat("b", LEAVE_EPOCH).epoch == LEAVE_EPOCH
    assert (world.group.epoch, world.group.assignment_epoch, world.group.state) == (3, 2, "Assigning")
    assert world.beat("a", 2).assigned == world.logs()
    assert world.beat_refused("b", 2) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.beat_refused("b", LEAVE_EPOCH) is ErrorCode.UNKNOWN_MEMBER_ID
    world.beat("a", LEAVE_EPOCH)
    assert (world.group.state, world.group.epoch, world.group.partitions) == ("Empty", 4, NOTHING)
    assert world.group.state_since_ms == world.now_ms
    world.assert_durable()


def test_a_new_subscription_is_a_new_epoch(world: GroupWorld) -> None:
    world.topic("u", 2)
    world.join("a")
    assert world.beat("a", 1, topics=("t",)).epoch == 1
    changed = world.beat("a", 1, topics=("t", "u"))
    assert (changed.epoch, changed.assigned) == (2, world.logs() | world.logs("u"))
    gives = world.beat("a", 2, topics=("u",))
    assert (gives.epoch, gives.assigned) == (2, world.logs("u"))
    assert world.beat("a", 2, owned=world.logs("u")).epoch == 3
    assert world.beat("a", 3, topics=()).assigned == NOTHING


def test_who_subscribes_to_nothing_is_a_member_all_the_same(world: GroupWorld) -> None:
    given = world.beat("a", 0, topics=(), rebalance_timeout_ms=1, owned=NOTHING)
    assert (given.epoch, given.assigned) == (1, NOTHING)


# -- topics come and go -----------------------------------------------------------------------------------------------


def test_new_partitions_and_new_topics_are_assigned(world: GroupWorld) -> None:
    world.join("a", "t", "later")
    world.more_partitions("t", 2)
    assert world.beat("a", 1) == ("a", 2, 5_000, world.logs())
    assert len(world.logs()) == 6
    world.topic("later", 1)
    assert world.beat("a", 2).assigned == world.logs() | world.logs("later")
    world.topic("other", 1)
    assert world.beat("a", 3).epoch == 3
    world.assert_durable()


def test_a_topic_that_is_gone_is_not_waited_for(world: GroupWorld) -> None:
    """Its partitions need not be given up; those of a new topic of that name are others."""
    world.topic("u", 2)
    world.join("a", "t", "u")
    world.delete_topic("u")
    after = world.beat("a", 1)
    assert (after.epoch, after.assigned) == (2, world.logs())
    old = world.state.log_id_next
    world.topic("u", 2)
    again = world.beat("a", 2)
    assert again.assigned == world.logs() | world.logs("u")
    assert min(world.logs("u")) >= old


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_a_pattern_follows_the_topics(world: GroupWorld) -> None:
    world.topic("orders-1", 1)
    given = world.beat("a", 0, pattern="orders-.*", rebalance_timeout_ms=1, owned=NOTHING)
    assert given.assigned == world.logs("orders-1")
    world.topic("orders-2", 1)
    world.topic("my-orders-3", 1)
    assert world.beat("a", 1).assigned == world.logs("orders-1") | world.logs("orders-2")
    assert world.group.topics == {"orders-1", "orders-2"}
    both = world.beat("a", 2, topics=("t",))
    assert both.assigned == world.logs("orders-1") | world.logs("orders-2") | world.logs()
    world.assert_durable()
    assert world.beat("a", 3, pattern="").assigned == world.logs()


def test_two_members_with_a_pattern_and_a_name(world: GroupWorld) -> None:
    """A topic that one has by name already is new to another by its pattern: a new epoch, though no partition is new."""
    world.join("a", "x-1")
    world.topic("x-1", 2)
    assert world.beat("a", 1).epoch == 2
    given = world.beat("b", 0, pattern="y-.*", rebalance_timeout_ms=1, owned=NOTHING)
    assert given.assigned == NOTHING
    world.beat("a", 2, owned=world.logs("x-1"))
    epoch = world.group.epoch
    world.beat("b", given.epoch, pattern="x-.*")
    assert world.group.epoch == epoch + 1
    assert len(world.group.targets["a"]) == len(world.group.targets["b"]) == 1


def test_a_restart_does_not_match_anew(world: GroupWorld) -> None:
    """What patterns match is durable, so a restart is no new epoch."""
    world.beat("a", 0, pattern="t|u", rebalance_timeout_ms=1, owned=NOTHING)
    world.restart()
    assert world.group.topics == {"t"}
    assert world.beat("a", 1).epoch == 1
    assert world.group.epoch == 1


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "[z-a]", r"\1", "(?=a)", "a" * 1_001, r"(?i)\pL{1000}"])
def test_bad_patterns(world: GroupWorld, pattern: str) -> None:
    asked: dict[str, Any] = {"pattern": pattern, "rebalance_timeout_ms": 1, "owned": NOTHING}
    assert world.beat_refused("a", 0, **asked) is ErrorCode.INVALID_REGULAR_EXPRESSION
    assert world.state.groups.by_id == {}


def test_a_group_has_few_different_patterns(world: GroupWorld) -> None:
    for number in range(PATTERNS_PER_GROUP_MAX):
        world.beat(str(number), 0, pattern=f"t{number}", rebalance_timeout_ms=1, owned=NOTHING)
    asked: dict[str, Any] = {"rebalance_timeout_ms": 1, "owned": NOTHING}
    assert world.beat_refused("more", 0, pattern="one-more", **asked) is ErrorCode.INVALID_REGULAR_EXPRESSION
    assert world.beat("more", 0, pattern="t3", **asked).epoch > 0


# -- epochs and lost answers ------------------------------------------------------------------------------------------


def test_epochs_fence(world: GroupWorld) -> None:
    shared(world)
    assert world.beat_refused("a", 3) is ErrorCode.FENCED_MEMBER_EPOCH
    assert world.beat_refused("a", 1) is ErrorCode.FENCED_MEMBER_EPOCH
    assert world.beat_refused("nobody", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.beat_refused("a", 1, group="other") is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_lost_answer_is_given_again(world: GroupWorld) -> None:
    """The epoch before is accepted from who says no more than it has, and the partitions are shown again."""
    world.join("a", "t", "u")
    world.topic("u", 1)
    assert world.beat("a", 1).epoch == 2
    again = world.beat("a", 1, owned=world.logs())
    assert (again.epoch, again.assigned) == (2, world.logs() | world.logs("u"))
    assert world.beat_refused("a", 1, owned=world.logs() | {99}) is ErrorCode.FENCED_MEMBER_EPOCH
    assert world.beat_refused("a", 1) is ErrorCode.FENCED_MEMBER_EPOCH


def test_a_lost_answer_to_joining_is_given_again(world: GroupWorld) -> None:
    assert world.join("a") == world.join("a")
    assert world.group.epoch == 1


def test_an_old_request_can_not_give_up_for_a_member(world: GroupWorld) -> None:
    """A request of the epoch before, late, says that the member has less than it has: it is fenced, nothing is freed."""
    world.join("a", "t", "u")
    world.topic("u", 2)
    world.beat("a", 1)
    world.join("b", "u")
    told = world.beat("a", 2)
    assert told.assigned is not None
    assert world.member("a").state is MemberState.UNREVOKED
    assert world.beat_refused("a", 1, owned=told.assigned & world.logs()) is ErrorCode.FENCED_MEMBER_EPOCH
    assert world.member("a").revoking


def test_a_fenced_member_begins_anew(world: GroupWorld) -> None:
    """KAFKA-19233: it joins under the same id, with nothing, in a new epoch; what it had is free."""
    shared(world)
    for _ in range(2):
        assert world.beat_refused("a", 1) is ErrorCode.FENCED_MEMBER_EPOCH
    again = world.join("a")
    assert again.epoch == 3
    assert again.assigned is not None
    assert len(again.assigned) == 2
    assert world.beat_refused("a", 2) is ErrorCode.FENCED_MEMBER_EPOCH
    world.assert_durable()


# -- static members ---------------------------------------------------------------------------------------------------


def test_a_static_member_comes_back_to_what_it_had(world: GroupWorld) -> None:
    world.join("a")
    world.join("b", instance_id="two")
    kept = world.beat("a", 1).assigned
    world.beat("a", 1, owned=kept)
    mine = world.beat("b", 2).assigned
    assert mine
    assert world.beat("b", LEAVE_STATIC_EPOCH, instance_id="two").epoch == LEAVE_STATIC_EPOCH
    assert world.group.epoch == 2
    assert world.beat("a", 2).assigned is None
    world.assert_durable()
    back = world.join("b2", instance_id="two")
    assert (back.epoch, back.assigned) == (2, mine)
    assert world.group.epoch == 2
    assert set(world.group.members) == {"a", "b2"}
    assert world.beat_refused("b", 2) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.beat_refused("b", 2, instance_id="two") is ErrorCode.FENCED_INSTANCE_ID
    world.assert_durable()


def test_a_static_member_may_come_back_under_its_own_id(world: GroupWorld) -> None:
    given = world.join("b", instance_id="two")
    world.beat("b", LEAVE_STATIC_EPOCH, instance_id="two")
    assert world.beat_refused("b", 1) is ErrorCode.FENCED_MEMBER_EPOCH
    assert world.join("b", instance_id="two") == given
    # Without having left: it has lost the answer to its joining.
    assert world.join("b", instance_id="two") == given


def test_an_instance_id_is_not_given_to_another_while_it_is_held(world: GroupWorld) -> None:
    world.join("b", instance_id="two")
    asked: dict[str, Any] = {"topics": ("t",), "rebalance_timeout_ms": 1, "owned": NOTHING, "instance_id": "two"}
    assert world.beat_refused("c", 0, **asked) is ErrorCode.UNRELEASED_INSTANCE_ID
    assert world.beat_refused("c", 1, instance_id="two") is ErrorCode.FENCED_INSTANCE_ID
    assert world.beat_refused("c", LEAVE_EPOCH, instance_id="two") is ErrorCode.FENCED_INSTANCE_ID
    assert world.beat_refused("c", 1, instance_id="three") is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_static_member_that_does_not_come_back_is_gone_after_its_session(world: GroupWorld) -> None:
    world.join("b", instance_id="two")
    world.beat("b", LEAVE_STATIC_EPOCH, instance_id="two")
    world.pass_ms(SESSION_MS - 1)
    assert "b" in world.group.members
    world.pass_ms(1)
    assert world.group.is_empty
    assert world.group.static == {}
    world.assert_durable()


def test_a_static_member_that_leaves_while_it_gives_up_has_given_up(world: GroupWorld) -> None:
    world.join("a", instance_id="one")
    world.join("b")
    told = world.beat("a", 1)
    world.beat("a", LEAVE_STATIC_EPOCH, instance_id="one")
    assert world.group.rebalance_due_ms == {}
    assert world.beat("b", 2).assigned == world.logs() - (told.assigned or NOTHING)
    assert world.join("a2", instance_id="one").assigned == told.assigned


def test_a_member_takes_over_an_instance_id_and_loses_its_own(world: GroupWorld) -> None:
    """A member that comes back under an id that another one has: one member is left, with the instance's partitions."""
    world.join("a", instance_id="one")
    world.join("b", instance_id="two")
    world.beat("a", LEAVE_STATIC_EPOCH, instance_id="one")
    world.join("b", instance_id="one")
    assert set(world.group.members) == {"b"}
    assert world.group.static == {"one": "b"}
    world.assert_durable()


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_silent_member_is_removed_when_its_session_is_over(world: GroupWorld) -> None:
    """D5: when due, not at the next scan."""
    shared(world)
    world.pass_ms(SESSION_MS - 10)
    world.beat("a", 2)
    world.pass_ms(9)
    assert "b" in world.group.members
    world.pass_ms(1)
    assert set(world.group.members) == {"a"}
    assert world.group.epoch == 3
    assert world.beat("a", 2).assigned == world.logs()


def test_who_does_not_give_up_in_its_time_is_removed(world: GroupWorld) -> None:
    world.join("a", timeout_ms=10_000)
    world.join("b")
    world.beat("a", 1)
    assert world.member("a").state is MemberState.UNREVOKED
    world.pass_ms(9_000)
    world.beat("a", 1, owned=world.logs())
    world.pass_ms(999)
    assert "a" in world.group.members
    world.pass_ms(1)
    assert set(world.group.members) == {"b"}
    assert world.beat("b", 2).assigned == world.logs()


def test_who_gives_up_in_time_stays(world: GroupWorld) -> None:
    world.join("a", timeout_ms=10_000)
    world.join("b")
    kept = world.beat("a", 1).assigned
    world.pass_ms(9_999)
    world.beat("a", 1, owned=kept)
    world.pass_ms(10_000)
    assert set(world.group.members) == {"a", "b"}


def test_members_go_on_after_a_restart(world: GroupWorld) -> None:
    """O3: no rebalance, sessions begin anew; who was to give up has its whole time again."""
    shared(world)
    world.now_ms += 40_000
    world.restart()
    world.pass_ms(SESSION_MS - 1)
    assert [world.beat(name, 2).assigned for name in "ab"] == [None, None]
    assert world.group.epoch == 2
    world.join("c")
    for name in "ab":
        world.beat(name, 2)
    slow = {one.id for one in world.group.members.values() if one.state is MemberState.UNREVOKED}
    assert len(slow) == 1
    world.now_ms += ANY_TIMEOUT_MS
    world.restart()
    assert set(world.group.rebalance_due_ms) == slow
    world.pass_ms(SESSION_MS)
    assert world.group.is_empty


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "given", "code"),
    [
        (0, {"rebalance_timeout_ms": -1}, ErrorCode.INVALID_REQUEST),
        (0, {"owned": None}, ErrorCode.INVALID_REQUEST),
        (0, {"owned": frozenset([1])}, ErrorCode.INVALID_REQUEST),
        (0, {"topics": None}, ErrorCode.INVALID_REQUEST),
        (0, {"instance_id": ""}, ErrorCode.INVALID_REQUEST),
        (0, {"rack_id": ""}, ErrorCode.INVALID_REQUEST),
        (0, {"rack_id": "r" * (ID_CHARACTERS_MAX + 1)}, ErrorCode.INVALID_REQUEST),
        (0, {"group": ""}, ErrorCode.INVALID_REQUEST),
        (0, {"assignor": "mine"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        (0, {"topics": ("t",) * (MEMBER_TOPICS_MAX + 1)}, ErrorCode.POLICY_VIOLATION),
        (0, {"topics": ("t" * 2_000_000,)}, ErrorCode.POLICY_VIOLATION),
        (-2, {}, ErrorCode.INVALID_REQUEST),
        (-3, {"instance_id": "one"}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_requests_that_contradict_themselves(
    world: GroupWorld, epoch: int, given: dict[str, Any], code: ErrorCode
) -> None:
    asked = {"topics": ("t",), "rebalance_timeout_ms": 1, "owned": NOTHING, **given}
    assert world.beat_refused("a", epoch, **asked) is code
    assert world.state.groups.by_id == {}
    assert world.journal[1:] == []


def test_an_empty_member_id(world: GroupWorld) -> None:
    assert world.beat_refused("", 1) is ErrorCode.INVALID_REQUEST


def test_a_full_group_takes_nobody_but_its_own(world: GroupWorld) -> None:
    world.state.settings = world.state.settings._replace(consumer_members_max=2)
    world.join("a")
    world.join("b", instance_id="two")
    assert refusal(world.join, "c") is ErrorCode.GROUP_MAX_SIZE_REACHED
    world.beat("b", LEAVE_STATIC_EPOCH, instance_id="two")
    world.join("b2", instance_id="two")
    world.join("a")
    assert set(world.group.members) == {"a", "b2"}


def test_all_subscriptions_together_have_a_bound(world: GroupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8. Who is a member goes on as before, and may ask for less."""
    monkeypatch.setattr(heartbeats, "GROUP_BYTES_MAX", 1_000)
    given = world.join("a", "t", "x" * 599)
    assert refusal(world.join, "b", "y" * 401) is ErrorCode.POLICY_VIOLATION
    assert set(world.group.members) == {"a"}
    assert world.beat_refused("a", given.epoch, topics=("z" * 1_001,)) is ErrorCode.POLICY_VIOLATION
    world.beat("a", given.epoch, topics=("t",))
    world.join("b", "y" * 900)
    assert set(world.group.members) == {"a", "b"}


def test_a_broker_full_of_groups(world: GroupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from oncelog.engine.groups import classic

    monkeypatch.setattr(classic, "GROUPS_MAX", 1)
    world.join("a")
    assert refusal(world.join, "a", group="h") is ErrorCode.GROUP_MAX_SIZE_REACHED


# -- the assignor -----------------------------------------------------------------------------------------------------


def test_the_assignor_that_most_members_ask_for(world: GroupWorld) -> None:
    world.topic("u", 4)
    world.join("a", "t", "u")
    assert world.group.assignor == "uniform"
    world.join("b", "t", "u", assignor="range")
    assert world.group.assignor == "range"
    for log in ("t", "u"):
        in_order = sorted(world.logs(log))
        assert sorted(world.group.targets["a"] & world.logs(log)) == in_order[:2]
    world.join("c", "t", "u", assignor="uniform")
    world.join("d", "t", "u", assignor="uniform")
    assert world.group.assignor == "uniform"


def test_shown_partitions_leave_out_what_is_gone(world: GroupWorld) -> None:
    world.topic("u", 1)
    logs = world.logs() | world.logs("u")
    world.delete_topic("u")
    trees = heartbeats.assigned_trees(world.state, logs, with_names=True)
    assert [(tree["topic_name"], tree["partitions"]) for tree in trees] == [("t", (0, 1, 2, 3))]
