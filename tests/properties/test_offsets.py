"""Offsets of groups, plain and in transactions, against a dictionary: restarts, lost machines, deletes, expiry (O1, O4-O6, D2).

The model keeps what was committed and what is pending, each with its place in the order of things. It knows nothing of rows,
versions or epochs. A lost machine takes any end of what was only written; the model goes back to what it was then.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.engine.world import World, everything, refusal

from oncelog.engine import transactions
from oncelog.engine.catalog import OldTopic, decide_delete_topics
from oncelog.engine.decision import Decision, Level
from oncelog.engine.groups import commits
from oncelog.engine.groups.commits import Commit, Committer
from oncelog.engine.groups.transactional import decide_transactional_commit
from oncelog.engine.state import State
from oncelog.engine.transactions import Session
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import TopicPartition
from oncelog.model.rows import encode_rows

GROUPS, TOPICS, PRODUCERS = ("g", "h"), ("t", "u"), ("a", "b")
RETENTION_MS = 604_800_000
#: Few, so that what happens meets.
KEYS = [("g", "t", 0), ("g", "u", 0), ("h", "t", 0)]
keys, groups, topics, producers = (st.sampled_from(one) for one in (KEYS, GROUPS, TOPICS, PRODUCERS))

#: Group, topic, partition.
Key = tuple[str, str, int]


def part_of(index: int, offset: int) -> SimpleNamespace:
    """A partition of TxnOffsetCommit."""
    return SimpleNamespace(partition_index=index, committed_offset=offset, committed_metadata="")


@dataclass
class Model:
    """``committed``: (offset, order, time); ``pending``: the same by producer. ``joined``: the groups of open transactions."""

    committed: dict[Key, tuple[int, int, int]] = field(default_factory=dict)
    pending: dict[str, dict[Key, tuple[int, int, int]]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)

    def end(self, producer: str, *, commit: bool) -> None:
        for key, new in self.pending.pop(producer, {}).items():
            before = self.committed.get(key)
            if commit and (before is None or before[1] < new[1]):
                self.committed[key] = new

    def is_pending(self, key: Key) -> bool:
        return any(key in of_producer for of_producer in self.pending.values())

    def has_pending(self, group: str) -> bool:
        return any(key[0] == group for of_producer in self.pending.values() for key in of_producer)


class OffsetsAgainstModel(RuleBasedStateMachine):
    """See the module."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.model = Model()
        self.order = 0
        for topic in TOPICS:
            self.world.topic(topic)
        #: The model as it was when the journal had so many entries, from the last one on that was synced.
        self.seen: dict[int, Model] = {}
        self.note(is_synced=True)

    def note(self, *, is_synced: bool) -> None:
        if is_synced:
            self.seen.clear()
        self.seen[len(self.world.journal)] = copy.deepcopy(self.model)

    def take(self, decision: Decision) -> Any:
        return self.world.apply(decision)

    def new(self, offset: int) -> tuple[int, int, int]:
        self.order += 1
        return offset, self.order, self.world.now_ms

    # -- clients ------------------------------------------------------------------------------------------------------

    @rule(key=keys, offset=st.integers(0, 99))
    def commit(self, key: Key, offset: int) -> None:
        group, topic, partition = key
        asked = [Commit(TopicPartition(topic, partition), offset, -1, "")]
        decision = commits.decide_commit(
            self.world.state, Committer(group), asked, retention_ms=-1, version=8, now_ms=self.world.now_ms
        )
        is_there = topic in self.world.state.topics
        assert self.take(decision) == [ErrorCode.NONE if is_there else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        if is_there:
            self.model.committed[key] = self.new(offset)
        self.note(is_synced=True)

    @rule(
        name=producers, chosen=st.lists(keys, min_size=1, max_size=3), offset=st.integers(0, 99), is_tv2=st.booleans()
    )
    def commit_in_transaction(self, name: str, chosen: list[Key], offset: int, is_tv2: bool) -> None:
        """One request for one group, as clients send it."""
        group, world = chosen[0][0], self.world
        session = self.model.sessions.get(name)
        if session is None:
            session = self.model.sessions[name] = world.init(name)
            self.note(is_synced=True)
        if not is_tv2:
            world.add_group(session, group, transactional_id=name)
        version = 5 if is_tv2 else 3
        rows = transactions.group_joined(world.state, name, session, group, version=version, now_ms=world.now_ms)
        wanted = [key for key in chosen if key[0] == group]
        tree = [SimpleNamespace(name=topic, partitions=[part_of(at, offset)]) for _, topic, at in wanted]
        request = SimpleNamespace(transactional_id=name, group_id=group, producer_id=session.producer_id, topics=tree)
        decision = decide_transactional_commit(world.state, request, version=version, now_ms=world.now_ms)
        assert decision.level is Level.WRITTEN
        self.take(decision._replace(rows=(*rows, *decision.rows)))
        pending = self.model.pending.setdefault(name, {})
        for key in wanted:
            if key[1] in world.state.topics:
                pending[key] = self.new(offset)
        self.note(is_synced=False)

    @rule(name=producers, commit=st.booleans(), is_tv2=st.booleans())
    def end(self, name: str, commit: bool, is_tv2: bool) -> None:
        if name in self.model.pending:
            version = 5 if is_tv2 else 3
            session = self.model.sessions[name]
            self.model.sessions[name] = self.world.end(session, commit=commit, transactional_id=name, version=version)
            self.model.end(name, commit=commit)
            self.note(is_synced=True)

    @rule(name=producers)
    def start_again(self, name: str) -> None:
        """Another instance: what was open is aborted."""
        self.model.sessions[name] = self.world.init(name)
        self.model.end(name, commit=False)
        self.note(is_synced=True)

    @rule(name=producers, key=keys, restarts=st.integers(0, 2), commit=st.booleans())
    def overtake(self, name: str, key: Key, restarts: int, commit: bool) -> None:
        """O1: what is committed after a transaction has written its offset stays, whatever becomes of that."""
        self.commit_in_transaction(name, [key], 1, True)
        for from_checkpoint in (True, False)[:restarts]:
            self.restart(from_checkpoint)
        self.commit(key, 2)
        self.end(name, commit, True)

    @rule(name=producers, key=keys, commit=st.booleans())
    def renew_late(self, name: str, key: Key, commit: bool) -> None:
        """O5: what a transaction is about to renew does not expire under it."""
        self.commit(key, 3)
        self.wait(RETENTION_MS)
        self.commit_in_transaction(name, [key], 4, True)
        self.sweep()
        self.readers_see_what_the_model_says()
        self.end(name, commit, True)

    # -- time, operators ----------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 59_999, 60_000, RETENTION_MS // 2, RETENTION_MS]))
    def wait(self, ms: int) -> None:
        self.world.now_ms += ms
        for name in list(self.model.sessions):
            if self.world.time_out(name):
                self.model.end(name, commit=False)
                self.model.sessions[name] = self.world.init(name, caller=self.model.sessions[name])
        self.note(is_synced=True)

    @rule()
    def sweep(self) -> None:
        """O5: what is old goes, unless a transaction is about to renew it."""
        for decision in commits.decide_offset_expiry(self.world.state, self.world.now_ms):
            self.take(decision)
        for key, (_, _, time_ms) in list(self.model.committed.items()):
            if self.world.now_ms - time_ms >= RETENTION_MS and not self.model.is_pending(key):
                del self.model.committed[key]
        self.note(is_synced=True)

    @rule(group=groups)
    def delete_group(self, group: str) -> None:
        is_there = any(key[0] == group for key in self.model.committed)
        code = refusal(lambda: self.take(commits.decide_delete_group(self.world.state, group)))
        if self.model.has_pending(group):
            assert code is ErrorCode.NON_EMPTY_GROUP
        elif code is ErrorCode.NONE:
            assert is_there
            self.model.committed = {key: value for key, value in self.model.committed.items() if key[0] != group}
        else:
            assert not is_there or code is ErrorCode.NON_EMPTY_GROUP
        self.note(is_synced=True)

    @rule(key=keys)
    def delete_offset(self, key: Key) -> None:
        """What a transaction holds comes when it commits: the delete is about what is there."""
        group, topic, partition = key
        asked = [TopicPartition(topic, partition)]
        refusal(lambda: self.take(commits.decide_delete_offsets(self.world.state, group, asked)))
        self.model.committed.pop(key, None)
        self.note(is_synced=True)

    @rule(topic=topics)
    def delete_or_make_topic(self, topic: str) -> None:
        """Nobody begins in a new topic where the old one of its name was left, not by a transaction that was open either."""
        if topic not in self.world.state.topics:
            self.world.topic(topic)
        else:
            self.take(decide_delete_topics(self.world.state, [OldTopic(topic)]))
            for of_any in (self.model.committed, *self.model.pending.values()):
                for key in [key for key in of_any if key[1] == topic]:
                    del of_any[key]
        self.note(is_synced=True)

    # -- restarts -----------------------------------------------------------------------------------------------------

    @rule(from_checkpoint=st.booleans())
    def restart(self, from_checkpoint: bool) -> None:
        """After kill -9 everything is as it was."""
        before = everything(self.world.state)
        state = self.world.checkpointed() if from_checkpoint else self.world.replayed()
        assert everything(state) == before
        if from_checkpoint:
            self.world.journal = [(encode_rows(state.rows()), (), self.world.now_ms)]
            self.note(is_synced=True)
        self.world.state = state

    @rule(chance=st.randoms(use_true_random=False))
    def lose_machine(self, chance: Any) -> None:
        """D2: of what was only written any end is lost; every transaction is over, and its producer may go on."""
        kept = chance.choice(sorted(self.seen))
        del self.world.journal[kept:]
        self.model = copy.deepcopy(self.seen[kept])
        self.world.state = self.world.replayed()
        for decision in transactions.decide_all_doubted(self.world.state):
            self.take(decision)
        for decision in transactions.decide_all_lost(self.world.state, self.world.now_ms):
            self.take(decision)
        for name, session in self.model.sessions.items():
            self.model.end(name, commit=False)
            self.model.sessions[name] = self.world.init(name, caller=session)
        self.note(is_synced=True)

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def readers_see_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        for key in KEYS:
            group, topic, partition = key
            at = TopicPartition(topic, partition)
            any_ = commits.fetch_offset(self.world.state, group, at, require_stable=False)
            assert any_.offset == self.model.committed.get(key, (-1,))[0], key
            stable = commits.fetch_offset(self.world.state, group, at, require_stable=True)
            assert (stable.code is ErrorCode.UNSTABLE_OFFSET_COMMIT) == self.model.is_pending(key), key

    @invariant()
    def offsets_are_of_topics_that_are_there(self) -> None:
        state: State | None = self.world.state if hasattr(self, "world") else None
        if state is not None:
            held = [at for of_group in state.offsets.committed.values() for at in of_group]
            assert all(state.log_of(*at) is not None for at in held)


TestOffsetsAgainstModel = OffsetsAgainstModel.TestCase
TestOffsetsAgainstModel.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
