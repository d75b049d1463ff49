"""The consumer in a thread of its own: it polls always, buffers records, hands partitions over, and goes back after aborts.

Only this thread calls the consumer: confluent-kafka lets a second thread wait as long as one polls. The worker takes records,
and tells when what it took is settled. Kept here:

- however long a handler takes, polling goes on; when the buffer is full the partitions are paused (mistake 11). Only for a
  moment is a worker that computes left alone: two threads that compute wait for each other. The time to read ahead is when
  the worker waits for brokers;
- a partition that is revoked is given away when the batch that holds its records is settled, or after a budget; a lost
  one is gone at once (mistake 8);
- every position comes from where the offsets are kept: at an assignment and after every abort (mistake 6);
- group metadata is read at each rebalance, while the partitions are owned, and after every abort; it is handed out only for
  partitions that still are, and with a generation ≥ 0 (mistake 9). If it is old by then, the broker refuses it (O2). It is
  not read at each poll: the client asks another of its threads for it, and holds Python's lock meanwhile.
"""

from __future__ import annotations

import itertools
import logging
import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from oncelog.app.errors import ConfigurationError, Fate, Halted, Undone, fate_of
from oncelog.app.records import Raw, records_of
from oncelog.app.settings import Limits
from oncelog.app.transactions import STEP_SECONDS

log = logging.getLogger("oncelog.app")

Place = tuple[str, int]
"""A topic and the number of a partition."""

POLL_SECONDS: Final = 0.03
#: So long a worker with records at hand has Python's lock to itself, unless it waits for brokers before.
_ALONE_SECONDS: Final = 0.2
#: With a full buffer for this long, the partitions are paused; before, it is cheaper just to wait.
_FULL_SECONDS_MAX: Final = 1.0
_BUFFER_BYTES_MAX: Final = 64 * 1024 * 1024
#: Taken from the client at once. Each call waits for its turn with Python's lock; but messages of 1 KB that are more than this
#: leave the processor's caches before they are records, and many keep the garbage collector busy.
_READY_MAX: Final = 500
#: Assignments are numbered through the whole process: if a member made anew began at one again, state of before would pass for
#: state of now.
_NUMBERS: Final = itertools.count(1)
#: A batch that holds more than this part of what it may hold does not end early: where so much comes, the client has nothing
#: ready only because the next reply is on its way, and larger transactions are the cheaper ones.
_LITTLE: Final = 10
#: What the client writes before the generation in group metadata, and where a producer reads it.
_METADATA_MAGIC: Final = b"CGMDv2:"

Result = TypeVar("Result")


