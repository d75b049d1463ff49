"""Settling: a checkpoint beside the loop, after which journal files that hold nothing retained are used again.

The plan is made on the owner's thread, at an exact position. A thread writes the checkpoint; appends go on meanwhile: the
indexes only grow. When it is safe, ``done`` is called on the owner's thread with the generations that are still needed.
Whatever is interrupted leaves the checkpoint from before and the journal files that it needs.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path

from oncelog.model.errors import StorageError
from oncelog.storage.checkpoint import Place, Plan, write_checkpoint
from oncelog.storage.folder import sync_folder
from oncelog.storage.index import Logs
from oncelog.storage.journal import PLACE_BITS


def plan_of(logs: Logs) -> list[Plan]:
    """What is retained now."""
    return [
        Plan(index, index.first, len(index.offsets), index.offset_start, index.offset_next)
        for index in logs.by_id.values()
    ]


def generations_of(plans: Iterable[Plan]) -> set[int]:
    """The journal files that hold something of the plans."""
    found: set[int] = set()
    for index, at, end, _, _ in plans:
        while at < end:
            generation = index.locations[at] >> PLACE_BITS
            found.add(generation)
            at = bisect_left(index.locations, (generation + 1) << PLACE_BITS, at, end)
    return found


def settle(folder: Path, descriptors: list[int], place: Place, plans: list[Plan], rows: Iterable[bytes]) -> set[int]:
    """Make it safe: first the journal, which the indexes point into. The generations needed; raises StorageError."""
    try:
        for descriptor in descriptors:
            os.fdatasync(descriptor)
        sync_folder(folder / "journal")
        write_checkpoint(folder, place, plans, rows)
    except OSError as error:
        raise StorageError(f"The checkpoint in {folder} can't be written: {error.strerror or error}.") from error
    return generations_of(plans)


def settle_beside(
    folder: Path,
    descriptors: list[int],
    place: Place,
    plans: list[Plan],
    rows: Iterable[bytes],
    tell: Callable[[Callable[[], None]], None],
    done: Callable[[set[int] | StorageError], None],
) -> None:
    """The same, on its own thread."""
    try:
        needed: set[int] | StorageError = settle(folder, descriptors, place, plans, rows)
    except StorageError as error:
        needed = error
    tell(lambda: done(needed))
