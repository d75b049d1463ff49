"""Compaction: the settled part of one log is written again, beside the loop and beside settling.

What becomes of a batch is said by the owner's ``Compaction``; here it is only known that some are gone afterwards. The
steps:

1. a round of settling moves all of the log that is in the journal;
2. on a thread, the compaction looks at the batches that it wants to see;
3. on the thread, its stretches are written again into a new segment file, some hundred MiB of them; the file is synced;
4. a round of settling names the file in its checkpoint and lets readers have its stretches; then 3 for the next stretches.

Until the checkpoint names it, the new file is a remain like any other, and the old stretches count: a crash at any
moment leaves each stretch as it was, or as it is to be. The files that are read are *pinned*: not written again and not
removed meanwhile.

What is read is checked first: a batch that the disk has changed would be written again with a sum that fits it, and no
reader would be warned any more. Then the compaction ends, and what it was about stays as it is.

A file ends where an old stretch ends, and only if the last batch of that stretch is still there: what is gone belongs
to the batch that follows, and a log has no holes.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import Final, TypeAlias

from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId
from oncelog.storage.contract import Compaction, Rolling
from oncelog.storage.folder import Folder, sync_folder
from oncelog.storage.index import Logs
from oncelog.storage.mapped import MappedFiles
from oncelog.storage.segments import AreSound, SegmentFile, Segments
from oncelog.storage.settling import Abandoned, Pace, Source
from oncelog.storage.stretches import Stretch
from oncelog.storage.writing import Chunk, SegmentWriter

#: A file ends at the first stretch that allows it once it has so many bytes: what the disk must hold twice.
_FILE_BYTES: Final = 256 * 1024 * 1024
_MAPPED_BYTES_MAX: Final = 8 * 1024 * 1024
#: Nobody waits for it: it rests three times as long as it works.
_REST: Final = 3.0


#: A file and the stretches in it; or why there is none.
Outcome: TypeAlias = tuple[SegmentFile, int] | StorageError | DamagedRecords


class Step(Enum):
    """What a compaction waits for."""

    MOVE = "a round that moves the log out of the journal"
    WORK = "its thread"
    INSTALL = "a round that names its file"


class Job:
    """One compaction under way. ``left`` are the stretches that are still to be written again, with their files."""

    def __init__(self, compaction: Compaction, on_done: Callable[[bool], None]) -> None:
        self.compaction, self.on_done = compaction, on_done
        self.step = Step.MOVE
        self.is_in_round = False
        self.rolling, self.offset_start = Rolling(0, 0), -1
        self.left: list[tuple[int, Stretch]] = []
        self.is_looked = False
        self.file: SegmentFile | None = None


# -- on the thread ----------------------------------------------------------------------------------------------------


def carry_out(
    folder: Folder, are_sound: AreSound | None, job: Job, number: int, breathe: Callable[[], None]
) -> tuple[SegmentFile, int]:
    """Look, then write one file: the file, and how many stretches are in it.

    Raises OSError, StorageError, DamagedRecords, Abandoned.
    """
    with MappedFiles(folder, _MAPPED_BYTES_MAX) as files:
        source = Source(files, are_sound)
        if not job.is_looked:
            _look(source, job, breathe)
        return _write(folder, source, job, number, breathe)


def _look(source: Source, job: Job, breathe: Callable[[], None]) -> None:
    compaction, end = job.compaction, job.compaction.offset_end
    for number, stretch in job.left:
        if stretch.offset_next <= compaction.offset_first:
            continue
        for chunk in source.chunks(number, stretch, compaction.offset_first):
            for offset, piece in zip(chunk.offsets, chunk.pieces, strict=True):
                if offset >= end or not compaction.look(piece, breathe):
                    return
            breathe()


def _write(
    folder: Folder, source: Source, job: Job, number: int, breathe: Callable[[], None]
) -> tuple[SegmentFile, int]:
    path = folder.segments / f"{number:016d}.segment"
    is_whole = False
    writer = SegmentWriter(path, breathe)
    try:
        writer.allocate(min(sum(stretch.size for _, stretch in job.left), _FILE_BYTES))
        count = _fill(writer, source, job, breathe)
        file = writer.finish(number, 0)
        is_whole = True
    finally:
        writer.close()
        if not is_whole:
            path.unlink()
    sync_folder(folder.segments)
    return file, count


def _fill(writer: SegmentWriter, source: Source, job: Job, breathe: Callable[[], None]) -> int:
    """Write stretches again until the file is large enough and may end; how many."""
    log, end = job.compaction.log, job.compaction.offset_end
    writer.begin(log, job.rolling)
    filling = _Filling()
    count = written = 0
    for at, (number, stretch) in enumerate(job.left):
        if stretch.offset >= end:
            break
        count = at + 1
        for chunk in source.chunks(number, stretch, job.offset_start):
            for new in filling.rewritten(chunk, job.compaction, breathe):
                written += sum(new.lengths)
                writer.add(new)
                if new.offset_next == end:
                    writer.begin(log, job.rolling)  # what is compacted ends with a stretch
        if written >= _FILE_BYTES and filling.offset_next == stretch.offset_next:
            break
    assert filling.offset_next == job.left[count - 1][1].offset_next, "a segment file that ends in a hole"
    return count


class _Filling:
    """The batches that are left, one after another: each begins where the one before it ends, so that there are no holes."""

    def __init__(self) -> None:
        self.offset_next = -1

    def rewritten(self, chunk: Chunk, compaction: Compaction, breathe: Callable[[], None]) -> Iterator[Chunk]:
        """What is left of a chunk; a piece ends where the compaction does."""
        if self.offset_next < 0:
            self.offset_next = chunk.offsets[0]
        new = _no_batches()
        for at, piece in enumerate(chunk.pieces):
            left = compaction.rewrite(piece, chunk.timestamps[at], breathe)
            if left is None:
                continue
            data, timestamp_max = left
            new.offsets.append(self.offset_next)
            new.timestamps.append(timestamp_max)
            new.lengths.append(len(data))
            new.pieces.append(memoryview(data))
            self.offset_next = chunk.offsets[at + 1] if at + 1 < len(chunk.offsets) else chunk.offset_next
            if self.offset_next == compaction.offset_end:
                yield new._replace(offset_next=self.offset_next)
                new = _no_batches()
        if new.pieces:
            yield new._replace(offset_next=self.offset_next)


def _no_batches() -> Chunk:
    return Chunk(array("q"), array("q"), [], -1, [])


# -- on the owner's thread --------------------------------------------------------------------------------------------


class Compactor:
    """Runs compactions, one at a time. ``wish`` asks for a round; ``tell`` runs a callable on the owner's thread."""

    def __init__(
        self,
        folder: Folder,
        logs: Logs,
        segments: Segments,
        *,
        tell: Callable[[Callable[[], None]], None],
        wish: Callable[[], None],
        on_failed: Callable[[StorageError], None],
        rolling_of: Callable[[LogId], Rolling],
        are_sound: AreSound | None,
    ) -> None:
        self._folder, self._logs, self._segments = folder, logs, segments
        self._tell, self._wish, self._on_failed, self._rolling_of = tell, wish, on_failed, rolling_of
        self._are_sound = are_sound
        self._job: Job | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def begin(self, compaction: Compaction, on_done: Callable[[bool], None]) -> bool:
        """Begin; False if one is under way."""
        if self._job is not None:
            return False
        self._job = Job(compaction, on_done)
        self._wish()
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether the next round has something to do for it."""
        return self._job is not None and self._job.step is not Step.WORK

    def for_round(self) -> tuple[LogId | None, SegmentFile | None]:
        """A round begins: the log that it moves out of the journal whole, and the file that it installs."""
        job = self._job
        if job is None or job.step is Step.WORK:
            return None, None
        job.is_in_round = True
        return job.compaction.log if job.step is Step.MOVE else None, job.file

    def round_done(self) -> None:
        """The round that was asked last is installed."""
        job = self._job
        if job is None or not job.is_in_round:
            return
        job.is_in_round, job.file = False, None
        if job.step is Step.MOVE:
            self._take(job)
        if job.left and job.compaction.log in self._logs.by_id:
            self._work(job)
        else:
            self._end(job, is_whole=job.is_looked and job.compaction.log in self._logs.by_id)

    def _take(self, job: Job) -> None:
        """What is to be read, as it is now; trimmed or dropped, it can still be read."""
        index = self._logs.by_id.get(job.compaction.log)
        if index is None or index.settled is None:
            return
        job.offset_start, job.rolling = index.offset_start, self._rolling_of(index.id)
        job.left = [one for one in index.settled.listed(index.id) if one[1].offset < job.compaction.offset_end]
        self._segments.pinned = {number for number, _ in job.left}

    def _work(self, job: Job) -> None:
        job.step = Step.WORK
        number = self._segments.take_number()
        self._thread = threading.Thread(
            target=self._carry_out, args=(job, number), name="oncelog compacting", daemon=True
        )
        self._thread.start()

    def _carry_out(self, job: Job, number: int) -> None:
        """On the thread."""
        pace = Pace(lambda: False, lambda: self._is_closing, _REST)
        outcome: Outcome = StorageError("Compacting ended by a bug; see the traceback.")
        try:
            outcome = carry_out(self._folder, self._are_sound, job, number, pace.breathe)
        except Abandoned:
            return
        except (StorageError, DamagedRecords) as error:
            outcome = error
        except OSError as error:
            outcome = StorageError(f"Compacting in {self._folder.path} failed: {error.strerror or error}.")
            outcome.__cause__ = error
        finally:
            self._tell(partial(self._carried_out, job, outcome))

    def _carried_out(self, job: Job, outcome: Outcome) -> None:
        if self._is_closing:
            return
        if isinstance(outcome, StorageError):
            self._on_failed(outcome)
            return
        if isinstance(outcome, DamagedRecords):
            job.compaction.damage = outcome
            self._end(job, is_whole=False)
            return
        job.file, count = outcome
        del job.left[:count]
        if job.left and job.left[0][1].offset >= job.compaction.offset_end:
            job.left.clear()
        job.is_looked, job.step = True, Step.INSTALL
        self._wish()

    def _end(self, job: Job, *, is_whole: bool) -> None:
        self._job = None
        self._segments.pinned = set()
        job.on_done(is_whole)

    def end(self) -> None:
        """End the thread; what it is about is given up, and its file is a remain."""
        self._is_closing = True
        if self._thread is not None:
            self._thread.join()
