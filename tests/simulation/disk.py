"""The simulated disk: production storage in memory, whose syncs take time and fail, and whose crashes tear.

Entries that were written outlive the process. If the machine goes down, what was not synced is put through the production
encoding of the journal (storage/entries.py), torn at any byte, and read back by the production reader: what it finds sound is
what is left, and must be exactly what was written. A checkpoint is a snapshot of all rows, encoded bit by bit while the broker
goes on, that counts only when it is whole and all that it holds is synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.simulation.events import MS_US, Events
from tests.simulation.loop import Handle, SimulatedLoop

from oncelog.model.ids import Position
from oncelog.storage.contract import Entry, Notify, Recovered, Snapshot
from oncelog.storage.entries import encode_entry, read_entry, tag_of
from oncelog.storage.memory import MemoryDisk, MemoryStorage


class Disk(MemoryDisk):
    """What is left when a process or the machine goes down. ``torn`` counts crashes that left half an entry."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events
        #: The newest whole checkpoint: its position and the rows.
        self.checkpoint: tuple[Position, list[bytes]] | None = None
        self.sync_us = events.random.choice((100, 1_000, 8_000, 40_000))
        self.share_slow = events.random.choice((0.0, 0.01))
        self.torn = self.lost = self.checkpoints = 0

    def plan_delay_us(self) -> int:
        """How long the next sync takes."""
        slow_us = self.events.about(300 * MS_US) if self.events.chance(self.share_slow) else 0
        return self.events.about(self.sync_us) + slow_us

    def crash_machine(self) -> None:
        """The machine goes down, or a sync has failed: a part of what was not synced is lost, from some byte on."""
        synced = sum(position <= self.position_synced for position, _ in self.entries)
        tail = self.entries[synced:]
        kept = self._torn(tail)
        self.lost += len(tail) - kept
        self.crash(keep=kept)

    def _torn(self, tail: list[tuple[Position, Entry]]) -> int:
        """How many entries the production reader finds after the tear."""
        random = self.events.random
        tag = tag_of(random.randint(2, 9))
        parts: list[bytes] = []
        for position, entry in tail:
            unsynced = position - 1 - self.position_synced
            encode_entry(parts, position, tag, unsynced, entry.rows, entry.batches)
        image = bytearray(b"".join(parts))
        cut = random.randint(0, len(image))
        if random.random() < 0.3:
            # The file was used before: behind the tear is what it held then.
            old: list[bytes] = []
            for position, entry in tail:
                encode_entry(old, max(1, position - 7), tag - 1, 0, entry.rows, entry.batches)
            image[cut:] = b"".join(old)[cut:]
        elif random.random() < 0.5 and cut < len(image):
            image[cut] ^= 1 << random.randint(0, 7)
        else:
            del image[cut:]
        return self._found(memoryview(bytes(image)), tail, tag)

    def _found(self, view: memoryview, tail: list[tuple[Position, Entry]], tag: int) -> int:
        at = kept = 0
        while kept < len(tail) and (found := read_entry(view, at, tag)) is not None:
            position, entry = tail[kept]
            assert found.position == position, f"entry {position} was read back as {found.position}"
            assert found.entry.rows == bytes(entry.rows), f"the rows of entry {position} were read back otherwise"
            for batch, length, head in zip(entry.batches, found.lengths, found.entry.batches, strict=True):
                assert (batch[:4], len(batch.data)) == (head[:4], length), f"entry {position} has another batch"
                assert batch.data.startswith(head.data), f"entry {position} has other bytes"
            at, kept = found.end, kept + 1
        self.torn += at < len(view)
        return kept


class SimulatedStorage(MemoryStorage):
    """MemoryStorage on a simulated disk; lives as long as the process does."""

    def __init__(self, disk: Disk, loop: SimulatedLoop) -> None:
        super().__init__(disk, schedule_sync=self._plan_sync)
        self._simulated, self._life = disk, loop
        self._snapshot: Snapshot | None = None
        self._is_settling = False
        self._planned: tuple[Handle, Callable[[], None]] | None = None

    def _plan_sync(self, end: Callable[[], None]) -> None:
        self._planned = self._life.call_after(self._simulated.plan_delay_us(), self._end_planned, end), end

    def _end_planned(self, end: Callable[[], None]) -> None:
        self._planned = None
        end()

    def sync_now(self) -> None:
        """Every sync that is under way is done."""
        while self._planned is not None:
            handle, end = self._planned
            handle.cancel()
            self._end_planned(end)

    def open(self) -> Recovered:
        """The newest checkpoint and the entries after it."""
        recovered = super().open()
        checkpoint = self._simulated.checkpoint
        if checkpoint is None:
            return recovered
        return Recovered(checkpoint[1], self._after(checkpoint[0], recovered), recovered.is_same_boot)

    def _after(self, position: Position, recovered: Recovered) -> Iterator[tuple[Position, Entry]]:
        for found, entry in recovered.entries:
            if found > position:
                yield found, entry

    def start(self, notify: Notify, post: Any, snapshot: Snapshot, *others: Any) -> None:
        super().start(notify, post, snapshot, *others)
        self._snapshot = snapshot

    def settle(self) -> None:
        """Begin a checkpoint: the rows as of now, encoded piece by piece later."""
        if self._is_settling or self._snapshot is None or self._failure is not None:
            return
        self._is_settling = True
        self.flush()
        self._settle_on(self.position_appended, iter(self._snapshot()), [])

    def _settle_on(self, position: Position, pieces: Iterator[bytes], done: list[bytes]) -> None:
        piece = next(pieces, None)
        if piece is not None:
            done.append(piece)
            self._again(position, pieces, done)
        elif self.position_synced < position:
            self.sync_soon()
            self._again(position, pieces, done)
        else:
            self._simulated.checkpoint = position, done
            self._simulated.checkpoints += 1
            self._is_settling = False

    def _again(self, *arguments: Any) -> None:
        self._life.call_after(self._simulated.events.about(MS_US), self._settle_on, *arguments)
