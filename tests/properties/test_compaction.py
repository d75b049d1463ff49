"""Compaction against a naive model: by each key's latest value, readers see what they would have seen (R1, R2).

The model keeps every batch for ever. Two clients read the compacted log as the broker gives it: one forgets aborted
producers as the Java client does, one as librdkafka does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cramjam
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.batches import batch, batches
from tests.unit.engine.world import World, everything

from oncelog.engine.compaction import Sweep, decide_compacted
from oncelog.engine.decision import Decision
from oncelog.engine.partitions import decide_append
from oncelog.engine.reading import aborted_between
from oncelog.engine.transactions import Session
from oncelog.model.batch import check_batch, control_outcome, packed, read_header
from oncelog.model.header import BatchHeader
from oncelog.model.records import Record, records
from oncelog.model.rows import LogStart

KEYS = (b"a", b"b", b"a key of more than fifteen bytes", b"")
TOMBSTONE_MS = 1_000
COMPRESS: dict[int, Callable[[bytes], Any]] = {
    0: bytes,
    1: cramjam.gzip.compress,
    2: cramjam.snappy.compress_raw,
    3: cramjam.lz4.compress,
    4: cramjam.zstd.compress,
}
Aborted = list[tuple[int, int]]
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


class Stored(NamedTuple):
    """A batch as the storage has it: it is found by all offsets from ``covered`` on."""

    covered: int
    offset_next: int
    data: bytes


def compressed(data: bytes, codec: int) -> bytes:
    header = read_header(data)
    return packed(header._replace(attributes=header.attributes | codec), bytes(COMPRESS[codec & 7](data[61:])))


def seen_by_java(found: Sequence[bytes], start: int, end: int, aborted: Aborted | None) -> list[Record]:
    waiting, bad, seen = sorted(aborted or (), key=lambda one: one[1]), set(), []
    for data, header in within(found, start, end):
        while waiting and waiting[0][1] < header.offset_next:
            bad.add(waiting.pop(0)[0])
        if header.is_control:
            if not control_outcome(data):
                bad.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in bad):
            seen += [record for record in records(data) if record.offset >= start]
    return seen


def seen_by_librdkafka(found: Sequence[bytes], start: int, end: int, aborted: Aborted | None) -> list[Record]:
    firsts: dict[int, list[int]] = {}
    for producer_id, first in aborted or ():
        firsts.setdefault(producer_id, []).append(first)
    seen = []
    for data, header in within(found, start, end):
        waiting = firsts.get(header.producer_id, [])
        if header.is_control:
            if not control_outcome(data) and waiting and waiting[0] <= header.base_offset:
                waiting.pop(0)
        elif not (header.is_transactional and waiting and waiting[0] <= header.base_offset):
            seen += [record for record in records(data) if record.offset >= start]
    return seen


def within(found: Sequence[bytes], start: int, end: int) -> list[tuple[bytes, BatchHeader]]:
    headers = [(data, read_header(data)) for data in found]
    return [(data, header) for data, header in headers if header.offset_next > start and header.base_offset < end]


def latest(seen: Sequence[Record]) -> dict[bytes | None, Record]:
    found = {record.key: record for record in seen}
    return {key: record for key, record in found.items() if record.value is not None}


class CompactionAgainstModel(RuleBasedStateMachine):
    """Random producers, sweeps, deletions of old records; after each step both clients read from several offsets."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        configs = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONE_MS)}
        self.log = self.world.topic("t", 1, **configs)
        self.sessions = {name: self.world.init(name) for name in ("x", "y")}
        self.sequences = dict.fromkeys(self.sessions, 0)
        self.open: set[str] = set()
        self.original: list[bytes] = []
        self.stored: list[Stored] = []
        #: Producer, first offset and marker of all that were ever aborted.
        self.aborted: list[tuple[int, int, int]] = []
        #: By a tombstone's offset: when a sweep had gone over it.
        self.swept_ms: dict[int, int] = {}
        self.count = 0

    def taken(self) -> None:
        """What the last decision has appended goes into both lists."""
        for appended in self.world.journal[-1][1]:
            covered = self.stored[-1].offset_next if self.stored else appended.offset
            self.original.append(appended.data)
            self.stored.append(Stored(covered, appended.offset_next, appended.data))

    @rule(
        writer=st.sampled_from((None, "x", "y")),
        keys=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=4),
        codec=st.sampled_from(tuple(COMPRESS)),
        is_append_time=st.booleans(),
    )
    def produce(self, writer: str | None, keys: list[tuple[bytes, bool]], codec: int, is_append_time: bool) -> None:
        self.world.now_ms += 7
        values = [None if is_tombstone else b"%d" % (self.count + at) for at, (_, is_tombstone) in enumerate(keys)]
        self.count += len(keys)
        fields: dict[str, Any] = {}
        if writer is not None:
            session = self.sessions[writer]
            if writer not in self.open:
                self.world.add(session, self.log, transactional_id=writer)
                self.open.add(writer)
            fields = {"producer_id": session.producer_id, "epoch": session.epoch, "sequence": self.sequences[writer]}
            self.sequences[writer] += len(keys)
        plain = batch(
            values,
            keys=[key for key, _ in keys],
            timestamp_ms=self.world.now_ms,
            transactional=writer is not None,
            **fields,
        )
        data = compressed(plain, codec | (8 if is_append_time else 0)) if codec or is_append_time else plain
        header = check_batch(data, bytes_max=10_000)
        self.world.apply(
            decide_append(
                self.world.state, self.log, header, data, transactional_id=writer, version=9, now_ms=self.world.now_ms
            )
        )
        self.taken()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_commit=st.booleans())
    def end(self, data: st.DataObject, is_commit: bool) -> None:
        writer = data.draw(st.sampled_from(sorted(self.open)))
        session: Session = self.sessions[writer]
        first = self.log.open.get(session.producer_id)
        self.world.end(session, commit=is_commit, transactional_id=writer)
        self.open.discard(writer)
        self.taken()
        if not is_commit and first is not None:
            self.aborted.append((session.producer_id, first, self.log.offset_next - 1))

    @rule(by_ms=st.sampled_from((10, TOMBSTONE_MS // 2, TOMBSTONE_MS)))
    def wait(self, by_ms: int) -> None:
        self.world.now_ms += by_ms

    @rule(data=st.data(), keys_max=st.sampled_from((1, 3, 1_000)))
    def sweep(self, data: st.DataObject, keys_max: int) -> None:
        bound = min(self.log.stable_offset, self.log.high_watermark)
        ends = [one.offset_next for one in self.stored if self.log.offset_compacted < one.offset_next <= bound]
        if not ends:
            return
        end = data.draw(st.sampled_from((ends[-1], *ends)))
        now_ms = self.world.now_ms
        sweep = Sweep(self.log, end, keys_max=keys_max, now_ms=now_ms, certain_ms=now_ms, salt=b"salt")
        for one in self.stored:
            if one.offset_next > sweep.offset_first and (one.covered >= end or not sweep.look(one.data, lambda: None)):
                break
        assert self.log.offset_compacted < sweep.offset_end <= end
        kept: list[Stored] = []
        covered = self.stored[0].covered
        for one in self.stored:
            header = read_header(one.data)
            left = sweep.rewrite(memoryview(one.data), header.timestamp_max, lambda: None)
            if left is not None:
                assert read_header(left[0]).timestamp_max == left[1]
                kept.append(Stored(covered, one.offset_next, bytes(left[0])))
                covered = one.offset_next
        assert (sweep.bytes_before, sweep.bytes_after) == (
            sum(len(one.data) for one in self.stored),
            sum(len(one.data) for one in kept),
        )
        # Readers come when a part is installed, and when all is, before anybody has said how far it went.
        before = self.stored
        at = data.draw(st.integers(0, len(kept)))
        for installed in (kept[:at], kept):
            cut = installed[-1].offset_next if installed else -1
            self.stored = [*installed, *(one for one in before if one.offset_next > cut)]
            self.readers_see_what_they_would_have_seen()
        self.world.apply(decide_compacted(self.world.state, sweep))
        assert self.log.offset_compacted == sweep.offset_end
        for record in (record for one in self.original for record in records(one)):
            if record.offset < sweep.offset_end:
                self.swept_ms.setdefault(record.offset, now_ms)

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """DeleteRecords of a topic that is also deleted from: the log starts anywhere, in a gap too."""
        start = data.draw(st.integers(self.log.offset_start, max(self.log.offset_start, self.log.stable_offset // 3)))
        if start > self.log.offset_start:
            self.world.apply(Decision((LogStart(self.log.id, start),)))
            self.stored = [one for one in self.stored if one.offset_next > start]

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def readers_see_what_they_would_have_seen(self) -> None:
        if not self.original:
            return
        log, found = self.log, [one.data for one in self.stored]
        end, start = log.stable_offset, log.offset_start
        for begin in sorted({start, (start + end) // 2, max(start, end - 2)}):
            aborted = [(producer_id, first) for producer_id, first, marker in self.aborted if marker >= begin]
            naive = seen_by_java(self.original, begin, end, aborted)
            for read in (seen_by_java, seen_by_librdkafka):
                seen = read(found, begin, end, [*aborted_between(log, begin, end)])
                assert set(seen) <= set(naive)
                assert [record.offset for record in seen] == sorted(record.offset for record in seen)
                assert latest(seen) == latest(naive)
                self.check_tombstones(seen, naive)
            every = seen_by_java(found, begin, log.high_watermark, None)
            assert set(every) <= set(seen_by_java(self.original, begin, log.high_watermark, None))
            assert set(every) >= set(latest(naive).values())

    def check_tombstones(self, seen: Sequence[Record], naive: Sequence[Record]) -> None:
        for key, record in {record.key: record for record in naive}.items():
            if record.value is None and record not in seen:
                assert self.world.now_ms >= self.swept_ms[record.offset] + TOMBSTONE_MS, f"{key!r} is gone too early"

    @invariant()
    def what_is_open_or_new_is_as_it_was(self) -> None:
        start = max(self.log.offset_compacted, self.log.offset_start)
        new = [data for data, _ in within(self.original, start, 2**62)]
        assert [one.data for one in self.stored][len(self.stored) - len(new) :] == new

    @invariant()
    def the_log_ends_in_a_batch(self) -> None:
        ends = {one.offset_next for one in self.stored}
        for end in (self.log.stable_offset, self.log.high_watermark):
            assert end in ends or end <= self.log.offset_start

    @invariant()
    def batches_are_sound_and_say_who_wrote_them(self) -> None:
        original = {header.base_offset: header for _, header in within(self.original, 0, 2**62)}
        for one in batches(b"".join(stored.data for stored in self.stored)):
            before = original[one.base_offset]
            assert (one.producer_id, one.producer_epoch, one.base_sequence, one.offset_last, one.attributes & ~0x40) == (
                before.producer_id, before.producer_epoch, before.base_sequence, before.offset_next - 1, before.attributes
            )  # fmt: skip
            assert one.record_count == len(list(records(one.data)))

    @invariant()
    def a_restart_finds_the_same(self) -> None:
        assert everything(self.world.replayed()) == everything(self.world.state)
        assert everything(self.world.checkpointed()) == everything(self.world.state)


TestCompactionAgainstModel = CompactionAgainstModel.TestCase
TestCompactionAgainstModel.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=NO_SHRINKING,
)
