"""A sync that has failed, on a system that then takes what it was to write for written (rule D2).

As Linux does it: the page cache shows the data, the next sync succeeds, and the disk never had them. On the simulator's
file system.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contracts.world import batch, joined
from tests.simulation.events import Events
from tests.simulation.filesystem import FileTree, Plan
from tests.simulation.loop import SimulatedLoop
from tests.simulation.threads import Life, installed

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId
from oncelog.storage.contract import Entry
from oncelog.storage.files import FileStorage


class Machine:
    """One storage after the other on one disk, and the owner that it tells."""

    def __init__(self, seed: int) -> None:
        self.events = Events(seed)
        self.tree = FileTree(self.events)
        self.failures: list[StorageError] = []
        self.count = 0

    def start(self) -> None:
        self.loop = SimulatedLoop(self.events)
        self.life = Life(self.tree, self.loop, lambda: 100, lambda _: None)
        self.life.enter()
        self.storage = FileStorage("/d", journal_file_bytes=16_384, settle_bytes=16_384)
        recovered = self.storage.open()
        self.found = [bytes(chunk) for chunk in recovered.checkpoint]
        self.found += [entry.rows for _, entry in recovered.entries]
        self.storage.start(self, self.loop.call_soon, lambda: [b"%d" % number for number in range(self.count)])

    def synced(self, position: int) -> None: ...

    def relieved(self) -> None: ...

    def damaged(self, *what: object) -> None: ...

    def failed(self, error: StorageError) -> None:
        self.failures.append(error)

    def write(self) -> None:
        """One entry, and all that follows of it."""
        self.storage.append(Entry(b"%d" % self.count, [batch(1, self.count, 1500)]))
        self.count += 1
        self.storage.flush()
        self.storage.sync_soon()
        while not self.failures and self.storage.position_synced < self.count:
            self.events.step()

    def kill(self) -> None:
        self.life.die()
        self.failures.clear()

    def check(self) -> None:
        self.start()
        assert self.found == [b"%d" % number for number in range(self.count)]
        expected = b"".join(batch(1, number, 1500).data for number in range(self.count))
        assert joined(self.storage, 1, 0, 2**40) == expected


@pytest.fixture
def simulated() -> Iterator[None]:
    with installed({}):
        yield


def started(seed: int) -> Machine:
    """With something written."""
    machine = Machine(seed)
    machine.start()
    for _ in range(3):
        machine.write()
    return machine


def check_starts(machine: Machine) -> None:
    """The killed process starts again in the same boot and acknowledges more; then the power goes."""
    machine.check()
    machine.write()
    machine.kill()
    machine.tree.lose_power()
    machine.check()


def fail_in_the_sync(machine: Machine) -> None:
    machine.life.process.plan = Plan(("fdatasync",), 0, errno.EIO)
    machine.write()


def fail_in_the_settling(machine: Machine) -> None:
    """The settling syncs the journal too: what it fails to write is not written by the next sync either."""
    machine.storage.append(Entry(b"%d" % machine.count, [batch(1, machine.count, 1500)]))
    machine.count += 1
    machine.life.process.plan = Plan(("fdatasync",), 0, errno.EIO)
    machine.storage.settle()
    while not machine.failures:
        machine.events.step()


@pytest.mark.parametrize("fail", [fail_in_the_sync, fail_in_the_settling])
@pytest.mark.parametrize("seed", range(5))
def test_what_a_failed_sync_was_to_write_is_written_at_the_next_start(simulated: None, fail: Any, seed: int) -> None:
    """Whichever sync it was."""
    machine = started(seed)
    fail(machine)
    assert machine.failures
    machine.kill()
    check_starts(machine)


def close_by_syncing(machine: Machine) -> None:
    """The last sync fails."""
    machine.storage.append(Entry(b"%d" % machine.count, [batch(1, machine.count, 1500)]))
    machine.count += 1
    machine.life.process.plan = Plan(("fdatasync",), 0, errno.EIO)


def close_while_a_sync_fails(machine: Machine) -> None:
    """The sync fails before that, and the owner has not heard of it."""
    close_by_syncing(machine)
    machine.storage.flush()
    machine.storage.sync_soon()
    while not machine.storage._untold:
        machine.events.step()
    assert not machine.failures
    assert "/d/boot" not in machine.tree.files, "the process may be killed now"


def close_by_settling(machine: Machine) -> None:
    """The last checkpoint can't be made safe."""
    machine.life.process.plan = Plan(("fsync",), 0, errno.EIO)


