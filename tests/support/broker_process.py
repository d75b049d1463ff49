"""The broker under test as a process of its own: started, killed, frozen, started again on the same folder and port."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

READY = re.compile(r"^oncelog ready\b.*\bport=(\d+)", re.MULTILINE)
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0

#: A broker that runs already ("host:port"), to try the tests themselves against another implementation.
BOOTSTRAP_VARIABLE = "ONCELOG_TEST_BOOTSTRAP"


def free_port() -> int:
    """A free port that the system gives to no client: one of those would take it while the broker is down.

    (A client that connects again and again from such ports may even meet itself.)
    """
    for port in random.sample(range(15_000, 32_000), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class BrokerProcess:
    """One broker over all its lives, always on the same port."""

    def __init__(self, folder: Path, *, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.options = list(options)
        self.port = free_port()
        #: What python runs, before ``serve``.
        self.program = ["-m", "oncelog"]
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        """What all lives have written to stderr."""
        path = self.folder / "stderr.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> BrokerProcess:
        """Returns when the ready line is there; else fails with the log."""
        assert self._process is None, "it runs"
        self.starts += 1
        out = self.folder / f"stdout-{self.starts}.txt"
        command = [sys.executable, *self.program, "serve", "--data", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self.port}", *self.options]
        with out.open("wb") as stdout, (self.folder / "stderr.txt").open("ab") as stderr:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while (ready := READY.search(out.read_text(encoding="utf-8"))) is None:
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.close()
                raise AssertionError(f"the broker is not ready (exit code {code}):\n{self.log[-4000:]}")
            time.sleep(0.01)
        self.port = int(ready[1])
        return self

    def kill(self) -> None:
        """SIGKILL: no farewell, no flush. Returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        self._process = None

    def restart(self) -> None:
        """Kill -9 and start again on the same folder and port."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """SIGTERM; it must end by itself, with exit code 0."""
        assert self._process is not None
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not stop the broker:\n{self.log[-4000:]}") from None
        self._process = None
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log[-4000:]}"

    def wait(self) -> int:
        """It ends by itself: its exit code."""
        assert self._process is not None
        code = self._process.wait(STOP_SECONDS_MAX)
        self._process = None
        return code

    def pause(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        os.kill(self.process_id, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.process_id, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def assert_healthy(self) -> None:
        """It runs still, and has not complained about a bug of its own."""
        assert self.is_running, f"the broker has died:\n{self.log[-4000:]}"
        assert "Traceback" not in self.log, self.log[-4000:]

    def close(self) -> None:
        """Kills it if it still runs; leaves no process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)
            self._process = None

    def __enter__(self) -> BrokerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ForeignBroker:
    """A broker that somebody else started; what BrokerProcess offers to ordinary tests."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.port = int(bootstrap.rpartition(":")[2])

    def assert_healthy(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
