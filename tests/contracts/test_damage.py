"""What a disk gives back is not always what it was given: no reader gets it, and nobody else is touched (D2; law 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contracts.test_segments import SIZES, size_of
from tests.contracts.world import opened, settle
from tests.unit.engine.world import client_batch

from oncelog.broker.node import open_storage
from oncelog.broker.settings import Durability, Settings
from oncelog.model.batch import are_sound, stamp
from oncelog.model.errors import DamagedRecords
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, StoredBatch

COUNT = 60


def sound_batch(offset: int, log: int = 1) -> bytes:
    return stamp(client_batch(count=20, timestamp_ms=offset * 10 + log), offset)


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    """Two logs whose batches are in a segment file, in the journal, and in memory."""
    storage = FileStorage(tmp_path / "d", **SIZES, are_sound=are_sound)
    _, _, told = opened(storage)
    for number in range(COUNT):
        entry = [
            StoredBatch(LogId(log), number * 20, number * 20 + 20, number, sound_batch(number * 20, log))
            for log in (1, 2)
        ]
        storage.append(Entry(b"", entry))
        storage.flush()
    settle(storage, told)
    told.turn_until(lambda: storage._journal.bytes_used == sum(size_of(path) for path in journal_of(tmp_path)))
    yield storage
    storage.close()


def journal_of(folder: Path) -> list[Path]:
    return list((folder / "d/journal").glob("*.journal"))


def flip(folder: Path, what: bytes, at: int) -> None:
    """One bit of the batch, wherever it is on the disk."""
    for path in [*(folder / "d/segments").iterdir(), *journal_of(folder)]:
        content = bytearray(path.read_bytes())
        place = content.find(what)
        while place >= 0:
            with path.open("r+b") as file:
                file.seek(place + at)
                file.write(bytes([content[place + at] ^ 4]))
            place = content.find(what, place + 1)


def read(storage: Any, log: int, number: int) -> bytes:
    return b"".join(storage.read(LogId(log), number * 20, offset_end=2**40, bytes_max=1))


@pytest.mark.parametrize("at", [6, 7, 8, 11, 16, 17, 22, 26, 43, 60, 61, 100, -1])
def test_no_bit_of_a_batch_may_be_another(tmp_path: Path, storage: Any, at: int) -> None:
    index = storage._logs.by_id[LogId(1)]
    settled = index.settled.offset_next // 20
    assert 0 < settled < settled + 5 < index.tail_first + settled < COUNT
    for number in (settled - 1, settled + 1):
        whole = sound_batch(number * 20)
        assert read(storage, 1, number) == whole
        flip(tmp_path, whole[:70], at if at >= 0 else len(whole) - 1)
        with pytest.raises(
            DamagedRecords, match=rf"damaged at or after byte \d+: batches from offset {number * 20} on"
        ):
            read(storage, 1, number)
        with pytest.raises(DamagedRecords):
            storage.read(LogId(1), number * 20 - 20, offset_end=2**40, bytes_max=2**20)
        assert read(storage, 1, number + 2) == sound_batch(number * 20 + 40)
        assert read(storage, 2, number) == sound_batch(number * 20, 2)
    assert read(storage, 1, COUNT - 1) == sound_batch((COUNT - 1) * 20)


def test_a_broker_reads_nothing_unchecked(tmp_path: Path) -> None:
    """The storage that a broker opens asks; what was just written is in memory and was never on a disk."""
    settings = Settings(data=tmp_path / "d", durability=Durability.FSYNC)
    storage = open_storage(settings)
    opened(storage)
    storage.append(Entry(b"", [StoredBatch(LogId(1), 0, 20, 0, sound_batch(0))]))
    storage.flush()
    flip(tmp_path, sound_batch(0), 70)
    assert read(storage, 1, 0) == sound_batch(0)
    storage.close()
    storage = open_storage(settings)
    opened(storage)
    with pytest.raises(DamagedRecords):
        read(storage, 1, 0)
    storage.close()
