"""The contract in memory, without a thread: for durability=memory, for tests, and for the simulated world.

Alone, everything is synced when it is flushed and nothing outlives the process. With a MemoryDisk the entries outlive the
storage: what a crash takes is the caller's choice, so that a seeded world is the same each time. ``schedule_sync`` decides
when a sync is done (it is given the function that ends it); ``fail`` makes the next flush or sync fail (law 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId, Position
from oncelog.storage.contract import Compaction, Entry, Notify, Recovered, Rollings, Snapshot
from oncelog.storage.index import Logs
from oncelog.storage.reading import Reading


class MemoryDisk:
    """What outlives a storage: written entries, of which those up to ``position_synced`` survive the machine too."""

    def __init__(self) -> None:
        self.entries: list[tuple[Position, Entry]] = []
        self.position_synced = Position(0)
        self.is_same_boot = True

    def crash(self, keep: int = 0) -> None:
        """The machine goes down: what was not synced is lost, but for the first ``keep`` such entries.

        An entry is atomic: one that was torn is not there.
        """
        synced = sum(position <= self.position_synced for position, _ in self.entries)
        del self.entries[synced + keep :]
        self.is_same_boot = False


class MemoryStorage(Reading):
    """See the module. After a process is killed, open the same disk with another storage."""

    def __init__(
        self, disk: MemoryDisk | None = None, *, schedule_sync: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        self._disk = disk
        self._schedule_sync = schedule_sync
        self._logs = Logs(None)
        self._queue: list[tuple[Position, Entry]] = []
        self._notify: Notify | None = None
        self._appended = self._written = self._synced = self._wanted = Position(0)
        self._bytes_appended = self._bytes_written = self._bytes_synced = 0
        self._is_syncing = False
        self._failure: StorageError | None = None
        self._fails_at: str | None = None

    @property
    def position_appended(self) -> Position:
        """See the contract."""
        return self._appended

    @property
    def position_written(self) -> Position:
        """See the contract."""
        return self._written

    @property
    def position_synced(self) -> Position:
        """See the contract."""
        return self._synced

    @property
    def bytes_unsynced(self) -> int:
        """See the contract."""
        return self._bytes_appended - self._bytes_synced

    @property
    def sync_seconds(self) -> float:
        """Memory takes no time."""
        return 0.0

    @property
    def journal_bytes(self) -> int:
        """Memory has no journal."""
        return 0

    def open(self) -> Recovered:
        """What is on the disk, if there is one."""
        is_same_boot = self._disk is None or self._disk.is_same_boot
        return Recovered((), self._replay(), is_same_boot)

    def _replay(self) -> Iterator[tuple[Position, Entry]]:
        for position, entry in list(self._disk.entries) if self._disk is not None else ():
            self._take(entry)
            self._appended = position
            yield position, entry
        self._written = self._synced = self._wanted = self._appended
        self._bytes_appended = 0
        if self._disk is not None:
            self._disk.position_synced = self._synced

    @property
    def is_behind(self) -> bool:
        """Memory has no journal."""
        return False

    def start(
        self,
        notify: Notify,
        post: Callable[[Callable[[], None]], object],
        snapshot: Snapshot,
        rollings: Rollings | None = None,
    ) -> None:
        """``post`` and ``snapshot`` are not needed."""
        del post, snapshot
        self._rollings = rollings
        self._notify = notify
        if self._disk is not None:
            self._disk.is_same_boot = True

    def fail(self, at: str) -> None:
        """The next ``flush`` or ``sync`` (``at``) fails."""
        assert at in ("flush", "sync")
        self._fails_at = at

    def _take(self, entry: Entry) -> None:
        for log, offset, offset_next, timestamp_max, data in entry.batches:
            index = self._logs.of(log)
            index.append(offset, offset_next, timestamp_max, len(data), 0)
            self._logs.hold(index, data)
            self._bytes_appended += len(data)

    def append(self, entry: Entry) -> Position:
        """See the contract."""
        if self._failure is not None:
            raise self._failure
        self._appended = Position(self._appended + 1)
        self._bytes_appended += len(entry.rows)
        self._take(entry)
        if self._disk is not None:
            self._queue.append((self._appended, entry))
        return self._appended

    def flush(self) -> None:
        """See the contract."""
        if self._failure is not None:
            raise self._failure
        if self._fails_at == "flush" and self._written < self._appended:
            self._failure = StorageError("The write failed, as asked.")
            raise self._failure
        if self._disk is not None:
            self._disk.entries += self._queue
            self._queue.clear()
        self._written, self._bytes_written = self._appended, self._bytes_appended
        if self._schedule_sync is None and self._synced < self._written:
            self._finish_sync(self._written, self._bytes_written)

    def sync_soon(self) -> None:
        """See the contract."""
        self._wanted = self._written
        if self._schedule_sync is None or self._is_syncing or self._synced >= self._wanted or self._failure:
            return
        self._is_syncing = True
        target, target_bytes = self._written, self._bytes_written
        self._schedule_sync(lambda: self._end_sync(target, target_bytes))

    def _end_sync(self, target: Position, target_bytes: int) -> None:
        self._is_syncing = False
        self._finish_sync(target, target_bytes)
        if self._wanted > self._synced:
            self.sync_soon()

    def _finish_sync(self, target: Position, target_bytes: int) -> None:
        if self._failure is not None:
            return
        if self._fails_at == "sync":
            self._failure = StorageError("The sync failed, as asked.")
            if self._notify is not None:
                self._notify.failed(self._failure)
            return
        self._synced, self._bytes_synced = target, target_bytes
        if self._disk is not None:
            self._disk.position_synced = target
        if self._notify is not None:
            self._notify.synced(target)

    def trim(self, log: LogId, offset_start: int) -> None:
        """See the contract."""
        index = self._logs.of(log)
        index.trim(offset_start)
        index.compact()

    def settle(self) -> None:
        """Memory has nowhere else to put things."""

    def compact(self, compaction: Compaction, on_done: Callable[[bool], None]) -> bool:
        """What is in memory is not compacted: it is gone with the process."""
        del compaction, on_done
        return False

    def close(self) -> None:
        """Flush and sync what is left."""
        if self._failure is None and self._synced < self._appended:
            self._schedule_sync = None
            self.flush()
