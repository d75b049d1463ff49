"""The checks, examined: clean histories are never accused, every planted anomaly is found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.unit.verify.world import World, Wrong

from oncelog.verify.checking import Kind, check
from oncelog.verify.history import (
    COMMITTED,
    UNCOMMITTED,
    AnyEvent,
    Began,
    Ended,
    Ending,
    HistoryError,
    Initialized,
    Logged,
    OffsetsSeen,
    OffsetsSent,
    Sent,
    Watermarks,
    merge,
    read_events,
    write_events,
)
from oncelog.verify.view import Outcome, view_of

FINDS = {
    Wrong.SHOWS_ABORTED: Kind.ABORTED_READ,
    Wrong.SHOWS_OPEN: Kind.READ_BEFORE_COMMIT,
    Wrong.LOSES_COMMITTED: Kind.LOST_WRITE,
    Wrong.LOSES_PLAIN: Kind.LOST_WRITE,
    Wrong.TEARS: Kind.TORN_TRANSACTION,
    Wrong.REPEATS: Kind.DUPLICATE,
    Wrong.REPEATS_OFFSETS: Kind.DIVERGENT_READ,
    Wrong.LETS_ZOMBIES_WRITE: Kind.ZOMBIE_WRITE,
    Wrong.COMMITS_OFFSETS_AT_ABORT: Kind.OFFSET_APART,
    Wrong.LOSES_OFFSETS: Kind.OFFSET_APART,
    Wrong.STANDS_STILL: Kind.STUCK_STABLE_OFFSET,
    Wrong.READS_BACKWARDS: Kind.DIRTY_ORDER,
    Wrong.SKIPS: Kind.DIRTY_ORDER,
    Wrong.INVENTS: Kind.PHANTOM,
    Wrong.REORDERS: Kind.DIRTY_ORDER,
    Wrong.CHANGES: Kind.DIVERGENT_READ,
    Wrong.FORGETS_ENDS: Kind.DIRTY_ORDER,
    Wrong.REWINDS_OFFSETS: Kind.DIRTY_ORDER,
    Wrong.SHOWS_OPEN_TO_COPIERS: Kind.READ_BEFORE_COMMIT,
    Wrong.TAKES_BACK: Kind.LOST_WRITE,
    Wrong.COPIES_BACKWARDS: Kind.DIRTY_ORDER,
    Wrong.INVENTS_OFFSETS: Kind.PHANTOM,
    Wrong.INVENTS_READINGS: Kind.PHANTOM,
    Wrong.COMMITS_FOR_ZOMBIES: Kind.ZOMBIE_WRITE,
    Wrong.TAKES_LATE_BATCHES: Kind.ZOMBIE_WRITE,
    Wrong.HIDES_COMMITTED: Kind.DIVERGENT_READ,
}

#: What the same mistake may look like too: an open transaction that is shown may be aborted in the end.
ALSO = {
    Wrong.SHOWS_OPEN: {Kind.ABORTED_READ},
    Wrong.SHOWS_OPEN_TO_COPIERS: {Kind.ABORTED_READ, Kind.OFFSET_APART},
    Wrong.TAKES_BACK: {Kind.TORN_TRANSACTION},
}
#: Histories of 40 in which nobody can see it: what was told is consistent with another order of events.
MISSES_MAX = {Wrong.LOSES_COMMITTED: 5}


def kinds(events: list[AnyEvent]) -> set[Kind]:
    return {violation.kind for violation in check(view_of(events))}


@settings(max_examples=300, deadline=None)
@given(some.integers(0, 2**32), some.integers(1, 150))
def test_clean_histories_are_never_accused(seed: int, steps: int) -> None:
    events = World(random.Random(seed)).play(steps)
    assert check(view_of(events)) == []


@pytest.mark.parametrize("wrong", list(FINDS), ids=lambda wrong: wrong.name.lower())
def test_a_planted_anomaly_is_found(wrong: Wrong) -> None:
    """In every history of many in which it happened."""
    planted, missed, found = 0, [], set()
    for seed in range(40):
        world = World(random.Random(seed), wrong)
        events = world.play(150)
        if world.done:
            planted += 1
            seen = kinds(events)
            found |= seen
            if not seen & {FINDS[wrong], *ALSO.get(wrong, ())}:
                missed.append(seed)
    assert planted >= 10
    assert FINDS[wrong] in found
    assert len(missed) <= MISSES_MAX.get(wrong, 0), missed


def test_every_kind_is_planted() -> None:
    assert set(FINDS.values()) == set(Kind)
    assert set(FINDS) == set(Wrong) - {Wrong.NOTHING}


def test_the_bank_must_add_up() -> None:
    """Amounts are counted apart from transactions: half a transfer is found though both ends are unknown."""
    world = World(random.Random(1))
    sent: list[AnyEvent] = [
        Sent(at=1.0, instance="a.1", value="x", topic="source", partition=0, transaction="t", amount=-5),
        Sent(at=2.0, instance="a.1", value="y", topic="source", partition=1, transaction="t", amount=5),
        Ending(at=3.0, transaction="t", instance="a.1", commit=True),
    ]
    world.committed.add("t")
    world.append(("source", 0), "x", "t")
    found = check(view_of([*sent, *world.final()]))
    assert any("add up to -5" in violation.sentence for violation in found)
    world.append(("source", 1), "y", "t")
    assert check(view_of([*sent, *world.final()])) == []


def test_a_copied_aborted_record_is_an_aborted_read() -> None:
    world = World(random.Random(1))
    world.append(("source", 0), "x", "t")
    world.aborted.add("t")
    sent: list[AnyEvent] = [
        Sent(at=1.0, instance="a.1", value="x", topic="source", partition=0, transaction="t"),
        Sent(at=2.0, instance="c.1", value="y", topic="target", partition=0, transaction="u", source=("source", 0, 0)),
    ]
    assert Kind.ABORTED_READ in kinds([*sent, *world.final()])


def test_outcomes() -> None:
    def outcome(*calls: tuple[bool, str | None]) -> Outcome:
        events: list[AnyEvent] = [Sent(at=0, instance="i", value="v", topic="t", partition=0, transaction="k")]
        for commit, told in calls:
            events.append(Ending(at=1, transaction="k", instance="i", commit=commit))
            if told is not None:
                events.append(Ended(at=2, transaction="k", commit=commit, outcome=told))  # type: ignore[arg-type]
        return view_of(events).transactions["k"].outcome

    assert outcome() is Outcome.UNENDED
    assert outcome((True, "ok")) is Outcome.COMMITTED
    assert outcome((False, "ok")) is Outcome.ABORTED
    assert outcome((False, None)) is Outcome.UNENDED
    assert outcome((True, None)) is Outcome.UNKNOWN
    assert outcome((True, "unknown")) is Outcome.UNKNOWN
    assert outcome((True, "failed"), (False, "ok")) is Outcome.ABORTED
    assert outcome((True, "failed"), (False, "unknown")) is Outcome.UNKNOWN
    assert outcome((True, "unknown"), (False, "ok")) is Outcome.UNKNOWN


def test_a_stable_offset_is_only_stuck_after_the_time_for_it() -> None:
    def seen(waited: float) -> list[AnyEvent]:
        world = World(random.Random(1))
        ends = Watermarks(at=2, topic="t", partition=0, invoked=1, stable=3, high=5, waited=waited)
        return [*world.events, ends]

    assert kinds(seen(0)) == kinds(seen(39.9)) == set()
    assert kinds(seen(40.0)) == {Kind.STUCK_STABLE_OFFSET}


def test_histories_are_files(tmp_path: Path) -> None:
    events = World(random.Random(3)).play(60)
    write_events(events[::2], tmp_path / "a.jsonl")
    write_events(events[1::2], tmp_path / "b.jsonl")
    assert sorted(merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "all"), key=repr) == sorted(
        events, key=repr
    )
    with (tmp_path / "all").open("ab") as file:
        file.write(b'{"event":"sent","at"')  # its writer was killed
    assert len(list(read_events(tmp_path / "all"))) == len(events)
    (tmp_path / "bad").write_bytes(b'{"event":"sent"}\n')
    with pytest.raises(HistoryError, match="bad:1: not an event"):
        list(read_events(tmp_path / "bad"))


def history_of(
    *events: AnyEvent, logs: dict[tuple[str, int], list[tuple[int, str]]], unread: int = -1
) -> list[AnyEvent]:
    """With the same logs for both isolations; partition ``unread`` was not read to its end."""
    finals: list[AnyEvent] = [
        Logged(at=90, topic=topic, partition=index, isolation=isolation, records=records, is_complete=index != unread)
        for (topic, index), records in logs.items()
        for isolation in (COMMITTED, UNCOMMITTED)
    ]
    return [*events, *finals]


def transaction(key: str, *records: tuple[str, int], commit: str | None = "ok", at: float = 1.0) -> list[AnyEvent]:
    """One that ``a.1`` has written and told to commit."""
    found: list[AnyEvent] = [
        Sent(at=at, instance="a.1", value=value, topic="t", partition=partition, transaction=key)
        for value, partition in records
    ]
    found.append(Ending(at=at + 1, transaction=key, instance="a.1", commit=True))
    if commit is not None:
        found.append(Ended(at=at + 2, transaction=key, commit=True, outcome=commit))  # type: ignore[arg-type]
    return found


def test_a_partition_that_could_not_be_read_hides_nothing_of_the_others() -> None:
    """Half is missing from what was read whole: that is certain, whatever the other partition has."""
    events = transaction("k", ("x", 0), ("y", 1))
    assert kinds(history_of(*events, logs={("t", 0): [], ("t", 1): []}, unread=1)) == {Kind.LOST_WRITE}
    assert kinds(history_of(*events, logs={("t", 0): [], ("t", 1): [(0, "y")]}, unread=1)) == {Kind.TORN_TRANSACTION}
    assert kinds(history_of(*events, logs={("t", 0): [(0, "x")], ("t", 1): []}, unread=1)) == set()


def test_an_unknown_outcome_may_be_either_but_not_both() -> None:
    events = transaction("k", ("x", 0), ("y", 1), commit="unknown")
    both: dict[tuple[str, int], list[tuple[int, str]]] = {("t", 0): [(0, "x")], ("t", 1): [(0, "y")]}
    assert kinds(history_of(*events, logs=both)) == set()
    assert kinds(history_of(*events, logs={("t", 0): [], ("t", 1): []})) == set()
    assert kinds(history_of(*events, logs={**both, ("t", 0): []})) == {Kind.TORN_TRANSACTION}
    killed = transaction("k", ("x", 0), ("y", 1), commit=None)
    assert (
        kinds(history_of(*killed, logs=both)) == kinds(history_of(*killed, logs={("t", 0): [], ("t", 1): []})) == set()
    )


def test_a_record_that_was_late_but_before_its_successor_is_no_zombie() -> None:
    """Only the order in the partition tells; what a replaced instance had sent before may have arrived before."""
    begun: list[AnyEvent] = [
        Initialized(at=1, instance="a.1", transactional_id="a", invoked=0),
        Initialized(at=11, instance="a.2", transactional_id="a", invoked=10),
        Sent(at=5, instance="a.1", value="old", topic="t", partition=0, transaction="k"),
        Sent(at=12, instance="a.2", value="new", topic="t", partition=0, transaction="l"),
    ]

    def found(*values: str) -> set[Kind]:
        log = list(enumerate(values))
        finals = history_of(*begun, logs={})
        finals.append(Logged(at=90, topic="t", partition=0, isolation=UNCOMMITTED, records=log, is_complete=True))
        return kinds(finals)

    assert found("old", "new") == set()
    assert found("new", "old") == {Kind.ZOMBIE_WRITE}
    overlapping = Initialized(at=11, instance="a.2", transactional_id="a", invoked=0.5)
    begun[1] = overlapping
    assert found("new", "old") == set(), "nobody can say which of the two came first"


def test_offsets_that_stay_in_a_transaction_are_stuck() -> None:
    def seen(waited: float) -> list[AnyEvent]:
        world = World(random.Random(1))
        offsets = OffsetsSeen(at=2, group="g", topic="t", invoked=1, offsets={0: -1}, waited=waited)
        return [*world.events, offsets]

    assert kinds(seen(0)) == kinds(seen(39.9)) == set()
    assert kinds(seen(40.0)) == {Kind.STUCK_STABLE_OFFSET}


def test_a_broker_of_several_may_answer_once_with_what_it_knew() -> None:
    """One that was frozen. What has gone back and stays there is lost all the same, and one broker alone has no excuse."""

    def looked(brokers: int, *highs: int) -> set[Kind]:
        ends: list[AnyEvent] = [Began(at=0, settings={"brokers": brokers})]
        for at, high in enumerate(highs):
            ends.append(Watermarks(at=at + 0.5, topic="t", partition=0, invoked=float(at), stable=high, high=high))
            offsets = {0: high}
            ends.append(OffsetsSeen(at=at + 0.5, group="g", topic="t", invoked=float(at), offsets=offsets))
            ends.append(OffsetsSent(at=0, transaction=f"k{high}", group="g", topic="t", offsets=offsets))
            ends.append(Ending(at=0, transaction=f"k{high}", instance="a.1", commit=True))
        return kinds(ends)

    assert looked(1, 5, 7, 9) == looked(3, 5, 7, 9) == set()
    assert looked(1, 5, 3, 9) == {Kind.DIRTY_ORDER}
    assert looked(3, 5, 3, 9) == set()
    assert looked(3, 5, 3, 4) == {Kind.DIRTY_ORDER}
