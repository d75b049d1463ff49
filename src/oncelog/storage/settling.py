"""Settling: what is still retained moves from the oldest journal files into a segment file, beside the loop.

One *round* is planned on the owner's thread in small steps, carried out on a thread of its own, and installed on the owner's
thread in small steps again. On the thread, in this order, which is all that a crash at any point needs:

1. the new segment file is written and synced, then its name;
2. the journal is synced, since the checkpoint's indexes point into it and nothing before its position is checked again;
3. the checkpoint is written, synced, renamed: from now on the new segment file counts, and those it replaces don't.

Then, when every log reads from its new place, the journal files and the replaced segment files are given up. What was
trimmed or dropped meanwhile is not moved. Appends go on all the time: the indexes only grow during a round.

A segment file that was to be written again and can't be read whole stays as it is; a journal file that can't be read ends the
storage, for what is only there would be lost with it.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId, Position
from oncelog.storage.checkpoint import Place, Plan, write_checkpoint
from oncelog.storage.contract import Rolling, Snapshot
from oncelog.storage.folder import Folder, sync_file, sync_folder, why
from oncelog.storage.index import LogIndex, Logs
from oncelog.storage.journal import PLACE_BITS, Journal
from oncelog.storage.mapped import MappedFiles
from oncelog.storage.segments import AreSound, SegmentFile, Segments, damaged, read_index, told_as_damage
from oncelog.storage.stretches import Stretch, StretchIndex
from oncelog.storage.writing import Chunk, SegmentWriter

#: Logs that one step on the owner's thread looks at.
_LOGS_A_STEP: Final = 64
#: Batches and bytes that are moved in one piece of work: a few hundred microseconds.
_CHUNK_BATCHES: Final = 512
_CHUNK_BYTES: Final = 512 * 1024
_SUM_STEP: Final = 16_384
#: Bytes moved before the pages of what was read are let go.
_MAPPED_BYTES_MAX: Final = 8 * 1024 * 1024
#: Work of at least so long is followed by a rest: at least long enough for another thread to get the interpreter.
_WORK_SECONDS: Final = 0.0003
_REST_SECONDS: Final = 0.0002
_REST_SECONDS_MAX: Final = 0.05


class Abandoned(Exception):
    """Not an error: the storage closes. The round is given up: the checkpoint from before stays."""


class Damage(NamedTuple):
    """What was met in a segment file that was to be written again."""

    log: LogId
    why: DamagedRecords


class _Unreadable(Exception):
    """A segment file can't be written again."""

    def __init__(self, number: int, damage: Damage) -> None:
        super().__init__(number)
        self.number, self.damage = number, damage


class Round:
    """One settling: what it is to do, and what came of it."""

    def __init__(
        self, place: Place, rows: Iterable[bytes], moved_below: int, segment: int, are_sound: AreSound | None
    ) -> None:
        self.place, self.rows = place, rows
        #: Asked of each batch of a file that is written again: the good copy goes afterwards.
        self.are_sound = are_sound
        #: Batches before this place of the journal move.
        self.moved_below = moved_below
        #: The number that a new segment file gets; those written again, with how often they were merged; those that still
        #: count; those of no use.
        self.segment = segment
        self.rewritten: dict[int, int] = {}
        self.kept: list[int] = []
        self.unneeded: list[int] = []
        #: What was met in files that are left as they are.
        self.damages: dict[int, Damage] = {}
        #: By log, in order: the stretches of files to be written again that still count, with their files.
        self.old: dict[LogId, list[tuple[int, Stretch]]] = {}
        #: A log of which all moves, whatever the place; and the file of a compaction, which counts from now on.
        self.moved_whole: LogId | None = None
        self.compacted: SegmentFile | None = None
        self.plans: list[Plan] = []
        self.journal_files: list[Path] = []
        self.outcome: SegmentFile | StorageError | None = None
        self.is_done = self.is_installing = False

    def leave(self, number: int, damage: Damage) -> None:
        """Write a file not again after all."""
        del self.rewritten[number]
        self.kept.append(number)
        self.damages[number] = damage


