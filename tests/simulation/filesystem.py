"""A file system in memory, as good and as bad as real ones: what the production storage runs on in simulated worlds.

``FileTree`` is the disk with the machine's page cache before it. What was written is seen by everybody, and outlives a
killed process; what was synced outlives the machine. When the power goes, of each file any blocks of what was written since
its last sync are there, of each folder any part of what was made, renamed and removed since its own. After a sync that
failed, what it was to write is not on the disk and never will be, though the page cache shows it (as Linux does).

``Process`` has the descriptors of one life. Every call that changes something passes ``_step``: there the process can die,
before the call, after it or in the middle of a write, and there a call can fail. A call that takes time lets the world go
on meanwhile.
"""

from __future__ import annotations

import errno
import os as real_os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, NoReturn

from greenlet import GreenletExit
from tests.simulation.events import Events
from tests.support.power import names_left

BLOCK_BYTES = 512
#: Calls that change something.
WRITES = ("pwritev", "pwrite", "write")
SYNCS = ("fdatasync", "fsync")
READS = ("pread",)
OTHERS = ("posix_fallocate", "ftruncate", "rename", "unlink", "open")
CHANGING = (*WRITES, *SYNCS, *OTHERS)


class Killed(GreenletExit):
    """The process is dead: none of its threads does anything more."""


