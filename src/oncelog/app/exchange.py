"""One worker's exchange with a cluster: takes records, and gives outputs and offsets back in one transaction.

The heart of the promise. A batch ends in one of two ways: its transaction is committed, with the offsets of exactly the
records that were processed (mistakes 4, 5); or nothing of it happened, and the consumer is back at the committed offsets
(mistake 6). Where the client can't say which, a new producer ends what may be open, and the committed offsets decide
(mistake 13). No transaction is open while a handler runs or input is awaited (mistakes 11, 15): outputs are kept in memory,
bounded, and sent at the end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from confluent_kafka import TopicPartition

from oncelog.app.errors import Halted, Undone
from oncelog.app.intake import NOTHING, GroupPositions, Intake, Place, Positions, offsets_after
from oncelog.app.meters import Meters
from oncelog.app.pace import Pace
from oncelog.app.peers import fenced_by
from oncelog.app.records import Raw
from oncelog.app.settings import Cluster, Limits, client_id_of
from oncelog.app.transactions import Sent, TransactionalProducer, initialized

log = logging.getLogger("oncelog.app")

#: Outputs of a batch beyond this are sent while the handler still runs; the transaction is open from then on.
PENDING_BYTES_MAX: Final = 16 * 1024 * 1024
FENCES_SECONDS: Final = 60.0
#: Before a place is taken back: the peer has taken both of its places by then, so that each of us counts the other's turns.
FENCED_SECONDS: Final = 1.0
_BACK_OFF_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


class Outcome(StrEnum):
    """How a transaction ended. ``FOUND``: the client could not say, and the kept offsets show that it was committed."""

    COMMITTED = "committed"
    FOUND = "found"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Name:
    """Who a worker is: the transactional id and the group's instance id are both made of it (mistake 1)."""

    app: str
    instance: str
    worker: int

    def __str__(self) -> str:
        return f"{self.app}.{self.instance}.{self.worker}"


def member_of(
    name: Name, cluster: Cluster, topics: Sequence[str], limits: Limits, positions: Positions, halt: threading.Event
) -> Intake:
    """The member of this name, which joins its group."""
    settings = cluster.for_consumer(client_id=client_id_of(str(name)), group=name.app, instance=str(name))
    intake = Intake(settings, topics, limits, positions, halt)
    intake.open()
    return intake


class Fences:
    """Counts how often this worker's name was taken; twice within a minute is a peer that does not give way (mistake 3)."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2)

    def count(self, now: float) -> bool:
        """Whether this one is the second within a minute."""
        self._times.append(now)
        return len(self._times) == 2 and now - self._times[0] < FENCES_SECONDS

    def check(self, cluster: Cluster, name: Name, undone: Undone) -> None:
        """One more: FencedByPeer, with the other's name, if it is one too many."""
        if self.count(time.monotonic()):
            raise fenced_by(cluster, name.app, str(name)) from undone


