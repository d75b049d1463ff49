"""Compaction as a broker runs it: the log that needs it most, one sweep at a time (docs/decisions/compaction.md).

Looking goes in steps, so that no turn of the loop is long; the sweep itself is the storage's, on a thread. When a sweep
is on disk and readers read what it has left, one row says how far it went; then the next log is looked for. A log that
the disk has damaged is left alone until what is damaged is deleted, or the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from oncelog.engine.compaction import KEY_BYTES, Due, Sweep, decide_compacted, find_due
from oncelog.engine.state import Log
from oncelog.model.batch import read_header
from oncelog.model.errors import DamagedRecords
from oncelog.model.header import TIMESTAMP_LOG_APPEND

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

#: Compacted logs, and logs of any kind, that one turn of the loop looks at.
_COMPACTED_A_TURN: Final = 20
_LOGS_A_TURN: Final = 1_000
_KEYS_MIN: Final = 1_000


class Compacting:
    """All compaction of a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Whether it looks, or a sweep runs.
        self._is_busy = self._is_stopped = False

    def stop(self) -> None:
        """Begin nothing more."""
        self._is_stopped = True

    def look(self) -> None:
        """Begin to look for a log that is due."""
        if self._is_busy or self._is_stopped or not self._broker.state.settings.is_compacting:
            return
        self._is_busy = True
        self._look_on(self._look())

    def _look_on(self, steps: Iterator[None]) -> None:
        """One step, then the loop has its turn."""
        for _ in steps:
            self._broker.loop.call_soon(partial(self._look_on, steps))
            return

    def _look(self) -> Iterator[None]:
        state = self._broker.state
        best: Due | None = None
        logs = list(state.logs)
        looked = 0
        for at in range(0, len(logs), _LOGS_A_TURN):
            for log_id in logs[at : at + _LOGS_A_TURN]:
                log = state.logs.get(log_id)
                if log is None or not log.settings.is_compacted or self._broker.is_damaged(log_id):
                    continue
                due = self._due(log)
                if due is not None and (best is None or due > best):
                    best = due
                looked += 1
                if looked % _COMPACTED_A_TURN == 0:
                    yield
            yield
        self._is_busy = best is not None and not self._is_stopped and self._begin(best)

    def _due(self, log: Log) -> Due | None:
        broker = self._broker
        if self._is_stopped or broker.lane.failure is not None:
            return None
        stretches = broker.storage.first_batches(log.id)
        try:
            return find_due(log, stretches, self._certain_ms(), partial(self._timestamp_at, log))
        except DamagedRecords as no:
            broker.tell_damage(log.id, no)
            return None

    def _certain_ms(self) -> int:
        """What has certainly been reached, by both clocks: records are dated by the machine's time."""
        return min(self._broker.now_ms(), self._broker.wall_ms())

    def _timestamp_at(self, log: Log, offset: int) -> int:
        """The time of the first record there."""
        for piece in self._broker.storage.read(log.id, offset, offset_end=log.high_watermark, bytes_max=1):
            header = read_header(piece)
            is_append_time = header.attributes & TIMESTAMP_LOG_APPEND
            return header.timestamp_max if is_append_time else header.timestamp_base
        return self._certain_ms()

    def _begin(self, due: Due) -> bool:
        broker = self._broker
        log = broker.state.logs.get(due.log)
        if log is None:
            return False
        sweep = Sweep(
            log,
            due.offset_end,
            keys_max=max(_KEYS_MIN, broker.state.settings.compaction_map_bytes // KEY_BYTES),
            now_ms=max(broker.now_ms(), broker.wall_ms()),
            certain_ms=self._certain_ms(),
            salt=broker.new_id().bytes,
        )
        return broker.storage.compact(sweep, partial(self._done, sweep))

    def _done(self, sweep: Sweep, is_whole: bool) -> None:
        broker = self._broker
        self._is_busy = False
        if self._is_stopped or broker.lane.failure is not None:
            return
        if sweep.damage is not None:
            broker.tell_damage(sweep.log, sweep.damage)
            self.look()
        elif is_whole:
            decision = decide_compacted(broker.state, sweep)
            is_further = decision.is_durable
            if is_further:
                broker.commit(None, decision)
            broker.meters.compacted(sweep.bytes_before, sweep.bytes_after)
            broker.log.debug(
                "compacted", log=sweep.log, offset_end=sweep.offset_end, bytes_before=sweep.bytes_before,
                bytes_after=sweep.bytes_after,
            )  # fmt: skip
            if is_further:
                self.look()
