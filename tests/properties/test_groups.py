"""Groups of both protocols against clients that only know what they were told (rules O2, O3; KIP-345, KIP-848).

The model is what the clients hold: partitions that two of them hold at once, epochs that go back, answers that never come and
members that never get their part are found from their side. After each example: replayed is live, from a checkpoint too; that
deciding changes nothing is checked at every decision (law 1).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.engine.groups.group_world import GroupWorld
from tests.unit.engine.groups.members import REBALANCE_MS, ClassicClient, ConsumerClient
from tests.unit.engine.world import refusal

from oncelog.engine.groups.assignors import ASSIGNORS, Reader
from oncelog.engine.groups.consumer import ConsumerGroup
from oncelog.engine.groups.members import check_commit, check_transactional_commit
from oncelog.engine.groups.values import ClassicGroup, ClassicState
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import LogId

NAMES = ("a", "b", "c", "d")
STATIC = ("c", "d")
TOPICS = ("t", "u", "v")
SUBSCRIPTIONS: list[dict[str, Any]] = [
    {"topics": ("t",)},
    {"topics": ("t", "u")},
    {"topics": ("u", "v")},
    {"pattern": "[tv]"},
    {"topics": ("u",), "pattern": "t.*"},
]
#: Heartbeats of everybody after which nothing may be left to do: each round is a step of each member.
ROUNDS = 12
members = st.sampled_from(NAMES)
few = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


class ConsumerGroupAgainstItsMembers(RuleBasedStateMachine):
    """Members join, leave, fall silent, lose answers; topics come and go; the broker dies and comes back."""

    @initialize()
    def begin(self) -> None:
        self.world = GroupWorld()
        self.world.topic("t", 3)
        self.world.topic("u", 2)
        self.clients = {
            name: ConsumerClient(self.world, name, instance_id=name if name in STATIC else None) for name in NAMES
        }
        self.epoch_seen = 0

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(name=members, lost=st.booleans())
    def beat(self, name: str, lost: bool) -> None:
        self.clients[name].beat(is_lost=lost)

    @rule(name=members)
    def give_up(self, name: str) -> None:
        self.clients[name].give_up()

    @rule(name=members, subscribed=st.sampled_from(SUBSCRIPTIONS))
    def subscribe(self, name: str, subscribed: dict[str, Any]) -> None:
        self.clients[name].subscribe(**subscribed)

    @rule(name=members, for_a_while=st.booleans())
    def leave(self, name: str, for_a_while: bool) -> None:
        client = self.clients[name]
        if client.is_member:
            client.leave(for_a_while=for_a_while and client.instance_id is not None)
            client.start_again()

    @rule(name=members)
    def crash(self, name: str) -> None:
        """The process dies without a word; what it held is nobody's."""
        self.clients[name].start_again()

    @rule(name=members, back=st.integers(1, 3))
    def say_an_old_epoch(self, name: str, back: int) -> None:
        """Whoever is late by more than a lost answer is fenced and changes nothing."""
        client = self.clients[name]
        group = self.world.state.groups.by_id.get("g")
        if not client.is_member or not isinstance(group, ConsumerGroup) or client.epoch - back <= 0:
            return
        known = group.members.get(client.id)
        if known is not None and client.epoch - back not in (known.epoch, known.epoch_previous):
            assert self.world.beat_refused(client.id, client.epoch - back) is ErrorCode.FENCED_MEMBER_EPOCH

    @rule(ms=st.sampled_from([1_000, 20_000, 44_999, 45_000, REBALANCE_MS]))
    def wait(self, ms: int) -> None:
        """Time goes by: whoever was silent for too long is out, and is not asked what it thinks of it."""
        self.world.pass_ms(ms)
        for client in self.clients.values():
            if not self.is_known(client):
                client.owned = client.told = frozenset()

    @rule(topic=st.sampled_from(TOPICS), partitions=st.integers(1, 3))
    def make_topic(self, topic: str, partitions: int) -> None:
        if topic not in self.world.state.topics:
            self.world.topic(topic, partitions)

    @rule(topic=st.sampled_from(TOPICS))
    def grow_topic(self, topic: str) -> None:
        if topic in self.world.state.topics:
            self.world.more_partitions(topic)

    @rule(topic=st.sampled_from(TOPICS))
    def delete_topic(self, topic: str) -> None:
        if topic in self.world.state.topics:
            self.world.delete_topic(topic)
            there = self.world.state.logs.keys()
            for client in self.clients.values():
                client.owned &= there

    @rule()
    def restart_broker(self) -> None:
        """Nobody notices."""
        before = self.epoch()
        self.world.restart()
        assert self.epoch() == before

    @rule()
    def commit(self) -> None:
        """O3: exactly those commit who know their epoch."""
        for client in self.clients.values():
            known = self.known(client)
            expected = known is not None and known.epoch == client.epoch and client.epoch > 0
            asked: dict[str, Any] = {"member_id": client.id, "generation": client.epoch, "instance_id": None}
            for check in (check_commit, check_transactional_commit):
                code = refusal(check, self.world.state, "g", version=9, **asked)
                assert (code is ErrorCode.NONE) == expected, (client.name, code)

    @rule()
    def settle(self) -> None:
        """When everybody alive goes on, everybody comes to what the target says, and nothing is left over."""
        for client in self.clients.values():
            if client.is_fenced or not client.is_member:
                client.start_again()
        self.world.pass_ms(45_000)  # who is not there any more holds nothing
        for client in self.clients.values():
            if not self.is_known(client):
                client.owned = client.told = frozenset()
        for _ in range(ROUNDS):
            for client in self.clients.values():
                client.beat()
                client.give_up()
        self.assert_settled()

    # -- what must hold -----------------------------------------------------------------------------------------------

    def known(self, client: ConsumerClient) -> Any:
        group = self.world.state.groups.by_id.get("g")
        return group.members.get(client.id) if isinstance(group, ConsumerGroup) else None

    def is_known(self, client: ConsumerClient) -> bool:
        return self.known(client) is not None

    def epoch(self) -> int:
        group = self.world.state.groups.by_id.get("g")
        return group.epoch if isinstance(group, ConsumerGroup) else 0

    def wanted(self, client: ConsumerClient) -> set[LogId]:
        """What a client could read, by a matcher of our own."""
        pattern = client.subscribed.get("pattern", "")
        accepted = {"": set(), "[tv]": {"t", "v"}, "t.*": {"t"}}[pattern] | set(client.subscribed.get("topics", ()))
        return {log for name, row in self.world.state.topics.items() if name in accepted for log in row.logs}

    def assert_settled(self) -> None:
        assert self.world.group.state == "Stable"
        holders = Counter(log for client in self.clients.values() for log in client.owned)
        wanted = set().union(*(self.wanted(client) for client in self.clients.values()))
        assert set(holders) == wanted, "a partition that somebody subscribes to is nobody's, or the other way round"
        assert set(holders.values()) <= {1}
        for client in self.clients.values():
            assert client.owned <= self.wanted(client)
            assert client.epoch == self.world.group.epoch
        wants = {frozenset(self.wanted(client)) for client in self.clients.values()}
        if len(wants) == 1:
            sizes = [len(client.owned) for client in self.clients.values()]
            assert max(sizes) - min(sizes) <= 1

    @invariant()
    def no_partition_is_held_by_two(self) -> None:
        holders = Counter(log for client in getattr(self, "clients", {}).values() for log in client.owned)
        assert not [log for log, count in holders.items() if count > 1]

    @invariant()
    def epochs_only_grow(self) -> None:
        if hasattr(self, "world"):
            assert self.epoch() >= self.epoch_seen
            self.epoch_seen = self.epoch()

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        """Every member has a session; every member that is to give up has a time for it."""
        group = self.world.state.groups.by_id.get("g") if hasattr(self, "world") else None
        if isinstance(group, ConsumerGroup):
            deadlines = self.world.state.groups.deadlines.get("g", {})
            assert set(deadlines) == set(group.members)
            assert set(group.rebalance_due_ms) == {one.id for one in group.members.values() if one.state == 1}
            if group.members:
                assert self.world.state.alarms.next_ms is not None

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.assert_durable()


