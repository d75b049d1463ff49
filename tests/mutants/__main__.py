"""Who examines the checks: breaks the code in many small ways and says which check notices each. ``make mutants``.

    python -m tests.mutants [--all] [--jobs 2] [--only WORD] [--checks NAME,NAME]
    python -m tests.mutants --torment [--only WORD]

Each breakage is put into a copy of the sources; the checks run against the copy, the quickest first, until one fails. ``--all``
lets all of them run, for the whole table. A breakage that no check notices, or that does not fit the sources, is an error.
``--torment`` asks another question: which breakages of applications does half a minute of ``make chaos-apps`` notice?
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.mutants.applications import APPLICATIONS
from tests.mutants.breakages import BREAKAGES, Breakage
from tests.mutants.forgetting import FORGETTING
from tests.mutants.packing import PACKING

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "oncelog"
#: Where the table stands in docs/proof.md.
TABLE_BEGIN, TABLE_END = "<!-- table of make mutants -->", "<!-- end of the table -->"
#: A check that takes longer does not end: the breakage is noticed.
SECONDS_MAX = 1_200

#: Shown of what a torment finds.
_WRONGS_MAX = 4

_PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
CHECKS = {
    "stories": [*_PYTEST, "tests/stories"],
    "unit": [*_PYTEST, "tests/unit/engine", "tests/unit/broker/test_lane.py", "tests/unit/model"],
    "properties": [*_PYTEST, "tests/properties/test_engine.py"],
    "compaction": [*_PYTEST, "tests/properties/test_compaction.py", "tests/contracts/test_compacting.py"],
    "simulation": [sys.executable, "-m", "tests.simulation", "--seeds", "40", "--steps", "4000", "--examine"],
    "contracts": [*_PYTEST, *(f"tests/contracts/test_{name}.py" for name in ("storage", "forged", "failed_sync"))],
}


class Result(NamedTuple):
    """Which checks noticed a breakage, which did not, and how long that took."""

    breakage: Breakage
    noticed: list[str]
    unnoticed: list[str]
    seconds: float


def broken(breakage: Breakage) -> str:
    """The broken source. ValueError if the breakage does not fit."""
    text = (SOURCES / breakage.file).read_text(encoding="utf-8")
    if text.count(breakage.before) != 1:
        raise ValueError(f"{breakage.name}: its piece of {breakage.file} is there {text.count(breakage.before)} times")
    return text.replace(breakage.before, breakage.after)


@contextmanager
def broken_copy(breakage: Breakage) -> Iterator[Path]:
    """The folder to import the broken oncelog from."""
    with tempfile.TemporaryDirectory(prefix="oncelog-mutant-") as folder:
        copy = Path(folder, "src", "oncelog")
        shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / breakage.file).write_text(broken(breakage), encoding="utf-8")
        yield copy.parent


def examine(breakage: Breakage, *, is_whole: bool) -> Result:
    """Run the checks against a broken copy."""
    started = time.monotonic()
    noticed: list[str] = []
    unnoticed: list[str] = []
    with broken_copy(breakage) as sources:
        for name, command in checks_of(breakage).items():
            (noticed if run(command, sources) is not None else unnoticed).append(name)
            if noticed and not is_whole:
                break
    return Result(breakage, noticed, unnoticed, time.monotonic() - started)


def checks_of(breakage: Breakage) -> dict[str, list[str]]:
    """By name: what may notice it."""
    if breakage.test:
        return {breakage.test.rpartition("::")[2]: [*_PYTEST, breakage.test]}
    is_storage = breakage.file.startswith("storage")
    return {name: command for name, command in CHECKS.items() if is_storage or name != "contracts"}


def run(command: list[str], sources: Path) -> str | None:
    """What the check says if it fails with those sources, None if it passes."""
    environment = os.environ | {
        "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(sources.parent / ".hypothesis"),
    }
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS_MAX} s"
    return done.stdout + done.stderr if done.returncode else None


def torment(breakages: Sequence[Breakage]) -> int:
    """Prints of each breakage what the tormented application shows of it; the exit code is 0."""
    command = [sys.executable, "-m", "tests.chaos.applications", "--minutes", "0.5", "--seed", "1"]
    for breakage in breakages:
        with broken_copy(breakage) as sources:
            said = run(command, sources)
        wrongs = [line for line in (said or "").splitlines() if line.startswith(("WRONG", "no end"))]
        _say(f"{breakage.name:<60} {'SEEN' if said is not None else 'not seen'}")
        for wrong in wrongs[:_WRONGS_MAX]:
            _say(f"    {wrong[:300]}")
    return 0


def main() -> int:
    """The command line; the exit code is 1 if a breakage was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="run all checks for each, not only up to the first that fails"
    )
    parser.add_argument("--jobs", type=int, default=2, help="breakages at once")
    parser.add_argument("--only", default="", help="breakages whose name or file has this in it")
    parser.add_argument("--checks", default="", help=f"only these, by comma: {', '.join(CHECKS)}")
    parser.add_argument("--write", action="store_true", help="put the table into docs/proof.md")
    parser.add_argument("--torment", action="store_true", help="show breakages of applications to make chaos-apps")
    chosen = parser.parse_args()
    for name in set(CHECKS) - set(chosen.checks.split(",")) if chosen.checks else ():
        del CHECKS[name]
    every = (*BREAKAGES, *FORGETTING, *PACKING, *APPLICATIONS)
    breakages = [one for one in every if chosen.only in one.name or chosen.only in one.file]
    for one in breakages:
        broken(one)
    if chosen.torment:
        return torment([one for one in APPLICATIONS if one in breakages])
    survivors, started, results = 0, time.monotonic(), []
    with ThreadPoolExecutor(chosen.jobs) as pool:
        _check_checks(pool, breakages)
        for result in pool.map(lambda one: examine(one, is_whole=chosen.all), breakages):
            survivors += not result.noticed
            results.append(result)
            by = ", ".join(result.noticed) or "NOBODY"
            not_by = (
                f"; not by {', '.join(result.unnoticed)}" if result.noticed and chosen.all and result.unnoticed else ""
            )
            _say(f"{result.breakage.name:<60} noticed by {by}{not_by} ({result.seconds:.0f} s)")
    minutes = (time.monotonic() - started) / 60
    said = f"{len(breakages)} breakages, {survivors} not noticed, in {minutes:.0f} minutes"
    _say(said)
    if chosen.write:
        write_table(results, said)
    return 1 if survivors else 0


