"""One worker: takes records from its exchange, runs the processors, gives outputs, state and offsets back in one transaction.

A record is processed when all processors of its topic have succeeded. One that fails is tried again after a pause; what came
before it is committed meanwhile. After its last attempt it becomes a dead letter, in the same transaction as its offset
(mistakes 7, 17), or ends the application (``PoisonRecord``). Where only the brokers know which record is at fault (too
large, no such topic) or a batch handler fails, the records are tried one by one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from oncelog.app.errors import ConfigurationError, PoisonRecord, Undone
from oncelog.app.exchange import PENDING_BYTES_MAX, Outcome
from oncelog.app.handlers import Trial
from oncelog.app.intake import Place
from oncelog.app.meters import Meters
from oncelog.app.ports import Transactor
from oncelog.app.records import Out, Raw
from oncelog.app.serializing import DecodeError, encode
from oncelog.app.settings import Cluster, Limits
from oncelog.app.state import CHECKPOINT_SECONDS_MAX, Changelog, FileTable, PartitionState, Stores, changelog_records
from oncelog.app.topics import check_keys_stay, check_topics, create_compacted
from oncelog.app.topology import Processor, Topology
from oncelog.app.transactions import Sent

log = logging.getLogger("oncelog.app")

Spot = tuple[str, int, int]
"""Where a record was: topic, partition, offset."""

#: Aborts in a row without any progress, after which records are tried one by one.
_ABORTS_MAX: Final = 3
_CHECKPOINT_SECONDS: Final = 5.0
#: In place of an assignment's number: the state has to be restored.
_IN_DOUBT: Final = -1
#: So often a running batch is looked at: is its time over, are its partitions wanted elsewhere?
_LOOK_SECONDS: Final = 0.005


class Context:
    """What a processor gets beside its record: ``state``, and which ``attempt`` this is (from 1)."""

    def __init__(self, app: str, state: PartitionState | None, attempt: int) -> None:
        self.app = app
        self.attempt = attempt
        self._stores = None if state is None else Stores(state)

    @property
    def state(self) -> Stores:
        """Stores by name; see ``oncelog.app.state``."""
        if self._stores is None:
            raise ConfigurationError(
                "state belongs to one partition of one topic: not in batch handlers, nor with several topics"
            )
        return self._stores


class Unsendable(ValueError):
    """The brokers, or the client, refuse what a handler gave for this record: too large, no such topic."""


class Again(Exception):
    """The record failed and has attempts left."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay


class Processing:
    """Runs processors over records: pure of any broker, so that the driver and the dry-run share it."""

    def __init__(
        self, app: str, topology: Topology, meters: Meters, on_out: Callable[[Out, Sent], None] | None = None
    ) -> None:
        self._on_out = on_out
        self.app = app
        self.topology = topology
        self.meters = meters
        self.runner = asyncio.Runner()
        self._failures: dict[tuple[str, str, int, int], int] = {}

    def close(self) -> None:
        """Ends the event loop of async handlers."""
        self.runner.close()

    def process(
        self, processor: Processor, raw: Raw, state: PartitionState | None, known: Exception | None
    ) -> list[Sent]:
        """One record by one processor: its outputs, or its dead letter. Again; PoisonRecord.

        ``known``: an error found by sending the record's outputs; the handler is not asked again then.
        """
        failed_before = self._failures.get(_id(processor, raw), 0) if self._failures else 0
        with Trial() as trial:
            if known is not None:
                raise known
            return self.attempt(processor, [raw], state, failed_before + 1)
        assert trial.error is not None
        return self._failed(processor, raw, state, trial.error)

    def attempt(
        self, processor: Processor, raws: Sequence[Raw], state: PartitionState | None, attempt: int
    ) -> list[Sent]:
        """One call of the handler. Raises what it raises."""
        handler = processor.handler
        records = raws if handler.is_raw else [handler.decode(raw) for raw in raws]
        context = Context(self.app, state, attempt) if handler.takes_second else None
        outs = handler.call(records, context, self.runner)
        sent = _sent(processor, outs)
        if state is not None:
            state.end_turn()
        if self._on_out is not None:
            for out, each in zip(outs, sent, strict=True):
                self._on_out(out, each)
        if self._failures:
            for raw in raws:
                self._failures.pop(_id(processor, raw), None)
        return sent

    def _failed(self, processor: Processor, raw: Raw, state: PartitionState | None, error: Exception) -> list[Sent]:
        if state is not None:
            state.drop_record()
        failures = self._failures[_id(processor, raw)] = self._failures.get(_id(processor, raw), 0) + 1
        if failures < processor.retry.attempts and not isinstance(error, DecodeError | Unsendable):
            self.meters.retried(processor.name)
            log.info("retry processor=%s %s[%d] offset=%d attempt=%d: %r", *_id(processor, raw), failures, error)
            raise Again(processor.retry.delay(failures))
        if processor.dead_letter is None:
            raise PoisonRecord(raw.topic, raw.partition, raw.offset, failures, error) from error
        self._failures.pop(_id(processor, raw), None)
        self.meters.dead_letter(processor.name)
        log.warning("dead-letter processor=%s %s[%d] offset=%d attempts=%d: %r", *_id(processor, raw), failures, error)
        letter = dead_letter(processor.dead_letter, processor.name, raw, failures, error)
        if self._on_out is not None:
            self._on_out(Out(key=raw.key, value=raw.value, headers=letter.headers), letter)
        return [letter]


