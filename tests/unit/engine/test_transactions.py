"""Transactions of the engine (rules D1, D6-D8, T1-T9, O1, O6)."""

from __future__ import annotations

import pytest
from tests.unit.engine.world import NOBODY, TV2, World, everything, markers, refusal

from oncelog.engine import transactions
from oncelog.engine.decision import Decision, Level
from oncelog.engine.transactions import Session
from oncelog.model.batch import control_batch
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import EPOCH_MAX, Epoch, ProducerId
from oncelog.model.rows import GroupOffset, PendingOffset, Transaction, TransactionForgotten, TransactionState

FENCED, OLD_EPOCH = ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH
MAPPING, STATE = ErrorCode.INVALID_PRODUCER_ID_MAPPING, ErrorCode.INVALID_TXN_STATE
NONE = ErrorCode.NONE


@pytest.fixture
def world() -> World:
    world = World()
    world.topic("t", 3)
    return world


def row(world: World) -> Transaction:
    return world.state.transactions["x"]


def exhaust(world: World, *, state: TransactionState = TransactionState.EMPTY) -> Session:
    """The session of "x" at the last epoch a client gets."""
    session = world.init()
    old = row(world)
    new = Transaction(old.id, old.producer_id, EPOCH_MAX, old.timeout_ms, state, updated_ms=world.now_ms)
    world.apply(Decision((new,)))
    return Session(session.producer_id, EPOCH_MAX)


