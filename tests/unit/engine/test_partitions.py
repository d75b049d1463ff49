"""May a batch be written: duplicates, epochs, sequences, transactions (rules P1-P9, D6, T8)."""

from __future__ import annotations

import pytest
from tests.unit.engine.world import NOBODY, TV2, World, client_batch, everything, markers, refusal

from oncelog.engine.decision import Level
from oncelog.engine.partitions import decide_append
from oncelog.engine.state import State
from oncelog.engine.transactions import Session, decide_marker
from oncelog.model.batch import check_batch, read_header
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import Epoch, ProducerId

A = Session(ProducerId(77), Epoch(3))


@pytest.fixture
def world() -> World:
    world = World()
    world.topic()
    return world


def idempotent(world: World) -> Session:
    return world.init(None)


class TestDuplicates:
    def test_each_of_the_last_five_batches_is_answered_with_its_offset(self, world: World) -> None:
        """P1: NONE with the original base offset; nothing is written."""
        session = idempotent(world)
        for sequence in range(0, 14, 2):
            world.produce(session, sequence, 2)
        end = world.log().offset_next
        entries = len(world.journal)
        for sequence in range(4, 14, 2):
            assert world.produce(session, sequence, 2).offset_base == sequence
        assert (world.log().offset_next, len(world.journal)) == (end, entries)

    def test_an_older_duplicate_is_out_of_order(self, world: World) -> None:
        """P1: the window holds five batches, what is older is 45."""
        session = idempotent(world)
        for sequence in range(6):
            world.produce(session, sequence)
        assert refusal(world.produce, session, 0) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert world.produce(session, 1).offset_base == 1

    @pytest.mark.parametrize(("first", "count"), [(4, 3), (4, 1), (3, 2), (5, 1), (3, 3)])
    def test_a_partial_overlap_is_out_of_order(self, world: World, first: int, count: int) -> None:
        """P1: only exactly the same (first, last) is a duplicate."""
        session = idempotent(world)
        world.produce(session, 0, 4)
        world.produce(session, 4, 2)
        assert refusal(world.produce, session, first, count) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    def test_a_duplicate_has_the_original_append_time(self, world: World) -> None:
        """P1: LogAppendTime of the first writing."""
        log = world.log()
        log.settings = log.settings._replace(is_log_append_time=True)
        session = idempotent(world)
        first = world.produce(session, 0)
        world.now_ms += 5_000
        assert world.produce(session, 0) == first
        assert first.append_time_ms == world.now_ms - 5_000

    def test_a_duplicate_survives_a_restart(self, world: World) -> None:
        """P1, D2: producer state is durable, by the journal and by a checkpoint."""
        session = idempotent(world)
        for sequence in range(7):
            world.produce(session, sequence)
        for state in (world.replayed(), world.checkpointed()):
            again = World(state, world.now_ms)
            assert again.produce(session, 3).offset_base == 3
            assert refusal(again.produce, session, 1) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert again.produce(session, 7).offset_base == 7