class Exchange:
    """From ``open`` to ``close``: ``take``, then ``send`` and ``commit``, or ``undo``."""

    def __init__(
        self,
        name: Name,
        cluster: Cluster,
        topics: Sequence[str],
        limits: Limits,
        meters: Meters,
        stop: threading.Event,
        halt: threading.Event,
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._topics = topics
        self._limits = limits
        self._meters = meters
        self._stop = stop
        self._halt = halt
        self._fences = Fences()
        self._pace = Pace(is_early=limits.commit_early)
        self._producer: TransactionalProducer | None = None
        self._intake: Intake | None = None
        self._pending: list[Sent] = []
        self._pending_bytes = 0
        self._sent = 0
        self._taken = NOTHING
        self._taken_count = 0
        self._began_at = 0.0

    # -- open, close --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The producer first: it ends what this name's last life left open. Then the group is joined."""
        try:
            self._ready_producer()
        except Undone as undone:
            self._recover(undone)
        self._ready_intake()

    def close(self) -> None:
        """Aborts what is open, leaves the group, whatever becomes of the abort: a member that stays holds its partitions."""
        try:
            if self._producer is not None:
                self._producer.abort()
        except (Undone, Halted) as unfinished:  # the next start ends it, or its timeout
            log.debug("closing: %s", unfinished)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes without a word to the brokers: they may be away."""
        try:
            self._drop_producer()
        finally:
            if self._intake is not None:
                self._intake.close()
                self._intake = None

    def _ready_producer(self) -> TransactionalProducer:
        if self._producer is None:
            settings = self._cluster.for_producer(
                client_id=client_id_of(str(self.name)),
                transactional_id=str(self.name),
                timeout_seconds=self._limits.transaction_timeout,
            )
            self._producer = initialized(settings, self._halt)
        return self._producer

    def _ready_intake(self) -> Intake:
        if self._intake is None:
            self._intake = member_of(self.name, self._cluster, self._topics, self._limits, GroupPositions(), self._halt)
        return self._intake

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    # -- a batch ------------------------------------------------------------------------------------------------------

    def take(self, records_max: int | None = None) -> list[Raw]:
        """The next records of a batch, the caller's own list, in each partition in order; none when the application stops."""
        while not self._stop.is_set():
            try:
                intake = self._ready_intake()
                wanted = records_max or self._limits.batch_records
                self._taken = intake.take(wanted, self._limits.commit_interval, self._stop, self._pace.early_at)
            except Undone as undone:
                self._recover(undone)
            else:
                self._began_at = time.monotonic()
                self._taken_count = len(self._taken.records)
                return self._taken.records
        return []

    @property
    def assignments(self) -> Mapping[Place, int]:
        """Which assignment brought each partition of the batch: state of an earlier one is not to be trusted."""
        return self._taken.assignments

    @property
    def must_hurry(self) -> bool:
        """The batch should be cut short: its partitions are wanted elsewhere, or the application stops."""
        return self._stop.is_set() or (self._intake is not None and self._intake.must_hurry)

    def put_back(self, records: Sequence[Raw]) -> None:
        """Taken, not processed."""
        if self._intake is not None:
            self._intake.put_back(records, self._taken.assignments)

    def send(self, record: Sent) -> None:
        """Keeps a record for the transaction; too many are sent at once. Undone: leave everything to ``undo``."""
        self._pending.append(record)
        self._pending_bytes += record.size
        if self._pending_bytes > PENDING_BYTES_MAX:
            self._ready_to_send()

    def commit(self, processed: list[Raw], outputs: list[Sent]) -> Outcome:
        """Everything sent, these outputs, and the offsets of these records, as one transaction. After ABORTED they come again.

        ``Undone.blames_a_record`` is raised when the same records would fail again; they will come again nevertheless, from
        the broker. So nobody needs them here any more: both lists are emptied, each output when the client has its copy, and
        the next batch gets memory that is still in the processor's caches.
        """
        offsets, count, began_at = self._offsets_after(processed), len(processed), time.monotonic()
        processed.clear()
        try:
            self._attempt(offsets, outputs)
        except Undone as undone:
            if self._is_committed(offsets, self._recover(undone)):
                return self._ended(Outcome.FOUND, count, offsets, f"found by its offsets after {undone}")
            self._ended(Outcome.ABORTED, count, offsets, str(undone))
            if undone.blames_a_record:
                raise
            return Outcome.ABORTED
        self._pace.committed(began_at, time.monotonic())
        return self._ended(Outcome.COMMITTED, count, offsets, "")

    def _offsets_after(self, processed: Sequence[Raw]) -> Mapping[Place, int]:
        """Of all that was taken they are known."""
        return self._taken.offsets if len(processed) == self._taken_count else offsets_after(processed)

    def _is_committed(self, offsets: Mapping[Place, int], kept: Mapping[Place, int]) -> bool:
        """Decided by the kept offset of a partition that was never away: only this batch can have moved it.

        One is enough, for a transaction is whole; the others may have been handed over meanwhile.
        """
        try:
            owned = self._ready_intake().owned()
        except Undone:
            return False
        stayed = [place for place in offsets if owned.get(place) == self._taken.assignments[place] and place in kept]
        return any(kept[place] >= offsets[place] for place in stayed)

    def settle(self) -> None:
        """All that was taken is put back: partitions may go."""
        if self._intake is not None:
            self._intake.settle()

    def _attempt(self, offsets: Mapping[Place, int], outputs: list[Sent]) -> None:
        """Undone at any step."""
        intake = self._ready_intake()
        intake.metadata(self._taken.assignments)  # nothing is begun for partitions that are gone
        producer = self._ready_to_send()
        self._sent += len(outputs)
        producer.send(outputs)
        intake.read_ahead()
        positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        producer.send_offsets(positions, intake.metadata(self._taken.assignments))
        producer.commit()

    def _ready_to_send(self) -> TransactionalProducer:
        """A producer with a transaction open, and what was kept for it sent."""
        producer = self._ready_producer()
        if not producer.is_open:
            if producer.is_disturbed:
                log.info(
                    "renewed worker=%s: a connection was cut, a late request must not meet the next transaction",
                    self.name,
                )
                self._drop_producer()
                producer = self._ready_producer()
            producer.begin()
        self._sent += len(self._pending)
        producer.send(self._pending)
        self._forget_pending()
        return producer

    def undo(self, why: str | Undone) -> None:
        """Nothing of the batch happens; the consumer goes back to the committed offsets."""
        self._recover(why if isinstance(why, Undone) else Undone(why))
        self._ended(Outcome.ABORTED, 0, {}, str(why))

    def _ended(self, outcome: Outcome, processed: int, offsets: Mapping[Place, int], why: str) -> Outcome:
        seconds = time.monotonic() - self._began_at
        producer = self._producer
        told = Outcome.COMMITTED if outcome is Outcome.FOUND else outcome
        self._meters.transaction(told, processed, self._sent, seconds)
        log.info(
            "transaction outcome=%s worker=%s producer_id=%d epoch=%d records=%d outputs=%d offsets=%s ms=%d%s",
            told,
            self.name,
            -1 if producer is None else producer.producer_id,
            -1 if producer is None else producer.epoch,
            processed,
            self._sent,
            ",".join(f"{topic}[{partition}]={offset}" for (topic, partition), offset in offsets.items()) or "-",
            seconds * 1000,
            f' why="{why}"' if why else "",
        )
        self._sent = 0
        self._forget_pending()
        if self._intake is not None:
            self._intake.settle()
        return outcome

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0

    # -- after a failure ----------------------------------------------------------------------------------------------

    def _recover(self, undone: Undone) -> dict[Place, int]:
        """Ends the transaction for certain, then goes back to the committed offsets, which it returns.

        FencedByPeer if the name was taken for the second time within a minute.
        """
        self._pace.undone()
        for attempt in range(1_000_000):
            self._judge(undone)
            if self._halt.wait(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)]):
                undone.renew = True
            try:
                self._end_for_certain(undone)
                return self._ready_intake().rewind()
            except Undone as again:
                undone = again
        raise AssertionError("unreachable")

    def _judge(self, undone: Undone) -> None:
        log.debug("undone: %s", undone)
        if undone.fenced:
            self._meters.fenced()
            self._fences.check(self._cluster, self.name, undone)
            log.warning("fenced worker=%s: %s", self.name, undone)
            undone.rejoin = True  # a peer takes both places, in the group and as producer: that is one fence
            self._halt.wait(FENCED_SECONDS)

    def _end_for_certain(self, undone: Undone) -> None:
        if self._producer is not None and not undone.renew:
            self._producer.abort()
        else:
            self._drop_producer()
        if undone.rejoin and self._intake is not None:
            self._intake.close()
            self._intake = None
        self._ready_producer()