def write_table(results: Sequence[Result], said: str) -> None:
    """Put the results between the two marks in docs/proof.md. Breakages with a test of their own have no row."""
    page = ROOT / "docs" / "proof.md"
    head = ["breakage", *CHECKS]
    rows = [head, ["---"] * len(head)]
    for result in results:
        if result.breakage.test:
            continue
        marks = [("seen" if name in result.noticed else "–" if name in result.unnoticed else "") for name in CHECKS]
        rows.append([result.breakage.name, *marks])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(TABLE_BEGIN)[0], text.partition(TABLE_END)[2]
    page.write_text(f"{before}{TABLE_BEGIN}\n\n`{said}`\n\n{table}\n\n{TABLE_END}{after}", encoding="utf-8")


def _check_checks(pool: ThreadPoolExecutor, breakages: list[Breakage]) -> None:
    """Without a breakage every check must pass, or it would notice anything."""
    checks = {name: command for one in breakages for name, command in checks_of(one).items()}
    for number, name, said in zip(
        range(1, len(checks) + 1), checks, pool.map(lambda command: run(command, SOURCES.parent), checks.values())
    ):
        if said is not None:
            pool.shutdown(cancel_futures=True)
            raise SystemExit(f"{name} fails without any breakage:\n{said[-3000:]}")
        _say(f"{number} of {len(checks)} checks pass without any breakage: {name}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
