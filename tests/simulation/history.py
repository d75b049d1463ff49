"""What clients did and were told, as facts: whoever drives a broker fills it, tests/simulation/checkers.py judges it.

Every value that is ever written is unique, so that each can be followed. Nothing here knows the broker: tests with real
processes can fill it as well as the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from zlib import crc32

#: A partition by topic and index.
Place = tuple[str, int]
#: Keys of a compacted topic: few, so that most values are superseded soon.
_KEYS = 12


class Fate(Enum):
    """What a client knows of a transaction's end."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    #: A commit was asked for, and no answer tells whether it was done.
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction as its producer sees it. ``offsets``: what it commits for (group, topic, index)."""

    number: int
    transactional_id: str
    values: list[Value] = field(default_factory=list)
    offsets: dict[tuple[str, str, int], int] = field(default_factory=dict)
    fate: Fate = Fate.OPEN


@dataclass(slots=True, eq=False)
class Value:
    """One record. ``order`` grows within its producer's session; ``offset`` is what an acknowledgement said, or -1."""

    name: bytes
    place: Place
    session: str
    order: int
    transaction: Transaction | None
    #: It was first sent when a newer session of the same transactional id was known: it must never be written.
    is_zombie: bool = False
    offset: int = -1
    #: In a compacted topic.
    key: bytes | None = None
    #: Its key is deleted: the record has no value, and its name in a header.
    is_tombstone: bool = False
    #: When it was sent first and last, outside of transactions; noted where producers are forgotten.
    sent_us: int = -1
    sent_again_us: int = -1
    #: How its batch was compressed.
    codec: int = 0

    def is_sent(self, now_us: int) -> None:
        """Once more."""
        if self.sent_us < 0:
            self.sent_us = now_us
        else:
            self.sent_again_us = now_us

    @property
    def counts(self) -> bool:
        """Whether it is known to count."""
        if self.transaction is None:
            return self.offset >= 0
        return self.transaction.fate is Fate.COMMITTED

    @property
    def may_count(self) -> bool:
        """Whether it may, for all that its client knows."""
        if self.is_zombie:
            return False
        return self.transaction is None or self.transaction.fate in (Fate.COMMITTED, Fate.UNKNOWN)


def key_of(name: bytes) -> bytes:
    """Under which key a value is written to a compacted topic; some are long enough to be noted by a hash."""
    number = crc32(name) % _KEYS
    return b"%d" % number if number % 2 else b"a key of more than fifteen bytes: %d" % number


def is_tombstone(name: bytes) -> bool:
    """Whether a value that is written to a compacted topic is none: a quarter of them."""
    return crc32(name) // _KEYS % 4 == 0


@dataclass(slots=True, eq=False)
class Stretch:
    """What one reader read of one partition without a gap: [``start``, ``end``) and the (offset, value) in it."""

    reader: str
    place: Place
    is_committed: bool
    start: int
    end: int
    seen: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Copying:
    """One copier's promise: a group's offset in ``place`` and the copies of what is before it settle together."""

    group: str
    place: Place


class History:
    """See the module."""

    def __init__(self) -> None:
        self.values: dict[bytes, Value] = {}
        self.transactions: list[Transaction] = []
        self.stretches: list[Stretch] = []
        self.copyings: dict[tuple[str, Place], Copying] = {}
        #: Topics that are deleted at times: nothing is promised of what was in them.
        self.mortal: set[str] = set()
        #: Topics that are compacted: of each key the newest value that counts is there, older ones may be.
        self.compacted: set[str] = set()
        #: Whether there are tombstones in them; and whether they may go soon (delete.retention.ms).
        self.has_tombstones = self.are_tombstones_fleeting = False
        #: After how long the broker may have forgotten a producer, 0 for never; and how late it may know what was sent.
        self.forgotten_after_us = 0
        self.lag_us: Callable[[], int] = lambda: 0
        self._of_key: dict[tuple[Place, bytes], list[Value]] = {}
        self._newest: dict[str, tuple[int, int]] = {}
        #: Since when no transaction can be open, by transactional id; -1: one may be.
        self._idle_since_us: dict[str, int] = {}

    def begin(self, transactional_id: str) -> Transaction:
        """A transaction begins."""
        self.transactions.append(Transaction(len(self.transactions), transactional_id))
        return self.transactions[-1]

    def send(
        self,
        name: bytes,
        place: Place,
        session: str,
        transaction: Transaction | None = None,
        *,
        is_zombie: bool = False,
    ) -> Value:
        """A value is sent for the first time."""
        assert name not in self.values, f"{name!r} was sent before"
        value = Value(name, place, session, len(self.values), transaction, is_zombie)
        self.values[name] = value
        if place[0] in self.compacted:
            value.key = key_of(name)
            value.is_tombstone = self.has_tombstones and is_tombstone(name)
            self._of_key.setdefault((place, value.key), []).append(value)
        if transaction is not None:
            transaction.values.append(value)
        return value

    def may_be_superseded(self, value: Value) -> bool:
        """Whether a newer value of its key may count: in a compacted topic it may be gone then."""
        if value.key is None:
            return False
        return any(
            (((other.offset < 0 or other.offset > value.offset) and other is not value) or self.may_be_doubled(other))
            and other.may_count
            for other in self._of_key[value.place, value.key]
        )

    def may_be_doubled(self, value: Value) -> bool:
        """Whether it was sent again when its producer may have been forgotten: nobody can tell that it is the same (rule P8).

        Only outside of transactions: who has one open is not forgotten, and a later one has another epoch or its own batches.
        """
        if not self.forgotten_after_us or value.transaction is not None or value.sent_again_us < 0:
            return False
        return value.sent_again_us - value.sent_us + self.lag_us() >= self.forgotten_after_us

    def is_fleeting(self, value: Value) -> bool:
        """Whether it may be gone though nothing supersedes it."""
        return value.is_tombstone and self.are_tombstones_fleeting

    def tombstones(self, place: Place) -> list[Value]:
        """All that were sent to a partition."""
        return [
            value
            for (where, _), values in self._of_key.items()
            if where == place
            for value in values
            if value.is_tombstone
        ]

    def stretch(self, reader: str, place: Place, *, is_committed: bool, start: int) -> Stretch:
        """A reader begins to read."""
        self.stretches.append(Stretch(reader, place, is_committed, start, start))
        return self.stretches[-1]

    # -- what may be open (rules D4, T5) ------------------------------------------------------------------------------

    def opened(self, transactional_id: str) -> None:
        """Somebody may begin a transaction from now on."""
        self._idle_since_us[transactional_id] = -1

    def closed(self, transactional_id: str, now_us: int) -> None:
        """What was open is known to be over."""
        self._idle_since_us[transactional_id] = now_us

    def is_idle(self, transactional_id: str, since_us: int) -> bool:
        """Whether nobody can have had a transaction open since then."""
        return 0 <= self._idle_since_us.get(transactional_id, -1) <= since_us

    # -- who is the newest (rule T7, T8) ------------------------------------------------------------------------------

    def given(self, transactional_id: str, producer_id: int, epoch: int) -> None:
        """The broker gave somebody this session."""
        newest = self._newest.get(transactional_id)
        if newest is None or newest < (producer_id, epoch):
            self._newest[transactional_id] = producer_id, epoch

    def is_fenced(self, transactional_id: str, producer_id: int, epoch: int) -> bool:
        """Whether a newer session than this is known."""
        return self._newest.get(transactional_id, (producer_id, epoch)) > (producer_id, epoch)
