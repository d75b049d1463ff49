"""One transactional producer, its errors translated: what a worker may do next is all that a caller learns.

Every step waits as long as the client says "again" (mistakes 13, 14: no timeout is exposed), unless the application halts.
A step that fails raises ``Undone``; ``renew`` says that this producer must not be used for another transaction. So it is
after a commit whose outcome is unknown, and after any disturbance of a connection: until ``transaction.version`` 2 an old
copy of a commit may still be on its way, and the next transaction of the same producer epoch would be ended by it
(KAFKA-17754, mistake 19). A new producer has a new epoch.

No delivery reports: the commit answers for all records, and with them confluent-kafka 2.16 turns a fence into a
SystemError in flush.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from oncelog.app.errors import ConfigurationError, Fate, Halted, Undone, blames_a_record, fate_of

log = logging.getLogger("oncelog.app")

#: One call into the client waits this long, then it is made again.
STEP_SECONDS: Final = 5.0
_INIT_ATTEMPTS_MAX: Final = 5
#: How long a topic may be unknown, in seconds, before the record that is meant for it is blamed.
_TOPIC_SECONDS: Final = 2.0
#: What the client logs when a connection ends or can't be made; see ``_ClientLog``.
_DISTURBANCES: Final = ("FAIL", "REQTMOUT")

Result = TypeVar("Result")
Headers = Sequence[tuple[str, bytes | None]]


class Sent(msgspec.Struct, frozen=True, gc=False):
    """One record to send. ``partition`` −1: by the key. ``timestamp``: ms; 0: now."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = -1
    timestamp: int = 0

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return 100 + len(self.key or b"") + len(self.value or b"")

    @property
    def further(self) -> tuple[Any, ...]:
        """What the client takes after topic, value and key, if anything: it costs it time, given or not."""
        if self.headers or self.timestamp or self.partition >= 0:
            return self.partition, None, None, self.timestamp, list(self.headers) or None
        return ()


class _Eos(msgspec.Struct):
    producer_id: int = -1
    producer_epoch: int = -1


class _Statistics(msgspec.Struct):
    eos: _Eos = msgspec.field(default_factory=_Eos)


class _ClientLog:
    """Takes the place of a logger for one client: passes lines on as debug, and notes whether a connection was cut."""

    def __init__(self) -> None:
        self.is_disturbed = False

    def log(self, level: int, form: str, *words: object) -> None:
        """Called by confluent-kafka: the words are facility, client name, text."""
        del level
        if words and words[0] in _DISTURBANCES:
            self.is_disturbed = True
        log.debug(form, *words)


