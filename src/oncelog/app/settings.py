"""The settings of the clients: what the runtime decides, what a user may add, and what is checked at the start.

Settings on which exactly-once rests are the runtime's alone and are refused from users (mistakes 4, 11, 14): a
``ConfigurationError`` says why. Connection, security and throughput settings of librdkafka may be given as ``client``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NoReturn

from oncelog.app.errors import ConfigurationError

Settings = dict[str, Any]


class Delivery(StrEnum):
    """What is promised for each record. Exactly once is the mode; the others are for comparison, and asked for by name."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"
    AT_MOST_ONCE = "at-most-once"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ConfigurationError(f"delivery={value!r}: it is one of {', '.join(cls)}")


#: Settings that a user can't give, and the mistake that this prevents.
_THE_RUNTIMES: Final[Mapping[str, str]] = {
    "bootstrap.servers": "give it as bootstrap=",
    "transactional.id": "it is the application's name, its instance and the worker (mistake 1)",
    "enable.idempotence": "a transactional producer is idempotent",
    "acks": "a transaction needs all acknowledgements",
    "retries": "the producer sends again until the transaction's end",
    "transaction.timeout.ms": "give it as transaction_timeout=, in seconds",
    "group.id": "it is the application's name",
    "group.instance.id": "it is the application's name, its instance and the worker",
    "enable.auto.commit": "offsets are part of the transaction (mistake 4)",
    "enable.auto.offset.store": "offsets come from processed records only (mistake 5)",
    "auto.offset.reset": "a new application begins with the oldest record; later the committed offsets decide (mistake 6)",
    "isolation.level": "records of aborted transactions must not be processed",
    "partition.assignment.strategy": "the runtime rewinds and hands over partitions one by one",
    "group.protocol": "the runtime hands over partitions one by one",
    "max.poll.interval.ms": "a thread keeps polling however long a handler takes (mistake 11)",
    "metadata.recovery.strategy": "with `rebootstrap` librdkafka may wait for ever for a broker that it has given up",
}

#: Quick to come back when a connection was cut. About the recovery strategy: librdkafka's issue 5511.
_CONNECTION: Final[Settings] = {
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1000,
    "retry.backoff.ms": 50,
    "metadata.recovery.strategy": "none",
}

TRANSACTION_TIMEOUT_SECONDS: Final = 10.0
COMMIT_SECONDS: Final = 0.1
BATCH_RECORDS: Final = 1000
#: A transaction is open only while its records are sent; that takes a part of its timeout, so there must be some of it.
TRANSACTION_TIMEOUT_SECONDS_MIN: Final = 1.0
TRANSACTION_TIMEOUT_SECONDS_MAX: Final = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a batch ends and how long its transaction may stay open. Times in seconds.

    A batch ends ``commit_interval`` after its first record was read, or with ``batch_records``; with ``commit_early`` also
    when it holds a tenth of those at most, no more is at hand, and commits are cheap (``pace``). ``transaction_timeout`` is
    the broker's: how long a dead worker's open transaction holds up the readers at most.
    """

    commit_interval: float = COMMIT_SECONDS
    commit_early: bool = True
    batch_records: int = BATCH_RECORDS
    transaction_timeout: float = TRANSACTION_TIMEOUT_SECONDS
    revoke_budget: float = 10.0
    stop_budget: float = 20.0

    def __post_init__(self) -> None:
        """Mistake 11: what can't fit is refused before anything starts."""
        if not 1 <= self.batch_records <= 1_000_000:
            raise ConfigurationError(f"batch_records={self.batch_records}: from 1 to 1,000,000 records")
        if not TRANSACTION_TIMEOUT_SECONDS_MIN <= self.transaction_timeout <= TRANSACTION_TIMEOUT_SECONDS_MAX:
            raise ConfigurationError(
                f"transaction_timeout={self.transaction_timeout}: from {TRANSACTION_TIMEOUT_SECONDS_MIN:g} to "
                f"{TRANSACTION_TIMEOUT_SECONDS_MAX:g} seconds"
            )
        if not 0 < self.commit_interval <= self.transaction_timeout / 2:
            raise ConfigurationError(
                f"commit_interval={self.commit_interval} must be positive and at most half of "
                f"transaction_timeout={self.transaction_timeout}: otherwise the broker ends transactions before the worker does"
            )


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach the brokers: address and the user's own client settings, checked."""

    bootstrap: str
    client: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.bootstrap:
            raise ConfigurationError('bootstrap is empty: give the address of a broker, such as "localhost:9092"')
        for name in self.client:
            if name in _THE_RUNTIMES:
                raise ConfigurationError(f"client setting {name} is not yours to give: {_THE_RUNTIMES[name]}")

    def connection(self, client_id: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> Settings:
        """What every client has; ``defaults`` are those of its kind."""
        return {**_CONNECTION, **defaults, **self.client, "bootstrap.servers": self.bootstrap, "client.id": client_id}

    def for_consumer(self, *, client_id: str, group: str, instance: str) -> Settings:
        """A static member that reads committed records and never commits by itself.

        What is read ahead is bounded. When the bound is met the client looks again soon, not after its own second. A fetch
        waits for less than the time after which a request is repeated (docs/limits.md).
        """
        defaults = {
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 1_000,
            "fetch.wait.max.ms": 100,
            "retry.backoff.ms": 200,
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 10,
        }
        return {
            **_without(self.connection(client_id, defaults), _FOR_PRODUCERS),
            "group.id": group,
            "group.instance.id": instance,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "cooperative-sticky",
        }

    def for_producer(self, *, client_id: str, transactional_id: str, timeout_seconds: float) -> Settings:
        """A transactional producer. Its statistics tell its producer id and epoch, for the log."""
        return {
            "linger.ms": 5,
            "statistics.interval.ms": 1_000,
            "delivery.report.only.error": True,
            **_without(self.connection(client_id), _FOR_CONSUMERS),
            "transactional.id": transactional_id,
            "transaction.timeout.ms": round(timeout_seconds * 1000),
        }

    def for_plain_producer(self, *, client_id: str, delivery: Delivery) -> Settings:
        """A producer without transactions, for the weaker deliveries."""
        promises: Settings = {"enable.idempotence": True}
        if delivery is Delivery.AT_MOST_ONCE:
            promises = {"acks": 0, "retries": 0}
        return {"linger.ms": 5, **_without(self.connection(client_id), _FOR_CONSUMERS), **promises}

    def for_admin(self, client_id: str) -> Settings:
        """For topics and groups."""
        return {**_without(self.connection(client_id), _FOR_CONSUMERS | _FOR_PRODUCERS), "log_level": 0}


#: A user's settings that only one kind of client knows; the other would warn of them.
_FOR_CONSUMERS: Final = frozenset(
    (
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "fetch.wait.max.ms",
        "fetch.min.bytes",
        "fetch.max.bytes",
        "max.partition.fetch.bytes",
        "queued.min.messages",
        "queued.max.messages.kbytes",
        "fetch.queue.backoff.ms",
        "check.crcs",
    )
)
_FOR_PRODUCERS: Final = frozenset(
    (
        "linger.ms",
        "batch.size",
        "batch.num.messages",
        "compression.type",
        "compression.codec",
        "compression.level",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.ms",
        "statistics.interval.ms",
    )
)


def _without(settings: Settings, names: frozenset[str]) -> Settings:
    return {name: value for name, value in settings.items() if name not in names}


def client_id_of(name: str) -> str:
    """Names the process, so that a peer that is fenced by it can say where it runs (mistake 3)."""
    return f"{name}@{socket.gethostname()}:{os.getpid()}"
