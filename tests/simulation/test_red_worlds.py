"""Checkers seen red in a world, from the wire to the violation, whatever the breakages of tests/mutants may show.

Each row breaks the broker, its disk or a client in one place while a world runs. tests/simulation/test_checkers.py shows the
same checkers made-up histories. What ``EXACT`` breaks wakes one checker and no other: who changes one of these sees which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
from crc32c import crc32c
from tests.simulation.admins import Admin
from tests.simulation.checkers import Violation
from tests.simulation.disk import FileDisk
from tests.simulation.producers import Forgetful, Producing
from tests.simulation.reading import Copier
from tests.simulation.trespassing import Trespasser
from tests.simulation.world import World
from tests.support.batches import batches

from oncelog.broker import fetching
from oncelog.broker.apis import produce
from oncelog.broker.lane import Lane
from oncelog.engine import compaction, partitions, retention, transactions
from oncelog.engine.compaction import Sweep
from oncelog.engine.connections import Connections
from oncelog.engine.decision import Append, Decision, Visible, Written
from oncelog.engine.groups.offsets import GroupOffsets
from oncelog.engine.state import Log, State
from oncelog.model import rewriting
from oncelog.model.batch import control_batch, control_header, stamp
from oncelog.model.errors import DamagedRecords, ErrorCode, Refusal, StorageError
from oncelog.model.header import BatchHeader
from oncelog.model.ids import LogId
from oncelog.model.rows import TransactionState
from oncelog.storage.files import FileStorage

SEEDS = range(1, 25)
Patch = pytest.MonkeyPatch


def leave_the_rest(patch: Patch) -> None:
    """Copiers say that they are done while there is more."""
    patch.setattr(Copier, "is_over", lambda copier: True)


def fail_to_stop(patch: Patch) -> None:
    def close(storage: FileStorage) -> None:
        raise StorageError("no reason")

    patch.setattr(FileStorage, "close", close)


def fail_to_start(patch: Patch) -> None:
    """The first start is well."""
    opening, opened = FileStorage.open, []

    def open_once(storage: FileStorage) -> Any:
        opened.append(storage)
        if len(opened) > 1:
            raise StorageError("no reason")
        return opening(storage)

    patch.setattr(FileStorage, "open", open_once)


def send_in_secret(patch: Patch) -> None:
    """Who asks for no acknowledgement does not say what it sends."""
    making = Forgetful.piece

    def piece(actor: Forgetful, place: Any, names: Any, transaction: Any) -> Any:
        made = making(actor, place, names, transaction)
        for name in names:
            del actor.world.history.values[name]
        return made

    patch.setattr(Forgetful, "piece", piece)


def turn_the_aborted_list(patch: Patch) -> None:
    between = fetching.aborted_between
    patch.setattr(fetching, "aborted_between", lambda *about: between(*about)[::-1])


def hide_a_commit(patch: Patch) -> None:
    """Whoever has written is on the list of the aborted."""
    patch.setattr(fetching, "first_aborted", lambda log, offset: -1)
    patch.setattr(
        fetching, "aborted_between", lambda log, offset, end: [(producer_id, offset) for producer_id in log.producers]
    )


def cry_wolf(patch: Patch) -> None:
    """Readers are told of damage that there is not."""
    reading = FileStorage.read

    def read(storage: Any, log: Any, offset: int, **about: Any) -> Any:
        if offset % 5 == 2:
            raise DamagedRecords("nothing is damaged", 0, 1)
        return reading(storage, log, offset, **about)

    patch.setattr(FileStorage, "read", read)
    patch.setattr(FileDisk, "reads_damaged", 0)


def call_everybody_late(patch: Patch) -> None:
    """Also who comes by the newest connection."""
    noting = Connections.note

    def note(connections: Connections, producer_id: Any, epoch: Any, role: Any, connection: int) -> None:
        noting(connections, producer_id, epoch, role, connection + 1)

    patch.setattr(Connections, "note", note)


def fence_for_nothing(patch: Patch) -> None:
    checking, calls = partitions.check_current, count()

    def check(*about: Any, code_fenced: ErrorCode) -> Any:
        if next(calls) % 50 == 49:
            raise Refusal(code_fenced, "for nothing")
        return checking(*about, code_fenced=code_fenced)

    patch.setattr(partitions, "check_current", check)


def fence_nobody(patch: Patch) -> None:
    """Any epoch will do, for transactions."""
    patch.setattr(transactions, "check_current", lambda transaction, *about, code_fenced: transaction)


def take_any_sequence(patch: Patch) -> None:
    patch.setattr(partitions, "check_sequence", lambda *about, **more: None)


def keep_trespassers_out(patch: Patch) -> None:
    """They would meet most breakages first."""
    patch.setattr(Trespasser, "run", lambda actor: (never for never in ()))


def write_twice(patch: Patch) -> None:
    """A repetition is written again."""
    take_any_sequence(patch)
    patch.setattr(partitions, "duplicate_of", lambda row, header: None)


def let_the_high_watermark_fall(patch: Patch) -> None:
    settling, calls = State.settle_visible, count()

    def settle(state: State, visible: Any) -> None:
        shown = list(visible)
        settling(state, shown)
        if next(calls) % 20 == 19:
            for each in shown:
                each.log.high_watermark = each.log.stable_offset = max(0, each.log.stable_offset - 1)

    patch.setattr(State, "settle_visible", settle)


def show_what_is_open(patch: Patch) -> None:
    patch.setattr(fetching, "offset_end", lambda log, is_committed: log.high_watermark)


def show_what_was_aborted(patch: Patch) -> None:
    patch.setattr(fetching, "aborted_between", lambda log, offset, end: [])


def forget_the_newest(patch: Patch) -> None:
    """Compaction keeps the oldest value of a key."""
    patch.setattr(Sweep, "_is_superseded", lambda sweep, header, record: sweep._newest.get(record.key) is not None)


def forget_tombstones(patch: Patch) -> None:
    """Compaction does not see them: they go, and what they have deleted stays."""
    reading = compaction.keyed_records

    def keyed_records(*about: Any) -> Any:
        return (record for record in reading(*about) if not record.is_tombstone)

    patch.setattr(compaction, "keyed_records", keyed_records)


def forget_a_row(patch: Patch) -> None:
    """Recovery leaves offsets out."""
    patch.setattr(State, "finish_recovery", lambda state: state.offsets.committed.clear())


def forget_before_time(patch: Patch) -> None:
    """Transactional ids go at the first look."""
    patch.setattr(retention, "_is_idle", lambda row, now_ms, expiration_ms: row.state is not TransactionState.ONGOING)


def unpack(patch: Patch) -> None:
    """What compaction writes again is not compressed any more."""
    packing = rewriting.packed
    patch.setattr(
        rewriting,
        "packed",
        lambda header, records: packing(header._replace(attributes=header.attributes & ~7), records),
    )
    patch.setattr(rewriting, "_compressed", lambda compression, records, before: records)


def miscount(patch: Patch) -> None:
    counting = FileStorage.bytes_retained
    patch.setattr(FileStorage, "bytes_retained", lambda storage, log: counting(storage, log) + 1)


# -- what wakes one checker alone ------------------------------------------------------------------------------------------


def write_for_zombies(patch: Patch) -> None:
    """A new batch of an old epoch is written, and aborted at once: no reader sees it. There are many zombies."""
    deciding = produce.decide_append
    written: set[tuple[LogId, int, int, int]] = set()

    def decide(state: State, log: Log, header: BatchHeader, data: Any, **about: Any) -> Decision:
        name = (log.id, header.producer_id, header.producer_epoch, header.base_sequence)
        try:
            decision = deciding(state, log, header, data, **about)
        except Refusal as no:
            is_old = no.code is ErrorCode.INVALID_PRODUCER_EPOCH and header.producer_id not in log.open
            if not is_old or name in written:
                raise
            first = Append(log.id, log.offset_next, header, stamp(data, log.offset_next))
            who: dict[str, Any] = {"producer_id": header.producer_id, "epoch": header.producer_epoch}
            who |= {"commit": False, "timestamp_ms": about["now_ms"]}
            marker = control_batch(first.offset_next, **who)
            end = Append(log.id, first.offset_next, control_header(**who), marker)
            decision = Decision((), (first, end), reply=Written(first.offset, -1))
        written.add(name)
        return decision

    patch.setattr(produce, "decide_append", decide)
    patch.setattr(World, "_draw_faults", lambda world: {world._double: 1})


def write_once_more(patch: Patch) -> None:
    """What is plain is written a second time, behind itself, in a topic that nobody copies."""
    deciding = produce.decide_append

    def decide(state: State, log: Log, header: BatchHeader, data: Any, **about: Any) -> Decision:
        decision = deciding(state, log, header, data, **about)
        if header.is_transactional or log.topic != "plain" or not decision.batches:
            return decision
        first = decision.batches[0]
        again = Append(log.id, first.offset_next, header, stamp(data, first.offset_next))
        return Decision((), (first, again), decision.level, decision.reply)

    patch.setattr(produce, "decide_append", decide)


def send_backwards(patch: Patch) -> None:
    """What a client has in flight is sent last first, and the broker takes any sequence."""
    take_any_sequence(patch)
    writing = Producing.write
    patch.setattr(Producing, "write", lambda actor, requests: writing(actor, requests[::-1]))


def call_what_has_ended_open(patch: Patch) -> None:
    """For who lists transactions; administrators do little else."""
    patch.setattr(Admin, "_list_offsets", Admin._look_at_transactions)
    patch.setitem(transactions._STATE_NAMES, TransactionState.COMPLETE_COMMIT, "Ongoing")


def show_one_partition_after_the_other(patch: Patch) -> None:
    """Of what one sync has made visible, the stable offsets of all partitions but the first come ten milliseconds later."""
    settling, syncing, lanes = State.settle_visible, Lane.synced, deque[Lane](maxlen=1)

    def synced(lane: Lane, position: Any) -> None:
        lanes.append(lane)
        syncing(lane, position)

    def come_later(log: Log, stable_offset: int) -> None:
        log.stable_offset = max(log.stable_offset, stable_offset)

    def settle(state: State, visible: Any) -> None:
        first, *others = visible
        settling(state, [first, *(each._replace(stable_offset=each.log.stable_offset) for each in others)])
        for each in others:
            lanes[0]._loop.call_later(0.01, partial(come_later, each.log, each.stable_offset))

    patch.setattr(Lane, "synced", synced)
    patch.setattr(State, "settle_visible", settle)


def stop_at_the_last_marker(patch: Patch) -> None:
    """The stable offset passes a marker only with what is written behind it; in partitions that nobody copies."""

    def visible_after(state: State, rows: Any, batches: Any) -> list[Visible]:
        return [
            shown._replace(stable_offset=min(shown.stable_offset, shown.high_watermark - 1))
            if shown.log.topic not in ("in", "mid") and shown.log.id in marked
            else shown
            for marked in [{batch.log for batch in batches if batch.header.is_control}]
            for shown in seeing(state, rows, batches)
        ]

    seeing = State.visible_after
    patch.setattr(State, "visible_after", visible_after)


def keep_offsets_at_an_abort(patch: Patch) -> None:
    ending = GroupOffsets.end_of_transaction
    patch.setattr(GroupOffsets, "end_of_transaction", lambda *about, commit: ending(*about, commit=True))


def show_something_else(patch: Patch) -> None:
    """Who reads uncommitted records gets one bit of them turned, under a right CRC; not from a partition's start."""
    reading = fetching.Fetching._read_partition

    def read(self: Any, wanted: Any, bounds: Any, is_committed: bool, bytes_left: int) -> Any:
        part = reading(self, wanted, bounds, is_committed, bytes_left)
        if is_committed or not part.records or wanted.offset == wanted.log.offset_start:
            return part
        found = batches(bytes(part.records[0]))
        if len(found) > 1 or found[0].is_control or wanted.log.settings.is_compacted:
            return part
        other = bytearray(found[0].data)
        other[-2] ^= 1  # the last of the last value; behind it is the count of headers
        other[17:21] = crc32c(bytes(other[21:])).to_bytes(4, "big")
        return part._replace(records=[bytes(other), *part.records[1:]])

    patch.setattr(fetching.Fetching, "_read_partition", read)


