"""A log written again without some of its batches: what must stay is there at any moment, after any crash (D2, R4)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.world import batch, joined, opened, settle
from tests.support.power import Recorder, restored

from oncelog.model.errors import DamagedRecords
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry, StoredBatch

SIZES: dict[str, int] = {"journal_file_bytes": 4096, "tail_bytes": 3000, "settle_bytes": 8192}
SMALL: dict[str, int] = {
    "settling._CHUNK_BATCHES": 5,
    "writing._STRETCH_BYTES_MIN": 500,
    "writing.STRETCH_BATCHES_MAX": 11,
    "compacting._FILE_BYTES": 2_000,
    "segments._SMALL_STRETCH_BYTES": 600,
    "segments._MERGE_FILES": 3,
}
LOGS = (1, 2, 3)
COMPACTED = 2
KEPT_OF = 5


def stored(log: int, offset: int) -> StoredBatch:
    return batch(log, offset, 90 + (offset * 131 + log * 57) % 500, offset % 13)


def shorter(offset: int) -> bytes:
    return f"{COMPACTED}/{offset}/".encode().ljust(40, b"-")


def offset_of(data: bytes) -> int:
    return int(data.split(b"/")[1])


class Thinning:
    """Keeps every fifth batch, makes the one after it shorter, and drops the others; not the last one that it looks at."""

    def __init__(self, offset_first: int, offset_end: int, looks_max: int = 10**9) -> None:
        self.log = LogId(COMPACTED)
        self.offset_first, self.offset_end, self.looks_max = offset_first, offset_end, looks_max
        self.looked: list[int] = []
        self.damage: DamagedRecords | None = None

    def look(self, data: bytes | memoryview, breathe: Callable[[], None]) -> bool:
        if len(self.looked) == self.looks_max:
            return False
        self.looked.append(offset_of(bytes(data)))
        self.offset_end = self.looked[-1] + 1
        return True

    def rewrite(
        self, data: memoryview, timestamp_max: int, breathe: Callable[[], None]
    ) -> tuple[bytes | memoryview, int] | None:
        offset = offset_of(bytes(data))
        if offset >= self.offset_end - 1 or offset % KEPT_OF == 0:
            return data, timestamp_max
        return (shorter(offset), 5) if offset % KEPT_OF == 1 else None


class World:
    """A storage with three logs, of which one is compacted now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.start = 0
        self.swept = self.swept_asked = 0
        self.done: list[bool] = []
        self.open()

    def open(self) -> None:
        self.storage: Any = FileStorage(self.folder, durability="written", **SIZES)
        self.storage._settle_bytes = 2**60  # rounds begin when they are asked for
        _, _, self.told = opened(self.storage)
        self.storage.trim(LogId(COMPACTED), self.start)

    def append(self, count: int) -> None:
        for _ in range(count):
            self.storage.append(Entry(b"row", [stored(log, self.count) for log in LOGS]))
            self.count += 1
        self.storage.flush()

    def compact(self, end: int | None = None, looks_max: int = 10**9) -> Thinning:
        thinning = Thinning(max(self.swept - 1, self.start), self.count if end is None else end, looks_max)
        self.swept_asked = max(self.swept_asked, thinning.offset_end)
        before = len(self.done)
        self.told.turn_until(lambda: not self.storage._settler.is_running)
        assert self.storage.compact(thinning, self.done.append)
        self.told.turn_until(lambda: len(self.done) > before or bool(self.told.failures))
        if self.done[-1]:
            self.swept = thinning.offset_end
        self.told.turn_until(lambda: not self.storage._settler.is_running)
        return thinning

    def check(self) -> None:
        check(self.storage, self.count, self.start, self.swept, self.swept_asked)


def read_one_by_one(storage: Any, start: int) -> list[bytes]:
    found: list[bytes] = []
    while data := joined(storage, COMPACTED, start, 2**40, 1):
        assert offset_of(data) >= start, f"a batch from before {start}"
        found.append(data)
        start = offset_of(data) + 1
    return found


