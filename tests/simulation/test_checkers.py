"""The checkers find each anomaly that is planted, and accuse nobody where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.simulation.checkers import (
    Bounds,
    FinalLog,
    Floors,
    Violation,
    Written,
    check_codecs,
    check_everything,
    check_nothing_left,
    compacted_log,
    final_log,
)
from tests.simulation.history import Copying, Fate, History, Place, key_of
from tests.support.batches import Codec, batch, batches

IN, OUT = ("in", 0), ("out", 0)


class Scene:
    """A small clean world: two inputs, one copied in a committed transaction, one aborted copy; everything read."""

    def __init__(self) -> None:
        self.history, self.floors = History(), Floors()
        history = self.history
        for offset, name in enumerate((b"a", b"b")):
            history.send(name, IN, "plain/1").offset = offset
        self.committed = history.begin("copy")
        history.send(b"a~0", OUT, "group/1", self.committed).offset = 0
        self.aborted = history.begin("copy")
        history.send(b"b~1", OUT, "group/1", self.aborted).offset = 2
        self.committed.fate, self.aborted.fate = Fate.COMMITTED, Fate.ABORTED
        history.copyings["group", IN] = Copying("group", IN)
        self.logs: dict[Place, FinalLog] = {
            IN: FinalLog(0, 2, [Written(0, b"a", None), Written(1, b"b", None)]),
            OUT: FinalLog(0, 4, [Written(0, b"a~0", Fate.COMMITTED), Written(2, b"b~1", Fate.ABORTED)]),
        }
        self.offsets = {("group", IN): 1}
        self.reader = history.stretch("reader", OUT, is_committed=True, start=0)
        self.reader.end, self.reader.seen = 4, [(0, b"a~0")]

    def found(self) -> list[str]:
        return [found.kind for found in check_everything(self.history, self.floors, self.logs, self.offsets)]

    def record(self, place: Place, at: int, **changes: object) -> None:
        self.logs[place].records[at] = self.logs[place].records[at]._replace(**changes)


def test_nobody_is_accused() -> None:
    assert Scene().found() == []


def lose_a_record(scene: Scene) -> None:
    del scene.logs[IN].records[1]


def lose_a_commit(scene: Scene) -> None:
    scene.record(OUT, 0, fate=Fate.ABORTED)
    scene.reader.seen = []
    scene.offsets["group", IN] = 0


def write_twice(scene: Scene) -> None:
    scene.logs[IN].records.append(Written(2, b"a", None))


def copy_twice(scene: Scene) -> None:
    again = scene.history.begin("copy")
    again.fate = Fate.COMMITTED
    scene.history.send(b"a~2", OUT, "group/2", again)
    scene.logs[OUT].records.append(Written(4, b"a~2", Fate.COMMITTED))


def count_what_was_aborted(scene: Scene) -> None:
    scene.record(OUT, 1, fate=Fate.COMMITTED)
    scene.reader.seen.append((2, b"b~1"))
    scene.offsets["group", IN] = 2


def show_what_was_aborted(scene: Scene) -> None:
    scene.reader.seen.append((2, b"b~1"))


def skip_a_record(scene: Scene) -> None:
    scene.reader.seen = []


def take_a_record_back(scene: Scene) -> None:
    stretch = scene.history.stretch("other", IN, is_committed=False, start=0)
    stretch.end, stretch.seen = 2, [(0, b"a"), (1, b"x")]


def tear(scene: Scene) -> None:
    scene.history.send(b"a2~0", IN, "group/1", scene.committed).offset = 2
    scene.logs[IN].records.append(Written(2, b"a2~0", Fate.ABORTED))
    scene.committed.fate = Fate.UNKNOWN


def let_a_zombie_write(scene: Scene) -> None:
    scene.history.values[b"b~1"].is_zombie = True


def leave_it_open(scene: Scene) -> None:
    scene.record(OUT, 1, fate=Fate.OPEN)


def move_the_offset_alone(scene: Scene) -> None:
    scene.offsets["group", IN] = 2


def forget_the_offset(scene: Scene) -> None:
    scene.offsets["group", IN] = 0


def turn_the_order(scene: Scene) -> None:
    scene.logs[IN].records[:] = [Written(0, b"b", None), Written(1, b"a", None)]
    for name, offset in ((b"a", 1), (b"b", 0)):
        scene.history.values[name].offset = offset


def show_one_partition_only(scene: Scene) -> None:
    """A reply after the commit's acknowledgement ends before it, and nobody else is open there."""
    scene.floors.committed(scene.committed)
    scene.floors.check(scene.floors.now([OUT]), OUT, Bounds(4, 0, 0))


