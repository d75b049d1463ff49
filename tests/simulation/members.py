"""Simulated copiers that share their work as members of a group, classic or of the consumer protocol (KIP-447, KIP-848).

Each has a transactional id of its own, and whatever the group gives it; its commits carry member and generation (rules O2,
O3). It does what real ones do: between two transactions it says that it lives, learns what it has, and gives up what it is
told to; when its commit is refused it aborts, and joins again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.simulation.client import OFFSETS, Steps
from tests.simulation.events import MS_US, SECOND_US
from tests.simulation.history import Copying, Fate, Place, Transaction
from tests.simulation.producers import Abortable, Transactional
from tests.simulation.reading import CORRUPT, Reading, copies_of, fetch, parts_of

if TYPE_CHECKING:
    from tests.simulation.world import World

_ILLEGAL_GENERATION, _UNKNOWN_MEMBER, _REBALANCE, _MEMBER_ID_REQUIRED, _FENCED_INSTANCE = 22, 25, 27, 79, 82
_FENCED_EPOCH, _STALE_EPOCH, _UNRELEASED = 110, 113, 111
_NOT_ANY_MORE = {_ILLEGAL_GENERATION, _UNKNOWN_MEMBER, _REBALANCE, _FENCED_INSTANCE, _FENCED_EPOCH, _STALE_EPOCH}
GROUP, SOURCE, TARGET = "team", "in", "shared"


class Member(Transactional, Reading):
    """A member of a classic group."""

    has_offsets = True

    def __init__(
        self, world: World, name: str, transactional_id: str, targets: Sequence[Place], *, is_tv2: bool
    ) -> None:
        super().__init__(world, name, transactional_id, is_tv2=is_tv2)
        random = self.random
        self.targets = targets
        self.share_aborted /= 2
        self.timeout_us = random.choice((1, 3)) * SECOND_US
        self.session_timeout_ms = random.choice((300, 1_000, 6_000))
        self.offsets_version = 5 if is_tv2 else random.choice((3, 4))
        self.instance_id = f"instance-{transactional_id}" if random.random() < 0.3 else None
        self.member_id, self.generation = "", -1
        self._positions: dict[Place, int] = {}
        self._assigned: list[Place] = []
        self._is_all_done = False
        self._is_joined = False
        for place in world.places(SOURCE):
            world.history.copyings.setdefault((GROUP, place), Copying(GROUP, place))

    @property
    def session_name(self) -> str:
        return f"{GROUP}/{self.name}/{self.sessions}"

    def run(self) -> Steps:
        yield from super().run()
        if self.member_id and self._is_joined and not self.events.chance(0.2):
            yield from self._leave()

    def is_over(self) -> bool:
        return self._is_all_done

    def began(self) -> None:
        self._positions.clear()

    def ended(self, transaction: Transaction) -> None:
        if transaction.fate is not Fate.COMMITTED:
            self._positions.clear()

    # -- one transaction ----------------------------------------------------------------------------------------------

    def next(self, transaction: Transaction) -> Steps:
        yield from self._stay()
        if self.world.is_quiet_before(SOURCE) and self.events.chance(0.2):
            self._is_all_done = yield from self._is_nothing_left()
        if self._is_all_done or not self._is_joined or not self._assigned:
            yield from self.rest(20 * MS_US)
            return None
        place = self.random.choice(self._assigned)
        position = self._positions.get(place)
        if position is None:
            position = yield from self.world.fetch_offset(self, OFFSETS, GROUP, place, require_stable=True)
            if position is None:
                yield from self.rest(10 * MS_US)
                return None
            position = max(position, 0)
        taken = (yield from self._read(place, position))[0]
        if taken is None or taken.after == position:
            self._positions[place] = position
            return None
        return self._copies(transaction, place, taken.seen, taken.after)

    def _read(self, place: Place, position: int) -> Steps:
        """(what is there, the high watermark); None without an answer."""
        before = self.world.floors.now([place])
        reply = (yield [fetch(1, {place: position}, 11)])[0]
        if reply is None:
            return None, -1
        taken = self.take(reply, before, {place: position})[place]
        if taken.code == CORRUPT:
            return None, -1
        assert taken.code == 0, f"{self.name} can't read {place} from {position}: {taken.code}"
        return taken, parts_of(reply)[place].high_watermark

    def _is_nothing_left(self) -> Steps:
        """Whether the group stands at the end of every partition; nobody writes any more."""
        for place in self.world.places(SOURCE):
            position = yield from self.world.fetch_offset(self, OFFSETS, GROUP, place, require_stable=True)
            if position is None:
                return False
            taken, end = yield from self._read(place, max(position, 0))
            if taken is None or max(position, 0) < end:
                return False
        return True

    def _copies(self, transaction: Transaction, place: Place, seen: list[tuple[int, bytes]], after: int) -> Any:
        count = self.random.randint(1, 8)
        if len(seen) > count:
            after, seen = seen[count][0], seen[:count]
        self._positions[place] = after
        return copies_of(self, seen, transaction), {(GROUP, *place): after}

    def who_commits(self) -> dict[str, Any]:
        found: dict[str, Any] = {"generation_id": self.generation, "member_id": self.member_id}
        if self.instance_id is not None:
            found["group_instance_id"] = self.instance_id
        return found

    def _judge(self, code: int) -> None:
        if code in _NOT_ANY_MORE:
            self._forget(code)
            raise Abortable
        super()._judge(code)

    def _forget(self, code: int) -> None:
        """It is no member of this generation any more."""
        self.note("is not in generation {} any more: {}", self.generation, code)
        self._is_joined = False
        self._positions.clear()
        if code != _REBALANCE and code != _ILLEGAL_GENERATION:
            self.member_id = ""

    # -- the group ----------------------------------------------------------------------------------------------------

    def _who_beats(self) -> dict[str, Any]:
        return {
            "group_id": GROUP,
            "generation_id": self.generation,
            "member_id": self.member_id,
            "group_instance_id": self.instance_id,
        }

    def _stay(self) -> Steps:
        """Say that it lives, and join if it is not in the group or the group rebalances."""
        if self._is_joined:
            reply = yield from self.call(OFFSETS, "heartbeat", 4, **self._who_beats())
            if reply is None or not reply.error_code:
                return
            self._forget(int(reply.error_code))
        for _ in range(5):
            yield from self._join()
            if self._is_joined:
                return
            yield from self.rest(20 * MS_US)

    def _join(self) -> Steps:
        subscription = struct.pack(">hih2si", 0, 1, len(SOURCE), SOURCE.encode(), -1)
        reply = yield from self.call(
            OFFSETS,
            "join_group",
            self.random.choice((5, 7, 9)),
            group_id=GROUP,
            session_timeout=self.session_timeout_ms,
            rebalance_timeout=2_000,
            member_id=self.member_id,
            group_instance_id=self.instance_id,
            protocol_type="consumer",
            protocols=[{"name": "spread", "metadata": subscription}],
        )
        if reply is None:
            return
        code = int(reply.error_code)
        if code == _MEMBER_ID_REQUIRED:
            self.member_id = reply.member_id
            return
        if code:
            self._forget(code)
            return
        self.member_id, self.generation = reply.member_id, reply.generation_id
        assignments = self._spread(reply.members) if reply.leader == self.member_id else []
        reply = yield from self.call(
            OFFSETS, "sync_group", 4, **self._who_beats(), protocol_type="consumer", assignments=assignments
        )
        if reply is None:
            return
        if reply.error_code:
            self._forget(int(reply.error_code))
            return
        indexes = struct.unpack(f">{len(reply.assignment)}B", reply.assignment)
        self._has([(SOURCE, index) for index in indexes])

    def _has(self, assigned: list[Place]) -> None:
        self.note("has {} in generation {}", assigned, self.generation)
        self._is_joined, self._assigned = True, assigned
        self._positions.clear()

    def _spread(self, members: Sequence[Any]) -> list[dict[str, Any]]:
        """The leader gives every partition to somebody; one byte each."""
        names = sorted(member.member_id for member in members)
        given: dict[str, list[int]] = {name: [] for name in names}
        for index in range(self.world.topics[SOURCE]):
            given[names[(index + self.generation) % len(names)]].append(index)
        return [{"member_id": name, "assignment": bytes(indexes)} for name, indexes in given.items()]

    def _leave(self) -> Steps:
        who = {"member_id": self.member_id, "group_instance_id": self.instance_id}
        yield from self.call(OFFSETS, "leave_group", 4, group_id=GROUP, members=[who])


class ModernMember(Member):
    """A member of a group of the consumer protocol: the broker assigns, one request says and tells all (KIP-848)."""

    def __init__(
        self, world: World, name: str, transactional_id: str, targets: Sequence[Place], *, is_tv2: bool
    ) -> None:
        super().__init__(world, name, transactional_id, targets, is_tv2=is_tv2)
        self.generation = 0
        self._topic_id: UUID | None = None
        self._id_count = 0

    def _forget(self, code: int) -> None:
        super()._forget(code)
        self.member_id, self.generation = "", 0
        self._assigned = []

    def _stay(self) -> Steps:
        if self._topic_id is None:
            reply = yield from self.call(OFFSETS, "metadata", 10, topics=[{"topic_id": None, "name": SOURCE}])
            if reply is None or reply.topics[0].error_code:
                return
            self._topic_id = reply.topics[0].topic_id
        if not self.member_id:
            self._id_count += 1
            self.member_id = f"{self.name}.{self._id_count}"
        is_full = not self._is_joined or self.events.chance(0.7)
        reply = yield from self.call(OFFSETS, "consumer_group_heartbeat", 1, **self._beat(is_full=is_full))
        if reply is None:
            return
        if reply.error_code:
            if int(reply.error_code) != _UNRELEASED:
                self._forget(int(reply.error_code))
            return
        self.generation = reply.member_epoch
        self._is_joined = True
        if reply.assignment is not None:
            parts = reply.assignment.topic_partitions
            self._take_assignment([(SOURCE, index) for topic in parts for index in topic.partitions])

    def _beat(self, *, is_full: bool) -> dict[str, Any]:
        beat: dict[str, Any] = {
            "group_id": GROUP,
            "member_id": self.member_id,
            "member_epoch": self.generation,
            "instance_id": self.instance_id,
            "rack_id": None,
            "rebalance_timeout": -1,
            "subscribed_topic_names": None,
            "subscribed_topic_regex": None,
            "server_assignor": None,
            "topic_partitions": None,
        }
        if is_full:
            owned = [{"topic_id": self._topic_id, "partitions": [index for _, index in self._assigned]}]
            beat["rebalance_timeout"] = 2_000
            beat["subscribed_topic_names"] = [SOURCE]
            beat["topic_partitions"] = owned if self._assigned else []
        return beat

    def _take_assignment(self, assigned: list[Place]) -> None:
        if assigned != self._assigned:
            self._has(assigned)

    def _leave(self) -> Steps:
        beat = {**self._beat(is_full=False), "member_epoch": -1}
        yield from self.call(OFFSETS, "consumer_group_heartbeat", 1, **beat)
