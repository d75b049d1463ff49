"""Which process is at the other end of a connection on this machine: Linux tells by /proc."""

from __future__ import annotations

import contextlib
from pathlib import Path


class NoSuchProcess(AssertionError):
    """Nobody on this machine has that connection."""


def process_of(address: str, server: int) -> int:
    """The id of the process whose end of a TCP connection to the port ``server`` is ``address`` ("host:port").

    The port alone would not do: the system gives it to connections to other servers, too. Raises NoSuchProcess.
    """
    port = int(address.rpartition(":")[2])
    inodes = {f"socket:[{inode}]" for inode in _inodes(port, server)}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and inodes & _opened(folder):
            return int(folder.name)
    raise NoSuchProcess(f"no process of this machine is at {address}")


def _inodes(port: int, server: int) -> list[str]:
    """Of all sockets that go from the one port to the other."""
    found: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = (line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:])
            found += [row[9] for row in rows if (_port(row[1]), _port(row[2])) == (port, server)]
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _opened(folder: Path) -> set[str]:
    found: set[str] = set()
    # Any of them may be closed meanwhile; the process may have ended, or belong to somebody else.
    with contextlib.suppress(OSError):
        for link in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found
