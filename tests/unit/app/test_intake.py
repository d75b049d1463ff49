"""What a worker takes from the intake, without any broker: the consumer is not started."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from oncelog.app import Record
from oncelog.app.errors import ConfigurationError, Halted, Undone
from oncelog.app.exchange import Fences
from oncelog.app.intake import NOTHING, GroupPositions, Intake, Place, offsets_after
from oncelog.app.settings import Cluster, Limits

PLACE = ("t", 0)


def record(offset: int) -> Record[bytes | None, bytes | None]:
    return Record(*PLACE, offset, None, b"value")


class AtZero(GroupPositions):
    """Kept offsets that need no broker."""

    def taken(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        del consumer, halt
        return dict.fromkeys(places, 0)

    of = taken


def member() -> Intake:
    settings = Cluster("127.0.0.1:1", {"log_level": 0}).for_consumer(client_id="c", group="g", instance="i")
    return Intake(settings, ["t"], Limits(), AtZero(), threading.Event())


@pytest.fixture
def intake() -> Iterator[Intake]:
    """A member that has one partition."""
    made = member()
    made._owned[PLACE] = 1
    yield made
    made._consumer.close()


def test_assignments_of_a_member_made_anew_have_new_numbers() -> None:
    """Or state of the member before would pass for state of now."""
    numbers = []
    for _ in range(2):
        made = member()
        made._assigned(made._consumer, [TopicPartition(*PLACE)])
        numbers.append(made._owned[PLACE])
        made._consumer.unassign()
        made._consumer.close()
    assert numbers[0] != numbers[1]


def test_what_is_taken_comes_with_its_assignment(intake: Intake) -> None:
    intake._buffer[:] = [record(number) for number in range(5)]
    taken, assignments, offsets = intake.take(3, 0.0, threading.Event())
    assert [each.offset for each in taken] == [0, 1, 2]
    assert assignments == {PLACE: 1}
    assert offsets == {PLACE: 3}
    intake.put_back(taken[1:], assignments)
    assert [each.offset for each in intake._buffer] == [1, 2, 3, 4]


def test_nothing_is_put_back_under_a_later_assignment(intake: Intake) -> None:
    intake._buffer[:] = [record(0), record(1)]
    taken, assignments, _ = intake.take(2, 0.0, threading.Event())
    intake._owned[PLACE] = 2
    intake._buffer[:] = [record(0)]  # read anew
    intake.put_back(taken, assignments)
    assert [each.offset for each in intake._buffer] == [0]


def test_a_buffer_that_empties_while_it_fills_is_not_the_end(intake: Intake) -> None:
    """A rebalance takes all that was there away while the worker waits for more: it waits on, and does not stop."""
    intake.put_back([record(0)], {PLACE: 1})
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(intake.take, 2, 30.0, stop)
        while not intake._wanted:
            wait([taking], 0.01)
        intake.drain()
        assert not wait([taking], 0.2).done, "the application would stop now"
        with intake._changed:
            intake._buffer[:] = [record(5), record(6)]
            intake._changed.notify_all()
        assert [each.offset for each in taking.result(10).records] == [5, 6]
        stop.set()
        assert intake.take(2, 30.0, stop) == NOTHING


@pytest.mark.parametrize(("seconds_ago", "is_over"), [(0.0, False), (30.0, True)])
def test_the_time_of_a_batch_begins_when_its_first_record_comes(
    intake: Intake, seconds_ago: float, is_over: bool
) -> None:
    """Though the worker still commits the batch before; else batches would be that much later, each time."""
    stop = threading.Event()
    intake.put_back([record(0)], {PLACE: 1})
    intake._first_at -= seconds_ago
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(intake.take, 2, 20.0, stop)
        has_ended = bool(wait([taking], 5.0 if is_over else 0.2).done)
        stop.set()
    assert has_ended == is_over


class Moments:
    """In place of the intake's condition and its clock: time passes where the worker waits, and brings what is due then."""

    def __init__(self, intake: Intake) -> None:
        self.now = 100.0
        self._intake = intake
        self._due: deque[tuple[float, list[int], bool]] = deque()
        self._is_notified = False

    def brings(self, at: float, *offsets: int, is_all: bool) -> None:
        """Records that the client has ready at that time; whether these are all."""
        self._due.append((100.0 + at, list(offsets), is_all))

    def monotonic(self) -> float:
        return self.now

    def notify_all(self) -> None:
        self._is_notified = True

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        until, self._is_notified = self.now + seconds, False
        while not self._is_notified and self._due and self._due[0][0] <= until:
            at, offsets, is_all = self._due.popleft()
            self.now = max(at, self.now)
            self._intake._is_drained = is_all
            self._intake._fill([Message(*PLACE, offset=offset, value=b"value", error=None) for offset in offsets])
        if not self._is_notified:
            self.now = until

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def moments(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> Moments:
    made = Moments(intake)
    monkeypatch.setattr(intake, "_changed", made)
    monkeypatch.setattr("oncelog.app.intake.time", made)
    return made


def taken_at(intake: Intake, moments: Moments, early_at: float, records_max: int = 100) -> tuple[float, list[int]]:
    """When a batch of 0.1 s at most ended, and what it has."""
    taken = intake.take(records_max, 0.1, threading.Event(), 100.0 + early_at)
    return round(moments.now - 100.0, 6), [each.offset for each in taken.records]


def test_where_nothing_more_is_at_hand_the_interval_is_not_waited_for(intake: Intake, moments: Moments) -> None:
    moments.brings(0.013, 0, 1, is_all=True)
    moments.brings(0.014, 2, is_all=True)
    assert taken_at(intake, moments, -5.0) == (0.013, [0, 1])
    assert taken_at(intake, moments, -5.0) == (0.014, [2])


def test_a_batch_does_not_end_earlier_than_commits_are_cheap(intake: Intake, moments: Moments) -> None:
    for number in range(20):
        moments.brings(0.002 * number, number, is_all=True)
    assert taken_at(intake, moments, 0.0271, 1000) == (0.0271, list(range(14)))


def test_while_more_is_at_hand_nothing_ends_early(intake: Intake, moments: Moments) -> None:
    """Until the client has no more: the worker learns of that at once."""
    for number in range(5):
        moments.brings(0.01 + 0.007 * number, number, is_all=number == 3)
    assert taken_at(intake, moments, 0.005) == (0.031, [0, 1, 2, 3])
    intake._buffer.clear()
    intake._is_drained = False
    moments.now = 100.0
    assert taken_at(intake, moments, 0.005)[1] == [4]
    assert moments.now - 100.0 == pytest.approx(0.138), "the interval, from the first record on"


def test_where_much_comes_nothing_ends_early(intake: Intake, moments: Moments) -> None:
    """More than a tenth of a full batch, and the client has no more only because the next reply is on its way."""
    moments.brings(0.013, *range(11), is_all=True)
    moments.brings(0.014, *range(11, 25), is_all=True)
    assert taken_at(intake, moments, -5.0) == (0.113, list(range(25)))


@pytest.mark.parametrize("early_at", [0.2, math.inf])
def test_no_record_waits_longer_than_the_interval(intake: Intake, moments: Moments, early_at: float) -> None:
    """Where commits are dear, and where nothing is to be early at all."""
    for number in range(100):
        moments.brings(0.01 + 0.007 * number, number, is_all=True)
    assert taken_at(intake, moments, early_at, 1000) == (0.11, list(range(15)))


@pytest.mark.parametrize(("ready", "is_drained"), [(None, True), (2, True), (3, False)])
def test_the_client_has_no_more_where_it_gave_less_than_was_asked_for(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, ready: int | None, is_drained: bool
) -> None:
    message = Message(*PLACE, offset=0, value=b"value", error=None)

    def consume(count: int, seconds: float) -> list[Message]:
        assert (count, seconds) == (3, 0)
        return [message] * (ready or 0)

    client = SimpleNamespace(poll=lambda _: None if ready is None else message, consume=consume)
    intake._is_drained = not is_drained
    with monkeypatch.context() as patched:
        patched.setattr("oncelog.app.intake._READY_MAX", 3)
        patched.setattr(intake, "_consumer", client)
        intake._polled()
    assert intake._is_drained == is_drained


def test_a_worker_with_records_at_hand_is_left_alone(intake: Intake) -> None:
    """Until it waits for brokers, or has settled."""
    for ends in (intake.read_ahead, intake.settle):
        intake._buffer[:] = [record(0)]
        assert intake._is_time_to_poll()
        intake.take(1, 0.0, threading.Event())
        assert not intake._is_time_to_poll()
        ends()
        assert intake._is_time_to_poll()


def test_a_worker_is_left_alone_for_a_moment_only(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its handler takes (mistake 11)."""
    monkeypatch.setattr("oncelog.app.intake._ALONE_SECONDS", 0.0)
    intake._buffer[:] = [record(0)]
    intake.take(1, 0.0, threading.Event())
    assert intake._is_time_to_poll()


@pytest.mark.parametrize("topic", [None, "t"])
def test_the_next_offset_is_that_after_the_last_record(topic: str | None) -> None:
    other = Record("t", 1, 7, None, None)
    assert offsets_after([record(3), other, record(4)], topic) == {PLACE: 5, ("t", 1): 8}


def test_two_fences_within_a_minute_are_too_many() -> None:
    fences = Fences()
    assert [fences.count(now) for now in (0.0, 61.0, 122.0, 181.0)] == [False, False, False, True]


class Failing:
    """A consumer with one message, whose next call fails: confluent-kafka runs callbacks in it, and raises what they raise."""

    def __init__(self, error: KafkaError) -> None:
        self._error = error

    def poll(self, seconds: float) -> Message:
        del seconds
        return Message(topic="t", partition=0, offset=0, value=b"value", error=None)

    def consume(self, count: int, seconds: float) -> list[Message]:
        raise KafkaException(self._error)


@pytest.mark.parametrize("is_fatal", [False, True])
def test_a_callback_that_fails_in_the_middle_makes_the_consumer_anew(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, is_fatal: bool
) -> None:
    """It ends this member, not the application."""
    real = intake._consumer
    monkeypatch.setattr(intake, "_consumer", Failing(KafkaError(KafkaError._STATE, "unassign", fatal=is_fatal)))
    with pytest.raises(Undone) as caught:
        intake._polled()
    assert caught.value.rejoin
    assert caught.value.fenced == is_fatal
    monkeypatch.setattr(intake, "_consumer", real)


class Losing:
    """A consumer with three messages; a partition is lost in the middle of its second call."""

    def __init__(self, intake: Intake, lost: int) -> None:
        self._intake = intake
        self._lost = lost

    def poll(self, seconds: float) -> Message:
        del seconds
        return Message(topic="t", partition=0, offset=0, value=b"value", error=None)

    def consume(self, count: int, seconds: float) -> list[Message]:
        del count, seconds
        self._intake._lost(cast(Consumer, self), [TopicPartition("t", self._lost)])
        return [Message(topic="t", partition=number, offset=5, value=b"value", error=None) for number in (0, 1)]

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        del partitions


@pytest.mark.parametrize(("lost", "kept"), [(0, [(1, 5)]), (1, [(0, 0), (0, 5)])])
def test_what_was_read_before_a_handover_is_not_kept(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, lost: int, kept: list[tuple[int, int]]
) -> None:
    intake._owned["t", 1] = 1
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Losing(intake, lost))
        intake._fill(intake._polled())
    assert [(each.partition, each.offset) for each in intake._buffer] == kept


class Rewinding:
    """A consumer of a log; in its second call a partition is revoked, whose batch is undone meanwhile: the member goes back.

    It answers with a record from before too: that the client drops those is not relied on.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._next = 100
        self._is_quiet = False

    def _message(self) -> Message:
        self._next += 1
        return Message(topic="t", partition=0, offset=self._next - 1, value=b"value", error=None)

    def poll(self, seconds: float) -> Message:
        del seconds
        return self._message()

    def consume(self, count: int, seconds: float) -> list[Message]:
        del count, seconds
        if self._is_quiet:
            return [self._message()]
        self._is_quiet = True
        before = self._message()
        for command in (self._intake._rewind, self._intake.settle):  # the worker's, while the partition waits
            self._intake._commands.append((command, Future()))
        self._intake._revoked(cast(Consumer, self), [TopicPartition("t", 1)])
        return [before, self._message()]

    def seek(self, target: TopicPartition) -> None:
        self._next = target.offset

    def consumer_group_metadata(self) -> bytes:
        return b""

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        del partitions


def test_what_was_read_before_a_rewind_is_not_kept(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a record would be processed before those that come again; their offsets would be committed over it, or under it."""
    intake._owned["t", 1] = 1
    intake._busy = frozenset(intake._owned)
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Rewinding(intake))
        for _ in range(2):
            intake._fill(intake._polled())
    assert [each.offset for each in intake._buffer] == [0, 1]


class Ending:
    """A consumer that is replaced by another member, and fails to hand over its partitions."""

    def subscribe(self, topics: list[str], **callbacks: object) -> None:
        del topics, callbacks

    def poll(self, seconds: float) -> Message:
        del seconds
        raise KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID, fatal=True))

    def close(self) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE, "unassign"))


def test_nothing_is_taken_from_a_member_that_has_ended(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    intake._buffer[:] = [record(0)]
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Ending())
        intake.open()
        intake._executor.shutdown()
    with pytest.raises(Undone):
        intake.take(1, 0.0, threading.Event())


class Refusing:
    """A consumer whose committed offset in one partition is an error."""

    def __init__(self, code: int) -> None:
        self._answer = SimpleNamespace(topic="t", partition=0, offset=-1001, error=KafkaError(code))
        self.asked = 0

    def committed(self, partitions: list[TopicPartition], seconds: float) -> list[SimpleNamespace]:
        del partitions, seconds
        self.asked += 1
        assert self.asked < 5, "asked on and on"
        return [self._answer]


def test_offsets_that_are_refused_end_the_application() -> None:
    client = Refusing(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(ConfigurationError, match="TOPIC_AUTHORIZATION_FAILED"):
        GroupPositions().of(cast(Consumer, client), [PLACE], threading.Event())


def test_who_waits_for_the_offset_of_one_partition_can_be_halted() -> None:
    halt = threading.Event()
    halt.set()
    client = Refusing(KafkaError.UNSTABLE_OFFSET_COMMIT)
    with pytest.raises(Halted):
        GroupPositions().of(cast(Consumer, client), [PLACE], halt)
    assert client.asked == 1


def test_what_waits_is_dropped_where_a_member_goes_back(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again from the kept offset: taken from the buffer too, it would count twice."""
    intake._fill([Message(topic="t", partition=0, offset=3, value=b"value", error=None)])
    assert len(intake._buffer) == 1
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Rewinding(intake))
        assert intake._rewind() == {PLACE: 0}
    assert not intake._buffer and not intake._buffer_bytes


class Elsewhere:
    """A consumer whose assignment is another than the member thinks: as real ones do, it neither seeks nor gives up."""

    def seek(self, target: TopicPartition) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG))

    def get_watermark_offsets(self, place: TopicPartition, seconds: float, *, cached: bool) -> tuple[int, int]:
        return 7, 9


def test_a_consumer_that_can_not_go_back_is_made_anew(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended here was the application, with the client's own words."""
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Elsewhere())
        with pytest.raises(Undone) as caught:
            intake._seek(PLACE, 3)
    assert caught.value.rejoin


def test_a_partition_that_is_gone_is_not_sought(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records were deleted unread; it was handed over by the call that told that."""
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_consumer", Elsewhere())
        intake._failed(KafkaError(KafkaError._AUTO_OFFSET_RESET), Message(topic="t", partition=5))
        with pytest.raises(Undone):
            intake._failed(KafkaError(KafkaError._AUTO_OFFSET_RESET), Message(topic=PLACE[0], partition=PLACE[1]))
