"""confluent-kafka for verification: settings, topics, and what can be asked of a cluster from outside.

Everything here blocks, and ends within its timeout with a ClusterError whose text says what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import IsolationLevel as Level
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from oncelog.verify.history import COMMITTED, NO_OFFSET, UNCOMMITTED, Read

T = TypeVar("T")
Partition = tuple[str, int]
#: Offset and value.
Found = tuple[int, str]

CALL_SECONDS: Final = 20.0
#: A group's offsets have so long to be told, and to be settled where only stable ones are wanted.
OFFSETS_SECONDS: Final = 10.0
#: The client's own timeout comes first.
_GRACE_SECONDS: Final = 10.0
_LATEST: Final[Any] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_EARLIEST: Final[Any] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
FINAL_READ_SECONDS_MAX: Final = 180.0
PATIENCE_SECONDS: Final = 120.0
#: A handle that fails for so long is replaced; so many handles at most.
RENEW_SECONDS: Final = 10.0
HANDLES_MAX: Final = 20

#: Quick to come back after a cut connection. Librdkafka's "rebootstrap" is off: when its only broker was away, it may go on to
#: use the handle that it has given up, and send_offsets_to_transaction never returns.
_QUICK: Final[dict[str, Any]] = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 500,
    "retry.backoff.ms": 50,
    "socket.timeout.ms": 6000,
    "log_level": 0,
    "metadata.recovery.strategy": "none",
}


class ClusterError(Exception):
    """The cluster does not do what verification needs; the text says what, and what to look at."""


def settings(bootstrap: str, client: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """``linger_ms=5`` as ``linger.ms``. ``client``: what the user gives on top."""
    named = {name.replace("_", "."): value for name, value in more.items()}
    return {"bootstrap.servers": bootstrap, **_QUICK, **named, **client}


def error_of(failure: KafkaException) -> KafkaError:
    """confluent-kafka's error inside its exception."""
    error: KafkaError = failure.args[0]
    return error


def words(failure: KafkaException) -> str:
    """``_TIMED_OUT: no answer``."""
    error = error_of(failure)
    return f"{error.name()}: {error.str()}"


def take(consumer: Consumer, count: int, seconds: float) -> list[Read]:
    """What a consumer gets now; errors that it gets over by itself are left out."""
    found: list[Any] = [message for message in consumer.consume(count, seconds) if message.error() is None]
    return [
        (each.topic(), each.partition(), each.offset(), (each.value() or b"").decode(errors="replace"))
        for each in found
    ]


