"""Classic groups: every transition, and who is told what (KIP-134, 345, 394, 814; rules O2, D5)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.engine.groups.group_world import GroupWorld
from tests.unit.engine.groups.members import REBALANCE_MS, SESSION_MS, ClassicClient, subscription
from tests.unit.engine.world import refusal

from oncelog.engine.groups import classic
from oncelog.engine.groups.draft import NEW_MEMBER_TIMEOUT_MS
from oncelog.engine.groups.members import check_commit, check_transactional_commit
from oncelog.engine.groups.values import ClassicGroup, ClassicState, Protocol, subscribed_topics
from oncelog.model.errors import ErrorCode


@pytest.fixture
def world() -> GroupWorld:
    made = GroupWorld()
    made.topic("t", 4)
    return made


def group_of(world: GroupWorld) -> ClassicGroup:
    group = world.state.groups.by_id["g"]
    assert isinstance(group, ClassicGroup)
    return group


def stable(world: GroupWorld, *names: str, **instance_ids: str) -> list[ClassicClient]:
    """Members that share the partitions."""
    clients = [ClassicClient(world, name, instance_id=instance_ids.get(name)) for name in names]
    for _ in range(6):
        for client in clients:
            client.step()
    assert all(client.is_stable for client in clients)
    assert group_of(world).state is ClassicState.STABLE
    return clients


def delay(world: GroupWorld, ms: int) -> None:
    world.state.settings = world.state.settings._replace(group_initial_rebalance_delay_ms=ms)


def join(world: GroupWorld, member_id: str = "", **given: Any) -> Any:
    """One JoinGroup by hand; its answer, or its ticket while it waits."""
    asked: dict[str, Any] = {
        "group_id": "g",
        "member_id": member_id,
        "member_id_new": f"new-{world.ticket_last}",
        "instance_id": None,
        "client_id": "me",
        "client_host": "/127.0.0.1",
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "protocol_type": "consumer",
        "protocols": (Protocol("mine", subscription("t")),),
        "is_member_id_required": False,
        "can_skip_assignment": True,
        **given,
    }
    ticket = world.ticket()
    world.decide(classic.decide_join, classic.Join(**asked), ticket, world.now_ms)
    return world.answers.pop(ticket, ticket)


# -- joining ----------------------------------------------------------------------------------------------------------


def test_a_new_member_is_given_an_id_and_leads(world: GroupWorld) -> None:
    """KIP-394: the first answer is an id to come back with."""
    given = join(world, is_member_id_required=True)
    assert (given["error_code"], given["generation_id"]) == (ErrorCode.MEMBER_ID_REQUIRED, -1)
    assert group_of(world).pending == {given["member_id"]}
    joined = join(world, given["member_id"])
    assert (joined["generation_id"], joined["leader"]) == (1, given["member_id"])
    assert [one["member_id"] for one in joined["members"]] == [given["member_id"]]
    assert group_of(world).state is ClassicState.COMPLETING


def test_an_id_that_nobody_uses_is_forgotten(world: GroupWorld) -> None:
    given = join(world, is_member_id_required=True)
    world.pass_ms(SESSION_MS - 1)
    assert group_of(world).pending
    world.pass_ms(1)
    assert world.state.groups.by_id == {}
    assert world.state.groups.deadlines == {}
    assert refusal(join, world, given["member_id"]) is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.journal[1:] == []


def test_members_share_and_only_the_leader_knows_them(world: GroupWorld) -> None:
    a, b = stable(world, "a", "b")
    assert sorted([*a.owned, *b.owned]) == [0, 1, 2, 3]
    assert (a.generation, a.leader, b.leader) == (2, a.id, a.id)
    assert (sorted(a.led), b.led) == (sorted([a.id, b.id]), [])
    world.assert_durable()


def test_a_rebalance_is_heard_of_by_heartbeat_and_waited_for(world: GroupWorld) -> None:
    (a,) = stable(world, "a")
    b = ClassicClient(world, "b")
    b.join()
    assert b.waits_for is not None
    assert group_of(world).state is ClassicState.PREPARING
    assert a.beat() is ErrorCode.REBALANCE_IN_PROGRESS
    assert a.owned == {0, 1, 2, 3}, "it goes on until it joins"
    a.step()
    b.step()
    assert (a.generation, b.generation) == (2, 2)


def test_who_does_not_join_in_time_is_out(world: GroupWorld) -> None:
    """It goes on saying that it lives; the others do not wait longer than it asked for."""
    a, b = stable(world, "a", "b")
    c = ClassicClient(world, "c")
    c.join()
    b.beat()
    b.step()
    while world.now_ms < 1_000_000 + REBALANCE_MS - 5_000:
        world.pass_ms(5_000)
        assert a.beat() is ErrorCode.REBALANCE_IN_PROGRESS
    world.pass_ms(5_000)
    assert a.id not in group_of(world).members
    assert a.beat() is ErrorCode.UNKNOWN_MEMBER_ID
    for client in (b, c, b, c):
        client.step()
    assert (b.generation, c.generation, group_of(world).leader) == (3, 3, b.id)
    assert sorted(b.led) == sorted([b.id, c.id])
    assert sorted([*b.owned, *c.owned]) == [0, 1, 2, 3]


def test_an_old_generation_commits_nothing(world: GroupWorld) -> None:
    """O2: the generation, the member and its instance must be right; between join and sync nobody commits."""
    a, b = stable(world, "a", "b", b="two")

    def code(client: ClassicClient, generation: int, check: Any = check_transactional_commit) -> ErrorCode:
        asked = {"member_id": client.id, "generation": generation, "instance_id": client.instance_id}
        return refusal(check, world.state, "g", version=8, **asked)

    assert [code(a, generation) for generation in (1, 2, 3)] == [
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.NONE,
        ErrorCode.ILLEGAL_GENERATION,
    ]
    nobody = {"member_id": "", "generation": -1, "instance_id": None}
    assert refusal(check_transactional_commit, world.state, "g", version=3, **nobody) is ErrorCode.NONE
    assert refusal(check_commit, world.state, "g", version=8, **nobody) is ErrorCode.UNKNOWN_MEMBER_ID
    fenced = {"member_id": a.id, "generation": 2, "instance_id": "two"}
    assert refusal(check_transactional_commit, world.state, "g", version=3, **fenced) is ErrorCode.FENCED_INSTANCE_ID
    c = ClassicClient(world, "c")
    c.join()
    assert code(a, 2, check_commit) is ErrorCode.NONE, "it commits before it joins again"
    for client in (a, b):
        join(world, client.id, instance_id=client.instance_id)
    assert group_of(world).state is ClassicState.COMPLETING
    assert code(a, 3, check_commit) is ErrorCode.REBALANCE_IN_PROGRESS
    assert code(a, 3) is ErrorCode.NONE


def test_a_lost_answer_to_joining_changes_nothing(world: GroupWorld) -> None:
    """The same JoinGroup again: the same generation; with another subscription, or from the leader: a rebalance."""
    a, b = stable(world, "a", "b")
    again = join(world, b.id)
    assert (again["generation_id"], again["member_id"], again["members"]) == (2, b.id, [])
    assert group_of(world).state is ClassicState.STABLE
    join(world, b.id, protocols=(Protocol("mine", subscription("t", "u")),))
    assert group_of(world).state is ClassicState.PREPARING
    a.join()
    assert (group_of(world).state, a.generation, a.leader) == (ClassicState.STABLE, 3, a.id)
    join(world, a.id)
    assert group_of(world).state is ClassicState.PREPARING


def test_the_first_members_are_waited_for(world: GroupWorld) -> None:
    """KIP-134: each new member extends the delay, up to the rebalance timeout."""
    delay(world, 3_000)
    first = join(world)
    world.pass_ms(2_999)
    second = join(world)
    world.pass_ms(1)
    assert group_of(world).state is ClassicState.PREPARING
    assert world.answers == {}
    world.pass_ms(3_000)
    assert {world.answers[first]["generation_id"], world.answers[second]["generation_id"]} == {1}


def test_who_joins_after_the_first_has_left_within_the_delay(world: GroupWorld) -> None:
    """The group has nobody while it waits: whoever comes then says what protocol it is."""
    delay(world, 3_000)
    join(world)
    (first,) = group_of(world).members
    world.decide(classic.decide_leave, "g", (classic.Leaving(first, None),), world.now_ms)
    second = join(world, protocols=(Protocol("other", b""),))
    world.pass_ms(6_000)
    assert world.answers[second]["protocol_name"] == "other"


def test_protocols_must_have_one_in_common(world: GroupWorld) -> None:
    def code(*names: str, protocol_type: str = "consumer") -> ErrorCode:
        return refusal(join, world, protocols=tuple(Protocol(name, b"") for name in names), protocol_type=protocol_type)

    assert code() is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert code("x", protocol_type="") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert code("x", "y") is ErrorCode.NONE
    assert code("z") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert code("y", protocol_type="connect") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert code("y", "z") is ErrorCode.NONE
    assert code("x") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_a_full_group_takes_nobody(world: GroupWorld) -> None:
    world.state.settings = world.state.settings._replace(group_members_max=2)
    a, b = stable(world, "a", "b")
    assert refusal(join, world) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert join(world, b.id)["error_code"] == 0
    a.leave()
    assert refusal(join, world) is ErrorCode.NONE


def test_all_members_together_have_a_bound(world: GroupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: what all say of themselves is one row of the journal, written anew with every generation."""
    monkeypatch.setattr(classic, "GROUP_BYTES_MAX", 1_000)
    a, _ = stable(world, "a", "b")
    large = (Protocol("mine", b"x" * 990),)
    assert refusal(join, world, protocols=large) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert refusal(join, world, a.id, protocols=large) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert refusal(join, world, a.id, protocols=(Protocol("mine", b"x" * 900),)) is ErrorCode.NONE
    assert group_of(world).state is ClassicState.PREPARING


