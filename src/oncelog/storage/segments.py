"""Segment files: the second home of data. Each is written whole, once, by one settling, and never changed.

A file holds stretches of many logs: ``[batches of a stretch][its index]`` one after another, then a directory of all stretches
and a foot at the very end. One file for all logs, not one a log: a settling costs one file and one sync however many
partitions there are, and there is never anything to cut (docs/decisions/storage.md).

Which files count is said by the checkpoint; others are remains. Errors are OSError here; StorageError for a file that is
none; DamagedRecords for what the disk does not give back as it was given: that concerns one log, and nobody else.
In the machine's own byte order, as the checkpoint.
"""

from __future__ import annotations

import errno
import os
import struct
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from crc32c import crc32c

from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId
from oncelog.storage.contract import TimedBatch
from oncelog.storage.index import LogIndex, Logs
from oncelog.storage.journal import read_all
from oncelog.storage.stretches import Stretch, Stretches, StretchIndex

#: mark, file number, how often its data was merged, where the directory is, stretches, crc of the directory
FOOT: Final = struct.Struct("=8sQIQII")
DIRECTORY: Final = struct.Struct("=QqqqQIII")
MARK: Final = b"onceseg1"

#: Segment files that are held open; the least recently read is closed.
_OPEN_MAX: Final = 64
#: Stretches whose index is held in memory, up to 320 KiB each.
_INDEXES_MAX: Final = 32

#: A file of which less is still retained is written again.
_LIVE_SHARE: Final = 0.5
#: A file whose stretches are smaller than this on average is merged with others ...
_SMALL_STRETCH_BYTES: Final = 256 * 1024
#: ... once so many have come together that were merged as often; and not more than so often.
_MERGE_FILES: Final = 8
_MERGES_MAX: Final = 2
#: Bytes that one settling may write again, so that the journal is not kept waiting for long.
_REWRITE_BYTES_MAX: Final = 1024 * 1024 * 1024


#: What the machine may lack now, whatever is on the disk.
_LACKED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

#: Whether batches are what was written, and lie between two offsets; how, storage does not know (law 6).
AreSound = Callable[[bytes | memoryview, int, int], bool]


def damaged(path: Path, at: int, offset: int, offset_end: int) -> DamagedRecords:
    """What readers are told of batches between two offsets that the disk has changed."""
    return DamagedRecords(
        f"{path} is damaged at or after byte {at}: batches from offset {offset} on are not what was written",
        offset,
        offset_end,
    )