TestConsumerGroupAgainstItsMembers = ConsumerGroupAgainstItsMembers.TestCase
TestConsumerGroupAgainstItsMembers.settings = few


class ClassicGroupAgainstItsMembers(RuleBasedStateMachine):
    """Eager consumers of the classic protocol, the same way."""

    @initialize(delay_ms=st.sampled_from([0, 3_000]))
    def begin(self, delay_ms: int) -> None:
        self.world = GroupWorld()
        self.world.state.static_configs["group.initial.rebalance.delay.ms"] = str(delay_ms)
        self.world.state.settings = self.world.state.settings._replace(group_initial_rebalance_delay_ms=delay_ms)
        self.world.topic("t", 4)
        self.delay_ms = delay_ms
        self.clients = {name: self.client(name) for name in NAMES}
        self.generation_seen = 0

    def client(self, name: str) -> ClassicClient:
        return ClassicClient(self.world, name, instance_id=name if name in STATIC else None)

    @rule(name=members, steps=st.integers(1, 3))
    def step(self, name: str, steps: int) -> None:
        for _ in range(steps):
            self.clients[name].step()

    @rule(name=members)
    def leave(self, name: str) -> None:
        if self.clients[name].is_stable:
            self.clients[name].leave()

    @rule(name=members)
    def crash(self, name: str) -> None:
        """The process dies; a new one has no member id."""
        self.clients[name] = self.client(name)

    @rule(name=members)
    def join_again(self, name: str) -> None:
        """A member that wants another rebalance, or has lost the answer to its request."""
        client = self.clients[name]
        if not client.is_fenced and client.id:
            client.waits_for = None
            client.join()

    @rule(ms=st.sampled_from([1_000, 3_000, 29_999, 30_000, REBALANCE_MS, 300_000]))
    def wait(self, ms: int) -> None:
        self.world.pass_ms(ms)

    @rule(name=members, seconds=st.sampled_from([20, 40, 80]))
    def only_beat(self, name: str, seconds: int) -> None:
        """The application is busy: its client says that it lives, and does not join again."""
        for _ in range(seconds // 20):
            client = self.clients[name]
            if client.waits_for is None and client.id and client.generation >= 0:
                owned = client.owned
                if client.beat() in (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.UNKNOWN_MEMBER_ID):
                    client.owned = owned  # it does not look at what its client has heard
            self.world.pass_ms(20_000)

    @rule()
    def restart_broker(self) -> None:
        """Requests that waited are lost with their connections; who has its part goes on."""
        stable = {name for name, client in self.clients.items() if client.is_stable and self.is_current(client)}
        moving = self.group() is None or self.group().state is not ClassicState.STABLE
        self.world.restart()
        self.world.state.settings = self.world.state.settings._replace(group_initial_rebalance_delay_ms=self.delay_ms)
        self.world.answers.clear()
        for name, client in self.clients.items():
            if client.waits_for is not None:
                client.waits_for = None
                client.must_join = True
            elif name in stable and not moving:
                assert client.beat() is ErrorCode.NONE

    @rule()
    def settle(self) -> None:
        """When everybody alive goes on, all are in one generation and every partition is somebody's."""
        for name, client in self.clients.items():
            if client.is_fenced:
                self.clients[name] = self.client(name)
        self.world.pass_ms(400_000)  # the silent are out, and nothing waits for them
        for _ in range(20):
            for client in self.clients.values():
                client.step()
            self.world.pass_ms(1_000)
        group = self.group()
        assert group is not None
        assert group.state is ClassicState.STABLE
        assert all(client.is_stable for client in self.clients.values())
        assert {client.generation for client in self.clients.values()} == {group.generation}
        assert sorted(index for client in self.clients.values() for index in client.owned) == [0, 1, 2, 3]
        leaders = [client for client in self.clients.values() if client.leader == client.id]
        assert [client.id for client in leaders] == [group.leader]

    # -- what must hold -----------------------------------------------------------------------------------------------

    def group(self) -> ClassicGroup | None:
        group = self.world.state.groups.by_id.get("g")
        return group if isinstance(group, ClassicGroup) else None

    def is_current(self, client: ClassicClient) -> bool:
        """Whether its commits are accepted (O2): the member, its instance and the generation are right."""
        asked: dict[str, Any] = {
            "member_id": client.id,
            "generation": client.generation,
            "instance_id": client.instance_id,
        }
        return refusal(check_transactional_commit, self.world.state, "g", version=3, **asked) is ErrorCode.NONE

    @invariant()
    def no_partition_is_committed_by_two(self) -> None:
        clients = getattr(self, "clients", {}).values()
        holders = Counter(
            index
            for client in clients
            if client.id and client.generation >= 0 and self.is_current(client)
            for index in client.owned
        )
        assert not [index for index, count in holders.items() if count > 1]

    @invariant()
    def generations_only_grow(self) -> None:
        group = self.group() if hasattr(self, "world") else None
        generation = group.generation if group is not None else 0
        if generation:
            assert generation >= self.generation_seen
            self.generation_seen = generation

    @invariant()
    def whoever_waits_is_answered_some_time(self) -> None:
        """Requests that wait, members and ids that were given out: something falls due for each."""
        group = self.group() if hasattr(self, "world") else None
        if group is None:
            return
        deadlines = self.world.state.groups.deadlines.get("g", {})
        assert set(deadlines) <= set(group.members) | group.pending
        if group.members or group.pending:
            assert self.world.state.alarms.next_ms is not None
        for member_id in set(group.members) | group.pending:
            if not group.is_parked(member_id):
                assert member_id in deadlines
        if group.state is ClassicState.PREPARING:
            assert group.join_due_ms >= 0
        if group.state is ClassicState.STABLE:
            assert not group.joining
            assert not group.syncing

    @precondition(lambda self: hasattr(self, "world"))
    @rule()
    def everybody_falls_silent(self) -> None:
        """Then the group is empty in the end, and no request waits."""
        self.world.pass_ms(1_000_000)
        group = self.group()
        assert group is None or (group.is_empty and not group.pending and not group.joining and not group.syncing)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.assert_durable()


TestClassicGroupAgainstItsMembers = ClassicGroupAgainstItsMembers.TestCase
TestClassicGroupAgainstItsMembers.settings = few


# -- assignors --------------------------------------------------------------------------------------------------------


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Reader], dict[str, list[LogId]]]:
    """Members with any subscriptions and any part of what is there, and of what is gone."""
    counts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    topics: dict[str, list[LogId]] = {}
    last = 0
    for number, count in enumerate(counts):
        topics[f"t{number}"] = [LogId(last + index + 1) for index in range(count)]
        last += count
    logs = st.sampled_from(range(1, last + 5)).map(LogId)
    free = {LogId(each) for each in range(1, last + 5)}
    readers = []
    for number in range(draw(st.integers(1, 5))):
        had = frozenset(draw(st.frozensets(logs, max_size=8))) & free
        free -= had
        subscribed = draw(st.frozensets(st.sampled_from([*topics, "gone"])))
        instance_id = draw(st.sampled_from([None, f"i{number}"]))
        readers.append(Reader(f"m{number}", instance_id, subscribed, had))
    return readers, topics