class TestInit:
    def test_without_an_id_each_call_gives_a_new_producer(self, world: World) -> None:
        """T2."""
        assert world.init(None) == (1, 0)
        assert world.init(None) == (2, 0)
        assert world.replayed().producer_id_next == 3

    @pytest.mark.parametrize(
        ("transactional_id", "timeout_ms", "code"),
        [("", 1_000, 42), ("x" * 1_025, 1_000, 42), ("x", 0, 50), ("x", -1, 50), ("x", 900_001, 50), ("x", 900_000, 0)],
    )
    def test_bounds(self, world: World, transactional_id: str, timeout_ms: int, code: int) -> None:
        """T2: empty id 42, timeout out of bounds 50."""
        assert refusal(world.init, transactional_id, timeout_ms=timeout_ms) == code

    def test_a_known_id_gets_the_next_epoch(self, world: World) -> None:
        """T2: nothing was open, no marker is written."""
        first = world.init()
        assert world.init() == (first.producer_id, 1)
        assert markers(world) == []

    def test_an_open_transaction_is_aborted_in_the_same_entry(self, world: World) -> None:
        """T2, D1: the reply carries the new epoch at once, CONCURRENT_TRANSACTIONS is never needed."""
        first = world.init()
        logs = [world.log("t", index) for index in range(2)]
        world.add(first, *logs)
        world.produce(first, 0, transactional_id="x")
        entries = len(world.journal)
        assert world.init() == (first.producer_id, 1)
        assert len(world.journal) == entries + 1
        assert [markers(world, log) for log in logs] == [[(1, 1, False)], [(0, 1, False)]]
        assert row(world).state is TransactionState.EMPTY
        assert refusal(world.produce, first, 1, transactional_id="x") is OLD_EPOCH

    def test_the_last_epoch_gives_a_new_producer_id(self, world: World) -> None:
        """T2: at 32766; the old id is fenced in the partitions by epoch 32767, which no client ever gets."""
        last = exhaust(world)
        world.add(last)
        world.produce(last, 0, transactional_id="x")
        fresh = world.init()
        assert fresh == (last.producer_id + 1, 0)
        assert markers(world) == [(1, 32767, False)]
        assert refusal(world.end, last, commit=True) is FENCED

    def test_who_may_call_again(self, world: World) -> None:
        """T3 (KIP-360): current epoch bumps; the one before repeats; everything else is fenced, 47 below version 4."""
        first = world.init()
        second = world.init(caller=first)
        assert second == (first.producer_id, 1)
        entries = len(world.journal)
        assert world.init(caller=first) == second
        assert len(world.journal) == entries
        third = world.init(caller=second)
        assert third.epoch == 2
        assert refusal(world.init, caller=first) is FENCED
        assert refusal(world.init, caller=first, version=3) is OLD_EPOCH
        assert refusal(world.init, caller=Session(ProducerId(999), Epoch(0))) is FENCED
        assert refusal(world.init, caller=Session(third.producer_id, Epoch(3))) is FENCED

    def test_another_instance_ends_the_retries(self, world: World) -> None:
        """T3: after a call without a session, the epoch before is a zombie's."""
        first = world.init()
        world.init()
        assert refusal(world.init, caller=first) is FENCED
        assert "replaced by 127.0.0.1:5000" in row(world).fence_reason

    def test_a_retry_across_exhaustion(self, world: World) -> None:
        """T3: the previous producer id with its last epoch."""
        last = exhaust(world)
        fresh = world.init(caller=last)
        assert fresh == (last.producer_id + 1, 0)
        assert world.init(caller=last) == fresh

    def test_half_a_session_is_invalid(self, world: World) -> None:
        """T3."""
        world.init()
        assert refusal(world.init, caller=Session(ProducerId(1), Epoch(-1))) is ErrorCode.INVALID_REQUEST

    def test_an_expired_id_starts_afresh(self, world: World) -> None:
        """T3, T9: as Kafka, a client whose transactional id was forgotten goes on with a new producer id."""
        assert world.init(caller=Session(ProducerId(999), Epoch(5))) == (1, 0)

    @pytest.mark.parametrize("restart", [False, True])
    def test_the_session_after_expiry_may_be_asked_for_again(self, world: World, restart: bool) -> None:
        """T3, T9: the answer was lost. Another epoch of the old producer id is another instance."""
        world.init("other")
        old = world.init()
        other, last = world.init(), world.init(caller=Session(old.producer_id, Epoch(1)))
        world.apply(Decision((TransactionForgotten("x"),)))
        fresh = world.init(caller=last)
        if restart:
            world.state = world.replayed()
        assert world.init(caller=last) == fresh == (3, 0)
        assert refusal(world.init, caller=other) is FENCED
        assert refusal(world.init, caller=old) is FENCED
        world.init()
        assert refusal(world.init, caller=last) is FENCED

    @pytest.mark.parametrize("version", [3, 5])
    def test_the_session_after_expiry_is_as_good_as_any(self, world: World, version: int) -> None:
        """T5, T6: though the epoch before it, of another producer id, was the same."""
        old = world.init()
        world.apply(Decision((TransactionForgotten("x"),)))
        session = world.init(caller=old)
        for commit in (True, False):
            world.add(session, world.log())
            world.produce(session, 0 if commit or version >= 5 else 1, transactional_id="x", version=TV2)
            session = world.end(session, commit=commit, version=version)
            assert row(world).state is (TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT)
        assert session == (2, 2 if version >= 5 else 0)

    def test_a_session_of_another_id_is_not_taken_over(self, world: World) -> None:
        """T3: what a caller says that it had may be somebody's."""
        other = world.init("other")
        fresh = world.init(caller=other)
        assert row(world).previous_producer_id == -1
        assert world.state.transaction_of == {other.producer_id: "other", fresh.producer_id: "x"}


