"""Run simulated worlds for a while: ``python -m tests.simulation --minutes 60 --seed 1 --jobs 2``.

Every minute a line says how far it is. A seed that fails is shown with the end of its trace and how to play it again, and is
kept in tests/simulation/seeds.txt, which ``make test`` replays.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from tests.simulation.world import STEPS, World

SEEDS = Path(__file__).with_name("seeds.txt")
_SAY_SECONDS = 60


class Outcome(NamedTuple):
    """What became of one seed; ``failure`` is empty if all held. The same seed has the same ``digest`` everywhere."""

    seed: int
    steps: int
    counts: dict[str, int]
    digest: str
    failure: str = ""
    trace: str = ""


def run_seed(seed: int, steps: int = STEPS) -> Outcome:
    """One world."""
    world = World(seed, steps=steps)
    what = trace = ""
    try:
        world.run()
    except Exception as error:  # noqa: BLE001
        # Whatever it is, it belongs to this seed: it is shown with its trace.
        what = f"{type(error).__name__}: {error}"
        trace = world.events.trace() + "\n" + "".join(traceback.format_exception(error)[-8:])
    digest = hashlib.sha256(world.events.trace().encode()).hexdigest()
    return Outcome(seed, world.events.steps, world.counts(), digest, what, trace)


def kept_seeds() -> list[tuple[int, int]]:
    """Seeds that failed once, with the steps that they failed with."""
    lines = SEEDS.read_text(encoding="utf-8").splitlines()
    kept = [line.partition("#")[0].split() for line in lines]
    return [(int(words[0]), int(words[1])) for words in kept if words]


def keep(outcome: Outcome, steps: int) -> None:
    """Remember a failing seed."""
    if (outcome.seed, steps) not in kept_seeds():
        with SEEDS.open("a", encoding="utf-8") as file:
            file.write(f"{outcome.seed} {steps}  # {outcome.failure.splitlines()[0][:100]}\n")


def how_to_replay(outcome: Outcome, steps: int) -> str:
    """The command."""
    return f"python -m tests.simulation --seed {outcome.seed} --seeds 1 --steps {steps}"


def main() -> int:
    """The command line; the exit code is 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the next ones follow")
    parser.add_argument("--seeds", type=int, default=10**12, help="how many seeds at most")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each world before it is healed")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument(
        "--examine",
        action="store_true",
        help="all seeds, however long; stop at the first that fails, and don't keep it",
    )
    chosen = parser.parse_args()
    started, total = time.monotonic(), Totals()
    say_at = started + _SAY_SECONDS
    for outcome in _run_all(chosen, float("inf") if chosen.examine else started + chosen.minutes * 60):
        total.add(outcome)
        if outcome.failure:
            if chosen.examine:
                _say(f"seed {outcome.seed}: {outcome.failure}")
                return 1
            keep(outcome, chosen.steps)
            _say(outcome.trace if total.failed == 1 else "")
            _say(f"seed {outcome.seed} failed after {outcome.steps} steps: {outcome.failure.splitlines()[0]}")
            _say(f"to play it again: {how_to_replay(outcome, chosen.steps)}")
        if time.monotonic() >= say_at:
            say_at += _SAY_SECONDS
            _say(total.progress(time.monotonic() - started, outcome.seed))
    _say(total.line(time.monotonic() - started))
    return 1 if total.failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run_all(chosen: argparse.Namespace, deadline: float) -> Iterator[Outcome]:
    seeds = iter(range(chosen.seed, chosen.seed + chosen.seeds))
    if chosen.jobs == 1:
        for seed in seeds:
            yield run_seed(seed, chosen.steps)
            if time.monotonic() > deadline:
                return
        return
    with ProcessPoolExecutor(chosen.jobs) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            while len(running) < 2 * chosen.jobs and time.monotonic() < deadline and (seed := next(seeds, None)):
                running.add(pool.submit(run_seed, seed, chosen.steps))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


class Totals:
    """What all worlds did together."""

    def __init__(self) -> None:
        self.seeds = self.steps = self.failed = 0
        self.counts: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """One more world."""
        self.seeds += 1
        self.steps += outcome.steps
        self.failed += outcome.failure != ""
        for name, count in outcome.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def progress(self, seconds: float, seed: int) -> str:
        """In one short line."""
        return f"{seconds / 60:.0f} min: {self.seeds:,} seeds up to {seed}, {self.steps:,} steps, {self.failed} failed"

    def line(self, seconds: float) -> str:
        """For people."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        rate = f"{self.steps:,} steps in {seconds:.0f} s ({self.steps / seconds * 60:,.0f} a minute)"
        return f"{self.seeds:,} seeds, {rate}: {counts}; {self.failed} failed"


if __name__ == "__main__":
    sys.exit(main())
