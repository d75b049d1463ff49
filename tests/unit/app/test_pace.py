"""How soon a batch may end before its time: by the commits before it. Times are made up, no clock runs."""

from __future__ import annotations

import math
import threading
from typing import Any, cast

import pytest

from oncelog.app import App, Session
from oncelog.app.errors import Undone
from oncelog.app.exchange import Exchange, Name, Outcome
from oncelog.app.intake import Intake, Taken
from oncelog.app.meters import Meters
from oncelog.app.pace import PAUSE_TIMES, Pace
from oncelog.app.records import Record
from oncelog.app.settings import Cluster, Delivery, Limits
from oncelog.app.weaker import WeakExchange

PLACE = ("t", 0)
RECORD = Record(*PLACE, 0, None, b"value")


def test_before_the_first_commit_nothing_is_early() -> None:
    assert Pace(is_early=True).early_at == math.inf


def test_commits_take_a_tenth_of_the_time_at_most() -> None:
    pace, now = Pace(is_early=True), 100.0
    for _ in range(50):
        pace.committed(now, now + 0.003)
        now = pace.early_at  # as early as allowed, each time
    assert now == pytest.approx(100.0 + 50 * 0.003 * (1 + PAUSE_TIMES))
    assert 1 / (1 + PAUSE_TIMES) <= 0.1


def test_one_slow_commit_is_no_slow_cluster_but_three_are() -> None:
    pace = Pace(is_early=True)
    for _ in range(5):
        pace.committed(0.0, 0.002)
    pauses = []
    for _ in range(3):
        pace.committed(0.0, 0.5)
        pauses.append(pace.early_at - 0.5)
    assert pauses == pytest.approx([0.02, 0.02, 5.0])
    for _ in range(3):
        pace.committed(0.0, 0.002)
    assert pace.early_at - 0.002 == pytest.approx(0.02)


def test_after_what_failed_the_interval_counts_until_a_commit() -> None:
    pace = Pace(is_early=True)
    pace.committed(0.0, 0.002)
    pace.undone()
    assert pace.early_at == math.inf
    pace.committed(1.0, 1.002)
    assert pace.early_at == pytest.approx(1.022)


def test_off_means_off() -> None:
    pace = Pace(is_early=False)
    pace.committed(0.0, 0.0)
    assert pace.early_at == math.inf


# -- who tells it -----------------------------------------------------------------------------------------------------


class Member:
    """An intake that has one record, and notes from when on a batch may end early."""

    def __init__(self) -> None:
        self.early_at: list[float] = []

    def take(self, records_max: int, seconds_max: float, stop: threading.Event, early_at: float) -> Taken:
        del records_max, seconds_max, stop
        self.early_at.append(early_at)
        return Taken([RECORD], {PLACE: 1}, {PLACE: 1})

    def metadata(self, assignments: object) -> bytes:
        del assignments
        return b""

    def owned(self) -> dict[tuple[str, int], int]:
        return {PLACE: 1}

    def rewind(self) -> dict[tuple[str, int], int]:
        return {PLACE: 0}

    def commit(self, offsets: object) -> None:
        del offsets

    def read_ahead(self) -> None:
        pass

    settle = read_ahead


def exchanges(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, delivery: Delivery
) -> tuple[Exchange, Member, list[bool]]:
    """One that commits, or fails where the list says so; what it does with brokers is left out."""
    common = (Name("a", "i", 0), Cluster("127.0.0.1:1", {"log_level": 0}), ["t"], limits, Meters())
    events = threading.Event(), threading.Event()
    exactly_once = delivery is Delivery.EXACTLY_ONCE
    made = Exchange(*common, *events) if exactly_once else WeakExchange(*common, *events, delivery)
    member, failures = Member(), list[bool]()

    def attempt(*_: object) -> None:
        if failures and failures.pop(0):
            raise Undone("no")

    monkeypatch.setattr(made, "_intake", cast(Intake, member))
    for name in ("_attempt", "_flush", "_end_for_certain"):
        if hasattr(made, name):
            monkeypatch.setattr(made, name, attempt if name != "_end_for_certain" else lambda _: None)
    return made, member, failures


@pytest.mark.parametrize("delivery", list(Delivery))
@pytest.mark.parametrize("commit_early", [True, False])
def test_a_commit_lets_the_next_batch_end_early(
    monkeypatch: pytest.MonkeyPatch, delivery: Delivery, commit_early: bool
) -> None:
    exchange, member, _ = exchanges(monkeypatch, Limits(commit_early=commit_early), delivery)
    for _ in range(3):
        exchange.take()
        assert exchange.commit([RECORD], []) is Outcome.COMMITTED
    assert member.early_at[0] == math.inf
    assert [early_at < math.inf for early_at in member.early_at[1:]] == [commit_early] * 2


@pytest.mark.parametrize("delivery", [Delivery.EXACTLY_ONCE, Delivery.AT_LEAST_ONCE])
def test_an_abort_makes_the_next_batch_wait_for_its_time(monkeypatch: pytest.MonkeyPatch, delivery: Delivery) -> None:
    """Else what fails for a while would be tried more often than without."""
    exchange, member, failures = exchanges(monkeypatch, Limits(), delivery)
    outcomes = []
    for fails in (False, True, False, False):
        exchange.take()
        failures[:] = [fails]
        outcomes.append(exchange.commit([RECORD], []))
    assert [str(each) for each in outcomes] == ["committed", "aborted", "committed", "committed"]
    assert [early_at < math.inf for early_at in member.early_at] == [False, True, False, True]


def test_it_is_on_unless_it_is_switched_off() -> None:
    assert App("a").limits.commit_early
    assert not App("a", commit_early=False).limits.commit_early
    session: dict[str, Any] = {"bootstrap": "127.0.0.1:1", "app": "a", "topics": ["t"]}
    assert Session(**session)._limits.commit_early
    assert not Session(**session, commit_early=False)._limits.commit_early
