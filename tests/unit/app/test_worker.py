"""A worker without any broker, and without a clock: time passes only where it pauses."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from oncelog.app import App, Batch, Record, Retry
from oncelog.app.exchange import Outcome
from oncelog.app.ports import Transactor
from oncelog.app.records import Raw
from oncelog.app.transactions import Sent
from oncelog.app.worker import Worker

PLACE = ("t", 0)


class Passing(threading.Event):
    """A stop that never comes; to wait for it lets time pass."""

    now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        return False

    def monotonic(self) -> float:
        return self.now


class Feeding:
    """An exchange with records, which come again where they were put back."""

    must_hurry = False
    assignments: Mapping[tuple[str, int], int] = {PLACE: 1}

    def __init__(self, count: int) -> None:
        self.left: list[Raw] = [Record(*PLACE, offset, None, b"%d" % offset) for offset in range(count)]
        self.committed: list[list[int]] = []

    def open(self) -> None:
        pass

    def settle(self) -> None:
        pass

    close = settle

    def take(self, records_max: int | None = None) -> list[Raw]:
        taken, self.left = self.left[:records_max], self.left[records_max or len(self.left) :]
        return taken

    def put_back(self, records: Sequence[Raw]) -> None:
        self.left[:0] = records

    def commit(self, processed: list[Raw], outputs: list[Sent]) -> Outcome:
        self.committed.append([raw.offset for raw in processed])
        processed.clear()
        outputs.clear()
        return Outcome.COMMITTED


@pytest.mark.parametrize("failing", [0, 2])
def test_a_record_that_failed_is_tried_again_after_its_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Also where records before it were committed meanwhile."""
    app, stop, attempts = App("a"), Passing(), list[float]()

    @app.process("t", retry=Retry(3, back_off=2.0))
    def fails_twice(record: Record[bytes | None, bytes]) -> None:
        if record.offset == failing:
            attempts.append(stop.now)
            if len(attempts) < 3:
                raise ValueError("not yet")

    monkeypatch.setattr("oncelog.app.worker.time", stop)
    exchange = Feeding(4)
    taken = (cast(Transactor, exchange), app.cluster, app.limits, app.meters, tmp_path, stop, threading.Event())
    Worker("a", app.topology, *taken).run()
    assert attempts == pytest.approx([0.0, 2.0, 6.0])
    assert exchange.committed == [each for each in (list(range(failing)), list(range(failing, 4))) if each]


def test_a_handler_may_keep_its_batch(tmp_path: Path) -> None:
    """The worker lets go of the records at their commit."""
    app, kept = App("a"), list[Batch[Record[bytes | None, bytes | None]]]()

    @app.process("t")
    def keep(batch: Batch[Record[bytes | None, bytes | None]]) -> None:
        kept.append(batch)

    exchange, stop = Feeding(4), Passing()
    taken = (cast(Transactor, exchange), app.cluster, app.limits, app.meters, tmp_path, stop, threading.Event())
    Worker("a", app.topology, *taken).run()
    assert exchange.committed == [[0, 1, 2, 3]]
    assert [[record.offset for record in batch] for batch in kept] == [[0, 1, 2, 3]]
