"""What is past its time: records by age and size, idle producers, unused transactional ids (rules P8, R1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.engine.world import World

from oncelog.engine import retention
from oncelog.engine.decision import NOTHING
from oncelog.engine.retention import decide_producer_expiry, decide_retention, decide_transactional_id_expiry
from oncelog.engine.state import Log
from oncelog.model.rows import LogStart, ProducerForgotten, TransactionForgotten

DAY_MS = 86_400_000


def filled(world: World, count: int = 10, **configs: str) -> Log:
    log = world.topic("t", **{name.replace("_", "."): value for name, value in configs.items()})
    for _ in range(count):
        world.produce()
    return log


def removed(world: World, log: Log, stretches: list[tuple[int, int, int]]) -> int:
    """The log's start after retention; applied and replayed."""
    world.apply(decide_retention(log, stretches, world.now_ms))
    assert world.replayed().logs[log.id].offset_start == log.offset_start
    return log.offset_start


def test_old_stretches_go_in_order() -> None:
    world = World()
    log = filled(world, retention_ms="100")
    world.now_ms = 1_000
    stretches = [(2, 898, 1), (4, 899, 1), (6, 900, 1), (8, 5, 1)]
    assert removed(world, log, stretches) == 4
    assert removed(world, log, stretches[2:]) == 4


def test_records_without_a_time_have_no_age() -> None:
    world = World()
    log = filled(world, retention_ms="100")
    assert removed(world, log, [(2, -1, 1)]) == 0


def test_unlimited_retention_reads_no_stretch() -> None:
    world = World()
    log = filled(world, retention_ms="-1")

    def never() -> Iterator[tuple[int, int, int]]:
        raise AssertionError("read")
        yield 0, 0, 0

    assert decide_retention(log, never(), world.now_ms) is NOTHING


def test_a_compacted_topic_keeps_its_records() -> None:
    world = World()
    log = filled(world, retention_ms="100", cleanup_policy="compact")
    assert removed(world, log, [(2, 0, 1)]) == 0


@pytest.mark.parametrize(("bound", "start"), [("0", 10), ("100", 7), ("149", 4), ("150", 4), ("200", 0), ("250", 0)])
def test_size_counts_what_stays(bound: str, start: int) -> None:
    """retention.bytes: the oldest go while what stays is at least the bound."""
    world = World()
    log = filled(world, retention_ms="-1", retention_bytes=bound)
    assert removed(world, log, [(4, -1, 100), (7, -1, 50), (10, -1, 100)]) == start


def test_an_open_transaction_keeps_its_records() -> None:
    """R1: nothing at or above the last stable offset goes, however old."""
    world = World()
    log = filled(world, 4, retention_ms="0")
    session = world.init()
    world.add(session)
    world.produce(session, 0, transactional_id="x")
    world.produce()
    assert log.stable_offset == 4
    assert removed(world, log, [(2, 0, 1), (5, 0, 1), (6, 0, 1)]) == 2
    world.end(session, commit=True)
    assert removed(world, log, [(5, 0, 1), (6, 0, 1)]) == 6


def test_what_is_not_synced_stays() -> None:
    """D2: what readers don't see yet is not removed under them."""
    world = World()
    log = filled(world, 4, retention_ms="0")
    log.high_watermark = log.stable_offset = 2
    assert removed(world, log, [(2, 0, 1), (4, 0, 1)]) == 2


def test_the_start_never_goes_back() -> None:
    world = World()
    log = filled(world, retention_ms="0")
    assert removed(world, log, [(5, 0, 1)]) == 5
    assert decide_retention(log, [(2, 0, 1), (5, 0, 1)], world.now_ms) is NOTHING


def test_idle_producers_are_forgotten() -> None:
    """P8: after producer.id.expiration.ms, counted from the last write."""
    world = World()
    log = world.topic()
    idle, busy = world.init(None), world.init(None)
    world.produce(idle, 0)
    world.now_ms += DAY_MS - 1
    world.produce(busy, 0)
    assert decide_producer_expiry(world.state, log.id, world.now_ms) is NOTHING
    world.now_ms += 1
    decision = decide_producer_expiry(world.state, log.id, world.now_ms)
    assert decision.rows == (ProducerForgotten(log.id, idle.producer_id),)
    world.apply(decision)
    assert set(log.producers) == {busy.producer_id} == set(world.replayed().logs[log.id].producers)


def test_a_producer_with_an_open_transaction_is_never_forgotten() -> None:
    """P8; and a marker counts as a write."""
    world = World()
    log = world.topic()
    session = world.init()
    world.add(session)
    world.produce(session, 0, transactional_id="x")
    world.now_ms += 3 * DAY_MS
    assert decide_producer_expiry(world.state, log.id, world.now_ms) is NOTHING
    world.end(session, commit=True)
    world.now_ms += DAY_MS - 1
    assert decide_producer_expiry(world.state, log.id, world.now_ms) is NOTHING
    world.now_ms += 1
    assert len(decide_producer_expiry(world.state, log.id, world.now_ms).rows) == 1


def test_a_decision_forgets_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_FORGOTTEN_MAX", 2)
    world = World()
    log = world.topic()
    for _ in range(5):
        world.produce(world.init(None), 0)
    for number in range(5):
        world.init(str(number))
    world.now_ms += 30 * DAY_MS
    counts = []
    while (decision := decide_producer_expiry(world.state, log.id, world.now_ms)) is not NOTHING:
        counts.append(len(decision.rows))
        world.apply(decision)
    assert counts == [2, 2, 1]
    assert [len(one.rows) for one in decide_transactional_id_expiry(world.state, world.now_ms)] == [2, 2, 1]


def test_a_deleted_log_has_no_producers() -> None:
    world = World()
    log = world.topic()
    del world.state.logs[log.id]
    assert decide_producer_expiry(world.state, log.id, world.now_ms) is NOTHING


def test_unused_transactional_ids_are_forgotten() -> None:
    """transactional.id.expiration.ms after the last use; an open transaction keeps its id."""
    world = World()
    world.topic()
    idle, held, used = world.init("idle"), world.init("held"), world.init("used")
    world.add(held, transactional_id="held")
    world.now_ms += 7 * DAY_MS - 1
    world.init("used", caller=used)
    assert list(decide_transactional_id_expiry(world.state, world.now_ms)) == []
    world.now_ms += 1
    (decision,) = decide_transactional_id_expiry(world.state, world.now_ms)
    assert decision.rows == (TransactionForgotten("idle"),)
    world.apply(decision)
    assert set(world.state.transactions) == {"held", "used"} == set(world.replayed().transactions)
    assert idle.producer_id not in world.state.transaction_of


def test_an_id_used_since_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are made one by one: what was used between two of them stays."""
    monkeypatch.setattr(retention, "_FORGOTTEN_MAX", 1)
    world = World()
    world.topic()
    first, second = world.init("a"), world.init("b")
    world.now_ms += 30 * DAY_MS
    decisions = decide_transactional_id_expiry(world.state, world.now_ms)
    world.apply(next(decisions))
    world.add(second, transactional_id="b")
    assert list(decisions) == []
    assert first.producer_id != second.producer_id


def test_log_starts_are_rows() -> None:
    world = World()
    log = filled(world, retention_ms="0")
    assert decide_retention(log, [(3, 0, 1)], world.now_ms).rows == (LogStart(log.id, 3),)
