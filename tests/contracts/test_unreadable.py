"""What the disk does not give back whole: its readers hear of it, nobody else, and no process ends without a word."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.test_compacting import Thinning
from tests.contracts.test_full_disk import failing
from tests.contracts.test_segments import SIZES, Bench
from tests.contracts.world import batch, joined, opened, settle

from oncelog.model.errors import DamagedRecords, LostRecords, StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage, mapped
from oncelog.storage.mapped import MappedFiles
from oncelog.storage.segments import FOOT


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """Logs 1 and 2 in one segment file."""
    bench = Bench(tmp_path / "d")
    for log in (1, 2):
        bench.append(log, 100)
    bench.settle()
    yield bench
    bench.storage.close()


def damage_index(bench: Bench, log: int, stretch: int = 0) -> Path:
    """One bit of the index of a stretch of the log; the file."""
    settled = bench.storage._logs.by_id[LogId(log)].settled
    assert settled is not None
    path = bench.storage._segments.path_of(settled.segments[stretch])
    with path.open("r+b") as file:
        file.seek(settled.places[stretch] + settled.sizes[stretch])
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    bench.storage._segments._indexes.clear()
    return path


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_damaged_index_is_told_to_its_own_log_only(bench: Bench) -> None:
    path = damage_index(bench, 1)
    said = rf"{path} is damaged at byte \d+: the index of the batches from offset 0 on"
    for _ in range(2):
        with pytest.raises(DamagedRecords, match=said):
            joined(bench.storage, 1, 0, 2**40)
        with pytest.raises(DamagedRecords, match=said):
            bench.storage.find_time(LogId(1), 5, offset_start=0, offset_end=100)
        with pytest.raises(DamagedRecords, match=said):
            bench.storage.find_time_max(LogId(1), offset_start=0, offset_end=100)
        bench.check(2)
        bench.reopen()
    bench.append(1, 20)
    assert joined(bench.storage, 1, 100, 2**40) == b"".join(
        joined(bench.storage, 1, at, at + 1) for at in range(100, 120)
    )


def test_records_deleted_in_and_past_a_damaged_stretch(bench: Bench) -> None:
    """The next step that operators are told: where the whole stretch may go, the log is sound again."""
    damage_index(bench, 1)
    bench.append(1, 20)
    for _ in range(2):
        bench.storage.trim(LogId(1), 30)
        with pytest.raises(DamagedRecords):
            joined(bench.storage, 1, 30, 2**40)
        bench.reopen()
    bench.storage.trim(LogId(1), 100)
    bench.check(1, 100)
    assert bench.storage.bytes_retained(LogId(1)) == 20 * 200


def test_what_an_index_hides_for_a_while_is_not_counted_any_more_afterwards(bench: Bench) -> None:
    """The disk gives it wrongly once, when records are deleted, and right when more of the log moves into segments."""
    damage_index(bench, 1)
    bench.storage.trim(LogId(1), 30)
    assert bench.storage.bytes_retained(LogId(1)) > len(joined(bench.storage, 2, 30, 2**40))
    damage_index(bench, 1)  # the same bit
    bench.append(1, 20)
    bench.settle()
    assert bench.storage.bytes_retained(LogId(1)) == len(joined(bench.storage, 1, 30, 2**40))


def test_all_that_is_sound_before_a_damaged_index_is_read(bench: Bench) -> None:
    """Its readers come to the damage itself, and the damage says where it begins and ends."""
    bench.append(1, 100)
    bench.settle()
    settled = bench.storage._logs.by_id[LogId(1)].settled
    assert settled is not None and list(settled.offsets[:1]) == [0] and len(settled) > 1
    start, end = settled.offsets[1], settled.end_of(1)
    damage_index(bench, 1, stretch=1)
    for offset in (0, start - 1):
        for bytes_max in (1, 2**40):
            sound = joined(bench.storage, 1, offset, 2**40, bytes_max)
            assert len(sound) == 200 * (start - offset if bytes_max > 1 else 1), (offset, bytes_max)
    with pytest.raises(DamagedRecords) as told:
        joined(bench.storage, 1, start, 2**40, 1)
    assert (told.value.offset, told.value.offset_end) == (start, end)
    bench.storage.trim(LogId(1), told.value.offset_end)
    bench.check(1, told.value.offset_end)


@pytest.mark.parametrize("how", ["cut", "gone", "bad sector", "bad sector of the batches"])
def test_a_segment_file_that_changes_while_it_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (path,) = bench.files()
    index = bench.storage._logs.by_id[LogId(2)]
    assert index.settled is not None
    whole = path.read_bytes()
    if how == "cut":
        os.truncate(path, index.settled.places[0] + 100)
    elif how == "gone":
        path.unlink()
    else:
        if how == "bad sector of the batches":
            joined(bench.storage, 2, 0, 2**40)  # their index is known from here on
        monkeypatch.setattr(os, "pread", failing(os.pread, after=0, number=errno.EIO, where=".segment"))
    with pytest.raises(DamagedRecords, match=rf"{path} can't be read at byte \d+, from offset 0 on: .+"):
        joined(bench.storage, 2, 0, 2**40)
    monkeypatch.undo()
    if how == "cut":
        bench.check(1)
    bench.append(2, 1)
    assert joined(bench.storage, 2, 100, 2**40)
    path.write_bytes(whole)


def test_a_journal_file_that_is_cut_while_it_is_served(tmp_path: Path) -> None:
    """Its readers hear of it; settling can't move what is lost, and says which file."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 200)
    path = min((tmp_path / "d/journal").glob("*.journal"))
    os.truncate(path, 5_000)
    with pytest.raises(DamagedRecords, match=rf"{path} can't be read at byte \d+, from offset \d+ on"):
        joined(bench.storage, 1, 0, 2**40)
    bench.storage._begin_round()
    bench.told.turn_until(lambda: bool(bench.told.failures))
    assert re.fullmatch(
        rf"The journal file {path} ends at byte 5000, before batches .*\. Put the whole data folder back from a copy\.",
        str(bench.told.failures[0]),
    )
    assert isinstance(bench.told.failures[0], LostRecords)
    bench.storage.close()