def test_all_assignments_together_have_a_bound(world: GroupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "GROUP_BYTES_MAX", 1_000)
    joined = join(world)
    asked = {"group_id": "g", "member_id": joined["leader"], "instance_id": None, "generation": 1}
    for sizes, code in (((600, 401), ErrorCode.POLICY_VIOLATION), ((600, 400), ErrorCode.NONE)):
        assignments = {f"member-{number}": bytes(size) for number, size in enumerate(sizes)}
        sync = classic.Sync(protocol_type=None, protocol=None, assignments=assignments, **asked)
        assert refusal(world.decide, classic.decide_sync, sync, world.ticket(), world.now_ms) is code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"session_timeout_ms": 1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": 2**31 - 1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"instance_id": "i" * 2_000}, ErrorCode.INVALID_REQUEST),
        ({"protocols": (Protocol("mine", b"x" * 2_000_000),)}, ErrorCode.POLICY_VIOLATION),
        ({"protocols": (Protocol("mine", b""),) * 101}, ErrorCode.POLICY_VIOLATION),
    ],
)
def test_joins_that_are_refused(world: GroupWorld, given: dict[str, Any], code: ErrorCode) -> None:
    assert refusal(join, world, **given) is code
    assert world.state.groups.by_id == {}


# -- syncing ----------------------------------------------------------------------------------------------------------


