"""What verification believes of a cluster whose leaders change: not the first "end", not a handle that missed the change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from oncelog.verify.clients import Cluster, ClusterError, patiently
from oncelog.verify.history import COMMITTED

WHERE = ("t", 0)


class Message:
    """A record, or the end of a partition as a reader is told."""

    def __init__(self, offset: int, *, is_end: bool = False) -> None:
        self._offset, self._is_end = offset, is_end

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._PARTITION_EOF) if self._is_end else None

    def topic(self) -> str:
        return WHERE[0]

    def partition(self) -> int:
        return WHERE[1]

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return b"v%d" % self._offset


class Reader:
    """Librdkafka's consumer, with what it will be told."""

    told: Iterator[list[Message]] = iter(())

    def __init__(self, _settings: dict[str, Any]) -> None:
        self.assign = self.close = lambda *_: None

    def consume(self, _count: int, _seconds: float) -> list[Message]:
        return next(self.told, [])


def cluster_with(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> tuple[Cluster, list[Any]]:
    """A cluster whose handles answer list_offsets in turn; and the handles that were made."""
    made: list[Any] = []
    left = iter(answers)

    class Admin:
        def __init__(self, _settings: dict[str, Any]) -> None:
            made.append(self)

        def list_offsets(self, asked: dict[Any, Any], **_: Any) -> dict[Any, Future[Any]]:
            future: Future[Any] = Future()
            answer = next(left)
            if isinstance(answer, int):
                future.set_result(SimpleNamespace(offset=answer))
            else:
                future.set_exception(answer)
            return dict.fromkeys(asked, future)

    monkeypatch.setattr("oncelog.verify.clients.AdminClient", Admin)
    monkeypatch.setattr("oncelog.verify.clients.Consumer", Reader)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return Cluster("nowhere:1", {}), made


def fenced() -> KafkaException:
    return KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))


def test_a_handle_that_has_missed_a_change_of_leaders_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.verify.clients.RENEW_SECONDS", 0.0)
    cluster, handles = cluster_with(monkeypatch, fenced(), fenced(), fenced(), 7)
    assert patiently(lambda: cluster.ends([WHERE], COMMITTED)) == {WHERE: 7}
    assert len(handles) == 2


def test_handles_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.verify.clients.RENEW_SECONDS", 0.0)
    cluster, handles = cluster_with(monkeypatch, *(fenced() for _ in range(100)), 7)
    assert patiently(lambda: cluster.ends([WHERE], COMMITTED)) == {WHERE: 7}
    assert len(handles) == 21


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.verify.clients.PATIENCE_SECONDS", 0.0)
    cluster, _ = cluster_with(monkeypatch, *(fenced() for _ in range(100_000)))
    with pytest.raises(ClusterError, match="FENCED_LEADER_EPOCH"):
        patiently(lambda: cluster.ends([WHERE], COMMITTED))


def test_an_end_that_comes_too_early_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was just elected may know less than it will (KIP-207)."""
    cluster, _ = cluster_with(monkeypatch, 0, 3)
    told = [[Message(0), Message(1, is_end=True)], [Message(1), Message(2)], [Message(3, is_end=True)], [Message(9)]]
    monkeypatch.setattr(Reader, "told", iter(told))
    assert cluster.read_all([WHERE], COMMITTED) == {WHERE: ([(0, "v0"), (1, "v1"), (2, "v2")], True)}


def test_what_lacks_its_beginning_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention or DeleteRecords has taken it: nothing may be concluded from what is not there."""
    cluster, _ = cluster_with(monkeypatch, 2, 3)
    monkeypatch.setattr(Reader, "told", iter([[Message(2), Message(3, is_end=True)]]))
    assert cluster.read_all([WHERE], COMMITTED) == {WHERE: ([(2, "v2")], False)}


def test_what_is_not_read_to_its_end_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.verify.clients.FINAL_READ_SECONDS_MAX", 0.05)
    cluster, _ = cluster_with(monkeypatch, 0, 3)
    monkeypatch.setattr(Reader, "told", iter([[Message(0), Message(1, is_end=True)]]))
    assert cluster.read_all([WHERE], COMMITTED) == {WHERE: ([(0, "v0")], False)}
