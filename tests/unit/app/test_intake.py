"""What a worker takes from the intake, without any broker: the consumer is not started."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from oncelog.app import Record
from oncelog.app.errors import Undone
from oncelog.app.exchange import Fences, offsets_after
from oncelog.app.intake import GroupPositions, Intake, Place
from oncelog.app.settings import Cluster, Limits

PLACE = ("t", 0)


def record(offset: int) -> Record[bytes | None, bytes | None]:
    return Record(*PLACE, offset, None, b"value")


class AtZero(GroupPositions):
    """Kept offsets that need no broker."""

    def taken(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        del consumer, halt
        return dict.fromkeys(places, 0)


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
    taken, assignments = intake.take(3, 0.0, threading.Event())
    assert [each.offset for each in taken] == [0, 1, 2]
    assert assignments == {PLACE: 1}
    intake.put_back(taken[1:], assignments)
    assert [each.offset for each in intake._buffer] == [1, 2, 3, 4]


def test_nothing_is_put_back_under_a_later_assignment(intake: Intake) -> None:
    intake._buffer[:] = [record(0), record(1)]
    taken, assignments = intake.take(2, 0.0, threading.Event())
    intake._owned[PLACE] = 2
    intake._buffer[:] = [record(0)]  # read anew
    intake.put_back(taken, assignments)
    assert [each.offset for each in intake._buffer] == [0]


def test_a_buffer_that_empties_while_it_fills_is_not_the_end(intake: Intake) -> None:
    """A rebalance takes all that was there away while the worker waits for more: it waits on, and does not stop."""
    intake._buffer[:] = [record(0)]
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
        taken, _ = taking.result(10)
        assert [each.offset for each in taken] == [5, 6]
        stop.set()
        assert intake.take(2, 30.0, stop) == ([], {})


def test_the_next_offset_is_that_after_the_last_record() -> None:
    other = Record("t", 1, 7, None, None)
    assert offsets_after([record(3), other, record(4)]) == {PLACE: 5, ("t", 1): 8}


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
