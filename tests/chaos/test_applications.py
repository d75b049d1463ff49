"""Whole applications under random faults: each input's result exactly once (applications.py), and the count itself examined."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chaos.accounts import Books, Seen, wrongs
from tests.chaos.applications import Torment, report
from tests.chaos.shop import Entry

pytestmark = [pytest.mark.client("confluent-kafka")]

SECONDS, SEED = 15.0, 3
#: For the long one: ONCELOG_TORMENT_MINUTES, ONCELOG_TORMENT_SEED.
MINUTES = float(os.environ.get("ONCELOG_TORMENT_MINUTES", "10"))
LONG_SEED = int(os.environ.get("ONCELOG_TORMENT_SEED", "1"))


def tormented(folder: Path, seconds: float, seed: int) -> None:
    with Torment(folder, seed) as torment:
        found, strikes = torment.run(seconds)
        assert not found, report(torment, found, strikes)
        assert strikes and torment.counts["transactions"] > 0 and torment.counts["results"] > 0


def test_every_result_is_there_once_whatever_is_struck(tmp_path: Path) -> None:
    """One fixed seed, for some seconds."""
    tormented(tmp_path, SECONDS, SEED)


@pytest.mark.soak
def test_every_result_is_there_once_for_long(tmp_path: Path) -> None:
    tormented(tmp_path, MINUTES * 60, LONG_SEED)


# -- the count itself -------------------------------------------------------------------------------------------------


def record(offset: int, name: str, amount: int = 0, total: int = 0) -> Seen:
    return Seen(0, offset, "k", Entry(name, amount, total))


def right() -> Books:
    """Two inputs of one key and a poison one between them; one row of the outbox."""
    inputs = [record(0, "in-1", 5), record(1, "in-2", -1), record(2, "in-3", 7)]
    totals = [record(0, "in-1", 5, 5), record(2, "in-3", 7, 12)]
    orders, slips = [record(4, "row-1")], [record(7, "in-1"), record(8, "in-3"), record(9, "row-1")]
    return Books(inputs, totals, [record(0, "in-2", -1)], orders, slips, {"row-1": "k"}, ["in-1", "in-3", "row-1"])


FED = {"in-1": (0, 0), "in-2": (0, 1), "in-3": (0, 2)}


def test_nothing_is_wrong_where_all_is_right() -> None:
    assert wrongs(right(), FED) == []


PLANTED: dict[str, tuple[Callable[[Books], Books], str]] = {
    "a lost result": (lambda it: it._replace(totals=it.totals[:1]), "totals: lost 1: in-3 (in[0]@2)"),
    "a doubled result": (
        lambda it: it._replace(slips=[*it.slips, record(11, "in-1")]),
        "slips: doubled 1: in-1 (in[0]@0, slips[0]@7, slips[0]@11)",
    ),
    "a result of nothing": (
        lambda it: it._replace(orders=[*it.orders, record(5, "row-2")]),
        "orders: from nowhere 1: row-2 (-, orders[0]@5)",
    ),
    "a poison record that has an effect": (
        lambda it: it._replace(totals=[it.totals[0], record(1, "in-2", -1, 4), it.totals[1]]),
        "totals: from nowhere 1: in-2 (in[0]@1, totals[0]@1)",
    ),
    "a lost dead letter": (lambda it: it._replace(dead=[]), "dead: lost 1: in-2 (in[0]@1)"),
    "a doubled effect": (
        lambda it: it._replace(stored=[*it.stored, "in-3"]),
        "the sink's table: doubled 1: in-3 (in[0]@2)",
    ),
    "a lost effect": (lambda it: it._replace(stored=it.stored[:2]), "the sink's table: lost 1: row-1 (-)"),
    "a wrong sum": (
        lambda it: it._replace(totals=[it.totals[0], record(2, "in-3", 7, 7)]),
        "the sums of k: of 2 outputs to 12 number 1 should be in-3 (in[0]@2) = 12, and is in-3 = 7 (totals[0]@2)",
    ),
    "results in another order": (
        lambda it: it._replace(totals=[record(0, "in-3", 7, 12), record(2, "in-1", 5, 5)]),
        "the sums of k: of 2 outputs to 12 number 0 should be in-1 (in[0]@0) = 5, and is in-3 = 12 (totals[0]@0)",
    ),
    "rows in another order": (
        lambda it: it._replace(orders=[record(4, "row-0"), record(5, "row-1")], rows={"row-1": "k", "row-0": "k"}),
        "orders: those of k are not in the order of their rows",
    ),
    "an input that was acknowledged and is gone": (
        lambda it: it._replace(inputs=it.inputs[:2]),
        "the inputs themselves are not as they were acknowledged: ['in-3']",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    plant, told = PLANTED[name]
    assert told in wrongs(plant(right()), FED)