class Positions(Protocol):
    """Where the next offsets are kept: the group, or a sink's database."""

    def taken(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """The next offset of partitions that were just assigned; for one that was never read its oldest record's."""

    def of(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """The next offsets again, after something was undone."""


class Taken(NamedTuple):
    """Records for one batch; of each of their partitions, which assignment brought it, and the offset after all of them."""

    records: list[Raw]
    assignments: dict[Place, int]
    offsets: dict[Place, int]


NOTHING: Final = Taken([], {}, {})


def place_of(record: Raw) -> Place:
    """Where a record was."""
    return record.topic, record.partition


def offsets_after(processed: Sequence[Raw], topic: str | None = None) -> dict[Place, int]:
    """In each partition the offset after the last processed record (mistake 5). ``topic``: that of all, where it is known."""
    if topic is not None:
        numbers = {record.partition: record.offset for record in processed}
        return {(topic, partition): offset + 1 for partition, offset in numbers.items()}
    lasts = {(record.topic, record.partition): record.offset for record in processed}
    return {place: offset + 1 for place, offset in lasts.items()}


def generation_of(metadata: bytes) -> int:
    """The generation (or member epoch) in a client's group metadata; −1 outside the group."""
    assert metadata.startswith(_METADATA_MAGIC), "this librdkafka writes group metadata in an unknown form"
    (generation,) = struct.unpack_from("=i", metadata, len(_METADATA_MAGIC))
    return int(generation)


class GroupPositions:
    """The offsets that the group has committed, read when no transaction on them is pending (O4)."""

    def of(self, consumer: Consumer, places: Sequence[Place], halt: threading.Event) -> dict[Place, int]:
        """Waits as long as a transaction is pending or no broker answers, unless the application halts."""
        found: dict[Place, int] = {}
        while missing := [TopicPartition(*place) for place in places if place not in found]:
            error: KafkaError | None = None
            for answer in asked(partial(consumer.committed, missing, STEP_SECONDS), halt) or ():
                place = (answer.topic, answer.partition)
                if answer.error is not None:
                    error = answer.error
                elif answer.offset >= 0:
                    found[place] = answer.offset
                else:
                    found[place] = oldest(consumer, place, halt)
            if error is not None:
                pause_after(error, halt)
        return found

    taken = of


def oldest(consumer: Consumer, place: Place, halt: threading.Event) -> int:
    """The offset of a partition's oldest record."""
    while True:
        answer = asked(lambda: consumer.get_watermark_offsets(TopicPartition(*place), STEP_SECONDS, cached=False), halt)
        if answer is not None:
            return answer[0]


def asked(question: Callable[[], Result], halt: threading.Event) -> Result | None:
    """The broker's answer; None if there was none this time. ConfigurationError where no attempt helps."""
    try:
        return question()
    except KafkaException as failure:
        pause_after(failure.args[0], halt)
        return None


def pause_after(error: KafkaError, halt: threading.Event) -> None:
    """Before a broker is asked again. ConfigurationError where no attempt helps."""
    if fate_of(error) is Fate.STOP:
        raise ConfigurationError(f"the brokers refuse: {error.str()} ({error.name()})")
    log.debug("asked again: %s", error)
    if halt.wait(POLL_SECONDS):
        raise Halted("stopped while waiting for a broker")


class Intake:
    """One member of the group, from ``open`` to ``close``."""

    def __init__(
        self,
        settings: dict[str, Any],
        topics: Sequence[str],
        limits: Limits,
        positions: Positions,
        halt: threading.Event,
    ) -> None:
        self._topics = list(topics)
        #: The only one.
        self._topic = topics[0] if len(topics) == 1 and not topics[0].startswith("^") else None
        self._limits = limits
        self._positions = positions
        self._halt = halt
        self._fatal: KafkaError | None = None
        self._consumer = Consumer({**settings, "error_cb": self._told})
        self._changed = threading.Condition()
        #: Partitions owned, each with the number of the assignment that brought it.
        self._owned: dict[Place, int] = {}
        self._leaving: set[Place] = set()
        self._busy: frozenset[Place] = frozenset()
        self._buffer: list[Raw] = []
        self._buffer_bytes = 0
        #: When the first of what is in the buffer came, or was left there by the batch before.
        self._first_at = 0.0
        #: The client had no more ready when it was asked last.
        self._is_drained = False
        self._wanted = 0
        self._early_at = math.inf
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._metadata: bytes = self._consumer.consumer_group_metadata()
        self._is_closing = False
        self._full_since = 0.0
        self._alone_until = 0.0
        self._is_reassigned = False
        self._rewinds = 0
        self._paused: set[Place] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="oncelog intake")
        self._running: Future[None] | None = None

    # -- for the worker -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Joins the group."""
        self._running = self._executor.submit(self._run)

    def take(self, records_max: int, seconds_max: float, stop: threading.Event, early_at: float = math.inf) -> Taken:
        """Waits for a first record, then for ``records_max``, or ``seconds_max`` since it came; nothing when ``stop`` is set.

        It may have come while the batch before was committed, so batches follow each other at an even pace. From ``early_at``
        on no more is waited for than what the client has ready. The batch's partitions are kept until ``settle``. Raises what
        ended the thread.
        """
        with self._changed:
            self._early_at = early_at
            while not stop.is_set():
                self._await_some(records_max, seconds_max, stop)
                if self._buffer:  # what was there may have gone with its partition
                    return self._taken(records_max)
            return NOTHING

    def _await_some(self, records_max: int, seconds_max: float, stop: threading.Event) -> None:
        self._wanted = records_max
        while not self._buffer and not stop.is_set():
            self._raise_failure()
            self._changed.wait(POLL_SECONDS)
        deadline = self._first_at + seconds_max
        while 0 < len(self._buffer) < records_max and not (stop.is_set() or self._leaving):
            now = time.monotonic()
            if now >= deadline or self._is_early(now):
                break
            until = min(deadline, self._early_at) if now < self._early_at else deadline
            self._changed.wait(min(until - now, POLL_SECONDS))

    def _is_early(self, now: float) -> bool:
        """Whether a batch of what is here may end before its time."""
        is_little = len(self._buffer) <= max(1, self._wanted // _LITTLE)
        return is_little and self._is_drained and now >= self._early_at

    def _taken(self, records_max: int) -> Taken:
        taken, rest = self._buffer[:records_max], self._buffer[records_max:]
        # the fewer of the two are counted
        self._buffer_bytes = bytes_of(rest) if len(rest) < len(taken) else self._buffer_bytes - bytes_of(taken)
        self._buffer = rest
        self._first_at = time.monotonic()
        self._alone_until = self._first_at + _ALONE_SECONDS
        offsets = offsets_after(taken, self._topic)
        self._busy = frozenset(offsets)
        return Taken(taken, {place: self._owned[place] for place in offsets}, offsets)

    def put_back(self, records: Sequence[Raw], assignments: Mapping[Place, int]) -> None:
        """Taken but not processed: they come first again, where the assignment that brought them still lasts.

        A partition that was away meanwhile, and is here again, has been read anew from its kept offset.
        """
        with self._changed:
            stayed = {place for place, number in assignments.items() if self._owned.get(place) == number}
            kept = [record for record in records if place_of(record) in stayed - self._leaving]
            if not self._buffer:
                self._first_at = time.monotonic()
            self._buffer[:0] = kept
            self._buffer_bytes += bytes_of(kept)

    def read_ahead(self) -> None:
        """The worker has computed and waits for brokers now."""
        with self._changed:
            self._alone_until = 0.0
            self._changed.notify_all()

    def settle(self) -> None:
        """What was taken is committed, put back or to be read again: its partitions may go."""
        with self._changed:
            self._busy = frozenset()
            self._alone_until = 0.0
            self._changed.notify_all()

    def assignments(self, places: Iterable[Place]) -> dict[Place, int]:
        """Which assignment brought each partition; Undone if one is not owned any more."""
        with self._changed:
            missing = [place for place in places if place not in self._owned]
            if missing:
                raise Undone(f"partitions were handed over meanwhile: {missing}")
            return {place: self._owned[place] for place in places}

    def owned(self) -> dict[Place, int]:
        """All that this member has now."""
        with self._changed:
            self._raise_failure()
            return dict(self._owned)

    def drain(self) -> None:
        """Drops what was read; for a member that only waits for its turn."""
        with self._changed:
            self._purge(set(self._owned))
            self._changed.notify_all()

    def metadata(self, assignments: Mapping[Place, int]) -> bytes:
        """The member's own word for a transaction's offsets, valid while it owns these partitions."""
        with self._changed:
            if any(self._owned.get(place) != number for place, number in assignments.items()):
                raise Undone("partitions were handed over meanwhile")
            metadata = self._metadata
        if generation_of(metadata) < 0:
            raise Undone("this member is out of the group")
        return metadata

    def rewind(self) -> dict[Place, int]:
        """Goes back to the kept offsets in all owned partitions; the offsets."""
        return self._do(self._rewind)

    def commit(self, offsets: list[TopicPartition]) -> None:
        """Outside of any transaction; for the weaker deliveries and as a hint for lag tools. Raises KafkaException."""
        self._do(lambda: self._consumer.commit(offsets=offsets, asynchronous=False))

    @property
    def must_hurry(self) -> bool:
        """The group wants partitions back that a batch still holds."""
        return bool(self._leaving)

    def close(self) -> None:
        """Leaves; ends the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._executor.shutdown()

    def _do(self, command: Callable[[], Result]) -> Result:
        """Runs it between two polls, or while a partition waits to be handed over."""
        future: Future[Result] = Future()
        with self._changed:
            self._commands.append((command, future))
            self._changed.notify_all()
        while not future.done():
            with self._changed:
                self._raise_failure()
                self._changed.wait(POLL_SECONDS)
        return future.result()

    def _raise_failure(self) -> None:
        if self._running is not None and self._running.done():
            self._running.result()
            raise Undone("the consumer is closed", rejoin=True)

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            while not self._is_closing:
                self._do_commands()
                self._keep_bounded()
                if self._fatal is not None:
                    raise _replaced(self._fatal)
                if self._is_time_to_poll():
                    self._fill(self._polled())
        finally:
            with self._changed:
                self._is_closing = True
            self._leave()
            with self._changed:
                self._owned.clear()
                self._clear()
                self._changed.notify_all()

    def _is_time_to_poll(self) -> bool:
        """Not with a full buffer, nor while the worker is left alone: then a moment passes, or something happens."""
        with self._changed:
            if self._paused or (self._has_room() and time.monotonic() >= self._alone_until):
                return True
            if not self._commands:
                self._changed.wait(POLL_SECONDS)
            return False

    def _polled(self) -> Sequence[Message]:
        """What the client has ready: waits for a first message, then takes the others with it, in one call.

        Both calls run the callbacks of rebalances, so both may fail by them; and the first message may be of a partition that
        was handed over during the second. Where the second call has gone back, the first message is from before. So it goes
        back once more, now that nothing is on its way, and we need not know what the client has dropped by itself.
        """
        try:
            first = self._consumer.poll(POLL_SECONDS)
            if first is None:
                self._is_drained = True
                return ()
            if first.error() is not None:
                return (first,)
            place = (str(first.topic()), first.partition() or 0)
            number = self._owned.get(place)
            room = max(1, self._limits.batch_records - len(self._buffer))
            rewinds = self._rewinds
            wanted = min(room, _READY_MAX)
            rest = self._consumer.consume(wanted, 0)
            self._is_drained = len(rest) < wanted
            if self._rewinds != rewinds:
                self._rewind()
                return ()
            return [first, *rest] if self._owned.get(place) == number else rest
        except KafkaException as failure:
            error = failure.args[0]
            if error.fatal():
                raise _replaced(error) from failure
            raise Undone(f"the consumer is made anew: {error}", rejoin=True) from failure

    def _leave(self) -> None:
        try:
            self._consumer.close()
        except KafkaException as failure:
            log.debug("while leaving: %s", failure)  # of a callback; why this member ends is told already

    def _told(self, error: KafkaError) -> None:
        """By the client, while it polls. What is fatal ends this member; the rest passes."""
        log.debug("consumer: %s", error)
        if error.fatal():
            self._fatal = error

    def _read_metadata(self) -> None:
        metadata = self._consumer.consumer_group_metadata()
        with self._changed:
            self._metadata = metadata

    def _do_commands(self) -> None:
        while self._commands:
            command, future = self._commands.popleft()
            try:
                future.set_result(command())
            except (KafkaException, Undone, Halted, ConfigurationError) as failure:
                future.set_exception(failure)
            with self._changed:
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._buffer) < self._limits.batch_records and self._buffer_bytes < _BUFFER_BYTES_MAX

    def _keep_bounded(self) -> None:
        """Pauses what is owned when the worker is slow, so that polling can go on; resumes when there is room."""
        if self._has_room():
            self._full_since = 0.0
            if self._paused:
                self._consumer.resume([TopicPartition(*place) for place in self._paused if place in self._owned])
                self._paused.clear()
            return
        now = time.monotonic()
        self._full_since = self._full_since or now
        running = set(self._owned) - self._paused
        if running and now - self._full_since > _FULL_SECONDS_MAX:
            self._consumer.pause([TopicPartition(*place) for place in running])
            self._paused |= running

    def _fill(self, messages: Sequence[Message]) -> None:
        """Buffers what the client had ready; some of it may tell of errors."""
        sound = [message for message in messages if message.error() is None]
        if len(sound) < len(messages):
            for message in messages:
                error = message.error()
                if error is not None:
                    self._failed(error, message)
        records = records_of(sound, self._topic)
        with self._changed:
            if self._is_reassigned:  # by a callback in the middle of the calls that have brought these
                self._is_reassigned = False
                records = [record for record in records if place_of(record) in self._owned]
            is_first = not self._buffer
            if is_first:
                self._first_at = time.monotonic()
            self._buffer += records
            self._buffer_bytes += bytes_of(records)
            if is_first or len(self._buffer) >= self._wanted or self._is_early(time.monotonic()):
                self._changed.notify_all()

    def _failed(self, error: KafkaError, message: Message) -> None:
        """What the client tells instead of a record; most of it passes by itself."""
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            self._skip_what_is_gone((str(message.topic()), message.partition() or 0))
        elif code in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL) or error.fatal():
            raise _replaced(error)
        elif fate_of(error) is Fate.STOP:
            raise ConfigurationError(f"the brokers refuse: {error.str()} ({error.name()})")
        else:
            log.debug("consumer: %s", error)

    def _skip_what_is_gone(self, place: Place) -> None:
        """Records that nobody has read were deleted by retention; nothing can bring them back, so it is said aloud."""
        if place not in self._owned:
            return  # handed over by a callback of the call that told it: the next owner is told too
        offset = oldest(self._consumer, place, self._halt)
        log.error(
            "records-lost topic=%s partition=%d going on at offset=%d: retention deleted unread records", *place, offset
        )
        self._seek(place, offset)

    def _rewind(self) -> dict[Place, int]:
        self._rewinds += 1
        with self._changed:
            self._clear()
            places = sorted(set(self._owned) - self._leaving)
        self._read_metadata()
        offsets = self._positions.of(self._consumer, places, self._halt)
        for place, offset in offsets.items():
            self._seek(place, offset)
        return offsets

    def _seek(self, place: Place, offset: int) -> None:
        target = TopicPartition(*place, offset)
        try:
            self._consumer.seek(target)
        except KafkaException as failure:
            log.debug("assigned anew instead of sought: %s", failure)  # it has no position yet
            self._assign_anew(target)
            self._paused.discard(place)

    def _assign_anew(self, target: TopicPartition) -> None:
        try:
            self._consumer.incremental_unassign([TopicPartition(target.topic, target.partition)])
            self._consumer.incremental_assign([target])
        except KafkaException as failure:  # its assignment is not what we know: its successor begins at kept offsets
            raise Undone(f"the consumer is made anew: {failure.args[0]}", rejoin=True) from failure

    # -- rebalances, called by poll -----------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = [(partition.topic, partition.partition) for partition in partitions]
        offsets = self._positions.taken(consumer, places, self._halt) if places else {}
        targets = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        consumer.incremental_assign(targets)
        consumer.resume(targets)  # one that was paused when it was lost comes back paused: the client keeps that
        with self._changed:
            self._owned.update(dict.fromkeys(places, next(_NUMBERS)))
            self._is_reassigned = True
        self._read_metadata()
        log.info("assigned partitions=%s", offsets)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = {(partition.topic, partition.partition) for partition in partitions}
        deadline = time.monotonic() + self._limits.revoke_budget
        self._read_metadata()
        with self._changed:
            self._leaving |= places
            self._purge(places)
            self._changed.notify_all()
        while self._busy & places and time.monotonic() < deadline and not self._is_closing:
            self._do_commands()
            with self._changed:
                self._changed.wait(POLL_SECONDS)
        self._give_away(consumer, partitions, places)
        log.info("revoked partitions=%s", sorted(places))

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = {(partition.topic, partition.partition) for partition in partitions}
        self._give_away(consumer, partitions, places)
        log.warning("lost partitions=%s", sorted(places))

    def _give_away(self, consumer: Consumer, partitions: list[TopicPartition], places: set[Place]) -> None:
        with self._changed:
            for place in places:
                self._owned.pop(place, None)
            self._leaving -= places
            self._paused -= places
            self._is_reassigned = True
            self._purge(places)
            self._changed.notify_all()
        consumer.incremental_unassign(partitions)

    def _clear(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0

    def _purge(self, places: set[Place]) -> None:
        self._buffer = [record for record in self._buffer if place_of(record) not in places]
        self._buffer_bytes = bytes_of(self._buffer)


def _replaced(error: KafkaError) -> Undone:
    """Another member has our instance id (FENCED_INSTANCE_ID is the only fatal error of a consumer)."""
    return Undone(f"the group has given this member's place away: {error.str()}", fenced=True, rejoin=True)


def bytes_of(records: Sequence[Raw]) -> int:
    """How much their values hold."""
    return sum([len(record.value) for record in records if record.value is not None])
