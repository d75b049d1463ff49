"""The machine with the broker: the production Broker, Server and storage put together, killed, stopped and started again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tests.simulation.checkers import Violation
from tests.simulation.disk import Disk, SimulatedStorage
from tests.simulation.events import MS_US, SECOND_US, Events
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network

from oncelog.broker.apis import HANDLERS
from oncelog.broker.broker import Broker
from oncelog.broker.server import Server
from oncelog.engine.state import State
from oncelog.model.errors import StorageError

EPOCH_MS = 1_700_000_000_000
BOUNDS = {api_key: (handler.version_min, handler.version_max) for api_key, handler in HANDLERS.items()}


def rows_of(state: State) -> list[str]:
    """All that must be the same after a restart (law 1), in one order."""
    found = sorted(map(repr, state.rows()))
    for log_id, log in sorted(state.logs.items()):
        found.append(f"open in {log_id}: {list(log.open.items())}")
    return found


class _Log:
    """The broker's log goes into the trace."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def _note(self, event: str, **fields: Any) -> None:
        self._events.note("broker", "{}: {}", event, fields)

    debug = info = warning = error = _note


class Host:
    """See the module. ``broker`` is the newest life of the process."""

    def __init__(self, events: Events, configs: Mapping[str, str]) -> None:
        self.events, self.configs = events, dict(configs)
        self.disk = Disk(events)
        self.server: Server | None = None
        self.loop = SimulatedLoop(events)
        self.is_machine_up = True
        self.broker: Broker
        self.storage: SimulatedStorage
        self.network = Network(events, self)
        self.bug: BaseException | None = None
        self.kills = self.crashes = self.failures = self.stops = self.starts = 0
        self._skew_us = 0
        self._kept: list[str] | None = None
        self.start()

    def clock_ms(self) -> int:
        """The broker's clock."""
        return EPOCH_MS + (self.events.now_us + self._skew_us) // MS_US

    def _new_id(self) -> UUID:
        return UUID(int=self.events.random.getrandbits(128), version=4)

    # -- life and death -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process opens the disk and serves."""
        if self.server is not None:
            return
        self.is_machine_up = True
        self.starts += 1
        self.loop = loop = SimulatedLoop(self.events)
        self.storage = SimulatedStorage(self.disk, loop)
        log = _Log(self.events)
        self.broker = broker = Broker(
            storage=self.storage, loop=loop, clock_ms=self.clock_ms, ids=self._new_id, log=log, configs=self.configs
        )
        broker.on_failure = self._failed
        broker.on_recovered = lambda _: self._compare()
        broker.open()
        server = Server(loop, broker.route, bounds=BOUNDS, log=log, on_bug=self._found, meters=broker.meters)  # type: ignore[arg-type]
        broker.on_pressure = lambda is_high: server.pause_all() if is_high else server.resume_all()
        self.server = server
        self.events.note("host", "the broker is open, life {}", self.starts)

    def _compare(self) -> None:
        """Law 1: what was replayed is what lived."""
        kept, self._kept = self._kept, None
        if kept is not None and kept != (found := rows_of(self.broker.state)):
            lost, new = [row for row in kept if row not in found], [row for row in found if row not in kept]
            raise Violation("live is not replayed", f"lived {lost[:3]}, replayed {new[:3]}")

    def _found(self, bug: BaseException) -> None:
        self.bug = bug

    def _die(self, *, is_silent: bool) -> None:
        self.loop.is_dead = True
        self.server = None
        for pipe in list(self.network.pipes):
            pipe.die(is_silent=is_silent)

    def kill(self) -> None:
        """kill -9: what was written stays."""
        if self.server is None:
            return
        self.kills += 1
        self.events.note("host", "kill -9")
        if self.storage.position_written == self.storage.position_appended:
            self._kept = rows_of(self.broker.state)
        self._die(is_silent=False)
        self._start_after(200 * MS_US)

    def crash(self) -> None:
        """The machine goes down."""
        if self.server is None:
            return
        self.crashes += 1
        self.is_machine_up = False
        self._die(is_silent=True)
        self.disk.crash_machine()
        self.events.note("host", "the machine goes down, {} entries lost so far", self.disk.lost)
        self._start_after(2 * SECOND_US)

    def fail(self, at: str) -> None:
        """The next write or sync fails (law 7)."""
        if self.server is not None:
            self.events.note("host", "the next {} will fail", at)
            self.storage.fail(at)

    def _failed(self, error: StorageError) -> None:
        """The broker says that its storage has failed: the process ends. After a failed sync nobody knows what is kept."""
        self.failures += 1
        self._die(is_silent=False)
        if "sync" in str(error):
            self.disk.crash_machine()
        self._start_after(500 * MS_US)

    def close(self) -> None:
        """An orderly stop."""
        if self.server is None or self.storage._failure is not None:
            return
        self.stops += 1
        self.events.note("host", "an orderly stop")
        self.storage._fails_at = None
        self.broker.close()
        self._kept = rows_of(self.broker.state)
        self._die(is_silent=False)
        self._start_after(100 * MS_US)

    def pause(self, time_us: int) -> None:
        """SIGSTOP: the kernel goes on, the process does not."""
        self.events.note("host", "the broker stands still for {} ms", time_us // MS_US)
        self.loop.stopped_until_us = self.events.now_us + time_us

    def _start_after(self, mean_us: int) -> None:
        self.events.at(self.events.about(mean_us), self.start)
