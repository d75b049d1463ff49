"""The checkers: what a history and the logs at its end say of exactly-once. Shared by the simulation and tests with processes.

``Floors`` is asked with each reply, the functions below at the end. The truth is the logs as a reader of uncommitted data finds
them at the end, markers included: which records count is worked out from the markers alone, so that the last stable offset, the
list of aborted transactions and the answers of the broker are all judged by something that they don't make themselves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.simulation.history import Copying, Fate, History, Place, Stretch, Transaction, Value
from tests.support.batches import Batch

#: Commits of a partition, the newest, that each reply is held against.
_COMMITS_LOOKED_AT = 40


class Violation(AssertionError):
    """A guarantee that was broken; ``kind`` names it."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


# -- the truth ------------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """One record in a log. ``fate``: None outside of transactions, OPEN without a marker."""

    offset: int
    name: bytes
    fate: Fate | None

    @property
    def counts(self) -> bool:
        """Whether a reader of committed data must see it."""
        return self.fate is None or self.fate is Fate.COMMITTED


@dataclass(slots=True)
class FinalLog:
    """One partition at the end: from ``start`` (what is before it was deleted) to ``end``.

    ``newest``: of a compacted log, each key's newest offset that counts; None if the log is not compacted.
    """

    start: int
    end: int
    records: list[Written] = field(default_factory=list)
    newest: dict[bytes, int] | None = None

    def is_superseded(self, value: Value) -> bool:
        """Whether compaction may have taken a value: its key has a newer one that counts."""
        return self.newest is not None and value.key is not None and self.newest.get(value.key, -1) > value.offset

    def bury(self, tombstones: Iterable[Value]) -> None:
        """These may have gone: what they have superseded is superseded still."""
        assert self.newest is not None
        for value in tombstones:
            assert value.key is not None
            if value.may_count:
                offset = value.offset if value.offset >= 0 else self.end
                self.newest[value.key] = max(self.newest.get(value.key, -1), offset)


def compacted_log(start: int, end: int, batches: Sequence[Batch], visible: Set[int]) -> FinalLog:
    """As ``final_log``, of a compacted one, whose commit markers are gone: ``visible`` are the offsets that count."""
    log = FinalLog(start, end, newest={})
    for batch in batches:
        if batch.is_control:
            continue
        for record in batch.records:
            fate = Fate.COMMITTED if record.offset in visible else Fate.ABORTED
            log.records.append(Written(record.offset, record.name, fate if batch.is_transactional else None))
            if log.records[-1].counts:
                log.newest[record.key or b""] = record.offset
    return log


def final_log(start: int, end: int, batches: Sequence[Batch]) -> FinalLog:
    """Which records of the batches count, by their markers."""
    fates: list[tuple[Batch, Fate | None]] = []
    after: dict[int, Fate] = {}
    for batch in reversed(batches):
        if batch.is_control:
            after[batch.producer_id] = Fate.COMMITTED if batch.is_commit else Fate.ABORTED
        elif batch.is_transactional:
            fates.append((batch, after.get(batch.producer_id, Fate.OPEN)))
        else:
            fates.append((batch, None))
    log = FinalLog(start, end)
    for batch, fate in reversed(fates):
        log.records += (Written(record.offset, record.name, fate) for record in batch.records if record.offset >= start)
    return log


# -- while it runs --------------------------------------------------------------------------------------------------------


class Bounds(NamedTuple):
    """What a reply shows of a partition; -1 where it says nothing."""

    high_watermark: int
    stable_offset: int
    start: int


class Known(NamedTuple):
    """What was known of a partition when something was asked: what was shown, how many of its commits, and of each
    key (of a compacted topic) the newest value that counts.
    """

    shown: Bounds
    commits: int
    newest: Mapping[bytes, Value]


_NOTHING = Bounds(-1, -1, -1)


