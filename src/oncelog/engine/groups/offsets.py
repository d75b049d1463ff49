"""Committed and pending offsets of groups (rules O1, O4, O5).

A pending offset was committed inside an open transaction: it is a row of its own until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oncelog.model.ids import ProducerId, TopicPartition
from oncelog.model.rows import (
    GroupOffset,
    GroupOffsetDeleted,
    PendingOffset,
    PendingOffsetsSettled,
    Row,
)


class GroupOffsets:
    """The offsets of all groups. Changed by rows only."""

    def __init__(self) -> None:
        self.committed: dict[str, dict[TopicPartition, GroupOffset]] = {}
        self.pending: dict[str, dict[ProducerId, dict[TopicPartition, PendingOffset]]] = {}
        #: By topic, how many offsets each group has committed: to find them when the topic is deleted.
        self._counts: dict[str, dict[str, int]] = {}

    def put(self, row: GroupOffset) -> None:
        """A committed offset replaces the one before."""
        of_group = self.committed.setdefault(row.group, {})
        at = TopicPartition(row.topic, row.partition)
        if at not in of_group:
            counts = self._counts.setdefault(row.topic, {})
            counts[row.group] = counts.get(row.group, 0) + 1
        of_group[at] = row

    def remove(self, row: GroupOffsetDeleted) -> None:
        """A committed offset is gone."""
        of_group = self.committed.get(row.group)
        if of_group is not None and of_group.pop(TopicPartition(row.topic, row.partition), None) is not None:
            self._uncount(row.topic, row.group)
            if not of_group:
                del self.committed[row.group]

    def _uncount(self, topic: str, group: str) -> None:
        counts = self._counts[topic]
        counts[group] -= 1
        if not counts[group]:
            del counts[group]
            if not counts:
                del self._counts[topic]

    def groups_of(self, topic: str) -> Iterable[str]:
        """The groups that have committed offsets for a topic."""
        return self._counts.get(topic, ())

    def put_pending(self, row: PendingOffset) -> None:
        """A pending offset replaces the producer's one before."""
        of_group = self.pending.setdefault(row.offset.group, {})
        of_group.setdefault(row.producer_id, {})[TopicPartition(row.offset.topic, row.offset.partition)] = row

    def settle_pending(self, row: PendingOffsetsSettled) -> None:
        """The producer's pending offsets are over."""
        of_group = self.pending.get(row.group)
        if of_group is not None:
            of_group.pop(row.producer_id, None)
            if not of_group:
                del self.pending[row.group]

    def remove_group(self, group: str) -> None:
        """The group is gone, with its committed offsets; one with pending offsets is never deleted (rule O5)."""
        for at in self.committed.pop(group, ()):
            self._uncount(at.topic, group)

    def remove_topic(self, topic: str) -> None:
        """The topic is gone: if one of that name comes again, nobody may begin where the old one was left.

        Committed offsets have a row each for that in the same decision: to look for them here would take as long for each of a
        thousand topics as all groups are large.
        """
        for producers in self.pending.values():
            for of_producer in producers.values():
                for at in [at for at in of_producer if at.topic == topic]:
                    del of_producer[at]

    def has_pending(self, group: str, at: TopicPartition) -> bool:
        """Whether an open transaction holds an offset for the partition (rule O4)."""
        return any(at in offsets for offsets in self.pending.get(group, {}).values())

    def end_of_transaction(self, group: str, producer_id: ProducerId, *, commit: bool) -> Iterator[Row]:
        """The rows that a transaction's end writes for one group: on commit the newer offsets win (rule O1)."""
        pending = self.pending.get(group, {}).get(producer_id)
        if pending is None:
            return
        if commit:
            committed = self.committed.get(group, {})
            for at, row in pending.items():
                before = committed.get(at)
                if before is None or before.version < row.offset.version:
                    yield row.offset
        yield PendingOffsetsSettled(group=group, producer_id=producer_id)

    def rows(self) -> Iterator[Row]:
        """Everything, for a checkpoint."""
        for of_group in self.committed.values():
            yield from of_group.values()
        for producers in self.pending.values():
            for of_producer in producers.values():
                yield from of_producer.values()