def plan_of(index: LogIndex, round_: Round, rolling: Callable[[LogId], Rolling]) -> Plan | None:
    """What becomes of one log's batches; None if nothing.

    A log of which nothing is retained has a plan too: a segment file that others keep may still hold a stretch of it, so that
    only the checkpoint can tell where the log goes on.
    """
    end = bisect_left(index.locations, round_.place.generation << PLACE_BITS | round_.place.offset)
    moved = end if index.id == round_.moved_whole else bisect_left(index.locations, round_.moved_below, 0, end)
    if index.offset_next < 0 or (
        index.first >= end and not moved and index.settled is not None and not round_.rewritten
    ):
        return None
    offset_next = index.offsets[end] if end < len(index.offsets) else index.offset_next
    return Plan(index, index.first, moved, end, offset_next, rolling(index.id))


class Pace:
    """Lets the settling rest after some work: ``rest`` times as long as it took, or next to nothing if it must hurry."""

    def __init__(self, is_hurried: Callable[[], bool], is_abandoned: Callable[[], bool], rest: float = 1.0) -> None:
        self._is_hurried, self._is_abandoned, self._rest = is_hurried, is_abandoned, rest
        self._begun = time.monotonic()

    def breathe(self) -> None:
        """Rest. Raises Abandoned."""
        if self._is_abandoned():
            raise Abandoned
        worked = time.monotonic() - self._begun
        if worked < _WORK_SECONDS:
            return
        time.sleep(
            _REST_SECONDS if self._is_hurried() else min(max(worked * self._rest, _REST_SECONDS), _REST_SECONDS_MAX)
        )
        self._begun = time.monotonic()


# -- on the thread ----------------------------------------------------------------------------------------------------


def settle(folder: Folder, round_: Round, breathe: Callable[[], None]) -> SegmentFile | None:
    """Carry a round out; the new segment file if there is something in it. Raises StorageError, Abandoned."""
    try:
        file = move(folder, round_, breathe)
        for path in round_.journal_files:
            sync_file(path)
        sync_folder(folder.journal)
        numbers = round_.kept + [new.number for new in (file, round_.compacted) if new is not None]
        write_checkpoint(folder.path, round_.place, numbers, round_.plans, round_.rows, breathe)
    except OSError as error:
        raise StorageError(f"Settling in {folder.path} failed: {error.strerror or error}.") from error
    return file


def move(folder: Folder, round_: Round, breathe: Callable[[], None]) -> SegmentFile | None:
    """Write the new segment file."""
    while True:
        try:
            return _moved(folder, round_, breathe)
        except _Unreadable as no:
            round_.leave(no.number, no.damage)


def _moved(folder: Folder, round_: Round, breathe: Callable[[], None]) -> SegmentFile | None:
    old, merges = _old_stretches(round_), max(round_.rewritten.values(), default=-1) + 1
    plans = [plan for plan in round_.plans if plan.moved > plan.first or plan.log.id in old]
    if not plans:
        return None
    bytes_expected = sum(stretch.size for stretches in old.values() for _, stretch in stretches)
    for plan in plans:
        for at in range(plan.first, plan.moved, _SUM_STEP):
            bytes_expected += sum(plan.log.lengths[at : min(at + _SUM_STEP, plan.moved)])
            breathe()
    path = folder.segments / f"{round_.segment:016d}.segment"
    is_needed = False
    writer = SegmentWriter(path, breathe)
    try:
        writer.allocate(bytes_expected)
        with MappedFiles(folder, _MAPPED_BYTES_MAX) as files:
            source = Source(files, round_.are_sound)
            for plan in plans:
                writer.begin(plan.log.id, plan.rolling)
                for number, stretch in old.get(plan.log.id, ()):
                    try:
                        for chunk in source.chunks(number, stretch, plan.log.offset_start):
                            writer.add(chunk)
                    except DamagedRecords as no:
                        raise _Unreadable(number, Damage(plan.log.id, no)) from no
                _move_from_journal(files, plan, writer)
        file = writer.finish(round_.segment, merges)
        is_needed = bool(file.stretches)
    finally:
        writer.close()
        if not is_needed:
            path.unlink()
    if not is_needed:
        return None
    sync_folder(folder.segments)
    return file


