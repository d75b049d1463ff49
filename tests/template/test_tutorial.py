"""docs/tutorial.md as a newcomer would do it: every block is written or run, and what it shows is compared.

Two things differ: nothing is installed (the venv sees the packages of these tests), and the broker has a free port.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.broker_process import free_port
from tests.support.projects import equip

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUNNING = "# leave it running\n"
SECONDS_MAX = 240


class Newcomer:
    """A folder, a shell, and what was left running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join(
                (str(folder / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
            ),
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        """With the broker's port instead of the usual one, and packages that are there already."""
        address = f"127.0.0.1:{self.port}"
        text = text.replace("localhost:9092", address).replace("oncelog serve", f"oncelog serve --listen {address}")
        text = re.sub(
            r"^(oncelog (?:topics|log|transactions) .*)$", rf"\1 --bootstrap {address}", text, flags=re.MULTILINE
        )
        equipping = f"PYTHONPATH={ROOT} {sys.executable} -c 'import tests.support.projects as p; p.equip(p.Path.cwd())'"
        return text.replace("make test", f"{equipping}\nmake test")

    def write(self, block: str) -> None:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None, block
        (self.folder / name[1]).write_text(self.here(block), encoding="utf-8")

    def run(self, block: str) -> str:
        """What it shows; it must succeed."""
        command = ["bash", "-e", "-c", self.here(block)]
        given = {"cwd": self.folder, "env": self._environment}
        if block.startswith(RUNNING):
            self._running.append(subprocess.Popen(command, **given, stderr=subprocess.DEVNULL, start_new_session=True))
            if "serve" in block:
                self._wait_for_broker()
            return ""
        ran = subprocess.run(command, **given, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def _wait_for_broker(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def end(self) -> None:
        for process in reversed(self._running):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    made = Newcomer(tmp_path)
    yield made
    made.end()


def test_the_tutorial_as_a_newcomer_does_it(newcomer: Newcomer) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    (first_kind, first), *others = blocks
    assert (first_kind, "python3 -m venv .venv" in first, "'../oncelog[new,sql]' pytest" in first) == ("sh", True, True)
    equip(newcomer.folder)
    shown = ""
    for kind, block in others:
        if kind == "python":
            newcomer.write(block)
        elif kind == "sh":
            shown = newcomer.run(block)
        else:
            assert kind == "text"
            assert_shown(block, shown)


def assert_shown(wanted: str, shown: str) -> None:
    """Each line of the page is in the output, in this order; … stands for anything."""
    left = iter(shown.splitlines())
    for line in wanted.splitlines():
        pattern = re.escape(line).replace("…", ".*")
        assert any(re.search(pattern, each) for each in left), f"{line!r} is not in\n{shown}"
