"""Three foreign clients' transactional producers under one small interface, so that one scenario runs with each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Protocol

import confluent_kafka
from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata as AioOffset
from aiokafka.structs import TopicPartition as AioPartition
from tests.support.confluent import error_of, transactional_producer
from tests.support.kafka_python import kafka

CALL_SECONDS_MAX = 60.0


class Transactor(Protocol):
    """A transactional producer that has initialized its id; every call blocks until it is done, or raises."""

    def begin(self) -> None: ...

    def send(self, topic: str, partition: int, value: bytes) -> None: ...

    def flush(self) -> None: ...

    def send_offset(self, group: str, topic: str, offset: int) -> None:
        """The next offset of partition 0, for a group without members."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class ConfluentTransactor:
    """confluent-kafka."""

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = transactional_producer(bootstrap, transactional_id)
        group = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._consumer = lambda name: confluent_kafka.Consumer({**group, "group.id": name})
        self._metadata: dict[str, Any] = {}

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, topic: str, partition: int, value: bytes) -> None:
        self._producer.produce(topic, value, partition=partition)

    def flush(self) -> None:
        assert self._producer.flush(CALL_SECONDS_MAX) == 0

    def send_offset(self, group: str, topic: str, offset: int) -> None:
        if group not in self._metadata:
            outsider = self._consumer(group)
            self._metadata[group] = outsider.consumer_group_metadata()
            outsider.close()
        positions = [confluent_kafka.TopicPartition(topic, 0, offset)]
        self._producer.send_offsets_to_transaction(positions, self._metadata[group], CALL_SECONDS_MAX)

    def commit(self) -> None:
        self._until_done(self._producer.commit_transaction)

    def abort(self) -> None:
        self._until_done(self._producer.abort_transaction)

    def _until_done(self, call: Any) -> None:
        """As the client's documentation asks: what is retriable is called again."""
        for _ in range(3):
            try:
                return call(CALL_SECONDS_MAX)
            except confluent_kafka.KafkaException as failure:
                if not error_of(failure).retriable():
                    raise
        return call(CALL_SECONDS_MAX)

    def close(self) -> None:
        self._producer.purge()


class KafkaPythonTransactor:
    """kafka-python."""

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = kafka.KafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=transactional_id,
            linger_ms=1,
            retry_backoff_ms=20,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=200,
        )
        self._producer.init_transactions()
        self._sent: list[Any] = []

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, topic: str, partition: int, value: bytes) -> None:
        self._sent.append(self._producer.send(topic, value, partition=partition))

    def flush(self) -> None:
        self._producer.flush(CALL_SECONDS_MAX)
        for future in self._sent:
            future.get(CALL_SECONDS_MAX)
        self._sent.clear()

    def send_offset(self, group: str, topic: str, offset: int) -> None:
        positions = {kafka.TopicPartition(topic, 0): kafka.OffsetAndMetadata(offset, "", -1)}
        self._producer.send_offsets_to_transaction(positions, group)

    def commit(self) -> None:
        self._producer.commit_transaction()

    def abort(self) -> None:
        self._producer.abort_transaction()

    def close(self) -> None:
        try:
            self._producer.close(5)
        except kafka.errors.KafkaTimeoutError:  # its thread is left behind then, and would go on for ever
            self._producer._sender.force_close()
            self._producer._sender.join(CALL_SECONDS_MAX)
            self._producer._closed = True


class AiokafkaTransactor:
    """aiokafka, its loop in a thread."""

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._sent: list[Any] = []
        self._producer = self._run(self._start(bootstrap, transactional_id))

    async def _start(self, bootstrap: str, transactional_id: str) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=transactional_id, retry_backoff_ms=20, linger_ms=1
        )
        await producer.start()
        return producer

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS_MAX)

    def begin(self) -> None:
        self._run(self._producer.begin_transaction())

    def send(self, topic: str, partition: int, value: bytes) -> None:
        self._sent.append(self._run(self._producer.send(topic, value, partition=partition)))

    def flush(self) -> None:
        async def all_sent() -> None:
            await asyncio.gather(*self._sent)

        self._run(all_sent())
        self._sent.clear()

    def send_offset(self, group: str, topic: str, offset: int) -> None:
        positions = {AioPartition(topic, 0): AioOffset(offset, "")}
        self._run(self._producer.send_offsets_to_transaction(positions, group))

    def commit(self) -> None:
        self._run(self._producer.commit_transaction())

    def abort(self) -> None:
        self._run(self._producer.abort_transaction())

    def close(self) -> None:
        self._run(self._producer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS_MAX)
        self._loop.close()


TRANSACTORS: dict[str, type[ConfluentTransactor | KafkaPythonTransactor | AiokafkaTransactor]] = {
    "confluent-kafka": ConfluentTransactor,
    "kafka-python": KafkaPythonTransactor,
    "aiokafka": AiokafkaTransactor,
}