@contextmanager
def told_as_damage(path: Path, at: int, offset: int, offset_end: int) -> Iterator[None]:
    """For its readers what the disk does not give at all is as lost as what it has changed. Raises DamagedRecords, OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in _LACKED:
            raise
        why = error.strerror or error
        said = f"{path} can't be read at byte {at}, from offset {offset} on: {why}"
        raise DamagedRecords(said, offset, offset_end) from error


class Segment:
    """What is known of one file: its size, and how much of it is still retained."""

    __slots__ = ("bytes_retained", "merges", "number", "size", "stretches_retained")

    def __init__(self, number: int, size: int, merges: int) -> None:
        self.number, self.size, self.merges = number, size, merges
        self.bytes_retained = self.stretches_retained = 0


class SegmentFile(NamedTuple):
    """A segment file as it is on disk."""

    number: int
    size: int
    merges: int
    stretches: list[Stretch]


class Segments:
    """All segment files that count, on the owner's thread."""

    def __init__(self, folder: Path, are_sound: AreSound | None = None) -> None:
        self._folder, self.are_sound = folder, are_sound
        self.files: dict[int, Segment] = {}
        #: Files of which nothing is retained any more.
        self.empty: set[int] = set()
        #: Files that a compaction reads: neither written again nor removed meanwhile.
        self.pinned: set[int] = set()
        #: Files that could not be read whole: they are not written again, and stay until nothing is retained of them.
        #: The log is the one that was met damaged in it.
        self.damaged: dict[int, LogId] = {}
        self.number_next = 1
        self._open: OrderedDict[int, int] = OrderedDict()
        self._indexes: OrderedDict[tuple[int, int], StretchIndex] = OrderedDict()

    def path_of(self, number: int) -> Path:
        """The file of a number."""
        return self._folder / f"{number:016d}.segment"

    # -- opening ------------------------------------------------------------------------------------------------------

    def load(self, numbers: Iterable[int], logs: Logs) -> None:
        """Take up the files that the checkpoint names."""
        found = [read_segment(self.path_of(number)) for number in sorted(set(numbers))]
        for file in found:
            self.add(file)
        for stretch, number in _counting(found):
            self.install(logs.of(stretch.log), number, stretch)
        for index in logs.by_id.values():
            if index.settled is not None:
                index.bytes_retained += index.settled.bytes_retained

    def take_number(self) -> int:
        """The number of a new file."""
        self.number_next += 1
        return self.number_next - 1

    @property
    def unneeded(self) -> set[int]:
        """Files that can be removed once no checkpoint names them."""
        return self.empty - self.pinned

    def remains(self) -> list[Path]:
        """What no checkpoint names: a settling that came to no end has left it, unless the checkpoint itself is lost."""
        counting = {self.path_of(number) for number in self.files}
        return [path for path in self._folder.iterdir() if ".segment" in path.name and path not in counting]

    def add(self, file: SegmentFile) -> None:
        """A new file; its stretches are installed one by one."""
        self.files[file.number] = Segment(file.number, file.size, file.merges)
        self.empty.add(file.number)
        self.number_next = max(self.number_next, file.number + 1)

    def install(self, index: LogIndex, number: int, stretch: Stretch) -> None:
        """Let readers of the log have a stretch from its file."""
        settled = index.settled
        if settled is None:
            settled = index.settled = Stretches()
        self._forget(index.id, settled.put(number, stretch))
        segment = self.files[number]
        segment.bytes_retained += stretch.size
        segment.stretches_retained += 1
        self.empty.discard(number)
        index.offset_next = max(index.offset_next, stretch.offset_next)

    def _forget(self, log: LogId, stretches: list[tuple[int, int]]) -> None:
        for number, size in stretches:
            segment = self.files[number]
            segment.bytes_retained -= size
            segment.stretches_retained -= 1
            if self.damaged.get(number) == log:
                del self.damaged[number]  # what is forgotten may be what was damaged: it is tried again
            if not segment.stretches_retained:
                self.empty.add(number)

    # -- what is not needed any more ----------------------------------------------------------------------------------

    def trim(self, index: LogIndex) -> None:
        """Forget what ends before the log's start. Reads the index of the stretch that it falls into."""
        settled = index.settled
        if settled is None:
            return
        before = settled.bytes_retained
        self.skip(index)
        index.bytes_retained += settled.bytes_retained - before

    def skip(self, index: LogIndex) -> None:
        """Make the log's stretches begin where the log does; its count of bytes is left to the caller."""
        settled = index.settled
        if settled is None:
            return
        self._forget(index.id, settled.cut_before(index.offset_start))
        if not settled:
            index.settled = None
        elif index.offset_start > settled.offsets[0]:
            try:
                batches = self._index_of(settled, 0)
            except DamagedRecords:
                return  # Its readers are told; until the whole stretch may go, all of it counts as retained.
            settled.skipped_batches = batches.place(index.offset_start)
            settled.skipped_bytes = batches.begin_of(settled.skipped_batches)

    def drop(self, index: LogIndex) -> None:
        """Forget all of a log."""
        if index.settled is not None:
            self._forget(index.id, list(zip(index.settled.segments, index.settled.sizes, strict=True)))
            index.settled = None

    def to_rewrite(self) -> list[int]:
        """Files to move again: those with little retained in them, and many with only small stretches."""
        chosen: list[Segment] = []
        small: dict[int, list[Segment]] = {}
        for segment in self.files.values():
            if not segment.stretches_retained or segment.number in self.pinned or segment.number in self.damaged:
                continue
            if segment.bytes_retained < segment.size * _LIVE_SHARE:
                chosen.append(segment)
            elif (
                segment.bytes_retained < segment.stretches_retained * _SMALL_STRETCH_BYTES
                and segment.merges < _MERGES_MAX
            ):
                small.setdefault(segment.merges, []).append(segment)
        chosen += (segment for group in small.values() if len(group) >= _MERGE_FILES for segment in group)
        numbers: list[int] = []
        total = 0
        for segment in chosen:
            total += segment.bytes_retained
            if numbers and total > _REWRITE_BYTES_MAX:
                break
            numbers.append(segment.number)
        return numbers

    def give_up(self, numbers: Iterable[int]) -> list[Path]:
        """Files that no checkpoint names any more; to be removed."""
        gone: list[Path] = []
        for number in numbers:
            segment = self.files.pop(number)
            self.empty.discard(number)
            self.damaged.pop(number, None)
            assert not segment.stretches_retained, f"segment file {number} is still needed"
            if (descriptor := self._open.pop(number, None)) is not None:
                os.close(descriptor)
            gone.append(self.path_of(number))
        return gone

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, settled: Stretches, offset: int, offset_end: int, bytes_max: int) -> tuple[list[bytes], int, bool]:
        """Batches as the contract says (rule R4): (pieces, bytes left, whether the read goes on after them).

        It ends before a stretch that is damaged: who comes for that one is told.
        """
        pieces: list[bytes] = []
        left = bytes_max
        for at in settled.span(offset, offset_end):
            try:
                batches = self._index_of(settled, at)
            except DamagedRecords:
                if pieces:
                    return pieces, left, False
                raise
            start = max(batches.place(offset), settled.skipped_batches if at == 0 else 0)
            fit, end = batches.fit(start, offset_end, left)
            if fit == start and start < end and not pieces:
                fit = start + 1
            if fit > start:
                begin, size = batches.begin_of(start), batches.ends[fit - 1] - batches.begin_of(start)
                number, place, first = settled.segments[at], settled.places[at] + begin, batches.offsets[start]
                after = batches.offsets[fit] if fit < len(batches.offsets) else settled.end_of(at)
                try:
                    pieces.append(read_all(self._descriptor(number), size, place))
                except OSError:
                    with told_as_damage(self.path_of(number), place, first, after):
                        raise
                left -= size
                if self.are_sound is not None and not self.are_sound(pieces[-1], first, after):
                    raise damaged(self.path_of(number), place, first, after)
            if fit < end or end < len(batches.offsets):
                return pieces, left, False
        return pieces, left, settled.offset_next < offset_end

    def find_time(self, settled: Stretches, timestamp_ms: int, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The first batch in the bounds with at least that timestamp."""
        for at in settled.span(offset_start, offset_end):
            if settled.timestamps[at] >= timestamp_ms:
                batches, start, end = self._bounds(settled, at, offset_start, offset_end)
                if (found := batches.find_time(timestamp_ms, start, end)) is not None:
                    return found
        return None

    def find_time_max(self, settled: Stretches, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The first of the batches in the bounds with the largest timestamp."""
        best: TimedBatch | None = None
        for at in settled.span(offset_start, offset_end):
            if best is None or settled.timestamps[at] > best.timestamp_max:
                batches, start, end = self._bounds(settled, at, offset_start, offset_end)
                found = batches.find_time_max(start, end)
                if found is not None and (best is None or found.timestamp_max > best.timestamp_max):
                    best = found
        return best

    def _bounds(self, settled: Stretches, at: int, offset_start: int, offset_end: int) -> tuple[StretchIndex, int, int]:
        batches = self._index_of(settled, at)
        start = max(batches.place(offset_start), settled.skipped_batches if at == 0 else 0)
        return batches, start, batches.fit(start, offset_end, 0)[1]

    def _index_of(self, settled: Stretches, at: int) -> StretchIndex:
        number, place = settled.segments[at], settled.places[at]
        found = self._indexes.get((number, place))
        if found is not None:
            self._indexes.move_to_end((number, place))
            return found
        path, index_at = self.path_of(number), place + settled.sizes[at]
        bounds = settled.offsets[at], settled.end_of(at)
        with told_as_damage(path, index_at, *bounds):
            descriptor = self._descriptor(number)
        found = read_index(descriptor, path, index_at, settled.counts[at], settled.crcs[at], *bounds)
        self._indexes[number, place] = found
        if len(self._indexes) > _INDEXES_MAX:
            self._indexes.popitem(last=False)
        return found

    def _descriptor(self, number: int) -> int:
        descriptor = self._open.get(number)
        if descriptor is not None:
            self._open.move_to_end(number)
            return descriptor
        descriptor = self._open[number] = os.open(self.path_of(number), os.O_RDONLY | os.O_CLOEXEC)
        if len(self._open) > _OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def read_index(
    descriptor: int, path: Path, at: int, count: int, crc: int, offset: int, offset_end: int
) -> StretchIndex:
    """The index of a stretch, which lies between two offsets. Raises DamagedRecords."""
    with told_as_damage(path, at, offset, offset_end):
        data = read_all(descriptor, StretchIndex.size_of(count), at)
    if crc32c(data) != crc:
        said = f"{path} is damaged at byte {at}: the index of the batches from offset {offset} on"
        raise DamagedRecords(said, offset, offset_end)
    return StretchIndex.from_bytes(data, count)


def read_segment(path: Path) -> SegmentFile:
    """The directory of a file. Raises StorageError if it is not there, or damaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StorageError(f"The segment file {path} is missing: restore it from a copy.") from None
    try:
        size = os.fstat(descriptor).st_size
        place = max(size - FOOT.size, 0)
        foot = os.pread(descriptor, FOOT.size, place)
        mark, number, merges, at, count, crc = FOOT.unpack(foot) if len(foot) == FOOT.size else (b"", 0, 0, 0, 0, 0)
        if mark != MARK or at + count * DIRECTORY.size > place or path.stem != f"{number:016d}":
            raise StorageError(
                f"The segment file {path} is damaged: bad foot at offset {place}. Restore it from a copy."
            )
        data = read_all(descriptor, count * DIRECTORY.size, at)
        if crc32c(data) != crc:
            raise StorageError(
                f"The segment file {path} is damaged: bad directory at offset {at}. Restore it from a copy."
            )
    finally:
        os.close(descriptor)
    return SegmentFile(number, size, merges, list(_stretches(data)))


def _counting(files: list[SegmentFile]) -> list[tuple[Stretch, int]]:
    """All stretches with their files' numbers, each log's by offset; not those that a newer file has instead (compaction)."""
    by_log: dict[LogId, list[tuple[Stretch, int]]] = {}
    for file in files:
        for stretch in file.stretches:
            by_log.setdefault(stretch.log, []).append((stretch, file.number))
    counting: list[tuple[Stretch, int]] = []
    for stretches in by_log.values():
        stretches.sort(key=lambda item: item[0].offset)
        if any(before.offset_next > after.offset for (before, _), (after, _) in pairwise(stretches)):
            stretches = _newest(stretches)
        counting += stretches
    return counting


def _newest(stretches: list[tuple[Stretch, int]]) -> list[tuple[Stretch, int]]:
    """Where stretches of a log overlap, the newest file's: it holds all that still counts of the others there."""
    kept: list[tuple[Stretch, int]] = []
    for stretch, number in sorted(stretches, key=lambda item: -item[1]):
        at = bisect_left(kept, stretch.offset, key=lambda item: item[0].offset)
        if (at == 0 or kept[at - 1][0].offset_next <= stretch.offset) and (
            at == len(kept) or kept[at][0].offset >= stretch.offset_next
        ):
            kept.insert(at, (stretch, number))
    return kept


def _stretches(data: bytes) -> Iterator[Stretch]:
    for log, offset, offset_next, timestamp_max, at, size, count, crc in DIRECTORY.iter_unpack(data):
        yield Stretch(LogId(log), offset, offset_next, timestamp_max, at, size, count, crc)