def test_a_bad_sector_of_the_journal_ends_it_and_what_can_be_read_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lost is named; with what can be read of the file in its place the next start settles it."""
    bench = Bench(tmp_path / "d")
    for log in (1, 2):
        bench.append(log, 100)
    bench.reopen()
    path = min((tmp_path / "d/journal").glob("*.journal"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(os.pwritev, after=0, number=errno.EFAULT, where="memfd"))
        patch.setattr("oncelog.storage.mapped.read_all", failing(os.pread, after=0, number=errno.EIO, where=".journal"))
        bench.storage._begin_round()
        bench.told.turn_until(lambda: bool(bench.told.failures))
    (lost,) = bench.told.failures
    assert isinstance(lost, LostRecords) and (lost.log, lost.offset) == (1, 0)
    assert re.fullmatch(
        rf"The journal file {path} can't be read at or after byte 0: .* copy, or what can be read of this file .*",
        str(lost),
    )
    whole = path.read_bytes()
    what = batch(1, 3, 200).data
    assert whole.count(what) == 1
    bench.storage.close()
    path.write_bytes(whole.replace(what, bytes(200)))
    bench.open()
    bench.settle()
    settled = bench.storage._logs.by_id[LogId(1)].settled
    assert settled is not None and settled.offset_next > 3, "it has moved"
    bench.check(2)
    expected = [bytes(200) if offset == 3 else batch(1, offset, 200).data for offset in range(100)]
    assert joined(bench.storage, 1, 0, 2**40) == b"".join(expected)
    bench.storage.close()


#: Journal files are cut when they have just been mapped: what is looked at then ends a process by SIGBUS.
_CUT = """
import mmap, os, sys
from pathlib import Path
from tests.contracts.test_segments import Bench
bench = Bench(Path(sys.argv[1]))
bench.append(1, 200)
real = mmap.mmap
def cut(descriptor, size, *arguments, **options):
    made = real(descriptor, size, *arguments, **options)
    name = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else ""
    if name.endswith(".journal"):
        os.truncate(name, 0)
    return made
