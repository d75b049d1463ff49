"""The broker that is tormented: the production code, on a clock that may jump while it runs, settling every few seconds.

    python -m tests.chaos.launched CLOCK serve --data ...

CLOCK is a file of 8 bytes: how far the machine's time is off, in nanoseconds. Journal files are small and a round of settling
begins after a thousand entries, so that kills meet rounds and checkpoints under way.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

SIZES = {"journal_file_bytes": 1 << 20, "settle_bytes": 1 << 20, "settle_entries": 1000, "tail_bytes": 1 << 19}
_OFFSET = struct.Struct("<q")


def write_offset(path: Path, offset_ns: int) -> None:
    """The time of who runs on this clock jumps, at once."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(_OFFSET.pack(offset_ns))


def _set_clock(path: Path) -> None:
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real_ns = time.time_ns

    def jumping_ns() -> int:
        return real_ns() + int(_OFFSET.unpack_from(offset)[0])

    time.time_ns = jumping_ns


def main() -> None:
    """As ``python -m oncelog``."""
    _set_clock(Path(sys.argv.pop(1)))
    from oncelog.storage.files import FileStorage  # only now: what it keeps of the clock is the one that jumps

    defaults = FileStorage.__init__.__kwdefaults__
    assert defaults is not None and set(SIZES) <= set(defaults)
    defaults.update(SIZES)
    runpy.run_module("oncelog", run_name="__main__")


if __name__ == "__main__":
    main()