def _spot(raw: Raw) -> Spot:
    return raw.topic, raw.partition, raw.offset


def _id(processor: Processor, raw: Raw) -> tuple[str, str, int, int]:
    return processor.name, raw.topic, raw.partition, raw.offset


def _sent(processor: Processor, outs: Sequence[Out]) -> list[Sent]:
    """Raises what a serializer raises."""
    to, serializer = processor.to, processor.serializer
    sent = []
    for out in outs:
        topic, key, value = out.topic or to, out.key, out.value
        if topic is None:
            raise ConfigurationError(f"{processor.name} has no `to`, so each Out must name its topic")
        if type(key) is not bytes:
            key = encode(key, serializer)
        if type(value) is not bytes:
            value = encode(value, serializer)
        if out.headers or out.partition is not None or out.timestamp:
            partition = -1 if out.partition is None else out.partition
            sent.append(Sent(topic, key, value, tuple(out.headers), partition, out.timestamp or 0))
        else:
            sent.append(Sent(topic, key, value))
    return sent


def dead_letter(topic: str, processor: str, raw: Raw, attempts: int, error: Exception) -> Sent:
    """The record as it came, with headers that say where it was and what failed."""
    headers = (
        *raw.headers,
        ("oncelog.processor", processor.encode()),
        ("oncelog.topic", raw.topic.encode()),
        ("oncelog.partition", str(raw.partition).encode()),
        ("oncelog.offset", str(raw.offset).encode()),
        ("oncelog.attempts", str(attempts).encode()),
        ("oncelog.error", f"{type(error).__name__}: {error}"[:1000].encode()),
    )
    return Sent(topic, raw.key, raw.value, headers, -1, raw.timestamp or 0)


