"""``oncelog serve``: one node in this process, from the first check to the exit code.

stdout gets one line when the node is ready; the log goes to stderr. The first SIGTERM or SIGINT stops the node in good
order, a second one ends the process at once. Before the node is ready any signal ends it at once: nothing was promised yet,
and recovery can be begun anew at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from typing import Any, Final

import uvloop

from oncelog.broker.broker import Log
from oncelog.broker.log_lines import quoted
from oncelog.broker.node import Node
from oncelog.broker.settings import Settings
from oncelog.broker.warming import warm
from oncelog.model.errors import StorageError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_NS_PER_MS: Final = 1_000_000
#: Collections of the middle generation before one of everything; Python's own is 10.
_FULL_COLLECTION_EVERY: Final = 1_000


class Ended(Exception):
    """A serving node ended from within: StorageError (law 7), or a bug of ours.

    What was acknowledged is safe, but after LostRecords.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def serve(settings: Settings, log: Log, *, began_ns: int) -> None:
    """Serve until a signal. ``began_ns`` (monotonic) is when the process began.

    Raises AddressError or StorageError if it can't start, Ended if it can't go on.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, log, began_ns))


async def _serve(settings: Settings, log: Log, began_ns: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()
    for number in _SIGNALS:
        signal.signal(number, _end_at_once)
    _allow_open_files()
    node = Node(settings, log)
    node.on_failure = lambda error: None if ended.done() else ended.set_result(error)
    await node.start()
    for number in _SIGNALS:
        signal.signal(number, _Stopping(loop, ended, log))
    gc.freeze()
    collect_rarely()
    _warn(settings, log)
    _say_ready(node, began_ns)
    if node.broker is not None:
        warm(loop, node.broker.meters, ended.done)
    failure = await ended
    try:
        await node.stop()
    except StorageError as error:
        failure = failure or error
    if failure is not None:
        raise Ended(failure)
    log.info("stopped")


def collect_rarely() -> None:
    """Look through everything for cycles a hundred times more rarely than Python does, young objects as often as ever.

    It takes a microsecond for each object that is kept, a tenth of a second for 50,000 partitions, and one request that names
    as many would make it happen twice. What the broker makes and lets go holds hardly any cycles.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_EVERY)


class _Stopping:
    """The signal handler of a serving node: the first time in good order, then at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[BaseException | None], log: Log) -> None:
        self._loop, self._ended, self._log = loop, ended, log
        self._is_stopping = False

    def __call__(self, number: int, frame: Any) -> None:
        del frame
        if self._is_stopping:
            os._exit(128 + number)
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._stop, signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        self._log.info("stopping", signal=name)
        if not self._ended.done():
            self._ended.set_result(None)


def _end_at_once(number: int, frame: Any) -> None:
    del number, frame
    os._exit(0)


def _allow_open_files() -> None:
    """As many open files as this process may ask for: each connection is one, and the usual 1,024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Where the system has no more than it says (macOS), the limit stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn(settings: Settings, log: Log) -> None:
    for address in (settings.listen, settings.metrics):
        if address is not None and not address.is_loopback:
            log.warning("anybody who reaches this address may read and write: no TLS, no login", address=str(address))


def _say_ready(node: Node, began_ns: int) -> None:
    settings = node.settings
    data = quoted(settings.data) if settings.data is not None else "-"
    ready_ms = (time.monotonic_ns() - began_ns) // _NS_PER_MS
    metrics = f" metrics={settings.metrics._replace(port=node.metrics_port)}" if settings.metrics is not None else ""
    line = (
        f"oncelog ready host={settings.listen.host or '*'} port={node.port} data={data} "
        f"durability={settings.durability.value} pid={os.getpid()} ms={ready_ms}{metrics}\n"
    )
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except OSError:
        node.log.warning("nobody reads the ready line", line=line.strip())
