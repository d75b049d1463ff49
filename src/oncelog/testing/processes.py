"""Which process is at the other end of a connection on this machine: Linux tells by /proc."""

from __future__ import annotations

from pathlib import Path


class NoSuchProcess(AssertionError):
    """Nobody on this machine has that connection."""


def process_of(address: str) -> int:
    """The id of the process whose end of a TCP connection is ``address`` ("host:port"). Raises NoSuchProcess."""
    port = int(address.rpartition(":")[2])
    inodes = {f"socket:[{inode}]" for inode in _inodes(port)}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and inodes & _opened(folder):
            return int(folder.name)
    raise NoSuchProcess(f"no process of this machine is at {address}")


def _inodes(port: int) -> list[str]:
    """Of all sockets whose own port it is."""
    found: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = (line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:])
            found += [row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port]
    return found


def _opened(folder: Path) -> set[str]:
    try:
        return {str(link.readlink()) for link in (folder / "fd").iterdir()}
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return set()
