"""Crashes at every step of writing, syncing and settling, with and without power: nothing acknowledged is lost or doubled.

Rule D2: what was written survives kill -9, what was synced survives the machine. The images are of tests/support/power.py.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.contracts.world import batch, joined, opened, settle
from tests.support.power import Image, Recorder, restored

from oncelog.model.ids import LogId, Position
from oncelog.storage import FileStorage
from oncelog.storage.contract import Entry
from oncelog.storage.files import Durability

LOGS = 3
SIZES = {"journal_file_bytes": 4096, "tail_bytes": 3000, "settle_bytes": 8192}


class Crash(NamedTuple):
    """An image, and what must be found in it."""

    call: str
    image: Image
    entries: int
    starts: dict[int, int]


class Writer:
    """Writes numbered entries, one batch each, to logs in turn; keeps an image of every step."""

    def __init__(
        self, folder: Path, chance: random.Random, *, has_power: bool, durability: Durability = "fsync"
    ) -> None:
        self.chance, self.has_power, self.durability = chance, has_power, durability
        self.storage = FileStorage(folder, durability=durability, **SIZES)  # type: ignore[arg-type]
        self.count = 0
        self.starts = dict.fromkeys(range(LOGS), 0)
        _, _, self.told = opened(self.storage, lambda: [b"%d" % self.count])
        self.recorder = Recorder(folder)
        self.recorder.at_step = self.keep
        self.crashes: list[Crash] = []

    def keep(self, call: str) -> None:
        storage, starts = self.storage, dict(self.starts)
        safe = storage.position_written if self.has_power else storage.position_synced
        if not self.has_power and self.durability == "written":
            safe = Position(0)
        image = self.recorder.killed() if self.has_power else self.recorder.without_power(self.chance)
        self.crashes.append(Crash(call, image, safe, starts))

    def append(self, count: int) -> None:
        for _ in range(count):
            log, offset = self.count % LOGS, self.count // LOGS
            self.storage.append(Entry(b"%d" % self.count, [size_of(log, offset)]))
            self.count += 1
        self.storage.flush()

    def sync(self) -> None:
        self.storage.sync_soon()
        self.told.turn_until(lambda: self.storage.position_synced == self.count)

    def trim(self, log: int, back: int) -> None:
        start = max(self.starts[log], self.count // LOGS - back)
        self.starts[log] = start
        self.storage.trim(LogId(log), start)


def size_of(log: int, offset: int):
    return batch(log, offset, 90 + (offset * 131 + log * 57) % 700, offset % 13)


def check(crash: Crash, folder: Path, *, has_power: bool) -> None:
    restored(crash.image, folder)
    if not has_power and (folder / "boot").exists():
        (folder / "boot").write_text("another")
    storage = FileStorage(folder, **SIZES)  # type: ignore[arg-type]
    try:
        recovered = storage.open()
        count = int(b"".join(bytes(chunk) for chunk in recovered.checkpoint) or b"0")
        for _, entry in recovered.entries:
            assert entry.rows == b"%d" % count
            count += 1
        assert count >= crash.entries, f"{crash.entries - count} entries are lost"
        for log in range(LOGS):
            end = (count - log + LOGS - 1) // LOGS
            wanted = b"".join(size_of(log, offset).data for offset in range(crash.starts[log], end))
            assert joined(storage, log, crash.starts[log], 2**40) == wanted, f"log {log}"
    finally:
        storage.close()


@pytest.mark.parametrize(
    ("durability", "has_power"), [("fsync", True), ("fsync", False), ("written", True), ("written", False)]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_crash_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, durability: Durability, has_power: bool
) -> None:
    """D2. Rounds that move, rounds that write segment files again, appends and syncs in between.

    With durability=written a lost machine may take anything that is not settled, but never the way to a start.
    """
    chance = random.Random(seed)
    writer = Writer(tmp_path / "d", chance, has_power=has_power, durability=durability)
    with writer.recorder.running(monkeypatch):
        for turn in range(6):
            writer.append(30)
            if turn % 2:
                writer.sync()
            settle(writer.storage, writer.told)
            writer.append(3)
            writer.sync()
            writer.trim(turn % 2, 3)
        settle(writer.storage, writer.told)
        writer.storage.close()
    assert {"pwrite", "pwritev", "fsync", "fdatasync", "rename", "unlink"} <= {crash.call for crash in writer.crashes}
    for number, crash in enumerate(writer.crashes):
        for again in range(1 if has_power else 2):
            try:
                check(crash, tmp_path / f"image-{number}-{again}", has_power=has_power)
            except BaseException as error:
                error.add_note(f"the crash was before step {number}, {crash.call}")
                raise
