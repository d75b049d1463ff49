"""kill -9 at any moment, in the middle of settling too: nothing acknowledged is lost, nothing is doubled (rule D2)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from oncelog.model.ids import LogId
from oncelog.storage import FileStorage

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
