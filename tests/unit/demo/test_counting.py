"""What is lost, duplicated, unknown; and that every single flaw breaks the verdict."""

from collections import Counter
from dataclasses import replace

import pytest

from oncelog.demo.counting import Count, compare
from oncelog.demo.run import Result
from oncelog.demo.worker import Semantics


def test_lost_duplicated_and_unknown_are_told_apart():
    orders = Counter(["a", "b", "c", "d"])
    invoices = Counter({"a": 1, "b": 3, "c": 1, "x": 2})
    count = compare(orders, invoices, in_log=10)
    assert count == Count(sent=4, delivered=3, lost=1, duplicated=2, unknown=2, in_log=10)
    assert count.aborted == 10 - 7


def test_a_clean_run_has_neither():
    orders = Counter(["a", "b"])
    assert compare(orders, orders, in_log=2) == Count(sent=2, delivered=2, lost=0, duplicated=0, unknown=0, in_log=2)


CLEAN = Count(sent=2, delivered=2, lost=0, duplicated=0, unknown=0, in_log=2)
RESULT = Result(
    semantics=Semantics.EXACTLY_ONCE,
    count=CLEAN,
    seconds=1.0,
    worker_restarts=1,
    broker_restarts=1,
    zombies=1,
    zombies_fenced=1,
    replies_cut=2,
    faults_left=0,
)


def test_a_clean_run_under_all_faults_is_exactly_once():
    assert RESULT.is_exactly_once


@pytest.mark.parametrize(
    "flaw",
    [
        {"count": replace(CLEAN, lost=1)},
        {"count": replace(CLEAN, duplicated=1)},
        {"count": replace(CLEAN, unknown=1)},
        {"count": replace(CLEAN, sent=0)},
        {"zombies_fenced": 0},
        {"zombies": 0, "zombies_fenced": 0},
        {"faults_left": 1},
    ],
    ids=str,
)
def test_each_flaw_alone_breaks_the_verdict(flaw):
    assert not replace(RESULT, **flaw).is_exactly_once