PLANTED: dict[Callable[[Scene], None], str] = {
    lose_a_record: "lost",
    lose_a_commit: "lost",
    write_twice: "twice",
    copy_twice: "twice",
    count_what_was_aborted: "aborted read",
    show_what_was_aborted: "aborted read",
    skip_a_record: "skipped",
    take_a_record_back: "read before commit or taken back",
    tear: "torn transaction",
    let_a_zombie_write: "zombie write",
    leave_it_open: "stuck",
    move_the_offset_alone: "offset and output apart",
    forget_the_offset: "offset and output apart",
    turn_the_order: "out of order",
    show_one_partition_only: "torn transaction",
}


@pytest.mark.parametrize("plant", PLANTED, ids=[plant.__name__ for plant in PLANTED])
def test_what_is_planted_is_found(plant: Callable[[Scene], None]) -> None:
    scene = Scene()
    plant(scene)
    assert PLANTED[plant] in scene.found()


OLD = b"0"
NEW, DOOMED = [b"%d" % number for number in range(1, 1_000) if key_of(b"%d" % number) == key_of(OLD)][:2]
TABLE = ("table", 0)


class Compacted(Scene):
    """With a compacted partition: a value of a key, a newer one that is committed, and one of an aborted transaction; the
    first and the last are gone. A reader was there before they went.
    """

    def __init__(self) -> None:
        super().__init__()
        history = self.history
        history.compacted.add("table")
        for offset, (name, transaction) in enumerate(((OLD, None), (NEW, self.committed), (DOOMED, self.aborted))):
            history.send(name, TABLE, "group/1", transaction).offset = offset
        self.log = self.logs[TABLE] = FinalLog(0, 3, [Written(1, NEW, Fate.COMMITTED)], {key_of(NEW): 1})
        self.early = history.stretch("early", TABLE, is_committed=True, start=0)
        self.early.end, self.early.seen = 3, [(0, OLD), (1, NEW)]
        self.late = history.stretch("late", TABLE, is_committed=False, start=0)
        self.late.end, self.late.seen = 3, [(1, NEW), (2, DOOMED)]


def test_compaction_is_not_accused() -> None:
    assert Compacted().found() == []


def take_the_newest(scene: Compacted) -> None:
    scene.log.records, scene.log.newest = [], {}


def let_the_aborted_supersede(scene: Compacted) -> None:
    scene.log.records, scene.log.newest = [Written(2, DOOMED, Fate.ABORTED)], {}


def move_a_record(scene: Compacted) -> None:
    scene.log.records = [Written(2, NEW, Fate.COMMITTED)]


def count_the_aborted(scene: Compacted) -> None:
    scene.log.records.append(Written(2, DOOMED, Fate.COMMITTED))


def let_it_come_back(scene: Compacted) -> None:
    """The newest was a tombstone."""
    scene.history.values[NEW].is_tombstone = True
    scene.log.records, scene.log.newest = [Written(0, OLD, None)], {key_of(OLD): 0}


def show_the_aborted(scene: Compacted) -> None:
    scene.early.seen.append((2, DOOMED))


def hide_the_newest(scene: Compacted) -> None:
    scene.early.seen.remove((1, NEW))


def show_it_elsewhere(scene: Compacted) -> None:
    scene.early.seen[0] = (0, DOOMED)


def show_it_in_another_order(scene: Compacted) -> None:
    scene.early.seen.reverse()