def check(storage: Any, count: int, start: int, swept: int, swept_asked: int) -> None:
    """What every reader may count on; ``swept`` is surely compacted, ``swept_asked`` perhaps."""
    for log in LOGS:
        if log != COMPACTED:
            assert joined(storage, log, 0, 2**40) == b"".join(stored(log, at).data for at in range(count))
    found = read_one_by_one(storage, start)
    for data in found:
        offset = offset_of(data)
        assert data in (stored(COMPACTED, offset).data, shorter(offset))
        assert data != shorter(offset) or offset % KEPT_OF == 1
    offsets = [offset_of(data) for data in found]
    assert offsets == sorted(set(offsets))
    must = {at for at in range(start, count) if at % KEPT_OF <= 1 or at >= swept_asked - 1}
    assert must <= set(offsets)
    assert offsets[-1:] == [count - 1] or start >= count
    gone = {at for at in range(start, swept - 1) if at % KEPT_OF > 1}
    assert not gone & set(offsets), "compacted, and still there"
    assert joined(storage, COMPACTED, start, 2**40) == b"".join(found)
    assert storage.bytes_retained(LogId(COMPACTED)) == sum(map(len, found))
    for at in (start, (start + count) // 2, count - 2):
        after = [offset for offset in offsets if offset >= at]
        data = joined(storage, COMPACTED, at, 2**40, 1)
        assert [offset_of(one) for one in (data,) if one] == after[:1]
        rest = found[len(found) - len(after) :]
        assert joined(storage, COMPACTED, at, 2**40) == b"".join(rest)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"oncelog.storage.{name}", value)


def test_a_compacted_log_has_gaps_and_loses_nothing_else(tmp_path: Path) -> None:
    """R4: a read inside a gap goes on at the batch after it; the log ends where it ended."""
    world = World(tmp_path / "d")
    world.append(100)
    world.compact()
    assert world.done == [True]
    world.check()
    assert read_one_by_one(world.storage, 42)[0] == stored(COMPACTED, 45).data
    found = world.storage.find_time(LogId(COMPACTED), 12, offset_start=42, offset_end=100)
    assert joined(world.storage, COMPACTED, found.offset, 2**40, 1) == stored(COMPACTED, 90).data
    world.append(20)
    world.check()
    world.storage.close()
    world.open()
    world.check()
    world.storage.close()


