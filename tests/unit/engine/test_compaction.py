"""Which logs are compacted, how far, and what stays that can't be judged (rules R1, R2)."""

from __future__ import annotations

import pytest
from tests.support.batches import batch
from tests.unit.engine.world import World

from oncelog.engine.compaction import DIRTY_BYTES_MIN, Due, Sweep, decide_compacted, find_due
from oncelog.engine.decision import NOTHING
from oncelog.engine.state import Log
from oncelog.model.batch import packed, read_header
from oncelog.model.header import DELETE_HORIZON
from oncelog.model.records import records
from oncelog.model.rows import LogCompacted

MUCH = DIRTY_BYTES_MIN
NOW_MS = 1_000_000


def filled(world: World, count: int = 10, **configs: str) -> Log:
    named = {name.replace("_", "."): value for name, value in configs.items()}
    log = world.topic("t", **{"cleanup.policy": "compact", **named})
    for _ in range(count):
        world.produce()
    return log


def due(log: Log, *stretches: tuple[int, int, int], first_ms: int = NOW_MS) -> Due | None:
    return find_due(log, stretches, NOW_MS, lambda offset: first_ms)


def test_more_than_the_share_that_is_set_must_be_new() -> None:
    log = filled(World(), min_cleanable_dirty_ratio="0.5")
    log.offset_compacted = 4
    assert due(log, (4, 1, MUCH), (8, 1, MUCH)) is None
    assert due(log, (4, 1, MUCH), (8, 1, MUCH + 1)) == Due(pytest.approx(0.5, abs=0.01), log.id, 8)
    assert due(log, (4, 1, MUCH)) is None


def test_little_that_is_new_waits_until_it_is_old() -> None:
    log = filled(World(), segment_ms="1000")
    assert due(log, (4, NOW_MS - 999, MUCH - 1)) is None
    assert due(log, (4, NOW_MS - 1000, MUCH - 1)) == Due(1.0, log.id, 4)
    assert due(log, (4, NOW_MS - 999, MUCH)) == Due(1.0, log.id, 4)
    assert due(filled(World(), segment_bytes="100"), (4, NOW_MS, 100)) is not None


def test_nothing_at_or_above_the_last_stable_offset_is_touched() -> None:
    """R1."""
    world = World()
    log = filled(world)
    session = world.init("x")
    world.add(session, log)
    world.produce(session, 0, transactional_id="x")
    world.produce()
    assert due(log, (10, 1, MUCH), (12, 1, MUCH)) == Due(1.0, log.id, 10)
    assert due(log, (11, 1, MUCH)) is None
    log.high_watermark = 5
    assert due(log, (5, 1, MUCH), (8, 1, MUCH)) == Due(1.0, log.id, 5)


def test_what_is_younger_than_the_lag_stays() -> None:
    log = filled(World(), min_compaction_lag_ms="100")
    assert due(log, (4, NOW_MS - 100, MUCH), (8, NOW_MS - 99, MUCH), (10, 1, MUCH)) == Due(1.0, log.id, 4)
    assert due(filled(World()), (4, NOW_MS + 99, MUCH)) is not None


def test_what_has_waited_for_too_long_goes_first() -> None:
    log = filled(World(), max_compaction_lag_ms="100", min_cleanable_dirty_ratio="1")
    log.offset_compacted = 4
    stretches = (4, 1, MUCH), (8, NOW_MS, 1)
    assert due(log, *stretches, first_ms=NOW_MS - 99) is None
    late = due(log, *stretches, first_ms=NOW_MS - 100)
    assert late == Due(2.0, log.id, 8)
    assert late > Due(1.0, log.id, 8)


def swept(log: Log, found: list[bytes], end: int, now_ms: int = NOW_MS) -> tuple[Sweep, list[bytes]]:
    sweep = Sweep(log, end, keys_max=100, now_ms=now_ms, certain_ms=now_ms, salt=b"")
    for data in found:
        if read_header(data).offset_next > sweep.offset_first:
            assert sweep.look(data, lambda: None)
    left = [sweep.rewrite(memoryview(data), 0, lambda: None) for data in found]
    return sweep, [bytes(one[0]) for one in left if one is not None]


def at(offset: int, *pairs: tuple[bytes | None, bytes | None], attributes: int = 0, body: bytes = b"") -> bytes:
    data = batch([value for _, value in pairs], keys=[key for key, _ in pairs], timestamp_ms=5)
    header = read_header(data)
    changed = header._replace(base_offset=offset, attributes=header.attributes | attributes)
    return packed(changed, body or data[61:])


def pairs(found: list[bytes]) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record.offset, record.key, record.value) for data in found for record in records(data)]


def test_records_without_a_key_stay() -> None:
    log = filled(World(), 5)
    found = [at(0, (None, b"1"), (b"k", b"2")), at(2, (None, None)), at(3, (b"k", b"3")), at(4, (b"z", b"4"))]
    _, left = swept(log, found, 5)
    assert pairs(left) == [(0, None, b"1"), (2, None, None), (3, b"k", b"3"), (4, b"z", b"4")]


