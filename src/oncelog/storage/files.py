"""The storage in a folder: journal, segments, indexes, and the threads that sync and settle, put together.

Everything but ``_sync_all`` (and settling.py's thread) runs on the owner's thread. An OSError anywhere becomes a StorageError
that is final (law 7): a failed sync is never tried again, and the boot id is forgotten, so that the next start ends the
transactions it finds open (rule D2).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId, Position
from oncelog.storage.checkpoint import Loaded, Place, read_checkpoint
from oncelog.storage.compacting import Compactor
from oncelog.storage.contract import Compaction, Entry, Notify, Recovered, Rollings, Snapshot, TimedBatch
from oncelog.storage.folder import Folder, sync_folder, why
from oncelog.storage.index import LogIndex, Logs
from oncelog.storage.journal import PLACE_BITS, PLACE_MASK, Journal
from oncelog.storage.reading import Reading
from oncelog.storage.recovery import JournalReader
from oncelog.storage.segments import AreSound, Segments, damaged, told_as_damage
from oncelog.storage.settling import Damage, Settler

Durability = Literal["fsync", "written"]
#: durability=written: after so many bytes the disk is given them all the same.
_LAZY_BYTES = 16 * 1024 * 1024


#: Journal files that are not needed any more, (descriptor, path): closed by the thread, after the syncs asked for before.
GivenUp = list[tuple[int, Path]]


class _Target(NamedTuple):
    """What one sync is to make safe."""

    position: Position
    bytes_appended: int
    descriptors: list[int]
    is_folder: bool


class FileStorage(Reading):
    """See the module and the contract. Sizes are in bytes; ``durability`` as in rule D2.

    ``are_sound`` is asked of all batches that are read back from the disk: disks forget, and say nothing.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        durability: Durability = "fsync",
        journal_file_bytes: int = 64 * 1024 * 1024,
        tail_bytes: int = 64 * 1024 * 1024,
        settle_bytes: int = 256 * 1024 * 1024,
        settle_entries: int = 300_000,
        journal_bytes_max: int = 1024 * 1024 * 1024,
        are_sound: AreSound | None = None,
    ) -> None:
        self._folder = Folder(Path(folder))
        self._is_syncing = durability == "fsync"
        self._are_sound = are_sound
        self._journal = Journal(self._folder.journal, journal_file_bytes)
        self._logs = Logs(tail_bytes)
        self._appended = self._written = self._synced = self._asked = Position(0)
        #: Up to here all is on disk, whatever is promised: with durability=written less than ``_synced``.
        self._safe = Position(0)
        self._bytes_appended = self._bytes_written = self._bytes_synced = self._bytes_asked = 0
        self._sync_seconds = 0.0
        self._notify: Notify | None = None
        self._post: Callable[[Callable[[], None]], object] | None = None
        self._failure: StorageError | None = None
        #: It, until the owner is told.
        self._untold: StorageError | None = None
        self._targets: queue.SimpleQueue[_Target | GivenUp | None] = queue.SimpleQueue()
        self._syncer: threading.Thread | None = None
        self._is_boot_kept = False
        #: A round begins when the journal has so many bytes, or so many entries since the last one.
        self._settle_bytes, self._settle_entries = settle_bytes + journal_file_bytes, settle_entries
        self._journal_bytes_max = max(journal_bytes_max, self._settle_bytes + 2 * journal_file_bytes)
        self._segments = Segments(self._folder.segments, are_sound)
        self._settler = Settler(
            self._folder,
            self._journal,
            self._logs,
            self._segments,
            journal_bytes=settle_bytes,
            hurry_bytes=(self._settle_bytes + self._journal_bytes_max) // 2,
        )
        self._compactor = Compactor(
            self._folder,
            self._logs,
            self._segments,
            tell=self._tell,
            wish=self._begin_round,
            on_failed=self._settle_failed,
            rolling_of=self._rolling_of,
            are_sound=are_sound,
        )
        self._settled = Position(0)

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
        """See the contract."""
        return self._sync_seconds

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal's files."""
        return self._journal.bytes_used

    @property
    def is_behind(self) -> bool:
        """See the contract. What no settling could free is not waited for."""
        return self._journal.bytes_used > self._journal_bytes_max and self._settler.can_free

    @property
    def _is_journal_large(self) -> bool:
        return self._journal.bytes_used > self._settle_bytes and self._settler.can_free

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> Recovered:
        """See the contract."""
        self._folder.open()
        is_same_boot = self._folder.is_same_boot()
        try:
            loaded = read_checkpoint(self._folder.path)
            has_checkpoint = loaded is not None
            if loaded is None:
                loaded = Loaded(Place(Position(0), 1, 0), [], [], [])
            self._logs.by_id.update((index.id, index) for index in loaded.indexes)
            self._segments.load(loaded.segments, self._logs)
        except OSError as error:
            self._release()
            raise StorageError(
                f"The data in {self._folder.path} can't be read: {why(error)}. Put that right, or restore the folder."
            ) from error
        except StorageError:
            self._release()
            raise
        needed: dict[int, int] = {}
        for index in loaded.indexes:
            for generation, end in index.generations(PLACE_BITS):
                needed[generation] = max(end, needed.get(generation, 0))
        entries = self._replay(loaded.place, needed, is_same_boot=is_same_boot, has_checkpoint=has_checkpoint)
        return Recovered(loaded.chunks, entries, is_same_boot)

    def _replay(
        self, place_from: Place, needed: dict[int, int], *, is_same_boot: bool, has_checkpoint: bool
    ) -> Iterator[tuple[Position, Entry]]:
        try:
            reader = JournalReader(self._folder.journal, place_from, needed, is_same_boot=is_same_boot)
            for generation, found in reader.entries():
                place = generation << PLACE_BITS | found.data_at
                for batch, length in zip(found.entry.batches, found.lengths, strict=True):
                    index = self._logs.of(batch[0])
                    index.append(batch[1], batch[2], batch[3], length, place)
                    index.tail_first = len(index.offsets)
                    place += length
                yield found.position, found.entry
            self._appended = self._written = self._synced = self._asked = self._safe = reader.position
            self._settled = place_from.position
            self._remove_remains(is_anything_known=has_checkpoint or reader.position > 0)
            self._journal.clean(place_from.generation, needed)
            self._journal.cut(reader.generation, reader.offset)
            self._make_safe()
            self._folder.keep_format()
        except OSError as error:
            raise StorageError(
                f"The journal in {self._folder.journal} can't be read: {why(error)}. Put that right, or restore the folder."
            ) from error

    def _make_safe(self) -> None:
        """What was found is on disk, or is put there: files, and the names in all folders.

        After a sync that failed, what it was to write is in the page cache and counts as written: no later sync writes it.
        """
        if not self._folder.is_boot_kept():
            self._journal.write_again()
        try:
            self._journal.sync()
            sync_folder(self._folder.segments)
            sync_folder(self._folder.path)
        except OSError as error:
            self._folder.forget_boot(error)
            raise

    def _remove_remains(self, *, is_anything_known: bool) -> None:
        """Only now: a lost checkpoint would make remains of all segment files, and shows by a journal that does not begin.

        If the journal is lost too, the boot id tells: it is kept after the first sync, so that something was safe.
        """
        remains = self._segments.remains()
        if not is_anything_known and self._folder.is_boot_kept():
            what = (
                f"checkpoint is missing: {self._folder.segments} holds {remains[0].name}"
                if remains
                else (f"journal is missing: {self._folder.journal} does not hold its first entry, which was safe")
            )
            raise StorageError(f"The {what}. Nothing was changed; restore the data folder from a copy.")
        for path in remains:
            path.unlink()

    def start(
        self,
        notify: Notify,
        post: Callable[[Callable[[], None]], object],
        snapshot: Snapshot,
        rollings: Rollings | None = None,
    ) -> None:
        """See the contract."""
        self._notify, self._post, self._rollings = notify, post, rollings
        self._settler.start(
            snapshot, self._rolling_of, self._tell, self._settle_done, self._settle_failed, self._met_damage
        )
        self._syncer = threading.Thread(target=self._sync_all, name="oncelog sync", daemon=True)
        self._syncer.start()

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> Position:
        """See the contract."""
        if self._failure is not None:
            raise self._failure
        rows, batches = entry
        before = self._appended
        place, size = self._journal.append(before + 1, before - self._safe, rows, batches)
        logs = self._logs
        for log, offset, offset_next, timestamp_max, data in batches:
            index = logs.by_id.get(log) or logs.of(log)
            length = len(data)
            index.append(offset, offset_next, timestamp_max, length, place)
            logs.hold(index, data)
            place += length
        self._bytes_appended += size
        self._appended = position = Position(before + 1)
        return position

    def flush(self) -> None:
        """See the contract."""
        if self._failure is not None:
            raise self._failure
        if self._written == self._appended:
            return
        try:
            self._journal.flush()
        except OSError as error:
            self._failure = StorageError(f"Writing to {self._folder.journal} failed: {error.strerror or error}.")
            raise self._failure from error
        self._written, self._bytes_written = self._appended, self._bytes_appended
        self._logs.bound()
        if self._is_journal_large or self._written - self._settled > self._settle_entries:
            self._begin_round()
        if self._is_syncing:
            return
        self._synced, self._bytes_synced = self._written, self._bytes_written
        if self._bytes_written - self._bytes_asked > _LAZY_BYTES or not self._is_boot_kept:
            self._ask()
        if self._notify is not None:
            self._notify.synced(self._synced)

    def sync_soon(self) -> None:
        """See the contract."""
        if self._is_syncing and self._asked < self._written and self._failure is None:
            self._ask()

    def _ask(self) -> None:
        descriptors, is_folder = self._journal.take_unsynced()
        self._asked, self._bytes_asked = self._written, self._bytes_written
        self._targets.put(_Target(self._written, self._bytes_written, descriptors, is_folder))

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _sync_all(self) -> None:
        """On the thread: sync until the end. Whatever ends it otherwise is final (law 7), a bug of ours too."""
        failure: StorageError | None = StorageError("Syncing ended by a bug of its own; see the traceback.")
        try:
            self._sync_asked()
            failure = None
        except OSError as error:
            failure = StorageError(f"Syncing {self._folder.journal} failed: {error.strerror or error}.")
            failure.__cause__ = error
        finally:
            if failure is not None:
                # At once, and here: the loop may have ended, or the process may be killed before it hears of it.
                self._folder.forget_boot(failure)
                self._failure = self._untold = failure
                self._tell(partial(self._failed, failure))

    def _sync_asked(self) -> None:
        """One sync covers everything that was asked for meanwhile."""
        is_last = False
        while not is_last:
            taken = [self._targets.get()]
            while not self._targets.empty():
                taken.append(self._targets.get())
            is_last = None in taken
            targets = [one for one in taken if isinstance(one, _Target)]
            began = time.perf_counter()
            if targets:
                self._sync({d for one in targets for d in one.descriptors}, any(one.is_folder for one in targets))
                self._keep_boot(targets[-1].position)
            for one in taken:
                if isinstance(one, list):
                    self._journal.recycle(one)
            if targets:
                last, seconds = targets[-1], time.perf_counter() - began
                self._tell(partial(self._finish_sync, last.position, last.bytes_appended, seconds))

    def _sync(self, descriptors: set[int], is_folder: bool) -> None:
        for descriptor in descriptors:
            os.fdatasync(descriptor)
        if is_folder:
            sync_folder(self._folder.journal)

    def _keep_boot(self, position: Position) -> None:
        """Once something is safe; see ``_remove_remains``."""
        if position and not self._is_boot_kept:
            self._folder.keep_boot()
            self._is_boot_kept = True

    def _tell(self, what: Callable[[], None]) -> None:
        assert self._post is not None
        try:
            self._post(what)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return

    def _finish_sync(self, position: Position, bytes_appended: int, seconds: float) -> None:
        self._safe = max(self._safe, position)
        if not self._is_syncing or self._failure is not None or position <= self._synced:
            return
        self._synced, self._bytes_synced, self._sync_seconds = position, bytes_appended, seconds
        if self._notify is not None:
            self._notify.synced(position)

    def _failed(self, failure: StorageError) -> None:
        self._untold = None
        if self._notify is not None:
            self._notify.failed(failure)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, log: LogId, offset: int, *, offset_end: int, bytes_max: int) -> list[bytes | memoryview]:
        """See the contract (rule R4): from the segments, then from the journal or memory."""
        index = self._logs.by_id.get(log)
        if index is None:
            return []
        settled = index.settled
        if settled is None or offset >= settled.offset_next:
            return index.read(offset, offset_end, bytes_max, self._read_stored)
        try:
            found, left, goes_on = self._segments.read(settled, offset, offset_end, bytes_max)
        except OSError as error:
            raise self._read_failed(self._folder.segments, error) from error
        pieces: list[bytes | memoryview] = [*found]
        if goes_on:
            pieces += index.read(settled.offset_next, offset_end, left, self._read_stored, is_first=not pieces)
        return pieces

    def find_time(self, log: LogId, timestamp_ms: int, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """See the contract (rule R5)."""
        index = self._logs.by_id.get(log)
        if index is not None and index.settled is not None:
            try:
                found = self._segments.find_time(index.settled, timestamp_ms, offset_start, offset_end)
            except OSError as error:
                raise self._read_failed(self._folder.segments, error) from error
            if found is not None:
                return found
        return super().find_time(log, timestamp_ms, offset_start=offset_start, offset_end=offset_end)

    def find_time_max(self, log: LogId, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """See the contract (rule R5)."""
        newer = super().find_time_max(log, offset_start=offset_start, offset_end=offset_end)
        index = self._logs.by_id.get(log)
        if index is None or index.settled is None:
            return newer
        try:
            older = self._segments.find_time_max(index.settled, offset_start, offset_end)
        except OSError as error:
            raise self._read_failed(self._folder.segments, error) from error
        return max((found for found in (older, newer) if found is not None), key=itemgetter(1), default=None)

    def trim(self, log: LogId, offset_start: int) -> None:
        """See the contract."""
        index = self._logs.of(log)
        index.trim(offset_start)
        try:
            self._segments.trim(index)
        except OSError as error:
            raise self._read_failed(self._folder.segments, error) from error
        self._settle_soon()

    def drop(self, log: LogId) -> None:
        """See the contract."""
        index = self._logs.by_id.get(log)
        if index is not None:
            self._segments.drop(index)
            self._logs.drop(log)
            self._settle_soon()

    def _settle_soon(self) -> None:
        """A checkpoint that does not name a segment file any more frees its room."""
        if (
            self._segments.unneeded
            and self._syncer is not None
            and not self._settler.is_running
            and self._failure is None
        ):
            self._tell(self._begin_round)

    def _read_failed(self, where: Path, error: OSError) -> StorageError:
        self._failure = StorageError(f"Reading {where} failed: {error.strerror or error}.")
        return self._failure

    def _read_stored(self, index: LogIndex, start: int, end: int) -> list[bytes | memoryview]:
        bounds = [*index.offsets[start : end + 1], index.offset_next]
        try:
            pieces = self._journal.read(index.locations[start:end], index.lengths[start:end])
        except OSError as error:
            place = index.locations[start]
            path = self._journal.path_of(place >> PLACE_BITS)
            try:
                with told_as_damage(path, place & PLACE_MASK, bounds[0], bounds[end - start]):
                    raise
            except OSError:
                raise self._read_failed(self._folder.journal, error) from error
        if self._are_sound is not None:
            for piece, offset, after, place in zip(
                pieces, bounds, bounds[1:], index.locations[start:end], strict=False
            ):
                if not self._are_sound(piece, offset, after):
                    raise damaged(self._journal.path_of(place >> PLACE_BITS), place & PLACE_MASK, offset, after)
        return pieces

    # -- the end ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """See the contract."""
        if self._settled < self._appended:
            self._begin_round()

    def compact(self, compaction: Compaction, on_done: Callable[[bool], None]) -> bool:
        """See the contract."""
        return self._failure is None and self._syncer is not None and self._compactor.begin(compaction, on_done)

    def _begin_round(self) -> None:
        if self._failure is not None or self._syncer is None or self._settler.is_running:
            return
        self.flush()
        if not self._settler.is_running:
            self._settled = self._written
            self._settler.begin(self._written, *self._compactor.for_round())

    def _settle_done(self, given_up: GivenUp) -> None:
        if given_up:
            self._ask()
            self._targets.put(given_up)
        if self._failure is None and self._syncer is not None and self._notify is not None:
            self._compactor.round_done()
            if self._is_journal_large or self._segments.unneeded or self._compactor.is_waiting:
                self._begin_round()
            self._notify.relieved()

    def _settle_failed(self, failure: StorageError) -> None:
        self._folder.forget_boot(failure)
        if self._failure is None:
            self._failure = failure
            if self._notify is not None:
                self._notify.failed(failure)

    def _met_damage(self, damage: Damage) -> None:
        if self._notify is not None:
            self._notify.damaged(*damage)

    def close(self) -> None:
        """See the contract. After a failure, only releases the folder; one that nobody was told of yet is raised."""
        try:
            if self._syncer is not None:
                self._end_threads()
                if self._untold is not None:
                    raise self._untold
                if self._failure is None:
                    self._settler.finish(self._written)
        except StorageError as failure:
            self._folder.forget_boot(failure)
            raise
        finally:
            self._release()

    def _release(self) -> None:
        self._segments.close()
        self._journal.close()
        self._folder.close()

    def _end_threads(self) -> None:
        """Everything flushed, asked to be synced, and the threads ended."""
        thread, self._syncer = self._syncer, None
        assert thread is not None
        try:
            if self._failure is None:
                self.flush()
                self._ask()
        finally:
            self._compactor.end()
            self._settler.end()
            self._targets.put(None)
            thread.join()
        if self._failure is None:
            self._synced, self._bytes_synced = self._written, self._bytes_written
