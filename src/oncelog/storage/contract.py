"""The contract between the broker and any storage; tests/contracts runs one suite on every engine that keeps it.

An *entry* is what one decision changes: encoded rows and whole record batches, atomic. Entries get consecutive
positions from 1. A position is *appended* (in memory, ordered), then *written* (handed to the operating system:
survives kill -9), then *synced* (on disk: survives the machine). All calls come from one thread, the broker's loop;
the storage may own threads, but calls back only through ``Notify``, on the loop.

Data has two homes: the journal, where every entry is written once before anybody is told, and the segments, where
*settling* moves what is still retained from the journal's oldest files, beside the loop. ``read`` gives the same bytes
from memory, journal and segments.

Failure: any StorageError, raised or notified, is final. The storage accepts nothing afterwards (law 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId, Position


class StoredBatch(NamedTuple):
    """A record batch on its way in: stamped with its base offset, unchanged ever after."""

    log: LogId
    offset: int
    offset_next: int
    timestamp_max: int
    data: bytes


class Entry(NamedTuple):
    """What one decision changes: encoded rows (may be empty) and batches."""

    rows: bytes
    batches: Sequence[StoredBatch]


class Recovered(NamedTuple):
    """What ``open`` found: the newest checkpoint's row chunks, then the entries after it, in order.

    Both are lazy and must be read to the end, in this order, before anything else is called. ``is_same_boot`` is False
    if the machine was started anew since the storage was last open (rule D2). For batches of replayed entries ``data``
    may be the header's 61 bytes and more, not necessarily the whole batch: control batches are whole.
    """

    checkpoint: Iterable[bytes]
    entries: Iterable[tuple[Position, Entry]]
    is_same_boot: bool


class TimedBatch(NamedTuple):
    """Where a batch starts and what it holds, for look-ups by time."""

    offset: int
    timestamp_max: int


class Rolling(NamedTuple):
    """How large and how long in time a stretch of a log may get: what retention removes as one (segment.bytes, segment.ms)."""

    segment_bytes: int
    segment_ms: int


class Compaction(Protocol):
    """What a compaction does with the batches of ``log``, in order; called on a thread of the storage's own.

    First it looks at those from ``offset_first`` on and before ``offset_end``; then all are written again. Both functions
    call ``breathe`` every few hundred microseconds.
    """

    log: LogId
    offset_first: int
    #: After the looking: where the last batch ends that was looked at.
    offset_end: int
    #: Set if the disk has changed some of the log: then the compaction was given up.
    damage: DamagedRecords | None

    def look(self, batch: memoryview, breathe: Callable[[], None]) -> bool:
        """See the next batch. False: no more of them, please."""

    def rewrite(
        self, batch: memoryview, timestamp_max: int, breathe: Callable[[], None]
    ) -> tuple[bytes | memoryview, int] | None:
        """What is left of a batch, and its largest timestamp; None if nothing is.

        The last one before ``offset_end`` must stay, and all after it, as they are.
        """


class Notify(Protocol):
    """What the storage tells its owner, always on the owner's thread (the loop)."""

    def synced(self, position: Position) -> None:
        """All entries up to ``position`` are on disk."""

    def relieved(self) -> None:
        """``is_behind`` may be False again."""

    def failed(self, error: StorageError) -> None:
        """The storage has failed for good."""

    def damaged(self, log: LogId, why: DamagedRecords) -> None:
        """The disk was met to have changed something of a log at or after ``offset``, though nobody has read it."""


#: Gives the rows of everything as of this instant, in chunks that are each cheap to encode.
Snapshot = Callable[[], Iterable[bytes]]
#: How a log is cut into stretches; asked on the owner's thread, of any log, a dropped one too.
Rollings = Callable[[LogId], Rolling]


class Storage(Protocol):
    """A durable, ordered journal of entries, with random access to the batches of every log."""

    @property
    def position_appended(self) -> Position:
        """The newest position given out."""

    @property
    def position_written(self) -> Position:
        """Up to here, kill -9 takes nothing."""

    @property
    def position_synced(self) -> Position:
        """Up to here, nothing takes anything."""

    @property
    def bytes_unsynced(self) -> int:
        """Bytes appended and not yet synced, for the bound in model/limits.py."""

    @property
    def sync_seconds(self) -> float:
        """How long the newest sync took that ``Notify.synced`` told of; 0 where nothing is synced to a disk."""

    @property
    def journal_bytes(self) -> int:
        """Bytes that the journal has on disk."""

    @property
    def is_behind(self) -> bool:
        """Settling can't keep up and the journal is at its bound: the owner appends little until it is False again."""

    def open(self) -> Recovered:
        """Lock the folder, recover. Raises StorageError with one clear sentence."""

    def start(
        self,
        notify: Notify,
        post: Callable[[Callable[[], None]], object],
        snapshot: Snapshot,
        rollings: Rollings | None = None,
    ) -> None:
        """After recovery: begin to work. ``post`` runs a callable on the owner's thread and may be called from any."""

    def append(self, entry: Entry) -> Position:
        """Queue an entry; it is readable by ``read`` at once. Does no I/O."""

    def flush(self) -> None:
        """Hand everything appended to the operating system in one vectored write; then it is *written*."""

    def sync_soon(self) -> None:
        """Have everything written so far synced; ``Notify.synced`` tells. Calls while a sync runs make one more."""

    def read(self, log: LogId, offset: int, *, offset_end: int, bytes_max: int) -> list[bytes | memoryview]:
        """Whole batches from the one that holds ``offset`` (or the next one after it) and before ``offset_end``.

        At least one batch if there is one (rule R4), then while the sum stays within ``bytes_max``. Pieces may hold
        several batches each; a memoryview is valid for as long as it is referenced. Nothing there: []. Raises DamagedRecords
        if what the disk gives is not what it was given.
        """

    def find_time(self, log: LogId, timestamp_ms: int, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The first batch in the bounds with ``timestamp_max`` >= ``timestamp_ms``."""

    def find_time_max(self, log: LogId, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """The batch with the largest ``timestamp_max`` in the bounds, the first of several."""

    def trim(self, log: LogId, offset_start: int) -> None:
        """Nothing before ``offset_start`` is needed any more. Told again at the next start by the rows."""

    def drop(self, log: LogId) -> None:
        """The log is gone for ever."""

    def logs(self) -> Iterable[LogId]:
        """Every log that something is kept of: after recovery, those that the rows do not know are to be dropped."""

    def bytes_retained(self, log: LogId) -> int:
        """Bytes of the log's batches from its start, for retention.bytes and DescribeLogDirs."""

    def first_batches(self, log: LogId) -> Iterable[tuple[int, int, int]]:
        """(offset_next, timestamp_max, bytes) of the log's oldest stretches, in order, for retention.

        A stretch is what can be removed as one: a run of batches, settled or still in the journal.
        """

    def settle(self) -> None:
        """Begin a checkpoint now, if none runs and something has changed. It also begins by itself, by size and count."""

    def compact(self, compaction: Compaction, on_done: Callable[[bool], None]) -> bool:
        """Begin a compaction; False if one is under way, or if there is nothing to compact in.

        ``on_done`` is called on the owner's thread when what is left is safe and all reads give that: True, or False if the log
        was dropped meanwhile or has ``damage``. After a stop in between, each part of the log is as it was or as it was to be.
        """

    def close(self) -> None:
        """Flush, sync, write a checkpoint, release the folder. Blocks."""
