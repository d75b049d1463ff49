"""Segment files: what moves into them, what is written again, what it costs in memory, files and descriptors (law 8)."""

from __future__ import annotations

import errno
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.world import Told, batch, copied, joined, opened, settle

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage, settling
from oncelog.storage.contract import Entry, Rolling
from oncelog.storage.segments import read_segment

SIZES: dict[str, Any] = {"journal_file_bytes": 8192, "tail_bytes": 4096, "settle_bytes": 16_384}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if the settling has removed it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Bench:
    """A storage with logs of batches of 200 bytes, and what must be in them. Rounds begin when the test says so."""

    def __init__(
        self, folder: Path, rolling: Rolling | None = None, *, is_automatic: bool = False, **sizes: Any
    ) -> None:
        self.is_automatic = is_automatic
        self.folder = folder
        self.sizes = SIZES | sizes
        self.rolling = rolling
        self.ends: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.storage = FileStorage(self.folder, **self.sizes)
        self.told: Told
        if not self.is_automatic:
            self.storage._settle_bytes = 2**60
        _, _, self.told = opened(self.storage, lambda: [b"rows"], self.rolling)

    def reopen(self) -> None:
        self.storage.close()
        self.open()

    def append(self, log: int, count: int, timestamp_step: int = 1) -> None:
        for offset in range(self.ends.get(log, 0), self.ends.get(log, 0) + count):
            self.storage.append(Entry(b"", [batch(log, offset, 200, offset * timestamp_step)]))
            self.storage.flush()
        self.ends[log] = self.ends.get(log, 0) + count
        self.storage.sync_soon()
        self.told.turn()

    def settle(self) -> None:
        settle(self.storage, self.told)
        assert self.told.failures == []
        self.told.turn_until(lambda: len(self.files()) == len(self.storage._segments.files))

    def check(self, log: int, start: int = 0) -> None:
        expected = b"".join(batch(log, offset, 200).data for offset in range(start, self.ends[log]))
        assert joined(self.storage, log, start, 2**40) == expected
        for offset in range(start, self.ends[log], 7):
            assert joined(self.storage, log, offset, 2**40, 1) == batch(log, offset, 200).data

    def files(self) -> list[Path]:
        return sorted((self.folder / "segments").iterdir())


def test_the_same_bytes_from_tail_journal_and_segments(tmp_path: Path) -> None:
    """R4: a read that crosses all three homes, and each alone, before and after a start."""
    bench = Bench(tmp_path / "d")
    for _ in range(4):
        bench.append(1, 60)
        bench.append(2, 3)
        bench.settle()
    index = bench.storage._logs.by_id[LogId(1)]
    assert index.settled is not None and len(index.settled) > 1 and index.first < index.tail_first < len(index.offsets)
    for _ in range(2):
        bench.check(1)
        bench.check(2)
        bench.reopen()
    bench.storage.close()


def test_what_is_not_retained_is_never_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted and expired data is written once, also what expires while a round is under way."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 150)
    bench.append(2, 150)
    bench.storage.trim(LogId(1), 150)
    bench.storage.drop(LogId(2))
    bench.settle()
    assert bench.files() == []
    assert bench.storage.journal_bytes <= 3 * 8192
    bench.append(3, 200)
    bench.storage.trim(LogId(3), 90)
    moving = settling.move

    def trimmed(*arguments: Any) -> Any:  # by retention, when the round is planned already
        bench.storage.trim(LogId(3), 110)
        return moving(*arguments)

    monkeypatch.setattr(settling, "move", trimmed)
    bench.settle()
    moved = [stretch for path in bench.files() for stretch in read_segment(path).stretches]
    assert [stretch.offset for stretch in moved] == [110]
    bench.check(3, 110)
    bench.storage.close()


def test_settled_batches_cost_next_to_no_memory(tmp_path: Path) -> None:
    """Law 8: arrays hold what is in the journal only; a stretch of thousands of batches is one element."""
    bench = Bench(tmp_path / "d", journal_file_bytes=65536, settle_bytes=131_072)
    for _ in range(5):
        bench.append(1, 1000)
        bench.settle()
    index = bench.storage._logs.by_id[LogId(1)]
    assert len(index.offsets) < 1000
    assert index.settled is not None and len(index.settled) <= 5
    bench.check(1)
    bench.storage.close()


