"""oncelog with its core compiled: that it is, and that the tests pass on it, in short form; ``make compiled`` runs them whole.

See docs/decisions/compiled-core.md. Without a C compiler these fail in CI, and are told and deselected elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.compiled.__main__ import SHORT, command
from tests.compiled.building import ROOT, check, variables
from tests.compiled.left_out import LEFT_OUT
from tests.support.suites import run

import oncelog

SECONDS_MAX = 900


@pytest.mark.needs("c")
def test_what_runs_is_compiled() -> None:
    check()
    said = run([sys.executable, "-m", "oncelog", "--version"], 60, variables=variables()).checked()
    assert said == f"{oncelog.__version__} (compiled core)\n"


@pytest.mark.needs("c")
def test_the_tests_pass_on_it() -> None:
    run(command(*SHORT), SECONDS_MAX, cwd=ROOT, variables=variables()).checked()


@pytest.mark.parametrize(
    ("step", "changed", "says"),
    [
        (
            "bdist_wheel",
            {"CC": "no-such-compiler"},
            "needs a C compiler, and 'no-such-compiler' is not there: install one",
        ),
        ("bdist_wheel", {"ONCELOG_COMPILED": "yes"}, "ONCELOG_COMPILED is 'yes': set it to 1"),
        ("editable_wheel", {}, "does not go with an editable install"),
    ],
)
def test_what_can_not_be_built_is_refused(step: str, changed: dict[str, str], says: str) -> None:
    """Never a wheel that was asked to be compiled and is not."""
    done = subprocess.run(
        [sys.executable, "setup.py", step],
        cwd=ROOT,
        env={**os.environ, "ONCELOG_COMPILED": "1", **changed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_there(name: str) -> None:
    path, *_, function = name.split("::")
    assert f"    def {function}(" in (text := (ROOT / path).read_text()) or f"\ndef {function}(" in text
