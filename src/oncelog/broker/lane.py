"""The lane: the one writer of a broker (law 4), and the one place where replies wait for the disk (law 3).

``commit`` applies a decision and appends it to the journal, in one step of the event loop. ``reply`` sends an answer when
the journal has reached the level that the answer promises (rule D2). At the end of each turn of the loop everything that
was appended is written with one call; the storage's thread syncs beside it, and one sync releases all that came meanwhile.
What readers may see moves with the synced position (rules D1, R1).

Knows the engine's Decision and the storage's contract; knows no API. One timer serves all deadlines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from oncelog.engine.configs import TopicSettings
from oncelog.engine.decision import Append, Decision, Level, Visible
from oncelog.engine.state import State, rows_in_chunks
from oncelog.model.batch import read_header
from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId, Position
from oncelog.model.limits import UNSYNCED_BYTES_MAX
from oncelog.model.rows import LogStart, Row, TopicDeleted, decode_rows, encode_rows
from oncelog.storage.contract import Entry, Rolling, Storage, StoredBatch

_TIME_BYTES = 8
#: Looked up once: finding a member of an Enum is dear.
_NOTHING: Final = Level.NOTHING
_SYNCED: Final = Level.SYNCED


class Loop(Protocol):
    """What the lane needs of an event loop; the simulator has its own."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run in the next turn."""

    def call_soon_threadsafe(self, callback: Callable[[], None], /) -> object:
        """Run in the next turn; may be called from any thread."""

    def call_later(self, delay_seconds: float, callback: Callable[[], None], /) -> Timer:
        """Run later."""


class Timer(Protocol):
    """A call_later that can be taken back."""

    def cancel(self) -> None:
        """Don't run."""