class Worker:
    """Runs until its exchange gives no more records. In a thread of its own."""

    def __init__(
        self,
        app: str,
        topology: Topology,
        exchange: Transactor,
        cluster: Cluster,
        limits: Limits,
        meters: Meters,
        folder: Path,
        stop: threading.Event,
        halt: threading.Event,
    ) -> None:
        self._processing = Processing(app, topology, meters)
        self._topology = topology
        self._readers = {topic: topology.readers(topic) for topic in topology.sources}
        self._exchange = exchange
        self._limits = limits
        self._stop = stop
        self._halt = halt
        self._states = States(app, cluster, folder, halt, stop)
        self._only_batches = all(each.handler.is_batch for each in topology.processors)
        self._one_by_one = 0
        self._aborts = 0
        self._pause_seconds = 0.0
        self._known: dict[Spot, Exception] = {}

    def run(self) -> None:
        """Until the application stops. Raises AppError."""
        with ExitStack() as ending:  # from the last to the first, each whatever becomes of the others
            ending.callback(self._leave)
            ending.callback(self._processing.close)
            ending.callback(self._states.close)
            self._exchange.open()
            while raws := self._exchange.take(1 if self._one_by_one else None):
                self._batch(raws)

    def _leave(self) -> None:
        if self._halt.is_set():
            self._exchange.abandon()
        else:
            self._exchange.close()

    def _batch(self, raws: list[Raw]) -> None:
        """One transaction over the first of these records; the rest is put back."""
        self._pause_seconds = 0.0
        count, outputs, poison = self._processed(raws)
        self._states.check_partitions()
        self._exchange.put_back(raws[count:])
        del raws[count:]
        if not raws:
            if poison is not None:
                raise poison
            self._exchange.settle()
            self._pause()
            return
        first = _spot(raws[0])
        try:
            is_committed = self._committed(raws, outputs)
        except Undone as undone:
            self._states.doubted()
            self._blame(count, first, undone)
            return
        if poison is not None and is_committed:
            raise poison
        self._pause()

    def _pause(self) -> None:
        """Before the next attempt. Nothing is held meanwhile: no transaction, no partition that is wanted elsewhere."""
        until = time.monotonic() + self._pause_seconds
        self._pause_seconds = 0.0
        while time.monotonic() < until and not self._exchange.must_hurry:
            self._stop.wait(min(0.05, max(0.0, until - time.monotonic())))

    def _committed(self, processed: list[Raw], outputs: list[Sent]) -> bool:
        """Whether it is. Undone if one of the records is to blame. Both lists are emptied."""
        count = len(processed)
        known = [spot for spot in map(_spot, processed) if spot in self._known] if self._known else []
        self._states.before_commit()
        outputs.extend(self._states.changes())
        outcome = self._exchange.commit(processed, outputs)
        if outcome is Outcome.COMMITTED:
            self._states.committed()
        else:
            self._states.doubted()
        if outcome is Outcome.ABORTED:
            self._aborts += 1
            if self._aborts >= _ABORTS_MAX:
                self._one_by_one = max(self._one_by_one, count)
            return False
        self._aborts = 0
        self._one_by_one = max(0, self._one_by_one - count)
        for spot in known:
            del self._known[spot]
        return True

    def _blame(self, count: int, first: Spot, undone: Undone) -> None:
        """Something can't be sent. With one record the culprit is known; with more they come again one by one."""
        if count == 1:
            error = Unsendable(str(undone))
            if first in self._known:  # not even its dead letter can be sent
                raise PoisonRecord(*first, 1, error)
            self._known[first] = error
            self._one_by_one = max(1, self._one_by_one)
        else:
            self._one_by_one = count

    def _processed(self, raws: Sequence[Raw]) -> tuple[int, list[Sent], PoisonRecord | None]:
        """As many records as succeed within the time: how many, their outputs, and what is wrong with the next one."""
        self._states.begin(self._exchange.assignments)
        outputs = self._whole_batches(raws)
        done_as_batches = outputs is not None
        outputs = outputs or []
        if done_as_batches and self._only_batches:
            return len(raws), outputs, None
        poison, size, count, look_at = None, 0, 0, 0.0
        deadline = time.monotonic() + max(self._limits.commit_interval, 0.05)
        for raw in raws:
            try:
                outs = self._record(raw, without_batches=done_as_batches)
            except Again as again:
                self._pause_seconds = again.delay
                break
            except PoisonRecord as error:
                poison = error
                break
            count += 1
            outputs += outs
            for sent in outs:
                size += sent.size
            if done_as_batches or (size <= PENDING_BYTES_MAX and (now := time.monotonic()) < look_at):
                continue
            if size > PENDING_BYTES_MAX or now > deadline or self._exchange.must_hurry:
                break
            look_at = now + _LOOK_SECONDS
        return self._cut(count, outputs, done_as_batches and count < len(raws), poison)

    def _cut(
        self, processed: int, outputs: list[Sent], spoilt: bool, poison: PoisonRecord | None
    ) -> tuple[int, list[Sent], PoisonRecord | None]:
        """A batch handler's outputs are for all records or for none: if not all succeeded, they are tried one by one."""
        if not spoilt:
            return processed, outputs, poison
        self._one_by_one = processed + 1
        self._states.forget()
        return 0, [], None

    def _whole_batches(self, raws: Sequence[Raw]) -> list[Sent] | None:
        """The outputs of batch handlers for all records at once; None if there are none, or if they have to be tried alone."""
        handlers = [each for each in self._topology.processors if each.handler.is_batch]
        if not handlers or self._one_by_one:
            return None
        outputs: list[Sent] = []
        for processor in handlers:
            reads_all = self._readers.keys() <= set(processor.topics)
            wanted = raws if reads_all else [raw for raw in raws if raw.topic in processor.topics]
            if not wanted:
                continue
            with Trial() as trial:
                sent = self._processing.attempt(processor, wanted, None, 1)
                outputs = outputs + sent if outputs else sent
            if trial.error is not None:
                log.info("one-by-one processor=%s: %r", processor.name, trial.error)
                self._one_by_one = len(raws)
                return None
        return outputs

    def _record(self, raw: Raw, *, without_batches: bool) -> list[Sent]:
        """One record by all its processors; all of them succeed, or none of them has any effect."""
        outputs: list[Sent] = []
        states: list[PartitionState] = []
        known = self._known.get(_spot(raw)) if self._known else None
        try:
            for processor in self._readers[raw.topic]:
                if processor.handler.is_batch and without_batches:
                    continue
                state = None
                if processor.keeps_state:
                    state = self._states.of(processor, (raw.topic, raw.partition))
                    states.append(state)
                outputs += self._processing.process(processor, raw, state, known)
        except (Again, PoisonRecord):
            for state in states:
                state.drop_record()
            raise
        for state in states:
            state.keep_record()
        return outputs


