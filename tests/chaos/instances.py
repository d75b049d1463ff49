"""The instances of a tormented application, as processes: started again when they have ended, and why they did.

A process may end by itself for two reasons: no broker answered when it started (exit code 2), and another process has its
name (exit code 4), which only zombies bring about. Any other end is a violation.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from oncelog.app import ConfigurationError, FencedByPeer

END_SECONDS_MAX = 120.0
#: So long a process may be told of a fence after a zombie has worn its name: the second one within a minute ends it.
FENCES_SECONDS = 90.0


class Life:
    """One process of an instance, with what it has logged."""

    def __init__(self, bootstrap: str, folder: Path, name: str, database: str, log: Path) -> None:
        self.name, self.folder, self.log = name, folder, log
        command = [sys.executable, "-m", "tests.chaos.shop", bootstrap, str(folder), database]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, "ONCELOG_INSTANCE": name}
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(END_SECONDS_MAX)

    def works(self) -> bool:
        """It has committed something."""
        return "outcome=committed" in self.told()

    def found_no_broker(self) -> bool:
        return self.code == ConfigurationError.exit_code and "no broker answers" in self.told()


class Instances:
    """By name: the process that has it now. All methods but ``close`` are for one thread at a time."""

    def __init__(self, bootstrap: str, folder: Path, database: str) -> None:
        self.bootstrap, self.folder, self.database = bootstrap, folder, database
        self.living: dict[str, Life] = {}
        #: What must not have happened.
        self.problems: list[str] = []
        #: starts, fenced (zombies that were told so), no broker.
        self.counts: Counter[str] = Counter()
        self._lives: list[Life] = []
        self._is_closed = False
        self._haunted_at: dict[str, float] = {}

    def start(self, name: str, folder: Path | None = None) -> Life:
        """The next process of this name, on the folder of its last one."""
        known = self.living.get(name)
        number = self.counts["starts"] = self.counts["starts"] + 1
        where = folder or (known.folder if known is not None else self.folder / f"state-{name}")
        life = Life(self.bootstrap, where, name, self.database, self.folder / f"log-{number}-{name}.txt")
        self._lives.append(life)
        self.living[name] = life
        if self._is_closed:  # by an interrupt, while a hand is still at work
            life.kill()
        return life

    def twin(self, name: str) -> Life:
        """One more process of this name, as on another machine: with nothing of the other's folder."""
        self.haunt(name)
        return self.start(name, self.folder / f"state-{name}-{self.counts['starts']}")

    def haunt(self, name: str) -> None:
        """Somebody else wears this name."""
        self._haunted_at[name] = time.monotonic()

    def supervise(self) -> None:
        """Starts again what has ended by itself."""
        for name, life in list(self.living.items()):
            if life.code is not None:
                self.judge(life)
                self.start(name)

    def judge(self, life: Life) -> None:
        """Why it has ended."""
        if life.found_no_broker():
            self.counts["no broker"] += 1
        elif life.code == FencedByPeer.exit_code and self._is_haunted(life.name):
            self.counts["fenced"] += 1
        else:
            self.problems.append(f"{life.log.name} ended with exit code {life.code}:\n{life.told()[-2000:]}")

    def _is_haunted(self, name: str) -> bool:
        return time.monotonic() - self._haunted_at.get(name, -FENCES_SECONDS) < FENCES_SECONDS

    def stop(self, name: str) -> None:
        """SIGTERM; it must end by itself, with exit code 0."""
        life = self.living[name]
        life.process.terminate()
        try:
            code = life.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{life.log.name} does not end after SIGTERM:\n{life.told()[-2000:]}")
            life.kill()
            return
        is_early = code == -signal.SIGTERM and "started app=" not in life.told()  # it had no handler yet
        if code != 0 and not is_early:
            self.judge(life)

    def until(self, condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
        """Whether it came true in time."""
        until = time.monotonic() + seconds
        while not (is_true := condition()) and time.monotonic() < until:
            time.sleep(every)
        return is_true

    def told(self, what: str) -> int:
        """How often all processes have logged it."""
        return sum(life.told().count(what) for life in self._lives)

    def close(self) -> None:
        """Leaves no process."""
        self._is_closed = True
        for life in self._lives:
            if life.code is None:
                life.kill()
