"""What a test gets: a real broker in this process, with faults, a clock, and answers to what tests ask.

    def test_billing(kafka):
        kafka.topic("orders", partitions=2)
        kafka.produce("orders", {"key-1": "10", "key-2": "20"})
        with kafka.faults(lose_reply="EndTxn"):
            run_billing(kafka.bootstrap)
        assert [record.value for record in kafka.consume("invoices")] == [b"10", b"20"]

Any client can use the broker, at ``kafka.bootstrap``. ``produce`` and ``consume`` use confluent-kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from oncelog.broker import observe
from oncelog.broker.broker import Broker as Core
from oncelog.engine.reading import offset_end
from oncelog.testing.contents import Row, rows_of, shown
from oncelog.testing.faults import Fault, Faults
from oncelog.testing.running import Ran, run
from oncelog.testing.staged import StagedBroker

T = TypeVar("T")
Text: TypeAlias = str | bytes | None
#: Quiet clients that don't hang when the broker is killed under them (librdkafka's issue 5511).
CLIENT_SETTINGS: Final[Mapping[str, Any]] = {"log_level": 0, "metadata.recovery.strategy": "none"}
_SECONDS: Final = 30.0


class Record(NamedTuple):
    """A record as a consumer got it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


class Clock:
    """The broker's clock, for timeouts that no test should wait for."""

    def __init__(self, broker: StagedBroker) -> None:
        self._broker = broker

    def advance(self, seconds: float) -> None:
        """It is later now, and what has fallen due meanwhile has happened when this returns."""
        self._broker.advance(seconds)