class States:
    """The state of every partition that a worker has, restored when it is first met after an assignment."""

    def __init__(self, app: str, cluster: Cluster, folder: Path, halt: threading.Event, stop: threading.Event) -> None:
        self._app = app
        self._cluster = cluster
        self._folder = folder
        self._halt = halt
        self._stop = stop
        self._changelog: Changelog | None = None
        #: How many partitions the source of each changelog had when this worker first met it, and the changelog has.
        self._partitions: dict[str, int] = {}
        #: By processor and partition: the assignment as of which it was restored, and the state.
        self._open: dict[tuple[str, Place], tuple[int, PartitionState]] = {}
        self._assignments: Mapping[Place, int] = {}
        self._ends: dict[tuple[str, Place], int] = {}
        self._checkpoint_at = time.monotonic() + _CHECKPOINT_SECONDS

    def begin(self, assignments: Mapping[Place, int]) -> None:
        """A batch of partitions with these assignments."""
        self._assignments = assignments

    def of(self, processor: Processor, place: Place) -> PartitionState:
        """Restored, if the partition has come anew."""
        key, assignment = (processor.name, place), self._assignments[place]
        known = self._open.get(key)
        if known is not None and known[0] == assignment:
            return known[1]
        table = known[1].table if known is not None else FileTable(self._folder / f"{processor.name}-{place[1]}.sqlite")
        assert isinstance(table, FileTable)
        state = PartitionState(table)
        self._open[key] = (_IN_DOUBT, state)  # so that the file is closed if the restore fails
        self._restore(processor, place, table)
        self._open[key] = (assignment, state)
        return state

    def _restore(self, processor: Processor, place: Place, table: FileTable) -> None:
        topic = changelog_name(self._app, processor.name)
        if topic not in self._partitions:
            made = partitions_of(self._cluster, place[0])
            create_compacted(self._cluster, {topic: made}, tombstone_seconds=2 * CHECKPOINT_SECONDS_MAX)
            self._partitions[topic] = made
        if self._changelog is None:
            settings = self._cluster.for_consumer(client_id=topic, group="", instance="")
            self._changelog = Changelog(settings, self._halt, self._stop)
        if place[1] >= self._partitions[topic]:
            check_keys_stay(place[0], self._changelog.partitions(place[0]), topic, self._partitions[topic])
        started = time.monotonic()
        read = self._changelog.restore(table, topic, place[1])
        log.info(
            "restored processor=%s partition=%d records=%d ms=%d",
            processor.name,
            place[1],
            read,
            (time.monotonic() - started) * 1000,
        )

    def check_partitions(self) -> None:
        """The sources of the batch have as many as their states were made with; else ConfigurationError.

        Asked for each batch, when its records have been read and before anything of them is committed. Whoever wrote one of
        them by the new number had learnt it before, so a broker that knows what the others know tells it now (0.2 ms).
        """
        used = {(name, place[0]) for name, place in self._open if place in self._assignments}
        for name, source in used:
            assert self._changelog is not None
            topic = changelog_name(self._app, name)
            check_keys_stay(source, self._changelog.partitions(source), topic, self._partitions[topic])

    def changes(self) -> list[Sent]:
        """The changelog records of the batch."""
        return [
            sent
            for (name, (_, partition)), (_, state) in self._open.items()
            for sent in changelog_records(changelog_name(self._app, name), partition, state)
        ]

    def before_commit(self) -> None:
        """Now and then asks for the changelogs' ends. What is before them is in the files once this batch is committed:

        the commit proves that the partitions were ours all the time, so nobody else has written there.
        """
        self._ends = {}
        if self._changelog is None or time.monotonic() < self._checkpoint_at:
            return
        for (name, place), (assignment, _) in self._open.items():
            if self._assignments.get(place) == assignment:
                self._ends[name, place] = self._changelog.end(changelog_name(self._app, name), place[1])[1]
        self._checkpoint_at = time.monotonic() + _CHECKPOINT_SECONDS

    def committed(self) -> None:
        """The batch's changes are true now."""
        for key, (_, state) in self._open.items():
            state.committed(self._ends.get(key))

    def forget(self) -> None:
        """What the batch has changed is not to be."""
        for _, state in self._open.values():
            state.aborted()

    def doubted(self) -> None:
        """Undone, or committed without our being told: the changelogs know, so they are read again before the next batch."""
        self.forget()
        self._open = {key: (_IN_DOUBT, state) for key, (_, state) in self._open.items()}

    def close(self) -> None:
        """Closes the files and the consumers."""
        for _, state in self._open.values():
            if isinstance(state.table, FileTable):
                state.table.close()
        self._open.clear()
        if self._changelog is not None:
            self._changelog.close()
            self._changelog = None


def changelog_name(app: str, processor: str) -> str:
    """The topic with a processor's state."""
    return f"{app}.{processor}.changelog"


def partitions_of(cluster: Cluster, topic: str) -> int:
    """How many there are."""
    return check_topics(cluster, [topic])[topic]
