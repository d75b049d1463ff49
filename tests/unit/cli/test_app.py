"""The command line itself: every command explains itself, mistakes are one sentence."""

from __future__ import annotations

import pytest

from oncelog.cli.app import app, run
from oncelog.cli.failures import ExitCode

COMMANDS = [
    (group, name)
    for group, names in {
        "topics": ("list", "describe", "create", "delete"),
        "groups": ("list", "describe"),
        "transactions": ("list", "describe", "abort", "fences"),
    }.items()
    for name in names
]


@pytest.mark.parametrize("words", [(), ("serve",), ("log",), ("topics",), ("groups",), ("transactions",), *COMMANDS])
def test_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: oncelog {' '.join(words)}".rstrip() in shown
    for option in (line for line in shown.splitlines() if line.startswith("│ --")):
        assert len(option.strip("│ ").split(maxsplit=2)) > 1, f"{words}: an option without a word: {option}"


def test_serve_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    run(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for code in (ExitCode.USAGE, ExitCode.ADDRESS, ExitCode.DATA, ExitCode.STORAGE_FAILED):
        assert f"; {int(code)} " in shown or f": {int(code)} " in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["topics", "nonsense"], "`oncelog topics --help`"),
        (["topics", "describe"], "`oncelog topics describe --help`"),
        (["topics", "list", "--nonsense"], "--nonsense"),
        (["log", "a", "--partition", "x"], "partition"),
        (["topics", "list", "--bootstrap", "a:b"], "HOST:PORT"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("oncelog: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_the_app_has_no_other_commands() -> None:
    """A command that is added is added to these tests."""
    assert {name for name in app if not name.startswith("-")} >= {"serve", "topics", "groups", "transactions", "log"}