mmap.mmap = cut
bench.storage._begin_round()
bench.told.turn_until(lambda: bool(bench.told.failures))
print(bench.told.failures[0])
"""


def test_what_can_not_be_read_through_a_map_is_said(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _CUT, str(tmp_path / "d")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(
        r"The journal file .*\.journal ends at byte 0, before batches .* back from a copy\.\n", ran.stdout
    )


# -- settling and compaction ------------------------------------------------------------------------------------------


def with_a_file_to_write_again(folder: Path, **about: Any) -> tuple[Bench, Path]:
    """A segment file of which logs 1 and 2 are a little and all else is gone; the next settling has something to move."""
    bench = Bench(folder, **about)
    for log, count in ((1, 20), (2, 20), (3, 100)):
        bench.append(log, count)
    bench.settle()
    (path,) = bench.files()
    bench.storage.drop(LogId(3))
    bench.append(4, 100)
    return bench, path


@pytest.mark.parametrize("how", ["index", "bad sector"])
def test_a_file_that_can_not_be_read_whole_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It stays, and is told of once; all else goes on."""
    bench, path = with_a_file_to_write_again(tmp_path / "d")
    if how == "index":
        damage_index(bench, 1)
    else:
        monkeypatch.setattr("oncelog.storage.mapped.read_all", failing(os.pread, after=0, number=errno.EIO))
    for _ in range(2):
        bench.settle()
        assert [(log, no.offset, no.offset_end) for log, no in bench.told.damages] == [(1, 0, 20)]
        assert path in bench.files()
        bench.append(4, 100)
        for log in (2, 4):
            bench.check(log)
    if how == "index":
        bench.storage.drop(LogId(1))
        bench.storage.drop(LogId(2))
        bench.settle()
        bench.settle()
        assert path not in bench.files(), "it goes when nothing is retained of it"
    bench.storage.close()


def test_what_is_read_wrong_once_is_not_written_in_the_place_of_what_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays: its readers get what is on the disk."""

    def is_sound(piece: Any, offset: int, after: int) -> bool:
        places = range(offset, after)
        return any(bytes(piece) == b"".join(batch(log, at, 200).data for at in places) for log in range(1, 5))

    bench, path = with_a_file_to_write_again(tmp_path / "d", are_sound=is_sound)
    reading, is_wrong = mapped.read_all, iter([True])

    def read_all(descriptor: int, size: int, at: int) -> bytes:
        data = bytearray(reading(descriptor, size, at))
        data[5] ^= next(is_wrong, False)
        return bytes(data)

    monkeypatch.setattr(mapped, "read_all", read_all)
    bench.settle()
    assert [(log, no.offset, no.offset_end) for log, no in bench.told.damages] == [(1, 0, 1)]
    assert path in bench.files()
    for log in (1, 2, 4):
        bench.check(log)
    bench.storage.close()


@pytest.mark.parametrize("how", ["foot", "directory", "gone"])
def test_a_file_whose_directory_is_lost_is_written_again(tmp_path: Path, how: str) -> None:
    """What is in it is known without it; a file that is gone is told to the readers of its logs, and nobody else."""
    bench, path = with_a_file_to_write_again(tmp_path / "d")
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        directory_at = FOOT.unpack(whole[-FOOT.size :])[3]
        at = len(whole) - FOOT.size if how == "foot" else directory_at
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    settle(bench.storage, bench.told)
    assert bench.told.failures == []
    assert [(log, no.offset, no.offset_end) for log, no in bench.told.damages] == (
        [(1, 0, 20)] if how == "gone" else []
    )
    if how == "gone":
        path.write_bytes(whole)
    else:
        bench.told.turn_until(lambda: path not in bench.files())
    bench.reopen()
    for log in (1, 2, 4):
        bench.check(log)
    bench.storage.close()


def test_a_file_is_written_again_when_what_was_damaged_of_it_is_deleted(tmp_path: Path) -> None:
    """Not only after the next start."""
    bench = Bench(tmp_path / "d")
    for log, count in ((1, 20), (2, 20), (3, 100)):
        bench.append(log, count)
    bench.settle()
    (path,) = bench.files()
    bench.storage.drop(LogId(3))
    damage_index(bench, 1)
    bench.settle()
    assert path in bench.files() and len(bench.told.damages) == 1
    bench.storage.trim(LogId(2), 5)
    bench.settle()
    assert path in bench.files() and len(bench.told.damages) == 1, "nothing of what is damaged went"
    bench.storage.trim(LogId(1), 20)
    bench.settle()
    assert path not in bench.files() and len(bench.told.damages) == 1
    bench.check(2, 5)
    bench.storage.close()


def test_few_of_the_files_that_are_written_again_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be thousands, and a machine has only so many descriptors."""
    monkeypatch.setattr("oncelog.storage.mapped._OPEN_MAX", 2)
    counts: list[int] = []
    read = MappedFiles.of_segment

    def counted(files: MappedFiles, *arguments: Any) -> Any:
        found = read(files, *arguments)
        counts.append(len(files._descriptors))
        return found

    monkeypatch.setattr(MappedFiles, "of_segment", counted)
    bench = Bench(tmp_path / "d")
    for log in range(2, 8):
        bench.append(1, 20)
        bench.append(log, 200)
        bench.settle()
    before = bench.files()
    for log in range(2, 8):
        bench.storage.drop(LogId(log))
    bench.settle()
    assert len(before) > 3
    assert not set(before) & set(bench.files())
    assert max(counts) == 2
    bench.check(1)
    bench.storage.close()


