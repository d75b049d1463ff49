"""Something that strikes the broker's process again and again while others work.

| strike | what happens |
|---|---|
| kill | kill -9 |
| settling | kill -9 in the middle of a round of settling: segments and a checkpoint are being written |
| freeze | SIGSTOP, for shorter and longer than the timeouts of clients and transactions |
| stop | SIGTERM; the next start |
| clock | the machine's time jumps by up to 50 minutes (clients' records may be an hour ahead, no more), and stays so |
| full | its files can't grow, as on a full disk, until it has stopped by itself; then there is room again |
"""

from __future__ import annotations

import random
import resource
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.launched import write_offset
from tests.support.broker_process import BrokerProcess

#: Seconds between two strikes.
PAUSE_SECONDS = (0.5, 4.0)
#: How long a frozen broker stays frozen: shorter and longer than its clients' and transactions' timeouts.
FREEZE_SECONDS = (0.5, 12.0)
WEIGHTS = {"kill": 5, "settling": 4, "freeze": 2, "stop": 2, "clock": 2, "full": 1}
JUMP_SECONDS = 3000
#: How long a round of settling, or the end of a broker that can't write, is waited for.
WAIT_SECONDS = 20.0
FILE_BYTES_MAX = 128 * 1024


class TormentedBroker(BrokerProcess):
    """A broker on a clock of its own, which settles often."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = folder / "clock"
        write_offset(self.clock, 0)
        self.program = ["-m", "tests.chaos.launched", str(self.clock)]

    def written(self) -> set[tuple[str, int]]:
        """What settling has on disk: names and sizes."""
        found = set()
        for path in (*(self.data / "segments").iterdir(), *self.data.glob("checkpoint*")):
            try:
                found.add((path.name, path.stat().st_size))
            except FileNotFoundError:  # given up meanwhile
                continue
        return found

    def limit_files(self, bytes_max: int) -> None:
        """No file of the process can be longer. -1: as long as it likes."""
        _, hard = resource.prlimit(self.process_id, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process_id, resource.RLIMIT_FSIZE, (hard if bytes_max < 0 else bytes_max, hard))


class Tormentor:
    """Strikes from ``with`` to its end; the broker runs afterwards. What it did stands in ``strikes``."""

    def __init__(self, broker: TormentedBroker, seed: int) -> None:
        self.strikes: Counter[str] = Counter()
        self.error: Exception | None = None
        self._broker, self._chance = broker, random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tormentor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Strike no more. Raises what went wrong with the broker meanwhile."""
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._over.wait(self._chance.uniform(*PAUSE_SECONDS)):
                self._broker.assert_healthy()
                how = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                self.strikes[self.strike(how)] += 1
        except (AssertionError, OSError) as error:
            self.error = error

    def strike(self, how: str) -> str:
        """One of the table, and what it came to: ``settling`` is a mere ``kill`` if nothing settles, ``full`` may fail."""
        return str(getattr(self, f"_{how}")())

    # -- strikes; each says what it came to -----------------------------------------------------------------------------

    def _kill(self) -> str:
        self._broker.restart()
        return "kill"

    def _settling(self) -> str:
        before, until = self._broker.written(), time.monotonic() + WAIT_SECONDS
        while (is_idle := self._broker.written() == before) and time.monotonic() < until and not self._over.wait(0.002):
            continue
        self._over.wait(self._chance.choice((0.0, 0.0, 0.002, 0.01)))
        self._broker.restart()
        return "kill" if is_idle else "settling"

    def _freeze(self) -> str:
        self._broker.pause()
        self._over.wait(self._chance.uniform(*FREEZE_SECONDS))
        self._broker.resume()
        return "freeze"

    def _stop(self) -> str:
        self._broker.stop()
        self._broker.start()
        return "stop"

    def _clock(self) -> str:
        offset = self._chance.choice((-JUMP_SECONDS, -60, -5, 5, 60, JUMP_SECONDS, 0))
        write_offset(self._broker.clock, offset * 1_000_000_000)
        return "clock"

    def _full(self) -> str:
        self._broker.limit_files(FILE_BYTES_MAX)
        until = time.monotonic() + WAIT_SECONDS
        while self._broker.is_running and time.monotonic() < until and not self._over.wait(0.02):
            continue
        if self._broker.is_running:  # nobody wrote so much
            self._broker.limit_files(-1)
            time.sleep(2)  # if it has met the limit after all, it ends now
        if self._broker.is_running:
            return "nothing"
        assert self._broker.wait() == 5, f"a full disk ended it otherwise:\n{self._broker.log[-4000:]}"
        self._broker.start()
        return "full"
