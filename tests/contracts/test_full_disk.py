"""Law 7: a write, an allocation or a sync that fails ends the storage; a new start has everything that was acknowledged."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.test_segments import descriptors
from tests.contracts.world import Told, batch, joined, opened, settle

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage import FileStorage, settling
from oncelog.storage.contract import Entry
from oncelog.storage.writing import SegmentWriter

SIZES: dict[str, Any] = {"journal_file_bytes": 8192, "tail_bytes": 4096, "settle_bytes": 16_384}


class Writer:
    """Appends numbered entries until the storage fails; knows what was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.storage = FileStorage(folder, **SIZES)
        self.acknowledged = 0
        _, entries, self.told = opened(self.storage, lambda: [b"%d" % self.count])
        self.count = len(entries)

    def run(self, entries_max: int) -> StorageError | None:
        for _ in range(entries_max):
            try:
                self.storage.append(Entry(b"%d" % self.count, [batch(1, self.count, 200)]))
                self.count += 1
                self.storage.flush()
                self.storage.sync_soon()
                goal = self.storage.position_written
                self.told.turn_until(lambda goal=goal: self.told.position >= goal or bool(self.told.failures))  # type: ignore[misc]
            except StorageError as error:
                return error
            if self.told.failures:
                return self.told.failures[0]
            self.acknowledged = self.told.position
        return None


def failing(call: Callable[..., Any], *, after: int, number: int, where: str = "") -> Callable[..., Any]:
    """The call of the system, that fails for ever after so many calls (of files whose path has ``where``)."""
    left = [after]

    def fails(target: Any, *arguments: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{target}").readlink()) if isinstance(target, int) else str(target)
        if where in path:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number))
        return call(target, *arguments)

    return fails


@pytest.mark.parametrize("number", [28, 5])
@pytest.mark.parametrize(
    ("name", "after", "where"),
    [
        ("pwritev", 100, ".journal"),
        ("posix_fallocate", 2, ".journal"),
        ("fdatasync", 100, ".journal"),
        ("posix_fallocate", 0, ".segment"),
        ("pwrite", 0, ".segment"),
        ("fsync", 0, ".segment"),
        ("fsync", 0, "checkpoint.new"),
        ("rename", 0, "checkpoint.new"),
        ("fsync", 0, "segments"),
    ],
)
def test_any_failure_is_final_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int, where: str, number: int
) -> None:
    """ENOSPC and EIO, in the journal and in settling: told once, nothing accepted afterwards, all there at the next start."""
    writer = Writer(tmp_path / "d")
    assert writer.run(5) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), after=after, number=number, where=where))
        failure = writer.run(1000)
        assert failure is not None and os.strerror(number) in str(failure)
        with pytest.raises(StorageError):
            writer.storage.append(Entry(b"more", []))
        with pytest.raises(StorageError):
            writer.storage.flush()
        writer.storage.close()
    found(tmp_path / "d", writer.acknowledged, writer.count)


def found(folder: Path, least: int, most: int) -> None:
    storage = FileStorage(folder, **SIZES)
    recovered = storage.open()
    count = int(b"".join(bytes(chunk) for chunk in recovered.checkpoint) or b"0")
    for _, entry in recovered.entries:
        assert entry.rows == b"%d" % count
        count += 1
    assert least <= count <= most
    storage.start(Told(), lambda _: None, lambda: [b"%d" % count])
    assert joined(storage, 1, 0, 2**40) == b"".join(batch(1, at, 200).data for at in range(count))
    assert storage.append(Entry(b"%d" % count, [batch(1, count, 200)])) == count + 1
    storage.close()


def test_a_failed_sync_forgets_the_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: the kernel may have dropped what it could not write, so the next start counts as one after a crash of the machine."""
    writer = Writer(tmp_path / "d")
    assert writer.run(5) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(os.fdatasync, after=0, number=5))
        assert writer.run(1) is not None
        writer.storage.close()
    again = FileStorage(tmp_path / "d", **SIZES)
    recovered = again.open()
    assert not recovered.is_same_boot
    list(recovered.entries)
    again.close()


def test_a_bug_in_the_sync_thread_is_final_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not waited for in vain: the storage fails, and the traceback goes where those of threads go."""
    writer = Writer(tmp_path / "d")
    assert writer.run(5) is None
    seen: list[object] = []

    def buggy(descriptor: int) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda told: seen.append(told.exc_type))
        patch.setattr(os, "fdatasync", buggy)
        failure = writer.run(1)
        assert failure is not None and "a bug of its own" in str(failure)
        writer.storage.close()
    assert seen == [ZeroDivisionError]
    found(tmp_path / "d", writer.acknowledged, writer.count)


def test_reading_fails_for_good_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine lacks something. What the disk has lost is told to its readers: test_unreadable.py."""
    writer = Writer(tmp_path / "d")
    assert writer.run(400) is None
    writer.told.turn_until(lambda: not writer.storage._settler.is_running)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(os.pread, after=0, number=errno.EMFILE, where=".segment"))
        with pytest.raises(StorageError, match=r"Reading .*segments failed"):
            writer.storage.read(LogId(1), 0, offset_end=10, bytes_max=1)
        with pytest.raises(StorageError):
            writer.storage.append(Entry(b"", []))
        writer.storage.close()
    found(tmp_path / "d", writer.acknowledged, writer.count)


def test_a_round_that_can_not_be_installed_is_final_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are deleted while a round moves them: where the log begins is read from the new file, on the owner's thread.

    What the disk does not give is damage of that log; what the machine lacks is not.
    """
    writer = Writer(tmp_path / "d")
    writer.storage._settle_bytes = 2**60  # the round begins when it is asked for
    assert writer.run(200) is None
    moving = settling.move

    def trimmed(*arguments: Any) -> Any:
        moved = moving(*arguments)
        writer.storage.trim(LogId(1), 5)
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(settling, "move", trimmed)
        patch.setattr(os, "pread", failing(os.pread, after=0, number=errno.ENOMEM, where=".segment"))
        settle(writer.storage, writer.told)
        assert [str(failure)[:8] for failure in writer.told.failures] == ["Settling"]
        with pytest.raises(StorageError):
            writer.storage.append(Entry(b"", []))
        writer.storage.close()
    found(tmp_path / "d", writer.acknowledged, writer.count)


@pytest.mark.parametrize("what", ["memfd_create", "ftruncate"])
def test_a_segment_file_that_could_not_be_begun_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, what, failing(getattr(os, what), after=0, number=errno.EMFILE))
        with pytest.raises(OSError, match="Too many open files"):
            SegmentWriter(tmp_path / "1.segment", lambda: None)
    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_removed_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, as every failure of the storage, and the folder is released."""
    storage = FileStorage(tmp_path / "d", **SIZES)
    _, _, told = opened(storage)
    for number in range(200):
        storage.append(Entry(b"", [batch(1, number, 200)]))
        storage.flush()
    settle(storage, told)
    monkeypatch.setattr(storage, "_settle_soon", lambda: None)
    storage.drop(LogId(1))
    assert storage._segments.unneeded
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(os.unlink, after=0, number=errno.EACCES, where=".segment"))
        with pytest.raises(StorageError, match=r"Settling in .* failed: Permission denied"):
            storage.close()
    again = FileStorage(tmp_path / "d", **SIZES)
    opened(again)
    again.close()