def test_a_file_of_which_little_is_retained_is_written_again(tmp_path: Path) -> None:
    """One log is kept for ever, its neighbour expires: the disk stays bounded, and nothing of the first is lost."""
    bench = Bench(tmp_path / "d")
    most = 0
    for _ in range(12):
        bench.append(1, 100)
        bench.append(2, 3)
        bench.settle()
        bench.storage.trim(LogId(1), bench.ends[1] - 10)
        bench.settle()
        bench.settle()
        most = max(most, sum(map(size_of, bench.files())))
    assert most < 60_000
    for _ in range(2):
        bench.check(2)
        bench.check(1, bench.ends[1] - 10)
        assert bench.storage.bytes_retained(LogId(2)) == bench.ends[2] * 200
        bench.reopen()
    bench.storage.close()


def test_small_stretches_are_merged(tmp_path: Path) -> None:
    """Law 8: many logs of little traffic do not leave ever more and ever smaller stretches."""
    bench = Bench(tmp_path / "d")
    for _ in range(16):
        for log in range(1, 6):
            bench.append(log, 25)
        bench.settle()
    bench.settle()
    assert len(bench.files()) <= 9
    stretches = [len(index.settled or ()) for index in bench.storage._logs.by_id.values()]
    assert max(stretches) <= 9
    for log in range(1, 6):
        bench.check(log)
    bench.reopen()
    for log in range(1, 6):
        bench.check(log)
        assert bench.storage.bytes_retained(LogId(log)) == bench.ends[log] * 200
    bench.storage.close()


def test_stretches_that_are_merged_may_end_within_one_of_before(tmp_path: Path) -> None:
    """R4: what was acknowledged is read wherever the new stretches end, also before the next start."""
    bench = Bench(tmp_path / "d", Rolling(65_536, 604_800_000))
    for _ in range(9):
        bench.append(1, 100)
        bench.append(2, 150)
        bench.settle()
        bench.check(1)
        bench.check(2)
    bench.storage.trim(LogId(2), 510)
    for _ in range(9):
        bench.append(1, 100)
        bench.append(2, 150)
        bench.settle()
        bench.check(1)
        bench.check(2, 510)
    assert len(bench.files()) < 18, "nothing was merged"
    bench.reopen()
    bench.check(1)
    bench.check(2, 510)
    bench.storage.close()


def test_dropping_and_trimming_free_the_disk(tmp_path: Path) -> None:
    """DeleteTopics and retention: a file of which nothing is retained goes by itself, and a start does not miss it."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 200)
    bench.settle()
    assert len(bench.files()) == 1
    bench.storage.drop(LogId(1))
    bench.told.turn_until(lambda: not bench.files())
    bench.reopen()
    assert list(bench.storage.logs()) == []
    bench.storage.close()


def test_a_log_may_be_dropped_while_it_is_moved(tmp_path: Path) -> None:
    """The new file is then of no use, and goes by itself."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 200)
    bench.append(2, 200)
    bench.storage._begin_round()
    round_ = bench.storage._settler._round
    assert round_ is not None
    bench.told.turn_until(lambda: round_.is_done)
    bench.storage.drop(LogId(1))
    bench.storage.trim(LogId(2), 199)
    bench.told.turn_until(lambda: not bench.storage._settler.is_running and not bench.files())
    bench.check(2, 199)
    bench.reopen()
    bench.check(2, 199)
    bench.storage.close()


def test_stretches_follow_the_rolling(tmp_path: Path) -> None:
    """segment.bytes and segment.ms: what retention removes at once is never larger, in bytes or in time."""
    bench = Bench(tmp_path / "d", Rolling(64 * 1024, 100_000), journal_file_bytes=65536, settle_bytes=65536)
    bench.append(1, 1500)
    bench.append(2, 1500, timestamp_step=1000)
    bench.append(3, 400)
    bench.settle()
    first, second = (list(bench.storage.first_batches(LogId(log))) for log in (1, 2))
    for _ in range(2):
        index = bench.storage._logs.by_id[LogId(1)]
        assert index.settled is not None and len(index.settled) > 3
        assert all(size <= 64 * 1024 for _, _, size in first)
        assert sum(size for _, _, size in first) == bench.storage.bytes_retained(LogId(1)) == 300_000
        ends = [0, *(offset_next for offset_next, _, _ in second)]
        assert all(after - before <= 101 for before, after in pairwise(ends))
        assert [timestamp for _, timestamp, _ in second] == [(end - 1) * 1000 for end in ends[1:]]
        bench.reopen()
        assert list(bench.storage.first_batches(LogId(1)))[:2] == first[:2]
    bench.storage.close()


