"""Reading the journal back: where it ends, whether a crash explains that, what to cut.

A crash tears what was not synced: the last entry, or any of the last ones in any order if the machine went down. So a bad entry
that nothing sound follows ends the journal. If a sound entry of the same generation follows, the bad one was damaged if it had
been synced when the later one was made, or if the machine has not gone down since: then the storage refuses to open.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from oncelog.model.errors import StorageError
from oncelog.storage.checkpoint import Place
from oncelog.storage.entries import Found, find_entries, read_entry, skip_torn, tag_of


class JournalReader:
    """Reads files in order; afterwards ``generation``, ``offset`` and ``position`` say where the journal ends."""

    def __init__(self, folder: Path, place: Place, needed: set[int], *, is_same_boot: bool) -> None:
        self._is_same_boot = is_same_boot
        self._paths = {int(path.stem): path for path in sorted(folder.glob("*.journal"))}
        self._needed = needed
        self.position, self.generation, self.offset = place

    def entries(self) -> Iterator[tuple[int, Found]]:
        """(generation, entry) of all entries; raises StorageError for damage."""
        if self.position:
            self._needed.add(self.generation)
        if missing := sorted(self._needed - self._paths.keys()):
            raise StorageError(f"The journal's file {missing[0]:016d}.journal is missing: restore it from a copy.")
        while self.generation in self._paths:
            yield from self._entries_of(self.generation)
            if not self._goes_on():
                break
            self.generation, self.offset = self.generation + 1, 0
        self._check_end()

    def _entries_of(self, generation: int) -> Iterator[tuple[int, Found]]:
        tag = tag_of(generation)
        with self._mapped(generation) as (_, view):
            while (found := read_entry(view, self.offset, tag)) is not None and found.position == self.position + 1:
                self.position, self.offset = found.position, found.end
                yield generation, found

    def _goes_on(self) -> bool:
        after = self.generation + 1
        if after not in self._paths:
            return False
        with self._mapped(after) as (_, view):
            found = read_entry(view, 0, tag_of(after))
            return found is not None and found.position == self.position + 1

    def _check_end(self) -> None:
        """Refuse if what was safe is damaged."""
        for generation in sorted(self._paths):
            if generation < self.generation:
                continue
            at = self.offset if generation == self.generation else 0
            with self._mapped(generation) as (file, view):
                at = skip_torn(view, at, tag_of(generation), self.position)
                for later in find_entries(file, view, at, tag_of(generation)):
                    if later.position <= self.position:
                        continue
                    if self._is_same_boot or later.position_synced > self.position:
                        raise StorageError(self._damage())

    def _damage(self) -> str:
        path = self._paths.get(self.generation)
        if path is None and not self.position:
            return f"The checkpoint is missing: the journal begins with {min(self._paths.values()).name}."
        where = f"{path} has a bad entry" if path is not None else f"{self.generation:016d}.journal is missing"
        return (
            f"The journal is damaged: {where} at offset {self.offset}, but sound entries follow. Nothing was changed; "
            "restore the file from a copy."
        )

    def _mapped(self, generation: int) -> _Mapped:
        return _Mapped(self._paths[generation])


class _Mapped:
    """A file in memory, for as long as the with statement lasts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[mmap.mmap | bytes, memoryview]:
        if self._path.stat().st_size == 0:
            self._file: mmap.mmap | bytes = b""
        else:
            with self._path.open("rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._file)
        return self._file, self._view

    def __exit__(self, *_: object) -> None:
        self._view.release()
        if isinstance(self._file, mmap.mmap):
            self._file.close()
