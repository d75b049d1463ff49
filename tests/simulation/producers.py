"""Simulated producers: idempotent ones with five requests in flight, and transactional ones of both protocol versions.

They do what real clients do: repeat what had no answer, on a new connection; believe retriable codes; abort on abortable ones;
go on with a bumped epoch after a timeout (KIP-360, KIP-588); stop when they are fenced. What they learn goes into the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.checkers import Violation
from tests.simulation.client import COORDINATOR, LEADER, Actor, Ask, Steps
from tests.simulation.events import MS_US
from tests.simulation.history import Fate, Place, Transaction, Value
from tests.support.batches import Codec, batch

if TYPE_CHECKING:
    from tests.simulation.reasons import Reason
    from tests.simulation.world import World

IN_FLIGHT_MAX = 5
_UNKNOWN_TOPIC, _NOT_LEADER, _STORAGE, _OUT_OF_ORDER, _INVALID_EPOCH, _INVALID_STATE = 3, 6, 56, 45, 47, 48
_UNKNOWN_MAPPING = 49
_LOADING, _NOT_AVAILABLE, _CONCURRENT, _NOT_ATTEMPTED, _FENCED, _ABORTABLE = 14, 15, 51, 55, 90, 120
_LATE = {_NOT_LEADER, _CONCURRENT}
RETRIABLE = {_NOT_LEADER, _STORAGE, _LOADING, _NOT_AVAILABLE, _CONCURRENT}
#: The client can't go on in this transaction, but in the next.
_ABORT = {_UNKNOWN_TOPIC, _NOT_ATTEMPTED, _ABORTABLE, _OUT_OF_ORDER}
_FENCING = {_INVALID_EPOCH, _FENCED}
_SEQUENCES = 2**31


class Abortable(Exception):
    """This transaction must be aborted. ``is_unresolved``: something was sent whose fate is not known."""

    def __init__(self, *, is_unresolved: bool = False) -> None:
        super().__init__()
        self.is_unresolved = is_unresolved


class Fenced(Exception):
    """The broker says that the session is not the newest; it may only have timed out."""


class Forgotten(Exception):
    """The broker knows nothing of the transactional id, or has it under another producer id (rule P8)."""


class Fatal(Exception):
    """The session is of no use any more."""


@dataclass(slots=True)
class Piece:
    """One batch on its way."""

    place: Place
    values: list[Value]
    sequence: int
    data: bytes


@dataclass(slots=True)
class Session:
    """A producer id, its epoch, and the next sequence of each partition."""

    producer_id: int = -1
    epoch: int = -1
    sequences: dict[Place, int] = field(default_factory=dict)


class Producing(Actor):
    """What all producers share: batches with sequences, pipelined and repeated."""

    transactional_id: str | None = None
    produce_version = 9
    acks = -1

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.session = Session()
        self.sessions = 0
        self.patience = 1_000
        self.codec = Codec.NONE

    @property
    def session_name(self) -> str:
        return f"{self.name}/{self.sessions}"

    def piece(self, place: Place, names: Sequence[bytes], transaction: Transaction | None) -> Piece:
        """The next batch for a partition; it takes its sequence numbers."""
        session, history = self.session, self.world.history
        is_zombie = self.transactional_id is not None and self.is_fenced()
        values = [history.send(name, place, self.session_name, transaction, is_zombie=is_zombie) for name in names]
        sequence = session.sequences.get(place, 0)
        session.sequences[place] = (sequence + len(names)) % _SEQUENCES
        if session.producer_id < 0:
            sequence = -1
        data = batch(
            [None if value.is_tombstone else value.name for value in values],
            keys=[value.key for value in values],
            headers=[value.name if value.is_tombstone else None for value in values],
            producer_id=session.producer_id,
            epoch=session.epoch,
            sequence=sequence,
            transactional=transaction is not None,
            timestamp_ms=self.world.host.clock_ms(),
            codec=self.codec,
        )
        if self.codec:
            self.world.packed += 1
            for value in values:
                value.codec = self.codec
        return Piece(place, values, sequence, data)

    def is_fenced(self) -> bool:
        """Whether somebody was given a newer session."""
        return self.transactional_id is not None and self.world.history.is_fenced(
            self.transactional_id, self.session.producer_id, self.session.epoch
        )

    def be_idle(self, share: float) -> Steps:
        """At times nothing happens for so long that the broker may forget it, where it forgets (rule P8)."""
        if self.world.memory.is_short and not self.world.is_ending and self.events.chance(share):
            yield from self.rest(self.world.memory.idle_us())

    def write(self, requests: list[list[Piece]]) -> Steps:
        """Send requests of one batch a partition, five in flight, until all are answered."""
        for tried in range(self.patience):
            in_flight = requests[:IN_FLIGHT_MAX]
            self.note("sends {} Produce requests from {}", len(in_flight), in_flight[0][0].values[0].name)
            replies = yield [self._produce(pieces) for pieces in in_flight]
            left: list[list[Piece]] = []
            for pieces, reply in zip(in_flight, replies, strict=True):
                rest = pieces if reply is None else self._answered(pieces, reply, is_first=not left)
                if rest:
                    left.append(rest)
            requests = left + requests[IN_FLIGHT_MAX:]
            if not requests:
                return
            if left:
                yield from self.rest(min(tried + 1, 20) * 20 * MS_US)
        raise Abortable(is_unresolved=True)

    def _produce(self, pieces: list[Piece]) -> Ask:
        topics: dict[str, list[dict[str, Any]]] = {}
        if self.world.memory.producer_ms:
            for piece in pieces:
                for value in piece.values:
                    value.is_sent(self.events.now_us)
        for piece in pieces:
            topics.setdefault(piece.place[0], []).append({"index": piece.place[1], "records": piece.data})
        tree = {
            "transactional_id": self.transactional_id,
            "acks": self.acks,
            "timeout": 30_000,
            "topic_data": [{"name": topic, "partition_data": parts} for topic, parts in topics.items()],
        }
        return Ask(LEADER, "produce", self.produce_version, tree, is_answered=self.acks != 0)

    def _answered(self, pieces: list[Piece], reply: Any, *, is_first: bool) -> list[Piece]:
        """What of a request must be sent again."""
        answers = {(topic.name, part.index): part for topic in reply.responses for part in topic.partition_responses}
        left: list[Piece] = []
        for piece in pieces:
            answer = answers[piece.place]
            code = int(answer.error_code)
            self.check_not_shut_out("produce", code)
            if code == 0:
                self._acknowledged(piece, answer.base_offset)
                self.is_written()
            elif code in RETRIABLE or (code == _OUT_OF_ORDER and not is_first):
                left.append(piece)
            else:
                self.note("{} from {} was refused: {}", piece.values[0].name, piece.sequence, code)
                self.refused(piece, code)
        return left

    def check_not_shut_out(self, api: str, code: int) -> None:
        """A client that speaks by its newest connection is never told that it is late (rule D4)."""
        if code in _LATE:
            raise Violation("shut out", f"{self.name} was told {code} for {api} by the newest connection that it has")

    def _acknowledged(self, piece: Piece, base_offset: int) -> None:
        for delta, value in enumerate(piece.values):
            if value.offset >= 0 and value.offset != base_offset + delta:
                raise Violation(
                    "twice", f"{value.name!r} was acknowledged at {value.offset}, then at {base_offset + delta}"
                )
            value.offset = base_offset + delta
            if value.transaction is None:
                self.world.floors.counts(value)

    def is_written(self) -> None:
        """A batch was acknowledged."""

    def refused(self, piece: Piece, code: int) -> None:
        """A batch got an error that a repetition does not cure. May raise."""
        raise NotImplementedError


class PlainProducer(Producing):
    """Idempotent, without transactions: repeats until each batch is acknowledged (rules P1, P3)."""

    def __init__(self, world: World, name: str, places: Sequence[Place]) -> None:
        super().__init__(world, name)
        self.places = places
        self.produce_version = self.random.choice((3, 5, 7, 8, 9, 11, 12))
        self.acks = self.random.choice((-1, -1, 1))
        self._count = 0

    def run(self) -> Steps:
        while not self.world.is_ending:
            if self.session.producer_id < 0 or self.events.chance(0.1):
                yield from self._begin()
            try:
                for _ in range(self.random.randint(1, 30)):
                    if self.world.is_ending:
                        return
                    yield from self.write(self._requests())
                    yield from self.rest(self.world.pace_us)
            except Fatal:
                yield from self._begin()
            yield from self.be_idle(0.2)

    def start_at(self, producer_id: int, sequences: dict[Place, int]) -> None:
        """Go on with an old session."""
        self.session = Session(producer_id, 0, sequences)

    def _begin(self) -> Steps:
        while True:
            reply = yield from self.call(
                COORDINATOR, "init_producer_id", self.random.randint(0, 4), transaction_timeout=60_000
            )
            if reply is not None and reply.error_code == 0:
                self.sessions += 1
                self.session = Session(reply.producer_id, reply.producer_epoch)
                return
            yield from self.rest(50 * MS_US)

    def _requests(self) -> list[list[Piece]]:
        requests = []
        for _ in range(self.random.randint(1, IN_FLIGHT_MAX)):
            places = self.random.sample(self.places, min(len(self.places), self.random.choice((1, 1, 1, 2))))
            requests.append([self.piece(place, self._names(), None) for place in places])
        return requests

    def _names(self) -> list[bytes]:
        first = self._count
        self._count += self.random.randint(1, 3)
        return [b"%s:%d" % (self.name.encode(), number) for number in range(first, self._count)]

    def refused(self, piece: Piece, code: int) -> None:
        if code == _OUT_OF_ORDER and self._may_have_come_late(piece.place):
            raise Fatal
        raise Violation(
            "lost", f"{piece.values[0].name!r}, sequence {piece.sequence} in {piece.place}, was refused: {code}"
        )

    def _may_have_come_late(self, place: Place) -> bool:
        """Whether a batch that it had sent again may have come to a partition that had forgotten it, as the last one."""
        history = self.world.history
        mine = (
            value for value in history.values.values() if (value.session, value.place) == (self.session_name, place)
        )
        return any(map(history.may_be_doubled, mine))


class Forgetful(Producing):
    """acks=0 without idempotence: never told anything, never repeats; at most once (rule P9)."""

    acks = 0

    def __init__(self, world: World, name: str, places: Sequence[Place]) -> None:
        super().__init__(world, name)
        self.places = places
        self.produce_version = self.random.choice((3, 7, 9, 12))

    def run(self) -> Steps:
        while not self.world.is_ending:
            #: Nothing is said of the order of two of its batches: the second may go by a new connection.
            self.sessions += 1
            place = self.random.choice(self.places)
            yield [self._produce([self.piece(place, [b"%s:%d" % (self.name.encode(), self.sessions)], None)])]
            yield from self.rest(2 * self.world.pace_us)


class Transactional(Producing):
    """A transactional producer. Subclasses say what is in a transaction.

    ``is_tv2``: Produce 12, EndTxn 5, no AddPartitions (KIP-890); else the older protocol in random versions.
    """

    transactional_id: str
    #: Whether its transactions move offsets.
    has_offsets = False

    def __init__(self, world: World, name: str, transactional_id: str, *, is_tv2: bool) -> None:
        super().__init__(world, name)
        random = self.random
        self.transactional_id, self.is_tv2 = transactional_id, is_tv2
        self.transaction_timeout_ms = random.choice((300, 1_000, 3_000, 10_000))
        self.patience = random.choice((2, 5, 20))
        self.share_aborted = random.choice((0.0, 0.1, 0.5))
        #: It goes on with its epoch though a batch that it has given up may still be under way, as some old clients do.
        self.is_careless = False
        self.transactions_begun = 0
        #: How often it adds its first partition alone.
        self.share_split = 0.5
        self.reason: Reason | None = None
        self._open_since_us = -1
        #: When it has asked for what the broker has last done, and when first for an end that it knows nothing of.
        self._used_us = self._end_lost_us = -1
        self._is_registered = False
        if is_tv2:
            self.produce_version, self.init_version, self.add_version = 12, random.choice((4, 5)), -1
            self.offsets_version, self.end_version, self.group_version = 5, 5, -1
        else:
            self.produce_version, self.init_version = random.choice((5, 7, 8, 9, 10, 11)), random.choice((1, 3, 4, 4))
            self.add_version, self.group_version = random.choice((0, 1, 2, 3)), random.choice((0, 1, 2, 3))
            self.offsets_version, self.end_version = random.choice((2, 3, 4)), random.choice((0, 1, 2, 3, 4))

    def run(self) -> Steps:
        is_going_on = False
        while not (self.world.is_ending and self.is_over()):
            try:
                yield from self._init(is_going_on=is_going_on)
                is_going_on = False
                self.began()
                while not (self.world.is_ending and self.is_over()):
                    if not (yield from self._one()):
                        yield from self.rest(self.world.pace_us)
            except Fenced:
                # Time is no reason for not going on with another epoch (rule D8).
                self._check_reason(is_time_one=not is_going_on)
                if is_going_on or self.init_version < 3:
                    self.note("is fenced and stops")
                    return
                is_going_on = True
            except Forgotten:
                # Nothing can be open. Java, librdkafka and franz-go ask for another session in the place of theirs, so that a
                # zombie gets none; older ones end, and are started anew.
                is_going_on = self.init_version >= 3
            except (Fatal, Abortable):
                is_going_on = False
                if self.events.chance(0.3):
                    return
                yield from self.rest(50 * MS_US)

    @property
    def apis(self) -> list[str]:
        """What it asks in a transaction."""
        adds = [] if self.is_tv2 else ["add_partitions_to_txn"]
        offsets = ["txn_offset_commit", *([] if self.is_tv2 else ["add_offsets_to_txn"])] if self.has_offsets else []
        return ["produce", "end_txn", *adds, *offsets]

    # -- for subclasses -----------------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether nothing is left to do when the world ends."""
        return True

    def began(self) -> None:
        """A session began: what was not committed is to be done again."""

    def next(self, transaction: Transaction) -> Steps:
        """The values by partition and the offsets by (group, topic, index) of the next transaction; None for nothing."""
        raise NotImplementedError

    def ended(self, transaction: Transaction) -> None:
        """A transaction is over, in whatever way."""

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _init(self, *, is_going_on: bool) -> Steps:
        """InitProducerId; ``is_going_on``: with the session that the producer has (rules T3, D8)."""
        caller = {}
        if self.init_version >= 3:
            session = self.session if is_going_on else Session()
            caller = {"producer_id": session.producer_id, "producer_epoch": session.epoch}
        is_rivalled, since_us = False, self.events.now_us
        while True:
            asked = self.world.reasons.asks(self.transactional_id, self)
            reply = yield from self.call(
                COORDINATOR,
                "init_producer_id",
                self.init_version,
                transactional_id=self.transactional_id,
                transaction_timeout=self.transaction_timeout_ms,
                **caller,
            )
            code = -1 if reply is None else int(reply.error_code)
            self.check_not_shut_out("init_producer_id", code)
            if code == 0:
                break
            if reply is None and not self.has_given_up(COORDINATOR):
                # It may still arrive, after a repetition, and then it is another instance to the broker (FINDINGS.md).
                is_rivalled = True
            if reply is not None and code not in RETRIABLE:
                raise Fenced
            yield from self.rest(50 * MS_US)
        self.sessions += 1
        self.session = Session(reply.producer_id, reply.producer_epoch)
        self.note("has session {}, {}", reply.producer_id, reply.producer_epoch)
        self.reason = self.world.reasons.given(self.transactional_id, self, asked, is_rivalled=is_rivalled)
        self.world.history.given(self.transactional_id, reply.producer_id, reply.producer_epoch)
        self._used_us = since_us
        self._closes()

    # -- one transaction ----------------------------------------------------------------------------------------------

    def _one(self) -> Steps:
        """One transaction; False if there was nothing to do."""
        yield from self.be_idle(0.05)
        transaction = self.world.history.begin(self.transactional_id)
        self.transactions_begun += 1
        self._is_registered, self._end_lost_us = False, -1
        planned = yield from self.next(transaction)
        if planned is None:
            return False
        values, offsets = planned
        commit = not self.events.chance(self.share_aborted)
        unresolved = False
        try:
            try:
                yield from self._write_all(transaction, values)
                yield from self._move(transaction, offsets)
            except Abortable as trouble:
                commit, unresolved = False, trouble.is_unresolved
            yield from self._end(transaction, commit=commit)
        finally:
            self.ended(transaction)
        if unresolved and not self.is_tv2 and not self.is_careless:
            # A batch may still be under way: only a bumped epoch keeps it out of the next transaction.
            if self.init_version < 3:
                raise Fatal
            yield from self._init(is_going_on=True)
            self.began()
        return True

    def _opens(self) -> None:
        """What is asked now may open a transaction."""
        if self._open_since_us < 0:
            self._open_since_us = self.events.now_us
            self.world.history.opened(self.transactional_id)

    def _closes(self) -> None:
        """What it has opened is over."""
        self._open_since_us = -1
        if not self.is_fenced():
            self.world.history.closed(self.transactional_id, self.events.now_us)

    def _check_reason(self, *, is_time_one: bool = True) -> None:
        """Nobody is fenced but by another instance, an operator, the machine, or time (rules D4, D8, T7)."""
        if self.reason is None or self.reason.is_there():
            return
        open_us = self.events.now_us - self._open_since_us if self._open_since_us >= 0 else 0
        if not is_time_one or open_us < self.transaction_timeout_ms * MS_US * 8 // 10:
            raise Violation("fenced", f"{self.name} can't go on, and nobody has done it; open for {open_us} us")

    def _check_forgotten(self) -> None:
        """No transactional id is forgotten before its time, nor while its transaction is open (rule P8)."""
        if self.reason is None or self.reason.is_there():
            return
        since_us = self._used_us
        if self._is_registered:
            since_us = self._open_since_us + self.transaction_timeout_ms * MS_US
            if self._end_lost_us >= 0:
                since_us = min(since_us, self._end_lost_us)
        if not self.world.memory.may_have_forgotten_id(since_us):
            raise Violation("forgotten", f"{self.name} uses {self.transactional_id}, and the broker does not know it")

    def is_answered(self, api: str) -> None:
        """Something of a transaction is done."""
        self._is_registered = True
        if self.late is not None:
            self.late.is_answered(api)

    def _write_all(self, transaction: Transaction, values: dict[Place, list[bytes]]) -> Steps:
        places = list(values)
        self._opens()
        if not self.is_tv2:
            for some in (places[:1], places[1:]) if self.events.chance(self.share_split) else (places,):
                if some:
                    yield from self._add(some)
        if self.is_careless:
            for piece in self._pieces(transaction, values):
                yield from self.write([[piece]])
        elif requests := self._requests_of(self._pieces(transaction, values)):
            yield from self.write(requests)

    def _pieces(self, transaction: Transaction, values: dict[Place, list[bytes]]) -> Iterator[Piece]:
        """One after the other, as they are sent: each takes its sequence numbers."""
        for place, names in values.items():
            at = 0
            while at < len(names):
                count = self.random.randint(1, 4)
                yield self.piece(place, names[at : at + count], transaction)
                at += count

    def _requests_of(self, pieces: Iterable[Piece]) -> list[list[Piece]]:
        """Some requests have batches of several partitions."""
        requests: list[list[Piece]] = []
        for piece in pieces:
            if requests and piece.place not in {each.place for each in requests[-1]} and self.events.chance(0.5):
                requests[-1].append(piece)
            else:
                requests.append([piece])
        return requests

    def is_written(self) -> None:
        self.is_answered("produce")

    def refused(self, piece: Piece, code: int) -> None:
        if code == _OUT_OF_ORDER and self.is_careless:
            raise Fatal
        if code == _INVALID_STATE and piece.place[0] in self.world.history.mortal:
            # The topic was made anew: it is another one, and not part of the transaction.
            raise Fatal
        self._judge(code)

    def _judge(self, code: int) -> None:
        """What a client makes of an error that a repetition does not cure."""
        if code in _FENCING:
            raise Fenced
        if code in _ABORT:
            raise Abortable(is_unresolved=True)
        if code == _UNKNOWN_MAPPING:
            self.note("is forgotten")
            self._check_forgotten()
            raise Forgotten
        self.note("can't go on: {}", code)
        self._check_reason()
        raise Fatal

    def _persist(self, ask: Ask, codes: Any) -> Steps:
        """Ask until all codes that ``codes`` finds in the reply are 0."""
        for tried in range(self.patience):
            was_fenced = self.is_fenced()
            reply = (yield [ask])[0]
            if reply is not None:
                found = set(codes(reply)) - {0}
                for code in found:
                    self.check_not_shut_out(ask.api, code)
                if not found:
                    if was_fenced:
                        raise Violation("zombie served", f"{self.name} was fenced, and {ask.api} succeeded")
                    self.is_answered(ask.api)
                    return
                bad = found - RETRIABLE - {_NOT_ATTEMPTED}
                if bad:
                    self.note("{} was refused: {}", ask.api, found)
                    self._judge(min(bad))
            yield from self.rest(min(tried + 1, 10) * 20 * MS_US)
        raise Abortable(is_unresolved=True)

    def _who(self) -> dict[str, Any]:
        return {
            "transactional_id": self.transactional_id,
            "producer_id": self.session.producer_id,
            "producer_epoch": self.session.epoch,
        }

    def _add(self, places: Sequence[Place]) -> Steps:
        topics: dict[str, list[int]] = {}
        for topic, index in places:
            topics.setdefault(topic, []).append(index)
        tree = {f"v3_and_below_{name}": value for name, value in self._who().items()}
        tree["v3_and_below_topics"] = [{"name": topic, "partitions": indexes} for topic, indexes in topics.items()]
        yield from self._persist(
            Ask(COORDINATOR, "add_partitions_to_txn", self.add_version, tree),
            lambda reply: [
                int(part.partition_error_code)
                for topic in reply.results_by_topic_v3_and_below
                for part in topic.results_by_partition
            ],
        )

    def _move(self, transaction: Transaction, offsets: dict[tuple[str, str, int], int]) -> Steps:
        """The offsets of the transaction (rules O1, O6)."""
        for (group, topic, index), offset in offsets.items():
            if not self.is_tv2:
                ask = Ask(COORDINATOR, "add_offsets_to_txn", self.group_version, {**self._who(), "group_id": group})
                yield from self._persist(ask, lambda reply: [int(reply.error_code)])
            partition = {"partition_index": index, "committed_offset": offset}
            tree = {**self._who(), "group_id": group, "topics": [{"name": topic, "partitions": [partition]}]}
            if self.offsets_version >= 3:
                tree |= self.who_commits()
            yield from self._persist(
                Ask("offsets", "txn_offset_commit", self.offsets_version, tree),
                lambda reply: [int(part.error_code) for topic in reply.topics for part in topic.partitions],
            )
            transaction.offsets[group, topic, index] = offset

    def who_commits(self) -> dict[str, Any]:
        """Member and generation of a TxnOffsetCommit (rule O2)."""
        return {"generation_id": -1}

    def _end(self, transaction: Transaction, *, commit: bool) -> Steps:
        """EndTxn until it is answered (rules T5, T6)."""
        is_any_lost, since_us = False, self.events.now_us
        ask = Ask(COORDINATOR, "end_txn", self.end_version, {**self._who(), "committed": commit})
        if commit:
            transaction.fate = Fate.UNKNOWN
        for tried in range(self.patience * 3):
            was_fenced = self.is_fenced()
            reply = (yield [ask])[0]
            code = -1 if reply is None else int(reply.error_code)
            self.check_not_shut_out("end_txn", code)
            if code == 0:
                if was_fenced:
                    raise Violation("zombie served", f"{self.name} was fenced, and EndTxn succeeded")
                self._used_us = since_us
                self._take_end(transaction, reply, commit=commit)
                return
            if reply is not None and code not in RETRIABLE:
                self.note("EndTxn was refused: {}", code)
                if not is_any_lost:
                    transaction.fate = Fate.ABORTED
                if code == _INVALID_STATE and not (commit or self._is_registered):
                    # The broker knows nothing of this transaction: what it is asked to abort is the one before.
                    raise Fatal
                self._judge(code)
            if reply is None:
                is_any_lost, self._end_lost_us = True, since_us
            yield from self.rest(min(tried + 1, 10) * 20 * MS_US)
        raise Fatal

    def _take_end(self, transaction: Transaction, reply: Any, *, commit: bool) -> None:
        transaction.fate = Fate.COMMITTED if commit else Fate.ABORTED
        self._closes()
        self.note("transaction {} is {}", transaction.number, transaction.fate.value)
        if commit:
            self.world.committed(transaction)
        if self.is_tv2:
            self.session = Session(reply.producer_id, reply.producer_epoch)
            self.world.history.given(self.transactional_id, reply.producer_id, reply.producer_epoch)
        self.is_answered("end_txn")


class Writer(Transactional):
    """Writes values of its own to some partitions, all or none."""

    def __init__(
        self, world: World, name: str, transactional_id: str, places: Sequence[Place], *, is_tv2: bool
    ) -> None:
        super().__init__(world, name, transactional_id, is_tv2=is_tv2)
        self.places = places
        self._count = 0

    def be_careless(self) -> None:
        """Give up at the first lost answer, abort, and go on with the same epoch."""
        self.is_careless, self.patience, self.share_split = True, 1, 0.0
        # The fewer its partitions, the likelier a late batch finds its own in the next transaction.
        self.places = self.random.sample(self.places, min(3, len(self.places)))

    def next(self, transaction: Transaction) -> Steps:
        count = self.random.randint(1, min(4, len(self.places)))
        places = self.random.sample(self.places, len(self.places) if self.is_careless else count)
        values = {}
        for place in places:
            first = self._count
            self._count += self.random.choice((1, 1, 2, 5, 20))
            values[place] = [b"%s:%d" % (self.name.encode(), number) for number in range(first, self._count)]
        if self.events.chance(0.05):
            yield from self.rest(self.transaction_timeout_ms * MS_US)
        return values, {}
        yield
