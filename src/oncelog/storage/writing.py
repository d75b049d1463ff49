"""Writing one segment file, from its first byte to its foot, beside the loop.

Bytes go through one buffer, past the page cache where the file system allows it (O_DIRECT): what is settled is seldom read
soon, and fresh pages of the cache are the dearest thing in bulk. A stretch ends where its log's rolling says, at a gap, and at
the firm bounds of stretches.py.

What comes from a map is copied by the kernel, into a buffer that is a file in memory: a page that can't be read is an error
then, where looking at it would end the process (SIGBUS). It is one copy instead of two, too, and others have the interpreter
meanwhile.

``breathe`` is called every few hundred microseconds of work, so that the interpreter is never held for long.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

from crc32c import crc32c

from oncelog.model.ids import LogId
from oncelog.storage.contract import Rolling
from oncelog.storage.segments import DIRECTORY, FOOT, MARK, SegmentFile
from oncelog.storage.stretches import STRETCH_BATCHES_MAX, STRETCH_BYTES_MAX, Stretch, StretchIndex

#: What O_DIRECT asks of addresses, offsets and sizes, on all common devices.
_BLOCK_BYTES: Final = 4_096
_BUFFER_BYTES: Final = 1024 * 1024
#: However small segment.bytes and segment.ms are: what a stretch costs must stay small beside it.
_STRETCH_BYTES_MIN: Final = 64 * 1024
_STRETCH_MS_MIN: Final = 10_000


class Chunk(NamedTuple):
    """Some batches of one log that follow one another."""

    offsets: array[int]
    timestamps: array[int]
    lengths: list[int]
    offset_next: int
    pieces: list[memoryview]


class _Open:
    """The stretch that is being written."""

    def __init__(self, at: int, timestamp_max: int) -> None:
        self.at, self.size = at, 0
        self.timestamp_last = timestamp_max
        self.offset_next = -1
        self.batches = StretchIndex(array("q"), array("q"), array("I"))


class SegmentWriter:
    """``begin`` a log, ``add`` its chunks in order, and so on; then ``finish``. Raises OSError."""

    def __init__(self, path: Path, breathe: Callable[[], None]) -> None:
        self._breathe = breathe
        self._filled = self._drained = 0
        self._directory: list[Stretch] = []
        self._log, self._bytes_max, self._span_ms = LogId(0), 0, 0
        self._open: _Open | None = None
        with contextlib.ExitStack() as begun:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            begun.callback(path.unlink)
            begun.callback(os.close, self._descriptor)
            self._memory = os.memfd_create("oncelog settling", os.MFD_CLOEXEC)
            begun.callback(os.close, self._memory)
            os.ftruncate(self._memory, _BUFFER_BYTES)
            self._view = memoryview(mmap.mmap(self._memory, _BUFFER_BYTES))
            begun.pop_all()  # from here on ``close`` sees to them

    def allocate(self, size: int) -> None:
        """About so many bytes will come: a disk without room for them says so now."""
        os.posix_fallocate(self._descriptor, 0, size + _BLOCK_BYTES)
        with contextlib.suppress(OSError):  # a file system without it: the page cache does as well
            self._set_direct(True)

    def _set_direct(self, is_direct: bool) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        flags = flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)

    # -- batches ------------------------------------------------------------------------------------------------------

    def begin(self, log: LogId, rolling: Rolling) -> None:
        """What is added from now on is of that log."""
        self._end_stretch()
        self._log = log
        self._bytes_max = min(max(rolling.segment_bytes, _STRETCH_BYTES_MIN), STRETCH_BYTES_MAX)
        self._span_ms = max(rolling.segment_ms, _STRETCH_MS_MIN)

    def add(self, chunk: Chunk) -> None:
        """The next batches of the log."""
        start, count = 0, len(chunk.offsets)
        while start < count:
            stretch = self._open
            if stretch is None:
                stretch = self._open = _Open(self._drained + self._filled, chunk.timestamps[start] + self._span_ms)
            taken = self._room(stretch, chunk, start)
            if not taken:
                self._end_stretch()
                continue
            start += taken
        self._breathe()

    def _room(self, stretch: _Open, chunk: Chunk, start: int) -> int:
        """Add as many batches as the stretch may hold; how many these were."""
        offsets, timestamps, ends = stretch.batches
        if offsets and chunk.offsets[start] != stretch.offset_next:
            return 0
        end = min(len(chunk.offsets), start + STRETCH_BATCHES_MAX - len(offsets))
        sums = list(accumulate(chunk.lengths[start:end], initial=stretch.size))
        taken = bisect_right(sums, self._bytes_max) - 1
        times = chunk.timestamps[start : start + max(taken, 0)]
        if taken > 0 and max(times) > stretch.timestamp_last:
            taken = next(at for at, timestamp in enumerate(times) if timestamp > stretch.timestamp_last)
        if taken <= 0:
            if offsets:
                return 0
            taken = 1
        end = start + taken
        offsets.extend(chunk.offsets[start:end])
        timestamps.extend(chunk.timestamps[start:end])
        ends.extend(sums[1 : taken + 1])
        stretch.size = sums[taken]
        stretch.offset_next = chunk.offsets[end] if end < len(chunk.offsets) else chunk.offset_next
        self._gather(chunk.pieces[start:end], sums[taken] - sums[0])
        return taken

    def _end_stretch(self) -> None:
        stretch, self._open = self._open, None
        if stretch is None or not stretch.batches.offsets:
            return
        data = stretch.batches.to_bytes()
        self._directory.append(
            Stretch(
                self._log,
                stretch.batches.offsets[0],
                stretch.offset_next,
                max(stretch.batches.timestamps),
                stretch.at,
                stretch.size,
                len(stretch.batches.offsets),
                crc32c(data),
            )
        )
        self._write(data)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _gather(self, pieces: list[memoryview], size: int) -> None:
        """Add pieces that may be of a map, ``size`` bytes together."""
        while size:
            room = _BUFFER_BYTES - self._filled
            some = pieces if size <= room else _parted(pieces, room)[0]
            written = os.pwritev(self._memory, some, self._filled)
            self._filled += written
            size -= written
            if size:
                pieces = _parted(pieces, written)[1]
            if self._filled == _BUFFER_BYTES:
                self._drain()

    def _write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = min(len(data) - at, _BUFFER_BYTES - self._filled)
            self._view[self._filled : self._filled + size] = data[at : at + size]
            self._filled += size
            at += size
            if self._filled == _BUFFER_BYTES:
                self._drain()

    def _drain(self) -> None:
        """Hand the buffer to the system; its size is a multiple of a block."""
        rest = self._view[: self._filled]
        while rest:
            try:
                written = os.pwrite(self._descriptor, rest, self._drained)
            except OSError as error:
                if error.errno != errno.EINVAL or not fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_DIRECT:
                    raise
                self._set_direct(False)
                continue
            if written % _BLOCK_BYTES:
                self._set_direct(False)
            self._drained += written
            rest = rest[written:]
        self._filled = 0
        self._breathe()

    def finish(self, number: int, merges: int) -> SegmentFile:
        """Directory and foot; everything is on disk when this returns, but for the file's name."""
        self._end_stretch()
        at = self._drained + self._filled
        directory = b"".join(DIRECTORY.pack(*stretch) for stretch in self._directory)
        self._write(directory)
        foot = FOOT.pack(MARK, number, merges, at, len(self._directory), crc32c(directory))
        padding = -(self._drained + self._filled + len(foot)) % _BLOCK_BYTES
        self._write(bytes(padding) + foot)
        self._drain()
        os.ftruncate(self._descriptor, self._drained)
        os.fsync(self._descriptor)
        return SegmentFile(number, self._drained, merges, self._directory)

    def close(self) -> None:
        """Whatever was written stays; the name is the caller's."""
        os.close(self._descriptor)
        os.close(self._memory)


def _parted(pieces: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """The pieces up to ``size`` bytes, and those after."""
    for at, piece in enumerate(pieces):
        if len(piece) > size:
            return [*pieces[:at], piece[:size]], [piece[size:], *pieces[at + 1 :]]
        size -= len(piece)
    return pieces, []
