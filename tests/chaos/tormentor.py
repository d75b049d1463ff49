"""Something that strikes the broker's process again and again while others work: kill -9, freezes, stops in good order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from tests.support.broker_process import BrokerProcess

#: Seconds between two strikes.
PAUSE_SECONDS = (1.0, 5.0)
#: How long a frozen broker stays frozen: shorter and longer than its clients' and transactions' timeouts.
FREEZE_SECONDS = (0.5, 12.0)


class Tormentor:
    """Strikes from ``with`` to its end; the broker runs afterwards. What it did stands in ``strikes``."""

    def __init__(self, broker: BrokerProcess, seed: int) -> None:
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
                self._strike(self._chance.choices(("kill", "freeze", "stop"), (6, 2, 2))[0])
        except (AssertionError, OSError) as error:
            self.error = error

    def _strike(self, how: str) -> None:
        self._broker.assert_healthy()
        if how == "freeze":
            self._broker.pause()
            self._over.wait(self._chance.uniform(*FREEZE_SECONDS))
            self._broker.resume()
        elif how == "kill":
            self._broker.restart()
        else:
            self._broker.stop()
            self._broker.start()
        self.strikes[how] += 1
