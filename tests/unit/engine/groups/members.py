"""Clients of groups as real ones behave, without a network: what a member believes, and what it does next.

They know only what replies have told them: they are made from the protocols' documents, not from the engine.
"""

from __future__ import annotations

import struct
from typing import Any

from tests.unit.engine.groups.group_world import GroupWorld

from oncelog.engine.decision import Ticket
from oncelog.engine.groups import classic
from oncelog.engine.groups.consumer import LEAVE_EPOCH, LEAVE_STATIC_EPOCH
from oncelog.engine.groups.heartbeats import Beaten
from oncelog.engine.groups.values import Protocol
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import LogId

SESSION_MS = 30_000
REBALANCE_MS = 60_000
Logs = frozenset[LogId]


def subscription(*topics: str) -> bytes:
    """What a classic consumer says of itself (ConsumerProtocolSubscription, version 0)."""
    names = b"".join(struct.pack(">h", len(topic)) + topic.encode() for topic in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


class ClassicClient:
    """A consumer of the classic protocol with eager rebalances: before it joins again it gives everything up."""

    def __init__(
        self, world: GroupWorld, name: str, *, group: str = "g", instance_id: str | None = None, partitions: int = 4
    ) -> None:
        self.world, self.name, self.group, self.instance_id = world, name, group, instance_id
        self.partitions = partitions
        self.id = ""
        self.generation = -1
        self.leader = ""
        self.owned: set[int] = set()
        self.waits_for: tuple[str, Ticket] | None = None
        self.must_join = True
        self.is_fenced = False
        self.count = 0
        self.led: list[str] = []

    @property
    def is_stable(self) -> bool:
        return self.waits_for is None and not self.must_join and not self.is_fenced

    def step(self) -> ErrorCode:
        """Whatever a client does next: take an answer, join, or say that it is alive."""
        if self.is_fenced:
            return ErrorCode.FENCED_INSTANCE_ID
        if self.waits_for is not None:
            return self._take()
        return self.join() if self.must_join else self.beat()

    def run(self, steps: int = 10) -> None:
        """Until it has its part, as far as that depends on it alone."""
        for _ in range(steps):
            if self.is_stable:
                return
            self.step()

    # -- requests -----------------------------------------------------------------------------------------------------

    def join(self) -> ErrorCode:
        self.owned = set()
        self.must_join = True
        self.count += 1
        join = classic.Join(
            group_id=self.group,
            member_id=self.id,
            member_id_new=f"{self.instance_id or self.name}-{self.name}-{self.count}",
            instance_id=self.instance_id,
            client_id=self.name,
            client_host="/127.0.0.1",
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            protocol_type="consumer",
            protocols=(Protocol("mine", subscription("t")),),
            is_member_id_required=True,
            can_skip_assignment=True,
        )
        return self._ask("join", classic.decide_join, join)

    def _sync(self, assignments: dict[str, bytes]) -> ErrorCode:
        sync = classic.Sync(self.group, self.id, self.instance_id, self.generation, "consumer", "mine", assignments)
        return self._ask("sync", classic.decide_sync, sync)

    def beat(self) -> ErrorCode:
        try:
            reply = self.world.decide(
                classic.decide_heartbeat, self.group, self.id, self.instance_id, self.generation, self.world.now_ms
            )
        except Refusal as no:
            return self._failed(no.code)
        return self._failed(ErrorCode(reply["error_code"])) if reply["error_code"] else ErrorCode.NONE

    def leave(self) -> list[ErrorCode]:
        leaving = (classic.Leaving(self.id, self.instance_id),)
        self.owned, self.must_join, self.waits_for = set(), True, None
        codes: list[ErrorCode] = self.world.decide(classic.decide_leave, self.group, leaving, self.world.now_ms)
        self.id = ""
        return codes

    def _ask(self, what: str, decide: Any, request: Any) -> ErrorCode:
        ticket = self.world.ticket()
        try:
            self.world.decide(decide, request, ticket, self.world.now_ms)
        except Refusal as no:
            return self._failed(no.code)
        self.waits_for = (what, ticket)
        return self._take()

    # -- answers ------------------------------------------------------------------------------------------------------

    def _take(self) -> ErrorCode:
        assert self.waits_for is not None
        what, ticket = self.waits_for
        answer = self.world.answers.pop(ticket, None)
        if answer is None:
            return ErrorCode.NONE
        self.waits_for = None
        if answer["error_code"]:
            code = ErrorCode(answer["error_code"])
            if code is ErrorCode.MEMBER_ID_REQUIRED:
                self.id = answer["member_id"]
                return self.join()
            return self._failed(code)
        return self._joined(answer) if what == "join" else self._synced(answer)

    def _joined(self, answer: dict[str, Any]) -> ErrorCode:
        assert answer["generation_id"] >= self.generation, "generations never go back"
        self.id, self.generation, self.leader = answer["member_id"], answer["generation_id"], answer["leader"]
        self.must_join = False
        if self.leader != self.id or answer["skip_assignment"]:
            return self._sync({})
        self.led = sorted(one["member_id"] for one in answer["members"])
        parts: dict[str, list[int]] = {member: [] for member in self.led}
        for index in range(self.partitions):
            parts[self.led[index % len(self.led)]].append(index)
        return self._sync({member: bytes(indexes) for member, indexes in parts.items()})

    def _synced(self, answer: dict[str, Any]) -> ErrorCode:
        self.owned = set(answer["assignment"])
        return ErrorCode.NONE

    def _failed(self, code: ErrorCode) -> ErrorCode:
        """As clients do: join again, under a new id if the old one is not known."""
        if code is ErrorCode.UNKNOWN_MEMBER_ID:
            self.id = ""
        elif code is ErrorCode.FENCED_INSTANCE_ID:
            self.is_fenced = True
        if code is not ErrorCode.REBALANCE_IN_PROGRESS:
            self.owned = set()  # else it goes on with what it has until it joins
        self.must_join = True
        return code


class ConsumerClient:
    """A consumer of the protocol of KIP-848: it gives up what it is told to before it says so, and takes what it is given."""

    def __init__(
        self, world: GroupWorld, name: str, *, group: str = "g", instance_id: str | None = None, **subscribed: Any
    ) -> None:
        self.world, self.group, self.instance_id = world, group, instance_id
        self.name, self.count = name, 0
        self.id = name
        self.epoch = 0
        self.subscribed = subscribed or {"topics": ("t",)}
        self.owned: Logs = frozenset()
        self.told: Logs = frozenset()
        self.is_unsure = True
        self.is_member = False
        self.is_fenced = False

    @property
    def gives_up(self) -> Logs:
        """What it was told to give up and still works on."""
        return self.owned - self.told

    def give_up(self) -> None:
        """The application has let go."""
        self.owned &= self.told

    def beat(self, *, is_lost: bool = False) -> ErrorCode:
        """One heartbeat; with ``is_lost`` the answer is."""
        asked: dict[str, Any] = {"instance_id": self.instance_id, "owned": self.owned}
        if self.is_unsure:
            asked |= {"rebalance_timeout_ms": REBALANCE_MS, **self.subscribed}
        try:
            reply = self.world.beat(self.id, self.epoch, group=self.group, **asked)
        except Refusal as no:
            return self._refused(no.code)
        self.is_member = True
        self.is_unsure = is_lost
        if not is_lost:
            self._take(reply)
        return ErrorCode.NONE

    def _take(self, reply: Beaten) -> None:
        assert reply.epoch >= self.epoch, "epochs never go back"
        self.epoch = reply.epoch
        if reply.assigned is not None:
            self.told = reply.assigned
        if not self.gives_up:
            self.owned = self.told

    def _refused(self, code: ErrorCode) -> ErrorCode:
        """As clients do: whoever is fenced lets everything go and joins again."""
        self.owned = self.told = frozenset()
        self.is_unsure, self.is_member = True, False
        if code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID):
            self.epoch = 0
        elif code in (ErrorCode.FENCED_INSTANCE_ID, ErrorCode.UNRELEASED_INSTANCE_ID):
            self.is_fenced = True
        return code

    def subscribe(self, **subscribed: Any) -> None:
        self.subscribed = {"topics": (), "pattern": "", **subscribed}
        self.is_unsure = True

    def leave(self, *, for_a_while: bool = False) -> ErrorCode:
        """Its application has let everything go before."""
        epoch = LEAVE_STATIC_EPOCH if for_a_while else LEAVE_EPOCH
        self.owned = self.told = frozenset()
        self.epoch, self.is_unsure, self.is_member = 0, True, False
        try:
            self.world.beat(self.id, epoch, group=self.group, instance_id=self.instance_id)
        except Refusal as no:
            return no.code
        return ErrorCode.NONE

    def start_again(self) -> None:
        """A new process: a new member id, and nothing in its hands."""
        self.count += 1
        self.id = f"{self.name}-{self.count}"
        self.owned = self.told = frozenset()
        self.epoch, self.is_unsure, self.is_member, self.is_fenced = 0, True, False, False
