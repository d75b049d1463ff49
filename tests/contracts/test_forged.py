"""Records that contain what passes for an entry of the journal: a torn tail is still a torn tail (rule D2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contracts.world import batch, copied, opened

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, StoredBatch
from oncelog.storage.entries import encode_entry, tag_of

FILE = "journal/0000000000000001.journal"


def forged() -> bytes:
    parts: list[bytes] = []
    encode_entry(parts, 10**9, tag_of(1), 0, b"forged", [])
    return b"x" * 200 + b"".join(parts) + b"y" * 3000


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


@pytest.mark.parametrize("is_same_boot", [True, False])
@pytest.mark.parametrize("torn", [1, 2])
def test_a_forged_entry_in_a_torn_one_is_none(tmp_path: Path, torn: int, is_same_boot: bool) -> None:
    """Whoever can produce must not be able to keep the broker from starting after a crash."""
    folder, places = written(tmp_path, is_same_boot=is_same_boot)
    for at in range(3 - torn, 3):
        damage(folder / FILE, places[at + 1] - 1000, places[at + 1])
    storage = FileStorage(folder, journal_file_bytes=65_536)
    _, entries, _ = opened(storage)
    assert [position for position, _ in entries] == list(range(1, 4 - torn))
    storage.close()


@pytest.mark.parametrize(("skip", "size"), [(0, 4), (32, 8), (100, 9)])
def test_a_sound_entry_after_a_bad_one_is_still_seen(tmp_path: Path, skip: int, size: int) -> None:
    """Whatever of the bad one is damaged, its lengths too: what was safe is never cut silently."""
    folder, _ = written(tmp_path, is_same_boot=True)
    damage(folder / FILE, skip, skip + size)
    storage = FileStorage(folder, journal_file_bytes=65_536)
    with pytest.raises(StorageError, match="bad entry at offset 0"):
        list(storage.open().entries)
    storage.close()
