"""Checkers seen red in a world, from the wire to the violation, whatever the breakages of tests/mutants may show.

Each row breaks the broker, its disk or a client in one place while a world runs. tests/simulation/test_checkers.py shows the
same checkers made-up histories.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from tests.simulation.checkers import Violation
from tests.simulation.disk import FileDisk
from tests.simulation.producers import Forgetful
from tests.simulation.reading import Copier
from tests.simulation.world import World

from oncelog.broker import fetching
from oncelog.engine import partitions, transactions
from oncelog.engine.compaction import Sweep
from oncelog.engine.connections import Connections
from oncelog.engine.state import State
from oncelog.model.errors import DamagedRecords, ErrorCode, Refusal, StorageError
from oncelog.storage.files import FileStorage

SEEDS = range(1, 9)
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


def forget_a_row(patch: Patch) -> None:
    """Recovery leaves offsets out."""
    patch.setattr(State, "finish_recovery", lambda state: state.offsets.committed.clear())


def miscount(patch: Patch) -> None:
    counting = FileStorage.bytes_retained
    patch.setattr(FileStorage, "bytes_retained", lambda storage, log: counting(storage, log) + 1)


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
    "aborted list unsorted": turn_the_aborted_list,
    "skipped": hide_a_commit,
    "damaged": cry_wolf,
    "live is not replayed": forget_a_row,
    "gap": miscount,
}


@pytest.mark.parametrize("kind", RED)
def test_a_checker_is_red_in_a_world(kind: str, monkeypatch: Patch) -> None:
    RED[kind](monkeypatch)
    kinds: list[str] = []
    for seed in SEEDS:
        try:
            World(seed, steps=2_000).run()
        except AssertionError as found:
            kinds.append(found.kind if isinstance(found, Violation) else "assertion")
        if kind in kinds:
            break
    assert kind in kinds