def patiently(call: Callable[[], T]) -> T:
    """Again for a while: a broker may be away, or not know yet what another does. ClusterError if it stays so."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except KafkaException as failure:
            if time.monotonic() > until:
                raise ClusterError(f"the cluster does not answer any more: {words(failure)}") from None
        time.sleep(0.2)


class Cluster:
    """A cluster from outside, without any fault between."""

    def __init__(self, bootstrap: str, client: Mapping[str, str]) -> None:
        self.bootstrap, self._client = bootstrap, client
        self._admin = AdminClient(settings(bootstrap, client))
        self._old: list[AdminClient] = []
        self._failing_since: float | None = None
        #: Who asks for a group's offsets, by group and isolation; in no group itself.
        self._asking: dict[tuple[str, str], Consumer] = {}

    def check_reachable(self, seconds: float = 10.0) -> list[str]:
        """HOST:PORT of every broker, as the cluster names them. ClusterError if none answers."""
        try:
            brokers = self._admin.list_topics(timeout=seconds).brokers
            return [f"{broker.host}:{broker.port}" for broker in brokers.values()]
        except KafkaException as failure:
            raise ClusterError(
                f"no Kafka broker answers at {self.bootstrap} ({words(failure)}). "
                "Check --bootstrap, and --set for a login."
            ) from None

    def create_topics(self, topics: Mapping[str, int], replication: int, *, insync_min: int | None = None) -> None:
        """New topics by their number of partitions; returns when every partition has a leader."""
        config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        if insync_min is not None:
            config["min.insync.replicas"] = str(insync_min)
        wanted = [NewTopic(name, count, replication, config=config) for name, count in topics.items()]
        for name, made in self._admin.create_topics(wanted, request_timeout=CALL_SECONDS).items():
            try:
                _result(made)
            except KafkaException as failure:
                raise ClusterError(f"topic {name} can't be created: {words(failure)}") from None
        deadline = time.monotonic() + CALL_SECONDS
        for name, count in topics.items():
            while self._led(name) < count:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"topic {name} has no {count} partitions with leaders {CALL_SECONDS:.0f} s after it was made"
                    )
                time.sleep(0.05)

    def _led(self, topic: str) -> int:
        """How many of its partitions have a leader."""
        try:
            partitions = self._admin.list_topics(topic, timeout=CALL_SECONDS).topics[topic].partitions
        except KafkaException:
            return 0
        return sum(each.leader >= 0 for each in partitions.values())

    def delete_topics(self, topics: Sequence[str]) -> None:
        """What a run has made. A failure is no verdict: it is told, not raised."""
        for made in self._admin.delete_topics(list(topics), request_timeout=CALL_SECONDS).values():
            try:
                _result(made)
            except KafkaException:
                continue

    def ends(self, partitions: Iterable[Partition], isolation: str) -> dict[Partition, int]:
        """The last stable offsets, or the high watermarks for read_uncommitted. KafkaException if not all are known.

        While a broker is away librdkafka may answer without an error and without an offset (-1001): that is no answer.
        """
        return self._listed(partitions, _LATEST, isolation)

    def starts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The earliest offsets: above 0 where retention or DeleteRecords has taken something. KafkaException as for ends."""
        return self._listed(partitions, _EARLIEST, UNCOMMITTED)

    def _listed(self, partitions: Iterable[Partition], what: Any, isolation: str) -> dict[Partition, int]:
        level = Level.READ_COMMITTED if isolation == COMMITTED else Level.READ_UNCOMMITTED
        asked = {TopicPartition(*where): what for where in partitions}
        answers = self._admin.list_offsets(asked, isolation_level=level, request_timeout=CALL_SECONDS)
        try:
            found = {(where.topic, where.partition): _result(made).offset for where, made in answers.items()}
        except KafkaException:
            self._note_failure()
            raise
        self._failing_since = None
        if any(offset < 0 for offset in found.values()):
            raise KafkaException(KafkaError(KafkaError._NO_OFFSET))
        return found

    def _note_failure(self) -> None:
        """A handle of librdkafka that has missed a change of leaders may give the same error for ever: a new one asks anew.

        (FENCED_LEADER_EPOCH, "No leaders found".) The old ones are kept: librdkafka crashes if they go with requests under way.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since >= RENEW_SECONDS and len(self._old) < HANDLES_MAX:
            self._old.append(self._admin)
            self._admin, self._failing_since = AdminClient(settings(self.bootstrap, self._client)), None

    def offsets(self, group: str, topic: str, partitions: int, *, stable: bool = False) -> dict[int, int]:
        """The committed offsets of a group; -1 where there is none. KafkaException(UNSTABLE_OFFSET_COMMIT): some are pending.

        Asked by a consumer: librdkafka's admin calls to a coordinator end the process where that goes away meanwhile (its issue
        4605). A consumer that wants stable ones waits for them and says only that its time was over; that they were pending
        is believed if others are told at once, and it happens again.
        """
        asked = [(topic, index) for index in range(partitions)]
        if not stable:
            return self._committed(group, UNCOMMITTED, asked)
        for _ in range(2):
            try:
                return self._committed(group, COMMITTED, asked)
            except KafkaException as failure:
                if error_of(failure).code() != KafkaError._TIMED_OUT:
                    raise
            self._committed(group, UNCOMMITTED, asked)
        raise KafkaException(KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT))

    def _committed(self, group: str, isolation: str, asked: Sequence[Partition]) -> dict[int, int]:
        """KafkaException if not all are known."""
        reader = self._asking.get((group, isolation))
        if reader is None:
            given = settings(self.bootstrap, self._client, group_id=group, isolation_level=isolation)
            reader = self._asking[group, isolation] = Consumer(given)
        found = reader.committed([TopicPartition(*where) for where in asked], OFFSETS_SECONDS)
        if errors := [each.error for each in found if each.error is not None]:
            raise KafkaException(errors[0])
        return {each.partition: max(each.offset, NO_OFFSET) for each in found}

    def read_all(self, partitions: Sequence[Partition], isolation: str) -> dict[Partition, tuple[list[Found], bool]]:
        """(offset, value) of each partition, and whether it was read whole: from offset 0 to the end that it has now.

        A leader that was elected a moment ago may say "end" too early to a reader, and never to who asks for the end itself
        (KIP-207). KafkaException if starts and ends can't be had.
        """
        starts, ends = self.starts(partitions), self.ends(partitions, isolation)
        reader = Consumer(
            settings(
                self.bootstrap,
                self._client,
                group_id="oncelog-verify-reader",
                isolation_level=isolation,
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
                fetch_wait_max_ms=50,
            )
        )
        found: dict[Partition, list[Found]] = {where: [] for where in partitions}
        waiting = set(partitions)
        deadline = time.monotonic() + FINAL_READ_SECONDS_MAX
        try:
            reader.assign([TopicPartition(*where, 0) for where in partitions])
            while waiting and time.monotonic() < deadline:
                message: Any
                for message in reader.consume(1000, 0.2):
                    error, where = message.error(), (message.topic(), message.partition())
                    if error is None:
                        found[where].append((message.offset(), (message.value() or b"").decode(errors="replace")))
                    elif error.code() == KafkaError._PARTITION_EOF and message.offset() >= ends[where]:
                        waiting.discard(where)
            return {where: (records, where not in waiting and not starts[where]) for where, records in found.items()}
        finally:
            reader.close()


def _result(made: Future[Any]) -> Any:
    """What a call has come to. KafkaException, also if the client says nothing at all."""
    try:
        return made.result(CALL_SECONDS + _GRACE_SECONDS)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
