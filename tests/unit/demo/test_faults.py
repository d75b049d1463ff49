"""The plan of the faults: the same for the same seed, each kind as often as promised, far enough apart."""

from collections import Counter
from itertools import pairwise

import pytest

from oncelog.demo.faults import Kind, Moment, Target, plan_faults


def test_the_same_seed_plans_the_same_faults():
    assert plan_faults(20_000, 7) == plan_faults(20_000, 7)
    assert plan_faults(20_000, 7) != plan_faults(20_000, 8)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize(
    ("records", "kinds"),
    [
        (20_000, {Kind.WORKER_KILLED: 4, Kind.ZOMBIE: 2, Kind.REPLY_CUT: 6, Kind.BROKER_KILLED: 3}),
        (400, {Kind.WORKER_KILLED: 1, Kind.ZOMBIE: 1, Kind.REPLY_CUT: 2, Kind.BROKER_KILLED: 1}),
    ],
)
def test_every_kind_comes_in_order_and_before_the_end(seed, records, kinds):
    plan = plan_faults(records, seed)
    places = [fault.at for fault in plan]
    assert Counter(fault.kind for fault in plan) == kinds
    assert places == sorted(places)
    # Two batches at least between two faults (a batch is a two-hundredth part), and time left after the last.
    assert min(later - earlier for earlier, later in pairwise(places)) >= records // 100
    assert places[0] >= records * 0.04
    assert places[-1] <= records * 0.88


def test_replies_of_produce_and_of_commit_are_cut_alike():
    cuts = Counter(fault.target for fault in plan_faults(20_000, 1) if fault.kind is Kind.REPLY_CUT)
    assert cuts == {Target.PRODUCE: 3, Target.COMMIT: 3}


def test_the_broker_dies_before_and_after_it_answered():
    moments = {fault.moment for fault in plan_faults(20_000, 1) if fault.kind is Kind.BROKER_KILLED}
    assert moments == {Moment.REQUEST, Moment.REPLY}
