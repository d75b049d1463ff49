"""Who this process is: an instance id that outlives it, held by one living process at a time (mistakes 1, 2, 3).

A transactional id must be the same after a restart, so that the new process ends what the dead one left open at once
(rule T2), and must be used by one process only. Two ways:

- ``ONCELOG_INSTANCE`` in the environment, or ``instance=``: for pods and units that have a stable name.
- else a slot in the state folder: the first that no living process holds. Its id is made once and kept in a file; a lock
  of the operating system holds it, and goes with the process however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import IO, Final

from oncelog.app.errors import ConfigurationError

INSTANCE_VARIABLE: Final = "ONCELOG_INSTANCE"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
#: Processes of one application beside each other on one state folder.
_SLOTS_MAX: Final = 1000


def checked_name(kind: str, name: str) -> str:
    """A name that Kafka and a file system take."""
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise ConfigurationError(f"{kind} {name!r}: letters, digits, dot, dash and underscore, at most 100")
    return name


class Identity:
    """The instance id of this process and the folder that belongs to it, until ``close``."""

    def __init__(self, app: str, state_folder: Path, instance: str | None = None) -> None:
        checked_name("the application's name", app)
        home = state_folder / app
        given = instance or os.environ.get(INSTANCE_VARIABLE)
        try:
            home.mkdir(parents=True, exist_ok=True)
            self.folder, self._lock = _named(home, given) if given else _first_free(home)
        except OSError as error:
            raise ConfigurationError(
                f"the state folder {state_folder} can't be used: {error}. Give another as state_folder="
            ) from error
        self.instance = given or _kept_id(self.folder)

    def close(self) -> None:
        """Another process may be this instance now."""
        self._lock.close()


def _named(home: Path, name: str) -> tuple[Path, IO[bytes]]:
    folder = home / checked_name("the instance", name)
    lock = _locked(folder)
    if lock is None:
        raise ConfigurationError(
            f"another process runs as instance {name} on this machine (it holds {folder / 'lock'}); end it, or give this "
            f"one another name ({INSTANCE_VARIABLE})"
        )
    return folder, lock


def _first_free(home: Path) -> tuple[Path, IO[bytes]]:
    for slot in range(_SLOTS_MAX):
        folder = home / f"slot-{slot}"
        lock = _locked(folder)
        if lock is not None:
            return folder, lock
    raise ConfigurationError(f"{_SLOTS_MAX} processes run on the state folder {home}; give this one another")


def _locked(folder: Path) -> IO[bytes] | None:
    """The lock of a folder; None if a living process holds it."""
    folder.mkdir(exist_ok=True)
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _kept_id(folder: Path) -> str:
    """The id of a slot, made at its first use. Under the slot's lock."""
    path = folder / "instance"
    if not path.exists():
        made = path.with_suffix(".new")
        with made.open("w", encoding="ascii") as file:
            file.write(secrets.token_hex(4))
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    return checked_name("the instance", path.read_text(encoding="ascii"))
