"""A consume-process-produce worker on confluent-kafka: copies one topic to another, exactly once.

As a thread (`Copier`) or as a process that can be killed: ``python -m tests.support.copier '{"bootstrap": ...}'``. Each
batch is one transaction with the offsets inside. What fails is aborted, and read again from the committed offsets; a
producer that was fenced is made anew.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from tests.support.confluent import consumer, error_of, transactional_producer


class Copier:
    """One member of ``group``; ``run`` returns when ``stop`` is set."""

    def __init__(
        self,
        bootstrap: str,
        source: str,
        target: str,
        group: str,
        transactional_id: str,
        *,
        batch_records: int = 20,
        **consumer_settings: Any,
    ) -> None:
        self.bootstrap = bootstrap
        self.source, self.target = source, target
        self.group, self.transactional_id = group, transactional_id
        self.batch_records = batch_records
        self.consumer_settings = consumer_settings
        self.stop = threading.Event()
        self.transactions = 0
        self.aborts = 0
        self.producers = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> Copier:
        self._thread.start()
        return self

    def finish(self, timeout_seconds: float = 30.0) -> None:
        """Ask it to stop, wait for it, and raise what it has died of."""
        self.stop.set()
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), "the copier does not stop"
        if self.failure is not None:
            raise AssertionError("the copier has failed") from self.failure

    def _guarded(self) -> None:
        try:
            self.run()
        except BaseException as failure:  # noqa: BLE001 - finish() raises it in the test
            self.failure = failure

    def run(self) -> None:
        reader = consumer(self.bootstrap, self.group, **self.consumer_settings)
        reader.subscribe([self.source])
        writer = self._writer()
        try:
            while not self.stop.is_set():
                messages = [each for each in reader.consume(self.batch_records, 0.1) if each.error() is None]
                if not messages:
                    continue
                try:
                    self._copy(reader, writer, messages)
                    self.transactions += 1
                except KafkaException as failure:
                    writer = self._recover(writer, failure)
                    self._rewind(reader)
        finally:
            reader.close()

    def _writer(self) -> Producer:
        self.producers += 1
        return transactional_producer(self.bootstrap, self.transactional_id)

    def _copy(self, reader: Consumer, writer: Producer, messages: list[Any]) -> None:
        writer.begin_transaction()
        next_offsets: dict[int, int] = {}
        for message in messages:
            writer.produce(self.target, message.value(), message.key(), partition=message.partition())
            next_offsets[message.partition()] = message.offset() + 1
        positions = [TopicPartition(self.source, index, offset) for index, offset in next_offsets.items()]
        writer.send_offsets_to_transaction(positions, reader.consumer_group_metadata(), 30)
        self._retried(lambda: writer.commit_transaction(30))

    def _retried(self, call: Any) -> None:
        """Librdkafka leaves retriable timeouts of commit and abort to the caller."""
        for _ in range(5):
            try:
                return call()
            except KafkaException as failure:
                if not error_of(failure).retriable():
                    raise
        return call()

    def _recover(self, writer: Producer, failure: KafkaException) -> Producer:
        self.aborts += 1
        error = error_of(failure)
        if not error.fatal():
            try:
                self._retried(lambda: writer.abort_transaction(30))
            except KafkaException as second:
                if not error_of(second).fatal():
                    raise
            else:
                return writer
        return self._writer()

    def _rewind(self, reader: Consumer) -> None:
        assigned = reader.assignment()
        if not assigned:
            return
        try:
            stored = reader.committed(assigned, timeout=30)
            for each in stored:
                reader.seek(
                    TopicPartition(each.topic, each.partition, each.offset if each.offset >= 0 else OFFSET_BEGINNING)
                )
        except KafkaException:
            # the assignment changed meanwhile: the next one begins at the committed offsets by itself
            reader.unsubscribe()
            reader.subscribe([self.source])


if __name__ == "__main__":
    Copier(**json.loads(sys.argv[1])).run()