class Lane:
    """See the module. ``clock_ms`` gives ms since the epoch and never goes back while the broker runs."""

    def __init__(self, state: State, storage: Storage, loop: Loop, clock_ms: Callable[[], int]) -> None:
        self.state, self.storage, self.clock_ms = state, storage, clock_ms
        self._loop = loop
        #: What becomes visible when the position is synced.
        self._shown: deque[tuple[Position, list[Visible]]] = deque()
        self._synced_waiting: deque[tuple[Position, Callable[..., None], tuple[Any, ...]]] = deque()
        self._written_waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._is_turn_planned = False
        self._is_sync_wanted = False
        self._is_pressed = False
        self._is_flush_timed = False
        self._syncs_asked = self._syncs_before = 0
        #: What the storage told last.
        self._position_synced = Position(0)
        self._timer: Timer | None = None
        self._timer_due_ms = 0
        #: Called with the logs that readers see more of; set by the broker.
        self.on_visible: Callable[[Iterable[Visible]], None] = lambda _: None
        #: Called when an alarm may be due; set by the broker.
        self.on_alarm: Callable[[], None] = lambda: None
        #: Called with the seconds that a sync took and the entries that it made safe; set by the broker.
        self.on_sync: Callable[[float, int], None] = lambda _seconds, _entries: None
        #: Called once when the storage has failed (law 7); set by the broker.
        self.on_failure: Callable[[StorageError], None] = lambda _: None
        #: Called where the storage meets damage that no reader has met; set by the broker.
        self.on_damage: Callable[[LogId, DamagedRecords], None] = lambda _log, _why: None
        #: Called with True when too much waits for the disk, with False when no more; set by the broker.
        self.on_pressure: Callable[[bool], None] = lambda _: None
        self.failure: StorageError | None = None
        self._position_told = Position(0)
        #: When the newest decision was made that ``recover`` has found, ms since the epoch.
        self.decided_ms = 0
        #: Position of the newest change to the catalog, for reads that only show the catalog.
        self.catalog_position = Position(0)

    # -- opening ------------------------------------------------------------------------------------------------------

    def recover(self) -> bool:
        """Replay the checkpoint and the journal into the state. True if the machine has not been started anew since."""
        recovered = self.storage.open()
        now_ms = self.clock_ms()
        for chunk in recovered.checkpoint:
            self.state.apply(decode_rows(chunk), (), now_ms)
        self.state.finish_checkpoint()
        for _, entry in recovered.entries:
            rows, decided_ms = _decode_entry(entry.rows)
            self.state.apply(rows, [_replayed(batch) for batch in entry.batches], decided_ms)
            self.decided_ms = decided_ms
        self.state.finish_recovery()
        for transaction in self.state.transactions.values():
            self.decided_ms = max(self.decided_ms, transaction.updated_ms)
        return recovered.is_same_boot

    def start(self) -> None:
        """Begin to work, after ``recover``."""
        self._position_synced = self.storage.position_synced
        self._position_told = self.storage.position_synced
        self.storage.start(self, self._loop.call_soon_threadsafe, self._snapshot, self._rolling)
        for log in self.state.logs.values():
            if log.offset_start:
                self.storage.trim(log.id, log.offset_start)
        for log_id in self.storage.logs():
            if log_id not in self.state.logs:
                self.storage.drop(log_id)
        self.arm()

    # -- deciding -----------------------------------------------------------------------------------------------------

    def commit(self, decision: Decision, now_ms: int) -> Position:
        """Apply a decision and append it as one entry (law 2). 0 if there was nothing durable in it."""
        position = Position(0)
        rows, batches = decision.rows, decision.batches
        state = self.state
        if rows or batches:
            catalog_version = state.catalog_version
            unneeded = self._unneeded(rows) if rows else ()
            state.apply(rows, batches, now_ms)
            position = self.storage.append(_entry(rows, batches, now_ms))
            for release, arguments in unneeded:
                self.after(Level.SYNCED, position, release, *arguments)
            if batches or unneeded:
                self._shown.append((position, state.visible_after(rows, batches)))
            if state.catalog_version != catalog_version:
                self.catalog_position = position
            if not self._is_turn_planned:
                self._is_turn_planned = True
                self._loop.call_soon(self._end_turn)
            if not self._is_pressed and self.storage.bytes_unsynced > UNSYNCED_BYTES_MAX:
                self._is_pressed = True
                self.on_pressure(True)
        if decision.volatile:
            state.apply_volatile(decision.volatile)
        due_ms = state.alarms.next_ms
        if due_ms is not None and (self._timer is None or due_ms < self._timer_due_ms):
            self.arm()
        return position

    def _unneeded(self, rows: tuple[Row, ...]) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
        """What the storage may let go of once these rows are synced; not before, or a crash would lose it."""
        unneeded: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for row in rows:
            if type(row) is LogStart:
                unneeded.append((self.storage.trim, (row.log, row.offset)))
            elif type(row) is TopicDeleted:
                unneeded += ((self.storage.drop, (log,)) for log in self.state.topics[row.name].logs)
        return unneeded

    # -- replying -----------------------------------------------------------------------------------------------------

    def after(self, level: Level, position: Position, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` when ``position`` has reached ``level``; at once if it has (law 3, rule D2)."""
        if level is _NOTHING or position <= self._position_synced:
            action(*arguments)
        elif level is _SYNCED:
            self._synced_waiting.append((position, action, arguments))
            if not self._is_sync_wanted:
                self._want_sync()
        elif position <= self.storage.position_written:
            action(*arguments)
        else:
            self._written_waiting.append((action, arguments))

    def _want_sync(self) -> None:
        self._is_sync_wanted = True
        if not self._is_turn_planned:
            self._is_turn_planned = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_turn_planned = False
        if self.failure is not None:
            return
        try:
            self.storage.flush()
        except StorageError as error:
            self.failed(error)
            return
        if self.storage.is_behind and not self._is_pressed:
            self._is_pressed = True
            self.on_pressure(True)
        if self._is_sync_wanted:
            self._is_sync_wanted = False
            self._syncs_asked += 1
            self.storage.sync_soon()
        elif self._position_synced < self.storage.position_written:
            self._time_flush()
        if self._written_waiting:
            waiting, self._written_waiting = self._written_waiting, []
            for action, arguments in waiting:
                action(*arguments)

    def _time_flush(self) -> None:
        """See that what is written is synced within flush.interval.ms, also if nobody asks for it.

        The timer is not taken back when a sync is asked for, as with every transaction: it looks when it fires, twice an
        interval, and leaves what is younger than the newest sync to its next turn.
        """
        if not self._is_flush_timed:
            self._is_flush_timed = True
            self._syncs_before = self._syncs_asked
            self._loop.call_later(self.state.settings.flush_interval_ms / 2_000, self._flush_due)

    def _flush_due(self) -> None:
        self._is_flush_timed = False
        if self._position_synced < self.storage.position_written:
            if self._syncs_asked == self._syncs_before:
                self._want_sync()
            else:
                self._time_flush()

    # -- what the storage tells ---------------------------------------------------------------------------------------

    def synced(self, position: Position) -> None:
        """All up to ``position`` is safe: readers see it, then the replies leave (rules D2, D3)."""
        self.on_sync(self.storage.sync_seconds, position - self._position_told)
        self._position_told = position
        self._position_synced = position
        shown: list[Visible] = []
        while self._shown and self._shown[0][0] <= position:
            shown += self._shown.popleft()[1]
        if shown:
            self.state.settle_visible(shown)
        waiting = self._synced_waiting
        while waiting and waiting[0][0] <= position:
            _, action, arguments = waiting.popleft()
            action(*arguments)
        if shown:
            self.on_visible(shown)
        self.relieved()

    def relieved(self) -> None:
        """Producers may go on once neither the disk nor the settling is behind."""
        storage = self.storage
        if self._is_pressed and storage.bytes_unsynced <= UNSYNCED_BYTES_MAX // 2 and not storage.is_behind:
            self._is_pressed = False
            self.on_pressure(False)

    def failed(self, error: StorageError) -> None:
        """Law 7: nothing more is decided or promised; the broker stops."""
        if self.failure is None:
            self.failure = error
            self.on_failure(error)

    def damaged(self, log: LogId, why: DamagedRecords) -> None:
        """See the storage's contract."""
        self.on_damage(log, why)

    # -- time ---------------------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Set the one timer to the earliest alarm."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self.state.alarms.next_ms
        if due_ms is not None:
            self._timer_due_ms = due_ms
            self._timer = self._loop.call_later(max(0, due_ms - self.clock_ms()) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self.failure is None:
            self.on_alarm()
        self.arm()

    def _snapshot(self) -> Iterable[bytes]:
        return map(encode_rows, rows_in_chunks(self.state.rows()))

    def _rolling(self, log_id: LogId) -> Rolling:
        """As the topic's segment.bytes and segment.ms say."""
        log = self.state.logs.get(log_id)
        settings = log.settings if log is not None else TopicSettings()
        return Rolling(settings.segment_bytes, settings.segment_ms)


def _entry(rows: tuple[Row, ...], batches: tuple[Append, ...], now_ms: int) -> Entry:
    head = now_ms.to_bytes(_TIME_BYTES, "big")
    return Entry(
        head + encode_rows(rows) if rows else head,
        [
            StoredBatch(batch.log, batch.offset, batch.offset_next, batch.header.timestamp_max, batch.data)
            for batch in batches
        ],
    )


def _decode_entry(data: bytes | memoryview) -> tuple[list[Row], int]:
    rows = decode_rows(data[_TIME_BYTES:]) if len(data) > _TIME_BYTES else []
    return rows, int.from_bytes(data[:_TIME_BYTES], "big")


def _replayed(batch: StoredBatch) -> Append:
    return Append(batch.log, batch.offset, read_header(batch.data), batch.data)
