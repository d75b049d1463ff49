"""Every storage against one naive model: what is appended, written, synced, lost and found again (rules D1, D2, R4)."""

from __future__ import annotations

import shutil
import tempfile
import time
from inspect import GEN_CLOSED, getgeneratorstate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.contracts.world import batch, copied, joined, opened

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage, MemoryDisk, MemoryStorage
from oncelog.storage.contract import Entry, StoredBatch


class Model(RuleBasedStateMachine):
    """``make`` gives a storage on the same disk each time."""

    engine = "memory"

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.disk = MemoryDisk()
        self.batches: dict[int, list[StoredBatch]] = {}
        self.starts: dict[int, int] = {}
        self.rows: list[bytes] = []
        self.clock = 0
        self.lives = {1: 0, 2: 0, 3: 0}
        self.open()

    def make(self) -> Any:
        if self.engine == "memory":
            return MemoryStorage(self.disk)
        durability: Any = self.engine
        return FileStorage(
            self.folder / "d", durability=durability, journal_file_bytes=4096, tail_bytes=600, settle_bytes=8192
        )

    def open(self) -> None:
        self.storage = self.make()
        chunks, entries, self.told = opened(self.storage, lambda: list(self.rows))
        assert chunks + [entry.rows for _, entry in entries] == self.rows
        assert self.storage.position_synced == len(self.rows)
        for log in list(self.storage.logs()):
            if log not in self.batches:
                self.storage.drop(log)
        for log, start in self.starts.items():
            self.storage.trim(log, start)

    def id_of(self, log: int) -> int:
        """Ids of logs are never used again."""
        return log + 10 * self.lives[log]

    @rule(
        logs=strategies.lists(strategies.integers(1, 3), max_size=4),
        size=strategies.sampled_from([0, 1, 130, 700, 5000]),
        flush=strategies.booleans(),
    )
    def append(self, logs: list[int], size: int, flush: bool) -> None:
        new = []
        for log in map(self.id_of, logs):
            had = self.batches.setdefault(log, [])
            offset = had[-1].offset_next if had else 0
            self.clock += 7
            new.append(batch(log, offset, size + 70, self.clock % 31, 1 + size % 3))
            had.append(new[-1])
        self.rows.append(b"row%d" % len(self.rows))
        assert self.storage.append(Entry(self.rows[-1], new)) == len(self.rows)
        if flush:
            self.storage.flush()
            self.storage.sync_soon()
        self.told.turn()

    @rule(log=strategies.integers(1, 3), back=strategies.integers(0, 9))
    def trim(self, log: int, back: int) -> None:
        log = self.id_of(log)
        if self.batches.get(log):
            end = self.batches[log][-1].offset_next
            self.starts[log] = max(self.starts.get(log, 0), end - back)
            self.storage.trim(LogId(log), self.starts[log])

    @rule(log=strategies.integers(1, 3))
    def drop(self, log: int) -> None:
        self.lives[log] += 1
        log = self.id_of(log) - 10
        self.storage.flush()
        self.batches.pop(log, None)
        self.starts.pop(log, None)
        self.storage.drop(LogId(log))

    @rule(turns=strategies.integers(0, 40))
    def settle(self, turns: int) -> None:
        """Some steps of a round, or all of it."""
        self.storage.flush()
        self.storage.settle()
        if self.engine == "memory":
            return
        for _ in range(turns):
            if not self.storage._settler.is_running:
                break
            self.told.calls.get(timeout=60)()

    @rule(is_clean=strategies.booleans())
    def reopen(self, is_clean: bool) -> None:
        self.storage.flush()
        if is_clean or self.engine == "memory":
            self.storage.close()
        else:  # as after kill -9: a copy of the folder as it is now
            self.let_settling_stand_still()
            copied(self.folder / "d", self.folder / "copy")
            self.storage.close()
            shutil.rmtree(self.folder / "d")
            (self.folder / "copy").rename(self.folder / "d")
        self.open()

    def let_settling_stand_still(self) -> None:
        """Nothing is written in the background: a round is being planned, or is carried out and not installed yet."""
        settler, deadline = self.storage._settler, time.monotonic() + 60
        while settler.is_running and getgeneratorstate(settler._steps) == GEN_CLOSED and not settler._round.is_done:
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    @rule(
        log=strategies.integers(1, 3),
        offset=strategies.integers(0, 60),
        length=strategies.integers(1, 40),
        bytes_max=strategies.integers(1, 9000),
    )
    def read(self, log: int, offset: int, length: int, bytes_max: int) -> None:
        log = self.id_of(log)
        kept = [b for b in self.batches.get(log, []) if b.offset_next > self.starts.get(log, 0)]
        assert self.storage.bytes_retained(LogId(log)) == sum(len(b.data) for b in kept)
        assert sum(size for _, _, size in self.storage.first_batches(LogId(log))) == sum(len(b.data) for b in kept)
        end = offset + length
        wanted = [b for b in kept if b.offset_next > offset and b.offset < end]
        taken = b""
        for piece in wanted:
            if taken and len(taken) + len(piece.data) > bytes_max:
                break
            taken += piece.data
        assert joined(self.storage, log, offset, end, bytes_max) == taken
        bounds = {"offset_start": offset, "offset_end": end}
        first = next(((b.offset, b.timestamp_max) for b in wanted if b.timestamp_max >= 20), None)
        assert self.storage.find_time(LogId(log), 20, **bounds) == first
        most = max(wanted, key=lambda b: b.timestamp_max, default=None)
        found = self.storage.find_time_max(LogId(log), **bounds)
        assert found == (None if most is None else (most.offset, most.timestamp_max))

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("engine", ["memory", "fsync", "written"])
def test_every_storage_is_the_model(engine: str) -> None:
    machine = type("Machine", (Model,), {"engine": engine})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=checks, database=None
        ),
    )


