"""Crashes of a folder, without one: what is on the disk just before each call of the system that changes it.

``Recorder`` takes images while the code under test runs. An image is what kill -9 would leave (all that was written), or what a
loss of power would leave: of each file, what was synced last, and of what was written since any blocks; of each folder, the
names that were synced last, and of what was renamed, made and removed since any part.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

BLOCK_BYTES = 512
CHANGING = ("pwrite", "pwritev", "fsync", "fdatasync", "ftruncate", "posix_fallocate", "rename", "unlink")

#: By name within the folder: what is in the file.
Image = dict[str, bytes]


def _is_memory(descriptor: int) -> bool:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:")


class Recorder:
    """Knows what of ``folder`` is safe, and calls ``at_step(call)`` before every call that changes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at_step: Callable[[str], None] = lambda call: None
        #: By inode: the content that was synced. By folder: the names that were synced.
        self._safe: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._lock = threading.RLock()
        #: Files without a name any more, so that their inode numbers are not given to others.
        self._held: list[int] = []

    @contextmanager
    def running(self, patch: pytest.MonkeyPatch) -> Iterator[Recorder]:
        """What is there now counts as safe."""
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            self._sync_folder(folder)
            for path in folder.iterdir():
                if path.is_file():
                    self._safe[path.stat().st_ino] = path.read_bytes()
        with patch.context() as inner:
            for name in CHANGING:
                inner.setattr(os, name, self._watched(name, getattr(os, name)))
            try:
                yield self
            finally:
                for descriptor in self._held:
                    os.close(descriptor)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if isinstance(arguments[0], int) and _is_memory(arguments[0]):
                return call(*arguments, **options)
            with self._lock:
                self.at_step(name)
                if name in ("rename", "unlink") and Path(arguments[-1]).exists():
                    self._held.append(os.open(arguments[-1], os.O_RDONLY))
                done = call(*arguments, **options)
                if name in ("fsync", "fdatasync"):
                    self._synced(arguments[0])
                return done

        return watched

    def _synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.is_dir():
            self._sync_folder(path)
        elif path.is_relative_to(self.folder):
            self._safe[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _sync_folder(self, folder: Path) -> None:
        self._names[folder] = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}

    # -- images -------------------------------------------------------------------------------------------------------

    def killed(self) -> Image:
        """After kill -9."""
        with self._lock:
            return {str(path.relative_to(self.folder)): path.read_bytes() for path in self._files()}

    def without_power(self, chance: random.Random) -> Image:
        """After a loss of power."""
        with self._lock:
            now = {path.stat().st_ino: path.read_bytes() for path in self._files()}
            image: Image = {}
            for folder in {path.parent for path in self._files()} | set(self._names):
                for name, inode in self._names_left(folder, chance).items():
                    content = self._left(self._safe.get(inode, b""), now.get(inode), chance)
                    image[str((folder / name).relative_to(self.folder))] = content
            return image

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def _names_left(self, folder: Path, chance: random.Random) -> dict[str, int]:
        now = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
        return names_left(self._names.get(folder, {}), now, chance)

    @staticmethod
    def _left(safe: bytes, now: bytes | None, chance: random.Random) -> bytes:
        if now is None or now == safe:
            return safe
        size = len(chance.choice((safe, now)))
        blocks = bytearray(safe[:size].ljust(size, b"\0"))
        for at in range(0, min(size, len(now)), BLOCK_BYTES):
            if chance.random() < 0.5:
                piece = now[at : min(at + BLOCK_BYTES, size)]
                blocks[at : at + len(piece)] = piece
        return bytes(blocks)


Named = TypeVar("Named")


def names_left(safe: dict[str, Named], now: dict[str, Named], chance: random.Random) -> dict[str, Named]:
    """What is left of a folder: files by their names, those that are safe and those that there are.

    Each change of names since the last sync happened or did not; what was replaced is there, or what replaced it.
    """
    kept: dict[str, Named] = {}
    for file in dict.fromkeys((*safe.values(), *now.values())):
        is_new = chance.random() < 0.5
        for name, other in (now if is_new else safe).items():
            if other == file and (is_new or name not in kept):
                kept[name] = file
    for name in sorted(safe.keys() & now.keys()):
        kept.setdefault(name, safe[name])
    return kept


def restored(image: Image, folder: Path) -> Path:
    """An image as a folder."""
    for name, content in image.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
