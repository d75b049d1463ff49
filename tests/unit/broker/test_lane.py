"""The lane: apply and append in one step, reply at the promised level, readers see what is synced (laws 3, 4, 7; D2, D3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import pytest
from tests.unit.engine.world import client_batch, everything

from oncelog.broker.lane import Lane
from oncelog.engine.decision import Decision, Level, Visible
from oncelog.engine.partitions import decide_append
from oncelog.engine.state import State
from oncelog.model.batch import check_batch
from oncelog.model.errors import StorageError
from oncelog.model.ids import LogId, Position
from oncelog.model.limits import UNSYNCED_BYTES_MAX
from oncelog.model.rows import LogStart, Topic, TopicDeleted, decode_rows
from oncelog.storage.contract import Entry, Recovered


class HandLoop:
    """An event loop that is turned by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: list[HandTimer] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    call_soon_threadsafe = call_soon

    def call_later(self, delay_seconds: float, callback: Callable[[], None]) -> HandTimer:
        self.timers.append(HandTimer(delay_seconds, callback))
        return self.timers[-1]

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class HandTimer:
    def __init__(self, delay_seconds: float, callback: Callable[[], None]) -> None:
        self.delay_seconds, self.callback, self.is_cancelled = delay_seconds, callback, False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandStorage:
    """Synced by hand; ``lost`` gives what a crash of the machine would leave."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.position_written = self.position_synced = Position(0)
        self.syncs_wanted = 0
        self.bytes_unsynced = 0
        self.is_behind = False
        self.sync_seconds = 0.0
        self.let_go: list[tuple[Any, ...]] = []
        self.failure: StorageError | None = None
        self.recovered: list[Entry] = []

    @property
    def position_appended(self) -> Position:
        return Position(len(self.entries))

    def open(self) -> Recovered:
        return Recovered((), ((Position(1 + at), entry) for at, entry in enumerate(self.recovered)), True)

    def start(self, *_: Any) -> None: ...

    def append(self, entry: Entry) -> Position:
        self.entries.append(entry)
        return self.position_appended

    def flush(self) -> None:
        if self.failure:
            raise self.failure
        self.position_written = self.position_appended

    def sync_soon(self) -> None:
        self.syncs_wanted += 1

    def logs(self) -> list[LogId]:
        return []

    def trim(self, log: LogId, offset: int) -> None:
        self.let_go.append(("trim", log, offset))

    def drop(self, log: LogId) -> None:
        self.let_go.append(("drop", log))


class Bench:
    def __init__(self) -> None:
        self.loop, self.storage, self.state = HandLoop(), HandStorage(), State()
        self.lane = Lane(self.state, self.storage, self.loop, lambda: 1_000)  # type: ignore[arg-type]
        self.said: list[str] = []
        self.seen: list[Visible] = []
        self.lane.on_visible = self.see
        self.lane.commit(Decision((Topic("t", UUID(int=1), (LogId(1), LogId(2)), {}, 0),)), 0)
        self.loop.turn()
        self.sync()

    def see(self, visible: Iterable[Visible]) -> None:
        self.seen += visible
        self.said.append("visible")

    def append(self, log: int = 1) -> Position:
        return self.lane.commit(self.decided(log), 0)

    def decided(self, log: int = 1) -> Decision:
        data = client_batch()
        return decide_append(
            self.state,
            self.state.logs[LogId(log)],
            check_batch(data, bytes_max=999),
            data,
            transactional_id=None,
            version=9,
            now_ms=0,
        )

    def sync(self) -> None:
        self.storage.position_synced = self.storage.position_written
        self.lane.synced(self.storage.position_synced)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_promise_waits_for_its_level(bench: Bench) -> None:
    """D2, law 3: written leaves after the write, synced after the sync, in order."""
    first = bench.append()
    bench.lane.after(Level.SYNCED, first, bench.said.append, "first synced")
    second = bench.append()
    bench.lane.after(Level.WRITTEN, second, bench.said.append, "second written")
    bench.lane.after(Level.NOTHING, second, bench.said.append, "nothing")
    assert bench.said == ["nothing"]
    bench.loop.turn()
    assert bench.said == ["nothing", "second written"]
    bench.sync()
    assert bench.said == ["nothing", "second written", "first synced", "visible"]
    bench.lane.after(Level.SYNCED, second, bench.said.append, "at once")
    assert bench.said[-1] == "at once"


def test_one_decision_is_one_entry(bench: Bench) -> None:
    """Law 2: a crash between its rows and its batches would leave half of it."""
    before = len(bench.storage.entries)
    topic = Topic("u", UUID(int=2), (LogId(3),), {}, 0)
    bench.lane.commit(Decision((topic,), bench.decided().batches), 0)
    (entry,) = bench.storage.entries[before:]
    assert decode_rows(entry.rows[8:]) == [topic]
    assert [one.log for one in entry.batches] == [1]


def test_one_write_and_one_sync_for_a_turn(bench: Bench) -> None:
    """Group commit: what one turn decided shares them."""
    before = bench.storage.syncs_wanted
    for _ in range(10):
        bench.lane.after(Level.SYNCED, bench.append(), bench.said.append, "ok")
    assert len(bench.loop.soon) == 1
    bench.loop.turn()
    assert bench.storage.syncs_wanted == before + 1
    bench.sync()
    assert bench.said == ["ok"] * 10 + ["visible"]


def test_readers_see_what_is_synced_and_not_before(bench: Bench) -> None:
    """D2, D3: the reply of a commit leaves in the same instant in which readers see it, not before."""
    log = bench.state.logs[LogId(1)]
    position = bench.append()
    bench.loop.turn()
    bench.append()
    assert (log.offset_next, log.high_watermark) == (2, 0)
    bench.lane.after(Level.SYNCED, position, lambda: bench.said.append(f"reply, readers at {log.high_watermark}"))
    bench.storage.position_synced = position
    bench.lane.synced(position)
    assert bench.said == ["reply, readers at 1", "visible"]
    assert [seen.high_watermark for seen in bench.seen] == [1]


def test_what_is_written_is_synced_within_the_flush_interval(bench: Bench) -> None:
    """D2: flush.interval.ms, if nobody asked for a sync before."""
    before = bench.storage.syncs_wanted
    bench.append()
    bench.loop.turn()
    assert bench.storage.syncs_wanted == before
    timer = bench.loop.timers[-1]
    assert timer.delay_seconds <= 0.010
    timer.callback()
    bench.loop.turn()
    assert bench.storage.syncs_wanted == before + 1


def test_what_is_written_after_a_sync_was_asked_for_is_synced_within_the_interval_too(bench: Bench) -> None:
    """D2: the timer that ran before leaves it to the next one; both together take no longer than flush.interval.ms."""
    bench.append()
    bench.loop.turn()
    first = bench.loop.timers[-1]
    bench.lane.after(Level.SYNCED, bench.storage.position_appended, bench.said.append, "synced")
    bench.loop.turn()
    asked = bench.storage.syncs_wanted
    bench.sync()
    bench.append()
    bench.loop.turn()
    first.callback()
    bench.loop.turn()
    assert bench.storage.syncs_wanted == asked
    second = bench.loop.timers[-1]
    assert second is not first
    assert first.delay_seconds + second.delay_seconds <= 0.010
    second.callback()
    bench.loop.turn()
    assert bench.storage.syncs_wanted == asked + 1


def test_what_is_synced_already_needs_no_other_sync(bench: Bench) -> None:
    """An idle broker's timers end."""
    bench.append()
    bench.loop.turn()
    asked, timers = bench.storage.syncs_wanted, len(bench.loop.timers)
    bench.sync()
    bench.loop.timers[-1].callback()
    bench.loop.turn()
    assert (bench.storage.syncs_wanted, len(bench.loop.timers)) == (asked, timers)