def show_what_nobody_sent(scene: Compacted) -> None:
    scene.late.seen[1] = (2, b"nobody's")


def take_back_what_nothing_supersedes(scene: Compacted) -> None:
    scene.history.values[OLD].offset = -1
    scene.log.newest = {}


PLANTED_IN_COMPACTED: dict[Callable[[Compacted], None], str] = {
    take_the_newest: "lost",
    let_the_aborted_supersede: "lost",
    move_a_record: "moved",
    count_the_aborted: "aborted read",
    let_it_come_back: "came back",
    show_the_aborted: "aborted read",
    hide_the_newest: "skipped",
    show_it_elsewhere: "moved",
    show_it_in_another_order: "out of order",
    show_what_nobody_sent: "invented",
    take_back_what_nothing_supersedes: "read before commit or taken back",
}


@pytest.mark.parametrize("plant", PLANTED_IN_COMPACTED, ids=[plant.__name__ for plant in PLANTED_IN_COMPACTED])
def test_what_is_planted_in_a_compacted_partition_is_found(plant: Callable[[Compacted], None]) -> None:
    scene = Compacted()
    plant(scene)
    assert PLANTED_IN_COMPACTED[plant] in scene.found()


def test_the_newest_value_of_a_key_is_met_or_a_newer_one_may_be_there() -> None:
    scene = Compacted()
    floors, values = Floors(), scene.history.values
    floors.counts(values[NEW])
    floors.counts(values[OLD])
    known = floors.now([TABLE])[TABLE]
    floors.check_newest(known, scene.history, [(1, NEW)], 0, 3)
    floors.check_newest(known, scene.history, [], 2, 3)
    with pytest.raises(Violation, match="lost"):
        floors.check_newest(known, scene.history, [(0, OLD)], 0, 3)
    scene.aborted.fate = Fate.UNKNOWN
    floors.check_newest(known, scene.history, [], 0, 3)


def test_a_tombstone_may_go_where_they_do_and_what_it_has_deleted_goes_before() -> None:
    scene = Compacted()
    history, values = scene.history, scene.history.values
    values[NEW].is_tombstone = True
    scene.log.records, scene.log.newest = [], {}
    assert "lost" in scene.found()
    history.are_tombstones_fleeting = True
    scene.log.bury(history.tombstones(TABLE))
    scene.late.seen.remove((1, NEW))
    scene.early.seen.remove((1, NEW))
    assert scene.found() == []
    floors = Floors()
    floors.counts(values[NEW])
    known = floors.now([TABLE])[TABLE]
    floors.check_newest(known, history, [], 0, 3)
    floors.check_newest(known, history, [(0, OLD)], 0, 1)
    with pytest.raises(Violation, match="came back"):
        floors.check_newest(known, history, [(0, OLD)], 0, 3)


def test_what_counts_in_a_compacted_log_is_what_readers_of_committed_records_see() -> None:
    data = [
        batch([b"a"], keys=[b"k"], producer_id=1, epoch=0, sequence=0, transactional=True, timestamp_ms=1),
        batch([b"b"], keys=[b"k"], producer_id=1, epoch=0, sequence=1, transactional=True, timestamp_ms=1),
        batch([b""], keys=[b"\0\0\0\0"], producer_id=1, epoch=0, transactional=True, control=True, timestamp_ms=1),
        batch([b"p"], keys=[b"l"], timestamp_ms=1),
    ]
    stored = b"".join(at.to_bytes(8, "big") + each[8:] for at, each in enumerate(data))
    log = compacted_log(0, 4, batches(stored), {0, 3})
    assert log.records == [Written(0, b"a", Fate.COMMITTED), Written(1, b"b", Fate.ABORTED), Written(3, b"p", None)]
    assert log.newest == {b"k": 0, b"l": 3}


def test_who_has_come_to_its_end_has_left_nothing() -> None:
    scene = Scene()
    found = check_nothing_left(scene.history, scene.logs, scene.offsets)
    assert [one.kind for one in found] == ["left behind"]
    assert check_nothing_left(scene.history, scene.logs, {("group", IN): 2}) == []