def test_thousands_of_logs_need_few_files_and_descriptors(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "d", journal_file_bytes=131_072, settle_bytes=262_144)
    for offset in range(3):
        for log in range(1, 2001):
            bench.storage.append(Entry(b"", [batch(log, offset, 100)]))
        bench.storage.flush()
    bench.settle()
    bench.ends[1] = 3
    bench.append(1, 1500)
    bench.settle()
    assert len(bench.files()) == 2
    before = descriptors()
    for log in range(1, 2001):
        assert joined(bench.storage, log, 0, 3, 1) == batch(log, 0, 100).data
    assert descriptors() - before <= 2
    assert descriptors() < 40
    bench.storage.close()


def test_the_least_recently_read_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.storage.segments._OPEN_MAX", 2)
    monkeypatch.setattr("oncelog.storage.segments._INDEXES_MAX", 2)
    monkeypatch.setattr("oncelog.storage.segments._MERGE_FILES", 100)
    bench = Bench(tmp_path / "d")
    for _ in range(6):
        bench.append(1, 100)
        bench.settle()
    assert len(bench.files()) == 6
    before = descriptors()
    for _ in range(3):
        bench.check(1)
    assert descriptors() - before <= 2
    bench.storage.close()


def test_a_trim_within_a_stretch(tmp_path: Path) -> None:
    """DeleteRecords: bytes, retention and reads begin where the log does, before and after a start."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 200)
    bench.settle()
    bench.storage.trim(LogId(1), 57)
    for _ in range(2):
        assert bench.storage.bytes_retained(LogId(1)) == 143 * 200
        assert sum(size for _, _, size in bench.storage.first_batches(LogId(1))) == 143 * 200
        assert joined(bench.storage, 1, 0, 2**40, 1) == batch(1, 57, 200).data
        found = bench.storage.find_time(LogId(1), 0, offset_start=0, offset_end=200)
        assert found is not None and found.offset == 57
        bench.reopen()
        bench.storage.trim(LogId(1), 57)
    bench.storage.close()


def test_settling_that_is_behind_says_so_until_it_has_caught_up(tmp_path: Path) -> None:
    """Law 8: the journal's bytes are bounded if the owner listens."""
    bench = Bench(tmp_path / "d", is_automatic=True, journal_bytes_max=50_000)
    told: list[bool] = []
    bench.told.relieved = lambda: told.append(bench.storage.is_behind)  # type: ignore[method-assign]
    while not bench.storage.is_behind:
        bench.storage.append(Entry(b"", [batch(1, bench.ends.get(1, 0), 200)]))
        bench.storage.flush()
        bench.ends[1] = bench.ends.get(1, 0) + 1
    assert bench.storage.journal_bytes <= 50_000 + 2 * 8192
    bench.told.turn_until(lambda: bool(told))
    assert told == [False]
    bench.check(1)
    bench.storage.close()