class TestSequences:
    def test_a_gap_is_out_of_order(self, world: World) -> None:
        """P3."""
        session = idempotent(world)
        world.produce(session, 0, 3)
        assert refusal(world.produce, session, 4) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert world.produce(session, 3).offset_base == 3

    def test_the_sequence_wraps_to_zero(self, world: World) -> None:
        """P3: 2**31 - 1 is followed by 0, also inside a batch."""
        world.log().producer_id_created = ProducerId(1_000)  # an idle producer that may go on anywhere
        world.produce(A, 2**31 - 2, 2)
        assert world.produce(A, 0).offset_base == 2
        world.produce(Session(ProducerId(78), A.epoch), 2**31 - 1, 3)
        assert world.produce(Session(ProducerId(78), A.epoch), 2).offset_base == 6

    def test_a_new_epoch_starts_at_zero_and_clears_the_window(self, world: World) -> None:
        """P3."""
        world.produce(A, 0, 5)
        newer = Session(A.producer_id, Epoch(4))
        assert refusal(world.produce, newer, 5) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        world.produce(newer, 0, 1)
        assert refusal(world.produce, newer, 0, 5) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    def test_an_older_epoch_is_refused_with_47(self, world: World) -> None:
        """P2: never 90 from Produce, and before any sequence is looked at."""
        world.produce(Session(A.producer_id, Epoch(4)), 0)
        assert refusal(world.produce, A, 0) is ErrorCode.INVALID_PRODUCER_EPOCH

    def test_a_new_producer_id_must_begin_at_zero(self, world: World) -> None:
        """D6, TV1: given out after the partition was created and not long ago: nothing can have expired."""
        session = idempotent(world)
        assert refusal(world.produce, session, 7) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        for state in (world.replayed(), world.checkpointed()):
            again = World(state, world.now_ms)
            assert refusal(again.produce, session, 7) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    @pytest.mark.parametrize("expiration_ms", [1, 900, 60_000])
    def test_so_it_must_where_producers_are_soon_forgotten(self, expiration_ms: int) -> None:
        """D6: a young producer id is known to be young, whenever the one before was given out."""
        world = World(State({"producer.id.expiration.ms": str(expiration_ms)}))
        world.topic()
        for _ in range(20):
            session = idempotent(world)
            assert refusal(world.produce, session, 7) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            world.now_ms += max(1, expiration_ms // 10)
        world.now_ms += expiration_ms
        assert world.produce(session, 7).offset_base == 0

    def test_an_idle_producer_may_go_on_anywhere(self, world: World) -> None:
        """D6, TV1: its state here may have expired, or the topic was made again."""
        session = idempotent(world)
        world.now_ms += world.state.settings.producer_expiration_ms
        assert world.produce(session, 7).offset_base == 0
        older = idempotent(world)
        world.topic("new")
        assert world.produce(older, 9, log=world.log("new")).offset_base == 0

    def test_under_tv2_the_first_sequence_is_zero(self, world: World) -> None:
        """D6, TV2: the epoch is new with every transaction."""
        session = world.init()
        world.now_ms += world.state.settings.producer_expiration_ms
        code = refusal(world.produce, session, 7, transactional_id="x", version=TV2)
        assert code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


class TestTransactionalBatches:
    def test_without_a_transactional_id_53(self, world: World) -> None:
        """P5."""
        session = world.init()
        code = refusal(world.produce, session, 0, transactional=True)
        assert code is ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED

    def test_a_plain_batch_inside_a_transaction_is_refused(self, world: World) -> None:
        """P6."""
        session = world.init()
        world.produce(session, 0, transactional_id="x", version=TV2)
        assert refusal(world.produce, session, 1) is ErrorCode.INVALID_TXN_STATE

    @pytest.mark.parametrize(("version", "code"), [(9, 48), (10, 48), (11, 120)])
    def test_tv1_needs_the_partition_in_the_current_transaction(self, world: World, version: int, code: int) -> None:
        """P7: 120 from Produce 11, 48 below; an earlier transaction of the same epoch does not count."""
        session = world.init()
        assert refusal(world.produce, session, 0, transactional_id="x", version=version) == code
        world.add(session)
        world.produce(session, 0, transactional_id="x", version=version)
        world.end(session, commit=True)
        assert refusal(world.produce, session, 1, transactional_id="x", version=version) == code

    def test_tv2_adds_the_partition_in_the_same_entry(self, world: World) -> None:
        """P7."""
        session = world.init()
        entries = len(world.journal)
        world.produce(session, 0, transactional_id="x", version=TV2)
        assert len(world.journal) == entries + 1
        assert world.state.transactions["x"].logs == (world.log().id,)
        world.produce(session, 1, transactional_id="x", version=TV2)
        assert world.state.transactions["x"].logs == (world.log().id,)

    def test_another_producer_id_is_refused(self, world: World) -> None:
        """P7, T4: 49 for another producer id, 47 for an older epoch."""
        session = world.init()
        other = Session(ProducerId(session.producer_id + 1), Epoch(0))
        code = refusal(world.produce, other, 0, transactional_id="x", version=TV2)
        assert code is ErrorCode.INVALID_PRODUCER_ID_MAPPING
        world.init()
        code = refusal(world.produce, session, 0, transactional_id="x", version=TV2)
        assert code is ErrorCode.INVALID_PRODUCER_EPOCH

    def test_what_the_reply_waits_for(self, world: World) -> None:
        """D2: written inside a transaction, synced outside; P9: whatever acks says, it is not an argument."""
        session = world.init()
        levels = []
        for transactional in (False, True):
            data = client_batch(session, 0, transactional=transactional)
            decision = decide_append(
                world.state,
                world.log(),
                check_batch(data, bytes_max=1_000),
                data,
                transactional_id="x" if transactional else None,
                version=TV2,
                now_ms=world.now_ms,
            )
            levels.append(decision.level)
        assert levels == [Level.SYNCED, Level.WRITTEN]


class TestMarkers:
    def test_a_marker_fences_where_nothing_is_open(self, world: World) -> None:
        """T8: it raises the stored epoch; neither the stable offset's order nor the aborted list knows of it."""
        log = world.log()
        world.apply(decide_marker(log, A, commit=False, coordinator_epoch=0, now_ms=world.now_ms))
        older = Session(A.producer_id, Epoch(A.epoch - 1))
        assert refusal(world.produce, older, 0) is ErrorCode.INVALID_PRODUCER_EPOCH
        assert (log.stable_offset, log.aborted) == (1, [])
        assert markers(world) == [(0, A.epoch, False)]

    def test_a_marker_fences_where_the_producer_has_written(self, world: World) -> None:
        """T8: a late batch of the old epoch is refused by the partition itself."""
        world.produce(A, 0)
        newer = Session(A.producer_id, Epoch(A.epoch + 1))
        world.apply(decide_marker(world.log(), newer, commit=False, coordinator_epoch=0, now_ms=world.now_ms))
        assert refusal(world.produce, A, 1) is ErrorCode.INVALID_PRODUCER_EPOCH
        assert world.produce(newer, 0).offset_base == 2

    def test_a_marker_of_an_older_epoch_is_refused(self, world: World) -> None:
        """T8."""
        log = world.log()
        world.produce(A, 0)
        older = Session(A.producer_id, Epoch(A.epoch - 1))
        with pytest.raises(Refusal, match="INVALID_PRODUCER_EPOCH"):
            decide_marker(log, older, commit=False, coordinator_epoch=0, now_ms=world.now_ms)

    def test_the_end_of_a_transaction_does_not_take_back_what_a_marker_fenced(self, world: World) -> None:
        """T8: an operator's marker raises the epoch before a transaction of an older one comes and ends."""
        session = world.init()
        newer = Session(session.producer_id, Epoch(session.epoch + 3))
        world.apply(decide_marker(world.log(), newer, commit=False, coordinator_epoch=0, now_ms=world.now_ms))
        world.add(session)
        assert refusal(world.produce, session, 0, transactional_id="x") is ErrorCode.INVALID_PRODUCER_EPOCH
        world.end(session, commit=False)
        assert world.log().producers[session.producer_id].epoch == newer.epoch
        world.add(session)
        assert refusal(world.produce, session, 0, transactional_id="x") is ErrorCode.INVALID_PRODUCER_EPOCH

    def test_a_marker_keeps_the_window_of_its_own_epoch(self, world: World) -> None:
        """P1, T8: under TV1 the sequence goes on over many transactions."""
        session = world.init()
        world.add(session)
        world.produce(session, 0, 3, transactional_id="x")
        world.end(session, commit=True)
        world.add(session)
        assert world.produce(session, 0, 3, transactional_id="x").offset_base == 0
        assert world.produce(session, 3, transactional_id="x").offset_base == 4


class TestSettings:
    def test_timestamps_too_far_ahead_or_behind(self, world: World) -> None:
        """message.timestamp.after.max.ms and before.max.ms."""
        log = world.log()
        log.settings = log.settings._replace(timestamp_after_ms_max=1_000, timestamp_before_ms_max=2_000)
        world.produce(timestamp_ms=world.now_ms + 1_000)
        world.produce(timestamp_ms=world.now_ms - 2_000)
        assert refusal(world.produce, timestamp_ms=world.now_ms + 1_001) is ErrorCode.INVALID_TIMESTAMP
        assert refusal(world.produce, timestamp_ms=world.now_ms - 2_001) is ErrorCode.INVALID_TIMESTAMP

    def test_zstd_needs_version_7(self, world: World) -> None:
        """KIP-110."""
        assert refusal(world.produce, version=6, attributes=4) is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        world.produce(version=7, attributes=4)

    def test_log_append_time_is_in_the_stored_batch(self, world: World) -> None:
        """message.timestamp.type: the attribute, the time and the CRC are made anew."""
        log = world.log()
        log.settings = log.settings._replace(is_log_append_time=True)
        world.produce(NOBODY, count=3)
        data = world.journal[-1][1][0].data
        header = check_batch(data, bytes_max=1_000)
        assert (header.timestamp_max, header.attributes & 8, header.base_offset) == (world.now_ms, 8, 0)
        assert log.timestamp_max == world.now_ms

    def test_log_append_time_is_the_machines_time(self, world: World) -> None:
        """Deadlines go by a clock that never jumps; what records carry is the time that everybody else has."""
        log = world.log()
        log.settings = log.settings._replace(is_log_append_time=True)
        data = client_batch(count=1)
        decision = decide_append(
            world.state, log, check_batch(data, bytes_max=1_000), data,
            transactional_id=None, version=9, now_ms=world.now_ms, wall_ms=world.now_ms - 3_600_000,
        )  # fmt: skip
        assert decision.reply.append_time_ms == world.now_ms - 3_600_000


def test_offsets_follow_each_other_and_bytes_stay(world: World) -> None:
    """D2: the stored batch is the client's but for the base offset and the leader epoch."""
    data = client_batch(count=3)
    world.produce(count=3)
    world.produce(count=2)
    stored = [batch.data for _, batches, _ in world.journal for batch in batches]
    assert [read_header(batch).base_offset for batch in stored] == [0, 3]
    assert stored[0][16:] == data[16:]
    assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())