class TestAdd:
    def test_a_transaction_begins_with_its_first_partition(self, world: World) -> None:
        """T4, T7."""
        session = world.init()
        world.now_ms += 5
        world.add(session)
        assert (row(world).state, row(world).started_ms) == (TransactionState.ONGOING, world.now_ms)
        world.now_ms += 5
        world.add(session, world.log("t", 1))
        assert row(world).started_ms == world.now_ms - 5

    def test_already_there_writes_nothing(self, world: World) -> None:
        """T4."""
        session = world.init()
        world.add(session, world.log(), world.log("t", 1))
        entries = len(world.journal)
        world.add(session, world.log("t", 1))
        world.add_group(session)
        world.add_group(session)
        assert len(world.journal) == entries + 1

    @pytest.mark.parametrize(("version", "code"), [(0, OLD_EPOCH), (1, OLD_EPOCH), (2, FENCED), (3, FENCED)])
    def test_who_may_add(self, world: World, version: int, code: ErrorCode) -> None:
        """T4: unknown id or other producer 49; other epoch 90, below version 2 it is 47."""
        session = world.init()
        assert refusal(world.add, session, transactional_id="y", version=version) is MAPPING
        assert refusal(world.add, Session(ProducerId(99), Epoch(0)), version=version) is MAPPING
        for epoch in (-1, 1):
            other = Session(session.producer_id, Epoch(epoch))
            assert refusal(world.add, other, version=version) is code
            assert refusal(world.add_group, other, version=version) is code

    def test_the_reply_waits_for_written_only(self, world: World) -> None:
        """D2."""
        session = world.init()
        decision = transactions.decide_add_partitions(
            world.state, "x", session, [world.log()], version=0, now_ms=world.now_ms
        )
        assert decision.level is Level.WRITTEN

    def test_a_new_transaction_forgets_what_the_last_one_touched(self, world: World) -> None:
        """T4, D4: in the same epoch, under TV1."""
        session = world.init()
        world.add(session)
        world.add_group(session)
        world.end(session, commit=True)
        world.add(session, world.log("t", 1))
        assert (row(world).logs, row(world).groups) == ((world.log("t", 1).id,), ())

    @pytest.mark.parametrize(("version", "code"), [(3, STATE), (4, ErrorCode.TRANSACTION_ABORTABLE), (5, NONE)])
    def test_offsets_need_the_group(self, world: World, version: int, code: ErrorCode) -> None:
        """O6: TV2 adds the group implicitly; TV1 is refused with 120 (v4) or 48."""
        session = world.init()
        assert refusal(self.join, world, session, version) is code
        world.add_group(session)
        assert transactions.group_joined(world.state, "x", session, "g", version=3, now_ms=0) == ()
        assert refusal(self.join, world, Session(session.producer_id, Epoch(7)), version) is OLD_EPOCH

    @staticmethod
    def join(world: World, session: Session, version: int) -> None:
        transactions.group_joined(world.state, "x", session, "g", version=version, now_ms=world.now_ms)

    def test_verifying_changes_nothing(self, world: World) -> None:
        """T4: AddPartitionsToTxn v4-5 verifyOnly."""
        session = world.init()
        world.add(session)
        before = everything(world.state)

        def verify(index: int, version: int) -> None:
            transactions.verify_partition(world.state, "x", session, world.log("t", index), version=version)

        assert refusal(verify, 0, 4) is NONE
        assert refusal(verify, 1, 4) is STATE
        assert refusal(verify, 1, 5) is ErrorCode.TRANSACTION_ABORTABLE
        assert everything(world.state) == before