def test_what_can_not_be_opened_stays_and_keeps_tombstones() -> None:
    """An older value of the key may be in it. Nor does it supersede anything."""
    world = World()
    log = filled(world, 6, delete_retention_ms="0")
    nonsense = at(1, (b"k", b"2"), body=b"nonsense")
    found = [at(0, (b"k", b"1")), nonsense, at(2, (b"k", None)), at(3, (b"y", None)), at(4, (b"z", b"5"), (b"z", b"6"))]
    for _ in range(4):
        sweep, found = swept(log, found, 6)
        world.apply(decide_compacted(world.state, sweep))
        log.offset_compacted = 5  # as if more had come
    assert found[0] == nonsense
    assert pairs(found[1:])[:2] == [(2, b"k", None), (3, b"y", None)]
    log.offset_compacted = 0
    _, left = swept(log, [at(0, (b"k", b"1")), nonsense, at(2, (b"z", b"5"))], 3)
    assert left[0] == at(0, (b"k", b"1"))


def test_a_tombstone_stays_for_its_time() -> None:
    """Which begins with the sweep after the one that has taken the older values."""
    world = World()
    log = filled(world, delete_retention_ms="100")
    found = [at(0, (b"k", b"1")), at(1, (b"k", None)), at(2, (b"z", b""))]
    kept = []
    for end, now_ms in ((3, 1_000), (4, 2_000), (5, 2_099), (6, 2_100)):
        sweep, found = swept(log, found, end, now_ms)
        world.apply(decide_compacted(world.state, sweep))
        kept.append([(offset, key) for offset, key, _ in pairs(found)])
        found.append(at(end, (b"z", b"")))
    assert kept == [[(1, b"k"), (2, b"z")], [(1, b"k"), (3, b"z")], [(1, b"k"), (4, b"z")], [(5, b"z")]]


def test_the_last_batch_is_looked_at_again() -> None:
    """What it holds twice is found then, and the time of its tombstones has not begun before."""
    world = World()
    log = filled(world, delete_retention_ms="0")
    both = at(0, (b"k", b"1"), (b"k", None))
    sweep, found = swept(log, [both], 2)
    assert found == [both]
    world.apply(decide_compacted(world.state, sweep))
    sweep, found = swept(log, [both, at(2, (b"z", b""))], 3)
    assert pairs(found) == [(1, b"k", None), (2, b"z", b"")]
    assert not read_header(found[0]).attributes & DELETE_HORIZON
    world.apply(decide_compacted(world.state, sweep))
    _, found = swept(log, [*found, at(3, (b"y", b""))], 4)
    assert pairs(found)[0] == (1, b"k", None)
    assert read_header(found[0]).attributes & DELETE_HORIZON


def test_an_abort_marker_goes_after_its_entry_of_the_aborted_list() -> None:
    """R2: without it a reader that has the entry takes the producer's next transaction for aborted."""
    world = World()
    log = filled(world, 0)
    session = world.init("x")
    world.add(session, log)
    world.produce(session, 0, transactional_id="x")
    world.end(session, commit=False)
    data, marker = [batch.data for _, batches, _ in world.journal for batch in batches]
    sweep, found = swept(log, [data, marker, at(2, (b"k", b"1"))], 3)
    assert found == [marker, at(2, (b"k", b"1"))]
    assert log.aborted
    world.apply(decide_compacted(world.state, sweep))
    assert log.aborted == world.replayed().logs[log.id].aborted == []
    _, found = swept(log, [*found, at(3, (b"k", b"2"))], 4)
    assert found == [at(3, (b"k", b"2"))]


def test_what_a_producer_commits_after_an_abort_stays() -> None:
    """R2: only what lies between a transaction's first record and its abort marker goes, whoever wrote more."""
    world = World()
    log = filled(world, 0)
    session = world.init("x")
    for sequence, commit in enumerate((False, True)):
        world.add(session, log)
        world.produce(session, sequence, transactional_id="x")
        world.end(session, commit=commit)
    batches = [batch.data for _, batches, _ in world.journal for batch in batches]
    _, abort_marker, committed, _ = batches
    _, found = swept(log, [*batches, at(4, (b"k", b"1"))], 5)
    assert found == [abort_marker, committed, at(4, (b"k", b"1"))]


def test_a_sweep_ends_where_its_map_is_full() -> None:
    """Law 8. Two batches are looked at whatever is in them, so that every sweep gets further."""
    sweep = Sweep(filled(World(), 5), 5, keys_max=2, now_ms=NOW_MS, certain_ms=NOW_MS, salt=b"")
    assert [sweep.look(at(offset, (b"%d" % offset, b"")), lambda: None) for offset in range(3)] == [True, True, False]
    assert (sweep.offset_swept, sweep.offset_end) == (2, 2)


def test_a_sweep_that_has_got_nowhere_says_nothing() -> None:
    world = World()
    log = filled(world, 5)
    assert decide_compacted(world.state, Sweep(log, 5, keys_max=1, now_ms=1, certain_ms=1, salt=b"")) is NOTHING
    sweep, _ = swept(log, [at(0, (b"k", b"1")), at(1, (b"k", b"2"))], 5)
    assert decide_compacted(world.state, sweep).rows == (LogCompacted(log.id, 2),)
    log.offset_compacted = 2
    assert decide_compacted(world.state, sweep) is NOTHING
