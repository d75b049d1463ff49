"""What readers may see (rules R1, R2, D2)."""

from __future__ import annotations

import random

import pytest
from tests.unit.engine.world import TV1, TV2, World, client_batch, markers, refusal

from oncelog.engine import partitions
from oncelog.engine.decision import Decision
from oncelog.engine.partitions import decide_append
from oncelog.engine.reading import aborted_between, check_leader_epoch, check_offset, offset_end
from oncelog.engine.transactions import Session
from oncelog.model.batch import check_batch
from oncelog.model.errors import ErrorCode
from oncelog.model.rows import LogStart


@pytest.fixture
def world() -> World:
    world = World()
    world.topic()
    return world


def test_read_committed_ends_at_the_first_open_transaction(world: World) -> None:
    """R1: the smallest first offset of the open ones; read_uncommitted sees all that is synced."""
    log = world.log()
    world.produce()
    a, b = world.init("a"), world.init("b")
    world.produce(a, 0, transactional_id="a", version=TV2)
    world.produce(b, 0, transactional_id="b", version=TV2)
    world.produce()
    assert (offset_end(log, is_committed=True), offset_end(log, is_committed=False)) == (1, 4)
    world.end(a, commit=True, transactional_id="a", version=5)
    assert offset_end(log, is_committed=True) == 2
    world.end(b, commit=False, transactional_id="b", version=5)
    assert offset_end(log, is_committed=True) == offset_end(log, is_committed=False) == 6


def test_nobody_reads_what_is_not_synced(world: World) -> None:
    """D2, R1: what is applied becomes visible when it is settled, all logs of an entry together."""
    log = world.log()
    data = client_batch()
    decision = decide_append(
        world.state, log, check_batch(data, bytes_max=999), data, transactional_id=None, version=9, now_ms=world.now_ms
    )
    world.state.apply(decision.rows, decision.batches, world.now_ms)
    assert (log.offset_next, offset_end(log, is_committed=False), offset_end(log, is_committed=True)) == (1, 0, 0)
    world.state.settle_visible(world.state.visible_after(decision.rows, decision.batches))
    assert (offset_end(log, is_committed=False), offset_end(log, is_committed=True)) == (1, 1)


def test_no_aborted_transaction_is_ever_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: a list that is full refuses new transactions; one that is open already is still listed when it aborts."""
    monkeypatch.setattr(partitions, "ABORTED_PER_PARTITION_MAX", 2)
    log = world.log()
    open_one = world.init("open")
    world.produce(open_one, 0, transactional_id="open", version=TV2)
    for number in range(2):
        session = world.init("x")
        world.produce(session, 0, transactional_id="x", version=TV2)
        assert len(log.aborted) == number
        world.end(session, commit=False, version=5)
    session = world.init("x")
    for version in (TV1, TV2):
        if version == TV1:
            world.add(session)
        refused = refusal(world.produce, session, 0, transactional_id="x", version=version)
        assert refused is ErrorCode.POLICY_VIOLATION
    world.produce(open_one, 1, transactional_id="open", version=TV2)
    world.end(open_one, commit=False, transactional_id="open", version=5)
    assert [first for _, first in aborted_between(log, 0, log.offset_next)] == [0, 1, 3]
    world.apply(Decision((LogStart(log.id, 5),)))
    world.produce(session, 0, transactional_id="x", version=TV1)


def test_aborted_transactions_of_a_range_by_first_offset(world: World) -> None:
    """R2, against a naive list: every overlapping one, sorted by first offset, no other."""
    chance = random.Random(7)
    sessions = {name: world.init(name) for name in "abcdef"}
    sequences = dict.fromkeys(sessions, 0)
    first: dict[str, int] = {}
    naive: list[tuple[int, int, int]] = []
    for _ in range(400):
        name = chance.choice("abcdef")
        session = sessions[name]
        if name in first and chance.random() < 0.4:
            commit = chance.random() < 0.5
            offset_marker = world.log().offset_next
            sessions[name] = world.end(session, commit=commit, transactional_id=name, version=5)
            sequences[name] = 0
            if not commit:
                naive.append((session.producer_id, first[name], offset_marker))
            del first[name]
        else:
            written = world.produce(session, sequences[name], transactional_id=name, version=TV2)
            sequences[name] += 1
            first.setdefault(name, written.offset_base)
    log = world.log()
    assert len(naive) > 20
    for _ in range(500):
        start = chance.randrange(log.stable_offset)
        end = chance.randrange(start + 1, log.stable_offset + 1)
        expected = sorted(
            ((producer_id, begin) for producer_id, begin, marker in naive if begin < end and marker >= start),
            key=lambda item: item[1],
        )
        assert aborted_between(log, start, end) == expected
    assert [row.offset_first for row in world.checkpointed().logs[log.id].aborted] == [row[1] for row in naive]


def test_offsets_outside_the_log(world: World) -> None:
    """OFFSET_OUT_OF_RANGE before the start and after the end; the end itself waits for more."""
    from oncelog.model.rows import LogStart

    for _ in range(5):
        world.produce()
    world.apply(Decision((LogStart(world.log().id, 3),)))
    log = world.log()
    assert [refusal(check_offset, log, offset) for offset in (2, 3, 5, 6)] == [1, 0, 0, 1]
    assert refusal(check_leader_epoch, 1) is ErrorCode.UNKNOWN_LEADER_EPOCH
    assert [refusal(check_leader_epoch, epoch) for epoch in (-1, 0)] == [0, 0]


def test_deleted_records_take_their_aborted_transactions_along(world: World) -> None:
    """R2: the list holds what can still be read."""
    from oncelog.model.rows import LogStart

    session: Session = world.init()
    for sequence in (0, 0, 0):
        world.produce(session, sequence, transactional_id="x", version=TV2)
        session = world.end(session, commit=False, version=5)
    assert [marker[0] for marker in markers(world)] == [1, 3, 5]
    world.apply(Decision((LogStart(world.log().id, 3),)))
    assert [row.offset_marker for row in world.log().aborted] == [3, 5]
