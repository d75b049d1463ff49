"""Load whose outcome can be judged afterwards: each writer remembers what it was promised."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from tests.support.confluent import Deliveries, error_of, producer, transactional_producer


class Worker:
    """Runs ``work`` in a thread until it is finished; ``finish`` raises what it has died of."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> Any:
        self._thread.start()
        return self

    def work(self) -> None:
        raise NotImplementedError

    def _guarded(self) -> None:
        try:
            self.work()
        except BaseException as failure:  # noqa: BLE001 - finish() raises it in the test
            self._failure = failure

    def finish(self, timeout_seconds: float = 60.0) -> None:
        self.stop.set()
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), f"{type(self).__name__} does not stop"
        if self._failure is not None:
            raise AssertionError(f"{type(self).__name__} has failed") from self._failure


class IdempotentWriter(Worker):
    """Writes ``name/number`` in turn over the partitions; ``deliveries`` has what was acknowledged."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, name: str) -> None:
        super().__init__()
        self.sent = 0
        self.deliveries = Deliveries()
        self._topic, self._partitions, self._name = topic, partitions, name
        self._producer = producer(bootstrap, linger_ms=2, compression_type="lz4")

    def work(self) -> None:
        while not self.stop.wait(0.005):
            for _ in range(5):
                self._producer.produce(
                    self._topic,
                    f"{self._name}/{self.sent}".encode(),
                    partition=self.sent % self._partitions,
                    on_delivery=self.deliveries.on_delivery,
                )
                self.sent += 1
            self._producer.poll(0)
        assert self._producer.flush(60) == 0

    def check(self, read: dict[int, list[bytes | None]]) -> None:
        """Everything acknowledged is there, everything is there once and in its order."""
        assert self.deliveries.errors == []
        mine = {
            index: [value for value in values if value is not None and value.startswith(f"{self._name}/".encode())]
            for index, values in read.items()
        }
        for index in range(self._partitions):
            expected = [f"{self._name}/{number}".encode() for number in range(index, self.sent, self._partitions)]
            compare(expected, mine.get(index, []))
        assert len(self.deliveries.acknowledged) == self.sent


def compare(expected: list[bytes], found: list[bytes]) -> None:
    """Fails with what was lost, doubled, unexpected or moved."""
    if found != expected:
        counts = Counter(found)
        lost = [value for value in expected if value not in counts]
        doubled = [value for value, count in counts.items() if count > 1]
        foreign = sorted(set(found) - set(expected))
        raise AssertionError(
            f"{len(expected)} expected, {len(found)} found; lost {len(lost)} {lost[:5]}, doubled {len(doubled)} "
            f"{doubled[:5]}, not expected {len(foreign)} {foreign[:5]}, in order: {found == sorted(found, key=_number)}"
        )


def _number(value: bytes) -> int:
    return int(value.rpartition(b"/")[2])


class PairWriter(Worker):
    """One record with the transaction's number to every partition, or to none; some are aborted.

    A transaction whose end was not confirmed may be either, but not half.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int, transactional_id: str, seed: int) -> None:
        super().__init__()
        self.committed: set[int] = set()
        self.aborted: set[int] = set()
        self.unknown: set[int] = set()
        self._bootstrap, self._transactional_id = bootstrap, transactional_id
        self._topic, self._partitions = topic, partitions
        self._random = random.Random(seed)
        self._number = 0

    def work(self) -> None:
        writer = transactional_producer(self._bootstrap, self._transactional_id)
        while not self.stop.is_set():
            self._number += 1
            commit = self._random.random() < 0.8
            try:
                writer.begin_transaction()
                for index in range(self._partitions):
                    writer.produce(self._topic, str(self._number).encode(), partition=index)
                self._ended(writer.commit_transaction if commit else writer.abort_transaction)
            except KafkaException as failure:
                self.unknown.add(self._number)
                writer = self._recovered(writer, failure)
            else:
                (self.committed if commit else self.aborted).add(self._number)

    def _ended(self, call: Callable[[float], None]) -> None:
        for _ in range(3):
            try:
                return call(30)
            except KafkaException as failure:
                if not error_of(failure).retriable():
                    raise
        return call(30)

    def _recovered(self, writer: Producer, failure: KafkaException) -> Producer:
        if error_of(failure).txn_requires_abort():
            try:
                self._ended(writer.abort_transaction)
            except KafkaException:
                pass
            else:
                return writer
        return transactional_producer(self._bootstrap, self._transactional_id)

    def check(self, read: dict[int, list[bytes | None]]) -> None:
        """What was committed is everywhere, what was aborted is nowhere, nothing is torn, doubled or out of order."""
        partitions = [[int(value or b"") for value in read.get(index, [])] for index in range(self._partitions)]
        assert all(numbers == partitions[0] for numbers in partitions), "a torn transaction"
        seen = partitions[0]
        assert seen == sorted(set(seen)), "doubled or out of order"
        assert self.committed <= set(seen), f"lost: {sorted(self.committed - set(seen))[:10]}"
        assert not self.aborted & set(seen), f"aborted but shown: {sorted(self.aborted & set(seen))[:10]}"
        assert set(seen) <= self.committed | self.unknown


class CopierProcess:
    """tests/support/copier.py as a process that can be killed and started again."""

    def __init__(self, log: Path, **arguments: Any) -> None:
        self._log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.copier", json.dumps(self._arguments)]
        root = Path(__file__).resolve().parents[2]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")