class File:
    """One file, whatever its names. ``safe`` is what the disk has; ``dirty`` are the blocks that it does not have yet."""

    __slots__ = ("content", "dirty", "flying", "overtaken", "safe")

    def __init__(self) -> None:
        self.content, self.safe = bytearray(), bytearray()
        self.dirty: set[int] = set()
        #: Syncs under way: block by number, as it was when the sync began.
        self.flying: list[dict[int, bytes]] = []
        #: Those of them that say nothing of the file's size any more: a later one is done.
        self.overtaken: list[dict[int, bytes]] = []

    def write(self, data: bytes | memoryview, at: int) -> None:
        end = at + len(data)
        if at > len(self.content):
            self.resize(at)
        self.content[at:end] = data
        self.dirty.update(range(at // BLOCK_BYTES, -(-end // BLOCK_BYTES)))

    def resize(self, size: int) -> None:
        now = len(self.content)
        if size < now:
            del self.content[size:]
        else:
            self.content.extend(bytes(size - now))
        self.dirty.add(min(size, now) // BLOCK_BYTES)

    def begin_sync(self) -> tuple[dict[int, bytes], int]:
        """What a sync that begins now will write, or wait for: blocks, and the file's size."""
        blocks = {number: self._block(number) for number in sorted(self.dirty.union(*self.flying))}
        self.dirty = set()
        self.flying.append(blocks)
        return blocks, len(self.content)

    def _block(self, number: int) -> bytes:
        return bytes(self.content[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])

    def end_sync(self, blocks: dict[int, bytes], size: int, *, is_done: bool) -> None:
        at = next(number for number, each in enumerate(self.flying) if each is blocks)
        del self.flying[at]
        is_overtaken = any(each is blocks for each in self.overtaken)
        self.overtaken = [each for each in self.overtaken if each is not blocks]
        if not is_done:
            return
        self.overtaken += self.flying[:at]
        for older in self.flying[:at]:
            # What it will write of these is older than what the disk has then.
            for number in blocks:
                older.pop(number, None)
        if not is_overtaken:
            self._resize_safe(size)
        for number, block in blocks.items():
            self._put_safe(number, block)

    def _resize_safe(self, size: int) -> None:
        if size < len(self.safe):
            del self.safe[size:]
        else:
            self.safe.extend(bytes(size - len(self.safe)))

    def _put_safe(self, number: int, block: bytes) -> None:
        at = number * BLOCK_BYTES
        piece = block[: max(0, len(self.safe) - at)]
        self.safe[at : at + len(piece)] = piece

    def lose_power(self, events: Events) -> None:
        """Only the disk's own content is left, with some of what was on its way."""
        if self.dirty or self.flying:
            if events.chance(0.5):
                self._resize_safe(len(self.content))
            share = events.random.choice((0.0, 0.5, 0.9, 1.0))
            for blocks in (*self.flying, {number: self._block(number) for number in sorted(self.dirty)}):
                for number, block in blocks.items():
                    if events.chance(share):
                        self._put_safe(number, block)
        self.content = bytearray(self.safe)
        self.dirty, self.flying, self.overtaken = set(), [], []


class FileTree:
    """The disk, and what the machine has not given it yet. ``bytes_max``: the room that it has."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.files: dict[str, File] = {}
        self.folders: dict[str, None] = {"/": None}
        self.boots = 1
        self.bytes_max = 1 << 60
        self._safe_names: dict[str, dict[str, File]] = {}
        #: By which sync they are; syncs of folders so far.
        self._safe_since: dict[str, int] = {}
        self._folder_syncs = 0
        #: Checkpoints and segment files made, for people.
        self.counts: Counter[str] = Counter()

    @property
    def boot_id(self) -> bytes:
        """What the kernel says."""
        return b"boot %d" % self.boots

    def names(self, folder: str) -> dict[str, File]:
        """The files of a folder."""
        start = folder.rstrip("/") + "/"
        at = len(start)
        return {path[at:]: file for path, file in self.files.items() if path.startswith(start) and "/" not in path[at:]}

    def sync_folder(self, folder: str) -> None:
        """Its names are safe."""
        self.end_sync_folder(folder, *self.begin_sync_folder(folder))

    def begin_sync_folder(self, folder: str) -> tuple[dict[str, File], int]:
        """The names that a sync is to make safe, and which sync it is."""
        self._folder_syncs += 1
        return self.names(folder), self._folder_syncs

    def end_sync_folder(self, folder: str, names: dict[str, File], number: int) -> None:
        """It is done, unless one that began later was done before: what is safe stays safe."""
        if number > self._safe_since.get(folder, 0):
            self._safe_names[folder], self._safe_since[folder] = names, number

    def forget_syncs(self) -> None:
        """Whoever waited for them is dead: what they were to write is to be written some time."""
        for file in self.files.values():
            for blocks in file.flying:
                file.dirty.update(blocks)
            file.flying = []

    def lose_power(self) -> None:
        """The machine goes down."""
        self.boots += 1
        left: dict[str, File] = {}
        for folder in self.folders:
            found = names_left(self._safe_names.get(folder, {}), self.names(folder), self.events.random)
            start = folder.rstrip("/") + "/"
            left |= {start + name: file for name, file in found.items()}
        for file in {id(file): file for file in left.values()}.values():
            file.lose_power(self.events)
        self.files = left
        for folder in self.folders:
            self.sync_folder(folder)

    @property
    def bytes_used(self) -> int:
        """Of all files."""
        return sum(len(file.content) for file in self.files.values())


class Plan(NamedTuple):
    """What happens at a call: one of ``calls``, the ``after``-th from now. ``number``: of the error, 0 for death."""

    calls: tuple[str, ...]
    after: int
    number: int
    is_power_lost: bool = False
    is_for_ever: bool = False


class _Open(NamedTuple):
    file: File | None
    path: str


#: In the place of a path.
_IN_MEMORY = "memory:"


class Size(NamedTuple):
    """What fstat tells."""

    st_size: int


class Process:
    """One life of the broker's process, as the calls of the system see it."""

    def __init__(
        self,
        tree: FileTree,
        wait: Callable[[], None],
        on_death: Callable[[bool], None],
    ) -> None:
        self.tree, self.events = tree, tree.events
        self.is_dead = False
        self.plan: Plan | None = None
        #: Whether a call has failed as planned.
        self.is_failed = False
        #: How many reads are as they should be before one is not; -1: all are.
        self.reads_until_damage = -1
        self._wait, self._on_death = wait, on_death
        self._descriptors: dict[int, _Open] = {}
        self._descriptor_last = 2
        self._locks: set[str] = set()

    def die(self) -> None:
        """Nothing more can be done."""
        self.is_dead = True

    # -- where it goes wrong ------------------------------------------------------------------------------------------

    def _step(self, call: str, act: Callable[[], Any], partly: Callable[[], None] | None = None) -> Any:
        """A call that changes something, or reads."""
        if self.is_dead:
            raise Killed
        plan = self.plan
        if plan is None or call not in plan.calls:
            return act()
        if plan.after > 0:
            self.plan = plan._replace(after=plan.after - 1)
            return act()
        if plan.number:
            if not plan.is_for_ever:
                self.plan = None
            self.is_failed = True
            self.events.note("disk", "{} fails: {}", call, real_os.strerror(plan.number))
            raise OSError(plan.number, real_os.strerror(plan.number))
        self.plan = None
        way = self.events.random.choice(("before", "after", "partly"))
        self.events.note("disk", "the process dies {} {}", way, call)
        if way == "partly" and partly is not None:
            partly()
        elif way != "before":
            act()
        return self.strike(is_power_lost=plan.is_power_lost)

    def strike(self, *, is_power_lost: bool) -> NoReturn:
        """It dies here and now."""
        self.is_dead = True
        self._on_death(is_power_lost)
        raise Killed

    def _check(self) -> None:
        if self.is_dead:
            raise Killed

    # -- os -----------------------------------------------------------------------------------------------------------

    def memfd_create(self, name: str, flags: int) -> int:
        """A file in memory: what is done to it is no step, and it dies with the process."""
        del name, flags
        self._check()
        return self._opened(_Open(File(), _IN_MEMORY))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        self._check()
        name = str(path)
        if name in self.tree.folders:
            return self._opened(_Open(None, name))
        file = self.tree.files.get(name)
        if file is None:
            if not flags & real_os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, real_os.strerror(errno.ENOENT), name)
            file = self._step("open", lambda: self._make(name))
        elif flags & real_os.O_TRUNC:
            file.resize(0)
        return self._opened(_Open(file, name))

    def _make(self, name: str) -> File:
        file = self.tree.files[name] = File()
        self.tree.counts[name.rpartition(".")[2]] += 1
        return file

    def _opened(self, one: _Open) -> int:
        self._descriptor_last += 1
        self._descriptors[self._descriptor_last] = one
        return self._descriptor_last

    def close(self, descriptor: int) -> None:
        self._check()
        self._locks.discard(self._descriptors.pop(descriptor).path)

    def file(self, descriptor: int) -> File:
        """The open file."""
        self._check()
        found = self._descriptors[descriptor].file
        assert found is not None, f"{descriptor} is a folder"
        return found

    def path(self, descriptor: int) -> str:
        """By which name it was opened."""
        return self._descriptors[descriptor].path

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        file = self.file(descriptor)
        try:
            data: bytes = self._step("pread", lambda: bytes(file.content[offset : offset + size]))
        except OSError:
            self.tree.counts["damaged"] += 1
            raise
        return self._damaged(data) if data and self.reads_until_damage >= 0 else data

    def _damaged(self, data: bytes) -> bytes:
        """One bit of it is another one, if it is its turn."""
        self.reads_until_damage -= 1
        if self.reads_until_damage >= 0:
            return data
        self.is_failed = True
        self.tree.counts["damaged"] += 1
        self.events.note("disk", "a read of {} bytes is damaged", len(data))
        at = self.events.random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.events.random.randrange(8))]) + data[at + 1 :]

    def pwrite(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        return self._write("pwrite", descriptor, bytes(data), offset)

    def pwritev(self, descriptor: int, pieces: Iterable[bytes | memoryview], offset: int) -> int:
        return self._write("pwritev", descriptor, b"".join(pieces), offset)

    def write(self, descriptor: int, data: bytes) -> int:
        return self._write("write", descriptor, data, len(self.file(descriptor).content))

    def _write(self, call: str, descriptor: int, data: bytes, offset: int) -> int:
        file = self.file(descriptor)
        if self.path(descriptor) == _IN_MEMORY:
            file.content[offset : offset + len(data)] = data
            return len(data)
        self._check_room(offset + len(data) - len(file.content))

        def partly() -> None:
            file.write(data[: self.events.random.randint(0, len(data))], offset)

        self._step(call, lambda: file.write(data, offset), partly)
        return len(data)

    def _check_room(self, more: int) -> None:
        if more > 0 and self.tree.bytes_used + more > self.tree.bytes_max:
            self.is_failed = True
            raise OSError(errno.ENOSPC, real_os.strerror(errno.ENOSPC))

    def fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def _sync(self, call: str, descriptor: int) -> None:
        self._check()
        file, path = self._descriptors[descriptor]
        if file is None:
            names, number = self.tree.begin_sync_folder(path)
            self._wait()
            self._check()
            self._step(call, lambda: self.tree.end_sync_folder(path, names, number))
            return
        blocks, size = file.begin_sync()
        self._wait()
        if self.is_dead:
            raise Killed
        try:
            self._step(call, lambda: file.end_sync(blocks, size, is_done=True))
        except OSError:
            file.end_sync(blocks, size, is_done=False)
            raise

    def ftruncate(self, descriptor: int, size: int) -> None:
        file = self.file(descriptor)
        if self.path(descriptor) == _IN_MEMORY:
            file.resize(size)
            return
        self._step("ftruncate", lambda: file.resize(size))

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        file = self.file(descriptor)
        more = offset + size - len(file.content)
        if more > 0:
            self._check_room(more)
            self._step("posix_fallocate", lambda: file.resize(offset + size))

    def fstat(self, descriptor: int) -> Size:
        return Size(len(self.file(descriptor).content))

    def getpid(self) -> int:
        return 4711

    def rename(self, before: str, after: str) -> None:
        def move() -> None:
            self.tree.files[after] = self.tree.files.pop(before)
            self.tree.counts[after.rpartition("/")[2]] += 1

        self._step("rename", move)

    def unlink(self, path: str) -> None:
        self._check()
        if path not in self.tree.files:
            raise FileNotFoundError(errno.ENOENT, real_os.strerror(errno.ENOENT), path)
        self._step("unlink", lambda: self.tree.files.pop(path))

    # -- fcntl --------------------------------------------------------------------------------------------------------

    def flock(self, descriptor: int) -> None:
        self._locks.add(self.path(descriptor))


class SimulatedPath:
    """What the storage asks of a pathlib.Path; of the process that runs now."""

    __slots__ = ("_pure",)
    #: Set while a process does something.
    process: Process

    def __init__(self, path: Any) -> None:
        self._pure = PurePosixPath(str(path))

    def __str__(self) -> str:
        return str(self._pure)

    __repr__ = __fspath__ = __str__

    def __hash__(self) -> int:
        return hash(self._pure)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimulatedPath) and self._pure == other._pure

    def __lt__(self, other: SimulatedPath) -> bool:
        return self._pure < other._pure

    def __truediv__(self, name: str) -> SimulatedPath:
        return SimulatedPath(self._pure / name)

    def with_name(self, name: str) -> SimulatedPath:
        return SimulatedPath(self._pure.with_name(name))

    def with_suffix(self, suffix: str) -> SimulatedPath:
        return SimulatedPath(self._pure.with_suffix(suffix))

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def parent(self) -> SimulatedPath:
        return SimulatedPath(self._pure.parent)

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def _tree(self) -> FileTree:
        self.process._check()
        return self.process.tree

    def _file(self) -> File:
        file = self._tree.files.get(str(self))
        if file is None:
            raise FileNotFoundError(errno.ENOENT, real_os.strerror(errno.ENOENT), str(self))
        return file

    def exists(self) -> bool:
        return str(self) in self._tree.files or str(self) in self._tree.folders

    def is_dir(self) -> bool:
        return str(self) in self._tree.folders

    def stat(self) -> Size:
        return Size(len(self._file().content))

    def iterdir(self) -> Iterator[SimulatedPath]:
        start = str(self).rstrip("/") + "/"
        names = sorted(self._tree.names(str(self)))
        names += sorted(
            path[len(start) :]
            for path in self._tree.folders
            if path.startswith(start) and "/" not in path[len(start) :]
        )
        return iter([self / name for name in names if name])

    def glob(self, pattern: str) -> Iterator[SimulatedPath]:
        assert pattern.startswith("*.")
        return iter([path for path in self.iterdir() if path.name.endswith(pattern[1:])])

    def read_bytes(self) -> bytes:
        return bytes(self._file().content)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str) -> OpenFile:
        """ "rb" or "wb"."""
        flags = {"rb": real_os.O_RDONLY, "wb": real_os.O_WRONLY | real_os.O_CREAT | real_os.O_TRUNC}[mode]
        return OpenFile(self.process, self.process.open(self, flags))

    # -- changing -----------------------------------------------------------------------------------------------------

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Folders are safe at once: none is made but at the first start."""
        assert exist_ok
        for folder in (*reversed(self._pure.parents), self._pure):
            self._tree.folders.setdefault(str(folder))

    def rename(self, target: SimulatedPath) -> SimulatedPath:
        self._file()
        self.process.rename(str(self), str(target))
        return target

    def unlink(self, missing_ok: bool = False) -> None:
        if missing_ok and not self.exists():
            return
        self.process.unlink(str(self))


class OpenFile:
    """A file object of Python, with its buffer."""

    def __init__(self, process: Process, descriptor: int) -> None:
        self._process, self._descriptor = process, descriptor
        self._buffer: list[bytes] = []

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._process.is_dead:
            self.flush()
            self._process.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: bytes) -> None:
        self._buffer.append(bytes(data))

    def flush(self) -> None:
        buffer, self._buffer = self._buffer, []
        if buffer:
            self._process.write(self._descriptor, b"".join(buffer))
