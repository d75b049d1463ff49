"""The workers of a run as processes: started, killed, frozen, replaced, and started again when their producers are fenced.

All methods may be called from any thread. Whatever happens, `close` leaves no process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from oncelog.verify.worker import FENCED, Task

END_SECONDS_MAX: Final = 45.0
#: A worker that fails at once, again and again: the cluster or the settings are wrong.
QUICK_DEATHS_MAX: Final = 20
_QUICK_SECONDS: Final = 2.0


class CrewError(Exception):
    """Workers end at once, again and again; the text has what the last one said."""


class _Place:
    """One worker's place: its task, and the process that has it now."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.quick_deaths = 0
        self.is_stopping = False


class Crew:
    """``note`` is told what happens to whom."""

    def __init__(self, tasks: Sequence[Task], folder: Path, note: Callable[[str, str], None]) -> None:
        self._places = {task.name: _Place(task) for task in tasks}
        self._log, self._note = folder / "workers.log", note
        self._lock = threading.RLock()
        self._zombies: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """All of them."""
        with self._lock:
            for place in self._places.values():
                self._start(place)

    def names(self, *roles: str) -> list[str]:
        """Those that play one of the roles (all, if none is named)."""
        return [name for name, place in self._places.items() if not roles or place.task.role in roles]

    def tend(self) -> None:
        """Starts the next instance where one has ended. CrewError if that leads nowhere."""
        with self._lock:
            for name, place in self._places.items():
                code = None if place.process is None or place.is_stopping else place.process.poll()
                if code is None:
                    continue
                if code not in (FENCED, -signal.SIGKILL):
                    raise CrewError(f"worker {name} has ended with code {code}: {self._last_line()}")
                is_quick = time.monotonic() - place.started < _QUICK_SECONDS
                place.quick_deaths = place.quick_deaths + 1 if is_quick else 0
                if place.quick_deaths > QUICK_DEATHS_MAX:
                    raise CrewError(
                        f"worker {name} fails at once, {QUICK_DEATHS_MAX} times in a row: {self._last_line()}"
                    )
                self._start(place)

    def kill(self, name: str) -> None:
        """SIGKILL; the next instance starts."""
        with self._lock:
            place = self._places[name]
            if place.process is not None and not place.is_stopping:
                place.process.kill()
                place.process.wait()
                self._start(place)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP for some seconds, with nobody in its place meanwhile."""
        with self._lock:
            process = self._places[name].process
        if process is not None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

    def replace(self, name: str, seconds: float) -> None:
        """Freezes it, starts the next instance in its place, and wakes it some seconds later: a zombie."""
        with self._lock:
            place = self._places[name]
            zombie = place.process
            if zombie is None or zombie.poll() is not None:
                return
            zombie.send_signal(signal.SIGSTOP)
            self._zombies.append(zombie)
            self._start(place)
        time.sleep(seconds)
        zombie.send_signal(signal.SIGCONT)
        try:
            zombie.wait(seconds)
        except subprocess.TimeoutExpired:
            zombie.kill()
            zombie.wait()
        with self._lock:
            self._zombies.remove(zombie)
        self._close_stdin(zombie)

    def stop(self, *roles: str) -> None:
        """Tell those that play the roles (all, if none is named) to end, and wait; what does not end is killed."""
        with self._lock:
            places = [self._places[name] for name in self.names(*roles)]
            for place in places:
                place.is_stopping = True
                if place.process is not None:
                    self._close_stdin(place.process)
        deadline = time.monotonic() + END_SECONDS_MAX
        for place in places:
            if place.process is not None:
                try:
                    place.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._note(place.task.name, "did not end by itself, and was killed")
                    place.process.kill()
                    place.process.wait()
                place.process = None

    def close(self) -> None:
        """Kills all that is left."""
        with self._lock:
            left = [place.process for place in self._places.values() if place.process is not None] + self._zombies
            for process in left:
                process.kill()
                process.wait()
                self._close_stdin(process)

    def _start(self, place: _Place) -> None:
        place.task = msgspec.structs.replace(place.task, number=place.task.number + 1)
        if place.process is not None and place.process.poll() is not None:
            self._close_stdin(place.process)
        command = [sys.executable, "-m", "oncelog.verify.worker", msgspec.json.encode(place.task).decode()]
        with self._log.open("ab") as log:
            place.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        place.started = time.monotonic()
        self._note(place.task.instance, "started")

    def _close_stdin(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing; see {self._log}"