class TestEndTv1:
    @pytest.mark.parametrize("commit", [True, False])
    def test_one_entry_ends_it_everywhere(self, world: World, commit: bool) -> None:
        """D1, T5: outcome, every control batch and the group offsets; the epoch stays."""
        session = world.init()
        logs = [world.log("t", index) for index in range(3)]
        world.add(session, *logs)
        world.add_group(session)
        for log in logs[:2]:
            world.produce(session, 0, 2, transactional_id="x", log=log)
        pend(world, session, 42)
        assert [log.stable_offset for log in logs] == [0, 0, 0]
        entries = len(world.journal)
        assert world.end(session, commit=commit) == session
        assert len(world.journal) == entries + 1
        assert [markers(world, log) for log in logs] == [[(2, 0, commit)], [(2, 0, commit)], [(0, 0, commit)]]
        assert [log.stable_offset for log in logs] == [3, 3, 1]
        assert [len(log.aborted) for log in logs] == ([0, 0, 0] if commit else [1, 1, 0])
        assert committed(world) == (42 if commit else None)
        assert not world.state.offsets.pending
        assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())

    @pytest.mark.parametrize("version", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize(
        ("before", "commit", "code"),
        [
            ("empty", True, STATE),
            ("empty", False, NONE),  # D7
            ("committed", True, NONE),
            ("committed", False, STATE),
            ("aborted", True, STATE),
            ("aborted", False, NONE),
        ],
    )
    def test_the_table(self, world: World, version: int, before: str, commit: bool, code: ErrorCode) -> None:
        """T5, D7: same outcome again NONE, opposite 48, commit of nothing 48, abort of nothing NONE."""
        session = world.init()
        if before != "empty":
            world.add(session)
            world.end(session, commit=before == "committed")
        entries = len(world.journal)
        assert refusal(world.end, session, commit=commit, version=version) is code
        assert len(world.journal) == entries

    @pytest.mark.parametrize(("version", "code"), [(0, OLD_EPOCH), (1, OLD_EPOCH), (2, FENCED), (4, FENCED)])
    def test_who_may_end(self, world: World, version: int, code: ErrorCode) -> None:
        """T5."""
        session = world.init()
        world.add(session)
        for epoch in (-1, 1):
            other = Session(session.producer_id, Epoch(epoch))
            assert refusal(world.end, other, commit=True, version=version) is code
        other = Session(ProducerId(99), Epoch(0))
        assert refusal(world.end, other, commit=True, version=version) is MAPPING
        assert refusal(world.end, session, commit=True, version=version, transactional_id="y") is MAPPING
        assert row(world).state is TransactionState.ONGOING

    def test_the_end_waits_for_synced(self, world: World) -> None:
        """D2: it is the promise, for repeated ends too."""
        session = world.init()
        world.add(session)
        for _ in range(2):
            decision = transactions.decide_end(world.state, "x", session, commit=True, version=3, now_ms=world.now_ms)
            assert decision.level is Level.SYNCED
            world.apply(decision)

    def test_a_topic_deleted_meanwhile_is_left_out(self, world: World) -> None:
        """D1: the rest of the transaction ends."""
        from oncelog.model.rows import TopicDeleted

        other = world.topic("gone")
        session = world.init()
        world.add(session, world.log(), other)
        world.apply(Decision((TopicDeleted("gone"),)))
        world.end(session, commit=True)
        assert markers(world) == [(0, 0, True)]
        assert everything(world.replayed()) == everything(world.state)


def prepare(world: World, before: str) -> Session:
    """The state of "x" that a row of T6's table starts from, and the current session."""
    session = world.init()
    session = world.init(caller=session)  # so that an epoch before the current one exists
    if before == "EMPTY":
        return session
    world.produce(session, 0, transactional_id="x", version=TV2)
    if before == "ONGOING":
        return session
    return world.end(session, commit=before == "COMPLETE_COMMIT", version=5)


class TestEndTv2:
    @pytest.mark.parametrize(
        ("before", "abort_retry", "abort_current", "commit_retry", "commit_current"),
        [
            ("EMPTY", 90, 0, 90, 48),
            ("ONGOING", 90, 0, 90, 0),
            ("COMPLETE_ABORT", 0, 0, 48, 48),
            ("COMPLETE_COMMIT", 48, 0, 0, 48),
        ],
    )
    def test_the_table(
        self, before: str, abort_retry: int, abort_current: int, commit_retry: int, commit_current: int
    ) -> None:
        """T6, every cell; a retry never bumps, the current epoch always does."""
        for commit, is_retry, code in [
            (False, True, abort_retry),
            (False, False, abort_current),
            (True, True, commit_retry),
            (True, False, commit_current),
        ]:
            world = World()
            world.topic()
            current = prepare(world, before)
            caller = Session(current.producer_id, Epoch(current.epoch - 1)) if is_retry else current
            entries = len(world.journal)
            if code:
                assert refusal(world.end, caller, commit=commit, version=5) == code
            else:
                after = world.end(caller, commit=commit, version=5)
                assert after == (current.producer_id, current.epoch + (0 if is_retry else 1))
            assert len(world.journal) == entries + (not is_retry and code == 0)

    def test_the_marker_has_the_bumped_epoch(self, world: World) -> None:
        """R3, T8: a late batch of the ended transaction is refused with 47."""
        session = world.init()
        world.produce(session, 0, transactional_id="x", version=TV2)
        after = world.end(session, commit=True, version=5)
        assert markers(world) == [(1, 1, True)]
        assert refusal(world.produce, session, 1, transactional_id="x", version=TV2) is OLD_EPOCH
        assert world.produce(after, 0, transactional_id="x", version=TV2).offset_base == 2

    def test_a_repeated_abort_of_nothing(self, world: World) -> None:
        """T6: abort in EMPTY bumps; its retry is answered with the same session."""
        session = world.init()
        after = world.end(session, commit=False, version=5)
        assert world.end(session, commit=False, version=5) == after

    @pytest.mark.parametrize("commit", [True, False])
    def test_across_exhaustion(self, world: World, commit: bool) -> None:
        """T6, T2: a new producer id at 0; the retry with the previous id and epoch 32766 is a retry."""
        last = exhaust(world)
        world.produce(last, 0, transactional_id="x", version=TV2)
        after = world.end(last, commit=commit, version=5)
        assert after == (last.producer_id + 1, 0)
        assert world.end(last, commit=commit, version=5) == after
        assert refusal(world.end, last, commit=not commit, version=5) is STATE
        assert markers(world) == [(1, 32767, commit)]
        assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())


