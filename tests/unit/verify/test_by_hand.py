"""Every anomaly in the smallest history that shows it, written by hand, beside the nearest one that shows nothing.

The planted ones of test_checking.py come in long histories of a model; what is here can be followed with a finger.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest

from oncelog.verify.checking import Kind, check
from oncelog.verify.history import (
    COMMITTED,
    UNCOMMITTED,
    Acknowledged,
    AnyEvent,
    Ended,
    Ending,
    Initialized,
    Isolation,
    Logged,
    OffsetsSeen,
    OffsetsSent,
    Polled,
    Refused,
    Sent,
    Watermarks,
)
from oncelog.verify.view import view_of


def sent(value: str, transaction: str | None = "k", **about: Any) -> Sent:
    """By ``a.1`` to partition 0 of ``t``, at 1."""
    fields: dict[str, Any] = {"at": 1.0, "instance": "a.1", "topic": "t", "partition": 0} | about
    return Sent(value=value, transaction=transaction, **fields)


def ended(commit: bool = True, *, at: float = 10.0) -> list[AnyEvent]:
    """Transaction ``k`` of ``a.1`` is ended, and its client is told so."""
    return [
        Ending(at=at, transaction="k", instance="a.1", commit=commit),
        Ended(at=at + 1, transaction="k", commit=commit, outcome="ok"),
    ]


def log(*values: str, partition: int = 0, topic: str = "t", is_complete: bool = True, **hidden: Any) -> list[AnyEvent]:
    """What stands there at the end, from offset 0 on; ``hidden_from`` is the isolation that does not see it."""
    isolations: tuple[Isolation, ...] = (COMMITTED, UNCOMMITTED)
    return [
        Logged(
            at=90.0,
            topic=topic,
            partition=partition,
            isolation=isolation,
            records=[] if isolation == hidden.get("hidden_from") else list(enumerate(values)),
            is_complete=is_complete,
        )
        for isolation in isolations
    ]


def polled(*records: tuple[int, str], at: float = 20.0) -> Polled:
    """A reader of committed records gets (offset, value)."""
    found = [("t", 0, offset, value) for offset, value in records]
    return Polled(at=at, reader="r", isolation=COMMITTED, invoked=at - 0.5, records=found)


def offsets(offset: int) -> list[AnyEvent]:
    """Transaction ``k`` sends the group's offset in ``t``, and the group shows it when all is over."""
    return [
        OffsetsSent(at=1.0, transaction="k", group="g", topic="t", offsets={0: offset}),
        OffsetsSeen(at=81.0, invoked=80.0, group="g", topic="t", offsets={0: offset}, is_final=True),
    ]


def replaced(at: float) -> list[AnyEvent]:
    """``a.2`` takes the place of ``a.1``."""
    return [
        Initialized(at=0.5, invoked=0.0, instance="a.1", transactional_id="a"),
        Initialized(at=at, invoked=at - 0.1, instance="a.2", transactional_id="a"),
    ]


def stands_still(waited: float) -> list[AnyEvent]:
    """A stable offset below the high watermark."""
    return [Watermarks(at=81.0, invoked=80.0, topic="t", partition=0, stable=0, high=1, waited=waited)]


class Pair(NamedTuple):
    """Two histories that differ in as little as may be."""

    guilty: list[AnyEvent]
    innocent: list[AnyEvent]


