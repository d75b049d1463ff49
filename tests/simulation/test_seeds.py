"""The simulated worlds that ``make test`` plays: some fixed seeds, and all that failed once. ``make soak`` plays many more."""

from __future__ import annotations

import pytest
from tests.simulation.__main__ import kept_seeds, run_seed
from tests.simulation.world import World

#: Enough for each kind of fault and client to be there often.
SEEDS = range(1, 21)
STEPS = 4_000


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_seed(seed: int) -> None:
    outcome = run_seed(seed, STEPS)
    assert not outcome.failure, outcome.trace


@pytest.mark.parametrize("seed", kept_seeds())
def test_seed_that_failed_once(seed: int) -> None:
    outcome = run_seed(seed)
    assert not outcome.failure, outcome.trace


def test_a_seed_is_always_the_same_world() -> None:
    worlds = [World(7, steps=2_000), World(7, steps=2_000)]
    for world in worlds:
        world.run()
    first, second = ((world.events.steps, world.counts(), list(world.history.values)) for world in worlds)
    assert first == second