class TestTimeouts:
    def test_it_fires_when_due_and_not_before(self, world: World) -> None:
        """T7, D5: timeout_ms after the first partition was added."""
        session = world.init(timeout_ms=1_000)
        world.now_ms += 10_000
        world.add(session)
        assert world.state.alarms.next_ms == world.now_ms + 1_000
        world.now_ms += 999
        world.add(session, world.log("t", 1))
        assert not world.time_out()
        world.now_ms += 1
        assert world.time_out()
        assert (row(world).state, row(world).epoch) == (TransactionState.COMPLETE_ABORT, 1)
        assert "timed out" in row(world).fence_reason

    def test_the_old_producer_sees_only_47_and_90(self, world: World) -> None:
        """T7: everywhere, never 48."""
        session = self.timed_out(world)
        assert refusal(world.produce, session, 1, transactional_id="x") is OLD_EPOCH
        assert refusal(world.produce, session, 1, transactional_id="x", version=TV2) is OLD_EPOCH
        for version in (1, 3):
            code = FENCED if version >= 2 else OLD_EPOCH
            assert refusal(world.add, session, version=version) is code
            assert refusal(world.add_group, session, version=version) is code
            assert refusal(world.end, session, commit=True, version=version) is code
            assert refusal(world.end, session, commit=False, version=version) is code
        assert refusal(world.end, session, commit=True, version=5) is FENCED
        assert refusal(TestAdd.join, world, session, 5) is OLD_EPOCH

    def test_the_producer_itself_goes_on(self, world: World) -> None:
        """D8 (KIP-588): InitProducerId with the epoch before the timeout, and its retry."""
        session = self.timed_out(world)
        for state in (world.replayed(), world.checkpointed()):
            again = World(state, world.now_ms)
            assert again.init(caller=session) == (session.producer_id, 2)
        after = world.init(caller=session)
        assert after == (session.producer_id, 2)
        assert world.init(caller=session) == after
        world.produce(after, 0, transactional_id="x", version=TV2)

    def test_not_after_another_instance_has_called(self, world: World) -> None:
        """D8: then it is fenced."""
        session = self.timed_out(world)
        world.init()
        assert refusal(world.init, caller=session) is FENCED

    def test_a_timeout_at_the_last_epoch(self, world: World) -> None:
        """T7, D8, T2: the producer id is exhausted by the timeout's bump."""
        last = exhaust(world)
        world.add(last)
        world.now_ms += 60_000
        assert world.time_out()
        assert row(world).producer_id == last.producer_id + 1
        assert refusal(world.end, last, commit=True, version=3) is FENCED
        assert refusal(world.produce, last, 0, transactional_id="x") is OLD_EPOCH
        assert world.init(caller=last) == (last.producer_id + 1, 1)
        assert world.init(caller=last) == (last.producer_id + 1, 1), "T3, T9: the answer was lost, it asks again"
        assert refusal(world.end, last, commit=True, version=3) is FENCED
        assert world.init(caller=Session(ProducerId(last.producer_id + 1), Epoch(1))) == (last.producer_id + 1, 2)
        assert refusal(world.init, caller=last) is FENCED

    def test_after_the_machines_restart_all_are_aborted(self, world: World) -> None:
        """D2: a lost, unsynced batch can't be committed."""
        session = world.init()
        world.produce(session, 0, transactional_id="x", version=TV2)
        for decision in transactions.decide_all_lost(world.state, world.now_ms):
            world.apply(decision)
        assert refusal(world.end, session, commit=True) is FENCED
        assert markers(world) == [(1, 1, False)]
        assert world.init(caller=session).epoch == 2

    @pytest.mark.parametrize("commit", [True, False])
    def test_after_the_machines_restart_nobody_goes_on_unasked(self, world: World, commit: bool) -> None:
        """D2, D8: what was open may be lost whole; the commit before must not answer for it, nor may the rest be committed."""
        session = world.init()
        world.add(session)
        world.end(session, commit=commit)
        for decision in transactions.decide_all_doubted(world.state):
            world.apply(decision)
        assert row(world).state is (TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT)
        assert refusal(world.end, session, commit=True) is FENCED
        assert refusal(world.add, session) is FENCED
        assert refusal(world.produce, session, 0, transactional_id="x", version=TV2) is OLD_EPOCH
        assert world.init(caller=session).epoch == 2

    def test_after_the_machines_restart_a_repeated_end_is_still_known(self, world: World) -> None:
        """D2, T6: TV2's end was safe, only its answer was lost; what was lost after it is not committed, but may be aborted."""
        session = world.init()
        world.produce(session, 0, transactional_id="x", version=TV2)
        after = world.end(session, commit=True, version=5)
        for decision in transactions.decide_all_doubted(world.state):
            world.apply(decision)
        assert refusal(world.end, after, commit=True, version=5) is FENCED
        assert world.end(session, commit=True, version=5).epoch == 2
        assert world.end(after, commit=False, version=5).epoch == 2

    @pytest.mark.parametrize("is_exhausted", [False, True])
    def test_after_several_restarts_of_the_machine_the_producer_still_goes_on(
        self, world: World, is_exhausted: bool
    ) -> None:
        """D8, T9: nobody has come in between, so it is the same producer, not a fenced one."""
        session = exhaust(world) if is_exhausted else world.init()
        for _ in range(2 if is_exhausted else 5):
            for decision in transactions.decide_all_doubted(world.state):
                world.apply(decision)
        assert refusal(world.end, session, commit=True, version=5) is FENCED
        assert refusal(world.add, session) is FENCED
        after = world.init(caller=session)
        assert after == (session.producer_id + 1, 2) if is_exhausted else (session.producer_id, 6)
        assert world.init(caller=session) == after, "the answer was lost"
        world.add(after)
        world.now_ms += 60_000
        assert world.time_out()
        assert world.init(caller=after).epoch == after.epoch + 2
        assert refusal(world.init, caller=session) is FENCED, "it has said that it knows the newer session"

    def test_another_instance_ends_what_several_restarts_have_left(self, world: World) -> None:
        """D8: after it has come, every epoch before is 90."""
        session = world.init()
        for _ in range(3):
            for decision in transactions.decide_all_doubted(world.state):
                world.apply(decision)
        world.init()
        for epoch in range(4):
            assert refusal(world.init, caller=Session(session.producer_id, Epoch(epoch))) is FENCED
            assert refusal(world.end, Session(session.producer_id, Epoch(epoch)), commit=False, version=5) is FENCED

    def test_the_epoch_before_is_no_retry_if_another_instance_had_it(self, world: World) -> None:
        """T6: after TV1's ends the epoch is the one that InitProducerId gave; the one before it was replaced."""
        zombie = world.init()
        world.produce(zombie, 0, transactional_id="x", version=TV2)
        session = world.init()
        for commit in (True, False):
            world.add(session)
            world.end(session, commit=commit)
            assert refusal(world.end, zombie, commit=commit, version=5) is FENCED

    @staticmethod
    def timed_out(world: World) -> Session:
        session = world.init()
        world.add(session)
        world.produce(session, 0, transactional_id="x")
        world.now_ms += 60_000
        assert world.time_out()
        return session