def test_only_what_is_asked_for_is_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the end that was given, or where the compaction has no more room; what follows stays as it is."""
    monkeypatch.setattr("oncelog.storage.segments._MERGE_FILES", 99)
    monkeypatch.setattr("oncelog.storage.segments._LIVE_SHARE", 0)  # files so small are mostly padding
    world = World(tmp_path / "d")
    world.append(100)
    world.compact(end=57)
    assert world.swept == 57
    world.check()
    assert len(read_one_by_one(world.storage, 57)) == 43
    assert world.compact(looks_max=20).looked == list(range(56, 76))
    world.check()
    assert len(read_one_by_one(world.storage, 76)) == 24
    ends = [end for end, _, _ in world.storage.first_batches(LogId(COMPACTED))]
    assert 76 in ends
    world.storage.close()


def test_a_dropped_log_ends_its_compaction(tmp_path: Path) -> None:
    world = World(tmp_path / "d")
    world.append(60)
    thinning = Thinning(0, 60)
    assert world.storage.compact(thinning, world.done.append)
    assert not world.storage.compact(thinning, world.done.append), "two at a time"
    world.storage.drop(LogId(COMPACTED))
    world.told.turn_until(lambda: world.done == [False])
    world.told.turn_until(lambda: not world.storage._settler.is_running)
    settle(world.storage, world.told)
    assert joined(world.storage, 1, 0, 2**40) == b"".join(stored(1, at).data for at in range(60))
    world.storage.close()


@pytest.mark.parametrize("seed", range(6))
def test_long_histories(tmp_path: Path, seed: int) -> None:
    """Compactions among rounds, merges, rewrites, deletions of old records and stops."""
    chance = random.Random(seed)
    world = World(tmp_path / "d")
    for _ in range(25):
        world.append(chance.randint(1, 40))
        step = chance.randrange(7)
        if step < 2:
            world.compact(looks_max=chance.choice((10**9, 3, 30)))
        elif step == 2 and world.count > world.swept + 2:
            world.compact(end=chance.randint(world.swept + 1, world.count))
        elif step == 3:
            settle(world.storage, world.told)
        elif step == 4:
            world.start = max(world.start, chance.randint(0, max(world.swept, 1)) // 2)
            world.storage.trim(LogId(COMPACTED), world.start)
        elif step == 5:
            world.told.turn_until(lambda: not world.storage._settler.is_running)
            world.storage.close()
            world.open()
        assert world.told.failures == []
        world.check()
    world.storage.close()


@pytest.mark.parametrize("has_power", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_crash_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, has_power: bool) -> None:
    """D2. After kill -9 and after a loss of power, before each call of the system that changes the folder."""
    chance = random.Random(seed)
    world = World(tmp_path / "d")
    recorder = Recorder(tmp_path / "d")
    images: list[tuple[str, Any, int, int, int]] = []

    def keep(call: str) -> None:
        written = world.storage.position_written if has_power else world.storage._safe
        image = recorder.killed() if has_power else recorder.without_power(chance)
        images.append((call, image, written, world.swept, world.swept_asked))

    recorder.at_step = keep
    with recorder.running(monkeypatch):
        for _ in range(3):
            world.append(20)
            world.compact()
        settle(world.storage, world.told)
        world.storage.close()
    assert {"pwrite", "fsync", "rename", "unlink"} <= {image[0] for image in images}
    for number, (call, image, written, swept, swept_asked) in enumerate(images):
        folder = restored(image, tmp_path / f"image-{number}")
        if not has_power and (folder / "boot").exists():
            (folder / "boot").write_text("another")
        storage = FileStorage(folder, **SIZES)  # type: ignore[arg-type]
        try:
            recovered = storage.open()
            list(recovered.checkpoint)
            list(recovered.entries)
            count = int(storage.position_appended)
            assert count >= written
            storage.trim(LogId(COMPACTED), 0)
            check(storage, count, 0, min(swept, count), swept_asked)
        except BaseException as error:
            error.add_note(f"the crash was before step {number}, {call}")
            raise
        finally:
            storage.close()


@pytest.mark.parametrize(("is_swept_once", "offset"), [(False, 5), (True, 2)])
def test_what_the_disk_has_changed_is_not_written_again(tmp_path: Path, is_swept_once: bool, offset: int) -> None:
    """It would get a sum that fits it, and no reader would be warned any more."""
    storage: Any = FileStorage(tmp_path / "d", **SIZES, are_sound=lambda data, *_: b"?" not in bytes(data))
    _, _, told = opened(storage)
    done: list[bool] = []

    def compact(end: int) -> Thinning:
        thinning = Thinning(0, end)
        assert storage.compact(thinning, done.append)
        count = len(done)
        told.turn_until(lambda: len(done) > count)
        told.turn_until(lambda: not storage._settler.is_running)
        return thinning

    for number in range(30):
        storage.append(Entry(b"row", [stored(log, number) for log in LOGS]))
    storage.flush()
    if is_swept_once:
        compact(20)
        assert done == [True]
    settle(storage, told)
    told.turn_until(lambda: not storage._settler.is_running)
    for path in (tmp_path / "d/segments").iterdir():
        path.write_bytes(path.read_bytes().replace(b"2/5/", b"2/5?"))
    thinning = compact(30)
    assert done[-1] is False and not told.failures
    assert thinning.damage is not None and thinning.damage.why.endswith(f"offset {offset} on are not what was written")
    assert any(b"2/5?" in path.read_bytes() for path in (tmp_path / "d/segments").iterdir())
    storage.close()