def filled(folder: Path, count: int = 3) -> Path:
    storage = FileStorage(folder, journal_file_bytes=8192)
    opened(storage)
    for at in range(count):
        storage.append(Entry(b"row", [batch(1, at, 100)]))
    storage.flush()
    shutil.copytree(folder, folder.with_name("image"))
    storage.close()
    (folder.with_name("image") / "boot").write_bytes((folder / "boot").read_bytes())
    return folder.with_name("image")


def end_of(file: Path) -> int:
    return len(file.read_bytes().rstrip(b"\0"))


def test_a_torn_last_entry_is_cut_at_any_byte(tmp_path: Path) -> None:
    """D2: what a crash tore was never acknowledged; what comes after takes its place."""
    image = filled(tmp_path / "d")
    (file,) = (image / "journal").glob("*.journal")
    whole, end = file.read_bytes(), end_of(file)
    for cut in range(end - 170, end, 3):
        file.write_bytes(whole[:cut].ljust(8192, b"\0"))
        storage = FileStorage(image, journal_file_bytes=8192)
        _, entries, _ = opened(storage)
        assert [position for position, _ in entries] == [1, 2], cut
        assert storage.append(Entry(b"new", [batch(1, 2, 50)])) == 3
        storage.flush()
        storage.close()
        again = FileStorage(image, journal_file_bytes=8192)
        assert len(list(again.open().entries)) + again.position_synced >= 3
        again.close()
        for checkpoint in image.glob("checkpoint*"):
            checkpoint.unlink()


def test_a_damaged_entry_before_the_end_is_refused(tmp_path: Path) -> None:
    """D2: what was safe is never cut silently; file and offset are named."""
    (file,) = (filled(tmp_path / "d") / "journal").glob("*.journal")
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    storage = FileStorage(file.parents[1], journal_file_bytes=8192)
    with pytest.raises(StorageError, match=rf"{file.name} has a bad entry at offset 0"):
        list(storage.open().entries)
    storage.close()


def test_a_folder_is_used_once_and_newer_ones_are_refused(tmp_path: Path) -> None:
    first = FileStorage(tmp_path / "d")
    opened(first)
    with pytest.raises(StorageError, match="in use by process"):
        FileStorage(tmp_path / "d").open()
    first.close()
    (tmp_path / "d/format").write_text("oncelog 99\n")
    with pytest.raises(StorageError, match="format 99"):
        FileStorage(tmp_path / "d").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        FileStorage(tmp_path / "file").open()


@pytest.mark.parametrize("name", ["pwritev", "fdatasync"])
def test_a_full_disk_is_final_and_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Law 7: no retry; after space is made, a new start has all that was acknowledged."""
    storage = FileStorage(tmp_path / "d")
    _, _, told = opened(storage)
    storage.append(Entry(b"safe", [batch(1, 0, 100)]))
    storage.flush()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{name}", full)
        storage.append(Entry(b"lost", []))
        if name == "pwritev":
            with pytest.raises(StorageError, match="No space"):
                storage.flush()
        else:
            storage.flush()
            storage.sync_soon()
            storage._targets.put(None)
            storage._syncer.join(10)  # type: ignore[union-attr]
            told.turn()
            assert len(told.failures) == 1
        with pytest.raises(StorageError):
            storage.append(Entry(b"more", []))
        storage.close()
    again = FileStorage(tmp_path / "d")
    _, entries, _ = opened(again)
    assert entries[0][1].rows == b"safe"
    assert joined(again, 1, 0, 1) == batch(1, 0, 100).data
    again.close()


def test_memory_forgets_what_was_not_synced() -> None:
    """D2, level synced: a crash of the machine takes what was only written, or keeps any beginning of it."""
    for keep in (0, 1, 2):
        disk, ends = MemoryDisk(), []
        storage = MemoryStorage(disk, schedule_sync=ends.append)
        _, _, told = opened(storage)
        storage.append(Entry(b"a", []))
        storage.flush()
        storage.sync_soon()
        assert told.position == 0
        ends.pop()()
        assert told.position == 1
        storage.append(Entry(b"b", []))
        storage.append(Entry(b"c", []))
        storage.flush()
        storage.sync_soon()
        disk.crash(keep)
        recovered = MemoryStorage(disk).open()
        assert [entry.rows for _, entry in recovered.entries] == [b"a", b"b", b"c"][: 1 + keep]
        assert not recovered.is_same_boot