class Floors:
    """What was shown may never be taken back: neither by time nor by a crash (rules D2, D3, R1).

    Take ``now`` when a request is sent, give it to ``check`` with the reply. A transaction that is known to be committed is
    visible in all its partitions (D1, D3); the only thing that may stand before it is another open transaction. That is looked
    at in the end, in ``check_claims``: a stable offset short of it must be where somebody else's transaction begins.
    """

    def __init__(self) -> None:
        self._floors: dict[Place, Bounds] = {}
        #: Where partitions have begun: a transaction whose records were deleted in part keeps readers there.
        self._starts: dict[Place, set[int]] = {}
        self._commits: dict[Place, list[tuple[int, Transaction]]] = {}
        self._newest: dict[Place, dict[bytes, Value]] = {}
        self._committed: set[Transaction] = set()
        #: (partition, stable offset shown, transaction that is behind it).
        self.claims: set[tuple[Place, int, Transaction]] = set()

    def now(self, places: Iterable[Place]) -> dict[Place, Known]:
        """What is known to be visible."""
        return {
            place: Known(
                self._floors.get(place, _NOTHING),
                len(self._commits.get(place, ())),
                dict(self._newest.get(place, ())),
            )
            for place in places
        }

    def check(self, before: Mapping[Place, Known], place: Place, shown: Bounds) -> None:
        """Raises Violation if the reply shows less than was known when it was asked for; else it is known now."""
        floors, commits, _ = before[place]
        for name, floor, now in zip(Bounds._fields, floors, shown, strict=True):
            if 0 <= now < floor:
                raise Violation(
                    "went back", f"{name} of {place} is {now}, but {floor} was known before it was asked for"
                )
        if 0 <= shown.high_watermark < shown.stable_offset:
            raise Violation("went back", f"{place}: stable offset {shown.stable_offset} > {shown.high_watermark}")
        if shown.stable_offset >= 0:
            for offset, transaction in self._commits.get(place, [])[max(0, commits - _COMMITS_LOOKED_AT) : commits]:
                if offset >= shown.stable_offset and not 0 < shown.start == shown.stable_offset:
                    self.claims.add((place, shown.stable_offset, transaction))
        self.raise_to(place, shown)

    def raise_to(self, place: Place, shown: Bounds) -> None:
        """This is visible from now on."""
        floor = self._floors.get(place, _NOTHING)
        if shown.start > floor.start:
            self._starts.setdefault(place, set()).add(shown.start)
        self._floors[place] = Bounds(*map(max, floor, shown))

    def committed(self, transaction: Transaction) -> None:
        """The transaction is known to be committed: all its partitions are visible from now on (rules D1, D3)."""
        if transaction in self._committed:
            return
        self._committed.add(transaction)
        for value in transaction.values:
            if value.offset >= 0:
                self.raise_to(value.place, Bounds(value.offset + 1, -1, -1))
                self._commits.setdefault(value.place, []).append((value.offset, transaction))
                self.counts(value)

    def counts(self, value: Value) -> None:
        """A value is known to count: if its topic is compacted its key has this one, or a newer one, from now on."""
        if value.key is None:
            return
        newest = self._newest.setdefault(value.place, {})
        if value.key not in newest or newest[value.key].offset < value.offset:
            newest[value.key] = value

    @staticmethod
    def check_newest(known: Known, history: History, seen: Iterable[tuple[int, bytes]], start: int, end: int) -> None:
        """Who reads a compacted partition from ``start`` to ``end`` meets of each key the newest value, or a newer one.

        ``known`` when it was asked for. Raises Violation.
        """
        met = set(seen)
        for key, value in known.newest.items():
            if not start <= value.offset < end or (value.offset, value.name) in met:
                continue
            if value.is_tombstone and (older := _older_than(value, history, met)):
                raise Violation("came back", f"{older!r} is there, and {value.name!r} at {value.offset} is gone")
            if not (history.may_be_superseded(value) or history.is_fleeting(value)):
                raise Violation("lost", f"{value.name!r}, the newest of key {key!r}, is not at {value.offset} any more")

    def look_together(self, stable: Mapping[Place, int], seen: Iterable[bytes], history: History) -> None:
        """One reply of several partitions shows all of a transaction or nothing (rule D1).

        ``stable``: the stable offset of each partition in the reply; ``seen``: the committed values in it.
        """
        transactions = {value.transaction for name in seen if (value := history.values.get(name)) and value.transaction}
        for transaction in transactions:
            for value in transaction.values:
                if 0 <= stable.get(value.place, value.offset + 1) <= value.offset:
                    self.claims.add((value.place, stable[value.place], transaction))

    def is_start(self, place: Place, offset: int) -> bool:
        """Whether the partition has once begun there."""
        return offset in self._starts.get(place, ())

    def forget(self, topic: str) -> None:
        """A topic is gone."""
        for place in [place for place in self._floors if place[0] == topic]:
            del self._floors[place]


