"""The simulated file system is as bad as it says, and no worse."""

from __future__ import annotations

import errno
import os

import pytest
from tests.simulation.events import Events
from tests.simulation.filesystem import BLOCK_BYTES, FileTree, Killed, Plan, Process

A, B = "/data/a", "/data/b"
FLAGS = os.O_RDWR | os.O_CREAT


class Machine:
    """A tree, and a process in it that waits for nothing."""

    def __init__(self, seed: int) -> None:
        self.events = Events(seed)
        self.tree = FileTree(self.events)
        self.tree.folders["/data"] = None
        self.deaths: list[bool] = []
        self.process = self.again()

    def again(self) -> Process:
        self.process = Process(self.tree, lambda: None, self.deaths.append)
        return self.process

    def written(self, path: str, data: bytes) -> int:
        descriptor = self.process.open(path, FLAGS)
        self.process.pwrite(descriptor, data, 0)
        return descriptor

    def sync_names(self) -> None:
        self.process.fsync(self.process.open("/data", os.O_RDONLY))

    def content(self, path: str) -> bytes | None:
        file = self.tree.files.get(path)
        return None if file is None else bytes(file.content)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_synced_outlives_the_machine(seed: int) -> None:
    machine = Machine(seed)
    machine.process.fdatasync(machine.written(A, b"safe"))
    machine.sync_names()
    machine.tree.lose_power()
    assert machine.content(A) == b"safe"


def test_a_sync_that_ends_late_takes_nothing_back() -> None:
    """One that began after it has made more safe: a longer file, another name."""
    machine = Machine(1)
    descriptor = machine.written(A, b"a" * BLOCK_BYTES)
    machine.sync_names()

    def meanwhile() -> None:
        machine.process._wait = lambda: None
        machine.process.pwrite(descriptor, b"b" * BLOCK_BYTES, BLOCK_BYTES)
        machine.process.fdatasync(descriptor)
        machine.process.rename(A, B)
        machine.sync_names()

    machine.process._wait = meanwhile
    machine.process.fdatasync(descriptor)
    machine.tree.lose_power()
    assert machine.content(B) == b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES

    def rename_back() -> None:
        machine.process._wait = lambda: None
        machine.process.rename(B, A)
        machine.sync_names()

    folder = machine.process.open("/data", os.O_RDONLY)
    machine.process._wait = rename_back
    machine.process.fsync(folder)
    machine.tree.lose_power()
    assert machine.content(A) is not None
    assert machine.content(B) is None


def outcomes(act) -> set[bytes | None]:
    found = set()
    for seed in range(60):
        machine = Machine(seed)
        act(machine)
        machine.tree.lose_power()
        found.add(machine.content(A))
    return found


def test_a_name_that_was_not_synced_may_be_gone() -> None:
    assert outcomes(lambda machine: machine.process.fdatasync(machine.written(A, b"safe"))) == {b"safe", None}


def test_what_was_not_synced_may_be_there_in_part() -> None:
    old, new = b"o" * BLOCK_BYTES, b"n" * BLOCK_BYTES

    def act(machine: Machine) -> None:
        descriptor = machine.written(A, old * 2)
        machine.process.fdatasync(descriptor)
        machine.sync_names()
        machine.process.pwrite(descriptor, new * 2, 0)

    assert outcomes(act) == {old + old, old + new, new + old, new + new}


def test_a_renamed_file_is_the_old_or_the_new_one_but_never_none() -> None:
    def act(machine: Machine) -> None:
        machine.process.fdatasync(machine.written(A, b"old"))
        machine.sync_names()
        machine.process.fdatasync(machine.written(B, b"new"))
        machine.process.rename(B, A)

    assert outcomes(act) == {b"old", b"new"}


def test_after_a_failed_sync_the_disk_never_has_it() -> None:
    """As Linux: the page cache shows it, and the next sync succeeds without writing it."""

    def act(machine: Machine) -> None:
        descriptor = machine.written(A, b"old")
        machine.process.fdatasync(descriptor)
        machine.sync_names()
        machine.process.pwrite(descriptor, b"new", 0)
        machine.process.plan = Plan(("fdatasync",), 0, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            machine.process.fdatasync(descriptor)
        machine.process.fdatasync(descriptor)
        assert machine.content(A) == b"new"

    assert outcomes(act) == {b"old"}


def test_a_process_dies_before_after_or_in_the_middle_of_a_write() -> None:
    found = set()
    for seed in range(60):
        machine = Machine(seed)
        descriptor = machine.process.open(A, FLAGS)
        machine.process.plan = Plan(("pwrite",), 0, 0)
        with pytest.raises(Killed):
            machine.process.pwrite(descriptor, b"abc", 0)
        with pytest.raises(Killed):
            machine.process.fdatasync(descriptor)
        assert machine.deaths == [False]
        found.add(machine.content(A))
    assert found == {b"", b"a", b"ab", b"abc"}


def test_a_disk_may_be_full() -> None:
    machine = Machine(1)
    descriptor = machine.written(A, b"1234")
    machine.tree.bytes_max = 8
    machine.process.pwrite(descriptor, b"5678", 4)
    machine.process.pwrite(descriptor, b"8765", 4)
    with pytest.raises(OSError, match="No space"):
        machine.process.pwrite(descriptor, b"9", 8)
