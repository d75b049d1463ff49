"""The data folder: one process at a time, one format, one boot of the machine.

``lock`` is held as long as the storage is open and names the process. ``format`` holds the version of everything in the
folder; any other is refused before anything is touched. ``boot`` holds the machine's boot id of when the storage was last
in use (rule D2).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from oncelog.model.errors import StorageError

FORMAT_VERSION: Final = 3
#: What is read, and brought to the newest by the first start: the journal's files had no tag in their names.
_FORMAT_OLDEST: Final = 2
_FORMAT_FILE: Final = "format"
_LOCK_FILE: Final = "lock"
_BOOT_FILE: Final = "boot"
#: What may be in a folder that has no format: an interrupted first start, and what a file system puts there.
_BEFORE_FORMAT: Final = frozenset((_LOCK_FILE, "journal", "segments", f"{_FORMAT_FILE}.new", "lost+found"))
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Folder:
    """The folder and what is directly in it. Every method raises StorageError with one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal"
        self.segments = path / "segments"
        self._lock: int | None = None

    def open(self) -> None:
        """Check, lock, and make what is missing."""
        try:
            self._check_format()
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._check_format()
            self.journal.mkdir(exist_ok=True)
            self.segments.mkdir(exist_ok=True)
            if not (self.path / _FORMAT_FILE).exists():
                self._write_format()
        except OSError as error:
            self.close()
            raise StorageError(
                f"The data folder {self.path} can't be used: {why(error)}. Put that right first."
            ) from error
        except StorageError:
            self.close()
            raise

    def keep_format(self) -> None:
        """From now on no older release reads this folder. Raises OSError."""
        if self._version() != FORMAT_VERSION:
            self._write_format()

    def _write_format(self) -> None:
        write_whole(self.path / _FORMAT_FILE, f"oncelog {FORMAT_VERSION}\n".encode())

    def close(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_format(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(f"The data folder {self.path} is not a folder: name another one.")
        try:
            version = self._version()
        except FileNotFoundError:
            self._check_empty()
            return
        if version > FORMAT_VERSION:
            raise StorageError(
                f"The data folder {self.path} has format {version}, this release reads up to {FORMAT_VERSION}: "
                "use the newer release that wrote it."
            )
        if version < _FORMAT_OLDEST:
            raise StorageError(
                f"The data folder {self.path} has format {version}, of a time before the first release; this one reads "
                f"formats from {_FORMAT_OLDEST} on: use another folder, or copy the topics with the program that wrote them."
            )

    def _version(self) -> int:
        text = (self.path / _FORMAT_FILE).read_text(encoding="ascii", errors="replace")
        name, _, version = text.strip().partition(" ")
        if name != "oncelog" or not version.isdecimal():
            raise StorageError(
                f"The data folder {self.path} is not oncelog's, or damaged: its file 'format' says {text[:40]!r}. "
                "Restore that file from a copy, or name another folder."
            )
        return int(version)

    def _check_empty(self) -> None:
        """A folder without a format must be new: nobody's letters are to lie among the journal's files."""
        if not self.path.exists():
            return
        if any(self.journal.glob("*.journal")):
            raise StorageError(f"The data folder {self.path} has lost its file 'format': restore it from a copy.")
        others = sorted(path.name for path in self.path.iterdir() if path.name not in _BEFORE_FORMAT)
        others = [name for name in others if not name.startswith(".")]
        if others:
            raise StorageError(
                f"The data folder {self.path} is not oncelog's: it holds {others[0][:80]!r}. Name an empty or a new folder."
            )

    def _take_lock(self) -> None:
        descriptor = os.open(self.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).strip().decode("ascii", "replace")
            os.close(descriptor)
            by = f"process {holder}" if holder else "another process"
            raise StorageError(
                f"The data folder {self.path} is in use by {by}: stop it or use another folder."
            ) from None
        self._lock = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    # -- the boot of the machine --------------------------------------------------------------------------------------

    def is_same_boot(self) -> bool:
        """Whether the machine has run since the boot id was kept; False if nothing tells."""
        now = _boot_id()
        try:
            return now != b"" and (self.path / _BOOT_FILE).read_bytes() == now
        except OSError:
            return False

    def is_boot_kept(self) -> bool:
        """Whether a boot id is there, of whatever boot: not after a sync that has failed. Raises OSError."""
        return (self.path / _BOOT_FILE).exists()

    def keep_boot(self) -> None:
        """Say that the folder is in use in this boot. Raises OSError."""
        write_whole(self.path / _BOOT_FILE, _boot_id())

    def forget_boot(self, failure: BaseException) -> None:
        """After a failed sync the kernel may have lost what was written: the next start must not count on it (rule D2)."""
        try:
            (self.path / _BOOT_FILE).unlink(missing_ok=True)
        except OSError as error:
            failure.add_note(f"The boot id could not be removed: {error}")


def why(error: OSError) -> str:
    """What the system says, and of which file if it says that too."""
    of = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{of}"


def _boot_id() -> bytes:
    try:
        return _BOOT_ID.read_bytes()
    except OSError:
        return b""


def write_whole(path: Path, data: bytes) -> None:
    """A small file, wholly there or not at all, on disk when this returns."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file safe that another thread writes and syncs too.

    By a descriptor of its own: that something could not be written is told once to each, and the other must hear it too.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