def _older_than(tombstone: Value, history: History, records: Iterable[tuple[int, bytes]]) -> bytes | None:
    """A record of its key that the tombstone has deleted, and that must go before it does."""
    for offset, name in records:
        value = history.values.get(name)
        if offset < tombstone.offset and value is not None and value.key == tombstone.key and value.counts:
            return name
    return None


# -- at the end -----------------------------------------------------------------------------------------------------------


def check_everything(
    history: History, floors: Floors, logs: Mapping[Place, FinalLog], committed: Mapping[tuple[str, Place], int]
) -> list[Violation]:
    """All checks of the end. ``committed``: the groups' offsets."""
    return [
        *check_claims(history, floors, logs),
        *check_nothing_twice(history, logs),
        *check_nothing_lost(history, logs),
        *check_transactions(history, logs),
        *check_order(history, logs),
        *check_nothing_came_back(history, logs),
        *check_nothing_open(logs),
        *(found for stretch in history.stretches for found in check_stretch(history, stretch, logs)),
        *(found for copying in history.copyings.values() for found in check_copying(history, copying, logs, committed)),
    ]


def _immortal(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[tuple[Place, FinalLog]]:
    return ((place, log) for place, log in logs.items() if place[0] not in history.mortal)


def check_nothing_twice(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """No value is in a log twice, none came from nowhere, none came from a fenced producer (rules P1, T7, T8)."""
    found: dict[bytes, tuple[Place, int]] = {}
    for place, log in logs.items():
        for offset, name, _ in log.records:
            value = history.values.get(name)
            may_be_doubled = value is not None and history.may_be_doubled(value)
            if name in found and not may_be_doubled:
                yield Violation("twice", f"{name!r} is at {found[name]} and at {(place, offset)}")
            found[name] = place, offset
            if value is None or value.place != place:
                yield Violation("invented", f"{name!r} at {(place, offset)} was never sent there")
            elif 0 <= value.offset != offset and place[0] not in history.mortal and not may_be_doubled:
                yield Violation("moved", f"{name!r} was acknowledged at {value.offset} of {place}, and is at {offset}")
            elif value.is_zombie:
                yield Violation("zombie write", f"{name!r} at {(place, offset)}: its producer was fenced before")


def check_nothing_lost(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """What was acknowledged is where the acknowledgement said (rules P1, D2)."""
    at = {(place, record.offset): record.name for place, log in logs.items() for record in log.records}
    for value in history.values.values():
        log = logs.get(value.place)
        if log is None or value.offset < 0 or value.offset < log.start or value.place[0] in history.mortal:
            continue
        if value.transaction is not None and value.transaction.fate is not Fate.COMMITTED:
            continue
        found = at.get((value.place, value.offset))
        if found is None and (log.is_superseded(value) or history.is_fleeting(value)):
            continue
        if found != value.name:
            yield Violation(
                "lost", f"{value.name!r} was acknowledged at {(value.place, value.offset)}, there is {found!r}"
            )


def check_transactions(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """Committed: all values count. Aborted: none. Unknown: all or none (rules D1, T5, T6)."""
    fates = {record.name: record.fate for _, log in _immortal(history, logs) for record in log.records}
    for transaction in history.transactions:
        values = [
            value
            for value in transaction.values
            if _is_known(history, value, logs)
            and (value.name in fates or not (logs[value.place].is_superseded(value) or history.is_fleeting(value)))
        ]
        counted = [value for value in values if fates.get(value.name) is Fate.COMMITTED]
        missing = [value for value in values if fates.get(value.name) is not Fate.COMMITTED]
        name = f"transaction {transaction.number} of {transaction.transactional_id}"
        if transaction.fate in (Fate.ABORTED, Fate.OPEN) and counted:
            yield Violation("aborted read", f"{name} is {transaction.fate.value}, but {counted[0].name!r} counts")
        elif transaction.fate is Fate.COMMITTED and missing:
            yield Violation(
                "lost", f"{name} is committed, but {missing[0].name!r} in {missing[0].place} does not count"
            )
        elif counted and missing:
            yield Violation("torn transaction", f"of {name} {counted[0].name!r} counts, {missing[0].name!r} does not")


def _is_known(history: History, value: Value, logs: Mapping[Place, FinalLog]) -> bool:
    """Whether the log can say what became of it: not if it may have been deleted."""
    log = logs.get(value.place)
    if log is None or value.place[0] in history.mortal:
        return False
    return log.start == 0 or value.offset >= log.start


def check_order(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """What one session wrote to a partition is there in the order in which it was sent (rule P3)."""
    for place, log in _immortal(history, logs):
        newest: dict[str, Value] = {}
        for record in log.records:
            value = history.values.get(record.name)
            if value is None or history.may_be_doubled(value):
                continue
            before = newest.get(value.session)
            if before is not None and before.order > value.order:
                yield Violation(
                    "out of order", f"{place}: {value.name!r} at {record.offset} comes after {before.name!r}"
                )
            newest[value.session] = value


def check_nothing_came_back(history: History, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """Where a tombstone has gone, nothing is left of what it has deleted (KIP-58, KIP-534)."""
    for place, log in logs.items():
        if log.newest is None:
            continue
        records = [(record.offset, record.name) for record in log.records]
        there = {name for _, name in records}
        for value in history.tombstones(place):
            if value.counts and value.name not in there and (older := _older_than(value, history, records)):
                yield Violation("came back", f"{older!r} is in {place}, and {value.name!r} at {value.offset} is gone")


def check_codecs(history: History, place: Place, batches: Iterable[Batch]) -> Iterator[Violation]:
    """What was compressed is as its producer has compressed it, be it that compaction has written it again."""
    for batch in batches:
        for record in () if batch.is_control else batch.records:
            value = history.values.get(record.name)
            if value is not None and value.codec != batch.codec:
                what = f"{value.name!r} at {(place, record.offset)} was sent with codec {value.codec!r}"
                yield Violation("packed otherwise", f"{what}, and is there with {batch.codec!r}")


def check_nothing_open(logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """When all is over, no transaction is open."""
    for place, log in logs.items():
        for record in log.records:
            if record.fate is Fate.OPEN:
                yield Violation("stuck", f"{place}: the transaction of {record.name!r} at {record.offset} has no end")


def check_claims(history: History, floors: Floors, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """Where a committed transaction was not all visible, another one was open before it (rules D1, D3)."""
    for place, stable_offset, transaction in floors.claims:
        log = logs.get(place)
        if log is None or stable_offset < log.start or place[0] in history.mortal:
            continue
        if stable_offset and (floors.is_start(place, stable_offset) or stable_offset == log.start):
            continue
        at = bisect_left(log.records, stable_offset, key=lambda record: record.offset)
        record = log.records[at] if at < len(log.records) else None
        value = history.values.get(record.name) if record is not None else None
        if log.newest is not None and (record is None or record.offset != stable_offset):
            continue  # compaction may have taken it
        if (
            record is None
            or record.offset != stable_offset
            or value is None
            or value.transaction in (None, transaction)
        ):
            yield Violation(
                "torn transaction",
                f"{place} was shown to {stable_offset} only, when transaction {transaction.number} that reaches further was "
                f"known to be committed; no other transaction begins there ({record})",
            )


def check_stretch(history: History, stretch: Stretch, logs: Mapping[Place, FinalLog]) -> Iterator[Violation]:
    """A reader saw exactly what counts, in order, without gaps (rules R1, R2, D2)."""
    log = logs.get(stretch.place)
    if log is None or stretch.place[0] in history.mortal:
        return
    if log.newest is not None:
        yield from _check_compacted_stretch(history, stretch, log)
        return
    start = max(stretch.start, log.start)
    expected = [
        (record.offset, record.name)
        for record in log.records
        if start <= record.offset < stretch.end and (record.counts or not stretch.is_committed)
    ]
    seen = [each for each in stretch.seen if each[0] >= start]
    if seen == expected:
        return
    extra, missing = Counter(seen) - Counter(expected), Counter(expected) - Counter(seen)
    fates = {(record.offset, record.name): record.fate for record in log.records}
    what = f"{stretch.reader} read {stretch.place} from {stretch.start} to {stretch.end}"
    if extra:
        first = min(extra)
        kind = "aborted read" if fates.get(first) is Fate.ABORTED else "read before commit or taken back"
        yield Violation(kind, f"{what} and saw {first}, which does not count")
    elif missing:
        yield Violation("skipped", f"{what} and did not see {min(missing)}")
    else:
        yield Violation("out of order", f"{what} in another order than the log")


def _check_compacted_stretch(history: History, stretch: Stretch, log: FinalLog) -> Iterator[Violation]:
    """As ``check_stretch``: what is there at the end was always there; what is not is superseded (rules R1, R2)."""
    left = {record.offset: record for record in log.records}
    what = f"{stretch.reader} read {stretch.place} from {stretch.start} to {stretch.end}"
    if [offset for offset, _ in stretch.seen] != sorted({offset for offset, _ in stretch.seen}):
        yield Violation("out of order", f"{what} in another order than the log")
    for offset, name in stretch.seen:
        kind = _wrong_in_compacted(history, history.values.get(name), offset, left.get(offset), stretch, log)
        if kind:
            yield Violation(kind, f"{what} and saw {name!r} at {offset}")
    seen = set(stretch.seen)
    for record in log.records:
        is_due = record.counts or not stretch.is_committed
        if is_due and stretch.start <= record.offset < stretch.end and (record.offset, record.name) not in seen:
            yield Violation("skipped", f"{what} and did not see {record}")


def _wrong_in_compacted(
    history: History, value: Value | None, offset: int, left: Written | None, stretch: Stretch, log: FinalLog
) -> str:
    """What is wrong with a value that was read at an offset, where ``left`` is at the end."""
    if value is None:
        return "invented"
    is_elsewhere = 0 <= value.offset != offset and not history.may_be_doubled(value)
    if is_elsewhere or (left is not None and left.name != value.name):
        return "moved"
    fate = value.transaction.fate if value.transaction is not None else Fate.COMMITTED
    if stretch.is_committed and (fate in (Fate.ABORTED, Fate.OPEN) or (left is not None and not left.counts)):
        return "aborted read"
    assert value.key is not None
    assert log.newest is not None
    is_gone = left is None and log.newest.get(value.key, -1) < offset
    return "read before commit or taken back" if is_gone and (stretch.is_committed or fate is Fate.COMMITTED) else ""


def source_of(name: bytes) -> bytes:
    """The value that a copy is made of."""
    return name.rpartition(b"~")[0]


def check_copying(
    history: History, copying: Copying, logs: Mapping[Place, FinalLog], committed: Mapping[tuple[str, Place], int]
) -> Iterator[Violation]:
    """Each input before the committed offset has one copy that counts, each later one has none (rules D1, O1).

    One for each time that it is there, should it be there twice.
    """
    copies: dict[bytes, int] = defaultdict(int)
    for _, log in _immortal(history, logs):
        for record in log.records:
            value = history.values.get(record.name)
            if record.counts and value is not None and value.session.startswith(f"{copying.group}/"):
                copies[source_of(record.name)] += 1
    offset = committed.get((copying.group, copying.place), 0)
    inputs: dict[bytes, int] = defaultdict(int)
    for record in logs[copying.place].records:
        if record.counts:
            inputs[record.name] += record.offset < offset
    for name, expected in inputs.items():
        count = copies[name]
        if count != expected:
            kind = "twice" if count > max(expected, 1) else "offset and output apart"
            yield Violation(kind, f"{copying.group} stands at {offset} of {copying.place}, {name!r} has {count} copies")


def check_nothing_left(
    history: History, logs: Mapping[Place, FinalLog], committed: Mapping[tuple[str, Place], int]
) -> list[Violation]:
    """When everybody has come to an end, every group stands behind all that counts, but for what came so late that it was not
    recognised any more (rule P8).
    """
    found: list[Violation] = []
    for group, place in history.copyings:
        offset = committed.get((group, place), 0)
        records = [record for record in logs[place].records if record.counts]
        before = {record.name for record in records if record.offset < offset}
        left = [
            record
            for record in records
            if record.offset >= offset
            and not (record.name in before and history.may_be_doubled(history.values[record.name]))
        ]
        if left:
            found.append(Violation("left behind", f"{group} stands at {offset} of {place}, {left[0]} is not copied"))
    return found
