"""State: all rows, the partitions' indexes over them, and ``apply``.

Only ``State.apply`` and ``State.settle_visible`` change it, and they never refuse (law 1). Recovery is ``apply`` in a loop:
live or replayed, the same calls give the same state. What follows from a batch's header is derived here by
``producers.producer_after``, for live decisions and recovery alike.

``Log.high_watermark``, ``Log.stable_offset`` and ``Log.offset_start_visible`` are what readers may see: they lag behind what is
applied until the journal has synced it (rules D2, R1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from oncelog.engine.alarms import Alarms
from oncelog.engine.configs import BrokerSettings, TopicSettings, resolve_broker, resolve_topic
from oncelog.engine.decision import Append, Visible
from oncelog.engine.groups.groups import Groups
from oncelog.engine.groups.offsets import GroupOffsets
from oncelog.engine.producers import producer_after
from oncelog.model.batch import control_outcome
from oncelog.model.header import CONTROL, TRANSACTIONAL
from oncelog.model.ids import LogId, ProducerId
from oncelog.model.limits import PRODUCERS_PER_PARTITION_MAX
from oncelog.model.rows import (
    AbortedRange,
    BrokerConfig,
    Cluster,
    Group,
    GroupDeleted,
    GroupMember,
    GroupMemberDeleted,
    GroupOffset,
    GroupOffsetDeleted,
    LogCompacted,
    LogIds,
    LogStart,
    Partition,
    PendingOffset,
    PendingOffsetsSettled,
    Producer,
    ProducerForgotten,
    ProducerIdMarks,
    ProducerIds,
    Row,
    Topic,
    TopicDeleted,
    Transaction,
    TransactionForgotten,
    TransactionState,
)

#: How exactly, and for how many steps, the times of producer ids are remembered (rule D6): to a minute, or to an eighth of the
#: time after which a producer is forgotten where that is shorter.
_MARK_MS: Final = 60_000
_MARKS_IN_EXPIRATION: Final = 8
_MARKS_MAX: Final = 4_096


class Log:
    """One partition: the bounds of its log, its producers, its open and aborted transactions.

    ``open`` maps each producer with an open transaction here to that transaction's first offset, in offset order.
    ``aborted`` is in the order of the markers.
    """

    __slots__ = (
        "aborted",
        "created_ms",
        "high_watermark",
        "id",
        "index",
        "offset_compacted",
        "offset_next",
        "offset_start",
        "offset_start_visible",
        "open",
        "producer_id_created",
        "producers",
        "settings",
        "stable_offset",
        "timestamp_max",
        "topic",
    )

    def __init__(self, row: Partition, settings: TopicSettings) -> None:
        self.id, self.topic, self.index = row.log, row.topic, row.index
        self.created_ms, self.producer_id_created = row.created_ms, row.producer_id_created
        self.offset_start, self.offset_next = row.offset_start, row.offset_next
        self.timestamp_max = row.timestamp_max
        self.aborted: list[AbortedRange] = list(row.aborted)
        self.offset_compacted = row.offset_compacted
        self.settings = settings
        self.producers: dict[ProducerId, Producer] = {}
        self.open: dict[ProducerId, int] = {}
        self.high_watermark = self.stable_offset = row.offset_next
        self.offset_start_visible = row.offset_start

    @property
    def stable_offset_applied(self) -> int:
        """The last stable offset once all that is applied is synced (rule R1)."""
        if not self.open:
            return self.offset_next
        # Records of an open transaction may be deleted by a client: nobody reads before the start then.
        return max(next(iter(self.open.values())), self.offset_start)

    def row(self) -> Partition:
        """The durable form, for a checkpoint."""
        return Partition(
            self.id,
            self.topic,
            self.index,
            self.created_ms,
            self.producer_id_created,
            self.offset_start,
            self.offset_next,
            self.timestamp_max,
            tuple(self.aborted),
            self.offset_compacted,
        )


class State:
    """Everything the broker knows. See the module."""

    def __init__(self, static: Mapping[str, str] | None = None) -> None:
        self.static_configs: dict[str, str] = dict(static or {})
        self.dynamic_configs: dict[str, str] = {}
        self.settings: BrokerSettings = resolve_broker(self.static_configs, self.dynamic_configs)
        #: Whether settings of the broker have changed that topics may take theirs from; only inside ``apply``.
        self._is_unresolved = False
        self.version = 0
        self.catalog_version = 0
        self.topics: dict[str, Topic] = {}
        self.topic_names: dict[UUID, str] = {}
        self.logs: dict[LogId, Log] = {}
        self.log_id_next = LogId(1)
        self.producer_id_next = ProducerId(1)
        self.producer_id_marks: list[tuple[ProducerId, int]] = []
        self.cluster_id = ""
        self.transactions: dict[str, Transaction] = {}
        self.transaction_of: dict[ProducerId, str] = {}
        self.offsets = GroupOffsets()
        self.groups = Groups()
        self.alarms = Alarms()
        self._put: dict[type[Any], Callable[[Any], None]] = {
            Topic: self._put_topic,
            TopicDeleted: self._put_topic_deleted,
            BrokerConfig: self._put_broker_config,
            ProducerIdMarks: self._put_producer_id_marks,
            Cluster: self._put_cluster,
            LogIds: self._put_log_ids,
            Transaction: self._put_transaction,
            TransactionForgotten: self._put_transaction_forgotten,
            Producer: self._put_producer,
            ProducerForgotten: self._put_producer_forgotten,
            Partition: self._put_partition,
            LogStart: self._put_log_start,
            LogCompacted: self._put_log_compacted,
            GroupOffset: self._put_group_offset,
            GroupOffsetDeleted: self.offsets.remove,
            PendingOffset: self._put_pending_offset,
            PendingOffsetsSettled: self.offsets.settle_pending,
            Group: self.groups.put,
            GroupDeleted: self._put_group_deleted,
            GroupMember: self.groups.put_member,
            GroupMemberDeleted: self.groups.remove_member,
        }

    # -- reading ------------------------------------------------------------------------------------------------------

    def log_of(self, topic: str, index: int) -> Log | None:
        """The log of a partition, or None if there is no such topic or partition."""
        row = self.topics.get(topic)
        if row is None or not 0 <= index < len(row.logs):
            return None
        return self.logs[row.logs[index]]

    def producer_id_age_ms_max(self, producer_id: ProducerId, now_ms: int) -> int | None:
        """How long ago the producer id was given out at most, or None if that is not known (rule D6)."""
        at = bisect_right(self.producer_id_marks, (producer_id, 2**63)) - 1
        return now_ms - self.producer_id_marks[at][1] if at >= 0 else None

    def rows(self) -> list[Row]:
        """All rows as of this instant, for a checkpoint, without copying what is immutable.

        A list of rows; partitions are given as row values too. Cheap: no row is encoded here.
        """
        rows: list[Row] = [ProducerIds(self.producer_id_next), ProducerIdMarks(tuple(self.producer_id_marks))]
        rows.append(LogIds(self.log_id_next))
        if self.cluster_id:
            rows.append(Cluster(self.cluster_id))
        rows += (BrokerConfig(name, value) for name, value in self.dynamic_configs.items())
        rows += self.topics.values()
        for log in self.logs.values():
            rows.append(log.row())
            rows += log.producers.values()
        rows += self.transactions.values()
        rows += self.groups.rows()
        rows += self.offsets.rows()
        return rows

    # -- apply --------------------------------------------------------------------------------------------------------

    def apply(self, rows: Iterable[Row], batches: Sequence[Append], now_ms: int) -> None:
        """Change the state as one decision says: durable rows, then batches. Live and in recovery."""
        self.version += 1
        for row in rows:
            if type(row) is ProducerIds:  # the only one that is dated here (rule D6)
                self._put_producer_ids(row, now_ms)
            else:
                self._put[type(row)](row)
        if self._is_unresolved:
            self._resolve_settings()
        for batch in batches:
            self._append(batch, now_ms)

    def apply_volatile(self, values: Iterable[Any]) -> None:
        """Change what need not survive a restart; after ``apply`` of the same decision."""
        for value in values:
            self.groups.replace(value, self.alarms)

    def visible_after(self, rows: Iterable[Row], batches: Sequence[Append]) -> list[Visible]:
        """What readers may see of the touched logs when what was just applied is synced."""
        logs = self.logs
        seen: list[Visible] = []
        for batch in batches:
            log = logs[batch.log]
            seen.append(Visible(log, log.offset_next, log.stable_offset_applied, log.offset_start))
        for row in rows:
            if type(row) is LogStart and row.log in logs:
                log = logs[row.log]
                seen.append(Visible(log, log.offset_next, log.stable_offset_applied, log.offset_start))
        return seen

    def settle_visible(self, visible: Iterable[Visible]) -> None:
        """An entry is synced: readers see it, all its partitions in the same instant (rules D1, R1)."""
        for shown in visible:
            log = shown.log
            log.high_watermark = shown.high_watermark
            log.stable_offset = shown.stable_offset
            log.offset_start_visible = shown.offset_start

    def finish_checkpoint(self) -> None:
        """After a checkpoint's rows, before the journal's entries: order what the rows gave in any order."""
        for log in self.logs.values():
            if len(log.open) > 1:
                log.open = dict(sorted(log.open.items(), key=lambda item: item[1]))

    def finish_recovery(self) -> None:
        """After the last entry: all that was found is durable, so readers may see it."""
        for log in self.logs.values():
            log.high_watermark, log.stable_offset = log.offset_next, log.stable_offset_applied
            log.offset_start_visible = log.offset_start
        self.groups.restore()

    def _append(self, batch: Append, now_ms: int) -> None:
        log, header = self.logs[batch.log], batch.header
        assert batch.offset == log.offset_next, f"batch at {batch.offset}, log ends at {log.offset_next}"
        log.offset_next = batch.offset + header.offset_delta_last + 1
        if header.timestamp_max > log.timestamp_max:
            log.timestamp_max = header.timestamp_max
        producer_id = header.producer_id
        if producer_id < 0:
            return
        producers = log.producers
        # The one that has written goes to the end: those in front have been idle for longest.
        producers[producer_id] = producer_after(producers.pop(producer_id, None), log.id, batch.offset, header, now_ms)
        attributes = header.attributes
        if attributes & CONTROL:
            first_offset = log.open.pop(producer_id, None)
            if first_offset is not None and not control_outcome(batch.data):
                log.aborted.append(AbortedRange(producer_id, first_offset, batch.offset, log.stable_offset_applied))
        elif attributes & TRANSACTIONAL and producer_id not in log.open:
            log.open[producer_id] = batch.offset
        if len(producers) > PRODUCERS_PER_PARTITION_MAX:
            del producers[next(idle for idle in producers if idle not in log.open)]

    def _put_topic(self, row: Topic) -> None:
        self.catalog_version += 1
        self.topics[row.name] = row
        self.topic_names[row.id] = row.name
        settings = resolve_topic(self.static_configs, self.dynamic_configs, row.configs)
        for index, log_id in enumerate(row.logs):
            log = self.logs.get(log_id)
            if log is None:
                empty = Partition(log_id, row.name, index, row.created_ms, self.producer_id_next, 0, 0)
                self.logs[log_id] = Log(empty, settings)
                self.log_id_next = LogId(max(self.log_id_next, log_id + 1))
            else:
                log.settings = settings

    def _put_topic_deleted(self, row: TopicDeleted) -> None:
        self.catalog_version += 1
        topic = self.topics.pop(row.name)
        del self.topic_names[topic.id]
        for log_id in topic.logs:
            del self.logs[log_id]
        self.offsets.remove_topic(row.name)

    def _put_broker_config(self, row: BrokerConfig) -> None:
        self.catalog_version += 1
        if row.value is None:
            self.dynamic_configs.pop(row.name, None)
        else:
            self.dynamic_configs[row.name] = row.value
        self._is_unresolved = True

    def _resolve_settings(self) -> None:
        """After all that one decision changes. Most topics have the same settings of their own, which are resolved once."""
        self._is_unresolved = False
        self.settings = resolve_broker(self.static_configs, self.dynamic_configs)
        resolved: dict[tuple[tuple[str, str], ...], TopicSettings] = {}
        for topic in self.topics.values():
            key = tuple(topic.configs.items())
            settings = resolved.get(key)
            if settings is None:
                settings = resolve_topic(self.static_configs, self.dynamic_configs, topic.configs)
                resolved[key] = settings
            for log_id in topic.logs:
                self.logs[log_id].settings = settings

    def _put_producer_ids(self, row: ProducerIds, now_ms: int) -> None:
        marks = self.producer_id_marks
        step_ms = min(_MARK_MS, self.settings.producer_expiration_ms // _MARKS_IN_EXPIRATION)
        if row.next > self.producer_id_next and (not marks or now_ms - marks[-1][1] >= step_ms):
            marks.append((self.producer_id_next, now_ms))
            del marks[:-_MARKS_MAX]
        self.producer_id_next = max(self.producer_id_next, row.next)

    def _put_producer_id_marks(self, row: ProducerIdMarks) -> None:
        self.producer_id_marks = list(row.marks)

    def _put_cluster(self, row: Cluster) -> None:
        self.catalog_version += 1
        self.cluster_id = row.id

    def _put_log_ids(self, row: LogIds) -> None:
        self.log_id_next = LogId(max(self.log_id_next, row.next))

    def _put_group_offset(self, row: GroupOffset) -> None:
        self.version = max(self.version, row.version)
        self.offsets.put(row)

    def _put_pending_offset(self, row: PendingOffset) -> None:
        self.version = max(self.version, row.offset.version)
        self.offsets.put_pending(row)

    def _put_transaction(self, row: Transaction) -> None:
        before = self.transactions.get(row.id)
        if before is not None and (before.producer_id, before.previous_producer_id) != (
            row.producer_id,
            row.previous_producer_id,
        ):
            self._forget_producer_ids(before)
        self.transactions[row.id] = row
        self.transaction_of[row.producer_id] = row.id
        if row.previous_producer_id >= 0:
            self.transaction_of[row.previous_producer_id] = row.id
        if row.state is TransactionState.ONGOING:
            self.alarms.set(row.started_ms + row.timeout_ms, "transaction", row.id)

    def _put_transaction_forgotten(self, row: TransactionForgotten) -> None:
        self._forget_producer_ids(self.transactions.pop(row.id))

    def _forget_producer_ids(self, gone: Transaction) -> None:
        self.transaction_of.pop(gone.producer_id, None)
        self.transaction_of.pop(gone.previous_producer_id, None)

    def _put_producer(self, row: Producer) -> None:
        log = self.logs[row.log]
        log.producers[row.id] = row
        if row.transaction_first_offset >= 0:
            log.open[row.id] = row.transaction_first_offset

    def _put_producer_forgotten(self, row: ProducerForgotten) -> None:
        self.logs[row.log].producers.pop(row.id, None)

    def _put_partition(self, row: Partition) -> None:
        self.logs[row.log] = Log(row, self.logs[row.log].settings)

    def _put_log_start(self, row: LogStart) -> None:
        log = self.logs[row.log]
        log.offset_start = max(log.offset_start, row.offset)
        log.aborted = [aborted for aborted in log.aborted if aborted.offset_marker >= row.offset]

    def _put_log_compacted(self, row: LogCompacted) -> None:
        log = self.logs[row.log]
        log.offset_compacted = max(log.offset_compacted, row.offset)
        log.aborted = [aborted for aborted in log.aborted if aborted.offset_marker >= row.offset]

    def _put_group_deleted(self, row: GroupDeleted) -> None:
        self.groups.remove(row)
        self.offsets.remove_group(row.id)


def rows_in_chunks(rows: list[Row], size: int = 500) -> Iterator[list[Row]]:
    """The rows in pieces that are each cheap to encode."""
    for at in range(0, len(rows), size):
        yield rows[at : at + size]
