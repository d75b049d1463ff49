"""Logs whose settled part ends before their start: a stop at any point keeps them startable (rules D2, R4)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.contracts.test_segments import Bench
from tests.contracts.world import batch, copied, joined, opened

from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry


def two_logs(folder: Path) -> Bench:
    """Log 1 is at 100 in a segment file that log 2 keeps alive, and goes on in the journal."""
    bench = Bench(folder)
    bench.append(1, 100)
    bench.append(2, 300)
    bench.settle()
    bench.append(1, 60)
    return bench


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("is_clean", [False, True])
def test_a_log_emptied_in_the_journal_goes_on_after_a_start(tmp_path: Path, rounds: int, is_clean: bool) -> None:
    """DeleteRecords up to the end, a checkpoint, then more: the old stretch is still in its file, behind the log's start."""
    bench = two_logs(tmp_path / "d")
    start = bench.ends[1]
    bench.storage.trim(LogId(1), start)
    for _ in range(rounds):
        bench.append(2, 100)
        bench.settle()
    if is_clean:
        bench.reopen()
        bench.storage.trim(LogId(1), start)
    bench.append(1, 3)
    copied(tmp_path / "d", tmp_path / "copy")
    bench.storage.close()
    again = FileStorage(tmp_path / "copy", **bench.sizes)
    opened(again)
    again.trim(LogId(1), start)
    expected = b"".join(batch(1, offset, 200).data for offset in range(start, bench.ends[1]))
    assert joined(again, 1, 0, 2**40) == expected
    assert again.bytes_retained(LogId(1)) == len(expected)
    again.append(Entry(b"", [batch(1, bench.ends[1], 200)]))
    again.close()
    shutil.rmtree(tmp_path / "copy")


def test_a_log_dropped_while_a_round_is_planned_is_replayed(tmp_path: Path) -> None:
    """DeleteTopics between the rows' instant and the plan: the entries after the checkpoint still write to the log."""
    bench = two_logs(tmp_path / "d")
    bench.storage._begin_round()
    bench.storage.append(Entry(b"", [batch(1, bench.ends[1], 200)]))
    bench.storage.flush()
    bench.storage.drop(LogId(1))
    bench.told.turn_until(lambda: not bench.storage._settler.is_running)
    copied(tmp_path / "d", tmp_path / "copy")
    bench.storage.close()
    again = FileStorage(tmp_path / "copy", **bench.sizes)
    opened(again)
    again.drop(LogId(1))
    assert joined(again, 2, 0, 2**40) == b"".join(batch(2, offset, 200).data for offset in range(300))
    again.close()