def test_what_was_sent_again_too_late_may_be_there_twice() -> None:
    """P8: and nothing else. Its copies are as many."""
    scene = Scene()
    write_twice(scene)
    copy_twice(scene)
    scene.offsets["group", IN] = 3
    scene.history.send(b"b~3", OUT, "group/1", scene.committed)
    scene.logs[OUT].records.append(Written(5, b"b~3", Fate.COMMITTED))
    scene.reader.end, scene.reader.seen = 6, [(0, b"a~0"), (4, b"a~2"), (5, b"b~3")]
    value, lag_us = scene.history.values[b"a"], 0
    scene.history.lag_us = lambda: lag_us
    value.is_sent(1_000)
    value.is_sent(1_900)
    assert "twice" in scene.found()
    scene.history.forgotten_after_us = 1_000
    assert "twice" in scene.found()
    lag_us = 100
    assert scene.found() == []
    scene.offsets["group", IN] = 2
    assert scene.found() == ["twice"]


def test_what_comes_too_late_is_left_behind_by_nobody() -> None:
    scene = Scene()
    scene.offsets["group", IN] = 2
    write_twice(scene)
    assert [one.kind for one in check_nothing_left(scene.history, scene.logs, scene.offsets)] == ["left behind"]
    scene.history.forgotten_after_us = 1
    scene.history.values[b"a"].is_sent(1)
    scene.history.values[b"a"].is_sent(2)
    assert check_nothing_left(scene.history, scene.logs, scene.offsets) == []


def test_what_its_producer_has_compressed_stays_so() -> None:
    history = History()
    history.send(b"a", IN, "plain/1").codec = Codec.SNAPPY_XERIAL
    for codec in Codec:
        found = [one.kind for one in check_codecs(history, IN, batches(batch([b"a"], codec=codec)))]
        assert found == ([] if codec is Codec.SNAPPY_XERIAL else ["packed otherwise"])


def test_a_producer_is_idle_when_what_it_has_opened_is_over() -> None:
    history = History()
    assert not history.is_idle("x", 5)
    history.opened("x")
    assert not history.is_idle("x", 5)
    history.closed("x", 4)
    assert history.is_idle("x", 5)
    assert not history.is_idle("x", 3)


def test_what_was_shown_may_not_go_back() -> None:
    floors = Floors()
    floors.check(floors.now([IN]), IN, Bounds(5, 4, 1))
    for shown in (Bounds(4, 4, 1), Bounds(5, 3, 1), Bounds(5, 4, 0), Bounds(5, 6, 1)):
        with pytest.raises(Violation):
            floors.check(floors.now([IN]), IN, shown)


def test_a_reply_that_was_asked_for_before_may_show_less() -> None:
    floors = Floors()
    before = floors.now([IN])
    floors.check(before, IN, Bounds(5, 4, 1))
    floors.check(before, IN, Bounds(4, 3, 0))


def test_the_truth_comes_from_the_markers_alone() -> None:
    data = [
        batch([b"a"], producer_id=1, epoch=0, sequence=0, transactional=True, timestamp_ms=1),
        batch([b"b"], producer_id=2, epoch=0, sequence=0, transactional=True, timestamp_ms=1),
        batch([b"p"], timestamp_ms=1),
        batch([b""], keys=[b"\0\0\0\1"], producer_id=1, epoch=0, transactional=True, control=True, timestamp_ms=1),
        batch([b"c"], producer_id=1, epoch=0, sequence=1, transactional=True, timestamp_ms=1),
        batch([b""], keys=[b"\0\0\0\0"], producer_id=2, epoch=0, transactional=True, control=True, timestamp_ms=1),
    ]
    stored = b"".join(at.to_bytes(8, "big") + each[8:] for at, each in enumerate(data))
    assert final_log(0, 6, batches(stored)).records == [
        Written(0, b"a", Fate.COMMITTED),
        Written(1, b"b", Fate.ABORTED),
        Written(2, b"p", None),
        Written(4, b"c", Fate.OPEN),
    ]
