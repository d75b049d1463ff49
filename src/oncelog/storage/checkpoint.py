"""The checkpoint: one file with all rows as of a position of the journal, and where all batches before it are.

Frames ``[length, crc32c, payload]``: a head; the numbers of the segment files that count; for each log with batches in the
journal, or with none at all, some numbers and its index in columns; the rows' chunks; an end. A file without its end is none.
In the machine's own byte order.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from crc32c import crc32c

from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId, Position
from oncelog.storage.contract import Rolling
from oncelog.storage.folder import sync_folder
from oncelog.storage.index import LogIndex

_FRAME: Final = struct.Struct("=II")
_HEAD: Final = struct.Struct("=8sQQQQ")
_LOG: Final = struct.Struct("=QqQ")
_MARK: Final = b"oncelog2"
_END: Final = b"end of checkpoint"
#: Batches of an index that are written at once: some ten microseconds each.
_STEP: Final = 16_384


class Place(NamedTuple):
    """Where the journal was: replay begins there."""

    position: Position
    generation: int
    offset: int


class Plan(NamedTuple):
    """One log as of the checkpoint: batches ``first`` to ``moved`` of its index go to a segment file, those up to ``end`` stay.

    The index only grows meanwhile.
    """

    log: LogIndex
    first: int
    moved: int
    end: int
    offset_next: int
    rolling: Rolling


class Loaded(NamedTuple):
    """What a checkpoint file holds."""

    place: Place
    segments: list[int]
    indexes: list[LogIndex]
    chunks: list[bytes]


def write_checkpoint(
    folder: Path,
    place: Place,
    segments: list[int],
    plans: list[Plan],
    rows: Iterable[bytes],
    breathe: Callable[[], None],
) -> None:
    """Write, sync, rename. Calls ``breathe`` after each piece. Raises OSError."""
    draft, path = folder / "checkpoint.new", folder / "checkpoint"
    with draft.open("wb") as file:
        _put(file, _HEAD.pack(_MARK, place.position, place.generation, place.offset, len(plans)))
        _put(file, array("Q", segments).tobytes())
        for piece in _pieces(plans):
            _put(file, piece)
            breathe()
        for chunk in rows:
            _put(file, chunk)
            breathe()
        _put(file, _END)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(folder)


def _put(file: BinaryIO, payload: bytes) -> None:
    file.write(_FRAME.pack(len(payload), crc32c(payload)))
    file.write(payload)


def _pieces(plans: list[Plan]) -> Iterator[bytes]:
    for index, first, moved, end, offset_next, _ in plans:
        first = min(max(first, moved), end)
        yield _LOG.pack(index.id, offset_next, end - first)
        for at in range(first, end, _STEP):
            to = min(end, at + _STEP)
            yield b"".join(
                column[at:to].tobytes() for column in (index.offsets, index.timestamps, index.locations, index.lengths)
            )


def read_checkpoint(folder: Path) -> Loaded | None:
    """The checkpoint, or None if there is none. Raises StorageError for damage, OSError."""
    path = folder / "checkpoint"
    (folder / "checkpoint.new").unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        return _load(path.read_bytes())
    except struct.error as error:
        raise StorageError(
            f"The checkpoint {path} is damaged (it ends too early): restore the data folder from a copy."
        ) from error
    except ValueError as error:
        raise StorageError(
            f"The checkpoint {path} is damaged ({error}): restore the data folder from a copy."
        ) from error


def _load(data: bytes) -> Loaded:
    frames = _frames(memoryview(data))
    mark, position, generation, offset, count = _HEAD.unpack(next(frames, b""))
    if mark != _MARK:
        raise ValueError("not a checkpoint of this release")
    segments = array("Q")
    segments.frombytes(next(frames, b""))
    indexes = [_load_log(frames) for _ in range(count)]
    chunks = [bytes(frame) for frame in frames]
    if not chunks or chunks.pop() != _END:
        raise ValueError("it has no end")
    return Loaded(Place(Position(position), generation, offset), list(segments), indexes, chunks)


def _frames(view: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(view):
        length, crc = _FRAME.unpack_from(view, at)
        payload = view[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) != length or crc32c(payload) != crc:
            raise ValueError(f"bad piece at offset {at}")
        yield payload
        at += _FRAME.size + length


def _load_log(frames: Iterator[memoryview]) -> LogIndex:
    log, offset_next, count = _LOG.unpack(next(frames, b""))
    index = LogIndex(LogId(log))
    while count > 0:
        piece, size = next(frames, memoryview(b"")), min(count, _STEP)
        columns: tuple[array[int], ...] = (index.offsets, index.timestamps, index.locations, index.lengths)
        at = 0
        for column in columns:
            column.frombytes(piece[at : at + size * column.itemsize])
            at += size * column.itemsize
        count -= size
    index.offset_next = offset_next
    index.tail_first = len(index.offsets)
    index.bytes_retained = sum(index.lengths)
    return index