class Kafka:
    """One broker of a test. ``settings``: Kafka's names."""

    def __init__(self, **settings: Any) -> None:
        self._faults = Faults(
            lambda: self.broker.port, lambda what: self.broker.post(what), lambda: self.broker.restart_soon()
        )
        self.broker = StagedBroker(self._faults.through, **settings)
        self.clock = Clock(self.broker)

    def start(self) -> Kafka:
        """Begin; a few milliseconds."""
        self.broker.start()
        return self

    def close(self) -> None:
        """End, and forget everything."""
        self.broker.close()

    @property
    def bootstrap(self) -> str:
        """For a client's ``bootstrap.servers``."""
        return self.broker.bootstrap

    def restart(self) -> None:
        """Kill the broker, as ``kill -9`` would, and start it again on the same port with what it had acknowledged."""
        self.broker.restart()

    def faults(
        self,
        *,
        cut: str | None = None,
        lose_reply: str | None = None,
        delay: str | None = None,
        hold: str | None = None,
        refuse: str | None = None,
        kill_client_before: str | None = None,
        kill_client_after: str | None = None,
        kill_broker_before: str | None = None,
        kill_broker_after: str | None = None,
        times: int = 1,
        after: int = 0,
        seconds: float = 1.0,
        error: str | None = None,
    ) -> Fault:
        """A fault, while the ``with`` block runs; its name and the API that it meets, such as ``lose_reply="EndTxn"``.

        ``times``: how often; ``after``: how many such requests are let through first; ``seconds``: of a delay; ``error``: the
        code of a refusal, by Kafka's name. Raises FaultDidNotHappen at the end of the block if too few such requests came.
        """
        named = {
            "cut": cut, "lose_reply": lose_reply, "delay": delay, "hold": hold, "refuse": refuse,
            "kill_client_before": kill_client_before, "kill_client_after": kill_client_after,
            "kill_broker_before": kill_broker_before, "kill_broker_after": kill_broker_after,
        }  # fmt: skip
        return self._faults.new(named, times=times, after=after, seconds=seconds, error=error)

    # -- topics and records -------------------------------------------------------------------------------------------

    def topic(self, name: str, *, partitions: int = 1, **settings: Any) -> str:
        """Make a topic; ``settings`` with _ for a dot: ``max_message_bytes=1000``. Its name."""
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        config = {key.replace("_", "."): str(value) for key, value in settings.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **CLIENT_SETTINGS})
        admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(_SECONDS)
        return name

    def produce(
        self, topic: str, records: Mapping[str, Text] | Iterable[Text | tuple[Text, Text]], *, partition: int = -1
    ) -> None:
        """Write records, outside any transaction: a mapping of keys to values, or values, or (key, value) pairs."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, **CLIENT_SETTINGS})
        for key, value in _pairs(records):
            producer.produce(topic, value, key, partition=partition)
        left = producer.flush(_SECONDS)
        if left:
            raise AssertionError(f"{left} records were not taken within {_SECONDS:.0f} s")

    def consume(self, topic: str, *, isolation: str = "read_committed") -> list[Record]:
        """Everything that a reader of this isolation can see of the topic now, by partition and offset."""
        from confluent_kafka import Consumer, TopicPartition

        reader = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "oncelog.testing", "enable.auto.commit": False,
             "auto.offset.reset": "earliest", "enable.partition.eof": True, "isolation.level": isolation, **CLIENT_SETTINGS}
        )  # fmt: skip
        try:
            partitions = self._on_loop(
                lambda core: len(core.state.topics[topic].logs) if topic in core.state.topics else 0
            )
            reader.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
            return sorted(_read_to_end(reader, partitions), key=lambda record: (record.partition, record.offset))
        finally:
            reader.close()

    def ends(self, topic: str, *, isolation: str = "read_committed") -> dict[int, int]:
        """Where a reader of this isolation meets the end of each partition."""
        is_committed = isolation == "read_committed"

        def ask(core: Core) -> dict[int, int]:
            logs = [core.state.logs[log_id] for log_id in core.state.topics[topic].logs]
            return {log.index: offset_end(log, is_committed=is_committed) for log in logs}

        return self._on_loop(ask)

    def rows(self, topic: str) -> list[Row]:
        """All that is in the topic, committed, aborted and open records and markers told apart."""
        return self._on_loop(lambda core: rows_of(core, topic))

    def shown(self, topic: str) -> str:
        """``rows`` as a table for people."""
        return shown(topic, self.rows(topic))

    # -- who works with it --------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """All topics, by name."""
        return self._on_loop(lambda core: sorted(core.state.topics))

    def transactions(self) -> dict[str, observe.SeenTransaction]:
        """Every transactional id: state, producer, epoch, what its open transaction holds, why it was fenced."""
        return {one.id: one for one in self._on_loop(lambda core: observe.transactions(core.state, core.now_ms()))}

    def groups(self) -> dict[str, dict[tuple[str, int], int]]:
        """The committed offsets of every group: group -> (topic, partition) -> offset."""

        def ask(core: Core) -> dict[str, dict[tuple[str, int], int]]:
            return {
                group: {(at.topic, at.partition): row.offset for at, row in rows.items()}
                for group, rows in core.state.offsets.committed.items()
            }

        return self._on_loop(ask)

    def is_read(self, group: str, topics: Iterable[str]) -> bool:
        """Whether the group's committed offsets have come to the end of what a read_committed reader sees of the topics."""
        committed = self.groups().get(group, {})
        return all(
            committed.get((topic, partition), 0) > last
            for topic in topics
            for partition, last in self._last_offsets(topic).items()
        )

    def _last_offsets(self, topic: str) -> dict[int, int]:
        """In each partition the offset of the last record that may be read; partitions without any are not named."""
        if topic not in self.topics():
            return {}
        return {row.partition: row.offset for row in self.rows(topic) if row.state in ("plain", "committed")}

    # -- running a service --------------------------------------------------------------------------------------------

    def run(
        self,
        program: Sequence[str] | Callable[[], object],
        *,
        group: str | None = None,
        topics: Sequence[str] = (),
        until: Callable[[], bool] | None = None,
        seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a service in a process of its own until its ``group`` has read all of ``topics``, or ``until`` says so.

        ``program``: a command, or a function (a forked process; ``app.run``). A command finds the broker in the environment
        variable KAFKA_BOOTSTRAP. Killed by a fault, it is started again. In the end it is stopped by SIGTERM. Raises
        DidNotFinish.
        """
        if until is None and (group is None or not topics):
            raise ValueError("say when it is done: group= and topics=, or until=")
        is_done = until or (lambda: self.is_read(group or "", topics))
        named = {"KAFKA_BOOTSTRAP": self.bootstrap, **(environment or {})}
        return run(program, is_done=is_done, seconds=seconds, environment=named)

    def _on_loop(self, ask: Callable[[Core], T]) -> T:
        return self.broker.ask(ask)


def _pairs(records: Mapping[str, Text] | Iterable[Text | tuple[Text, Text]]) -> Iterator[tuple[Text, Text]]:
    if isinstance(records, Mapping):
        yield from records.items()
        return
    for record in records:
        yield record if isinstance(record, tuple) else (None, record)


def _read_to_end(reader: Any, partitions: int) -> Iterator[Record]:
    from confluent_kafka import KafkaError

    ended: set[int] = set()
    while len(ended) < partitions:
        message = reader.poll(_SECONDS)
        if message is None:
            raise AssertionError(f"the end of the topic was not reached within {_SECONDS:.0f} s")
        error = message.error()
        if error is None:
            yield Record(
                message.topic(), message.partition(), message.offset(), message.key(), message.value(),
                tuple(message.headers() or ()), message.timestamp()[1],
            )  # fmt: skip
        elif error.code() == KafkaError._PARTITION_EOF:
            ended.add(message.partition())
        elif error.fatal():
            raise AssertionError(str(error))
