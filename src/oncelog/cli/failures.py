"""What makes a command end with one sentence on stderr and an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line; each command's --help lists its own."""

    OK = 0
    BUG = 1
    USAGE = 2
    ADDRESS = 3
    DATA = 4
    STORAGE_FAILED = 5
    NO_BROKER = 6
    REFUSED = 7
    VIOLATED = 10
    UNPROVEN = 11


class CommandError(Exception):
    """One sentence that says what is wrong and what to do next."""

    def __init__(self, exit_code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
