"""Compaction: which logs are due, and what becomes of each batch (rules R1, R2; docs/decisions/compaction.md).

A *sweep* goes over one log twice. First it looks at the batches since the last sweep and notes each key's newest offset,
then it writes the whole log again without the records that have a newer one. What an aborted transaction has written goes,
and what it says counts for nothing. Offsets and order stay. Nothing at or above the last stable offset is touched.

``Sweep`` runs on a thread of the storage's own: it takes what it needs of the log when it is made, on the loop, and of that
nothing changes afterwards. Pure: time and chance are arguments.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from oncelog.engine.decision import NOTHING, Decision, Level
from oncelog.engine.state import Log, State
from oncelog.model.batch import read_header
from oncelog.model.errors import DamagedRecords, Refusal
from oncelog.model.header import DELETE_HORIZON, TIMESTAMP_LOG_APPEND, BatchHeader
from oncelog.model.ids import LogId, ProducerId
from oncelog.model.rewriting import Keyed, keyed_records, opened, rewritten
from oncelog.model.rows import AbortedRange, LogCompacted

#: Bytes of memory that a key in the map costs: its hash or itself, its offset, its place in a dict. Measured.
KEY_BYTES: Final = 200
#: Less than so much that is new is not worth a sweep, unless it has waited for long.
DIRTY_BYTES_MIN: Final = 8 * 1024 * 1024
#: Keys up to here are noted as they are, longer ones by a hash one byte longer: the two are never taken for one another.
_KEY_BYTES_MAX: Final = 15
_HASH_BYTES: Final = 16
_UNLIMITED: Final = 2**63 - 1


class Due(NamedTuple):
    """A log that is to be compacted up to ``offset_end``; the largest ``urgency`` first."""

    urgency: float
    log: LogId
    offset_end: int


def find_due(
    log: Log, stretches: Iterable[tuple[int, int, int]], now_ms: int, timestamp_at: Callable[[int], int]
) -> Due | None:
    """Whether a log is to be compacted, and how far.

    ``stretches`` as for retention. ``timestamp_at`` gives the time of the first record at or after an offset; it is only
    asked for where max.compaction.lag.ms is set.
    """
    settings = log.settings
    bound = min(log.stable_offset, log.high_watermark)
    clean_bytes = dirty_bytes = dirty_ms = 0
    end = log.offset_compacted
    for offset_next, timestamp_max, size_bytes in stretches:
        if offset_next <= log.offset_compacted:
            clean_bytes += size_bytes
            continue
        is_young = 0 < settings.compaction_lag_ms_min > now_ms - timestamp_max
        if offset_next > bound or is_young:
            break
        if not dirty_bytes:
            dirty_ms = timestamp_max
        dirty_bytes += size_bytes
        end = offset_next
    if not dirty_bytes:
        return None
    if settings.compaction_lag_ms_max < _UNLIMITED:
        waited_ms = now_ms - timestamp_at(max(log.offset_compacted, log.offset_start))
        if waited_ms >= settings.compaction_lag_ms_max:
            return Due(2.0, log.id, end)
    if dirty_bytes < min(settings.segment_bytes, DIRTY_BYTES_MIN) and now_ms - dirty_ms < settings.segment_ms:
        return None
    ratio = dirty_bytes / (clean_bytes + dirty_bytes)
    return Due(ratio, log.id, end) if ratio > settings.dirty_ratio_min else None


def decide_compacted(state: State, sweep: Sweep) -> Decision:
    """A sweep is on disk, and readers read what it has left: remember how far it went.

    The aborted transactions that ended before are not listed any more, for nothing of them is left (rule R2).
    """
    log = state.logs.get(sweep.log)
    if log is None or sweep.offset_swept <= log.offset_compacted:
        return NOTHING
    return Decision(rows=(LogCompacted(sweep.log, sweep.offset_swept),), level=Level.NOTHING)


class Sweep:
    """One compaction of one log: the storage's ``Compaction``.

    ``offset_end`` is how far it goes; ``look`` may find that less must do. The last batch before it is left as it is, so
    that the log always ends in a batch, and is looked at again by the next sweep.
    """

    def __init__(self, log: Log, offset_end: int, *, keys_max: int, now_ms: int, certain_ms: int, salt: bytes) -> None:
        """``certain_ms`` is a time that has certainly been reached, ``now_ms`` one that may be a little ahead."""
        self.log = log.id
        self.offset_first = max(log.offset_compacted - 1, log.offset_start)
        self.offset_end = offset_end
        #: Where the last batch ends that it has looked at.
        self.offset_swept = 0
        self.damage: DamagedRecords | None = None
        self.bytes_before = self.bytes_after = 0
        self._swept_before = log.offset_compacted
        self._horizon_ms = min(now_ms + log.settings.tombstone_ms, _UNLIMITED)
        self._certain_ms = certain_ms
        self._keys_max, self._salt = keys_max, salt
        #: The state only ever appends to this list, or makes another.
        self._aborted, self._aborted_count = log.aborted, len(log.aborted)
        self._ranges: dict[ProducerId, list[tuple[int, int]]] | None = None
        self._newest: dict[bytes, int] = {}
        self._batches_looked = 0
        self._last_offset = -1
        #: Whether every batch so far could be opened: an older value may be in one that can't.
        self._is_whole = True

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self, batch: bytes | memoryview, breathe: Callable[[], None]) -> bool:
        """Note the keys of the next batch. False: it does not fit, and the sweep ends before it."""
        if self._batches_looked > 1 and len(self._newest) >= self._keys_max:
            return False
        header = read_header(batch)
        self._batches_looked += 1
        self._last_offset = header.base_offset
        self.offset_end = self.offset_swept = header.offset_next
        if header.is_control or self._is_aborted(header):
            return True
        try:
            found = {
                self._noted(record.key): header.base_offset + record.offset_delta
                for record in keyed_records(opened(batch, header), header, breathe)
                if record.key is not None
            }
        except Refusal:
            return True  # what can't be opened supersedes nothing, and stays
        self._newest.update(found)
        return True

    def _noted(self, key: bytes) -> bytes:
        if len(key) <= _KEY_BYTES_MAX:
            return key
        return blake2b(key, digest_size=_HASH_BYTES, key=self._salt).digest()

    def _is_aborted(self, header: BatchHeader) -> bool:
        if not header.is_transactional:
            return False
        if self._ranges is None:
            self._ranges = _by_producer(self._aborted, self._aborted_count)
        ranges = self._ranges.get(header.producer_id)
        if ranges is None:
            return False
        at = bisect_right(ranges, (header.base_offset, _UNLIMITED)) - 1
        return at >= 0 and header.base_offset < ranges[at][1]

    # -- writing again ------------------------------------------------------------------------------------------------

    def rewrite(
        self, batch: memoryview, timestamp_max: int, breathe: Callable[[], None]
    ) -> tuple[bytes | memoryview, int] | None:
        """What is left of a batch, with its largest time; None if nothing is."""
        left = self._left(batch, timestamp_max, breathe)
        self.bytes_before += len(batch)
        self.bytes_after += len(left[0]) if left is not None else 0
        return left

    def _left(
        self, batch: memoryview, timestamp_max: int, breathe: Callable[[], None]
    ) -> tuple[bytes | memoryview, int] | None:
        header = read_header(batch)
        if header.base_offset >= self._last_offset:
            return batch, timestamp_max
        if header.is_control:
            # A commit marker tells a reader nothing. An abort marker ends what the aborted list has begun.
            return (batch, timestamp_max) if self._is_listed(header.base_offset) else None
        if self._is_aborted(header):
            return None
        try:
            return self._without_superseded(batch, header, timestamp_max, breathe)
        except Refusal:
            self._is_whole = False
            return batch, timestamp_max

    def _is_listed(self, offset_marker: int) -> bool:
        at = bisect_left(
            self._aborted, offset_marker, 0, self._aborted_count, key=lambda aborted: aborted.offset_marker
        )
        return at < self._aborted_count and self._aborted[at].offset_marker == offset_marker

    def _without_superseded(
        self, batch: memoryview, header: BatchHeader, timestamp_max: int, breathe: Callable[[], None]
    ) -> tuple[bytes | memoryview, int] | None:
        body = opened(batch, header)
        #: An earlier sweep has taken all older values of the tombstones in it.
        is_swept = header.offset_next < self._swept_before and self._is_whole
        has_horizon = bool(header.attributes & DELETE_HORIZON)
        is_past = is_swept and has_horizon and header.timestamp_base <= self._certain_ms
        kept: list[tuple[int, int]] = []
        count, delta_max, has_tombstone = 0, -_UNLIMITED, False
        for record in keyed_records(body, header, breathe):
            if self._is_superseded(header, record) or (is_past and record.is_tombstone and record.key is not None):
                continue
            count += 1
            has_tombstone |= record.is_tombstone and record.key is not None
            delta_max = max(delta_max, record.timestamp_delta)
            if kept and kept[-1][1] == record.start:
                kept[-1] = kept[-1][0], record.end
            else:
                kept.append((record.start, record.end))
        if not count:
            return None
        gets_horizon = is_swept and has_tombstone and not has_horizon
        if count == header.record_count and not gets_horizon:
            return batch, timestamp_max
        if not header.attributes & TIMESTAMP_LOG_APPEND:
            timestamp_max = header.timestamp_base + delta_max
        data = rewritten(
            batch,
            header,
            body,
            kept,
            count=count,
            timestamp_max=timestamp_max,
            horizon_ms=self._horizon_ms if gets_horizon else None,
        )
        return data, timestamp_max

    def _is_superseded(self, header: BatchHeader, record: Keyed) -> bool:
        """Records without a key stay: they are from before the topic was compacted."""
        if record.key is None:
            return False
        offset = header.base_offset + record.offset_delta
        return self._newest.get(self._noted(record.key), offset) > offset


def _by_producer(aborted: list[AbortedRange], count: int) -> dict[ProducerId, list[tuple[int, int]]]:
    """(first offset, marker) of each producer's aborted transactions, in order."""
    found: dict[ProducerId, list[tuple[int, int]]] = {}
    for at in range(count):
        one = aborted[at]
        found.setdefault(one.producer_id, []).append((one.offset_first, one.offset_marker))
    return found
