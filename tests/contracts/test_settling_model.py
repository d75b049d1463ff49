"""Long seeded histories of one storage against naive lists, with everything tiny: rounds, merges, rewrites, stops (R4, R5, D2).

What a round does is counted: a history that reaches no merge, no rewrite and no stop in the middle proves nothing.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from inspect import GEN_CLOSED, getgeneratorstate
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.world import batch, copied, joined, opened

from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, Rolling, StoredBatch

SMALL: dict[str, int] = {
    "settling._LOGS_A_STEP": 1,
    "settling._CHUNK_BATCHES": 3,
    "settling._WORK_SECONDS": 10,
    "writing._STRETCH_BYTES_MIN": 100,
    "writing._STRETCH_MS_MIN": 5,
    "writing.STRETCH_BATCHES_MAX": 7,
    "segments._SMALL_STRETCH_BYTES": 3_000,
    "segments._INDEXES_MAX": 2,
    "segments._OPEN_MAX": 2,
    "index._RUN_BATCHES_MAX": 4,
    "index._COMPACT_MIN": 4,
    "checkpoint._STEP": 5,
}
ROLLINGS = (Rolling(1_500, 40), Rolling(4_000, 10**9), Rolling(100_000, 10**9))


class History:
    """Random steps; ``counts`` says what was reached."""

    def __init__(self, folder: Path, seed: int, counts: Counter[str]) -> None:
        self.random = random.Random(seed)
        self.folder, self.counts = folder, counts
        self.live = [1, 2, 3, 4]
        self.log_next = 5
        self.batches: dict[int, list[StoredBatch]] = {}
        self.starts: dict[int, int] = {}
        self.rows: list[bytes] = []
        self.clock = 0
        self.open()

    def open(self) -> None:
        self.storage: Any = FileStorage(
            self.folder / "d", durability="written", journal_file_bytes=4096, tail_bytes=1500, settle_bytes=8192
        )
        if self.random.random() < 0.7:  # otherwise rounds begin by themselves too
            self.storage._settle_bytes = 2**60
        chunks, entries, self.told = opened(self.storage, lambda: list(self.rows))
        self.storage._rollings = self.storage._settler._rollings = lambda log: ROLLINGS[log % len(ROLLINGS)]
        assert chunks + [entry.rows for _, entry in entries] == self.rows
        for log, start in self.starts.items():
            self.storage.trim(LogId(log), start)
        for log in list(self.storage.logs()):
            if log not in self.batches:
                self.storage.drop(log)

    # -- steps --------------------------------------------------------------------------------------------------------

    def append(self) -> None:
        for _ in range(self.random.choice((1, 3, 10))):
            new = []
            for _ in range(self.random.randint(0, 4)):
                log = self.random.choice(self.live[: self.random.randint(1, 4)])
                had = self.batches.setdefault(log, [])
                self.clock += 3
                size = self.random.choice((70, 90, 300, 700, 700, 5_000))
                stamp = self.clock + self.random.choice((0, 0, -30, 30))
                new.append(batch(log, had[-1].offset_next if had else 0, size, stamp, self.random.randint(1, 3)))
                had.append(new[-1])
            self.rows.append(b"row%d" % len(self.rows))
            self.storage.append(Entry(self.rows[-1], new))
        self.storage.flush()

    def trim(self) -> None:
        log = self.random.choice(self.live)
        if had := self.batches.get(log):
            start = self.random.choice((had[-1].offset_next, self.random.choice(had).offset, had[-1].offset))
            self.starts[log] = max(self.starts.get(log, 0), start + self.random.choice((0, 0, 1)))
            self.starts[log] = min(self.starts[log], had[-1].offset_next)
            self.storage.trim(LogId(log), self.starts[log])

    def retain(self) -> None:
        """As retention does: up to where one of the oldest stretches ends."""
        log = self.random.choice(self.live)
        ends = [end for end, _, _ in self.storage.first_batches(LogId(log))]
        if ends:
            self.starts[log] = self.random.choice(ends[:3])
            self.storage.trim(LogId(log), self.starts[log])

    def drop(self) -> None:
        at = self.random.randrange(4)
        log, self.live[at] = self.live[at], self.log_next
        self.log_next += 1
        self.batches.pop(log, None)
        self.starts.pop(log, None)
        self.storage.drop(LogId(log))

    def begin(self) -> None:
        self.storage._begin_round()
        self.turn()

    def turn(self) -> None:
        for _ in range(self.random.choice((1, 3, 8))):
            if not self.storage._settler.is_running:
                return
            self.told.calls.get(timeout=60)()

    def round(self) -> None:
        """A whole one."""
        self.end_round()
        self.storage._begin_round()
        if (round_ := self.storage._settler._round) is not None:
            files = self.storage._segments.files
            for number in round_.rewritten:
                is_small = files[number].bytes_retained >= files[number].size * 0.5
                self.counts["merged" if is_small else "rewritten"] += 1
                self.counts[f"merged {files[number].merges + 1} times"] += is_small
        self.end_round()

    def end_round(self) -> None:
        """The one under way; with files so tiny, the next may begin at once, and again, if rounds begin by themselves."""
        settler = self.storage._settler
        round_ = settler._round
        self.told.turn_until(lambda: settler._round is None or settler._round is not round_)

    def stop(self) -> None:
        """As after kill -9, or in good order."""
        settler = self.storage._settler
        if self.random.random() < 0.3:  # in the middle of an installation, if one comes
            self.storage._begin_round()
            self.told.turn_until(lambda: settler._round is None or settler._round.is_installing)
        if settler.is_running:
            self.counts["stopped in a round"] += 1
            self.counts["stopped while installing"] += settler._round.is_installing
        if self.random.random() < 0.5:
            self.storage.close()
        else:
            deadline = time.monotonic() + 60
            while settler.is_running and getgeneratorstate(settler._steps) == GEN_CLOSED and not settler._round.is_done:
                assert time.monotonic() < deadline
                time.sleep(0.0002)
            copied(self.folder / "d", self.folder / "copy")
            self.storage.close()
            shutil.rmtree(self.folder / "d")
            (self.folder / "copy").rename(self.folder / "d")
        self.open()

    def run(self, steps: int) -> None:
        chosen = {self.append: 10, self.trim: 2, self.retain: 2, self.drop: 0.3, self.begin: 2, self.turn: 2,
                  self.round: 4, self.stop: 1}  # fmt: skip
        for _ in range(steps):
            self.random.choices(list(chosen), list(chosen.values()))[0]()
            assert self.told.failures == []
            for log in self.live:
                self.check(log)
        self.storage.close()

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self, log: int) -> None:
        start = self.starts.get(log, 0)
        kept = [b for b in self.batches.get(log, []) if b.offset_next > start]
        assert self.storage.bytes_retained(LogId(log)) == sum(len(b.data) for b in kept)
        self.check_stretches(log, kept)
        assert joined(self.storage, log, start, 2**40) == b"".join(b.data for b in kept)
        for _ in range(4):
            self.check_bounds(log, kept)

    def check_stretches(self, log: int, kept: list[StoredBatch]) -> None:
        before = -1
        for number, (end, timestamp, size) in enumerate(self.storage.first_batches(LogId(log))):
            inside = [b for b in kept if before < b.offset_next <= end]
            assert inside, "a stretch of nothing"
            assert (inside[-1].offset_next, sum(len(b.data) for b in inside)) == (end, size)
            most = max(b.timestamp_max for b in inside)
            assert timestamp == most or (number == 0 and timestamp > most)
            before = end
        assert before == (kept[-1].offset_next if kept else -1)

    def check_bounds(self, log: int, kept: list[StoredBatch]) -> None:
        last = kept[-1].offset_next if kept else self.starts.get(log, 0) + 3
        offset = self.random.randint(self.starts.get(log, 0), last)
        end = self.random.choice((last, 2**40, self.random.randint(offset, last + 2)))
        wanted = [b for b in kept if b.offset_next > offset and b.offset < end]
        bytes_max = self.random.choice((1, 400, 2_000, 20_000))
        taken = b""
        for piece in wanted:
            if taken and len(taken) + len(piece.data) > bytes_max:
                break
            taken += piece.data
        assert joined(self.storage, log, offset, end, bytes_max) == taken
        bounds = {"offset_start": offset, "offset_end": end}
        at = self.clock - self.random.randint(0, self.clock + 1)
        first = next(((b.offset, b.timestamp_max) for b in wanted if b.timestamp_max >= at), None)
        assert self.storage.find_time(LogId(log), at, **bounds) == first
        most = max(wanted, key=lambda b: b.timestamp_max, default=None)
        found = self.storage.find_time_max(LogId(log), **bounds)
        assert found == (None if most is None else (most.offset, most.timestamp_max))


def test_long_histories_are_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"oncelog.storage.{name}", value)
    counts: Counter[str] = Counter()
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        monkeypatch.setattr("oncelog.storage.segments._MERGE_FILES", 2 + seed % 3)
        History(tmp_path / str(seed), seed, counts).run(150)
    for what in ("merged 1 times", "merged 2 times", "rewritten", "stopped in a round", "stopped while installing"):
        assert counts[what] >= 2, counts
