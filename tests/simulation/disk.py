"""The disk of a simulated machine, for the broker that lives there: ``FileDisk`` with the production storage,
``StoryDisk`` of stories.

Both open a storage for each life of the process, and lose what was not synced when the machine goes down.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.events import MS_US, Events
from tests.simulation.filesystem import CHANGING, READS, SYNCS, WRITES, FileTree, Plan
from tests.simulation.loop import Handle, SimulatedLoop
from tests.simulation.threads import Life

from oncelog.model.batch import are_sound
from oncelog.storage.files import FileStorage
from oncelog.storage.memory import MemoryDisk, MemoryStorage

FOLDER = "/data"
#: What a fault of the disk may hit: calls of the system, how often there is the like.
_FAILING: tuple[tuple[str, ...], ...] = (
    ("pwritev",), ("fdatasync",), ("fdatasync",), ("fsync",), ("pwrite",), ("rename",), ("posix_fallocate",), ("unlink",),
    SYNCS, WRITES, READS, READS,
)  # fmt: skip
_DYING: tuple[tuple[str, ...], ...] = (
    ("pwritev",),
    ("fdatasync",),
    ("fsync",),
    ("rename",),
    ("unlink",),
    CHANGING,
    CHANGING,
)


class FileDisk:
    """A disk with a file system; the storage has tiny files, so that it settles, merges and recycles all the time."""

    def __init__(self, events: Events) -> None:
        random = events.random
        self.events, self.tree = events, FileTree(events)
        self.sync_us = random.choice((100, 1_000, 8_000, 40_000))
        self.share_slow = random.choice((0.0, 0.01))
        file_bytes = random.choice((4_096, 16_384, 65_536))
        self.sizes: dict[str, Any] = {
            "durability": random.choice(("fsync",) * 9 + ("written",)),
            "journal_file_bytes": file_bytes,
            "tail_bytes": random.choice((1_000, 20_000, 1_000_000)),
            "settle_bytes": file_bytes * random.choice((1, 2, 8)),
            "settle_entries": random.choice((50, 500, 5_000)),
            "journal_bytes_max": file_bytes * random.choice((6, 64, 1_000)),
        }
        self.numbers = self._draw_numbers()
        self.life: Life | None = None
        self._lives = 0
        self.share_bad_start = random.choice((0.0, 0.0, 0.2))

    def _draw_numbers(self) -> dict[str, Any]:
        random = self.events.random
        return {
            "settling._LOGS_A_STEP": random.choice((1, 4, 64)),
            "settling._CHUNK_BATCHES": random.choice((3, 50)),
            "settling._WORK_SECONDS": random.choice((-1, 10)),
            "writing._STRETCH_BYTES_MIN": random.choice((200, 4_000)),
            "writing._STRETCH_MS_MIN": random.choice((100, 10_000)),
            "writing.STRETCH_BATCHES_MAX": random.choice((7, 500)),
            "segments._SMALL_STRETCH_BYTES": random.choice((3_000, 30_000)),
            "segments._MERGE_FILES": random.choice((2, 4, 8)),
            "segments._INDEXES_MAX": random.choice((2, 32)),
            "segments._OPEN_MAX": random.choice((2, 64)),
            "compacting._FILE_BYTES": random.choice((1_000, 10_000, 1 << 28)),
            "index._COMPACT_MIN": random.choice((4, 1_000)),
            "checkpoint._STEP": random.choice((5, 1_000)),
        }

    @property
    def is_durable(self) -> bool:
        """Whether acknowledgements outlive the machine (rule D2)."""
        return bool(self.sizes["durability"] == "fsync")

    @property
    def is_same_boot_known(self) -> bool:
        """Whether the next start can be sure that nothing was lost; else it fences everybody."""
        boot = self.tree.files.get(f"{FOLDER}/boot")
        return boot is not None and boot.content == self.tree.boot_id

    def _plan_delay_us(self) -> int:
        slow_us = self.events.about(300 * MS_US) if self.events.chance(self.share_slow) else 0
        return self.events.about(self.sync_us) + slow_us

    def begin(self, loop: SimulatedLoop, on_death: Callable[[bool], None]) -> FileStorage:
        """A process begins: its storage, not open yet."""
        self.life = life = Life(self.tree, loop, self._plan_delay_us, on_death)
        life.enter()
        self._lives += 1
        if self._lives > 1 and self.events.chance(self.share_bad_start):
            self.strike(is_power_lost=self.is_durable and self.events.chance(0.5))
        elif self._lives > 1 and self.events.chance(self.share_bad_start):
            self.fail()
        return FileStorage(FOLDER, are_sound=are_sound, **self.sizes)

    def kill(self) -> None:
        """The process is gone."""
        if self.life is not None:
            self.life.die()

    def crash_machine(self) -> None:
        """The machine goes down; the process is gone already."""
        self.tree.lose_power()

    def fail(self) -> None:
        """Some call of the system will fail soon (law 7)."""
        random = self.events.random
        calls = random.choice(_FAILING)
        number = random.choice((errno.EIO, errno.ENOSPC)) if calls[0] not in (*SYNCS, *READS) else errno.EIO
        self._plan(Plan(calls, random.choice((0, 0, 1, 3, 10)), number, is_for_ever=random.random() < 0.5))

    def strike(self, *, is_power_lost: bool, after: Sequence[int] = (0, 0, 1, 3, 10, 30)) -> None:
        """The process, or the machine, dies at some call of the system; ``after`` how many of its kind is drawn."""
        random = self.events.random
        self._plan(Plan(random.choice(_DYING), random.choice(after), 0, is_power_lost))

    def strike_soon(self, *, is_power_lost: bool) -> None:
        """At the next write or sync."""
        self._plan(Plan(self.events.random.choice((("pwritev",), ("fdatasync",))), 0, 0, is_power_lost))

    def strike_now(self, *, is_power_lost: bool) -> None:
        """Raises Killed."""
        assert self.life is not None
        self.life.process.strike(is_power_lost=is_power_lost)

    def _plan(self, plan: Plan) -> None:
        if self.life is not None:
            self.events.note("disk", "{}", plan)
            self.life.process.plan = plan

    def damage(self) -> None:
        """A read will soon give something else than what was written. At a start nobody could tell that from a torn entry."""
        if self.life is not None:
            self.life.process.reads_until_damage = self.events.random.choice((0, 0, 1, 5))

    @property
    def reads_damaged(self) -> int:
        """How many reads have."""
        return self.tree.counts["damaged"]

    @property
    def is_compacting(self) -> bool:
        """Whether a sweep is writing."""
        thread = (
            next((one for one in self.life.threads if one.name == "oncelog compacting"), None) if self.life else None
        )
        return thread is not None and not thread.greenlet.dead

    def fill(self) -> None:
        """Somebody else takes all the room but a little; the next life finds it free again."""
        self.tree.bytes_max = self.tree.bytes_used + self.events.random.choice((0, 3_000, 30_000))

    def calm(self) -> None:
        """From now on the disk is a good one."""
        self.share_bad_start = self.share_slow = 0.0
        self.mend()
        if self.life is not None:
            self.life.process.reads_until_damage = -1

    def mend(self) -> None:
        """No more faults."""
        self.tree.bytes_max = 1 << 60
        if self.life is not None:
            self.life.process.plan = None

    @property
    def is_failing(self) -> bool:
        """Whether a call has failed in this life."""
        return self.life is not None and self.life.process.is_failed


class StoryDisk(MemoryDisk):
    """Storage in memory for stories: syncs take as long as they say, and a crash leaves what they say."""

    is_durable = is_same_boot_known = True

    def __init__(self) -> None:
        super().__init__()
        self.sync_us = 0

    def begin(self, loop: SimulatedLoop, on_death: Callable[[bool], None]) -> MemoryStorage:
        """A process begins: its storage, not open yet."""
        return _StoryStorage(self, loop)


class _StoryStorage(MemoryStorage):
    """Lives as long as the process does."""

    def __init__(self, disk: StoryDisk, loop: SimulatedLoop) -> None:
        super().__init__(disk, schedule_sync=self._plan_sync)
        self._story_disk, self._life = disk, loop
        self._planned: tuple[Handle, Callable[[], None]] | None = None

    def _plan_sync(self, end: Callable[[], None]) -> None:
        self._planned = self._life.call_after(self._story_disk.sync_us, self._end_planned, end), end

    def _end_planned(self, end: Callable[[], None]) -> None:
        self._planned = None
        end()

    def sync_now(self) -> None:
        """Every sync that is under way is done."""
        while self._planned is not None:
            handle, end = self._planned
            handle.cancel()
            self._end_planned(end)
