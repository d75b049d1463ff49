"""The engine against a naive model: what readers see, and the two laws (rules D1, P1-P3, R1, R2, T2, T5-T8, O1).

The model knows nothing of markers, epochs in logs or stable offsets: it keeps a list of records for each partition, each
with the transaction that wrote it, and what became of that transaction.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.engine.world import TV1, TV2, World, everything, refusal

from oncelog.engine import transactions
from oncelog.engine.catalog import DeleteUpTo, decide_delete_records
from oncelog.engine.decision import Decision
from oncelog.engine.reading import aborted_between, offset_end
from oncelog.engine.transactions import Session
from oncelog.model.batch import control_outcome
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import EPOCH_MAX, Epoch, ProducerId
from oncelog.model.rows import GroupOffset, PendingOffset, Producer, Transaction, TransactionState, WrittenBatch

PARTITIONS = 3
IDS = ("a", "b")
SEQUENCES = 2**31


@dataclass
class Outcome:
    """One transaction of the model."""

    fate: str = "open"
    offset: int | None = None
    #: The partitions that it has written to.
    indexes: set[int] = field(default_factory=set)


@dataclass
class Writer:
    """A transactional producer as its own client sees it."""

    id: str
    session: Session
    is_tv2: bool
    sequences: dict[int, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    last: tuple[int, int, int] | None = None


class EngineAgainstModel(RuleBasedStateMachine):
    """Random producers; after each step readers of both isolations are compared with the model."""

    @initialize(left=st.sampled_from((None, 0, 4)))
    def begin(self, left: int | None) -> None:
        """``left``: how many sequences the idempotent producer has before they begin again at 0; None: it is new."""
        self.world = World()
        self.world.topic("t", PARTITIONS)
        self.writers: dict[str, Writer] = {}
        self.records: list[list[tuple[int, Outcome | None]]] = [[] for _ in range(PARTITIONS)]
        self.starts = [0] * PARTITIONS
        #: By partition: below which epoch of each producer id nothing may be written any more (T8).
        self.fences: list[dict[ProducerId, int]] = [{} for _ in range(PARTITIONS)]
        self.committed: int | None = None
        self.idempotent = self.world.init(None)
        #: By partition: the idempotent producer's batches as (sequence, count, offset), and its next sequence.
        self.sent: list[list[tuple[int, int, int]]] = [[] for _ in range(PARTITIONS)]
        self.nexts = [0 if left is None else (SEQUENCES - left) % SEQUENCES] * PARTITIONS
        for index in range(PARTITIONS if left is not None else 0):
            last = SEQUENCES - left - 1
            window = (WrittenBatch(last, last, -1, -1),)
            row = Producer(self.world.log("t", index).id, *self.idempotent, window, -1, self.world.now_ms)
            self.world.apply(Decision((row,)))

    def other_than_open(self, writer: Writer, fate: str, *, is_bumped: bool = True) -> None:
        """What is open is over, with the epoch that it had or with the next one."""
        if writer.outcome is not None:
            writer.outcome.fate = fate
            for index in writer.outcome.indexes:
                self.fences[index][writer.session.producer_id] = writer.session.epoch + is_bumped
            if fate == "committed" and writer.outcome.offset is not None:
                self.committed = writer.outcome.offset
            writer.outcome = None

    @rule(name=st.sampled_from(IDS), is_tv2=st.booleans())
    def start(self, name: str, is_tv2: bool) -> None:
        """A new instance: what was open is aborted."""
        if name in self.writers:
            self.other_than_open(self.writers[name], "aborted")
        self.writers[name] = Writer(name, self.world.init(name), is_tv2)

    @rule(name=st.sampled_from(IDS), index=st.integers(0, PARTITIONS - 1), count=st.integers(1, 3))
    def write(self, name: str, index: int, count: int) -> None:
        writer = self.writers.get(name)
        if writer is None:
            return
        log = self.world.log("t", index)
        if not writer.is_tv2:
            self.world.add(writer.session, log, transactional_id=name)
        if writer.outcome is None:
            writer.outcome = Outcome()
        sequence = writer.sequences.get(index, 0)
        written = self.world.produce(
            writer.session, sequence, count, transactional_id=name, version=TV2 if writer.is_tv2 else TV1, log=log
        )
        writer.sequences[index] = sequence + count
        writer.last = (index, sequence, count)
        writer.outcome.indexes.add(index)
        self.fences[index][writer.session.producer_id] = writer.session.epoch
        self.records[index] += [(written.offset_base + delta, writer.outcome) for delta in range(count)]

    @rule(name=st.sampled_from(IDS))
    def write_again(self, name: str) -> None:
        """A retry of the last batch writes nothing (P1)."""
        writer = self.writers.get(name)
        if writer is None or writer.last is None or writer.outcome is None:
            return
        index, sequence, count = writer.last
        log = self.world.log("t", index)
        end = log.offset_next
        self.world.produce(
            writer.session, sequence, count, transactional_id=name, version=TV2 if writer.is_tv2 else TV1, log=log
        )
        assert log.offset_next == end

    @rule(index=st.integers(0, PARTITIONS - 1), count=st.integers(1, 3))
    def write_plainly(self, index: int, count: int) -> None:
        written = self.world.produce(count=count, log=self.world.log("t", index))
        self.records[index] += [(written.offset_base + delta, None) for delta in range(count)]

    @rule(index=st.integers(0, PARTITIONS - 1), counts=st.lists(st.integers(1, 3), min_size=1, max_size=5))
    def pipeline(self, index: int, counts: list[int]) -> None:
        """Some requests are under way at once, and all their answers are lost; the producer repeats them (P1, P3)."""
        log = self.world.log("t", index)
        for count in counts:
            sequence = self.nexts[index]
            offset = self.world.produce(self.idempotent, sequence, count, log=log).offset_base
            self.nexts[index] = (sequence + count) % SEQUENCES
            self.sent[index].append((sequence, count, offset))
            self.records[index] += [(offset + delta, None) for delta in range(count)]
        for back in range(len(counts), 0, -1):
            self.repeat(index, back)

    @rule(index=st.integers(0, PARTITIONS - 1), back=st.integers(1, 8))
    def repeat(self, index: int, back: int) -> None:
        """One of the newest five is answered with its offset, an older one is refused, and nothing is written (P1)."""
        if back > len(self.sent[index]):
            return
        sequence, count, offset = self.sent[index][-back]
        log, before = self.world.log("t", index), everything(self.world.state)
        if back <= 5:
            assert self.world.produce(self.idempotent, sequence, count, log=log).offset_base == offset
        else:
            code = refusal(self.world.produce, self.idempotent, sequence, count, log=log)
            assert code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert everything(self.world.state) == before

    @rule(index=st.integers(0, PARTITIONS - 1), count=st.integers(1, 3), off=st.sampled_from((-1, 1)))
    def write_out_of_order(self, index: int, count: int, off: int) -> None:
        """A batch that overlaps the one before, or leaves a gap (P1, P3)."""
        sequence = self.nexts[index] + off
        if not self.sent[index] or not 0 <= sequence < SEQUENCES or (sequence, count) == self.sent[index][-1][:2]:
            return
        log = self.world.log("t", index)
        code = refusal(self.world.produce, self.idempotent, sequence, count, log=log)
        assert code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    @rule(name=st.sampled_from(IDS), left=st.integers(0, 3))
    def grow_old(self, name: str, left: int) -> None:
        """Between two transactions: the producer has few epochs left (T2, T6)."""
        writer = self.writers.get(name)
        if writer is None or writer.outcome is not None or writer.session.epoch >= EPOCH_MAX - left:
            return
        row = self.world.state.transactions[name]
        epoch = Epoch(EPOCH_MAX - left)
        self.world.apply(
            Decision((Transaction(name, row.producer_id, epoch, row.timeout_ms, TransactionState.EMPTY, updated_ms=1),))
        )
        self.writers[name] = Writer(name, Session(row.producer_id, epoch), writer.is_tv2)

    @rule(name=st.sampled_from(IDS), offset=st.integers(0, 99))
    def move_offset(self, name: str, offset: int) -> None:
        writer = self.writers.get(name)
        if writer is None or any(other.outcome and other.outcome.offset for other in self.writers.values()):
            return
        self.world.add_group(writer.session, transactional_id=name)
        if writer.outcome is None:
            writer.outcome = Outcome()
        version = self.world.state.version + 1
        row = GroupOffset("g", "t", 0, offset, -1, "", self.world.now_ms, -1, version)
        self.world.apply(Decision((PendingOffset(writer.session.producer_id, row),)))
        writer.outcome.offset = offset

    @rule(name=st.sampled_from(IDS), commit=st.booleans(), times=st.integers(1, 2))
    def end(self, name: str, commit: bool, times: int) -> None:
        """The end, and its retry, which changes nothing (T5, T6)."""
        writer = self.writers.get(name)
        if writer is None or writer.outcome is None:
            return
        version = 5 if writer.is_tv2 else 3
        for _ in range(times):
            after = self.world.end(writer.session, commit=commit, transactional_id=name, version=version)
        if writer.is_tv2:
            writer.sequences = {}
            writer.last = None
        self.other_than_open(writer, "committed" if commit else "aborted", is_bumped=writer.is_tv2)
        writer.session = after

    @rule(name=st.sampled_from(IDS))
    def time_out(self, name: str) -> None:
        """The clock jumps: every open transaction is over (T7); then the producer goes on (D8)."""
        self.world.now_ms += 60_000
        for writer in self.writers.values():
            if self.world.time_out(writer.id):
                self.other_than_open(writer, "aborted")
                writer.session = self.world.init(writer.id, caller=writer.session)
                writer.sequences, writer.last = {}, None

    @rule(name=st.sampled_from(IDS))
    def operator_aborts(self, name: str) -> None:
        """T11: the whole transaction is aborted, and its producer is fenced until it starts anew."""
        writer = self.writers.get(name)
        if writer is None or writer.outcome is None:
            return
        self.world.apply(transactions.decide_operator_abort(self.world.state, name, self.world.now_ms))
        self.other_than_open(writer, "aborted")
        self.writers[name] = Writer(name, self.world.init(name), writer.is_tv2)

    @rule(index=st.integers(0, PARTITIONS - 1), share=st.floats(0, 1))
    def delete_records(self, index: int, share: float) -> None:
        """Up to anywhere before the high watermark, also into an open transaction, or into a batch."""
        self.delete_up_to(index, round(share * self.world.log("t", index).high_watermark))

    def delete_up_to(self, index: int, offset: int) -> None:
        decision = decide_delete_records(self.world.state, [DeleteUpTo("t", index, offset)])
        self.world.apply(decision)
        self.starts[index] = max(self.starts[index], offset)
        assert decision.reply == [(self.starts[index], ErrorCode.NONE)]

    @rule(from_checkpoint=st.booleans())
    def restart(self, from_checkpoint: bool) -> None:
        """In the middle of everything; what clients know stays true."""
        self.world.state = self.world.checkpointed() if from_checkpoint else self.world.replayed()

    @precondition(lambda self: len(self.writers) == len(IDS))
    @rule(
        names=st.permutations(IDS), index=st.integers(0, PARTITIONS - 1), into=st.integers(0, 6), commit=st.booleans()
    )
    def cut_into(self, names: list[str], index: int, into: int, commit: bool) -> None:
        """Two transactions take turns; records are deleted up to one of theirs, before the first one ends and after."""
        first = self.world.log("t", index).offset_next
        for name, count in ((names[0], 3), (names[1], 1), (names[0], 2)):
            self.write(name, index, count)
        self.delete_up_to(index, first + into)
        self.restart(True)
        self.readers_see_what_the_model_says()
        self.end(names[0], commit, 1)
        self.delete_up_to(index, first + 4)

    @precondition(lambda self: self.writers)
    @rule(name=st.sampled_from(IDS), index=st.integers(0, PARTITIONS - 1), back=st.integers(1, 3))
    def zombie_writes(self, name: str, index: int, back: int) -> None:
        """An older epoch never gets anything written, added or ended (T7, T8).

        What is not transactional is refused by the partition alone: where it has seen a newer epoch, if only a marker's. The
        zombie's batch is the one whose sequence would come next: an exact repetition of what is there is answered, and writes
        nothing (P1).
        """
        writer = self.writers.get(name)
        if writer is None or writer.session.epoch < back:
            return
        zombie = Session(writer.session.producer_id, Epoch(writer.session.epoch - back))
        before = everything(self.world.state)
        log = self.world.log("t", index)
        known = log.producers.get(zombie.producer_id)
        is_known = known is not None and known.epoch == zombie.epoch and known.window
        sequence = known.window[-1].sequence_last + 1 if known is not None and is_known else 0
        acts = [
            lambda: self.world.produce(zombie, sequence, transactional_id=name, version=TV2, log=log),
            lambda: self.world.add(zombie, log, transactional_id=name),
            lambda: self.world.end(zombie, commit=True, transactional_id=name, version=3),
        ]
        if zombie.epoch < self.fences[index].get(zombie.producer_id, -1):
            acts.append(lambda: self.world.produce(zombie, sequence, log=log))
        for act in acts:
            try:
                act()
            except Refusal:
                continue
            raise AssertionError("a zombie was let in")
        assert everything(self.world.state) == before

    @precondition(lambda self: self.writers)
    @rule(name=st.sampled_from(IDS), index=st.integers(0, PARTITIONS - 1), commit=st.booleans())
    def come_late(self, name: str, index: int, commit: bool) -> None:
        """A transaction ends, then comes a batch that was under way all the time."""
        self.write(name, index, 1)
        self.end(name, commit, 1)
        if name in self.writers:
            self.zombie_writes(name, index, 1)

    @invariant()
    def readers_see_what_the_model_says(self) -> None:
        for index, all_records in enumerate(getattr(self, "records", [])):
            records = [record for record in all_records if record[0] >= self.starts[index]]
            assert self.read(index, is_committed=False) == [offset for offset, _ in records]
            expected = []
            open_at = [offset for offset, outcome in all_records if outcome is not None and outcome.fate == "open"]
            for offset, outcome in records:
                if open_at and offset >= open_at[0]:
                    break
                if outcome is None or outcome.fate == "committed":
                    expected.append(offset)
            assert self.read(index, is_committed=True) == expected

    def read(self, index: int, *, is_committed: bool) -> list[int]:
        """What a consumer makes of the batches, the end and the aborted list, as Kafka's clients do."""
        log = self.world.log("t", index)
        end = offset_end(log, is_committed=is_committed)
        start = self.starts[index]
        assert log.offset_start == start
        if start >= end:
            return []
        aborted = aborted_between(log, start, end) if is_committed else []
        hidden: set[int] = set()
        seen: list[int] = []
        for _, batches, _ in self.world.journal:
            for batch in batches:
                if batch.log != log.id or batch.offset >= end or batch.offset_next <= start:
                    continue
                while aborted and aborted[0][1] <= batch.offset:
                    hidden.add(aborted.pop(0)[0])
                if batch.header.is_control:
                    if not control_outcome(batch.data):
                        hidden.discard(batch.header.producer_id)
                elif not (batch.header.is_transactional and batch.header.producer_id in hidden):
                    seen += range(max(batch.offset, start), batch.offset_next)
        return seen

    @invariant()
    def offsets_move_with_their_transaction(self) -> None:
        if not hasattr(self, "world"):
            return
        found = self.world.state.offsets.committed.get("g", {}).get(("t", 0))
        assert (None if found is None else found.offset) == self.committed

    def teardown(self) -> None:
        """Law 1: replayed or from a checkpoint, the state is the same; and deciding changes nothing."""
        if not hasattr(self, "world"):
            return
        live = everything(self.world.state)
        assert everything(self.world.replayed()) == live
        assert everything(self.world.checkpointed()) == live
        before = copy.deepcopy(live)
        for writer in self.writers.values():
            for version in (3, 5):
                try:
                    transactions.decide_end(
                        self.world.state, writer.id, writer.session, commit=True, version=version, now_ms=0
                    )
                except Refusal:
                    continue
        assert everything(self.world.state) == before


TestEngineAgainstModel = EngineAgainstModel.TestCase
TestEngineAgainstModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