@pytest.mark.parametrize("fail", [close_by_syncing, close_while_a_sync_fails, close_by_settling])
@pytest.mark.parametrize("seed", range(5))
def test_a_failed_sync_at_the_stop_counts_and_is_told(simulated: None, fail: Any, seed: int) -> None:
    """An orderly stop in which something could not be made safe is none; the next start knows of it."""
    machine = started(seed)
    fail(machine)
    with pytest.raises(StorageError):
        machine.storage.close()
    machine.kill()
    assert "/d/boot" not in machine.tree.files
    check_starts(machine)


@pytest.mark.parametrize("seed", range(5))
def test_a_settling_that_fails_while_the_storage_stops_counts_too(simulated: None, seed: int) -> None:
    """Its thread is the only one that knows; what it failed to write is not written by the last sync either."""
    machine = started(seed)
    machine.storage.append(Entry(b"%d" % machine.count, [batch(1, machine.count, 1500)]))
    machine.count += 1
    machine.storage.flush()
    machine.life.process.plan = Plan(("fdatasync",), 0, errno.EIO)
    machine.storage.settle()
    while not machine.life.process.is_failed:
        machine.events.step()
    machine.storage.close()
    machine.kill()
    check_starts(machine)


def test_a_failed_sync_at_the_start_counts_too(simulated: None) -> None:
    """What a killed process has left unsynced is synced at the start; if that fails, the next start must know it."""
    machine = Machine(1)
    machine.start()
    machine.write()
    machine.storage.append(Entry(b"1", [batch(1, 1, 1500)]))
    machine.count += 1
    machine.storage.flush()
    machine.kill()
    machine.loop = SimulatedLoop(machine.events)
    machine.life = Life(machine.tree, machine.loop, lambda: 100, lambda _: None)
    machine.life.enter()
    machine.life.process.plan = Plan(("fdatasync",), 0, errno.EIO)
    recovered = FileStorage("/d", journal_file_bytes=16_384, settle_bytes=16_384).open()
    with pytest.raises(StorageError):
        list(recovered.entries)
    machine.kill()
    machine.check()
    machine.kill()
    machine.tree.lose_power()
    machine.check()


def test_a_checkpoint_that_was_found_is_safe_before_the_journal_is_cleaned(simulated: None) -> None:
    """Killed between its renaming and the sync of the folder: the next start goes on from it, and then the power goes."""
    for seed in range(10):
        machine = Machine(seed)
        machine.start()
        for _ in range(60):
            machine.write()
        machine.life.process.plan = Plan(("rename",), 0, 0)
        machine.storage.settle()
        while not machine.life.process.is_dead:
            machine.events.step()
        machine.kill()
        machine.check()
        machine.write()
        machine.kill()
        machine.tree.lose_power()
        machine.check()


def test_a_segment_file_that_can_not_be_removed_ends_the_broker(simulated: None) -> None:
    """Law 7: the thread that could not remove it would end, nobody would know, and nothing would be settled any more."""
    machine = Machine(1)
    machine.start()
    for _ in range(60):
        machine.write()
    machine.storage.settle()
    while machine.storage._settler.is_running:
        machine.events.step()
    assert any(path.endswith(".segment") for path in machine.tree.files)
    machine.life.process.plan = Plan(("unlink",), 0, errno.EIO)
    machine.storage.drop(LogId(1))
    while not machine.failures:
        machine.events.step()
    assert "Could not remove" in str(machine.failures[0]) and ".segment" in str(machine.failures[0])
