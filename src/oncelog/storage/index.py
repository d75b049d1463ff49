"""Where every batch is: one compact index a log, and the newest batches' bytes in memory.

Arrays, not objects: a batch costs 28 bytes here, for as long as it is in the journal. What has been settled is in ``settled``,
which costs next to nothing a batch (stretches.py). ``tail`` holds references to the bytes of the newest batches, the same
objects that were appended. Batches of a log follow one another without gaps.

Knows nothing of files: what is no more in memory is read by the function that the owner gives.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from oncelog.model.ids import LogId
from oncelog.storage.contract import Rolling, TimedBatch
from oncelog.storage.stretches import Stretches

_STEP: Final = 1_024
#: Batches of a run that retention may remove as one, while they are in the journal.
_RUN_BATCHES_MAX: Final = 256
_RUN_BYTES_MAX: Final = 1_048_576
#: Below this mean size batches of the tail are joined: one copy is cheaper than many pieces.
_JOIN_MEAN_BYTES: Final = 16_384
_COMPACT_MIN: Final = 4_096
#: Batches that are let go of in one step.
_LET_GO_STEP: Final = 1_024
#: Batches in memory, however small: each costs some 50 bytes more than its own.
_TAIL_BATCHES_MAX: Final = 1_000_000

#: Reads batches i to j (exclusive) of an index that are not in memory.
Reader = Callable[["LogIndex", int, int], list[bytes | memoryview]]


class LogIndex:
    """The batches of one log: ``first`` is the index of the first in the journal that is retained.

    ``bytes_retained`` counts what is settled too.
    """

    __slots__ = (
        "bytes_retained", "first", "id", "lengths", "locations", "offset_next", "offset_start", "offsets", "settled",
        "tail", "tail_first", "timestamps",
    )  # fmt: skip

    def __init__(self, log: LogId) -> None:
        self.id = log
        self.offsets: array[int] = array("q")
        self.timestamps: array[int] = array("q")
        self.locations: array[int] = array("q")
        self.lengths: array[int] = array("I")
        self.offset_next = self.offset_start = -1
        self.first = 0
        self.bytes_retained = 0
        self.tail: list[bytes | None] = []
        #: Index (of the arrays) of the first batch that is in ``tail``.
        self.tail_first = 0
        self.settled: Stretches | None = None

    def append(self, offset: int, offset_next: int, timestamp_max: int, size: int, location: int) -> None:
        """Add the next batch."""
        assert offset == self.offset_next or self.offset_next < 0, f"{offset} after {self.offset_next} in log {self.id}"
        self.offsets.append(offset)
        self.timestamps.append(timestamp_max)
        self.locations.append(location)
        self.lengths.append(size)
        self.offset_next = offset_next
        self.bytes_retained += size

    def place(self, offset: int) -> int:
        """Index of the batch that holds ``offset``, or of the next one."""
        if offset >= self.offset_next:
            return len(self.offsets)
        return max(bisect_right(self.offsets, offset) - 1, self.first)

    def span(self, offset: int, offset_end: int, bytes_max: int, *, is_first: bool = True) -> tuple[int, int]:
        """From which batch to which a read goes: at least one if it is the first (rule R4), while within ``bytes_max``."""
        start = self.place(offset)
        end = bisect_left(self.offsets, offset_end, start) if start < len(self.offsets) else start
        if start >= end or (not is_first and self.lengths[start] > bytes_max):
            return start, start
        total, at = self.lengths[start], start + 1
        while at < end:
            sums = list(accumulate(self.lengths[at : min(end, at + _STEP)], initial=total))
            fit = bisect_right(sums, bytes_max) - 1
            if fit < len(sums) - 1:
                return start, at + max(fit, 0)
            at, total = at + len(sums) - 1, sums[-1]
        return start, end

    def read(
        self, offset: int, offset_end: int, bytes_max: int, reader: Reader, *, is_first: bool = True
    ) -> list[bytes | memoryview]:
        """The batches' bytes, from memory or by ``reader``; ``is_first``: nothing was read before."""
        start, end = self.span(offset, offset_end, bytes_max, is_first=is_first)
        if start == end:
            return []
        middle = min(max(start, self.tail_first), end)
        pieces: list[bytes | memoryview] = []
        if start < middle:
            pieces += reader(self, start, middle)
        if middle < end:
            held: list[bytes] = self.tail[middle - self.tail_first + self._dead : end - self.tail_first + self._dead]  # type: ignore[assignment]
            if len(held) > 1 and sum(self.lengths[middle:end]) < _JOIN_MEAN_BYTES * len(held):
                pieces.append(b"".join(held))
            else:
                pieces += held
        return pieces

    @property
    def _dead(self) -> int:
        """Slots of ``tail`` in front that hold nothing any more."""
        return len(self.tail) - (len(self.offsets) - self.tail_first)

    def forget_oldest(self) -> int:
        """Let the oldest batch in memory go; its bytes."""
        dead = self._dead
        if self.tail_first >= len(self.offsets):
            return 0
        self.tail[dead] = None
        size = self.lengths[self.tail_first]
        self.tail_first += 1
        if dead >= _COMPACT_MIN and dead * 2 > len(self.tail):
            del self.tail[: dead + 1]
        return size

    def give_up(self, gone: int) -> None:
        """Forget the first ``gone`` batches, settled or not retained; none of them is in memory."""
        assert gone <= self.tail_first
        del self.offsets[:gone], self.timestamps[:gone], self.locations[:gone], self.lengths[:gone]
        self.first = max(0, self.first - gone)
        self.tail_first -= gone

    def generations(self, bits: int) -> Iterator[tuple[int, int]]:
        """The journal files that hold its batches, and where they end there: their locations, parted at the lowest ``bits``."""
        at, end = self.first, len(self.locations)
        while at < end:
            generation = self.locations[at] >> bits
            at = bisect_left(self.locations, (generation + 1) << bits, at, end)
            yield generation, self.locations[at - 1] - (generation << bits) + self.lengths[at - 1]

    # -- by time ------------------------------------------------------------------------------------------------------

    def find_time(self, timestamp_ms: int, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The first batch in the bounds with at least that timestamp."""
        at, end = self._bounds(offset_start, offset_end)
        while at < end:
            step = self.timestamps[at : min(end, at + _STEP)]
            if max(step) >= timestamp_ms:
                found = at + next(i for i, timestamp in enumerate(step) if timestamp >= timestamp_ms)
                return TimedBatch(self.offsets[found], self.timestamps[found])
            at += len(step)
        return None

    def find_time_max(self, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The first of the batches in the bounds with the largest timestamp."""
        at, end = self._bounds(offset_start, offset_end)
        if at >= end:
            return None
        step = self.timestamps[at:end]
        found = at + step.index(max(step))
        return TimedBatch(self.offsets[found], self.timestamps[found])

    def _bounds(self, offset_start: int, offset_end: int) -> tuple[int, int]:
        start = self.place(offset_start)
        return start, (bisect_left(self.offsets, offset_end, start) if start < len(self.offsets) else start)

    # -- retention ----------------------------------------------------------------------------------------------------

    def trim(self, offset_start: int) -> None:
        """What ends at or before ``offset_start`` is not retained any more."""
        if offset_start <= self.offset_start:
            return
        self.offset_start = offset_start
        first = self.place(offset_start)
        self.bytes_retained -= sum(self.lengths[self.first : first])
        self.first = first

    def compact(self) -> None:
        """Give up the memory of what is not retained, now and then; only where nothing else knows the places."""
        gone = self.first
        if gone and gone * 2 >= len(self.offsets):
            del self.offsets[:gone], self.timestamps[:gone], self.locations[:gone], self.lengths[:gone]
            dead = max(0, gone - self.tail_first)
            del self.tail[: len(self.tail) - (len(self.offsets) + gone - self.tail_first) + dead]
            self.tail_first = max(0, self.tail_first - gone)
            self.first = 0

    def stretches(self, rolling: Rolling) -> Iterator[tuple[int, int, int]]:
        """(offset after it, largest timestamp, bytes) of what can be removed as one, the oldest first."""
        if self.settled is not None:
            yield from self.settled.for_retention()
        at, end = self.first, len(self.offsets)
        bytes_max = min(_RUN_BYTES_MAX, rolling.segment_bytes)
        while at < end:
            start, size = at, 0
            timestamp_max = self.timestamps[at] + rolling.segment_ms
            while at < end and at - start < _RUN_BATCHES_MAX:
                if at > start and (size + self.lengths[at] > bytes_max or self.timestamps[at] > timestamp_max):
                    break
                size += self.lengths[at]
                at += 1
            offset_next = self.offsets[at] if at < end else self.offset_next
            yield offset_next, max(self.timestamps[start:at]), size


class Logs:
    """All logs' indexes, and the bound on what is in memory."""

    def __init__(self, tail_bytes_max: int | None) -> None:
        self.by_id: dict[LogId, LogIndex] = {}
        self._tail_bytes_max = tail_bytes_max
        self._order: deque[LogIndex] = deque()
        self.tail_bytes = 0

    def of(self, log: LogId) -> LogIndex:
        """The log's index, made if it is new."""
        index = self.by_id.get(log)
        if index is None:
            index = self.by_id[log] = LogIndex(log)
        return index

    def hold(self, index: LogIndex, data: bytes) -> None:
        """Keep the bytes of the batch that was just appended in memory."""
        index.tail.append(data)
        self.tail_bytes += len(data)
        if self._tail_bytes_max is not None:
            self._order.append(index)

    def let_go(self, index: LogIndex, first: int) -> Iterator[None]:
        """Let the batches before ``first`` of a log go from memory, in small steps."""
        while index.tail_first < first:
            for _ in range(min(_LET_GO_STEP, first - index.tail_first)):
                self.tail_bytes -= index.forget_oldest()
            yield

    def bound(self) -> None:
        """Let the oldest batches in memory go; only when all are written somewhere else."""
        if self._tail_bytes_max is None:
            return
        while self.tail_bytes > self._tail_bytes_max or len(self._order) > _TAIL_BATCHES_MAX:
            self.tail_bytes -= self._order.popleft().forget_oldest()

    def drop(self, log: LogId) -> None:
        """Forget a log."""
        index = self.by_id.pop(log, None)
        if index is not None:
            self.tail_bytes -= sum(map(len, filter(None, index.tail)))
            index.first = index.tail_first = len(index.offsets)
            index.tail.clear()
