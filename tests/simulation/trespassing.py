"""A simulated client that does what is forbidden, and knows what the broker has to say to it.

Real clients never skip a sequence, write with an old epoch, or commit what they have aborted: a broker that let them would look
well in every other client's world. Each act here begins with a producer of its own, does something lawful, and then one thing
that a rule refuses (or allows, however odd it looks). Whoever gets no answer gives the act up: then nobody knows what the
broker knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.checkers import Violation
from tests.simulation.client import ADMIN, COORDINATOR, LEADER, OFFSETS, Actor, Steps
from tests.simulation.events import MS_US
from tests.simulation.history import Fate, Place, Transaction
from tests.simulation.packing import ZSTD_VERSION
from tests.simulation.producers import RETRIABLE
from tests.support.batches import Codec, batch

if TYPE_CHECKING:
    from tests.simulation.world import World

_TV1, _TV2 = 11, 12
_TIMEOUT_MS, _SHORT_MS = 10_000, 300


class Unknown(Exception):
    """There was no answer, or one that any fault explains."""


class Trespasser(Actor):
    """See the module. ``places`` are partitions that nobody copies."""

    def __init__(self, world: World, name: str, places: Sequence[Place]) -> None:
        super().__init__(world, name)
        self._places = list(places)
        self._count = self._values = 0
        self._id = ""
        self._transaction: Transaction | None = None
        self._before: tuple[int, ...] = ()
        self._begun_us = 0

    def run(self) -> Steps:
        acts = (
            *(self._skip, self._overlap, self._repeat_too_late, self._begin_high, self._begin_again),
            *(self._use_an_old_epoch, self._write_plainly, self._write_elsewhere, self._end_otherwise),
            *(self._end_otherwise_again, self._end_for_another, self._have_an_operator_commit, self._stay_too_long),
            *(self._ask_again, self._abort_nothing, self._come_back_late),
            *(self._offsets_unasked, self._offsets_overtaken, self._offsets_unstable),
        )
        if self.world.memory.producer_ms:
            acts = (*acts, self._repeat_in_time, self._be_known_by_a_marker)
        if self.world.memory.transactional_id_ms:
            acts = (*acts, self._come_back_in_time, self._ask_again_when_forgotten)
        if self.world.memory.is_short:
            acts = (*acts, self._stay_open)
        if self.world.packing.is_there:
            acts = (*acts, self._pack_too_new, *([self._pack_without_keys] if self.world.history.compacted else []))
        while not self.world.is_ending:
            yield from self._try(self.random.choice(acts))
            yield from self.rest(10 * self.world.pace_us)
        # Once more, each, of a broker that has been through it all, and without faults.
        for act in acts:
            yield from self._try(act)

    def _try(self, act: Callable[[Place], Steps]) -> Steps:
        """By a producer of its own."""
        self._count += 1
        self._id, self._transaction, self._before = f"{self.name}.{self._count}", None, self._events_so_far()
        self._begun_us = self.events.now_us
        try:
            yield from act(self.random.choice(self._places))
        except Unknown:
            self.note("gives up: {}", act.__name__)

    # -- what it judges -----------------------------------------------------------------------------------------------

    def _events_so_far(self) -> tuple[int, ...]:
        """Whatever may fence a producer that does nothing wrong, or stop the broker's time."""
        host = self.world.host
        return self.world.reasons.operators, host.reboots, host.jumps, host.slept_us, host.late_starts

    def _is_remembered(self) -> bool:
        """Whether no partition can have forgotten what this act has written (rule P8)."""
        return not self.world.memory.may_have_forgotten_producer(self._begun_us)

    def _refused(self, what: str, code: int, *, by_memory: bool = False) -> None:
        """``by_memory``: only who remembers the producer can know that it is wrong."""
        if code == 0 and by_memory and not self._is_remembered():
            raise Unknown
        if code == 0:
            raise Violation("let in", f"{self.name}: {what}, and nobody minded")
        if code in RETRIABLE:
            raise Unknown

    def _allowed(self, what: str, code: int) -> None:
        """Unless something has happened that explains it."""
        is_known = not self.world.memory.may_have_forgotten_id(self._begun_us)
        if code and code not in RETRIABLE and is_known and self._before == self._events_so_far():
            raise Violation("let in", f"{self.name}: {what}, and was refused: {code}")
        if code:
            raise Unknown

    # -- what it asks -------------------------------------------------------------------------------------------------

    def _asks(self, role: str, api: str, version: int, /, **tree: Any) -> Steps:
        reply = yield from self.call(role, api, version, **tree)
        if reply is None:
            raise Unknown
        return reply

    def _begin(self, *, is_plain: bool = False, timeout_ms: int = _TIMEOUT_MS) -> Steps:
        """A session, of a transactional id or of none."""
        return (yield from self._go_on((-1, -1), is_plain=is_plain, timeout_ms=timeout_ms))[1]

    def _go_on(self, session: tuple[int, int], *, is_plain: bool = False, timeout_ms: int = _TIMEOUT_MS) -> Steps:
        """InitProducerId with a session: the code, and the new one."""
        reply = yield from self._asks(
            COORDINATOR,
            "init_producer_id",
            4,
            transactional_id=None if is_plain else self._id,
            transaction_timeout=timeout_ms,
            producer_id=session[0],
            producer_epoch=session[1],
        )
        code = int(reply.error_code)
        if session == (-1, -1) and code:
            raise Unknown
        return code, (int(reply.producer_id), int(reply.producer_epoch))

    def _add(self, session: tuple[int, int], place: Place) -> Steps:
        reply = yield from self._asks(
            COORDINATOR,
            "add_partitions_to_txn",
            3,
            v3_and_below_transactional_id=self._id,
            v3_and_below_producer_id=session[0],
            v3_and_below_producer_epoch=session[1],
            v3_and_below_topics=[{"name": place[0], "partitions": [place[1]]}],
        )
        return int(reply.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code)

    def _opened(self, session: tuple[int, int], place: Place) -> Steps:
        """A transaction with one record in it (TV1)."""
        self._transaction = self.world.history.begin(self._id)
        if (yield from self._add(session, place)):
            raise Unknown
        yield from self._written(session, place, 0, version=_TV1)

    def _written(self, session: tuple[int, int], place: Place, sequence: int, *, version: int = 0) -> Steps:
        """A lawful batch of one record; ``version`` of Produce, if it is transactional."""
        code, offset, name = yield from self._produce(session, place, sequence, version=version)
        if code:
            raise Unknown
        self.world.history.values[name].offset = offset

    def _produce(
        self,
        session: tuple[int, int],
        place: Place,
        sequence: int,
        *,
        version: int = 0,
        count: int = 1,
        bad: bool = False,
        codec: Codec = Codec.NONE,
    ) -> Steps:
        """The code, the base offset, and the first value. ``bad``: it must never be written."""
        names = [b"%s:%d" % (self._id.encode(), self._values + number) for number in range(count)]
        self._values += count
        for name in names:
            transaction = self._transaction if version else None
            self.world.history.send(name, place, f"{self._id}/{session[1]}", transaction, is_zombie=bad)
        is_remembered = not self.world.memory.producer_ms
        try:
            code, offset = yield from self._send(names, session, place, sequence, version=version, codec=codec)
            is_remembered = self._is_remembered()
        finally:
            # If there is no answer it may come late.
            for name in names:
                self.world.history.values[name].is_zombie &= is_remembered
        return code, offset, names[0]

    def _send(
        self,
        names: Sequence[bytes],
        session: tuple[int, int],
        place: Place,
        sequence: int,
        *,
        version: int = 0,
        codec: Codec = Codec.NONE,
    ) -> Steps:
        producer_id, epoch = session
        for name in names:
            self.world.history.values[name].is_sent(self.events.now_us)
        data = batch(
            names,
            producer_id=producer_id,
            epoch=epoch,
            sequence=sequence,
            transactional=version > 0,
            timestamp_ms=self.world.host.clock_ms(),
            codec=codec,
        )
        is_zstd_too_new = codec is Codec.ZSTD and not version
        reply = yield from self._asks(
            LEADER,
            "produce",
            version or (ZSTD_VERSION - 1 if is_zstd_too_new else 9),
            transactional_id=self._id if version else None,
            acks=-1,
            timeout=30_000,
            topic_data=[{"name": place[0], "partition_data": [{"index": place[1], "records": data}]}],
        )
        part = reply.responses[0].partition_responses[0]
        return int(part.error_code), part.base_offset

    def _end(self, session: tuple[int, int], *, commit: bool, version: int = 3) -> Steps:
        """The code of an EndTxn, and the session after it."""
        reply = yield from self._asks(
            COORDINATOR,
            "end_txn",
            version,
            transactional_id=self._id,
            producer_id=session[0],
            producer_epoch=session[1],
            committed=commit,
        )
        return int(reply.error_code), (getattr(reply, "producer_id", -1), getattr(reply, "producer_epoch", -1))

    def _ended(self, session: tuple[int, int], *, commit: bool, version: int = 3) -> Steps:
        """It ends its own transaction."""
        transaction = self._transaction
        assert transaction is not None
        if commit:
            transaction.fate = Fate.UNKNOWN
        code, after = yield from self._end(session, commit=commit, version=version)
        if code:
            raise Unknown
        transaction.fate = Fate.COMMITTED if commit else Fate.ABORTED
        if commit:
            self.world.committed(transaction)
        return after

    # -- sequences (rules P1, P3, D6) ---------------------------------------------------------------------------------

    def _skip(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        yield from self._written(session, place, 0)
        code, *_ = yield from self._produce(session, place, 2, bad=True)
        self._refused("sequence 2 came after 0", code, by_memory=True)

    def _overlap(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        yield from self._written(session, place, 0)
        code, *_ = yield from self._produce(session, place, 0, count=2, bad=True)
        self._refused("sequences 0 to 1 came after 0", code, by_memory=True)

    def _repeat_too_late(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        for sequence in range(6):
            yield from self._written(session, place, sequence)
        first = b"%s:%d" % (self._id.encode(), self._values - 6)
        code, _ = yield from self._send([first], session, place, 0)
        self._refused("sequence 0 came again after 0 to 5", code, by_memory=True)

    def _begin_high(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        self._begun_us -= self.world.memory.age_us
        code, *_ = yield from self._produce(session, place, 7, bad=True)
        self._refused("sequence 7 was the first of a new producer", code, by_memory=True)

    def _begin_again(self, place: Place) -> Steps:
        """A new epoch begins at 0 again: these are no repetitions. The checkers of the end see to it."""
        for _ in range(2):
            session = yield from self._begin()
            yield from self._opened(session, place)
            yield from self._written(session, place, 1, version=_TV1)
            yield from self._ended(session, commit=True)

    # -- what is not forgotten yet (rule P8) --------------------------------------------------------------------------

    def _repeat_in_time(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        yield from self._written(session, place, 0)
        yield self.world.memory.producer_ms * MS_US * 3 // 4
        self._begun_us = self.events.now_us
        yield from self._written(session, place, 1)
        name = b"%s:%d" % (self._id.encode(), self._values - 1)
        yield self.world.memory.producer_ms * MS_US * 3 // 4
        code, offset = yield from self._send([name], session, place, 1)
        self._allowed("it sent a batch again in time", code)
        first = self.world.history.values[name].offset
        if offset != first and self._is_remembered():
            raise Violation("let in", f"{self.name}: what is at {first} came again in time, and was put at {offset}")

    def _be_known_by_a_marker(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield from self._opened(session, place)
        yield self.world.memory.producer_ms * MS_US * 3 // 4
        self._begun_us = self.events.now_us
        yield from self._ended(session, commit=True)
        yield self.world.memory.producer_ms * MS_US // 2
        topics = [{"name": place[0], "partition_indexes": [place[1]]}]
        reply = yield from self._asks(ADMIN, "describe_producers", 0, topics=topics)
        part = reply.topics[0].partitions[0]
        known = {producer.producer_id for producer in part.active_producers}
        if part.error_code == 0 and session[0] not in known and self._is_remembered():
            raise Violation("forgotten", f"{self.name}: {place} does not know {session}, whose marker it has")

    def _come_back_in_time(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield self.world.memory.transactional_id_ms * MS_US * 3 // 4
        code = yield from self._add(session, place)
        self._allowed("it used its transactional id in time", code)
        if self.events.chance(0.5):
            self._begun_us = self.events.now_us
            code, _after = yield from self._end(session, commit=True)
            self._allowed("it ended its transaction", code)
            yield self.world.memory.transactional_id_ms * MS_US * 3 // 4
            code = yield from self._add(session, place)
            self._allowed("it used its transactional id in time after a transaction", code)

    def _ask_again_when_forgotten(self, _: Place) -> Steps:
        """Whether the first answer is lost nobody knows: both ask for the same."""
        session = yield from self._begin()
        yield int(2 * self.world.memory.idle_us())
        self._begun_us = self.events.now_us
        _, first = yield from self._go_on(session)
        code, second = yield from self._go_on(session)
        self._allowed("it asked again after it had been forgotten", code)
        is_known = not self.world.memory.may_have_forgotten_id(self._begun_us)
        if first != second and is_known and self._before == self._events_so_far():
            raise Violation("let in", f"{self.name} had {session}, was given {first}, and when it asked again {second}")

    def _stay_open(self, place: Place) -> Steps:
        """A transaction that is open for longer than anything is remembered."""
        session = yield from self._begin()
        yield from self._opened(session, place)
        begun_us = self.events.now_us
        yield int(self.world.memory.idle_us())
        name = b"%s:%d" % (self._id.encode(), self._values - 1)
        code, offset = yield from self._send([name], session, place, 0, version=_TV1)
        if self.events.now_us < begun_us + _TIMEOUT_MS * MS_US // 2:
            self._begun_us = self.events.now_us  # while it is open nothing is forgotten, however long that is
        self._allowed("it repeated a batch of its open transaction", code)
        first = self.world.history.values[name].offset
        if offset != first:
            raise Violation("twice", f"{self.name}: {name!r} is at {first}, and was put at {offset} in its transaction")
        yield from self._ended(session, commit=True)

    # -- compressed batches (rule P4, KIP-110) ------------------------------------------------------------------------

    def _pack_too_new(self, place: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        code, *_ = yield from self._produce(session, place, 0, bad=True, codec=Codec.ZSTD)
        self._refused("zstd came by a Produce that does not know it", code)

    def _pack_without_keys(self, _: Place) -> Steps:
        session = yield from self._begin(is_plain=True)
        place = self.random.choice(self.world.places(*self.world.history.compacted))
        codec = self.world.packing.any_codec(ZSTD_VERSION - 1)
        code, *_ = yield from self._produce(session, place, 0, bad=True, codec=codec)
        self._refused("a compressed record without a key came to a compacted topic", code)

    # -- epochs and transactions (rules P2, P6, P7, T5-T8, T11) -------------------------------------------------------

    def _use_an_old_epoch(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield from self._opened(session, place)
        yield from self._begin()
        code, *_ = yield from self._produce(session, place, 0, bad=True)
        self._refused("a batch of an old epoch came behind the marker that fences it", code, by_memory=True)

    def _write_plainly(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield from self._opened(session, place)
        code, *_ = yield from self._produce(session, place, 1, bad=True)
        self._refused("a plain batch came inside its producer's transaction", code)
        yield from self._ended(session, commit=False)

    def _write_elsewhere(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield from self._opened(session, place)
        for other in self._places:
            if other != place:
                code, *_ = yield from self._produce(session, other, 0, version=_TV1, bad=True)
                self._refused("a batch came to a partition that was not added", code)
        yield from self._ended(session, commit=False)

    def _end_otherwise(self, place: Place) -> Steps:
        session = yield from self._begin()
        yield from self._opened(session, place)
        commit = self.events.chance(0.5)
        yield from self._ended(session, commit=commit)
        code, _ = yield from self._end(session, commit=not commit)
        self._refused("it ended a transaction the other way, again", code)

    def _end_otherwise_again(self, place: Place) -> Steps:
        session = yield from self._begin()
        self._transaction = self.world.history.begin(self._id)
        yield from self._written(session, place, 0, version=_TV2)
        commit = self.events.chance(0.5)
        yield from self._ended(session, commit=commit, version=5)
        code, _ = yield from self._end(session, commit=not commit, version=5)
        self._refused("it asked again for the end of a transaction, and for the other one", code)

    def _end_for_another(self, place: Place) -> Steps:
        old = yield from self._begin()
        session = yield from self._begin()
        yield from self._opened(session, place)
        yield from self._ended(session, commit=True)
        code, _ = yield from self._end(old, commit=True, version=5)
        self._refused("one that was replaced took its successor's commit for its own", code)

    def _have_an_operator_commit(self, place: Place) -> Steps:
        producer_id, epoch = session = yield from self._begin()
        yield from self._opened(session, place)
        topics = [{"name": place[0], "partition_indexes": [place[1]]}]
        marker = {"producer_id": producer_id, "producer_epoch": epoch, "transaction_result": True, "topics": topics}
        reply = yield from self._asks(ADMIN, "write_txn_markers", 1, markers=[marker])
        self._refused("an operator committed", int(reply.markers[0].topics[0].partitions[0].error_code))

    def _stay_too_long(self, _: Place) -> Steps:
        """Partitions that are added do not put the end of a transaction's time off (rule T7)."""
        session = yield from self._begin(timeout_ms=_SHORT_MS)
        host, begun_us = self.world.host, -1
        if host.jumps:
            return  # its clock may stand still now
        # A broker that has stood still may answer first, and end what is over then.
        calm = host.starts, host.paused_us
        for place in self.world.places():
            asked_us = self.events.now_us
            code = yield from self._add(session, place)
            if begun_us < 0:
                begun_us = self.events.now_us
            is_over = asked_us > begun_us + 2 * _SHORT_MS * MS_US
            if is_over and calm == (host.starts, host.paused_us) and self._before == self._events_so_far():
                self._refused("its transaction was open twice as long as it may be", code)
            if code:
                return
            yield _SHORT_MS * MS_US * 2 // 3

    # -- what looks odd and is allowed (rules T3, D7, D8) -------------------------------------------------------------

    def _ask_again(self, _: Place) -> Steps:
        session = yield from self._begin()
        _, first = yield from self._go_on(session)
        code, second = yield from self._go_on(session)
        is_known = not self.world.memory.may_have_forgotten_id(self._begun_us)
        if code == 0 and first != second and is_known and self._before == self._events_so_far():
            raise Violation("let in", f"{self.name} has {session}, was given {first}, and when it asked again {second}")

    def _abort_nothing(self, _: Place) -> Steps:
        session = yield from self._begin()
        code, _after = yield from self._end(session, commit=False, version=self.random.choice((1, 3, 4)))
        self._allowed("it aborted nothing", code)

    def _come_back_late(self, place: Place) -> Steps:
        session = yield from self._begin(timeout_ms=_SHORT_MS)
        yield from self._opened(session, place)
        yield from self.rest(3 * _SHORT_MS * MS_US)
        code, _after = yield from self._go_on(session, timeout_ms=_SHORT_MS)
        self._allowed("it went on after its transaction had timed out", code)

    # -- offsets (rules O1, O4, O6) -----------------------------------------------------------------------------------

    def _commit_pending(self, session: tuple[int, int], place: Place, offset: int, *, version: int) -> Steps:
        partition = {"partition_index": place[1], "committed_offset": offset}
        reply = yield from self._asks(
            OFFSETS,
            "txn_offset_commit",
            version,
            transactional_id=self._id,
            producer_id=session[0],
            producer_epoch=session[1],
            group_id=self._id,
            generation_id=-1,
            topics=[{"name": place[0], "partitions": [partition]}],
        )
        return int(reply.topics[0].partitions[0].error_code)

    def _pending(self, place: Place, offset: int) -> Steps:
        """An offset waits in a transaction; its session."""
        session = yield from self._begin()
        self._transaction = self.world.history.begin(self._id)
        if (yield from self._commit_pending(session, place, offset, version=5)):
            raise Unknown
        return session

    def _offset(self, place: Place) -> Steps:
        """The code and the group's stable offset."""
        topics = [{"name": place[0], "partition_indexes": [place[1]]}]
        reply = yield from self._asks(OFFSETS, "offset_fetch", 7, group_id=self._id, topics=topics, require_stable=True)
        part = reply.topics[0].partitions[0]
        return int(part.error_code or reply.error_code), part.committed_offset

    def _offsets_unasked(self, place: Place) -> Steps:
        session = yield from self._begin()
        code = yield from self._commit_pending(session, place, 5, version=self.random.choice((3, 4)))
        self._refused("it sent offsets of a group that was not added", code)

    def _offsets_overtaken(self, place: Place) -> Steps:
        session = yield from self._pending(place, 5)
        partition = {"partition_index": place[1], "committed_offset": 9}
        topics = [{"name": place[0], "partitions": [partition]}]
        reply = yield from self._asks(
            OFFSETS, "offset_commit", 5, group_id=self._id, generation_id_or_member_epoch=-1, topics=topics
        )
        if reply.topics[0].partitions[0].error_code:
            raise Unknown
        yield from self._ended(session, commit=True, version=5)
        code, offset = yield from self._offset(place)
        if code == 0 and offset != 9:
            raise Violation("let in", f"{self.name}: offset 9 came after 5, and {offset} is committed")

    def _offsets_unstable(self, place: Place) -> Steps:
        since_us = self.events.now_us
        session = yield from self._pending(place, 5)
        code, offset = yield from self._offset(place)
        is_open = self.events.now_us < since_us + _TIMEOUT_MS * MS_US // 2 and self._before == self._events_so_far()
        if code == 0 and is_open:
            raise Violation("let in", f"{self.name}: an offset is pending, and {offset} was told as stable")
        yield from self._ended(session, commit=False, version=5)
