"""Whom an error of a topic blames: the record, the settings, or nobody."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from oncelog.app import ConfigurationError, state, transactions
from oncelog.app.errors import Halted, Undone
from oncelog.app.state import Changelog, MemoryTable
from oncelog.app.transactions import Sent, TransactionalProducer


class Topics:
    """A client whose broker says this of every topic; the application halts at the third question."""

    def __init__(self, error: KafkaError, halt: threading.Event) -> None:
        self._error = error
        self._halt = halt
        self._asked = 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        assert timeout > 0
        self._asked += 1
        if self._asked == 3:
            self._halt.set()
        return SimpleNamespace(topics={topic: SimpleNamespace(error=self._error)})

    def produce(self, *record: object) -> None:
        raise AssertionError(record)


@pytest.mark.parametrize(
    ("code", "comes_of_it", "says"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Undone, "topic out"),
        (KafkaError.LEADER_NOT_AVAILABLE, Halted, "while waiting"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ConfigurationError, "topic out"),
    ],
)
def test_a_topics_error_blames_a_record_only_if_it_is_its_own(
    monkeypatch: pytest.MonkeyPatch, code: int, comes_of_it: type[Exception], says: str
) -> None:
    """A broker that has no metadata yet would make dead letters of good records."""
    halt = threading.Event()
    monkeypatch.setattr(transactions, "Producer", lambda settings: Topics(KafkaError(code), halt))
    monkeypatch.setattr(transactions, "_TOPIC_SECONDS", -1.0)
    producer = TransactionalProducer({"transaction.timeout.ms": 10_000}, halt)
    with pytest.raises(comes_of_it, match=says):
        producer.send([Sent("out", b"k", b"v")])


class Queue:
    """A client that has room for one record before it is polled."""

    def __init__(self) -> None:
        self.given: list[tuple[object, ...]] = []
        self._has_room = True

    def list_topics(self, topic: str, timeout: float) -> Any:
        assert timeout > 0
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    def produce(self, *record: object) -> None:
        if not self._has_room:
            raise BufferError
        self._has_room = False
        self.given.append(record)

    def poll(self, seconds: float) -> None:
        del seconds
        self._has_room = True


def test_records_are_given_to_the_client_once_in_their_order_and_then_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(transactions, "Producer", lambda settings: queue)
    producer = TransactionalProducer({"transaction.timeout.ms": 10_000}, threading.Event())
    records = [Sent("out", b"k", b"%d" % number) for number in range(3)]
    records.append(Sent("out", b"k", b"3", [("h", b"v")], 1, 7))
    producer.send(records)
    assert queue.given == [
        *(("out", b"%d" % number, b"k") for number in range(3)),
        ("out", b"3", b"k", 1, None, None, 7, [("h", b"v")]),
    ]
    assert records == []


class Forbidden:
    """A consumer that may not read."""

    def __init__(self, settings: object) -> None:
        del settings

    def get_watermark_offsets(self, place: object, timeout: float, *, cached: bool) -> tuple[int, int]:
        del place, timeout, cached
        return 0, 1

    def assign(self, places: object) -> None: ...

    def poll(self, seconds: float) -> Any:
        return SimpleNamespace(error=lambda: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), seconds=seconds)

    def consume(self, count: int, seconds: float) -> list[Any]:
        del count, seconds
        self.halt.set()
        return []

    halt = threading.Event()


def test_a_changelog_that_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not asked again and again, without a word."""
    monkeypatch.setattr(state, "Consumer", Forbidden)
    changelog = Changelog({}, Forbidden.halt, threading.Event())
    with pytest.raises(ConfigurationError, match=r"changelog a\.b\.changelog: .*Allow this user to read it"):
        changelog.restore(MemoryTable(), "a.b.changelog", 0)
