"""Brokers that are measured: get, start, wait until ready, CPU seconds and memory of the process tree, stop.

Ends only processes that it started. Toolchain missing: Unavailable, and the row says so.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from tests.compiled import building

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oncelog-bench"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: oncelog-compiled: the same sources with a compiled core, built into the cache of the tests.
NAMES = ("oncelog", "oncelog-compiled", "kafka", "kafka-flush", "kfake")
READY_TIMEOUT_S = 120
_POLL_S = 0.005


class Unavailable(RuntimeError):
    """The peer can't be had on this machine; the text says why."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        raise Unavailable(f"{tool} is not on PATH")
    return path


def _checked(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {(done.stdout + done.stderr)[-300:]}")


def _compiled() -> dict[str, str]:
    try:
        building.check()
    except AssertionError as no:
        raise Unavailable(f"oncelog can't be compiled: {str(no)[-300:]}") from None
    return building.variables()


def _kfake() -> str:
    binary = CACHE / "kfake"
    if not binary.exists():
        _checked([_need("go"), "build", "-trimpath", "-o", str(binary), "."], HERE / "kfake")
    return str(binary)


def classpath(kind: str) -> str:
    """Jars as Maven finds them: "kafka" the broker, "kafka-tools" its performance tools."""
    _need("java")
    libs = CACHE / f"{kind}-libs"
    if not (libs / "complete").exists():
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        pom = str(HERE / f"{kind}-pom.xml")
        _checked([_need("mvn"), "-q", "-B", "-f", pom, plugin, "-DincludeScope=runtime", f"-DoutputDirectory={libs}"])
        (libs / "complete").touch()
    return f"{libs}/*"


class Peer:
    """One broker process on its own folder and port. launch() may follow stop() on the same data."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.port = name, folder, free_port()
        folder.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.variables = _compiled() if name == "oncelog-compiled" else {}
        self.command = self._prepare()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _prepare(self) -> list[str]:
        CACHE.mkdir(parents=True, exist_ok=True)
        if self.name in ("oncelog", "oncelog-compiled"):
            data = str(self.folder / "data")
            return [
                sys.executable,
                "-m",
                "oncelog",
                "serve",
                "--data",
                data,
                "--listen",
                self.bootstrap,
                "--durability",
                "fsync",
            ]
        if self.name == "kfake":
            return [_kfake(), "-port", str(self.port)]
        return self._prepare_kafka()

    def _prepare_kafka(self) -> list[str]:
        jars, config = classpath("kafka"), self.folder / "server.properties"
        text = (HERE / "kafka.properties").read_text().replace("@PORT@", str(self.port))
        text = text.replace("@CPORT@", str(free_port())).replace("@DATA@", str(self.folder / "data"))
        config.write_text(text + ("log.flush.interval.messages=1\n" if self.name == "kafka-flush" else ""))
        storage = ["java", "-Xmx256M", "-cp", jars, "kafka.tools.StorageTool"]
        cluster = "AAAAAAAAQACAAAAAAAAAAQ"
        _checked([*storage, "format", "--standalone", "-t", cluster, "-c", str(config)])
        heap = ["-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
        heap += ["-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"]
        return ["java", *heap, "-cp", jars, "kafka.Kafka", str(config)]

    def launch(self) -> float:
        """Start the process; the time of exec."""
        begun = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self.variables}
            )
        return begun

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_for_port(self) -> None:
        """Until somebody listens."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.is_alive():
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(_POLL_S)
        raise self._not_ready()

    def wait(self) -> None:
        """Until Metadata is answered."""
        self.wait_for_port()
        quick = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50, "log_level": 0}
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **quick})
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.is_alive():
            try:
                if admin.list_topics(timeout=2).brokers:
                    return
            except KafkaException:
                continue
        raise self._not_ready()

    def _not_ready(self) -> Unavailable:
        self.stop()
        return Unavailable(f"{self.name} did not become ready: {(self.folder / 'log').read_text()[-300:]}")

    def remove(self) -> None:
        """Delete its folder; after ``stop``."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def _tree(self) -> list[list[str]]:
        assert self.process is not None
        stats: dict[int, list[str]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
        members = {self.process.pid}
        while more := {one for one, stat in stats.items() if int(stat[1]) in members} - members:
            members |= more
        return [stats[one] for one in members if one in stats]

    def cpu_s(self) -> float:
        return sum(int(stat[11]) + int(stat[12]) for stat in self._tree()) / TICKS

    def rss_mib(self) -> float:
        return sum(int(stat[21]) for stat in self._tree()) * PAGE_BYTES / 2**20