def pend(world: World, session: Session, offset: int, partition: int = 0) -> None:
    pending = GroupOffset("g", "t", partition, offset, -1, "", world.now_ms, -1, world.state.version + 1)
    world.apply(Decision((PendingOffset(session.producer_id, pending),)))


def commit_plainly(world: World, offset: int, partition: int = 0) -> None:
    plain = GroupOffset("g", "t", partition, offset, -1, "", world.now_ms, -1, world.state.version + 1)
    world.apply(Decision((plain,)))


def committed(world: World, partition: int = 0) -> int | None:
    found = world.state.offsets.committed.get("g", {}).get(("t", partition))
    return None if found is None else found.offset


class TestOffsets:
    @pytest.mark.parametrize("restart", [None, "replayed", "checkpointed"])
    def test_the_later_of_two_commits_wins(self, world: World, restart: str | None) -> None:
        """O1: a pending offset only replaces a committed one that was written before it; also after a restart."""
        session = world.init()
        world.add_group(session)
        commit_plainly(world, 5, 0)
        pend(world, session, 6, 0)
        pend(world, session, 6, 1)
        commit_plainly(world, 5, 1)
        if restart:
            world.state = getattr(world, restart)()
        commit_plainly(world, 7, 2)
        assert committed(world) == 5
        world.end(session, commit=True)
        assert (committed(world, 0), committed(world, 1), committed(world, 2)) == (6, 5, 7)

    def test_an_abort_drops_them(self, world: World) -> None:
        """O1."""
        session = world.init()
        world.add_group(session)
        pend(world, session, 6)
        assert world.state.offsets.has_pending("g", ("t", 0))
        world.init()
        assert committed(world) is None
        assert not world.state.offsets.has_pending("g", ("t", 0))


