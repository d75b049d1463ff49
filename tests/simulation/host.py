"""The machine with the broker: the production Broker, Server, clock and storage put together, killed, stopped and started
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tests.simulation.checkers import Violation
from tests.simulation.disk import FileDisk, StoryDisk
from tests.simulation.events import MS_US, SECOND_US, Events
from tests.simulation.filesystem import Killed
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.support.batches import batches
from tests.support.messages import API_KEYS

from oncelog.broker.apis import HANDLERS
from oncelog.broker.broker import Broker
from oncelog.broker.call import Call
from oncelog.broker.clock import Clock
from oncelog.broker.server import Server
from oncelog.engine.state import State
from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.rows import ProducerForgotten, TransactionForgotten

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

    def __init__(self, events: Events, configs: Mapping[str, str], disk: FileDisk | StoryDisk) -> None:
        self.events, self.configs, self.disk = events, dict(configs), disk
        self.server: Server | None = None
        self.loop = SimulatedLoop(events)
        self.is_machine_up = True
        self.broker: Broker
        self.storage: Any
        self.network = Network(events, self)
        self.bug: BaseException | None = None
        self.kills = self.crashes = self.failures = self.stops = self.starts = self.jumps = self.reboots = 0
        #: How far the machine's clock is off, and for how long it has slept.
        self._wall_off_us = self.slept_us = 0
        #: For how long its clock was set forward or back, all in all, and for how long the process stood still.
        self.set_us = self.paused_us = 0
        #: Producers of partitions, and transactional ids, that were forgotten (rule P8).
        self.producers_forgotten = self.ids_forgotten = 0
        self._kept: list[str] | None = None
        self._is_dying = False
        self._awaited: tuple[int, bool] | None = None
        #: Sweeps of lives that are over, and how often a life has ended in the middle of one.
        self._sweeps_before = self.deaths_in_sweeps = 0
        self._is_struck_in_sweep = False

    @property
    def late_starts(self) -> int:
        """Starts at which the broker's clock may leap to the machine's time: that was set before, or the machine has slept."""
        return self.starts if self.jumps or self.slept_us else 0

    def clock_ms(self) -> int:
        """The clients' clocks."""
        return EPOCH_MS + self.events.now_us // MS_US

    def _clock(self) -> Clock:
        """The broker's, from the machine's."""
        return Clock(
            lambda: EPOCH_MS * 1_000_000 + (self.events.now_us + self._wall_off_us) * 1_000,
            lambda: (self.events.now_us - self.slept_us) * 1_000,
        )

    def _new_id(self) -> UUID:
        return UUID(int=self.events.random.getrandbits(128), version=4)

    # -- life and death -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process opens the disk and serves. It may die at that, or find that the disk fails."""
        if self.server is not None or self._is_dying:
            return
        self.is_machine_up = True
        self.starts += 1
        self.loop = loop = SimulatedLoop(self.events)
        loop.on_failure = self._found
        self.storage = self.disk.begin(loop, self._struck)
        clock = self._clock()
        log = _Log(self.events)
        self.broker = broker = Broker(
            storage=self.storage, loop=loop, clock_ms=clock, ids=self._new_id, log=log, configs=self.configs
        )
        broker.on_failure = self._failed
        broker.on_recovered, broker.wall_ms = lambda ms: self._recovered(clock, ms), clock.wall_ms
        self.reboots += not self.disk.is_same_boot_known
        try:
            broker.open()
        except Killed:
            return
        except StorageError as error:
            self._could_not_start(error)
            return
        if self.loop.is_dead:
            return
        server = Server(loop, self._route, bounds=BOUNDS, log=log, on_bug=self._found, meters=broker.meters)  # type: ignore[arg-type]
        broker.on_pressure = lambda is_high: server.pause_all() if is_high else server.resume_all()
        self.server = server
        self._count_forgotten(broker.state)
        self.events.note("host", "the broker is open, life {}", self.starts)

    def _count_forgotten(self, state: State) -> None:
        """What this life forgets."""
        putting = state._put
        producer, transactional_id = putting[ProducerForgotten], putting[TransactionForgotten]

        def forget_producer(row: Any) -> None:
            self.producers_forgotten += 1
            producer(row)

        def forget_id(row: Any) -> None:
            self.ids_forgotten += 1
            transactional_id(row)

        putting[ProducerForgotten], putting[TransactionForgotten] = forget_producer, forget_id

    def _could_not_start(self, error: StorageError) -> None:
        if not (isinstance(self.disk, FileDisk) and self.disk.is_failing):
            raise Violation("no start", f"{error}") from error
        self._failed(error)

    def _recovered(self, clock: Clock, decided_ms: int) -> None:
        """Law 1: what was replayed is what lived."""
        clock.begin_at(decided_ms)
        kept, self._kept = self._kept, None
        if kept is not None and kept != (found := rows_of(self.broker.state)):
            lost, new = [row for row in kept if row not in found], [row for row in found if row not in kept]
            raise Violation("live is not replayed", f"lived {lost[:3]}, replayed {new[:3]}")

    def _found(self, bug: BaseException) -> None:
        """Nobody has caught it: the process ends, and if the disk did not fail it is a bug (law 7)."""
        if isinstance(bug, StorageError) and isinstance(self.disk, FileDisk) and self.disk.is_failing:
            if self.server is not None:
                self._failed(bug)
        else:
            self.bug = bug

    @property
    def sweeps(self) -> int:
        """Compactions that were carried out."""
        return self._sweeps_before + (self.broker.meters.compactions if self.server is not None else 0)

    def _die(self, *, is_silent: bool) -> None:
        self.loop.is_dead = True
        self._sweeps_before, self.server = self._sweeps_before + self.broker.meters.compactions, None
        if isinstance(self.disk, FileDisk):
            self.deaths_in_sweeps += self._is_struck_in_sweep or self.disk.is_compacting
            self._is_struck_in_sweep = False
            self.disk.kill()
        for pipe in list(self.network.pipes):
            pipe.die(is_silent=is_silent)

    def _struck(self, is_power_lost: bool) -> None:
        """The process is to die in the middle of something; whoever called is told by Killed."""
        self.loop.is_dead = True
        self.server = None
        self._is_dying = True
        self._is_struck_in_sweep = isinstance(self.disk, FileDisk) and self.disk.is_compacting
        self.events.at(0, self._bury, is_power_lost)

    def _bury(self, is_power_lost: bool) -> None:
        self._is_dying = False
        self._kept = None
        if is_power_lost:
            self.crash(is_dead=True)
        else:
            self.kills += 1
            self._die(is_silent=False)
            self._start_after(200 * MS_US)

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

    def crash(self, *, is_dead: bool = False) -> None:
        """The machine goes down."""
        if self.server is None and not is_dead:
            return
        if not self.disk.is_durable:
            self.kill()
            return
        self.crashes += 1
        self.is_machine_up = False
        self._die(is_silent=True)
        self.disk.crash_machine()
        self.events.note("host", "the machine goes down")
        self._start_after(2 * SECOND_US)

    def _failed(self, error: StorageError) -> None:
        """The broker says that its storage has failed: the process ends (law 7)."""
        self.failures += 1
        self.events.note("host", "the process ends: {}", error)
        self._kept = None
        self._die(is_silent=False)
        if isinstance(self.disk, FileDisk):
            self.disk.mend()
            if self.disk.is_durable and self.events.chance(0.3):
                self.disk.crash_machine()
        self._start_after(500 * MS_US)

    def close(self) -> None:
        """An orderly stop."""
        if self.server is None or self.broker.lane.failure is not None:
            return
        self.stops += 1
        self.events.note("host", "an orderly stop")
        try:
            self.broker.close()
        except Killed:
            return
        except StorageError as error:
            if not (isinstance(self.disk, FileDisk) and self.disk.is_failing):
                raise Violation("no stop", f"{error}") from error
            self._failed(error)
            return
        if self.server is None:
            return
        self._kept = rows_of(self.broker.state)
        self._die(is_silent=False)
        self._start_after(100 * MS_US)

    # -- in the middle of something -----------------------------------------------------------------------------------

    def wait_for(self, api: str, *, is_power_lost: bool) -> None:
        """The process dies soon after it has decided on the next such request: before it writes, syncs or answers (rule D2)."""
        self._awaited = API_KEYS[api], is_power_lost

    def _route(self, call: Call) -> None:
        self.broker.route(call)
        if self._awaited is not None and call.api_key == self._awaited[0]:
            is_power_lost, self._awaited = self._awaited[1], None
            assert isinstance(self.disk, FileDisk)
            if self.events.chance(0.3):
                self.events.note("host", "dies when it has decided")
                self.disk.strike_now(is_power_lost=is_power_lost)
            self.disk.strike_soon(is_power_lost=is_power_lost)

    def strike_in_sweep(self, tries: int = 4_000) -> None:
        """The process, or the machine, dies in the middle of a compaction, as soon as there is one."""
        assert isinstance(self.disk, FileDisk)
        if self.disk.is_compacting:
            is_power_lost = self.disk.is_durable and self.events.chance(0.5)
            self.disk.strike(is_power_lost=is_power_lost, after=(0, 0, 1, 3))
        elif tries:
            self.events.at(MS_US // 4, self.strike_in_sweep, tries - 1)

    def examine(self) -> None:
        """Look into one partition: what the storage has of it is what the state says, without gaps (rules R4, D2)."""
        if self.server is None or self.broker.lane.failure is not None or not self.broker.state.logs:
            return
        log = self.events.random.choice(list(self.broker.state.logs.values()))
        try:
            # From 0: what was deleted is kept until that is safe.
            pieces = self.storage.read(log.id, 0, offset_end=log.offset_next, bytes_max=1 << 40)
        except (StorageError, DamagedRecords) as failure:
            if not (isinstance(self.disk, FileDisk) and self.disk.is_failing):
                raise
            if isinstance(failure, StorageError):
                self._failed(failure)
            return
        at = -1
        for found in batches(b"".join(pieces)):
            has_gap = found.base_offset < at if log.settings.is_compacted else found.base_offset != at
            if at >= 0 and has_gap:
                raise Violation("gap", f"{log.topic}-{log.index} goes from {at} on at {found.base_offset}")
            if at < 0 and found.base_offset > log.offset_start and not log.settings.is_compacted:
                raise Violation("gap", f"{log.topic}-{log.index} begins at {found.base_offset}, not {log.offset_start}")
            at = found.offset_last + 1
        if at not in (-1, log.offset_next) or (at < 0 and log.offset_start < log.offset_next):
            raise Violation("gap", f"{log.topic}-{log.index} ends at {at}, not {log.offset_next}")
        if (size := sum(map(len, pieces))) != (told := self.storage.bytes_retained(log.id)):
            raise Violation("gap", f"{log.topic}-{log.index} has {size} bytes, the storage says {told}")

    # -- time ---------------------------------------------------------------------------------------------------------

    def pause(self, time_us: int) -> None:
        """SIGSTOP: the kernel goes on, the process does not."""
        self.events.note("host", "the broker stands still for {} ms", time_us // MS_US)
        self.loop.stopped_until_us = max(self.loop.stopped_until_us, self.events.now_us + time_us)
        self.paused_us += time_us

    def sleep(self, time_us: int) -> None:
        """The machine is suspended: the monotonic clock does not count that. It never goes back: no sleep begins in another."""
        if self.loop.stopped_until_us <= self.events.now_us:
            self.pause(time_us)
            self.slept_us += time_us

    def jump(self, time_us: int) -> None:
        """Somebody sets the machine's clock."""
        self.jumps += 1
        self.events.note("host", "the clock is set by {} ms", time_us // MS_US)
        self._wall_off_us += time_us
        self.set_us += abs(time_us)

    def _start_after(self, mean_us: int) -> None:
        self.events.at(self.events.about(mean_us), self.start)
