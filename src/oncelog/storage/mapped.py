"""Files that settling reads, mapped into memory: many small batches cost one slice each, not one call of the system each.

What was read is let go of every few MiB, so that the process does not seem to grow by the size of the journal.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType

from oncelog.storage.folder import Folder
from oncelog.storage.journal import PLACE_BITS, PLACE_MASK, journal_files


class MappedFiles:
    """Journal and segment files by their numbers, for as long as the with statement lasts. Raises OSError."""

    def __init__(self, folder: Folder, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._bytes = 0
        self._files: dict[Path, tuple[int, mmap.mmap, memoryview]] = {}
        self._journal = journal_files(folder.journal)

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor, _, _ in self._files.values():
            os.close(descriptor)
        self._files.clear()  # the maps go with the last piece of them

    def of_journal(self, places: list[int], lengths: list[int]) -> list[memoryview]:
        """Batches by their places in the journal."""
        pieces: list[memoryview] = []
        generation, view = -1, memoryview(b"")
        for place, length in zip(places, lengths, strict=True):
            if place >> PLACE_BITS != generation:
                generation = place >> PLACE_BITS
                view = self._of(self._journal[generation].path)[2]
            at = place & PLACE_MASK
            pieces.append(view[at : at + length])
        self._count(sum(lengths))
        return pieces

    def segment(self, number: int) -> tuple[int, Path]:
        """A segment file: (descriptor, path)."""
        path = self._folder.segments / f"{number:016d}.segment"
        return self._of(path)[0], path

    def of_segment(self, number: int, at: int, lengths: list[int]) -> list[memoryview]:
        """Batches that follow one another in a segment file."""
        view = self._of(self._folder.segments / f"{number:016d}.segment")[2]
        pieces: list[memoryview] = []
        for length in lengths:
            pieces.append(view[at : at + length])
            at += length
        self._count(sum(lengths))
        return pieces

    def _of(self, path: Path) -> tuple[int, mmap.mmap, memoryview]:
        found = self._files.get(path)
        if found is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            map_ = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            found = self._files[path] = descriptor, map_, memoryview(map_)
        return found

    def _count(self, size: int) -> None:
        """Counted before the pieces are read: what is let go here was read earlier."""
        self._bytes += size
        if self._bytes > self._bytes_max:
            self._bytes = size
            for _, map_, _ in self._files.values():
                map_.madvise(mmap.MADV_DONTNEED)
