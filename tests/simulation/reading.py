"""Simulated readers: consumers of both isolations, with and without fetch sessions, and transactional copiers.

What a reader makes of a reply is what real clients do: batches, markers, and the list of aborted transactions in the order in
which it comes (rule R2). Each reply is held against what was known to be visible when it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.checkers import Bounds, Known, Violation
from tests.simulation.client import OFFSETS, READER, Actor, Ask, Steps
from tests.simulation.events import MS_US
from tests.simulation.history import Copying, Place, Stretch, Transaction
from tests.simulation.producers import Transactional
from tests.support.batches import Batch, batches

if TYPE_CHECKING:
    from tests.simulation.members import Member
    from tests.simulation.world import World

_OUT_OF_RANGE, CORRUPT, UNKNOWN_TOPIC, _UNSTABLE = 1, 2, 3, 88
_NO_SESSION, _WRONG_SESSION_EPOCH = 70, 71
_BYTES = 1 << 20


def shown_of(part: Any) -> Bounds:
    """What a part of a Fetch reply shows."""
    return Bounds(part.high_watermark, part.last_stable_offset, getattr(part, "log_start_offset", -1))


def fetch(
    isolation: int,
    wanted: Mapping[Place, int],
    version: int,
    *,
    wait_ms: int = 0,
    bytes_max: int = _BYTES,
    **session: int,
) -> Ask:
    """A Fetch of some partitions from some offsets, by name; ``bytes_max`` of each."""
    topics: dict[str, list[dict[str, Any]]] = {}
    for (topic, index), offset in wanted.items():
        part = {"partition": index, "fetch_offset": offset, "partition_max_bytes": bytes_max}
        topics.setdefault(topic, []).append(part)
    tree: dict[str, Any] = {
        "replica_id": -1,
        "max_wait": wait_ms,
        "min_bytes": 1,
        "max_bytes": _BYTES,
        "isolation_level": isolation,
        "topics": [{"topic": topic, "partitions": parts} for topic, parts in topics.items()],
    }
    if version >= 7:
        tree |= {"session_id": session.get("session_id", 0), "session_epoch": session.get("session_epoch", -1)}
    return Ask(READER, "fetch", version, tree)


def parts_of(reply: Any) -> dict[Place, Any]:
    """A Fetch reply by partition."""
    return {(topic.topic, part.partition_index): part for topic in reply.responses for part in topic.partitions}


def values_of(part: Any, found: Iterable[Batch], offset: int) -> list[tuple[int, bytes]]:
    """The (offset, value) from ``offset`` on that a consumer shows: without markers, and without what was aborted."""
    aborted = [(each.first_offset, each.producer_id) for each in part.aborted_transactions or ()]
    if aborted != sorted(aborted, key=lambda each: each[0]):
        raise Violation("aborted list unsorted", f"{aborted} (R2)")
    hidden: set[int] = set()
    seen: list[tuple[int, bytes]] = []
    for each in found:
        while aborted and aborted[0][0] <= each.offset_last:
            hidden.add(aborted.pop(0)[1])
        if each.is_control:
            if not each.is_commit:
                hidden.discard(each.producer_id)
        elif not (each.is_transactional and each.producer_id in hidden):
            seen += ((record.offset, record.name) for record in each.records if record.offset >= offset)
    return seen


class Reading(Actor):
    """What everybody shares who fetches."""

    is_committed = True

    def take(self, reply: Any, before: Mapping[Place, Known], wanted: Mapping[Place, int]) -> dict[Place, Taken]:
        """What a Fetch reply gives, held against what was known; a partition with an error gives None."""
        world, taken = self.world, {}
        stable: dict[Place, int] = {}
        for place, part in parts_of(reply).items():
            if part.error_code == CORRUPT and not world.disk.reads_damaged:
                raise Violation("damaged", f"{self.name} is told that {place} is, and no read was")
            if part.error_code:
                taken[place] = Taken(int(part.error_code), [], wanted.get(place, 0))
                continue
            shown = shown_of(part)
            if place[0] not in world.history.mortal:
                world.floors.check(before, place, shown)
                stable[place] = shown.stable_offset
            offset = wanted[place]
            found = batches(part.records)
            after = max(offset, found[-1].offset_last + 1) if found else offset
            end = shown.stable_offset if self.is_committed else shown.high_watermark
            if found and after > end:
                raise Violation("read before commit", f"{self.name} got {place} up to {after}, the end is {end}")
            seen = values_of(part, found, offset)
            taken[place] = Taken(0, seen, after)
            if place[0] in world.history.compacted:
                world.floors.check_newest(before[place], world.history, seen, offset, after)
        if self.is_committed:
            names = [name for each in taken.values() for _, name in each.seen]
            world.floors.look_together(stable, names, world.history)
            world.seen_committed(names)
        return taken


class Taken:
    """A partition's part of a reply."""

    __slots__ = ("after", "code", "seen")

    def __init__(self, code: int, seen: list[tuple[int, bytes]], after: int) -> None:
        self.code, self.seen, self.after = code, seen, after