EXACT: dict[str, Callable[[Patch], None]] = {
    "zombie write": write_for_zombies,
    "twice": write_once_more,
    "out of order": send_backwards,
    "phantom transaction": call_what_has_ended_open,
    "torn transaction": show_one_partition_after_the_other,
    "stuck": stop_at_the_last_marker,
    "offset and output apart": keep_offsets_at_an_abort,
    "read before commit or taken back": show_something_else,
}
RED: dict[str, Callable[[Patch], None]] = {
    "left behind": leave_the_rest,
    "no stop": fail_to_stop,
    "no start": fail_to_start,
    "invented": send_in_secret,
    "shut out": call_everybody_late,
    "fenced": fence_for_nothing,
    "zombie served": fence_nobody,
    "moved": write_twice,
    "went back": let_the_high_watermark_fall,
    "read before commit": show_what_is_open,
    "aborted read": show_what_was_aborted,
    "lost": forget_the_newest,
    "came back": forget_tombstones,
    "aborted list unsorted": turn_the_aborted_list,
    "skipped": hide_a_commit,
    "damaged": cry_wolf,
    "live is not replayed": forget_a_row,
    "gap": miscount,
    "forgotten": forget_before_time,
    "packed otherwise": unpack,
    "let in": take_any_sequence,
}


def found_in(seed: int) -> str:
    """The kind of the violation in one world; empty if there is none."""
    try:
        World(seed, steps=2_000).run()
    except AssertionError as found:
        return found.kind if isinstance(found, Violation) else "assertion"
    return ""


@pytest.mark.parametrize("kind", RED)
def test_a_checker_is_red_in_a_world(kind: str, monkeypatch: Patch) -> None:
    RED[kind](monkeypatch)
    if kind != "let in":
        keep_trespassers_out(monkeypatch)
    assert any(found_in(seed) == kind for seed in SEEDS)


@pytest.mark.parametrize("kind", EXACT)
def test_only_this_checker_is_red(kind: str, monkeypatch: Patch) -> None:
    """The first world in which anything is found."""
    EXACT[kind](monkeypatch)
    keep_trespassers_out(monkeypatch)
    assert next(filter(None, map(found_in, SEEDS)), "") == kind
