"""A World with groups: heartbeats in few words, and the two laws held at every step (law 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from tests.unit.engine.world import World, everything, refusal

from oncelog.engine.decision import Decision, Ticket
from oncelog.engine.groups.alarms import decide_alarm, decide_start
from oncelog.engine.groups.consumer import ConsumerGroup, ConsumerMember
from oncelog.engine.groups.heartbeats import Beaten, Heartbeat, decide_consumer_heartbeat
from oncelog.engine.groups.values import ClassicState, classic_row
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import LogId
from oncelog.model.rows import TopicDeleted

ANY_TIMEOUT_MS = 60_000
#: What a request says that does not say a thing again.
SAME: Any = None


@dataclass
class GroupWorld(World):
    """Every decision is checked not to have changed anything by itself. ``answers``: those to requests that wait."""

    answers: dict[Ticket, dict[str, Any]] = field(default_factory=dict)
    ticket_last: int = 0

    def ticket(self) -> Ticket:
        self.ticket_last += 1
        return Ticket(self.ticket_last)

    def apply(self, decision: Decision) -> Any:
        for ticket, tree in decision.answers:
            assert ticket not in self.answers, "answered twice"
            self.answers[ticket] = tree
        return super().apply(decision)

    def decide(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a decide function on the state, apply what it decides; its reply."""
        before = whole(self.state)
        try:
            decision: Decision = function(self.state, *arguments, **named)
        finally:
            assert whole(self.state) == before, "a decision has changed something"
        return self.apply(decision)

    # -- the consumer protocol ----------------------------------------------------------------------------------------

    def beat(self, member: str, epoch: int, *, group: str = "g", **given: Any) -> Beaten:
        beat = Heartbeat(group, member, epoch, **given)
        return self.decide(decide_consumer_heartbeat, beat, self.now_ms)

    def join(self, member: str, *topics: str, timeout_ms: int = ANY_TIMEOUT_MS, **given: Any) -> Beaten:
        return self.beat(
            member, 0, topics=topics or ("t",), rebalance_timeout_ms=timeout_ms, owned=frozenset(), **given
        )

    def beat_refused(self, member: str, epoch: int, **given: Any) -> ErrorCode:
        return refusal(self.beat, member, epoch, **given)

    @property
    def group(self) -> ConsumerGroup:
        group = self.state.groups.by_id["g"]
        assert isinstance(group, ConsumerGroup)
        return group

    def member(self, member: str) -> ConsumerMember:
        return self.group.members[member]

    # -- time, topics, restarts ---------------------------------------------------------------------------------------

    def pass_ms(self, ms: int) -> None:
        """Time goes by, and the one timer rings whenever something is due."""
        end_ms = self.now_ms + ms
        while True:
            next_ms = self.state.alarms.next_ms
            if next_ms is None or next_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, next_ms)
            for alarm in self.state.alarms.take_due(self.now_ms):
                if alarm.kind == "group":
                    self.decide(decide_alarm, alarm.key, self.now_ms)
        self.now_ms = end_ms

    def more_partitions(self, name: str, count: int = 1) -> None:
        """The topic gets so many partitions more."""
        row = self.state.topics[name]
        first = self.state.log_id_next
        self.apply(Decision((row.__class__(name, row.id, (*row.logs, *_ids(first, count)), row.configs, 0),)))

    def delete_topic(self, name: str) -> None:
        self.apply(Decision((TopicDeleted(name),)))

    def logs(self, name: str = "t") -> frozenset[LogId]:
        return frozenset(self.state.topics[name].logs)

    def restart(self) -> None:
        """The broker dies, and begins again from its journal."""
        self.assert_durable()
        self.state = self.replayed()
        self.state.apply_volatile(decide_start(self.state, self.now_ms).volatile)

    def assert_durable(self) -> None:
        """Replayed, or from a checkpoint: what must survive a restart does."""
        for restored in (self.replayed(), self.checkpointed()):
            assert durable(restored, self.state) == durable(self.state, self.state)
            assert everything(restored) == everything(self.state)


def _ids(first: int, count: int) -> tuple[LogId, ...]:
    return tuple(LogId(first + index) for index in range(count))


def durable(state: State, like: State) -> dict[str, Any]:
    """The groups without what begins anew after a restart; classic ones in full only where ``like`` has them at rest."""
    return {
        group.id: _durable(group, like.groups.by_id.get(group.id))
        for group in state.groups.by_id.values()
        if isinstance(group, ConsumerGroup) or group.generation
    }


def _durable(group: Any, like: Any) -> Any:
    if isinstance(group, ConsumerGroup):
        plain = replace(group, catalog_version=-1, rebalance_due_ms={})
        return plain, list(plain.members)
    is_at_rest = like is not None and like.state is ClassicState.STABLE
    return classic_row(group) if is_at_rest else group.generation


def whole(state: State) -> str:
    """All of the state that a decision on groups could have changed."""
    groups = state.groups
    return repr((everything(state), groups.by_id, groups.deadlines, state.alarms.next_ms, state.version))
