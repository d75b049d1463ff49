"""The tests, run against oncelog with its core compiled: ``make compiled``.

    python -m tests.compiled [--short] [pytest's arguments ...]

Builds the core (building.py), sees to it that it is the compiled one that runs, and runs the tests but for those that look at
sources, and those in ``LEFT_OUT``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.compiled.building import ROOT, built, check, variables

#: tests/house and tests/mutants look at sources, tests/simulation gives the storage another disk: make test runs them.
WHOLE = (
    "tests/unit", "tests/properties", "tests/stories", "tests/contracts", "tests/conformance",
    "tests/process", "tests/chaos", "tests/testing",
)  # fmt: skip
SHORT = (
    "tests/unit/engine", "tests/unit/broker", "tests/unit/model", "tests/unit/wire", "tests/properties", "tests/stories",
    "tests/contracts", "tests/conformance/test_confluent.py", "tests/conformance/test_rules_on_the_wire.py",
)  # fmt: skip


def command(*arguments: str) -> list[str]:
    """The command that tests the compiled core."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def main() -> int:
    """The command line; pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compiled", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what make test runs")
    asked, more = parser.parse_known_args()
    sys.stdout.write(f"oncelog with a compiled core: {built()}\n")
    check()
    done = subprocess.run(
        command(*(SHORT if asked.short else WHOLE), *more), cwd=ROOT, env={**os.environ, **variables()}, check=False
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