class TestOperators:
    def test_an_operators_abort_ends_the_whole_transaction(self, world: World) -> None:
        """T11, D1: differs from Kafka, which would tear it."""
        session = world.init()
        for index in range(2):
            world.produce(session, 0, transactional_id="x", version=TV2, log=world.log("t", index))
        world.apply(transactions.decide_operator_abort(world.state, "x", world.now_ms))
        assert [len(world.log("t", index).aborted) for index in range(2)] == [1, 1]
        assert refusal(world.end, session, commit=True) is FENCED
        assert refusal(world.init, caller=session) is FENCED

    def test_description(self, world: World) -> None:
        """T11, T1: Kafka's names."""
        session = world.init()
        assert transactions.describe(world.state, "x")["transaction_state"] == "Empty"
        world.add(session, world.log("t", 2), world.log("t", 0))
        shown = transactions.describe(world.state, "x")
        assert (shown["transaction_state"], shown["transaction_start_time"]) == ("Ongoing", world.now_ms)
        assert shown["topics"] == [{"topic": "t", "partitions": [2, 0]}]
        world.end(session, commit=True)
        assert transactions.describe(world.state, "x")["transaction_state"] == "CompleteCommit"
        assert transactions.describe(world.state, "?")["error_code"] is ErrorCode.TRANSACTIONAL_ID_NOT_FOUND


def test_the_abort_marker_is_exactly_as_kafkas() -> None:
    """R3: key 00 00 00 00 for abort, 00 00 00 01 for commit; value int16 0, int32 coordinator epoch."""
    for commit in (False, True):
        data = control_batch(9, producer_id=ProducerId(5), epoch=Epoch(2), commit=commit, timestamp_ms=7)
        record = data[61:]
        assert record == b"\x20\x00\x00\x00\x08" + (b"\0\0\0\1" if commit else b"\0\0\0\0") + b"\x0c" + bytes(6) + b"\0"
        assert data[21:23] == b"\x00\x30"
    assert NOBODY.producer_id == -1