def _old_stretches(round_: Round) -> dict[LogId, list[tuple[int, Stretch]]]:
    """By log, in order: what is to be written again of the old files, with their numbers."""
    found: dict[LogId, list[tuple[int, Stretch]]] = {}
    for plan in round_.plans:
        for number, stretch in round_.old.get(plan.log.id, ()):
            if (
                number in round_.rewritten
                and stretch.offset_next > plan.log.offset_start
                and plan.log.settled is not None
            ):
                found.setdefault(plan.log.id, []).append((number, stretch))
    return found


def _move_from_journal(files: MappedFiles, plan: Plan, writer: SegmentWriter) -> None:
    for chunk in _journal_chunks(files, plan):
        try:
            writer.add(chunk)
        except OSError as error:
            if error.errno == errno.EFAULT:  # the kernel could not copy from the map
                raise files.unreadable(plan.log.id, chunk.offsets[0]) from error
            raise


def _journal_chunks(files: MappedFiles, plan: Plan) -> Iterator[Chunk]:
    index = plan.log
    at = max(plan.first, index.first)
    while at < plan.moved:
        to = _chunk_end(index.lengths[at : min(at + _CHUNK_BATCHES, plan.moved)].tolist()) + at
        lengths = index.lengths[at:to].tolist()
        pieces = files.of_journal(index.id, index.offsets[at], index.locations[at:to].tolist(), lengths)
        offset_next = index.offsets[to] if to < plan.end else plan.offset_next
        yield Chunk(index.offsets[at:to], index.timestamps[at:to], lengths, offset_next, pieces)
        at = to


class Source:
    """The batches of old stretches, each checked by ``are_sound`` if there is one. Raises DamagedRecords.

    A disk that reads something else once must not have it written in the place of what is right.
    """

    def __init__(self, files: MappedFiles, are_sound: AreSound | None) -> None:
        self._files, self._are_sound = files, are_sound

    def chunks(self, number: int, stretch: Stretch, offset_start: int) -> Iterator[Chunk]:
        """Of the stretch in file ``number``, from the batch that holds ``offset_start`` on."""
        for chunk in _old_chunks(self._files, number, stretch, offset_start):
            if self._are_sound is not None:
                ends = (*chunk.offsets[1:], chunk.offset_next)
                for offset, end, piece in zip(chunk.offsets, ends, chunk.pieces, strict=True):
                    if not self._are_sound(piece, offset, end):
                        raise damaged(self._files.path_of(number), stretch.at, offset, end)
            yield chunk


def _old_chunks(files: MappedFiles, number: int, stretch: Stretch, offset_start: int) -> Iterator[Chunk]:
    """Some in each piece of work."""
    path = files.path_of(number)
    bounds = stretch.offset, stretch.offset_next
    with told_as_damage(path, stretch.at, *bounds):
        descriptor = files.segment(number)
    batches = read_index(descriptor, path, stretch.at + stretch.size, stretch.batches, stretch.index_crc, *bounds)
    at = batches.place(offset_start)
    while at < stretch.batches:
        lengths = _lengths(batches, at, min(at + _CHUNK_BATCHES, stretch.batches))
        to = _chunk_end(lengths) + at
        del lengths[to - at :]
        offset_next = batches.offsets[to] if to < stretch.batches else stretch.offset_next
        with told_as_damage(path, stretch.at + batches.begin_of(at), batches.offsets[at], offset_next):
            pieces = files.of_segment(number, stretch.at + batches.begin_of(at), lengths)
        yield Chunk(batches.offsets[at:to], batches.timestamps[at:to], lengths, offset_next, pieces)
        at = to


def _lengths(batches: StretchIndex, start: int, end: int) -> list[int]:
    ends = [batches.begin_of(start), *batches.ends[start:end]]
    return [after - before for before, after in pairwise(ends)]


def _chunk_end(lengths: list[int]) -> int:
    """How many of these batches make one piece of work."""
    return max(1, bisect_right(list(accumulate(lengths)), _CHUNK_BYTES))


# -- on the owner's thread --------------------------------------------------------------------------------------------