def test_a_failed_write_stops_everything(bench: Bench) -> None:
    """Law 7: told once, nothing is answered, nothing is tried again."""
    failures: list[StorageError] = []
    bench.lane.on_failure = failures.append
    bench.lane.after(Level.SYNCED, bench.append(), bench.said.append, "never")
    bench.storage.failure = StorageError("disk full")
    bench.loop.turn()
    bench.storage.failure = None
    bench.append()
    bench.loop.turn()
    assert (len(failures), bench.said, bench.storage.position_written) == (1, [], 1)


def test_storage_lets_go_only_of_what_is_safely_gone(bench: Bench) -> None:
    """D2: a deletion that a crash could take back must not have taken the data."""
    for _ in range(3):
        bench.append()
    bench.lane.commit(Decision((LogStart(LogId(1), 2),)), 0)
    bench.lane.commit(Decision((TopicDeleted("t"),)), 0)
    bench.loop.turn()
    assert bench.storage.let_go == []
    bench.sync()
    assert bench.storage.let_go == [("trim", 1, 2), ("drop", 1), ("drop", 2)]


def test_producers_pause_when_too_much_waits_for_the_disk(bench: Bench) -> None:
    """Law 8: on above the bound, off below half of it."""
    pressure: list[bool] = []
    bench.lane.on_pressure = pressure.append
    bench.storage.bytes_unsynced = UNSYNCED_BYTES_MAX + 1
    bench.append()
    bench.append()
    bench.loop.turn()
    bench.storage.bytes_unsynced = UNSYNCED_BYTES_MAX // 2 + 1
    bench.sync()
    assert pressure == [True]
    bench.storage.bytes_unsynced = UNSYNCED_BYTES_MAX // 2
    bench.sync()
    assert pressure == [True, False]


def test_producers_pause_while_settling_is_behind(bench: Bench) -> None:
    """Law 8: the journal is bounded. On at the end of a turn; off when the storage says so and both bounds are kept."""
    pressure: list[bool] = []
    bench.lane.on_pressure = pressure.append
    bench.storage.is_behind = True
    bench.append()
    bench.loop.turn()
    bench.sync()
    assert pressure == [True]
    bench.lane.relieved()
    assert pressure == [True]
    bench.storage.is_behind, bench.storage.bytes_unsynced = False, UNSYNCED_BYTES_MAX
    bench.lane.relieved()
    assert pressure == [True]
    bench.storage.bytes_unsynced = 0
    bench.lane.relieved()
    assert pressure == [True, False]


def test_a_restart_replays_to_the_same_state(bench: Bench) -> None:
    """Law 1: recovery is apply in a loop; all that was found is visible."""
    for log in (1, 2, 1):
        bench.append(log)
    bench.loop.turn()
    bench.sync()
    again = HandStorage()
    again.recovered = bench.storage.entries
    state = State()
    lane = Lane(state, again, HandLoop(), lambda: 9)  # type: ignore[arg-type]
    assert lane.recover()
    assert everything(state) == everything(bench.state)
    assert state.logs[LogId(1)].high_watermark == 2
