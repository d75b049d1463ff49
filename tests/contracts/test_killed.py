"""kill -9 at any moment, in the middle of settling too: nothing acknowledged is lost, nothing is doubled (rule D2)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import oncelog.storage.settling as settling
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, StoredBatch

WRITER = Path(__file__).with_name("writer.py")


def found(folder: Path) -> int:
    """How many entries are there; every one checked, with its batch if it must be there."""
    storage = FileStorage(folder, journal_file_bytes=50_000, tail_bytes=50_000)
    recovered = storage.open()
    rows = [bytes(chunk) for chunk in recovered.checkpoint]
    rows += [entry.rows for _, entry in recovered.entries]
    assert rows == [b"%d" % at for at in range(len(rows))]
    for at in range(max(0, len(rows) - 2000), len(rows)):
        data = b"".join(storage.read(LogId(at % 3), at // 3, offset_end=at // 3 + 1, bytes_max=1))
        assert data == b"%08d" % at * 50
    storage.close()
    return len(rows)


@pytest.mark.parametrize("durability", ["fsync", "written"])
def test_a_killed_writer_has_lost_nothing_acknowledged(tmp_path: Path, durability: str) -> None:
    for turn in range(5):
        with subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path / "d"), durability], stdout=subprocess.PIPE, text=True
        ) as writer:
            time.sleep(0.5 + 0.13 * turn)
            writer.kill()
            assert writer.stdout is not None
            acknowledged = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        assert acknowledged
        assert found(tmp_path / "d") >= acknowledged[-1]


class Killed(BaseException):
    """Stands for the end of the process at that point."""


@pytest.mark.parametrize("name", ["sync_folder", "write_checkpoint", "generations_of"])
def test_settling_may_stop_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The checkpoint from before, or the new one, and all the journal that it needs."""
    storage = FileStorage(tmp_path / "d", journal_file_bytes=50_000)
    list(storage.open().entries)
    calls: SimpleQueue[Any] = SimpleQueue()
    rows: list[bytes] = []

    class Told:
        def synced(self, position: int) -> None: ...
        def failed(self, error: Exception) -> None: ...

    storage.start(Told(), calls.put, lambda: list(rows))
    for at in range(1000):
        rows.append(b"%d" % at)
        storage.append(Entry(rows[-1], [StoredBatch(LogId(at % 3), at // 3, at // 3 + 1, at, b"%08d" % at * 50)]))
    storage.flush()

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(settling, name, killed)
        with pytest.raises(Killed):
            storage.close()
    assert found(tmp_path / "d") == 1000


def test_files_that_hold_nothing_retained_are_used_again(tmp_path: Path) -> None:
    """Disk stays bounded under retention: 40 files' worth is written, few are left."""
    storage = FileStorage(tmp_path / "d", journal_file_bytes=50_000, tail_bytes=50_000, settle_bytes=100_000)
    list(storage.open().entries)
    calls: SimpleQueue[Any] = SimpleQueue()

    class Told:
        def synced(self, position: int) -> None: ...
        def failed(self, error: Exception) -> None:
            raise error

    storage.start(Told(), calls.put, lambda: [b"rows"])
    most = 0
    for at in range(4000):
        storage.append(Entry(b"", [StoredBatch(LogId(1), at, at + 1, at, b"%08d" % at * 60)]))
        storage.trim(LogId(1), at - 100)
        if at % 10 == 0:
            storage.flush()
            storage.sync_soon()
            if storage._settler is not None:
                storage._settler.join()
            while not calls.empty():
                calls.get()()
            most = max(most, len(list((tmp_path / "d/journal").iterdir())))
    assert b"".join(storage.read(LogId(1), 3950, offset_end=3951, bytes_max=1)) == b"%08d" % 3950 * 60
    assert most <= 14
    assert len(storage._logs.by_id[LogId(1)].offsets) < 1000
    storage.close()
