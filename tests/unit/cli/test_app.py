"""The command line itself: every command explains itself, mistakes are one sentence."""

from __future__ import annotations

import re

import pytest

from oncelog.broker.serving import Ended
from oncelog.cli.app import app, run
from oncelog.cli.failures import ExitCode
from oncelog.model.errors import LostRecords, StorageError
from oncelog.model.ids import LogId

COMMANDS = [
    (group, name)
    for group, names in {
        "topics": ("list", "describe", "create", "delete"),
        "groups": ("list", "describe"),
        "transactions": ("list", "describe", "abort", "fences"),
        "app": ("run", "describe", "dry-run", "schema"),
    }.items()
    for name in names
]
#: What each command's help says of its end.
EXIT_CODES = {
    "serve": {0, 1, 2, 3, 4, 5},
    "verify": {0, 2, 6, 10, 11},
    "new": {0, 2},
    "app run": {0, 1, 2, 3, 4},
    **{name: {0, 2, 6, 7} for name in ("log", "topics", "groups", "transactions")},
}
TOP = ("serve", "log", "topics", "groups", "transactions", "app", "verify", "new")


@pytest.mark.parametrize("words", [(), *((name,) for name in TOP), *COMMANDS])
def test_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: oncelog {' '.join(words)}".rstrip() in shown
    for option in (line for line in shown.splitlines() if line.startswith("│ --")):
        assert len(option.strip("│ ").split(maxsplit=2)) > 2, f"{words}: an option without a word: {option}"


@pytest.mark.parametrize("command", EXIT_CODES)
def test_the_exit_codes_are_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split()).partition("Exit codes: ")[2]
    found = {int(number) for number in re.findall(r"(?:^|[:;] )(\d+) ", told.partition("╭")[0])}
    assert found == EXIT_CODES[command]


def test_every_exit_code_is_told_somewhere() -> None:
    assert set().union(*EXIT_CODES.values()) == set(map(int, ExitCode))


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
    assert {name for name in app if not name.startswith("-")} == set(TOP)


@pytest.mark.parametrize(
    ("cause", "code", "is_safe"),
    [
        (StorageError("The disk is full."), ExitCode.STORAGE_FAILED, True),
        (LostRecords("The journal file f can't be read.", LogId(1), 0), ExitCode.DATA, False),
    ],
)
def test_nobody_says_that_all_is_safe_when_something_is_lost(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cause: StorageError,
    code: ExitCode,
    is_safe: bool,
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Ended(cause)

    monkeypatch.setattr("oncelog.cli.serve.serve", ended)
    assert run(["serve", "--durability", "memory"]) == code
    said = " ".join(capsys.readouterr().err.split())
    assert str(cause) in said
    assert ("Everything that was acknowledged is safe." in said) is is_safe