def test_who_does_not_sync_in_time_is_out(world: GroupWorld) -> None:
    (a,) = stable(world, "a")
    given = join(world, is_member_id_required=True)
    ticket = join(world, given["member_id"])
    a.beat()
    a.step()
    assert group_of(world).state is ClassicState.STABLE
    assert world.answers.pop(ticket)["generation_id"] == 2
    for _ in range(11):
        world.pass_ms(5_000)
        a.beat()
        refusal(world.decide, classic.decide_heartbeat, "g", given["member_id"], None, 2, world.now_ms)
    assert given["member_id"] in group_of(world).members
    world.pass_ms(5_000)
    assert given["member_id"] not in group_of(world).members
    assert a.beat() is ErrorCode.REBALANCE_IN_PROGRESS
    a.run()
    assert (a.generation, a.owned) == (3, {0, 1, 2, 3})


def test_a_rebalance_answers_those_that_wait_for_their_part(world: GroupWorld) -> None:
    """A follower that syncs before the leader is told to join again when the leader is gone."""
    a, b = stable(world, "a", "b")
    for client in (a, b):
        join(world, client.id, protocols=(Protocol("mine", subscription("u")),))
    generation = group_of(world).generation
    ticket = world.ticket()
    sync = classic.Sync("g", b.id, None, generation, None, None, {})
    world.decide(classic.decide_sync, sync, ticket, world.now_ms)
    assert ticket not in world.answers
    a.leave()
    assert world.answers[ticket]["error_code"] == ErrorCode.REBALANCE_IN_PROGRESS
    assert group_of(world).state is ClassicState.PREPARING


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"group_id": "other"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation": 1}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 3}, ErrorCode.ILLEGAL_GENERATION),
        ({"protocol": "other"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "connect"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"instance_id": "two"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_syncs_that_are_refused(world: GroupWorld, given: dict[str, Any], code: ErrorCode) -> None:
    a, _ = stable(world, "a", "b")
    asked = {"group_id": "g", "member_id": a.id, "instance_id": None, "generation": 2, "protocol_type": None}
    asked |= {"protocol": None, "assignments": {}, **given}
    decide: Any = lambda: world.decide(classic.decide_sync, classic.Sync(**asked), world.ticket(), world.now_ms)  # noqa: E731
    assert refusal(decide) is code


# -- going ------------------------------------------------------------------------------------------------------------


def test_a_silent_member_is_removed_when_its_session_is_over(world: GroupWorld) -> None:
    """D5: when due; the others hear of it at once."""
    a, b = stable(world, "a", "b")
    world.pass_ms(SESSION_MS - 1)
    a.beat()
    assert b.id in group_of(world).members
    world.pass_ms(1)
    assert b.id not in group_of(world).members
    assert a.beat() is ErrorCode.REBALANCE_IN_PROGRESS
    a.run()
    assert (a.generation, a.owned) == (3, {0, 1, 2, 3})


def test_a_new_member_that_waits_has_a_limit_too(world: GroupWorld) -> None:
    """Its JoinGroup waits and it can't send heartbeats; it is given up after Kafka's five minutes."""
    delay(world, 600_000)
    ticket = join(world, rebalance_timeout_ms=900_000)
    world.pass_ms(NEW_MEMBER_TIMEOUT_MS - 1)
    assert ticket not in world.answers
    world.pass_ms(1)
    assert world.answers[ticket]["error_code"] == ErrorCode.UNKNOWN_MEMBER_ID


def test_leaving(world: GroupWorld) -> None:
    a, b = stable(world, "a", "b", b="two")
    given = join(world, is_member_id_required=True)
    leaving = (
        classic.Leaving(given["member_id"], None),
        classic.Leaving("nobody", None),
        classic.Leaving("", "three"),
        classic.Leaving(a.id, "two"),
    )
    assert world.decide(classic.decide_leave, "g", leaving, world.now_ms) == [
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.FENCED_INSTANCE_ID,
    ]
    assert group_of(world).state is ClassicState.STABLE, "who was no member yet is no loss"
    both = (classic.Leaving("", "two"), classic.Leaving(a.id, None))
    assert world.decide(classic.decide_leave, "g", both, world.now_ms) == [ErrorCode.NONE] * 2
    group = group_of(world)
    assert (group.state, group.generation, group.members, group.static) == (ClassicState.EMPTY, 3, {}, {})
    world.assert_durable()
    assert b.beat() is ErrorCode.UNKNOWN_MEMBER_ID
    assert world.decide(classic.decide_leave, "other", both, 0) == [ErrorCode.UNKNOWN_MEMBER_ID] * 2


# -- static members ---------------------------------------------------------------------------------------------------


def test_a_static_member_is_replaced_without_a_rebalance(world: GroupWorld) -> None:
    """KIP-345: the new process has the old one's part; the old one is fenced."""
    a, b = stable(world, "a", "b", b="two")
    again = ClassicClient(world, "b2", instance_id="two")
    again.run()
    assert (again.generation, again.owned) == (2, b.owned)
    assert a.beat() is ErrorCode.NONE
    assert b.beat() is ErrorCode.FENCED_INSTANCE_ID
    world.assert_durable()
    world.restart()
    assert again.beat() is ErrorCode.NONE


def test_a_static_leader_comes_back(world: GroupWorld) -> None:
    """KIP-814: it is told that it leads, with the members, and need not assign; older clients are told that they do not."""
    a, b = stable(world, "a", "b", a="one")
    back = join(world, instance_id="one")
    assert (back["generation_id"], back["leader"], back["skip_assignment"]) == (2, back["member_id"], True)
    assert {one["member_id"] for one in back["members"]} == {back["member_id"], b.id}
    old = join(world, instance_id="one", can_skip_assignment=False)
    assert (old["leader"], old["skip_assignment"], old["members"]) == (back["member_id"], False, [])
    assert group_of(world).leader == old["member_id"]
    assert a.beat() is ErrorCode.FENCED_INSTANCE_ID


def test_a_static_member_that_waits_is_fenced_at_once(world: GroupWorld) -> None:
    a, b = stable(world, "a", "b", b="two")
    c = ClassicClient(world, "c")
    c.join()
    ticket = join(world, b.id, instance_id="two")
    join(world, instance_id="two")
    answer = world.answers[ticket]
    assert (answer["error_code"], answer["member_id"]) == (ErrorCode.FENCED_INSTANCE_ID, b.id)
    assert a.id in group_of(world).members


def test_a_static_member_that_is_replaced_while_it_waits_is_not_taken_for_silent(world: GroupWorld) -> None:
    """Whose JoinGroup waits can't send heartbeats: a second copy in a new member's place waits as long as it must."""
    (a,) = stable(world, "a")
    join(world, instance_id="two", is_member_id_required=True)
    ticket = join(world, instance_id="two", is_member_id_required=True)
    for _ in range(2):
        world.pass_ms(SESSION_MS - 1)
        a.beat()
    assert ticket not in world.answers
    a.join()
    assert world.answers[ticket]["error_code"] == 0
    assert world.answers[ticket]["member_id"] in group_of(world).members


def test_a_static_member_comes_back_to_a_full_group(world: GroupWorld) -> None:
    """It takes its own place."""
    world.state.settings = world.state.settings._replace(group_members_max=2)
    stable(world, "a", "b", b="two")
    assert refusal(join, world, instance_id="three") is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert join(world, instance_id="two")["error_code"] == 0


def test_a_static_member_that_reads_other_topics_is_known_to(world: GroupWorld) -> None:
    """O5: what it reads from now on does not expire; a restart says the same."""
    stable(world, "a", "b", b="two")
    join(world, instance_id="two", protocols=(Protocol("mine", subscription("u")),))
    assert group_of(world).state is ClassicState.STABLE
    assert group_of(world).topics == {"t", "u"}
    world.restart()
    assert group_of(world).topics == {"t", "u"}


def test_a_static_member_is_kept_for_its_session(world: GroupWorld) -> None:
    """It does not join in time, and is not out: its part is kept for it."""
    a, b = stable(world, "a", "b", b="two")
    c = ClassicClient(world, "c")
    c.join()
    a.join()
    for _ in range(2):
        world.pass_ms(20_000)
        assert b.beat() is ErrorCode.REBALANCE_IN_PROGRESS
    world.pass_ms(20_000)
    assert b.beat() is ErrorCode.ILLEGAL_GENERATION
    for client in (a, c, a, c):
        client.step()
    assert b.id in group_of(world).members
    assert b.id in a.led
    world.pass_ms(SESSION_MS)
    assert "two" not in group_of(world).static


def test_nobody_has_joined_in_time_and_all_are_static(world: GroupWorld) -> None:
    """The generation is not begun without a leader; the session ends it."""
    a, b = stable(world, "a", "b", a="one", b="two")
    b.leave()
    for _ in range(5):
        world.pass_ms(20_000)
        a.beat()
        assert group_of(world).state is ClassicState.PREPARING
    world.pass_ms(100_000)
    assert group_of(world).state is ClassicState.EMPTY


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_members_go_on_after_a_restart(world: GroupWorld) -> None:
    a, b = stable(world, "a", "b")
    world.now_ms += SESSION_MS
    world.restart()
    world.pass_ms(SESSION_MS - 1)
    assert [a.beat(), b.beat()] == [ErrorCode.NONE] * 2
    world.pass_ms(SESSION_MS)
    assert group_of(world).state is ClassicState.EMPTY


def test_a_restart_between_join_and_sync(world: GroupWorld) -> None:
    """The generation was told to members, so it is durable: they may still sync, and it is never given again."""
    given = join(world, is_member_id_required=True)
    joined = join(world, given["member_id"])
    world.restart()
    assert group_of(world).state is ClassicState.COMPLETING
    ticket = world.ticket()
    sync = classic.Sync("g", joined["member_id"], None, 1, None, None, {joined["member_id"]: b"\x01"})
    world.decide(classic.decide_sync, sync, ticket, world.now_ms)
    assert world.answers[ticket]["assignment"] == b"\x01"
    world.assert_durable()


def test_a_restart_with_nobody_left_to_sync(world: GroupWorld) -> None:
    given = join(world, is_member_id_required=True)
    join(world, given["member_id"])
    world.restart()
    world.pass_ms(REBALANCE_MS)
    group = group_of(world)
    assert (group.state, group.generation) == (ClassicState.EMPTY, 2)


# -- what consumers say of themselves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [b"", b"\x00", subscription("topic")[:9], b"\x00\x00\x00\x00\x00\x01\xff\xff"])
def test_a_subscription_that_can_not_be_read(world: GroupWorld, broken: bytes) -> None:
    a, _ = stable(world, "a", "b")
    member = group_of(world).members[a.id]
    assert subscribed_topics("consumer", "mine", {a.id: member}) == {"t"}
    changed = member.__class__("x", None, "", "", 1, 1, (Protocol("mine", broken),))
    found = subscribed_topics("consumer", "mine", {"x": changed})
    assert found in (None, frozenset())
    assert subscribed_topics("connect", "mine", {a.id: member}) is None