class TransactionalProducer:
    """Made, initialized once, then begin / send / send_offsets / commit or abort again and again, until ``renew``."""

    def __init__(self, settings: dict[str, Any], halt: threading.Event) -> None:
        self._halt = halt
        self._client_log = _ClientLog()
        self._timeout_seconds: float = settings["transaction.timeout.ms"] / 1000
        self._began_at = 0.0
        self._topics_known: set[str] = set()
        self.producer_id = -1
        self.epoch = -1
        self._producer = Producer({**settings, "logger": self._client_log, "stats_cb": self._measured})

    def init(self) -> None:
        """Takes the transactional id over: ends what its last user left open, fences it (T2)."""
        self._until_done(lambda: self._producer.init_transactions(STEP_SECONDS))

    @property
    def is_disturbed(self) -> bool:
        """A connection was cut since this producer was made: some request may still arrive late."""
        self._poll(0)  # hands over what the client has logged
        return self._client_log.is_disturbed

    @property
    def is_open(self) -> bool:
        """Whether a transaction was begun and not ended."""
        return self._began_at > 0

    def begin(self) -> None:
        """Nothing is sent by it."""
        self._step(self._producer.begin_transaction)
        self._began_at = time.monotonic()

    def send(self, records: list[Sent]) -> None:
        """Into the client's queue, in their order; the list is emptied.

        What can't be a record at all blames the one that it came of.
        """
        produce, topic = self._producer.produce, None
        records.reverse()
        try:
            while records:
                record = records.pop()
                if record.topic is not topic:
                    topic = record.topic
                    if topic not in self._topics_known:
                        self._check_topic(topic)
                while True:
                    try:
                        if record.headers or record.timestamp or record.partition >= 0:
                            produce(record.topic, record.value, record.key, *record.further)
                        else:  # what a client takes beyond these costs it time, given or not
                            produce(record.topic, record.value, record.key)
                        break
                    except BufferError:
                        self._poll(0.05)
                        self._check_halt()
        except KafkaException as failure:
            raise self._undone(self._reason(failure.args[0])) from failure
        except (TypeError, ValueError, OverflowError) as failure:
            raise Undone(f"not a record: {failure}", blames_a_record=True) from failure

    def _check_topic(self, topic: str) -> None:
        """Once for each topic: the client itself waits long for one that is not there, and then does not name it.

        A broker that is starting has no leader or no metadata yet: nothing that the record can help.
        """
        deadline = time.monotonic() + _TOPIC_SECONDS
        while True:
            try:
                error = self._producer.list_topics(topic, timeout=STEP_SECONDS).topics[topic].error
            except KafkaException as failure:
                error = failure.args[0]
            if error is None:
                self._topics_known.add(topic)
                return
            if fate_of(error) is Fate.STOP:
                raise ConfigurationError(f"topic {topic}: {error.str()} ({error.name()}). {_advice(error)}")
            if blames_a_record(error) and time.monotonic() > deadline:
                raise Undone(f"topic {topic}: {error.str()}", blames_a_record=True)
            log.debug("again: topic %s: %s", topic, error)
            self._check_halt()
            time.sleep(0.1)  # it may have been created just now

    def send_offsets(self, offsets: list[TopicPartition], group_metadata: bytes) -> None:
        """The next offsets to read, as part of the transaction; the broker checks the member (O2)."""
        self._until_done(lambda: self._producer.send_offsets_to_transaction(offsets, group_metadata, STEP_SECONDS))

    def commit(self) -> None:
        """Returns when the transaction is committed. Undone: the outcome is unknown, whatever the reason (mistake 13)."""
        try:
            self._until_done(lambda: self._producer.commit_transaction(STEP_SECONDS))
        except Undone as undone:
            undone.renew = True
            raise
        self._began_at = 0.0
        self._poll(0)

    def abort(self) -> None:
        """Returns when the transaction is aborted; nothing if none is open. Undone: make a new producer."""
        if not self.is_open:
            return
        try:
            self._until_done(lambda: self._producer.abort_transaction(STEP_SECONDS))
        except Undone as undone:
            undone.renew = True
            raise
        self._began_at = 0.0

    def close(self) -> None:
        """Drops what was not sent. An open transaction stays open until the next ``init`` or its timeout."""
        self._producer.purge()
        self._poll(0)

    def _poll(self, seconds: float) -> None:
        """Serves the client's callbacks. It raises fatal errors here too; the transactional calls tell them better."""
        try:
            self._producer.poll(seconds)
        except KafkaException as failure:
            log.debug("producer: %s", failure)

    def _until_done(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                return call()
            except KafkaException as failure:
                error = failure.args[0]
                if fate_of(error) is not Fate.AGAIN:
                    raise self._undone(error) from failure
                log.debug("again: %s", error)
                self._check_halt()

    def _step(self, call: Callable[[], None]) -> None:
        try:
            call()
        except KafkaException as failure:
            raise self._undone(self._reason(failure.args[0])) from failure

    def _check_halt(self) -> None:
        if self._halt.is_set():
            raise Halted("stopped while waiting for a broker")

    def _reason(self, error: KafkaError) -> KafkaError:
        """Why a transaction takes no more records: asked from the client by a call that can't succeed any more."""
        if error.code() not in (KafkaError._STATE, KafkaError._FATAL) or not self.is_open:
            return error
        try:
            self._producer.begin_transaction()
        except KafkaException as failure:
            reason: KafkaError = failure.args[0]
            return reason
        raise AssertionError("a transaction began inside another")

    def _undone(self, error: KafkaError) -> Undone:
        """The error as what to do next. Raises ConfigurationError where nothing helps."""
        fate = fate_of(error)
        if fate is Fate.STOP:
            raise ConfigurationError(f"the brokers refuse: {error.str()} ({error.name()}). {_advice(error)}")
        if fate is Fate.FENCED and self._has_timed_out():
            why = f"the transaction was open for longer than its timeout of {self._timeout_seconds:g} s: {error.str()}"
            return Undone(why, renew=True)
        return Undone(
            f"{error.name()}: {error.str()}",
            renew=fate is Fate.RENEW,
            fenced=fate is Fate.FENCED,
            blames_a_record=blames_a_record(error),
        )

    def _has_timed_out(self) -> bool:
        """T7: the broker fences the producer of a transaction that took too long; that is no peer's doing."""
        return self.is_open and time.monotonic() - self._began_at > 0.9 * self._timeout_seconds

    def _measured(self, statistics: str) -> None:
        eos = msgspec.json.decode(statistics, type=_Statistics).eos
        self.producer_id, self.epoch = eos.producer_id, eos.producer_epoch


def _advice(error: KafkaError) -> str:
    if error.code() == KafkaError.INVALID_TRANSACTION_TIMEOUT:
        return "Lower transaction_timeout, or raise the brokers' transaction.max.timeout.ms"
    if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return "Allow this user to write with transactional ids that begin with the application's name"
    return "Check the brokers' version (2.5 or later), the login and its permissions"


def initialized(settings: dict[str, Any], halt: threading.Event) -> TransactionalProducer:
    """A producer that owns its transactional id, on connections that were not disturbed while it took it.

    The client tells of equal disturbances only twice a minute, so one that has seen any is not trusted to tell of the next.
    """
    for attempt in range(1, _INIT_ATTEMPTS_MAX + 1):
        producer = TransactionalProducer(settings, halt)
        producer.init()
        if not producer.is_disturbed or attempt == _INIT_ATTEMPTS_MAX:
            return producer
        producer.close()
    raise AssertionError("unreachable")
