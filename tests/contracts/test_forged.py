"""Records that contain what passes for an entry of the journal: a torn tail is still a torn tail (rule D2).

In format 2 an entry's tag could be known by whoever produces; now it is random, and in the name of the journal's file.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.contracts.test_full_disk import failing
from tests.contracts.world import batch, copied, joined, opened

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage, journal
from oncelog.storage.contract import Entry, StoredBatch
from oncelog.storage.entries import encode_entry, tag_of
from oncelog.storage.journal import JournalFile


def forged() -> bytes:
    parts: list[bytes] = []
    encode_entry(parts, 10**9, tag_of(1), 0, b"forged", [])
    return b"x" * 200 + b"".join(parts) + b"y" * 3000


@pytest.fixture
def format_2(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """New files as the release before named and marked them."""
    monkeypatch.setattr(
        journal, "new_file", lambda folder, number: JournalFile(folder / f"{number:016d}.journal", tag_of(number))
    )
    return monkeypatch


def file_of(folder: Path) -> Path:
    (file,) = (folder / "journal").glob("0000000000000001*.journal")
    return file


def written(folder: Path, *, is_same_boot: bool) -> tuple[Path, list[int]]:
    """A copy of a folder with a plain entry and two with a forged one inside; where each begins, and the end."""
    storage = FileStorage(folder / "d", journal_file_bytes=65_536)
    opened(storage)
    places = []
    for offset, data in enumerate((batch(1, 0, 100).data, forged(), forged())):
        places.append(storage._journal.offset)
        storage.append(Entry(b"row", [StoredBatch(LogId(1), offset, offset + 1, 0, data)]))
        storage.flush()
    places.append(storage._journal.offset)
    copied(folder / "d", folder / "copy")
    storage.close()
    (folder / "copy/boot").write_bytes((folder / "d/boot").read_bytes() if is_same_boot else b"another")
    return folder / "copy", places


def damage(file: Path, at: int, end: int) -> None:
    data = bytearray(file.read_bytes())
    data[at:end] = bytes(end - at)
    file.write_bytes(data)


def check_torn(folder: Path, places: list[int], torn: int) -> None:
    for at in range(3 - torn, 3):
        damage(file_of(folder), places[at + 1] - 1000, places[at + 1])
    storage = FileStorage(folder, journal_file_bytes=65_536)
    _, entries, _ = opened(storage)
    assert [position for position, _ in entries] == list(range(1, 4 - torn))
    storage.close()


@pytest.mark.parametrize("is_same_boot", [True, False])
def test_what_stands_where_the_journal_ends_is_no_entry_without_the_files_tag(
    tmp_path: Path, is_same_boot: bool
) -> None:
    """A file that is used again may have a client's records just there, with a position that fits."""
    folder, places = written(tmp_path, is_same_boot=is_same_boot)
    parts: list[bytes] = []
    encode_entry(parts, 4, tag_of(1), 0, b"forged", [])
    content = bytearray(file_of(folder).read_bytes())
    content[places[3] : places[3] + len(b"".join(parts))] = b"".join(parts)
    file_of(folder).write_bytes(content)
    storage = FileStorage(folder, journal_file_bytes=65_536)
    _, entries, _ = opened(storage)
    assert [(position, entry.rows) for position, entry in entries] == [(1, b"row"), (2, b"row"), (3, b"row")]
    storage.close()


@pytest.mark.parametrize("is_same_boot", [True, False])
@pytest.mark.parametrize("torn", [1, 2])
def test_a_forged_entry_in_a_torn_one_is_none(tmp_path: Path, torn: int, is_same_boot: bool) -> None:
    """Whoever can produce must not be able to keep the broker from starting after a crash."""
    check_torn(*written(tmp_path, is_same_boot=is_same_boot), torn)


@pytest.mark.parametrize("is_same_boot", [True, False])
@pytest.mark.parametrize("torn", [1, 2])
@pytest.mark.usefixtures("format_2")
def test_a_forged_entry_in_a_torn_one_was_none_in_format_2(tmp_path: Path, torn: int, is_same_boot: bool) -> None:
    check_torn(*written(tmp_path, is_same_boot=is_same_boot), torn)


def test_a_forged_entry_is_none_if_the_head_around_it_is_lost(tmp_path: Path) -> None:
    """A power failure may keep the records of an unsynced entry and lose its head: then nothing tells that they are records."""
    folder, places = written(tmp_path, is_same_boot=False)
    damage(file_of(folder), places[1], places[1] + 150)
    damage(file_of(folder), places[2], places[2] + 150)
    storage = FileStorage(folder, journal_file_bytes=65_536)
    _, entries, _ = opened(storage)
    assert [position for position, _ in entries] == [1]
    storage.close()


