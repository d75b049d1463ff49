"""Files that settling and compaction read.

In the journal a log's batches lie scattered: its files are mapped into memory, so that many small batches cost one slice each,
not one call of the system each. Nobody looks into the slices: the kernel copies them (writing.py), and says by an error what a
process that looks ends of, by SIGBUS and without a word: a bad sector, a file that somebody has cut. What was read is let go
of every few MiB, so that the process does not seem to grow by the size of the journal. In a segment file the batches of a
stretch follow one another: they are read, some at once, and the interpreter is free while the disk works.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Final

from oncelog.model.errors import LostRecords, StorageError
from oncelog.model.ids import LogId
from oncelog.storage.folder import Folder
from oncelog.storage.journal import PLACE_BITS, PLACE_MASK, journal_files, read_all

#: What is read at once to find what can't be read.
_PIECE_BYTES: Final = 1024 * 1024
#: Segment files that are held open; one that is written again may be one of thousands.
_OPEN_MAX: Final = 64


class MappedFiles:
    """Journal and segment files by their numbers, for as long as the with statement lasts. Raises OSError, StorageError."""

    def __init__(self, folder: Folder, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._bytes = 0
        #: Of segment files, the least recently read first.
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._maps: dict[Path, tuple[mmap.mmap, memoryview]] = {}
        self._journal = journal_files(folder.journal)

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._maps.clear()  # the maps go with the last piece of them

    def of_journal(self, log: LogId, offset: int, places: list[int], lengths: list[int]) -> list[memoryview]:
        """Batches of a log from an offset on, by their places in the journal; not to be looked into."""
        pieces: list[memoryview] = []
        generation, view = -1, memoryview(b"")
        for place, length in zip(places, lengths, strict=True):
            if place >> PLACE_BITS != generation:
                generation = place >> PLACE_BITS
                view = self._mapped(generation, log, offset)
            at = place & PLACE_MASK
            piece = view[at : at + length]
            if len(piece) < length:
                raise LostRecords(_too_short(self._journal[generation].path, len(view)), log, offset)
            pieces.append(piece)
        self._count(sum(lengths))
        return pieces

    def path_of(self, number: int) -> Path:
        """A segment file."""
        return self._folder.segments / f"{number:016d}.segment"

    def segment(self, number: int) -> int:
        """The descriptor of a segment file."""
        found = self._descriptors.get(number)
        if found is None:
            found = self._descriptors[number] = os.open(self.path_of(number), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._descriptors) > _OPEN_MAX:
                os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors.move_to_end(number)
        return found

    def of_segment(self, number: int, at: int, lengths: list[int]) -> list[memoryview]:
        """Batches that follow one another in a segment file."""
        view = memoryview(read_all(self.segment(number), sum(lengths), at))
        pieces: list[memoryview] = []
        begin = 0
        for length in lengths:
            pieces.append(view[begin : begin + length])
            begin += length
        return pieces

    def unreadable(self, log: LogId, offset: int) -> StorageError:
        """After the kernel could not copy something of the journal, of a log from an offset on: what it was."""
        for path, (_, view) in self._maps.items():
            with path.open("rb") as file:
                if (size := os.fstat(file.fileno()).st_size) < len(view):
                    return LostRecords(_too_short(path, size), log, offset)
                for at in range(0, len(view), _PIECE_BYTES):
                    try:
                        read_all(file.fileno(), min(_PIECE_BYTES, len(view) - at), at)
                    except OSError as error:
                        why = error.strerror or error
                        return LostRecords(
                            f"The journal file {path} can't be read at or after byte {at}: {why}. Put the whole data folder "
                            "back from a copy, or what can be read of this file in its place, as docs/operations.md says.",
                            log,
                            offset,
                        )
        return StorageError(f"A file in {self._folder.journal} could not be read a moment ago: look after the disk.")

    def _mapped(self, generation: int, log: LogId, offset: int) -> memoryview:
        path = self._journal[generation].path
        found = self._maps.get(path)
        if found is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not os.fstat(descriptor).st_size:  # nothing that could be mapped
                    raise LostRecords(_too_short(path, 0), log, offset)
                map_ = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
            found = self._maps[path] = map_, memoryview(map_)
        return found[1]

    def _count(self, size: int) -> None:
        """Counted before the pieces are read: what is let go here was read earlier."""
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._bytes = size
            for map_, _ in self._maps.values():
                map_.madvise(mmap.MADV_DONTNEED)


def _too_short(path: Path, size: int) -> str:
    return (
        f"The journal file {path} ends at byte {size}, before batches that were written there. "
        "Put the whole data folder back from a copy."
    )
