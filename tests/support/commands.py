"""The oncelog command, run to its end, and pages of a broker that runs."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

COMMAND = (sys.executable, "-m", "oncelog")
SECONDS_MAX = 60.0


def run(*words: str | Path, folder: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command that must end by itself."""
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def page(address: str, path: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=SECONDS_MAX) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what files hold: to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
