"""What a newcomer meets first must work: the README's example, the quick commands, the version."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.house.tree import ROOT

import oncelog

#: Modules that cost time to import and that no help text needs.
SLOW = {"asyncio", "uvloop", "kio", "prometheus_client", "confluent_kafka"}


def python(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


def test_the_readme_example_runs() -> None:
    """The first Python block of the README is a whole program, and prints what the README says."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert program is not None
    ran = python("-W", "error", "-c", program[1])
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = re.search(r"```text\n(.*?)```", readme[program.end() :], re.DOTALL)
    assert shown is not None
    assert ran.stdout == shown[1]


def test_help_does_not_load_the_broker() -> None:
    ran = python(
        "-c", "import sys; from oncelog.cli.app import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    assert ran.returncode == 0
    assert set(ran.stderr.split()) & SLOW == set()


def test_importing_oncelog_is_free() -> None:
    ran = python("-c", "import sys, oncelog; print(*sys.modules)")
    assert set(ran.stdout.split()) & (SLOW | {"oncelog.broker", "oncelog.engine"}) == set()


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == oncelog.__version__
