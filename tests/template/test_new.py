"""``oncelog new`` as a command: what it asks, what it refuses, and that it is all in the package."""

from __future__ import annotations

import glob
import io
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.commands import COMMAND, run, snapshot
from tests.support.projects import run_make

from oncelog.cli.app import run as command_line

ROOT = Path(__file__).parents[2]


New = Callable[..., "Ran"]


class Ran(NamedTuple):
    """What a command said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> New:
    """The command, in this process, in a folder of its own and without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def ran(*words: str) -> Ran:
        code = command_line(["new", *words])
        return Ran(code, *capsys.readouterr())

    return ran


def test_defaults_ask_nothing(new: New, tmp_path: Path) -> None:
    ran = new("billing", "--defaults")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "made billing: cd billing && make test\n"
    assert {path.name for path in (tmp_path / "billing").iterdir()} == {
        *(
            ".oncelog-from",
            ".dockerignore",
            ".github",
            ".gitignore",
            "Dockerfile",
            "Makefile",
            "README.md",
            "pyproject.toml",
        ),
        *("samples", "src", "tests"),
    }
    assert "sqlite" in (tmp_path / "billing" / "src" / "billing" / "settings.toml").read_text(encoding="utf-8")


def test_a_project_gets_oncelog_from_where_this_one_came(new: New, tmp_path: Path) -> None:
    """A folder, here; it is for this machine, so git leaves it out."""
    assert new("billing", "--defaults").returncode == 0
    project = tmp_path / "billing"
    assert (project / ".oncelog-from").read_text(encoding="utf-8") == f"{ROOT}\n"
    assert ".oncelog-from" in (project / ".gitignore").read_text(encoding="utf-8").split()
    assert f" {ROOT} --editable" in run_make(project, "--dry-run", "venv").stdout
    assert " elsewhere --editable" in run_make(project, "--dry-run", "venv", "ONCELOG=elsewhere").stdout
    (project / ".oncelog-from").unlink()
    assert " oncelog --editable" in run_make(project, "--dry-run", "venv").stdout


def test_a_project_takes_a_python_that_is_new_enough(new: New, tmp_path: Path) -> None:
    assert new("billing", "--defaults").returncode == 0
    chosen = run_make(tmp_path / "billing", "--dry-run", "venv", f"PYTHON={sys.executable}")
    assert chosen.stdout.splitlines()[1] == f"{sys.executable} -m venv .venv"
    none = run_make(tmp_path / "billing", "venv", "PYTHON=")
    assert (none.returncode, "Python 3.11 or newer is needed" in none.stderr) == (2, True)


def test_options_are_answers(new: New, tmp_path: Path) -> None:
    words = ("--package", "shop1", "--database", "none", "--serializer", "json", "--style", "async")
    ran = new("web-shop", *words)
    assert ran.returncode == 0, ran.stderr
    service = (tmp_path / "web-shop" / "src" / "shop1" / "service.py").read_text(encoding="utf-8")
    assert 'NAME = "web-shop"' in service
    assert "async def bill" in service
    assert not (tmp_path / "web-shop" / "src" / "shop1" / "database.py").exists()


class Terminal:
    """The command in a terminal of its own, a person before it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, "new", *words], cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.shown = ""

    def until(self, words: str) -> None:
        """Until they are shown, or the end."""
        while words not in self.shown and (chunk := _read(self._master)):
            self.shown += chunk

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        """Its exit code."""
        self.until("never shown")
        os.close(self._master)
        return self.process.wait(60)


def test_it_asks_its_questions(tmp_path: Path) -> None:
    """In a terminal; Enter takes what is offered."""
    terminal = Terminal(tmp_path, "billing", "--style", "sync")
    for question in ("package's name", "A database", "What orders and invoices are"):
        terminal.until(question)
        terminal.type(b"\r")
    assert terminal.end() == 0, terminal.shown
    assert "Handlers" not in terminal.shown  # the option has said it
    assert (tmp_path / "billing" / "src" / "billing" / "database.py").exists()


def test_who_changes_his_mind_at_a_question_has_made_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "billing")
    terminal.until("package's name")
    terminal.type(b"\x03")
    assert terminal.end() == 2
    assert terminal.shown.splitlines()[-1].endswith("oncelog: stopped at a question; billing was not made")
    assert "Traceback" not in terminal.shown
    assert list(tmp_path.iterdir()) == []


def _read(master: int) -> str:
    try:
        return os.read(master, 65536).decode()
    except OSError:  # the other side is gone
        return ""


def test_without_a_terminal_it_says_what_to_do(new: New, tmp_path: Path) -> None:
    ran = new("billing")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "oncelog: there is no terminal to ask questions; add --defaults, and options for what shall be different\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "9lives", "Billing", "a/b", "..", "-x", "a b", "a--b", "x" * 31, "bill\ning", "größe"]
)
def test_what_can_not_be_a_name_is_refused(new: New, tmp_path: Path, name: str) -> None:
    ran = new("--defaults", "--", name)
    assert ran.returncode == 2
    assert "can't be a name: small letters" in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "class", "test", "oncelog", "pydantic"])
def test_a_package_that_would_hide_another_is_refused(new: New, tmp_path: Path, name: str) -> None:
    ran = new(name, "--defaults")
    assert ran.returncode == 2
    assert "uses this name already" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []
    assert new(name, "--defaults", "--package", "mine").returncode == 0


def test_a_folder_with_something_in_it_is_left_alone(new: New, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert new("empty", "--defaults").returncode == 0
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    before = snapshot(tmp_path)
    for name in ("empty", "file"):
        ran = new(name, "--defaults")
        assert ran.returncode == 2
        assert ran.stderr == f"oncelog: {name} is there already, and not empty; take another name, or remove it\n"
    assert snapshot(tmp_path) == before


def test_without_copier_it_says_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['copier'] = None; from oncelog.cli import main; main(['new', 'billing', '--defaults'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == "oncelog: `oncelog new` needs the package copier: pip install 'oncelog[new]'\n"


def test_help_teaches() -> None:
    ran = run("new", "--help")
    assert ran.returncode == 0
    for words in ("oncelog new billing --defaults", "make test", "pip install 'oncelog[new]'", "--database", "--style"):
        assert words in ran.stdout


def test_every_file_of_the_template_is_in_the_package() -> None:
    """As setuptools finds them: by globs, in which no star stands for a dot at the beginning."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    package = ROOT / "src" / "oncelog"
    patterns = settings["package-data"]["oncelog"]
    packed = {found for pattern in patterns for found in glob.glob(pattern, root_dir=package, recursive=True)}  # noqa: PTH207
    wanted = {str(path.relative_to(package)) for path in (package / "template").rglob("*") if path.is_file()}
    assert wanted - packed == set()
