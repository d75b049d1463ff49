"""Reading the journal back: where it ends, whether a crash explains that, what to cut.

A crash tears what was not synced: the last entry, or any of the last ones in any order if the machine went down. So a bad entry
that nothing sound follows ends the journal. If a sound entry of the same generation follows, the bad one was damaged if it had
been synced when the later one was made, or if the machine has not gone down since: then the storage refuses to open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from oncelog.model.errors import StorageError
from oncelog.storage.checkpoint import Place
from oncelog.storage.entries import Found, find_entries, read_entry, skip_torn
from oncelog.storage.journal import journal_files, read_all


class JournalReader:
    """Reads files in order; afterwards ``generation``, ``offset`` and ``position`` say where the journal ends."""

    def __init__(self, folder: Path, place: Place, needed: dict[int, int], *, is_same_boot: bool) -> None:
        """``needed``: the files that the checkpoint refers to, and how much of each."""
        self._is_same_boot = is_same_boot
        self._files = journal_files(folder)
        #: The file that was read last, whole: through a map a bad sector would end the process without a word.
        self._content: tuple[int, bytes] = (0, b"")
        self._needed = needed
        self.position, self.generation, self.offset = place

    def entries(self) -> Iterator[tuple[int, Found]]:
        """(generation, entry) of all entries; raises StorageError for damage."""
        self._check_needed()
        while self.generation in self._files:
            yield from self._entries_of(self.generation)
            if not self._goes_on():
                break
            self.generation, self.offset = self.generation + 1, 0
        self._check_end()

    def _check_needed(self) -> None:
        if self.position:
            self._needed[self.generation] = max(self.offset, self._needed.get(self.generation, 0))
        for generation, end in sorted(self._needed.items()):
            file = self._files.get(generation)
            if file is None:
                raise StorageError(
                    f"The journal's file {generation:016d} is missing: restore the data folder from a copy."
                )
            if (size := file.path.stat().st_size) < end:
                raise StorageError(
                    f"The journal is damaged: {file.path} ends at byte {size}, and {end} were safe. Nothing was changed; "
                    "restore the data folder from a copy."
                )

    def _entries_of(self, generation: int) -> Iterator[tuple[int, Found]]:
        tag, view = self._files[generation].tag, memoryview(self._read(generation))
        while (found := read_entry(view, self.offset, tag)) is not None and found.position == self.position + 1:
            self.position, self.offset = found.position, found.end
            yield generation, found

    def _goes_on(self) -> bool:
        after = self.generation + 1
        if after not in self._files:
            return False
        found = read_entry(memoryview(self._read(after)), 0, self._files[after].tag)
        return found is not None and found.position == self.position + 1

    def _check_end(self) -> None:
        """Refuse if what was safe is damaged."""
        for generation in sorted(self._files):
            if generation < self.generation:
                continue
            at = self.offset if generation == self.generation else 0
            content, tag = self._read(generation), self._files[generation].tag
            at = skip_torn(memoryview(content), at, tag, self.position)
            for later in find_entries(content, at, tag):
                if later.position <= self.position:
                    continue
                if self._is_same_boot or later.position_synced > self.position:
                    raise StorageError(self._damage())

    def _damage(self) -> str:
        file = self._files.get(self.generation)
        if file is None and not self.position:
            return (
                f"The checkpoint is missing: the journal begins with {min(self._files.values()).path.name}. Nothing was "
                "changed; restore the data folder from a copy."
            )
        where = f"{file.path} has a bad entry" if file is not None else f"its file {self.generation:016d} is missing"
        return (
            f"The journal is damaged: {where} at offset {self.offset}, but sound entries follow. Nothing was changed; "
            "restore the data folder from a copy."
        )

    def _read(self, generation: int) -> bytes:
        if self._content[0] != generation:
            descriptor = os.open(self._files[generation].path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._content = generation, read_all(descriptor, os.fstat(descriptor).st_size, 0)
            finally:
                os.close(descriptor)
        return self._content[1]
