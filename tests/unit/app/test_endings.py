"""Workers that end or begin anew where the brokers refuse: no member of a group is left behind. Without any broker."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy.engine import Connection

from oncelog.app import App, ConfigurationError, Record, schema
from oncelog.app.errors import AppError, Halted, Undone
from oncelog.app.exchange import Exchange, Name
from oncelog.app.intake import Intake, Taken
from oncelog.app.meters import Meters
from oncelog.app.ports import Transactor
from oncelog.app.settings import Cluster, Limits
from oncelog.app.sinks import SinkJob
from oncelog.app.state import Changelog
from oncelog.app.topology import Topology
from oncelog.app.transactions import TransactionalProducer
from oncelog.app.worker import Worker

PLACE = ("t", 0)
CLUSTER = Cluster("127.0.0.1:1", {"log_level": 0})


class Member:
    """What a worker asks of its intake. It has one record, and its thread may have ended."""

    def __init__(self, has_ended: bool = False) -> None:
        self.calls: list[str] = []
        self.early_at: list[float] = []
        self._has_ended = has_ended

    def take(self, records_max: int, seconds_max: float, stop: threading.Event, early_at: float) -> Taken:
        del records_max, seconds_max, stop
        self.early_at.append(early_at)
        return Taken([Record(*PLACE, 0, None, b"value")], {PLACE: 1}, {PLACE: 1})

    def assignments(self, places: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        return dict(places)

    def rewind(self) -> None:
        self.calls.append("rewind")
        if self._has_ended:
            raise Undone("the consumer is closed", rejoin=True)

    def read_ahead(self) -> None:
        self.calls.append("read_ahead")

    def settle(self) -> None:
        self.calls.append("settle")

    def commit(self, offsets: object) -> None:
        del offsets

    def close(self) -> None:
        self.calls.append("close")


class Refused:
    """A producer that can't abort, nor be closed perhaps."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def abort(self) -> None:
        raise self._error

    def close(self) -> None:
        pass


# -- the exchange and its worker --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConfigurationError("refused"), Halted("stopped"), Undone("late")])
def test_the_group_is_left_though_the_transaction_can_not_be_aborted(error: Exception) -> None:
    """Or the member's thread would poll for ever: the partitions held, the process without an end."""
    exchange = Exchange(Name("a", "i", 0), CLUSTER, ["t"], Limits(), Meters(), threading.Event(), threading.Event())
    member = Member()
    exchange._intake = cast(Intake, member)
    exchange._producer = cast(TransactionalProducer, Refused(error))
    if isinstance(error, AppError):
        with pytest.raises(ConfigurationError):
            exchange.close()
    else:
        exchange.close()
    assert member.calls == ["close"]
    assert exchange._producer is None


class Leaving:
    """An exchange that has no records."""

    def __init__(self) -> None:
        self.is_closed = False

    def open(self) -> None:
        pass

    def take(self, records_max: int | None = None) -> list[object]:
        del records_max
        return []

    def close(self) -> None:
        self.is_closed = True


class Stuck:
    """A changelog's consumer that can't be closed."""

    def close(self) -> None:
        raise RuntimeError("not now")


def test_a_worker_leaves_the_group_though_its_state_can_not_be_closed(tmp_path: Path) -> None:
    exchange = Leaving()
    worker = Worker(
        "a",
        Topology(),
        cast(Transactor, exchange),
        CLUSTER,
        Limits(),
        Meters(),
        tmp_path,
        threading.Event(),
        threading.Event(),
    )
    worker._states._changelog = cast(Changelog, Stuck())
    with pytest.raises(RuntimeError, match="not now"):
        worker.run()
    assert exchange.is_closed


# -- sinks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def job() -> Iterator[SinkJob]:
    """Of a sink that has its partition; nothing is stored yet."""
    app = App("a")

    @app.sink("t", database="sqlite://", name="store")
    def store(record: Record[bytes | None, bytes], db: Connection) -> None:
        del record, db

    (sink,) = app.topology.sinks
    made = SinkJob(Name("a.store", "i", 0), sink, CLUSTER, Limits(), Meters(), threading.Event(), threading.Event())
    schema.create(made._engine)
    made._positions._insert(PLACE, 0)
    made._positions.kept[PLACE] = (0, 0)
    yield made
    made._runner.close()
    made._engine.dispose()


def test_a_sink_begins_anew_where_its_member_ends_while_it_goes_back(job: SinkJob) -> None:
    """It is no reason to end the application."""
    member = Member(has_ended=True)
    job._intake = cast(Intake, member)
    job._recover(Undone("partitions were handed over meanwhile"))
    assert member.calls == ["rewind", "close"]
    assert job._intake is None


def test_a_sink_reads_ahead_while_its_database_commits(job: SinkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member()
    job._intake = cast(Intake, member)
    advance = job._positions.advance

    def advanced(*arguments: object) -> None:
        member.calls.append("advance")
        advance(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(job._positions, "advance", advanced)
    job._round()
    assert member.calls == ["read_ahead", "advance", "settle"]
    assert job._positions.kept[PLACE] == (1, 0)


def test_a_sinks_commit_lets_its_next_batch_end_early_and_a_failure_does_not(job: SinkJob) -> None:
    member = Member()
    job._intake = cast(Intake, member)
    failures = [
        lambda: None,
        lambda: job._failed([Record(*PLACE, 0, None, b"value")] * 2, ValueError("no")),
        lambda: job._recover(Undone("partitions were handed over meanwhile")),
    ]
    for fails in failures:
        job._round()
        fails()
    job._round()
    assert [early_at < math.inf for early_at in member.early_at] == [False, True, False, False]