@pytest.mark.parametrize("how", ["no flag", "no write"])
def test_file_systems_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Some refuse O_DIRECT when it is set, some only at the first write."""
    import oncelog.storage.writing as writing

    write, control = os.pwrite, writing.fcntl.fcntl

    def refusing_flag(descriptor: int, command: int, flags: int = 0) -> int:
        if how == "no flag" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return control(descriptor, command, flags)

    def refusing_write(descriptor: int, data: Any, offset: int) -> int:
        if how == "no write" and control(descriptor, writing.fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return write(descriptor, data, offset)

    monkeypatch.setattr(writing.fcntl, "fcntl", refusing_flag)
    monkeypatch.setattr(os, "pwrite", refusing_write)
    bench = Bench(tmp_path / "d")
    bench.append(1, 200)
    bench.settle()
    assert len(bench.files()) == 1
    bench.check(1)
    bench.storage.close()


def test_an_entry_larger_than_the_whole_journal_is_settled_once(tmp_path: Path) -> None:
    """Its file is the newest, and stays: no further round would free anything, and nobody is held up for one."""
    storage = FileStorage(tmp_path / "d", **SIZES, journal_bytes_max=1)
    _, _, told = opened(storage)
    rounds: list[int] = []
    begin = storage._settler.begin
    storage._settler.begin = lambda position, *more: (rounds.append(position), begin(position, *more))[1]  # type: ignore[method-assign,func-returns-value]
    for offset in range(3):
        storage.append(Entry(b"", [batch(1, offset, 100_000)]))
        storage.flush()
        for _ in range(5):
            told.turn_until(lambda: not storage._settler.is_running)
            told.turn()
        assert not storage.is_behind
        assert storage.journal_bytes < 101_000
    assert rounds == [2, 3]
    for empty in range(3, 6):
        storage.append(Entry(b"%d" % empty, []))
        storage.flush()
    told.turn_until(lambda: not storage._settler.is_running)
    assert len(rounds) <= 3
    assert storage.journal_bytes <= SIZES["journal_file_bytes"]
    storage.close()


# -- damage -----------------------------------------------------------------------------------------------------------


def settled(folder: Path) -> Path:
    bench = Bench(folder)
    bench.append(1, 300)
    bench.settle()
    bench.storage.close()
    return bench.files()[0]


def test_a_damaged_or_missing_segment_file_is_refused(tmp_path: Path) -> None:
    """D2: what was safe is never left out silently; the file and the place are named."""
    file = settled(tmp_path / "d")
    whole = file.read_bytes()
    foot_at = whole.rindex(b"onceseg1")
    for at, what in (
        (foot_at, "bad foot at offset"),
        (foot_at + 9, "bad foot at offset"),
        (foot_at + 26, "bad foot at offset"),
        (foot_at + 20, "bad directory at offset"),
        (len(whole) - 1, "bad directory at offset"),
        (len(whole[:foot_at].rstrip(b"\0")) - 1, "bad directory at offset"),
    ):
        damaged = bytearray(whole)
        damaged[at] ^= 0x7F
        file.write_bytes(damaged)
        with pytest.raises(StorageError, match=rf"0001\.segment is damaged: {what}"):
            FileStorage(tmp_path / "d", **SIZES).open()
    file.unlink()
    with pytest.raises(StorageError, match=r"0001\.segment is missing"):
        FileStorage(tmp_path / "d", **SIZES).open()


@pytest.mark.parametrize("lost", ["checkpoint", "checkpoint journal"])
def test_a_start_without_the_checkpoint_destroys_nothing(tmp_path: Path, lost: str) -> None:
    """D2: which segment files count is not known then. It refuses, and with the checkpoint restored all is there."""
    bench = Bench(tmp_path / "d")
    for _ in range(3):
        bench.append(1, 100)
        bench.settle()
    bench.storage.close()
    copied(tmp_path / "d", tmp_path / "copy")
    (tmp_path / "d/checkpoint").unlink()
    if "journal" in lost:
        for path in (tmp_path / "d/journal").iterdir():
            path.unlink()
    left = {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file() and path.name != "lock"}
    assert any(path.suffix == ".segment" for path in left)
    for _ in range(2):
        storage = FileStorage(tmp_path / "d", **SIZES)
        with pytest.raises(StorageError, match="checkpoint is missing"):
            list(storage.open().entries)
        storage.close()
        assert {path: path.read_bytes() for path in left} == left
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file() and not path.name.endswith(".segment"):
            shutil.copy(path, tmp_path / "d" / path.relative_to(tmp_path / "copy"))
    bench.open()
    bench.check(1)
    bench.storage.close()


def test_remains_of_a_settling_are_removed(tmp_path: Path) -> None:
    """A file that no checkpoint names was never acknowledged by anybody."""
    file = settled(tmp_path / "d")
    for name in ("0000000000000007.segment", "0000000000000002.segment.new"):
        (file.parent / name).write_bytes(b"remains")
    storage = FileStorage(tmp_path / "d", **SIZES)
    opened(storage)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    storage.close()


def test_the_format_of_before_is_refused(tmp_path: Path) -> None:
    settled(tmp_path / "d")
    (tmp_path / "d/format").write_text("oncelog 1\n")
    with pytest.raises(StorageError, match=r"has format 1.*use another folder"):
        FileStorage(tmp_path / "d").open()