class Settler:
    """Runs rounds, one at a time. ``on_settled`` is given the journal files that are of no use any more."""

    def __init__(
        self, folder: Folder, journal: Journal, logs: Logs, segments: Segments, *, journal_bytes: int, hurry_bytes: int
    ) -> None:
        self._folder, self._journal, self._logs, self._segments = folder, journal, logs, segments
        #: So many bytes of the newest journal files stay as they are: much of what they hold may expire before it must move.
        self._bytes_kept = journal_bytes // 2
        self._hurry_bytes = hurry_bytes
        self._round: Round | None = None
        self._steps: Iterator[None] = iter(())
        self._mover: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[Round | list[Path] | None] = queue.SimpleQueue()
        self._is_closing = False

    def start(
        self,
        snapshot: Snapshot,
        rollings: Callable[[LogId], Rolling],
        tell: Callable[[Callable[[], None]], None],
        on_settled: Callable[[list[tuple[int, Path]]], None],
        on_failed: Callable[[StorageError], None],
        on_damage: Callable[[Damage], None],
    ) -> None:
        """``tell`` runs a callable on the owner's thread."""
        self._snapshot, self._rollings, self._tell = snapshot, rollings, tell
        self._on_settled, self._on_failed, self._on_damage = on_settled, on_failed, on_damage
        self._mover = threading.Thread(target=self._run, name="oncelog settling", daemon=True)
        self._mover.start()

    @property
    def is_running(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    @property
    def can_free(self) -> bool:
        """Whether a round would make the journal smaller: not if its newest file, however large, is all there is."""
        return self._journal.oldest < self._journal.kept_from(self._bytes_kept)

    def begin(self, position: Position, moved_whole: LogId | None, compacted: SegmentFile | None) -> None:
        """Begin a round as of ``position``, up to which all is written; see ``Round`` for what compaction wants of it."""
        self._round = self._new_round(position, self._journal.kept_from(self._bytes_kept) << PLACE_BITS)
        if not self._is_hurried():
            self._round.rewritten = {
                number: self._segments.files[number].merges for number in self._segments.to_rewrite()
            }
        self._round.moved_whole, self._round.compacted = moved_whole, compacted
        self._steps = self._plan(self._round)
        self._step()

    def _new_round(self, position: Position, moved_below: int) -> Round:
        journal, segments = self._journal, self._segments
        place = Place(position, journal.generation, journal.offset)
        round_ = Round(place, self._snapshot(), moved_below, segments.take_number(), segments.are_sound)
        round_.unneeded = sorted(segments.unneeded)
        return round_

    def _step(self) -> None:
        """One step, then the owner has its turn."""
        if self._is_closing:
            return
        try:
            for _ in self._steps:
                self._tell(self._step)
                return
        except OSError as error:
            # To install a log whose records were deleted meanwhile, an index is read; nobody else would say it (law 7).
            failure = self._failure(error)
            failure.__cause__ = error
            self._on_failed(failure)

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(f"Settling in {self._folder.path} failed: {why(error)}.")

    def _plan(self, round_: Round) -> Iterator[None]:
        yield from self._plan_logs(round_)
        self._jobs.put(round_)

    def _plan_logs(self, round_: Round) -> Iterator[None]:
        gone = {*round_.unneeded, *round_.rewritten}
        round_.kept = [number for number in self._segments.files if number not in gone]
        round_.journal_files = self._journal.paths()
        indexes = list(self._logs.by_id.values())
        for at in range(0, len(indexes), _LOGS_A_STEP):
            yield
            for index in indexes[at : at + _LOGS_A_STEP]:
                if (plan := plan_of(index, round_, self._rollings)) is not None:
                    round_.plans.append(plan)
                settled = index.settled if round_.rewritten else None
                if settled is not None and (old := settled.listed(index.id, of=round_.rewritten)):
                    round_.old[index.id] = old

    def _run(self) -> None:
        """On the thread."""
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Round):
                self._carry_out(job)
            else:
                self._remove(job)

    def _remove(self, paths: list[Path]) -> None:
        """Law 7 here too: what can't be removed would fill the disk, and an end of this thread would tell nobody."""
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            failure = StorageError(f"Could not remove {path}: {error.strerror or error}.")
            self._tell(partial(self._on_failed, failure))

    def _carry_out(self, round_: Round) -> None:
        pace = Pace(self._is_hurried, lambda: self._is_closing)
        try:
            round_.outcome = settle(self._folder, round_, pace.breathe)
            round_.is_done = True
        except Abandoned:
            return
        except StorageError as error:
            # At once, and here: the loop hears nothing any more if it is closing.
            self._folder.forget_boot(error)
            round_.outcome = error
        finally:
            if not round_.is_done and round_.outcome is None and not self._is_closing:
                round_.outcome = StorageError("Settling ended by a bug of its own; see the traceback.")
            self._tell(partial(self._carried_out, round_))

    def _is_hurried(self) -> bool:
        return self._journal.bytes_used > self._hurry_bytes

    def _carried_out(self, round_: Round) -> None:
        if self._is_closing:
            return
        if isinstance(round_.outcome, StorageError):
            self._on_failed(round_.outcome)
            return
        self._steps = self._install(round_)
        self._step()

    def _install(self, round_: Round) -> Iterator[None]:
        """Let every log read from its new place, then give up the old ones."""
        file = round_.outcome
        assert not isinstance(file, StorageError)
        round_.is_installing = True
        new: dict[LogId, list[Stretch]] = {}
        if file is not None:
            self._segments.add(file)
            for stretch in file.stretches:
                new.setdefault(stretch.log, []).append(stretch)
        for number, plan in enumerate(round_.plans):
            if number % _LOGS_A_STEP == 0:
                yield
            yield from self._logs.let_go(plan.log, plan.moved)
            if plan.log.id in self._logs.by_id:
                self._install_log(plan, round_.segment, new.get(plan.log.id, []))
        yield
        if round_.compacted is not None:
            self._install_compacted(round_.compacted)
        gone = self._segments.give_up([*round_.unneeded, *round_.rewritten])
        if gone:
            self._jobs.put(gone)
        self._segments.damaged.update((number, damage.log) for number, damage in round_.damages.items())
        for damage in round_.damages.values():
            self._on_damage(damage)
        self._round = None
        self._on_settled(self._journal.give_up_before(round_.moved_below >> PLACE_BITS))

    def _install_log(self, plan: Plan, number: int, stretches: list[Stretch]) -> None:
        index = plan.log
        before = (index.settled.first, index.settled.skipped_bytes) if index.settled is not None else None
        for stretch in stretches:
            if stretch.offset_next > index.offset_start:
                self._segments.install(index, number, stretch)
        self._segments.skip(index)
        if before is not None and index.settled is not None and index.settled.first == before[0]:
            # What could not be skipped when it was trimmed, for the disk gave its index wrongly then.
            index.bytes_retained -= index.settled.skipped_bytes - before[1]
        index.give_up(plan.moved)

    def _install_compacted(self, file: SegmentFile) -> None:
        """All stretches of it are of one log, which may be gone."""
        self._segments.add(file)
        index = self._logs.by_id.get(file.stretches[0].log)
        if index is None or index.settled is None:
            return
        before = index.settled.bytes_retained
        for stretch in file.stretches:
            if stretch.offset_next > index.offset_start:
                self._segments.install(index, file.number, stretch)
        self._segments.skip(index)
        index.bytes_retained += (index.settled.bytes_retained if index.settled is not None else 0) - before

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the thread; what it is about is given up."""
        self._is_closing = True
        self._jobs.put(None)
        if self._mover is not None:
            self._mover.join()

    def finish(self, position: Position) -> None:
        """After ``end``: install what was carried out, and write a last checkpoint as of ``position``. Moves nothing.

        Raises StorageError.
        """
        try:
            self._finish(position)
        except OSError as error:
            raise self._failure(error) from error

    def _finish(self, position: Position) -> None:
        round_ = self._round
        if round_ is not None and round_.is_done:
            if not round_.is_installing:
                self._steps = self._install(round_)
            for _ in self._steps:
                continue
        self._remove_left()
        last = self._new_round(position, 0)
        for _ in self._plan_logs(last):
            continue
        settle(self._folder, last, lambda: None)
        self._jobs.put(self._segments.give_up(last.unneeded))
        self._remove_left()

    def _remove_left(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get()
            for path in job if isinstance(job, list) else ():
                path.unlink()
