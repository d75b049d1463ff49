"""Runs an application without any broker: in memory, at once, deterministically.

    driver = Driver(app).feed("orders", "k", Order("o1", 5))
    assert driver.outputs("invoices") == [Out(key="k", value=Invoice("o1", 5))]

Values go through their bytes and back, as between processes. Outputs to topics that other processors of the app read are
processed too. Failing handlers are tried again without waiting, then become dead letters, or raise ``PoisonRecord``. Sinks
run if a ``database`` is given, each record in a transaction. What brokers do (rebalances, crashes, lost replies) is not here:
for that there is the pytest plugin.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from oncelog.app.app import App
from oncelog.app.errors import ConfigurationError, PoisonRecord
from oncelog.app.meters import Meters
from oncelog.app.records import Out, Record
from oncelog.app.serializing import encode
from oncelog.app.state import MemoryTable, PartitionState, Stores
from oncelog.app.topology import Processor
from oncelog.app.transactions import Sent
from oncelog.app.worker import Again, Processing

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: An app that feeds itself for ever is stopped here.
_RECORDS_MAX: Final = 100_000


class Driver:
    """One application and its topics, as long as the object lives. ``database``: an SQLAlchemy engine for the sinks."""

    def __init__(self, app: App, *, database: Engine | None = None) -> None:
        self._app = app
        self._database = database
        self._outputs: dict[str, list[Out]] = defaultdict(list)
        #: What the processors of the record at hand have given so far.
        self._given: list[tuple[str, Out]] = []
        self._offsets: dict[tuple[str, int], int] = defaultdict(int)
        self._states: dict[tuple[str, int], PartitionState] = {}
        self._queue: deque[Record[bytes | None, bytes | None]] = deque()

    def feed(
        self,
        topic: str,
        key: Any = None,
        value: Any = None,
        *,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = 0,
        timestamp: int | None = None,
    ) -> Driver:
        """One record, and all that follows from it. Values as ``Out`` takes them."""
        topology = self._app.topology
        if not topology.readers(topic) and not any(topic in sink.topics for sink in topology.sinks):
            raise ConfigurationError(f"nothing in {self._app.name} reads {topic}")
        self._enqueue(Sent(topic, encode(key), encode(value), tuple(headers), partition, timestamp or 0))
        processing = Processing(self._app.name, self._app.topology, Meters(), self._noted)
        try:
            for _ in range(_RECORDS_MAX):
                if not self._queue:
                    return self
                self._process(processing, self._queue.popleft())
            raise ConfigurationError(f"{self._app.name} has made {_RECORDS_MAX} records of one: does it feed itself?")
        finally:
            processing.close()

    def outputs(self, topic: str) -> list[Out]:
        """What was given to a topic so far, as the handlers gave it (``topic`` left out), dead letters included."""
        return list(self._outputs[topic])

    @property
    def topics(self) -> list[str]:
        """The topics that something was given to."""
        return sorted(self._outputs)

    def state(self, processor: str, store: str, partition: int = 0) -> dict[str, Any]:
        """What a store of a processor holds now."""
        state = self._states.get((processor, partition))
        return {} if state is None else dict(Stores(state)[store].items())

    def _process(self, processing: Processing, raw: Record[bytes | None, bytes | None]) -> None:
        """All processors succeed, or none of them has any effect, as in a worker."""
        readers = self._app.topology.readers(raw.topic)
        states = {processor.name: self._state_of(processor, raw.partition) for processor in readers}
        kept = [state for state in states.values() if state is not None]
        self._given.clear()
        sent: list[Sent] = []
        try:
            for processor in readers:
                sent += self._tried(processing, processor, raw, states[processor.name])
        except (PoisonRecord, ConfigurationError):
            for state in kept:
                state.drop_record()
            raise
        for state in kept:
            state.keep_record()
            state.committed()
        for topic, out in self._given:
            self._outputs[topic].append(out)
        for each in sent:
            self._enqueue(each)
        self._sink(processing, raw)

    def _tried(
        self,
        processing: Processing,
        processor: Processor,
        raw: Record[bytes | None, bytes | None],
        state: PartitionState | None,
    ) -> list[Sent]:
        while True:
            try:
                return processing.process(processor, raw, state, None)
            except Again:
                continue

    def _sink(self, processing: Processing, raw: Record[bytes | None, bytes | None]) -> None:
        for sink in self._app.topology.sinks:
            if raw.topic not in sink.topics:
                continue
            record = sink.handler.decode(raw)
            if sink.database is None:
                sink.handler.call([record], None, processing.runner)
            elif self._database is not None:
                from oncelog.app.sinks import lent

                with self._database.begin() as db, lent(db, sink.name):
                    sink.handler.call([record], db, processing.runner)

    def _state_of(self, processor: Processor, partition: int) -> PartitionState | None:
        if not processor.keeps_state:
            return None
        return self._states.setdefault((processor.name, partition), PartitionState(MemoryTable()))

    def _noted(self, out: Out, sent: Sent) -> None:
        kept = Out(key=out.key, value=out.value, headers=out.headers, partition=out.partition, timestamp=out.timestamp)
        self._given.append((sent.topic, kept))

    def _enqueue(self, sent: Sent) -> None:
        partition = max(0, sent.partition)
        offset = self._offsets[sent.topic, partition]
        self._offsets[sent.topic, partition] += 1
        self._queue.append(
            Record(sent.topic, partition, offset, sent.key, sent.value, tuple(sent.headers), sent.timestamp or None)
        )
