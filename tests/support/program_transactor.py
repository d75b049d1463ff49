"""A transactor in a program of another language: calls are lines of its stdin, answers lines of its stdout."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

from tests.support.suites import killed

CALL_SECONDS_MAX = 90.0


class ProgramTransactor:
    """A `Transactor` (see transactors.py) around a program that answers each line with ``ok`` or ``error why``."""

    def __init__(self, command: list[str], errors: Path) -> None:
        self._errors = errors
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
            )
        self._read = b""
        self._answered("the start")

    def begin(self) -> None:
        self._call("begin")

    def send(self, topic: str, partition: int, value: bytes) -> None:
        self._call("send", topic, str(partition), value.decode())

    def flush(self) -> None:
        self._call("flush")

    def send_offset(self, group: str, topic: str, offset: int) -> None:
        self._call("send_offset", group, topic, str(offset))

    def commit(self) -> None:
        self._call("commit")

    def abort(self) -> None:
        self._call("abort")

    def close(self) -> None:
        """The program ends by itself when there are no more calls."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(CALL_SECONDS_MAX) == 0, self._said()

    def kill(self) -> None:
        """End it if it still runs, and give back all that it held."""
        killed(self._process)
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _call(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words).encode() + b"\n")
        self._process.stdin.flush()
        self._answered(" ".join(words))

    def _answered(self, call: str) -> None:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._process.stdout], [], [], CALL_SECONDS_MAX)
            piece = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert piece, f"{call}: no answer\n{self._said()}"
            self._read += piece
        answer, _, self._read = self._read.partition(b"\n")
        assert answer == b"ok", f"{call}: {answer.decode(errors='replace')}\n{self._said()}"

    def _said(self) -> str:
        return self._errors.read_text(encoding="utf-8", errors="replace")[-3000:]