def test_a_compaction_that_meets_a_damaged_index_leaves_the_log_as_it_is(bench: Bench) -> None:
    damage_index(bench, 2)
    thinning, done = Thinning(0, 100), []
    assert bench.storage.compact(thinning, done.append)
    bench.told.turn_until(lambda: bool(done))
    assert (done, bench.told.failures) == ([False], [])
    assert thinning.damage is not None and "the index of the batches from offset 0 on" in thinning.damage.why
    bench.check(1)


# -- the start --------------------------------------------------------------------------------------------------------


def refused(folder: Path, said: str) -> None:
    """A start that changes nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    for _ in range(2):
        storage = FileStorage(folder, **SIZES)
        with pytest.raises(StorageError, match=said):
            list(storage.open().entries)
        storage.close()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("which", ["newest", "oldest"])
def test_a_journal_that_is_shorter_than_the_checkpoint_knows_is_refused(tmp_path: Path, which: str) -> None:
    """D2: else the start would go on where the file ends now, and what was safe there be gone without a word."""
    bench = Bench(tmp_path / "d")
    bench.append(1, 100)
    bench.storage.close()
    files = sorted((tmp_path / "d/journal").glob("*.journal"))
    path = files[-1] if which == "newest" else files[0]
    os.truncate(path, 300)
    refused(tmp_path / "d", rf"{path} ends at byte 300, and \d+ were safe\. Nothing was changed; restore")


def test_a_journal_that_is_empty_or_missing_is_refused(tmp_path: Path) -> None:
    """D2: with no checkpoint either, only the boot id tells that something was safe."""
    for lost in ("content", "file"):
        folder = tmp_path / lost
        bench = Bench(folder)
        bench.append(1, 5)
        bench.told.turn_until(lambda told=bench.told: told.position == 5)  # type: ignore[misc]
        left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "checkpoint"}
        bench.storage.close()
        (folder / "checkpoint").unlink()
        for path, content in left.items():
            path.write_bytes(content)
        (path,) = (folder / "journal").glob("*.journal")
        os.truncate(path, 0)
        if lost == "file":
            path.unlink()
        refused(folder, r"The journal is missing: .*journal does not hold its first entry")


def test_a_folder_that_was_opened_and_never_used_is_no_lost_one(tmp_path: Path) -> None:
    for _ in range(2):
        storage = FileStorage(tmp_path / "d", **SIZES)
        opened(storage)
        storage.close()
        (tmp_path / "d/checkpoint").unlink()


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    Bench(tmp_path / "d").storage.close()
    (tmp_path / "d/checkpoint").unlink()
    (tmp_path / "d/checkpoint").mkdir()
    with pytest.raises(StorageError, match=r"can't be read: Is a directory \(.*/d/checkpoint\)"):
        FileStorage(tmp_path / "d", **SIZES).open()


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    Bench(tmp_path / "d").storage.close()
    (tmp_path / "d/segments/notes.txt").write_text("mine")
    (tmp_path / "d/segments/lost+found").mkdir()
    Bench(tmp_path / "d").storage.close()
    assert (tmp_path / "d/segments/notes.txt").read_text() == "mine"


def test_a_checkpoint_that_was_cut_is_said_in_words(tmp_path: Path) -> None:
    Bench(tmp_path / "d").storage.close()
    whole = (tmp_path / "d/checkpoint").read_bytes()
    for size in (0, 30, 60, len(whole) - 1):
        (tmp_path / "d/checkpoint").write_bytes(whole[:size])
        refused(
            tmp_path / "d",
            r"checkpoint is damaged \((it ends too early|it has no end|bad piece at offset \d+)\): restore",
        )
