"""The threads of a running application, from start to a graceful end; signals; exit codes.

Exit codes of ``App.run``: 0 stopped by a signal; 1 a bug; 2 ConfigurationError; 3 PoisonRecord; 4 FencedByPeer. SIGTERM and
SIGINT let every worker finish its batch; brokers that don't answer are waited for until the stop budget is over. A second
signal waits no longer, not even for a handler (128 + the signal's number): what is open is aborted by the next start, or by
its timeout.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import FrameType, TracebackType
from typing import Final, Protocol, Self

from oncelog.app.errors import ConfigurationError, Halted

log = logging.getLogger("oncelog.app")

_LOOK_SECONDS: Final = 0.1
#: After a second signal, for those who wait for a broker. Then the process ends, whatever a handler is doing.
_HALT_SECONDS: Final = 2.0


class Job(Protocol):
    """Something that runs in a thread until it is asked to stop."""

    def run(self) -> None:
        """Returns when stopped; raises AppError."""


class Running:
    """An application that runs in threads of this process: ``with app.running() as running: ...``; the end stops it."""

    def __init__(
        self,
        jobs: Sequence[Job],
        stop: threading.Event,
        halt: threading.Event,
        stop_budget: float,
        on_end: Callable[[], None],
    ) -> None:
        self._stop = stop
        self._halt = halt
        self._stop_budget = stop_budget
        self._on_end = on_end
        self._executor = ThreadPoolExecutor(len(jobs), thread_name_prefix="oncelog worker")
        self._futures: list[Future[None]] = [self._executor.submit(job.run) for job in jobs]
        for future in self._futures:
            future.add_done_callback(self._ended)

    @property
    def is_running(self) -> bool:
        """Whether all of its threads are."""
        return not any(future.done() for future in self._futures)

    def _ended(self, future: Future[None]) -> None:
        """One thread has ended: the others do too, and the reason is told at once."""
        error = future.exception()
        if error is not None and not isinstance(error, Halted):
            log.error("stopping because of %s: %s", type(error).__name__, error, exc_info=error)
        self._stop.set()

    def stop(self) -> None:
        """Every worker finishes its batch. From any thread."""
        self._stop.set()

    def wait(self) -> None:
        """Until it was stopped or has failed; raises what it failed with."""
        while self.is_running and not self._stop.is_set():
            wait(self._futures, _LOOK_SECONDS, FIRST_COMPLETED)
        self._end()
        for future in self._futures:
            if not isinstance(future.exception(), Halted):
                future.result()

    def _end(self) -> None:
        self._stop.set()
        timer = threading.Timer(self._stop_budget, self._halt.set)
        timer.daemon = True
        timer.start()
        while not all(future.done() for future in self._futures):
            wait(self._futures, _LOOK_SECONDS)
        timer.cancel()
        self._executor.shutdown()
        self._on_end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if error is None:
            self.wait()
        else:
            self._end()


def handle_signals(stop: threading.Event, halt: threading.Event) -> None:
    """SIGTERM and SIGINT stop the application; a second one at once. For an application that has the process to itself."""

    def signalled(number: int, _: FrameType | None) -> None:
        if stop.is_set() and not halt.is_set():
            halt.set()
            timer = threading.Timer(_HALT_SECONDS, os._exit, (128 + number,))
            timer.daemon = True
            timer.start()
        stop.set()
        log.info("stopping signal=%s", signal.Signals(number).name)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signalled)
    except ValueError as error:
        raise ConfigurationError(
            "app.run() takes the process's signals, so it is for its main thread; in a larger program use `with app.running():`"
        ) from error
