"""The operator's command of these runs: one node of the cluster in FOLDER is killed, stopped in good order, or frozen.

    python -m tests.clusters.strike FOLDER

Only if all nodes are ready: with one away the cluster has to go on, with two it may not. What it did is noted in the folder.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.clusters.kafka import NODES, ready_files

#: Longer than a broker may be silent before it is fenced (9 s).
FROZEN_SECONDS = (2.0, 14.0)


def strike(folder: Path) -> bool:
    """Whether it did."""
    files = ready_files(folder)
    if len(files) < len(NODES):
        return False
    file, how = random.choice(files), random.choice(("kill", "kill", "stop", "freeze"))
    process_id = int(file.read_text(encoding="ascii"))
    file.unlink(missing_ok=True)
    if how == "freeze":
        os.kill(process_id, signal.SIGSTOP)
        time.sleep(random.uniform(*FROZEN_SECONDS))
        os.kill(process_id, signal.SIGCONT)
    else:
        os.kill(process_id, signal.SIGKILL if how == "kill" else signal.SIGTERM)
    with (file.parent / "strikes").open("a", encoding="ascii") as told:
        told.write(f"{how} {file.stem}\n")
    return True


def main() -> int:
    """The exit code: 1 if a node is away already."""
    return 0 if strike(Path(sys.argv[1])) else 1


if __name__ == "__main__":
    sys.exit(main())
