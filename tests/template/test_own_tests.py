"""What ``oncelog new`` makes passes its own tests, whatever was answered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.projects import CHOICES, Choice, equip, made, run_make


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_own_tests_pass(choice: Choice, tmp_path: Path) -> None:
    project = made(tmp_path, "billing" if choice.style == "sync" else "order-billing", choice)
    equip(project)
    ran = run_make(project, "test")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^\d+ passed in", ran.stdout, re.MULTILINE), ran.stdout
