"""The simulated worlds that ``make test`` plays: some fixed seeds, and all that failed once. ``make soak`` plays many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.__main__ import kept_seeds, run_seed

ROOT = Path(__file__).resolve().parents[2]
#: Enough for each kind of fault and client to be there often.
SEEDS = range(1, 25)
STEPS = 4_000


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_seed(seed: int) -> None:
    outcome = run_seed(seed, STEPS)
    assert not outcome.failure, outcome.trace


@pytest.mark.parametrize(("seed", "steps"), kept_seeds())
def test_seed_that_failed_once(seed: int, steps: int) -> None:
    outcome = run_seed(seed, steps)
    assert not outcome.failure, outcome.trace


@pytest.mark.parametrize("seed", [7, 8])
def test_a_seed_is_always_the_same_world(seed: int) -> None:
    """Here, a second time, and in other processes, where sets have other orders: line by line of the trace."""
    first = run_seed(seed, 2_000)
    assert run_seed(seed, 2_000) == first
    program = f"from tests.simulation.__main__ import run_seed; print(run_seed({seed}, 2_000).digest)"
    for hashes in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == first.digest


def test_the_fixed_seeds_meet_what_they_are_about() -> None:
    """A world in which nothing of it happens proves nothing."""
    met: dict[str, int] = {}
    for seed in SEEDS:
        for name, count in run_seed(seed, STEPS).counts.items():
            met[name] = met.get(name, 0) + count
    assert not [name for name, count in met.items() if not count]
