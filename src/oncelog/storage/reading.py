"""The questions about batches that every storage answers alike, from the logs' indexes: what is not settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from oncelog.model.ids import LogId
from oncelog.storage.contract import Rolling, TimedBatch
from oncelog.storage.index import LogIndex, Logs

#: Kafka's defaults of segment.bytes and segment.ms.
ROLLING_DEFAULT: Final = Rolling(1024 * 1024 * 1024, 604_800_000)


class Reading:
    """The reading half of the contract; ``_read_stored`` is the engine's own."""

    _logs: Logs
    _rollings: Callable[[LogId], Rolling] | None = None

    def logs(self) -> list[LogId]:
        """Every log that something is kept of."""
        return list(self._logs.by_id)

    def read(self, log: LogId, offset: int, *, offset_end: int, bytes_max: int) -> list[bytes | memoryview]:
        """See the contract (rule R4)."""
        index = self._logs.by_id.get(log)
        return index.read(offset, offset_end, bytes_max, self._read_stored) if index is not None else []

    def _read_stored(self, index: LogIndex, start: int, end: int) -> list[bytes | memoryview]:
        raise AssertionError(f"batches {start} to {end} of log {index.id} are nowhere")

    def find_time(self, log: LogId, timestamp_ms: int, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """See the contract (rule R5)."""
        index = self._logs.by_id.get(log)
        return index.find_time(timestamp_ms, offset_start, offset_end) if index is not None else None

    def find_time_max(self, log: LogId, *, offset_start: int, offset_end: int) -> TimedBatch | None:
        """See the contract (rule R5)."""
        index = self._logs.by_id.get(log)
        return index.find_time_max(offset_start, offset_end) if index is not None else None

    def trim(self, log: LogId, offset_start: int) -> None:
        """See the contract."""
        self._logs.of(log).trim(offset_start)

    def drop(self, log: LogId) -> None:
        """See the contract."""
        self._logs.drop(log)

    def bytes_retained(self, log: LogId) -> int:
        """See the contract."""
        index = self._logs.by_id.get(log)
        return index.bytes_retained if index is not None else 0

    def first_batches(self, log: LogId) -> Iterable[tuple[int, int, int]]:
        """See the contract."""
        index = self._logs.by_id.get(log)
        return index.stretches(self._rolling_of(log)) if index is not None else ()

    def _rolling_of(self, log: LogId) -> Rolling:
        return self._rollings(log) if self._rollings is not None else ROLLING_DEFAULT
