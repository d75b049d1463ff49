"""The journal's files: appending, the one vectored write, reading back by place.

Files have a fixed size, are preallocated, and are named by their generation, which goes up by one, and by their *tag*: a random
number that marks every entry written in this file, and that no client can know. An entry never spans two files: what does not
fit into the rest begins the next; one that is larger than a file has a file of its own, as long as it needs. Places are given
out by ``append``; only ``flush`` does I/O. A place is generation << 36 | offset in the file.

Errors are OSError here; the owner makes them final (law 7).
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from oncelog.model.errors import StorageError
from oncelog.storage.contract import StoredBatch
from oncelog.storage.entries import data_at, encode_entry, entry_bytes, tag_of
from oncelog.storage.folder import sync_folder

PLACE_BITS: Final = 36
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
#: Pieces that one vectored write may have (IOV_MAX).
_PIECES_MAX: Final = 1_024
#: A read takes everything between two batches of a log if that is not much more than what it wants.
_GAP_FACTOR: Final = 3
_GAP_BYTES: Final = 65_536
#: What is written again at once.
_PIECE_BYTES: Final = 1024 * 1024
#: Files kept for use again.
_SPARES_MAX: Final = 4
_TAG_BITS: Final = 63


class JournalFile(NamedTuple):
    """What a file's name says: where it is, and what marks the entries that were written in it."""

    path: Path
    tag: int


def new_file(folder: Path, generation: int) -> JournalFile:
    """A name for a file that is not there yet."""
    tag = secrets.randbits(_TAG_BITS) + 1
    return JournalFile(folder / f"{generation:016d}-{tag:016x}.journal", tag)


def journal_files(folder: Path) -> dict[int, JournalFile]:
    """The files that are there, by generation. Those of format 2 have no tag in their names. Raises StorageError."""
    found: dict[int, JournalFile] = {}
    for path in sorted(folder.glob("*.journal")):
        generation, _, tag = path.stem.partition("-")
        if not generation.isdecimal() or int(generation) in found:
            raise StorageError(f"{path} is none of the journal's files: move it out of the data folder.")
        try:
            found[int(generation)] = JournalFile(path, int(tag, 16) if tag else tag_of(int(generation)))
        except ValueError:
            raise StorageError(f"{path} is none of the journal's files: move it out of the data folder.") from None
    return found


