"""The weaker deliveries, under their names: for comparison, and for effects that can't do better.

At least once: outputs are acknowledged, then the offsets are committed; a crash in between repeats the outputs. At most once:
offsets are committed before anything is done; a crash afterwards loses the records at hand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from oncelog.app.errors import ConfigurationError, Fate, Halted, Undone, blames_a_record, fate_of
from oncelog.app.exchange import Exchange, Name, Outcome
from oncelog.app.intake import Place
from oncelog.app.meters import Meters
from oncelog.app.records import Raw
from oncelog.app.settings import Cluster, Delivery, Limits, client_id_of
from oncelog.app.transactions import STEP_SECONDS, Sent

log = logging.getLogger("oncelog.app")

_COMMIT_ATTEMPTS_MAX: Final = 5


class WeakExchange(Exchange):
    """An exchange without transactions."""

    def __init__(
        self,
        name: Name,
        cluster: Cluster,
        topics: Sequence[str],
        limits: Limits,
        meters: Meters,
        stop: threading.Event,
        halt: threading.Event,
        delivery: Delivery,
    ) -> None:
        super().__init__(name, cluster, topics, limits, meters, stop, halt)
        self._delivery = delivery
        self._failures: list[KafkaError] = []
        self._plain: Producer | None = None

    def open(self) -> None:
        """Joins the group; the producer needs no beginning."""
        settings = self._cluster.for_plain_producer(client_id=client_id_of(str(self.name)), delivery=self._delivery)
        self._plain = Producer({**settings, "on_delivery": self._delivered, "delivery.report.only.error": True})
        self._ready_intake()

    def take(self, records_max: int | None = None) -> list[Raw]:
        """At most once commits here, before anything is done."""
        while taken := super().take(records_max):
            if self._delivery is Delivery.AT_LEAST_ONCE:
                break
            began_at = time.monotonic()
            try:
                self._commit_offsets(self._taken.offsets)
            except Undone as undone:
                self._recover(undone)
            else:
                self._pace.committed(began_at, time.monotonic())
                break
        return taken

    def commit(self, processed: list[Raw], outputs: list[Sent]) -> Outcome:
        """Sends; then, for at least once, commits the offsets. Both lists are emptied."""
        offsets, count, began_at = self._offsets_after(processed), len(processed), time.monotonic()
        processed.clear()
        try:
            self._flush(outputs)
            if self._delivery is Delivery.AT_LEAST_ONCE:
                self._commit_offsets(offsets)
                self._pace.committed(began_at, time.monotonic())
        except Undone as undone:
            self._recover(undone)
            self._ended(Outcome.ABORTED, count, offsets, str(undone))
            if undone.blames_a_record:
                raise
            return Outcome.ABORTED
        return self._ended(Outcome.COMMITTED, count, offsets, "")

    def _flush(self, outputs: list[Sent]) -> None:
        assert self._plain is not None
        self._failures.clear()
        self._sent += len(outputs)
        outputs.reverse()
        while outputs:
            self._produce(self._plain, outputs.pop())
        self._ready_intake().read_ahead()
        while self._plain.flush(STEP_SECONDS):
            if self._halt.is_set():
                raise Halted("stopped while waiting for a broker")
        if self._failures and self._delivery is Delivery.AT_LEAST_ONCE:
            raise Undone(f"not delivered: {self._failures[0]}", blames_a_record=blames_a_record(self._failures[0]))

    def _produce(self, producer: Producer, record: Sent) -> None:
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, *record.further)
                return
            except BufferError:
                producer.poll(0.05)
            except KafkaException as failure:
                error = failure.args[0]
                raise Undone(str(error), blames_a_record=blames_a_record(error)) from failure
            except (TypeError, ValueError, OverflowError) as failure:
                raise Undone(f"not a record: {failure}", blames_a_record=True) from failure

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)

    def _commit_offsets(self, offsets: Mapping[Place, int]) -> None:
        positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        for _ in range(_COMMIT_ATTEMPTS_MAX):
            try:
                self._ready_intake().commit(positions)
                return
            except KafkaException as failure:
                error = failure.args[0]
                if fate_of(error) in (Fate.ABORT, Fate.FENCED):
                    raise Undone(f"offsets: {error}") from failure
                if fate_of(error) is Fate.STOP:
                    raise ConfigurationError(f"the brokers refuse offsets: {error.str()} ({error.name()})") from failure
                time.sleep(0.05)
        raise Undone("offsets could not be committed")

    def _end_for_certain(self, undone: Undone) -> None:
        if undone.rejoin and self._intake is not None:
            self._intake.close()
            self._intake = None

    def close(self) -> None:
        """Leaves the group; what was committed was delivered before."""
        super().close()
        self._plain = None
