"""A small, naive Kafka that does everything right, and the history that its clients would record: to examine the checks.

Written apart from the checks: it knows logs, markers and stable offsets, and nothing of anomalies. `Wrong` says which
single thing it shall do wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from oncelog.verify.history import (
    COMMITTED,
    UNCOMMITTED,
    Acknowledged,
    AnyEvent,
    Began,
    Ended,
    Ending,
    Initialized,
    Logged,
    OffsetsSeen,
    OffsetsSent,
    Polled,
    Refused,
    Sent,
    Watermarks,
)

PARTITIONS = 3
SOURCE, TARGET, GROUP = "source", "target", "group"
TIMEOUT_MS = 10_000


class Wrong(Enum):
    """What a broken cluster does."""

    NOTHING = "nothing"
    SHOWS_ABORTED = "aborted records are shown to read_committed readers"
    SHOWS_OPEN = "open transactions are shown to read_committed readers"
    LOSES_COMMITTED = "a committed transaction is dropped"
    LOSES_PLAIN = "an acknowledged record is dropped"
    TEARS = "a commit reaches one partition only"
    REPEATS = "a record is written twice"
    REPEATS_OFFSETS = "an acknowledgement names another offset"
    LETS_ZOMBIES_WRITE = "a replaced instance may write and commit"
    COMMITS_OFFSETS_AT_ABORT = "offsets of aborted transactions are committed"
    LOSES_OFFSETS = "offsets of committed transactions are not committed"
    STANDS_STILL = "a transaction is never ended"
    READS_BACKWARDS = "a reader gets an older record again"
    SKIPS = "a reader misses a record"
    INVENTS = "a record that nobody sent is there"
    REORDERS = "two records of one producer stand in the wrong order"
    CHANGES = "two readers see different records at one offset"
    FORGETS_ENDS = "the high watermark goes back"
    REWINDS_OFFSETS = "the committed offset goes back"
    SHOWS_OPEN_TO_COPIERS = "open transactions are shown to copiers"
    TAKES_BACK = "what a reader had before its commit is gone"
    COPIES_BACKWARDS = "copies stand in another order than their sources"
    INVENTS_OFFSETS = "a group shows an offset that nobody committed"
    INVENTS_READINGS = "a reader gets a record that nobody sent"
    COMMITS_FOR_ZOMBIES = "a replaced instance may commit, and is not told"
    TAKES_LATE_BATCHES = "a batch of a replaced instance arrives behind one of its successor"
    HIDES_COMMITTED = "read_uncommitted readers miss a committed record"


@dataclass
class Entry:
    value: str | None  # None: a marker
    transaction: str | None
    copies: int = 1


@dataclass
class Open:
    """A transaction under way."""

    key: str
    instance: str
    id: str
    values: list[tuple[str, int, int, str]] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)


class World:
    """`play` makes a history; ``wrong`` happens at every opportunity, ``done`` counts how often it did."""

    def __init__(self, chance: random.Random, wrong: Wrong = Wrong.NOTHING) -> None:
        self.chance, self.wrong, self.done = chance, wrong, 0
        self.at = 100.0
        self.events: list[AnyEvent] = [Began(at=self.at, settings={"transaction_timeout_ms": TIMEOUT_MS})]
        self.logs: dict[tuple[str, int], list[Entry]] = {
            (topic, index): [] for topic in (SOURCE, TARGET) for index in range(PARTITIONS)
        }
        self.committed: set[str | None] = {None}
        self.aborted: set[str | None] = set()
        self.open: dict[str, Open] = {}
        self.instances: dict[str, int] = {}
        self.zombies: list[Open] = []
        #: Batches that are still on their way: id, partition, value, transaction.
        self.late: list[tuple[str, tuple[str, int], str, str]] = []
        self.offsets: dict[int, int] = {}
        self.positions: dict[tuple[str, tuple[str, int]], int] = {}
        self.count = 0

    def now(self) -> float:
        self.at += 1.0
        return self.at

    def errs(self, wrong: Wrong) -> bool:
        if self.wrong is wrong:
            self.done += 1
            return True
        return False

    # -- the cluster --------------------------------------------------------------------------------------------------

    def stable(self, where: tuple[str, int]) -> int:
        log = self.logs[where]
        undecided = [
            offset
            for offset, entry in enumerate(log)
            if entry.value is not None and entry.transaction not in self.committed | self.aborted
        ]
        return min(undecided, default=len(log))

    def visible(self, where: tuple[str, int], isolation: str) -> list[tuple[int, str]]:
        log, found = self.logs[where], []
        end = len(log)
        if isolation == COMMITTED and self.wrong is not Wrong.SHOWS_OPEN:
            end = self.stable(where)
        for offset, entry in enumerate(log[:end]):
            if entry.value is None:
                continue
            if isolation == COMMITTED and entry.transaction in self.aborted and self.wrong is not Wrong.SHOWS_ABORTED:
                continue
            found.append((offset, entry.value))
        return found

    def append(self, where: tuple[str, int], value: str, transaction: str | None) -> int:
        log = self.logs[where]
        log.append(Entry(value, transaction))
        offset = len(log) - 1
        if self.chance.random() < 0.3 and self.errs(Wrong.REPEATS):
            log.append(Entry(value, transaction))
        return offset

    def end(self, transaction: Open, commit: bool) -> None:
        touched = sorted({(topic, index) for topic, index, _, _ in transaction.values})
        for where in touched:
            self.logs[where].append(Entry(None, transaction.key))
        (self.committed if commit else self.aborted).add(transaction.key)
        if commit and len(touched) > 1 and self.errs(Wrong.TEARS):
            log = self.logs[touched[0]]
            for entry in log:
                if entry.transaction == transaction.key:
                    entry.value = None
        if commit and transaction.values and self.chance.random() < 0.3 and self.errs(Wrong.LOSES_COMMITTED):
            for where in touched:
                for entry in self.logs[where]:
                    if entry.transaction == transaction.key:
                        entry.value = None
        if commit and transaction.offsets and self.errs(Wrong.LOSES_OFFSETS):
            return
        if commit or (transaction.offsets and self.errs(Wrong.COMMITS_OFFSETS_AT_ABORT)):
            self.offsets.update(transaction.offsets)

    # -- its clients --------------------------------------------------------------------------------------------------

    def initialize(self, id_: str) -> str:
        """A new instance; what the old one left open is aborted, and it may become a zombie."""
        self.instances[id_] = number = self.instances.get(id_, 0) + 1
        invoked = self.now()
        left = self.open.pop(id_, None)
        if left is not None:
            if self.wrong is Wrong.TAKES_LATE_BATCHES:
                self.leave_late(left, invoked)
            if self.wrong in (Wrong.LETS_ZOMBIES_WRITE, Wrong.COMMITS_FOR_ZOMBIES):
                self.zombies.append(left)
            else:
                self.end(left, commit=False)
                self.zombies.append(left)
        instance = f"{id_}.{number}"
        self.events.append(Initialized(at=self.now(), instance=instance, transactional_id=id_, invoked=invoked))
        return instance

    def leave_late(self, transaction: Open, before: float) -> None:
        """It has sent one more record, which has not arrived yet."""
        self.count += 1
        value, where = f"v{self.count}", (SOURCE, self.chance.randrange(PARTITIONS))
        about = {"topic": where[0], "partition": where[1], "transaction": transaction.key}
        self.events.append(Sent(at=before - 0.5, instance=transaction.instance, value=value, **about))  # type: ignore[arg-type]
        self.late.append((transaction.id, where, value, transaction.key))

    def arrive(self, id_: str, where: tuple[str, int]) -> None:
        """What was late does, behind a record of the successor."""
        for late in [each for each in self.late if each[:2] == (id_, where)]:
            self.late.remove(late)
            self.done += 1
            self.append(where, late[2], late[3])

    def begin(self, id_: str) -> Open:
        if id_ not in self.instances or self.chance.random() < 0.15:
            self.initialize(id_)
        self.count += 1
        self.open[id_] = Open(f"{id_}-{self.count}", f"{id_}.{self.instances[id_]}", id_)
        return self.open[id_]

    def send(
        self, transaction: Open | None, where: tuple[str, int], source: tuple[str, int, int] | None = None
    ) -> None:
        self.count += 1
        value = f"v{self.count}"
        instance, key = ("plain", None) if transaction is None else (transaction.instance, transaction.key)
        self.events.append(
            Sent(
                at=self.now(),
                instance=instance,
                value=value,
                topic=where[0],
                partition=where[1],
                transaction=key,
                source=source,
            )
        )
        if transaction is None and self.chance.random() < 0.1:
            self.events.append(Refused(at=self.now(), value=value, error="gave up"))
            return
        offset = self.append(where, value, key)
        if transaction is not None:
            transaction.values.append((*where, offset, value))
            self.arrive(transaction.id, where)
        told = offset + 7 if self.errs(Wrong.REPEATS_OFFSETS) else offset
        self.events.append(Acknowledged(at=self.now(), value=value, offset=told))
        if transaction is None and self.chance.random() < 0.5 and self.errs(Wrong.LOSES_PLAIN):
            self.logs[where][offset].value = None

    def finish(self, transaction: Open) -> None:
        """One of the ways in which a transaction ends, and what its client learns of it."""
        self.open.pop(transaction.id, None)
        way = self.chance.choice(
            ("commit", "commit", "commit", "abort", "unknown", "unknown", "failed", "killed", "killed late")
        )
        if way == "abort":
            self.call(transaction, commit=False, applied=False, outcome="ok")
        elif way == "commit":
            self.call(transaction, commit=True, applied=True, outcome="ok")
        elif way == "unknown":
            self.call(transaction, commit=True, applied=self.chance.random() < 0.5, outcome="unknown")
        elif way == "failed":
            self.call(transaction, commit=True, applied=None, outcome="failed")
            self.call(transaction, commit=False, applied=False, outcome="ok")
        elif way == "killed":
            self.time_out(transaction)
        else:
            self.events.append(
                Ending(at=self.now(), transaction=transaction.key, instance=transaction.instance, commit=True)
            )
            self.end(transaction, commit=self.chance.random() < 0.5)

    def time_out(self, transaction: Open) -> None:
        if transaction.values and self.errs(Wrong.STANDS_STILL):
            return
        self.end(transaction, commit=False)

    def call(self, transaction: Open, *, commit: bool, applied: bool | None, outcome: str) -> None:
        key = transaction.key
        self.events.append(Ending(at=self.now(), transaction=key, instance=transaction.instance, commit=commit))
        if applied is not None:
            self.end(transaction, commit=applied)
        self.events.append(Ended(at=self.now(), transaction=key, commit=commit, outcome=outcome))  # type: ignore[arg-type]

    # -- steps --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        id_ = self.chance.choice("ab")
        if id_ in self.open and self.chance.random() < 0.1:
            self.initialize(id_)
        transaction = self.open.get(id_) or self.begin(id_)
        self.send(transaction, (SOURCE, self.chance.randrange(PARTITIONS)))
        if self.chance.random() < 0.4:
            self.finish(transaction)

    def plain(self) -> None:
        self.send(None, (SOURCE, self.chance.randrange(PARTITIONS)))

    def copy(self) -> None:
        """One partition's next records, in one transaction; it is always finished in one step."""
        index = self.chance.randrange(PARTITIONS)
        at = self.offsets.get(index, 0)
        records = [found for found in self.visible((SOURCE, index), COMMITTED) if found[0] >= at][:3]
        if self.wrong is Wrong.SHOWS_OPEN_TO_COPIERS:
            records = [found for found in self.visible((SOURCE, index), UNCOMMITTED) if found[0] >= at][:3]
            self.done += any(offset >= self.stable((SOURCE, index)) for offset, _ in records)
        if not records:
            return
        sources = [offset for offset, _ in records]
        if len(sources) > 1 and self.wrong is Wrong.COPIES_BACKWARDS:
            sources.reverse()
        transaction = self.begin("copier")
        for offset in sources:
            self.send(transaction, (TARGET, index), (SOURCE, index, offset))
        transaction.offsets = {index: records[-1][0] + 1}
        self.events.append(
            OffsetsSent(
                at=self.now(), transaction=transaction.key, group=GROUP, topic=SOURCE, offsets=transaction.offsets
            )
        )
        self.finish(transaction)
        if transaction.key in self.committed and sources != sorted(sources):
            self.done += 1

    def zombie(self) -> None:
        """A replaced instance goes on: it is refused, unless the cluster is broken."""
        if not self.zombies:
            return
        transaction = self.zombies.pop()
        if self.wrong is Wrong.COMMITS_FOR_ZOMBIES:
            self.done += bool(transaction.values)
            self.call(transaction, commit=True, applied=True, outcome="unknown")
            return
        if self.wrong is Wrong.LETS_ZOMBIES_WRITE:
            self.done += 1
            self.send(transaction, (SOURCE, 0))
            self.call(transaction, commit=True, applied=True, outcome="ok")
            return
        self.count += 1
        self.events.append(
            Sent(
                at=self.now(),
                instance=transaction.instance,
                value=f"v{self.count}",
                topic=SOURCE,
                partition=0,
                transaction=transaction.key,
            )
        )
        self.events.append(Refused(at=self.now(), value=f"v{self.count}", error="fenced"))

    def read(self) -> None:
        isolation = self.chance.choice((COMMITTED, UNCOMMITTED))
        where = self.chance.choice(list(self.logs))
        reader = f"reader-{isolation}"
        invoked, position = self.now(), self.positions.get((reader, where), 0)
        seen = [found for found in self.visible(where, isolation) if found[0] >= position][:4]
        if not seen:
            return
        undecided = {each.transaction for each in self.logs[where]} - self.committed - self.aborted
        if isolation == COMMITTED and undecided and seen[-1][0] >= self.stable(where):
            self.errs(Wrong.SHOWS_OPEN)
        if isolation == COMMITTED and any(self.logs[where][offset].transaction in self.aborted for offset, _ in seen):
            self.errs(Wrong.SHOWS_ABORTED)
        if isolation == UNCOMMITTED:
            self.take_back(where, seen)
        self.positions[reader, where] = seen[-1][0] + 1
        if len(seen) > 2 and self.errs(Wrong.SKIPS):
            del seen[1]
        if len(seen) > 1 and self.errs(Wrong.READS_BACKWARDS):
            seen = [*seen, seen[0]]
        if self.errs(Wrong.INVENTS_READINGS):
            seen = [*seen, (seen[-1][0] + 1000, "nobody's")]
        records = [(*where, offset, value) for offset, value in seen]
        self.events.append(
            Polled(at=self.now(), reader=reader, isolation=isolation, invoked=invoked, records=records)  # type: ignore[arg-type]
        )

    def take_back(self, where: tuple[str, int], seen: list[tuple[int, str]]) -> None:
        """The last of what was read, if nobody was told that it is committed."""
        offset, _ = seen[-1]
        entry = self.logs[where][offset]
        if entry.transaction is not None and entry.transaction not in self.committed and self.errs(Wrong.TAKES_BACK):
            entry.value = None

    def look(self, *, waited: float = 0.0, is_final: bool = False) -> None:
        invoked = self.now()
        ends = {where: (self.stable(where), len(log)) for where, log in self.logs.items()}
        at = self.now()
        for (topic, partition), (stable, high) in ends.items():
            if high > 2 and not is_final and self.chance.random() < 0.3 and self.errs(Wrong.FORGETS_ENDS):
                self.events.append(
                    Watermarks(
                        at=at - 0.5, topic=topic, partition=partition, invoked=at - 0.6, stable=stable, high=high + 1
                    )
                )
                self.events.append(
                    Watermarks(at=at, topic=topic, partition=partition, invoked=at - 0.4, stable=stable, high=high)
                )
                continue
            self.events.append(
                Watermarks(
                    at=at, topic=topic, partition=partition, invoked=invoked, stable=stable, high=high, waited=waited
                )
            )
        invoked = self.now()
        offsets = {index: self.offsets.get(index, -1) for index in range(PARTITIONS)}
        if any(offset > 0 for offset in offsets.values()) and self.errs(Wrong.REWINDS_OFFSETS):
            ahead = {index: offset + 1 for index, offset in offsets.items()}
            self.events.append(OffsetsSeen(at=self.now(), group=GROUP, topic=SOURCE, invoked=invoked, offsets=ahead))
            invoked = self.now()
        if not is_final and self.errs(Wrong.INVENTS_OFFSETS):
            offsets[0] = 10_000
        self.events.append(
            OffsetsSeen(at=self.now(), group=GROUP, topic=SOURCE, invoked=invoked, offsets=offsets, is_final=is_final)
        )

    STEPS = (write, write, write, plain, copy, copy, zombie, read, read, look)

    def play(self, steps: int) -> list[AnyEvent]:
        for _ in range(steps):
            self.chance.choice(self.STEPS)(self)
        for transaction in list(self.open.values()):
            self.open.pop(transaction.id)
            self.time_out(transaction)
        self.look(waited=60.0, is_final=True)
        self.events += self.final()
        return self.events

    def final(self) -> Iterator[AnyEvent]:
        for where in self.logs:
            for isolation in (COMMITTED, UNCOMMITTED):
                records = self.visible(where, isolation)
                if isolation == COMMITTED and self.chance.random() < 0.5 and self.errs(Wrong.INVENTS):
                    records = [*records, (len(self.logs[where]), "nobody's")]
                if records and isolation == UNCOMMITTED and self.wrong is Wrong.HIDES_COMMITTED:
                    shown = self.visible(where, COMMITTED)
                    records = [each for each in records if each not in shown[-1:]]
                    self.done += bool(shown)
                if len(records) > 1 and isolation == UNCOMMITTED and self.wrong is Wrong.CHANGES:
                    (first, a), (second, b) = records[:2]
                    records[:2] = [(first, b), (second, a)]
                    self.done += 1
                if self.wrong is Wrong.REORDERS:
                    records = self.reordered(records)
                yield Logged(
                    at=self.now(),
                    topic=where[0],
                    partition=where[1],
                    isolation=isolation,  # type: ignore[arg-type]
                    records=records,
                    is_complete=True,
                )

    def reordered(self, records: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """The first two records of one producer that follow each other change places."""
        senders = {event.value: event.instance for event in self.events if isinstance(event, Sent)}
        found = list(records)
        for index in range(len(found) - 1):
            (first, a), (second, b) = found[index], found[index + 1]
            if senders.get(a) == senders.get(b):
                found[index : index + 2] = [(first, b), (second, a)]
                self.done += 1
                break
        return found
