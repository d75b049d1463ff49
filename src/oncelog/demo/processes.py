"""The broker and the workers, as processes that can be killed, frozen and thawed.

Each has a thread that reads its lines. Nothing here knows why a process is killed; whoever started one ends it.
"""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from oncelog.demo.worker import Semantics

READY: Final = re.compile(r"ready\b.*\bport=(\d+)")
READY_SECONDS_MAX: Final = 30.0
END_SECONDS_MAX: Final = 15.0

#: Called from the reading thread with each line, and with None when there will be no more.
Listener = Callable[[str | None], None]


class DemoError(Exception):
    """The demo cannot go on; the text says why and where to look."""


class Child:
    """One process: its lines go to `heard`, what it complains about to `log`. Ctrl-C of the terminal does not reach it."""

    def __init__(self, command: Sequence[str], log: Path, heard: Listener) -> None:
        self.frozen = False
        with log.open("ab") as complaints:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
            )
        self._heard = heard
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        lines = self.process.stdout
        assert lines is not None
        for line in lines:
            self._heard(line.strip())
        self.process.wait()
        self._heard(None)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self.process.poll()

    def tell(self, line: str) -> None:
        """One line to its stdin; none if it is gone."""
        lines = self.process.stdin
        assert lines is not None
        try:
            lines.write(line + "\n")
            lines.flush()
        except OSError:
            return

    def freeze(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def kill(self) -> None:
        """SIGKILL: no farewell, no flush. Returns at once; harmless if it is gone."""
        self.process.kill()

    def ask_to_stop(self) -> None:
        """SIGTERM, and SIGKILL for one that takes too long."""
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def close(self) -> None:
        """Kills it if it still runs, and leaves nothing of it."""
        self.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


class BrokerProcess:
    """The broker, over all its lives: the same folder and, after the first start, the same port."""

    def __init__(self, command: Sequence[str], folder: Path, advertised_port: int, died: Callable[[], None]) -> None:
        self.command = command
        self.folder = folder
        self.advertised_port = advertised_port
        self.port = 0
        self.log = folder / "broker.log"
        self._died = died
        self._child: Child | None = None

    def start(self) -> None:
        """Starts it and waits for its ready line. DemoError if there is none."""
        if self._child is not None:
            self._child.close()
        ready: queue.Queue[int | None] = queue.Queue()

        def heard(line: str | None) -> None:
            if line is None:
                ready.put(None)
                self._died()
            elif found := READY.search(line):
                ready.put(int(found[1]))

        addresses = ["--listen", f"127.0.0.1:{self.port}", "--advertise", f"127.0.0.1:{self.advertised_port}"]
        data = ["--data", str(self.folder / "data")]
        self._child = Child([*self.command, *data, *addresses], self.log, heard)
        try:
            port = ready.get(timeout=READY_SECONDS_MAX)
        except queue.Empty:
            port = None
        if port is None:
            raise DemoError(f"the broker did not start: {last_line(self.log)}")
        self.port = port

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Asks it to stop, and sees to it that it does."""
        if self._child is not None:
            self._child.ask_to_stop()
            self._child.close()


def start_worker(semantics: Semantics, target: str, batch: int, port: int, log: Path, heard: Listener) -> Child:
    """A worker process of the pipeline, at a broker behind `port`."""
    options = {
        "--bootstrap": f"127.0.0.1:{port}",
        "--semantics": semantics.value,
        "--group": f"invoicing-{semantics.value}",
        "--source": "orders",
        "--target": target,
        "--batch": str(batch),
    }
    words = [word for pair in options.items() for word in pair]
    return Child([sys.executable, "-m", "oncelog.demo.worker", *words], log, heard)


def last_line(log: Path) -> str:
    """The last words in a log, or where they would be."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else f"it wrote nothing to {log}"
