"""What ``oncelog new`` makes is in order, whatever was answered: code and style; and its tests are no ornament."""

from __future__ import annotations

import compileall
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.projects import CHOICES, Choice, equip, made, made_by_all

from oncelog.cli import new

IMPORTING = """
import importlib, pathlib, pkgutil, sys
for folder in map(pathlib.Path, sys.argv[1:]):
    sys.path.insert(0, str(folder))
    for module in sorted(folder.rglob("*.py")):
        name = ".".join(module.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        importlib.import_module(name)
        print(name)
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[Choice, Path]:
    """All combinations, each under a name of its own; short and long ones, because lines hold them."""
    long = (f"a{number}-{'long-name-' * 3}"[: new.NAME_LENGTH_MAX].rstrip("-") for number in itertools.count())
    short = (f"z{number}" for number in itertools.count())
    names = (next(each) for each in itertools.cycle((long, short)))
    return made_by_all(tmp_path_factory.mktemp("projects"), names)


def test_nothing_of_the_template_is_left(projects: dict[Choice, Path]) -> None:
    for project in projects.values():
        for path in project.rglob("*"):
            assert not re.search(r"[{}%]|jinja", path.name)
            if path.is_file():
                assert not re.search(r"\{%|(?<!\$)\{\{|%\}", path.read_text(encoding="utf-8")), path


def test_all_are_in_good_style(projects: dict[Choice, Path]) -> None:
    folders = [str(project) for project in projects.values()]
    for words in (["check"], ["format", "--check"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *folders], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout


def test_all_can_be_compiled_and_imported(projects: dict[Choice, Path]) -> None:
    assert len(projects) == len(CHOICES) == 18
    for project in projects.values():
        assert compileall.compile_dir(project, quiet=1), project
    sources = [str(project / "src") for project in projects.values()]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTING, *sources], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == sum(len(list(Path(source).rglob("*.py"))) for source in sources)


def test_a_broken_service_fails_its_own_tests(tmp_path: Path) -> None:
    """The tests that a project comes with are no ornament: weaker than exactly once, they fail."""
    project = made(tmp_path, "billing", Choice("none", "json", "sync"))
    service = project / "src" / "billing" / "service.py"
    text = service.read_text(encoding="utf-8")
    service.write_text(
        text.replace("client=here.client)", 'client=here.client, delivery="at-least-once")'), encoding="utf-8"
    )
    equip(project)
    crash = 'kill_client_after="Produce"'
    test = project / "tests" / "test_crash.py"
    test.write_text(
        test.read_text(encoding="utf-8").replace('kill_client_after="TxnOffsetCommit"', crash), encoding="utf-8"
    )
    ran = subprocess.run(
        [project / ".venv" / "bin" / "python", "-m", "pytest", "tests/test_crash.py", "-k", "one_invoice"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ},
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    assert "repeated, with more results than inputs" in ran.stdout
