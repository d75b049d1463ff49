"""A history put in order for the checks: transactions with their outcomes, instances with their ends, logs, readings.

Only what follows from the events is said; where a client was not told, the outcome stays UNKNOWN. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from oncelog.verify.history import (
    COMMITTED,
    NO_OFFSET,
    Acknowledged,
    AnyEvent,
    Began,
    Ended,
    Ending,
    Initialized,
    Logged,
    OffsetsSeen,
    OffsetsSent,
    PassedUnread,
    Polled,
    Refused,
    Sent,
    Struck,
    Watermarks,
)

Partition = tuple[str, int]
NEVER: Final = float("inf")


class Outcome(Enum):
    """What is certain about a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNENDED = "never told to commit"
    UNKNOWN = "unknown"

    @property
    def is_without_effect(self) -> bool:
        """Nobody may ever see its records."""
        return self in (Outcome.ABORTED, Outcome.UNENDED)


@dataclass(slots=True)
class Transaction:
    """One transaction of one instance. ``commit_invoked`` is when a commit was first called, NEVER if none was."""

    key: str
    instance: str = ""
    records: list[Sent] = field(default_factory=list)
    offsets: list[OffsetsSent] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    @property
    def commit_invoked(self) -> float:
        """When it might become visible at the earliest."""
        return min((ending.at for ending in self.endings if ending.commit), default=NEVER)

    @property
    def began(self) -> float:
        """When the first of it was sent."""
        return min((event.at for event in (*self.records, *self.offsets, *self.endings)), default=0.0)

    @property
    def over(self) -> float:
        """When its end was known; NEVER if it was not."""
        return min((each.at for each in self.ended if each.outcome == "ok"), default=NEVER)

    @property
    def outcome(self) -> Outcome:
        """A commit whose call failed for certain counts as none; one whose outcome nobody knows leaves all open."""
        if any(each.commit and each.outcome == "ok" for each in self.ended):
            return Outcome.COMMITTED
        calls = sum(ending.commit for ending in self.endings)
        if calls == 0:
            return Outcome.ABORTED if any(each.outcome == "ok" for each in self.ended) else Outcome.UNENDED
        failed = sum(each.commit and each.outcome == "failed" for each in self.ended)
        aborted = any(not each.commit and each.outcome == "ok" for each in self.ended)
        return Outcome.ABORTED if failed == calls and aborted else Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Reading:
    """One record that a reader got."""

    reader: str
    partition: Partition
    offset: int
    value: str
    at: float


@dataclass(slots=True)
class View:
    """What the checks look at."""

    settings: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    instances: list[Initialized] = field(default_factory=list)
    #: By isolation and reader, in the order read.
    readings: dict[str, dict[str, list[Reading]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    #: By isolation: the final content of each partition, and which of them were read whole.
    logs: dict[str, dict[Partition, list[tuple[int, str]]]] = field(default_factory=lambda: defaultdict(dict))
    complete: dict[str, set[Partition]] = field(default_factory=lambda: defaultdict(set))
    offsets_seen: list[OffsetsSeen] = field(default_factory=list)
    watermarks: list[Watermarks] = field(default_factory=list)
    faults: list[Struck] = field(default_factory=list)
    unread: list[PassedUnread] = field(default_factory=list)
    events: int = 0
    _places: dict[str, dict[str, list[tuple[str, int, int]]]] = field(default_factory=dict)

    # -- questions ----------------------------------------------------------------------------------------------------

    def transaction_of(self, value: str) -> Transaction | None:
        """The transaction that a record belongs to."""
        sent = self.sent.get(value)
        return None if sent is None or sent.transaction is None else self.transactions[sent.transaction]

    def places(self, isolation: str) -> dict[str, list[tuple[str, int, int]]]:
        """Where each value stands at the end, in the eyes of this isolation."""
        if isolation not in self._places:
            found: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
            for (topic, partition), records in self.logs[isolation].items():
                for offset, value in records:
                    found[value].append((topic, partition, offset))
            self._places[isolation] = dict(found)
        return self._places[isolation]

    def is_numbered(self, place: Partition) -> bool:
        """Whether the offsets that its group commits are numbers of its records."""
        return any(sent.number is not None and (sent.topic, sent.partition) == place for sent in self.sent.values())

    def ranks_of_numbers(self, place: Partition) -> dict[int, int]:
        """Where the record of each number stands among the visible ones, for no offset -1; empty if they are not numbered.

        That need not be the order of the numbers: an instance that was frozen before its producer was ready takes the
        place of the one that was to take its own.
        """
        ranks = {NO_OFFSET: -1} if self.is_numbered(place) else {}
        for rank, (_, value) in enumerate(self.logs[COMMITTED].get(place, [])):
            sent = self.sent.get(value)
            if sent is not None and sent.number is not None:
                ranks[sent.number] = rank
        return ranks

    def committed_readings(self) -> Iterable[Reading]:
        """All that read_committed readers got while the run went on."""
        for readings in self.readings[COMMITTED].values():
            yield from readings

    def fenced_at(self) -> dict[str, float]:
        """When each instance had certainly been replaced: a later one of its id was ready.

        Two whose initializations overlap don't fence one another here: nobody can say which came first.
        """
        by_id: dict[str, list[Initialized]] = defaultdict(list)
        for each in self.instances:
            by_id[each.transactional_id].append(each)
        return {
            each.instance: min((later.at for later in others if later.invoked >= each.at), default=NEVER)
            for others in by_id.values()
            for each in others
        }


def view_of(events: Iterable[AnyEvent]) -> View:
    """The view of a history."""
    view = View()
    for event in events:
        view.events += 1
        take = _TAKE.get(type(event))
        if take is not None:
            take(view, event)
    return view


def _transaction(view: View, key: str) -> Transaction:
    return view.transactions.setdefault(key, Transaction(key))


def _sent(view: View, event: Sent) -> None:
    view.sent[event.value] = event
    if event.transaction is not None:
        transaction = _transaction(view, event.transaction)
        transaction.instance = event.instance
        transaction.records.append(event)


def _ending(view: View, event: Ending) -> None:
    transaction = _transaction(view, event.transaction)
    transaction.instance = event.instance
    transaction.endings.append(event)


def _polled(view: View, event: Polled) -> None:
    readings = view.readings[event.isolation][event.reader]
    for topic, partition, offset, value in event.records:
        readings.append(Reading(event.reader, (topic, partition), offset, value, event.at))


def _logged(view: View, event: Logged) -> None:
    where = (event.topic, event.partition)
    view.logs[event.isolation][where] = event.records
    if event.is_complete:
        view.complete[event.isolation].add(where)


_TAKE: Final[dict[type[Any], Callable[[View, Any], None]]] = {
    Began: lambda view, event: view.settings.update(event.settings),
    Initialized: lambda view, event: view.instances.append(event),
    Sent: _sent,
    Acknowledged: lambda view, event: view.acknowledged.__setitem__(event.value, event.offset),
    Refused: lambda view, event: view.refused.__setitem__(event.value, event.error),
    OffsetsSent: lambda view, event: _transaction(view, event.transaction).offsets.append(event),
    Ending: _ending,
    Ended: lambda view, event: _transaction(view, event.transaction).ended.append(event),
    Polled: _polled,
    OffsetsSeen: lambda view, event: view.offsets_seen.append(event),
    Watermarks: lambda view, event: view.watermarks.append(event),
    Logged: _logged,
    Struck: lambda view, event: view.faults.append(event),
    PassedUnread: lambda view, event: view.unread.append(event),
}