class Consumer(Reading):
    """Follows some partitions, and goes back at times to read again (rule R6)."""

    def __init__(self, world: World, name: str, places: Sequence[Place], *, is_committed: bool) -> None:
        super().__init__(world, name)
        self.is_committed = is_committed
        self.version = self.random.choice((4, 6, 7, 9, 11, 12))
        self.is_session = self.version >= 7 and self.events.chance(0.5)
        self.wait_ms = self.random.choice((0, 50, 500))
        #: Some are told little at a time: what overlaps the end of a reply is another question then (rule R2).
        self.bytes_max = self.random.choice((_BYTES, _BYTES, 1_000, 100))
        self._positions = dict.fromkeys(places, 0)
        self._stretches: dict[Place, Stretch] = {}
        self._session_id, self._session_epoch = 0, 0
        self._known: dict[Place, int] = {}
        for place in places:
            self._go_to(place, 0)

    def _go_to(self, place: Place, offset: int) -> None:
        self._positions[place] = offset
        self._stretches[place] = self.world.history.stretch(
            self.name, place, is_committed=self.is_committed, start=offset
        )

    def run(self) -> Steps:
        while True:
            yield from self._once()
            if self.events.chance(0.02):
                place = self.random.choice(list(self._positions))
                self._go_to(place, self.random.randint(0, self._positions[place]))
            yield from self.rest(4 * self.world.pace_us)

    def _once(self) -> Steps:
        wanted, session = dict(self._positions), {}
        if self.is_session:
            session = {"session_id": self._session_id, "session_epoch": self._session_epoch}
            if self._session_epoch:
                wanted = {place: at for place, at in wanted.items() if self._known.get(place) != at}
        self._known = dict(self._positions)
        before = self.world.floors.now(self._positions)
        isolation = int(self.is_committed)
        limits = {"wait_ms": self.wait_ms, "bytes_max": self.bytes_max}
        reply = (yield [fetch(isolation, wanted, self.version, **limits, **session)])[0]
        if reply is None or getattr(reply, "error_code", 0):
            self._session_id = self._session_epoch = 0
            return
        if self.is_session:
            self._session_id, self._session_epoch = reply.session_id, self._session_epoch + 1
        for place, taken in self.take(reply, before, self._known).items():
            if taken.code == _OUT_OF_RANGE:
                yield from self._start_again(place)
            elif taken.code == UNKNOWN_TOPIC:
                self._go_to(place, 0)
            elif not taken.code:
                stretch = self._stretches[place]
                stretch.seen += taken.seen
                stretch.end = self._positions[place] = taken.after

    def _start_again(self, place: Place) -> Steps:
        """The records were deleted: go to the first that is left."""
        partition = {"partition_index": place[1], "timestamp": -2, "current_leader_epoch": -1}
        topics = [{"name": place[0], "partitions": [partition]}]
        before = self.world.floors.now([place])
        reply = yield from self.call(READER, "list_offsets", 5, replica_id=-1, isolation_level=0, topics=topics)
        if reply is not None and reply.topics[0].partitions[0].error_code == 0:
            start = reply.topics[0].partitions[0].offset
            if place[0] not in self.world.history.mortal:
                self.world.floors.check(before, place, Bounds(-1, -1, start))
            self._go_to(place, start)


def copies_of(
    copier: Copier | Member, seen: Iterable[tuple[int, bytes]], transaction: Transaction
) -> dict[Place, list[bytes]]:
    """The names of the copies, by target. What is there twice has two copies."""
    values: dict[Place, list[bytes]] = {}
    names: set[bytes] = set()
    for offset, name in seen:
        copy = b"%s~%d" % (name, transaction.number)
        if copy in names:
            copy = b"%s.%d" % (copy, offset)
        names.add(copy)
        values.setdefault(copier.random.choice(copier.targets), []).append(copy)
    return values


class Copier(Transactional, Reading):
    """Consume, process, produce: copies a partition, with its group's offset in each transaction."""

    has_offsets = True

    def __init__(
        self, world: World, name: str, group: str, source: Place, targets: Sequence[Place], *, is_tv2: bool
    ) -> None:
        super().__init__(world, name, f"copy-{group}", is_tv2=is_tv2)
        self.group, self.source, self.targets = group, source, targets
        self.share_aborted /= 2
        self._position: int | None = None
        self._is_at_end = False
        world.history.copyings.setdefault((group, source), Copying(group, source))

    @property
    def session_name(self) -> str:
        return f"{self.group}/{self.name}/{self.sessions}"

    def is_over(self) -> bool:
        return self._is_at_end and self.world.is_quiet_before(self.source[0])

    def began(self) -> None:
        self._position = None

    def ended(self, transaction: Transaction) -> None:
        self._position = None

    def next(self, transaction: Transaction) -> Steps:
        if self._position is None:
            self._position = yield from self._committed()
        was_quiet = self.world.is_quiet_before(self.source[0])
        wanted = {self.source: self._position}
        before = self.world.floors.now(wanted)
        reply = (yield [fetch(1, wanted, 11)])[0]
        if reply is None:
            return None
        taken = self.take(reply, before, wanted)[self.source]
        if taken.code == CORRUPT:
            return None
        assert taken.code == 0, f"{self.name} can't read {wanted}: {taken.code}"
        part = parts_of(reply)[self.source]
        seen, after = taken.seen, taken.after
        if not seen and after == self._position:
            self._is_at_end = was_quiet and after == part.high_watermark
            return None
        count = self.random.randint(1, 8)
        if len(seen) > count:
            after, seen = seen[count][0], seen[:count]
        return copies_of(self, seen, transaction), {(self.group, *self.source): after}

    def _committed(self) -> Steps:
        """The group's offset; what a fresh instance begins with."""
        while True:
            offset = yield from self.world.fetch_offset(self, OFFSETS, self.group, self.source, require_stable=True)
            if offset is not None:
                return max(offset, 0)
            yield from self.rest(30 * MS_US)