class Journal:
    """The files from ``generation`` and ``offset`` on. See the module."""

    def __init__(self, folder: Path, file_bytes: int) -> None:
        self._folder, self.file_bytes = folder, file_bytes
        self._named: dict[int, JournalFile] = {}
        self.begin_at(1, 0)
        #: By generation, the oldest first: descriptors, and bytes on disk.
        self._files: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self.bytes_used = 0
        #: (generation, offset, pieces) to be written, one for each file.
        self._queue: list[tuple[int, int, list[bytes]]] = []
        self._parts: list[bytes] | None = None
        #: Descriptors written since the last ``take_unsynced``, and whether a file was made.
        self._unsynced: dict[int, int] = {}
        self._is_folder_unsynced = False
        #: Files that hold nothing needed; what is written there again carries another tag.
        self._spares: deque[Path] = deque()

    def path_of(self, generation: int) -> Path:
        """The file of a generation."""
        return self._name(generation).path

    def _name(self, generation: int) -> JournalFile:
        file = self._named.get(generation)
        if file is None:
            file = self._named[generation] = new_file(self._folder, generation)
        return file

    def begin_at(self, generation: int, offset: int) -> None:
        """Continue there."""
        self.generation, self.offset = generation, offset
        self._tag = self._name(generation).tag

    @property
    def oldest(self) -> int:
        """The generation of the oldest file."""
        return min(self._files, default=self.generation)

    def append(self, position: int, unsynced: int, rows: bytes, batches: Sequence[StoredBatch]) -> tuple[int, int]:
        """Queue an entry; the place of its first batch, and the entry's bytes."""
        size = entry_bytes(rows, batches)
        offset = self.offset
        if offset + size > self.file_bytes and offset:
            self.begin_at(self.generation + 1, 0)
            self._parts, offset = None, 0
        parts = self._parts
        if parts is None:
            parts = self._parts = []
            self._queue.append((self.generation, offset, parts))
        encode_entry(parts, position, self._tag, unsynced, rows, batches)
        self.offset = offset + size
        return self.generation << PLACE_BITS | offset + data_at(rows, batches), size

    def flush(self) -> None:
        """Write all that is queued."""
        queue, self._queue, self._parts = self._queue, [], None
        for generation, offset, parts in queue:
            descriptor = self.descriptor(generation)
            self._unsynced[generation] = descriptor
            end = write_all(descriptor, parts, offset)
            if end > self._sizes[generation]:
                self._count(generation, end)

    def paths(self) -> list[Path]:
        """All files that have something in them."""
        return [self.path_of(generation) for generation in self._files]

    def take_unsynced(self) -> tuple[list[int], bool]:
        """What must be synced to make everything written safe."""
        taken = list(self._unsynced.values()), self._is_folder_unsynced
        self._unsynced.clear()
        self._is_folder_unsynced = False
        return taken

    def descriptor(self, generation: int) -> int:
        """The open file of a generation, made if it is new."""
        descriptor = self._files.get(generation)
        if descriptor is None:
            path = self.path_of(generation)
            is_new = not path.exists()
            if is_new and self._spares:
                self._spares.popleft().rename(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._files[generation] = descriptor
            if is_new:
                self._is_folder_unsynced = True
                os.posix_fallocate(descriptor, 0, self.file_bytes)
            self._count(generation, os.fstat(descriptor).st_size)
        return descriptor

    def _count(self, generation: int, size: int) -> None:
        self.bytes_used += size - self._sizes.get(generation, 0)
        self._sizes[generation] = size

    def kept_from(self, bytes_max: int) -> int:
        """The oldest generation to keep, if beside the newest file others of so many bytes may stay."""
        kept, size = self.generation, 0
        for generation in sorted(self._sizes, reverse=True):
            if generation < self.generation:
                size += self._sizes[generation]
                if size > bytes_max:
                    break
                kept = generation
        return kept

    def give_up_before(self, first: int) -> list[tuple[int, Path]]:
        """The files before ``first`` are not needed any more: (descriptor, path) for ``recycle``."""
        gone = [number for number in self._files if number < first]
        self.bytes_used -= sum(self._sizes.pop(number) for number in gone)
        return [(self._files.pop(number), self._named.pop(number).path) for number in gone]

    def recycle(self, given_up: list[tuple[int, Path]]) -> None:
        """On any thread, when all syncs of the files are done: close them, keep some for later."""
        for descriptor, path in given_up:
            os.close(descriptor)
            if len(self._spares) < _SPARES_MAX and path.stat().st_size == self.file_bytes:
                spare = path.with_suffix(".spare")
                path.rename(spare)
                self._spares.append(spare)
            else:
                path.unlink()

    def clean(self, first: int, needed: Container[int]) -> None:
        """At the start: files before ``first`` that nothing needs are removed, all others opened."""
        spares = sorted(self._folder.glob("*.spare"))
        self._spares.extend(spares[:_SPARES_MAX])
        for path in spares[_SPARES_MAX:]:
            path.unlink()
        self._named = journal_files(self._folder)
        for generation in list(self._named):
            if generation < first and generation not in needed:
                self._named.pop(generation).path.unlink()
            else:
                self.descriptor(generation)

    def cut(self, generation: int, offset: int) -> None:
        """Forget everything from there on, on disk too, and continue there."""
        for later in [number for number in self._named if number > generation]:
            os.close(self._files.pop(later))
            self.bytes_used -= self._sizes.pop(later)
            self._named.pop(later).path.unlink()
            self._is_folder_unsynced = True
        self.begin_at(generation, offset)
        if self.path_of(generation).exists():
            descriptor = self.descriptor(generation)
            os.ftruncate(descriptor, offset)
            if offset < self.file_bytes:
                os.posix_fallocate(descriptor, 0, self.file_bytes)
            self._count(generation, os.fstat(descriptor).st_size)

    def write_again(self) -> None:
        """At the start: give the system everything once more, so that the next sync does write it."""
        for generation, descriptor in self._files.items():
            for at in range(0, self._sizes[generation], _PIECE_BYTES):
                write_all(descriptor, [os.pread(descriptor, _PIECE_BYTES, at)], at)

    def sync(self) -> None:
        """At the start: see that all that was found is on disk. A killed process may have left several files that are not."""
        for descriptor in self._files.values():
            os.fdatasync(descriptor)
        sync_folder(self._folder)

    def read(self, places: Sequence[int], lengths: Sequence[int]) -> list[bytes | memoryview]:
        """Batches by their places: near ones of one file are read in one go."""
        pieces: list[bytes | memoryview] = []
        start = 0
        while start < len(places):
            end, wanted = start + 1, lengths[start]
            generation = places[start] >> PLACE_BITS
            while end < len(places) and places[end] >> PLACE_BITS == generation:
                span = places[end] + lengths[end] - places[start]
                if span > _GAP_BYTES + _GAP_FACTOR * (wanted + lengths[end]):
                    break
                wanted += lengths[end]
                end += 1
            span = places[end - 1] + lengths[end - 1] - places[start]
            view = memoryview(read_all(self.descriptor(generation), span, places[start] & PLACE_MASK))
            for at in range(start, end):
                begin = places[at] - places[start]
                pieces.append(view[begin : begin + lengths[at]])
            start = end
        return pieces

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def write_all(descriptor: int, parts: list[bytes], offset: int) -> int:
    """Write pieces one after another, in as few calls as the system allows; where they end."""
    for start in range(0, len(parts), _PIECES_MAX):
        pieces: list[bytes | memoryview] = list(parts[start : start + _PIECES_MAX])
        while pieces:
            written = os.pwritev(descriptor, pieces, offset)
            offset += written
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            if pieces and written:
                pieces[0] = memoryview(pieces[0])[written:]
    return offset


def read_all(descriptor: int, size: int, offset: int) -> bytes:
    """Exactly ``size`` bytes; OSError if the file is shorter."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError(f"the file ends {size - len(data)} bytes too early")
        data += more
    return data
