"""kill -9 of a process that writes, in the middle of settling too: nothing acknowledged is lost or doubled (rule D2)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from oncelog.model.ids import LogId
from oncelog.storage import FileStorage

WRITER = Path(__file__).with_name("writer.py")
TRIMMED_BATCHES = 900


def found(folder: Path) -> int:
    """How many entries are there; every one checked, and every batch that must still be there."""
    storage = FileStorage(folder, journal_file_bytes=50_000, tail_bytes=50_000)
    recovered = storage.open()
    rows = [row for chunk in recovered.checkpoint for row in bytes(chunk).split(b" ")]
    rows += [entry.rows for _, entry in recovered.entries]
    assert rows == [b"%d" % at for at in range(len(rows))]
    for log in range(3):
        wanted = list(range(log, len(rows), 3))[-TRIMMED_BATCHES:]
        read = storage.read(LogId(log), wanted[0] // 3, offset_end=2**40, bytes_max=2**40)
        assert b"".join(read) == b"".join(b"%08d" % at * 50 for at in wanted)
    storage.close()
    return len(rows)


@pytest.mark.parametrize("durability", ["fsync", "written"])
def test_a_killed_writer_has_lost_nothing_acknowledged(tmp_path: Path, durability: str) -> None:
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path / "d"), durability], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.2 + 0.13 * turn)
            writer.kill()
            rest = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        acknowledged = int(rest[-1] if rest else first)
        assert found(tmp_path / "d") >= acknowledged
    assert list((tmp_path / "d/segments").iterdir()), "nothing was settled: too little to judge"
