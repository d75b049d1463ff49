"""The settled part of a log: where its stretches are, and one stretch's batches.

A *stretch* is a contiguous run of one log's batches in a segment file, with its own small index beside it there. In memory it
costs 36 bytes, however many batches it has; the index of a stretch is read when it is needed.

Knows nothing of files.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator
from typing import Final, NamedTuple

from oncelog.model.ids import LogId
from oncelog.storage.contract import TimedBatch

#: Batches of one stretch: bounds what one look-up reads (20 bytes a batch) and searches.
STRETCH_BATCHES_MAX: Final = 16_384
#: Bytes of one stretch, whatever segment.bytes allows: retention is the more exact.
STRETCH_BYTES_MAX: Final = 64 * 1024 * 1024


class Stretch(NamedTuple):
    """One stretch as a segment file's directory has it; its index follows its ``size`` bytes at ``at``."""

    log: LogId
    offset: int
    offset_next: int
    timestamp_max: int
    at: int
    size: int
    batches: int
    index_crc: int


class StretchIndex(NamedTuple):
    """The batches of one stretch; ``ends`` are where each ends, from the stretch's start."""

    offsets: array[int]
    timestamps: array[int]
    ends: array[int]

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return self.offsets.tobytes() + self.timestamps.tobytes() + self.ends.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, count: int) -> StretchIndex:
        """Back from what was stored."""
        columns = cls(array("q"), array("q"), array("I"))
        at = 0
        for column in columns:
            size = count * column.itemsize
            column.frombytes(data[at : at + size])
            at += size
        return columns

    @staticmethod
    def size_of(count: int) -> int:
        """Bytes that it takes."""
        return count * 20

    def place(self, offset: int) -> int:
        """Which batch holds ``offset``; the first if all come later."""
        return max(bisect_right(self.offsets, offset) - 1, 0)

    def begin_of(self, batch: int) -> int:
        """Where a batch begins."""
        return self.ends[batch - 1] if batch else 0

    def fit(self, start: int, offset_end: int, bytes_max: int) -> tuple[int, int]:
        """(batch after the last that fits, batch after the last before ``offset_end``), from ``start`` on."""
        end = bisect_left(self.offsets, offset_end, start)
        return bisect_right(self.ends, self.begin_of(start) + bytes_max, start, end), end

    def find_time(self, timestamp_ms: int, start: int, end: int) -> TimedBatch | None:
        """The first of these batches with at least that timestamp."""
        for at in range(start, end):
            if self.timestamps[at] >= timestamp_ms:
                return TimedBatch(self.offsets[at], self.timestamps[at])
        return None

    def find_time_max(self, start: int, end: int) -> TimedBatch | None:
        """The first of these batches with the largest timestamp."""
        if start >= end:
            return None
        step = self.timestamps[start:end]
        found = start + step.index(max(step))
        return TimedBatch(self.offsets[found], self.timestamps[found])


class Stretches:
    """All stretches of one log, the oldest first, without gaps between them."""

    __slots__ = (
        "counts", "crcs", "offset_next", "offsets", "places", "segments", "sizes", "skipped_batches", "skipped_bytes",
        "timestamps",
    )  # fmt: skip

    def __init__(self) -> None:
        self.offsets: array[int] = array("q")
        self.timestamps: array[int] = array("q")
        self.segments: array[int] = array("I")
        self.places: array[int] = array("Q")
        self.sizes: array[int] = array("I")
        self.counts: array[int] = array("I")
        self.crcs: array[int] = array("I")
        self.offset_next = -1
        #: What is not retained any more at the beginning of the first stretch.
        self.skipped_batches = self.skipped_bytes = 0

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def first(self) -> tuple[int, int]:
        """Which one is the first: its segment and offset."""
        return self.segments[0], self.offsets[0]

    @property
    def bytes_retained(self) -> int:
        """Bytes of the batches that are retained."""
        return sum(self.sizes) - self.skipped_bytes

    def end_of(self, at: int) -> int:
        """The offset after a stretch."""
        return self.offsets[at + 1] if at + 1 < len(self.offsets) else self.offset_next

    def place(self, offset: int) -> int:
        """Which stretch holds ``offset``; the first if all come later."""
        return max(bisect_right(self.offsets, offset) - 1, 0)

    def span(self, offset_start: int, offset_end: int) -> range:
        """The stretches that hold something of these bounds."""
        if offset_start >= self.offset_next:
            return range(0)
        return range(self.place(offset_start), bisect_left(self.offsets, offset_end))

    def listed(self, log: LogId, of: Container[int] | None = None) -> list[tuple[int, Stretch]]:
        """All of them, or those ``of`` some segment files, with their files; the oldest first."""
        return [
            (segment, Stretch(log, offset, self.end_of(at), timestamp_max, place, size, count, crc))
            for at, (offset, timestamp_max, segment, place, size, count, crc) in enumerate(
                zip(*self._columns(), strict=True)
            )
            if of is None or segment in of
        ]

    def put(self, segment: int, new: Stretch) -> list[tuple[int, int]]:
        """Add a stretch, in place of those it was made from: their (segment, bytes)."""
        low = high = len(self.offsets)
        if new.offset < self.offset_next:
            low, high = self.place(new.offset), bisect_left(self.offsets, new.offset_next)
            if self.offsets[low] < new.offset and self.segments[low] == segment:
                low += 1  # that one is new itself, and ends where this one begins: in the middle of an old one
        replaced = list(zip(self.segments[low:high], self.sizes[low:high], strict=True))
        if low == 0 and replaced:
            self.skipped_batches = self.skipped_bytes = 0
        for column, value in zip(self._columns(), (new.offset, new.timestamp_max, segment, new.at, new.size, new.batches,
                                                   new.index_crc), strict=True):  # fmt: skip
            column[low:high] = array(column.typecode, (value,))
        self.offset_next = max(self.offset_next, new.offset_next)
        return replaced

    def cut_before(self, offset_start: int) -> list[tuple[int, int]]:
        """Forget the stretches that end at or before that offset: their (segment, bytes)."""
        gone = len(self.offsets) if offset_start >= self.offset_next else self.place(offset_start)
        removed = list(zip(self.segments[:gone], self.sizes[:gone], strict=True))
        if gone:
            self.skipped_batches = self.skipped_bytes = 0
            for column in self._columns():
                del column[:gone]
        return removed

    def _columns(self) -> tuple[array[int], ...]:
        return self.offsets, self.timestamps, self.segments, self.places, self.sizes, self.counts, self.crcs

    def for_retention(self) -> Iterator[tuple[int, int, int]]:
        """(offset after it, largest timestamp, bytes) of each."""
        skipped = self.skipped_bytes
        for at in range(len(self.offsets)):
            yield self.end_of(at), self.timestamps[at], self.sizes[at] - skipped
            skipped = 0