PLAIN = sent("x", None)
COPY = sent("y", topic="u", source=("t", 0, 0))
PAIRS: dict[Kind, Pair] = {
    Kind.ABORTED_READ: Pair(
        [sent("x"), *ended(commit=False), *log("x")],
        [sent("x"), *ended(commit=False), *log("x", hidden_from=COMMITTED)],
    ),
    Kind.READ_BEFORE_COMMIT: Pair(
        [sent("x"), polled((0, "x"), at=9.9), *ended(), *log("x")],
        [sent("x"), polled((0, "x"), at=10.1), *ended(), *log("x")],
    ),
    Kind.LOST_WRITE: Pair(
        [PLAIN, Acknowledged(at=2.0, value="x", offset=0), *log()],
        [PLAIN, Refused(at=2.0, value="x", error="timed out"), *log()],
    ),
    Kind.TORN_TRANSACTION: Pair(
        [sent("x"), sent("y", partition=1), *ended(), *log("x"), *log(partition=1)],
        [sent("x"), sent("y", partition=1), *ended(), *log("x"), *log("y", partition=1)],
    ),
    Kind.DUPLICATE: Pair(
        [sent("x"), *ended(), *log("x", "x")],
        [sent("x"), sent("y"), *ended(), *log("x", "y")],
    ),
    Kind.DIRTY_ORDER: Pair(
        [sent("x"), sent("y"), *ended(), polled((1, "y"), (0, "x")), *log("x", "y")],
        [sent("x"), sent("y"), *ended(), polled((0, "x"), (1, "y")), *log("x", "y")],
    ),
    Kind.DIVERGENT_READ: Pair(
        [PLAIN, Acknowledged(at=2.0, value="x", offset=3), *log("x")],
        [PLAIN, Acknowledged(at=2.0, value="x", offset=0), *log("x")],
    ),
    Kind.PHANTOM: Pair(
        [sent("x"), *ended(), *log("x", "z")],
        [sent("x"), sent("z"), *ended(), *log("x", "z")],
    ),
    Kind.OFFSET_APART: Pair(
        [PLAIN, sent("z", None), COPY, *offsets(2), *ended(), *log("x", "z"), *log("y", topic="u")],
        [PLAIN, sent("z", None), COPY, *offsets(1), *ended(), *log("x", "z"), *log("y", topic="u")],
    ),
    Kind.ZOMBIE_WRITE: Pair(
        [*replaced(at=0.9), sent("x"), *log("x", hidden_from=COMMITTED)],
        [*replaced(at=1.1), sent("x"), *log("x", hidden_from=COMMITTED)],
    ),
    Kind.STUCK_STABLE_OFFSET: Pair(stands_still(30.0), stands_still(29.0)),
}


def kinds(events: list[AnyEvent]) -> set[Kind]:
    return {violation.kind for violation in check(view_of(events))}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
def test_what_is_wrong_is_called_by_its_name_and_its_neighbour_is_not_accused(kind: Kind) -> None:
    assert kinds(PAIRS[kind].guilty) == {kind}
    assert kinds(PAIRS[kind].innocent) == set()


def test_a_copy_may_be_in_what_was_not_read() -> None:
    """Nobody can say that it is missing. One that is there although the offset is not is wrong all the same."""
    guilty = PAIRS[Kind.OFFSET_APART].guilty
    unread = [*guilty[:-2], *log(topic="u", is_complete=False)]
    assert kinds(unread) == set()
    early = [PLAIN, COPY, *offsets(0), *ended(), *log("x"), *log("y", topic="u", is_complete=False)]
    assert kinds(early) == {Kind.OFFSET_APART}


def test_what_was_copied_was_committed_and_stays() -> None:
    """Nobody was told how the source's transaction ended; but a copier had its record, so it can't have been aborted."""
    source = [sent("x"), Ending(at=10.0, transaction="k", instance="a.1", commit=True)]
    copy = sent("y", "l", at=20.0, topic="u", source=("t", 0, 0))
    copied = [copy, *(msgspec.structs.replace(event, transaction="l") for event in ended(at=21.0))]  # type: ignore[type-var]
    assert kinds([*source, *copied, *log("x"), *log("y", topic="u")]) == set()
    assert kinds([*source, *copied, *log("x", hidden_from=COMMITTED), *log("y", topic="u")]) == {Kind.LOST_WRITE}
    assert kinds([*source, *copied, *log(), *log("y", topic="u")]) == {Kind.LOST_WRITE}


def test_numbered_offsets_grow_as_their_records_stand() -> None:
    """An instance that was frozen before its producer was ready takes the place of the one that was to take its own, with lower
    numbers: no zombie. Offsets that go back behind what stands in the log are wrong, whatever their numbers."""
    events = [
        each
        for number in (2_000_038, 1_000_004)
        for each in (
            sent(f"x{number}", number=number),
            OffsetsSent(at=1.0, transaction="k", group="g", topic="t", offsets={0: number}),
        )
    ]

    def seen(*numbers: int) -> list[AnyEvent]:
        return [
            OffsetsSeen(at=20.5 + at, invoked=20.0 + at, group="g", topic="t", offsets={0: number})
            for at, number in enumerate(numbers)
        ]

    stands = [*ended(), *log("x2000038", "x1000004")]
    assert kinds([*events, *stands, *seen(-1, 2_000_038, 1_000_004)]) == set()
    assert kinds([*events, *stands, *seen(1_000_004, 2_000_038)]) == {Kind.DIRTY_ORDER}
    assert kinds([*events, *stands, *seen(2_000_038, -1)]) == {Kind.DIRTY_ORDER}
