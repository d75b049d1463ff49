"""The journal's entries as bytes: encoding, reading back, finding the end.

An entry is a head, one table row for each batch, the rows, then the batches' bytes, all in one piece. The head's *tag* is the
file's own, so that neither what a recycled file held before nor what a client wrote into its records is ever taken for an
entry; the CRC covers all after itself.
The head also says how many entries before it were not yet synced when it was made: from that, recovery can tell a crash, which
may tear anything that was not synced, from damage to what had been safe.

Pure: bytes in, bytes out. Little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from oncelog.model.ids import LogId, Position
from oncelog.storage.contract import Entry, StoredBatch

#: length after the head; crc of all after it
_FRAME: Final = struct.Struct("<II")
#: position, tag, entries unsynced before this one, bytes of rows, number of batches
_REST: Final = struct.Struct("<QQIII")
#: log, offset, offset after it, largest timestamp, bytes
_BATCH: Final = struct.Struct("<QqqqI")
_HEAD: Final = struct.Struct("<IIQQIII")
#: The commonest entry in one go: the head's rest and one batch.
_REST_ONE: Final = struct.Struct("<QQIIIQqqqI")

HEAD_BYTES: Final = _HEAD.size
BATCH_BYTES: Final = _BATCH.size
_TAG_AT: Final = 16
_TAG_MARK: Final = 0x4F4E << 48
_UNSYNCED_MAX: Final = 2**32 - 1
#: Entries up to here are joined, and those of many small pieces; larger batches are written from where they are.
_JOIN_BYTES_MAX: Final = 8_192
_JOIN_MEAN_BYTES_MAX: Final = 512
#: Bytes of a replayed batch that are handed out: the header, and the whole of a control batch.
REPLAYED_BYTES: Final = 128


def tag_of(generation: int) -> int:
    """What marked an entry as written in that generation of a file, in format 2: whoever produces could know it."""
    return _TAG_MARK | generation


def entry_bytes(rows: bytes, batches: Sequence[StoredBatch]) -> int:
    """How long the entry will be in the journal."""
    size = HEAD_BYTES + len(rows)
    for batch in batches:
        size += BATCH_BYTES + len(batch[4])
    return size


def data_at(rows: bytes, batches: Sequence[StoredBatch]) -> int:
    """Where the first batch's bytes begin within the entry."""
    return HEAD_BYTES + BATCH_BYTES * len(batches) + len(rows)


def encode_entry(
    parts: list[bytes], position: int, tag: int, unsynced: int, rows: bytes, batches: Sequence[StoredBatch]
) -> None:
    """Add the entry's pieces to ``parts``; large batches are not copied."""
    unsynced = min(unsynced, _UNSYNCED_MAX)
    if len(batches) == 1:
        log, offset, offset_next, timestamp_max, data = batches[0]
        table = _REST_ONE.pack(
            position, tag, unsynced, len(rows), 1, log, offset, offset_next, timestamp_max, len(data)
        )
        pieces = [table, rows, data]
    else:
        pieces = [_REST.pack(position, tag, unsynced, len(rows), len(batches))]
        pieces += (_BATCH.pack(batch[0], batch[1], batch[2], batch[3], len(batch[4])) for batch in batches)
        pieces.append(rows)
        pieces += (batch[4] for batch in batches)
    size = sum(map(len, pieces))
    if size <= _JOIN_BYTES_MAX or size < _JOIN_MEAN_BYTES_MAX * len(pieces):
        whole = b"".join(pieces)
        parts += (_FRAME.pack(size - _REST.size, crc32c(whole)), whole)
        return
    crc = 0
    for piece in pieces:
        crc = crc32c(piece, crc)
    parts.append(_FRAME.pack(size - _REST.size, crc))
    parts += pieces


class Found(NamedTuple):
    """An entry in a journal file: where it starts, where it ends, where its first batch's bytes are."""

    at: int
    end: int
    data_at: int
    position: Position
    #: Entries up to here were synced when this one was made.
    position_synced: Position
    entry: Entry
    #: Bytes of each batch; ``entry`` may only have the start of it.
    lengths: tuple[int, ...]


def read_entry(view: memoryview, at: int, tag: int) -> Found | None:
    """The entry at ``at``, or None if no sound entry of that generation is there."""
    if at + HEAD_BYTES > len(view):
        return None
    length, crc, position, tag_found, unsynced, rows_bytes, count = _HEAD.unpack_from(view, at)
    end = at + HEAD_BYTES + length
    if tag_found != tag or end > len(view) or crc32c(view[at + _FRAME.size : end]) != crc:
        return None
    rows_at = at + HEAD_BYTES + count * BATCH_BYTES
    first = data = rows_at + rows_bytes
    batches: list[StoredBatch] = []
    lengths: list[int] = []
    for log, offset, offset_next, timestamp_max, size in _BATCH.iter_unpack(view[at + HEAD_BYTES : rows_at]):
        head = bytes(view[data : data + min(size, REPLAYED_BYTES)])
        batches.append(StoredBatch(LogId(log), offset, offset_next, timestamp_max, head))
        lengths.append(size)
        data += size
    entry = Entry(bytes(view[rows_at:first]), batches)
    return Found(at, end, first, Position(position), Position(position - 1 - unsynced), entry, tuple(lengths))


def skip_torn(view: memoryview, at: int, tag: int, position: int) -> int:
    """Where the torn entries after ``position`` end that begin at ``at``: what looks like an entry in their batches is none.

    In files of format 2, whose tags can be known, a batch's bytes may hold what passes for an entry. A head is believed if all
    its lengths agree; damage to any of them is seen, and then everything after it is looked through.
    """
    while (end := _claimed_end(view, at, tag, position)) is not None and read_entry(view, at, tag) is None:
        at = end
    return at


def _claimed_end(view: memoryview, at: int, tag: int, position: int) -> int | None:
    """Where the entry at ``at`` ends by its own head, sound or not; None if its head contradicts itself."""
    if at + HEAD_BYTES > len(view):
        return None
    length, _, position_found, tag_found, _, rows_bytes, count = _HEAD.unpack_from(view, at)
    table_at, rows_at = at + HEAD_BYTES, at + HEAD_BYTES + count * BATCH_BYTES
    if tag_found != tag or position_found <= position or rows_at > len(view):
        return None
    sizes = sum(size for *_, size in _BATCH.iter_unpack(view[table_at:rows_at]))
    return table_at + length if length == count * BATCH_BYTES + rows_bytes + sizes else None


def find_entries(file: bytes, at: int, tag: int) -> Iterator[Found]:
    """Sound entries with that tag anywhere at or after ``at``."""
    mark, view = tag.to_bytes(8, "little"), memoryview(file)
    place = file.find(mark, at + _TAG_AT)
    while place >= 0:
        found = read_entry(view, place - _TAG_AT, tag)
        if found is not None:
            yield found
        place = file.find(mark, place + 1 if found is None else max(found.end + _TAG_AT, place + 1))