@pytest.mark.parametrize(("skip", "size"), [(0, 4), (32, 8), (100, 9)])
def test_a_sound_entry_after_a_bad_one_is_still_seen(tmp_path: Path, skip: int, size: int) -> None:
    """Whatever of the bad one is damaged, its lengths too: what was safe is never cut silently."""
    folder, _ = written(tmp_path, is_same_boot=True)
    damage(file_of(folder), skip, skip + size)
    storage = FileStorage(folder, journal_file_bytes=65_536)
    with pytest.raises(StorageError, match="bad entry at offset 0"):
        list(storage.open().entries)
    storage.close()


# -- names and formats ------------------------------------------------------------------------------------------------


def test_no_two_files_have_the_same_tag(tmp_path: Path) -> None:
    """Also not one that is used again: what it held before stays what it was."""
    storage = FileStorage(tmp_path / "d", journal_file_bytes=4096, settle_bytes=8192)
    _, _, told = opened(storage)
    tags = set()
    for offset in range(120):
        storage.append(Entry(b"", [batch(1, offset, 700)]))
        storage.flush()
        storage.sync_soon()
        told.turn_until(lambda: storage.position_synced == storage.position_appended)
        tags |= {path.stem for path in (tmp_path / "d/journal").glob("*.journal")}
    storage.close()
    assert len(tags) == len({stem.partition("-")[0] for stem in tags}) == len({stem.partition("-")[2] for stem in tags})
    assert len(tags) > 20


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_folder_of_format_2_goes_on(tmp_path: Path, format_2: pytest.MonkeyPatch, is_killed: bool) -> None:
    """Its files are read as they are, new ones have tags; the release before is told that it can't read them."""
    sizes = {"journal_file_bytes": 4096, "settle_bytes": 8192}
    storage = FileStorage(tmp_path / "d", **sizes)
    opened(storage)
    for offset in range(12):
        storage.append(Entry(b"%d" % offset, [batch(1, offset, 700)]))
    storage.flush()
    if is_killed:
        copied(tmp_path / "d", tmp_path / "copy")
    storage.close()
    if is_killed:
        shutil.rmtree(tmp_path / "d")
        (tmp_path / "copy").rename(tmp_path / "d")
    (tmp_path / "d/format").write_text("oncelog 2\n")
    format_2.undo()
    for start in (12, 15, 30, 48):
        storage = FileStorage(tmp_path / "d", **sizes)
        opened(storage)
        assert storage.position_appended == start
        for offset in range(start, {12: 15, 15: 30, 30: 48, 48: 48}[start]):
            storage.append(Entry(b"%d" % offset, [batch(1, offset, 700)]))
        storage.flush()
        assert joined(storage, 1, 0, 2**40) == b"".join(
            batch(1, at, 700).data for at in range(storage.position_appended)
        )
        copied(tmp_path / "d", tmp_path / "copy")
        storage.close()
        shutil.rmtree(tmp_path / "d")
        (tmp_path / "copy").rename(tmp_path / "d")
    assert (tmp_path / "d/format").read_text() == "oncelog 3\n"


def test_names_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, is_same_boot=True)
    file = file_of(folder)
    for name in ("copy of a.journal", f"{1:016d}.journal", f"{2:016d}-what.journal"):
        shutil.copy(file, file.with_name(name))
        storage = FileStorage(folder)
        with pytest.raises(StorageError, match="none of the journal's files: move it"):
            list(storage.open().entries)
        storage.close()
        file.with_name(name).unlink()


def test_a_lost_format_is_said(tmp_path: Path) -> None:
    """A journal without its format is not a new folder: which release wrote it is not known."""
    folder, _ = written(tmp_path, is_same_boot=True)
    (folder / "format").unlink()
    (folder / "boot").unlink()
    with pytest.raises(StorageError, match="has lost its file 'format': restore it"):
        FileStorage(folder).open()


def test_a_bad_sector_in_the_journal_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a map of the file, which ends the process by SIGBUS."""
    folder, _ = written(tmp_path, is_same_boot=True)
    monkeypatch.setattr(os, "pread", failing(os.pread, after=0, number=errno.EIO, where=".journal"))
    storage = FileStorage(folder)
    with pytest.raises(StorageError, match="can't be read: Input/output error"):
        list(storage.open().entries)
    storage.close()
