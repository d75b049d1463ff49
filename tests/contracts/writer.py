"""A process that writes until it is killed and says what was acknowledged: ``python writer.py FOLDER DURABILITY``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, StoredBatch


class Told:
    def __init__(self) -> None:
        self.calls: SimpleQueue[Any] = SimpleQueue()

    def relieved(self) -> None: ...

    def damaged(self, *what: object) -> None: ...

    def synced(self, position: int) -> None:
        sys.stdout.write(f"{position}\n")
        sys.stdout.flush()

    def failed(self, error: Exception) -> None:
        raise error


def chunks(rows: list[bytes]) -> Iterator[bytes]:
    """Rows as they are, some thousand in a chunk."""
    for at in range(0, len(rows), 5000):
        yield b" ".join(rows[at : at + 5000])


def main(folder: str, durability: Any) -> None:
    storage = FileStorage(
        Path(folder), durability=durability, journal_file_bytes=50_000, tail_bytes=50_000, settle_bytes=100_000
    )
    recovered, told, rows = storage.open(), Told(), []
    for chunk in recovered.checkpoint:
        rows += bytes(chunk).split(b" ")
    rows += [entry.rows for _, entry in recovered.entries]
    storage.start(told, told.calls.put, lambda: chunks(list(rows)))
    for at in range(len(rows), len(rows) + 400_000):
        log = LogId(at % 3)
        rows.append(b"%d" % at)
        storage.append(Entry(rows[-1], [StoredBatch(log, at // 3, at // 3 + 1, at, b"%08d" % at * 50)]))
        if at % 4 == 0:
            storage.flush()
            storage.sync_soon()
        if at % 50 == 0 and at > 3000:
            storage.trim(log, at // 3 - 900)
        while storage.position_written - storage.position_synced > 100 or storage.is_behind:
            told.calls.get()()
        while not told.calls.empty():
            told.calls.get()()


main(*sys.argv[1:])
