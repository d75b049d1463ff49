"""What the storage's tests share: somebody to tell, batches, opening, waiting for a settling."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from oncelog.model.errors import DamagedRecords, StorageError
from oncelog.model.ids import LogId, Position
from oncelog.storage.contract import Entry, Rolling, StoredBatch

WAIT_SECONDS_MAX = 60.0


class Told:
    """The owner: ``calls`` is its loop, ``turn`` a turn of it."""

    def __init__(self) -> None:
        self.position = 0
        self.failures: list[StorageError] = []
        self.damages: list[tuple[LogId, DamagedRecords]] = []
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def turn(self) -> None:
        while not self.calls.empty():
            self.calls.get()()

    def turn_until(self, is_so: Callable[[], bool]) -> None:
        """Turns, until something is so; waits for what other threads post."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not is_so():
            assert time.monotonic() < deadline, "it does not come"
            with contextlib.suppress(Empty):
                self.calls.get(timeout=0.01)()

    def synced(self, position: Position) -> None:
        self.position = position

    def relieved(self) -> None: ...

    def failed(self, error: StorageError) -> None:
        self.failures.append(error)

    def damaged(self, log: LogId, why: DamagedRecords) -> None:
        self.damages.append((log, why))


def batch(log: int, offset: int, size: int, timestamp: int = 0, count: int = 1) -> StoredBatch:
    data = (f"{log}/{offset}/".encode() * (size // 4 + 1))[:size]
    return StoredBatch(LogId(log), offset, offset + count, timestamp, data)


def opened(
    storage: Any,
    rows: Callable[[], list[bytes]] = list,
    rolling: Rolling | None = None,
) -> tuple[list[bytes], list[tuple[int, Entry]], Told]:
    recovered = storage.open()
    chunks = [bytes(chunk) for chunk in recovered.checkpoint]
    entries = list(recovered.entries)
    told = Told()
    storage.start(told, told.calls.put, rows, None if rolling is None else lambda log: rolling)
    return chunks, entries, told


def joined(storage: Any, log: int, offset: int, end: int, bytes_max: int = 2**40) -> bytes:
    return b"".join(storage.read(LogId(log), offset, offset_end=end, bytes_max=bytes_max))


def copied(folder: Path, target: Path) -> None:
    """A folder as it is now; files that are renamed meanwhile are none that count."""
    while True:
        try:
            shutil.copytree(folder, target)
        except shutil.Error:
            shutil.rmtree(target)
            continue
        return


def settle(storage: Any, told: Told) -> None:
    """One whole round."""
    told.turn_until(lambda: not storage._settler.is_running)
    storage._begin_round()
    told.turn_until(lambda: not storage._settler.is_running or bool(told.failures))
