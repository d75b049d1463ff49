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


def acknowledged(said: Path) -> int:
    """The newest number that was said, in a whole line."""
    lines = said.read_bytes().rpartition(b"\n")[0].splitlines()
    return int(lines[-1]) if lines else 0


def checkpoint_of(folder: Path) -> int:
    path = folder / "checkpoint"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize("durability", ["fsync", "written"])
def test_a_killed_writer_has_lost_nothing_acknowledged(tmp_path: Path, durability: str) -> None:
    folder, said = tmp_path / "d", tmp_path / "acknowledged"
    for turn in range(5):
        before = checkpoint_of(folder)
        with (
            said.open("wb") as output,
            subprocess.Popen([sys.executable, str(WRITER), str(folder), durability], stdout=output) as writer,
        ):
            try:
                deadline = time.monotonic() + 60
                while checkpoint_of(folder) == before or not acknowledged(said):  # a round of settling at least
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                time.sleep(0.05 * turn)
            finally:
                writer.kill()
        assert found(folder) >= acknowledged(said)
    assert list((tmp_path / "d/segments").iterdir()), "nothing was settled: too little to judge"
