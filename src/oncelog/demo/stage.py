"""Where the demo plays: a folder, the broker in it, the proxy before it, the topics. `with Stage(...)` leaves nothing."""

from __future__ import annotations

import json
import queue
import random
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from oncelog.demo.processes import BrokerProcess, Child, DemoError, start_worker
from oncelog.demo.proxy import Proxy
from oncelog.demo.worker import Semantics, connection_settings

PARTITIONS: Final = 4
CUSTOMERS: Final = 500
WAIT_SECONDS: Final = 30.0
#: Orders under way at once; below the 100,000 that the client's queue holds.
FLUSH_EVERY: Final = 20_000


@dataclass(frozen=True, slots=True)
class Heard:
    """A line of a worker; None as the line: it ended. None as the worker: the broker ended."""

    worker: Child | None
    line: str | None


class Stage:
    """Starts at `__enter__`, ends every process and removes the folder (unless `keep`) at `__exit__`."""

    def __init__(self, command: Sequence[str], keep: bool) -> None:
        self.keep = keep
        self.folder = Path(tempfile.mkdtemp(prefix="oncelog-demo-"))
        self.events: queue.Queue[Heard] = queue.Queue()
        self.proxy = Proxy()
        self.workers: list[Child] = []
        self.broker_starts = 0
        self._command = command
        self._broker: BrokerProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.proxy.open()
            self._broker = BrokerProcess(self._command, self.folder, self.proxy.port, self._broker_died)
            self.start_broker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs; every step is tried."""
        for worker in self.workers:
            worker.close()
        if self._broker is not None:
            self._broker.close()
        self.proxy.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _broker_died(self) -> None:
        self.proxy.upstream_port = None
        self.events.put(Heard(None, None))

    def start_broker(self) -> None:
        """Starts the broker, for the first time or again."""
        assert self._broker is not None
        self._broker.start()
        self.broker_starts += 1
        self.proxy.upstream_port = self._broker.port

    def kill_broker(self) -> None:
        """SIGKILL; an event says when it is dead."""
        assert self._broker is not None
        self.proxy.upstream_port = None
        self._broker.kill()

    def start_worker(self, semantics: Semantics, target: str, batch: int) -> Child:
        """A worker whose lines become events."""
        known = threading.Event()

        def heard(line: str | None) -> None:
            known.wait()
            self.events.put(Heard(worker, line))

        worker = start_worker(semantics, target, batch, self.proxy.port, self.folder / "workers.log", heard)
        self.workers.append(worker)
        known.set()
        return worker

    def create_topic(self, topic: str) -> None:
        """DemoError if the broker refuses."""
        admin = AdminClient({**connection_settings(f"127.0.0.1:{self.proxy.port}"), "log_level": 0})
        try:
            for created in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
                created.result(WAIT_SECONDS)
        except KafkaException as refused:
            raise DemoError(f"topic {topic}: {refused.args[0]}") from refused

    def write_orders(self, records: int, seed: int) -> None:
        """The orders, the same for every run: written once, before any fault, idempotently. The reader counts them."""
        chance = random.Random(seed)
        settings = {"enable.idempotence": True, "linger.ms": 20, "log_level": 0}
        producer = Producer({**connection_settings(f"127.0.0.1:{self.proxy.port}"), **settings})
        for number in range(records):
            order = {
                "id": f"order-{number:07}",
                "quantity": chance.randint(1, 9),
                "price_cents": chance.randint(100, 99_999),
            }
            customer = f"customer-{chance.randrange(CUSTOMERS)}"
            producer.produce("orders", json.dumps(order).encode(), customer.encode())
            if number % FLUSH_EVERY == 0:
                producer.flush(WAIT_SECONDS)
        if producer.flush(WAIT_SECONDS):
            raise DemoError("the orders could not be written in time")