@given(group=groups(), name=st.sampled_from(sorted(ASSIGNORS)))
@settings(max_examples=300, deadline=None)
def test_every_partition_has_one_reader_that_wants_it(
    group: tuple[list[Reader], dict[str, list[LogId]]], name: str
) -> None:
    readers, topics = group
    targets = ASSIGNORS[name](readers, topics)
    assert set(targets) == {reader.id for reader in readers}
    holders = Counter(log for logs in targets.values() for log in logs)
    wanted = {
        log for topic, logs in topics.items() if any(topic in reader.topics for reader in readers) for log in logs
    }
    assert holders == Counter(wanted)
    for reader in readers:
        assert targets[reader.id] <= {log for topic in reader.topics for log in topics.get(topic, ())}
    again = [reader._replace(target=targets[reader.id]) for reader in readers]
    assert ASSIGNORS[name](again, topics) == targets, "nothing has changed, so nothing moves"


@given(group=groups())
@settings(max_examples=300, deadline=None)
def test_uniform_is_even_and_moves_little(group: tuple[list[Reader], dict[str, list[LogId]]]) -> None:
    """With equal subscriptions: shares differ by one at most, and who had no more than its share keeps it all."""
    readers, topics = group
    readers = [reader._replace(topics=frozenset(topics)) for reader in readers]
    targets = ASSIGNORS["uniform"](readers, topics)
    sizes = sorted(len(logs) for logs in targets.values())
    assert sizes[-1] - sizes[0] <= 1
    share = sum(map(len, topics.values())) // len(readers)
    there = {log for logs in topics.values() for log in logs}
    for reader in readers:
        had = reader.target & there
        kept = had & targets[reader.id]
        assert len(kept) >= min(len(had), share)


@given(group=groups())
@settings(max_examples=300, deadline=None)
def test_range_gives_neighbours(group: tuple[list[Reader], dict[str, list[LogId]]]) -> None:
    readers, topics = group
    targets = ASSIGNORS["range"](readers, topics)
    for topic, logs in topics.items():
        subscribers = [reader for reader in readers if topic in reader.topics]
        sizes = []
        for reader in subscribers:
            mine = [at for at, log in enumerate(logs) if log in targets[reader.id]]
            assert mine == list(range(mine[0], mine[0] + len(mine))) if mine else True
            sizes.append(len(mine))
        assert not sizes or max(sizes) - min(sizes) <= 1
