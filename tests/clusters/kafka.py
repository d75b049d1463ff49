"""Three nodes of Apache Kafka on this machine: each broker and controller, everything three times, two copies before an answer.

A node that ends is started again a little later on the same folder and port, as an operator's machinery would. While a node is
ready, a file named for it holds its process id.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

from bench.peers import HERE, classpath, free_port
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

NODES = (1, 2, 3)
HEAP = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC")
READY_SECONDS_MAX = 180.0
#: From a node's end to its next start.
AWAY_SECONDS = 3.0
_CLUSTER = "AAAAAAAAQACAAAAAAAAAAQ"
_REPLICATED = {
    "default.replication.factor": 3,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": 3,
    "offsets.topic.num.partitions": 6,
    "transaction.state.log.replication.factor": 3,
    "transaction.state.log.min.isr": 2,
    "transaction.state.log.num.partitions": 6,
    "share.coordinator.state.topic.replication.factor": 3,
    "share.coordinator.state.topic.min.isr": 2,
    "group.initial.rebalance.delay.ms": 0,
}


def ready_files(folder: Path) -> list[Path]:
    """Of the nodes that are ready."""
    return sorted(folder.glob("*.ready"))


class KafkaCluster:
    """From ``with`` to its end; leaves no process and no folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self._jars = classpath("kafka")
        self._ports = {node: free_port() for node in NODES}
        self._controllers = {node: free_port() for node in NODES}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="kafka cluster", daemon=True)
        folder.mkdir(parents=True)
        for node in NODES:
            self._prepare(node)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def _config(self, node: int) -> Path:
        return self.folder / f"{node}.properties"

    def _prepare(self, node: int) -> None:
        text = (HERE / "kafka.properties").read_text(encoding="utf-8")
        text = text.replace("@PORT@", str(self._ports[node])).replace("@CPORT@", str(self._controllers[node]))
        text = text.replace("@DATA@", str(self.folder / f"data-{node}"))
        kept = [line for line in text.splitlines() if not line.startswith(("controller.quorum.", "node.id"))]
        voters = ",".join(f"{other}@127.0.0.1:{port}" for other, port in self._controllers.items())
        more = {"node.id": node, "controller.quorum.voters": voters, **_REPLICATED}
        kept += [f"{name}={value}" for name, value in more.items()]
        self._config(node).write_text("\n".join(kept) + "\n", encoding="utf-8")
        command = ["java", "-Xmx256m", "-cp", self._jars, "kafka.tools.StorageTool", "format", "-t", _CLUSTER]
        done = subprocess.run([*command, "-c", str(self._config(node))], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"format failed: {done.stdout}{done.stderr}")

    def _start(self, node: int) -> None:
        self.starts += 1
        with (self.folder / f"{node}.log").open("ab") as log:
            command = ["java", *HEAP, "-cp", self._jars, "kafka.Kafka", str(self._config(node))]
            self._processes[node] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Until all nodes know one another."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 200, "log_level": 0})
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                if len(admin.list_topics(timeout=2).brokers) == len(NODES):
                    return
            except KafkaException:
                pass
            time.sleep(0.2)
        logs = [(self.folder / f"{node}.log").read_text(encoding="utf-8", errors="replace")[-1500:] for node in NODES]
        raise AssertionError("the cluster did not become ready:\n" + "\n---\n".join(logs))

    def _tend(self) -> None:
        """Starts what has ended; says what is ready."""
        ended: dict[int, float] = {}
        while not self._over.wait(0.2):
            for node, process in list(self._processes.items()):
                file = self.folder / f"{node}.ready"
                if process.poll() is not None:
                    file.unlink(missing_ok=True)
                    if time.monotonic() - ended.setdefault(node, time.monotonic()) > AWAY_SECONDS:
                        del ended[node]
                        self._start(node)
                elif not file.exists() and self._is_in(node):
                    file.write_text(str(process.pid), encoding="ascii")

    def _is_in(self, node: int) -> bool:
        """Whether this node answers and counts itself among the brokers: it is not fenced any more."""
        settings = {"bootstrap.servers": f"127.0.0.1:{self._ports[node]}", "log_level": 0}
        try:
            return node in AdminClient(settings).list_topics(timeout=2).brokers
        except KafkaException:
            return False

    def __enter__(self) -> KafkaCluster:
        try:
            for node in NODES:
                self._start(node)
            self.wait()
        except BaseException:
            self._end()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
