"""A service under test, run as a process of its own until it has nothing left to do; killed by a fault, it is started again.

with kafka.faults(kill_client_after="TxnOffsetCommit", times=3):
    ran = kafka.run([sys.executable, "-m", "billing"], group="billing", topics=["orders"])
assert ran.kills == 3
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

_LOOK_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 30.0
#: How many times a program that ends by itself is started again before something must be wrong with it.
_STARTS_MAX: Final = 1_000


class DidNotFinish(AssertionError):
    """The program ended by itself, or had still work to do when its time was over."""


class Ran(NamedTuple):
    """How it went: how often it was started, and how often it was killed (-9)."""

    starts: int
    kills: int


class _Process(Protocol):
    """What a command and a forked function have in common."""

    id: int

    def poll(self) -> int | None:
        """Its exit code, once it has ended; -9 if it was killed."""


class _Command:
    """A program of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(list(command), env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
        self.id = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()


class _Forked:
    """A function in a process of its own; it sees all that the test has made."""

    def __init__(self, function: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            # Python warns of forks beside threads: the child must not use them, and this one only calls the function.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = multiprocessing.get_context("fork").Process(target=function, daemon=True)
            self._process.start()
        self.id = self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.exitcode


def run(
    program: Sequence[str] | Callable[[], object],
    *,
    is_done: Callable[[], bool],
    seconds: float,
    environment: Mapping[str, str],
) -> Ran:
    """Run it until ``is_done``, then stop it by SIGTERM if it has not ended by itself. Raises DidNotFinish."""
    deadline = time.monotonic() + seconds
    starts = kills = 0
    while starts < _STARTS_MAX:
        process = _start(program, environment)
        starts += 1
        try:
            code = _watch(process, is_done, deadline)
            if code is None:
                _stop(process)
                return Ran(starts, kills)
            if code == 0 and is_done():
                return Ran(starts, kills)
        finally:
            _end(process)
        if code != -signal.SIGKILL:
            raise DidNotFinish(f"the program ended by itself with exit code {code} before its work was done")
        kills += 1
    raise DidNotFinish(f"the program was killed {kills} times")


def _start(program: Sequence[str] | Callable[[], object], environment: Mapping[str, str]) -> _Process:
    return _Forked(program) if callable(program) else _Command(program, environment)


def _watch(process: _Process, is_done: Callable[[], bool], deadline: float) -> int | None:
    """The exit code if it ended; None if its work is done."""
    while True:
        code = process.poll()
        if code is not None:
            return code
        if is_done():
            return None
        if time.monotonic() > deadline:
            raise DidNotFinish("the program still had work to do when its time was over; give it more seconds=")
        time.sleep(_LOOK_SECONDS)


def _stop(process: _Process) -> None:
    os.kill(process.id, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise DidNotFinish(f"the program did not end within {_STOP_SECONDS:.0f} s of SIGTERM")
        time.sleep(_LOOK_SECONDS)


def _end(process: _Process) -> None:
    if process.poll() is None:
        os.kill(process.id, signal.SIGKILL)
        while process.poll() is None:
            time.sleep(_LOOK_SECONDS)
