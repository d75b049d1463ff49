"""Fetch 4-18 and ListOffsets 1-11 (rules R1-R6, D2, D3). How a fetch reads, waits and remembers is in broker/fetching.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Call
from oncelog.engine.reading import check_leader_epoch, offset_end
from oncelog.engine.state import Log
from oncelog.model.errors import DamagedRecords, ErrorCode, Refusal
from oncelog.model.records import RecordPlace, record_places
from oncelog.storage.contract import TimedBatch

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_LATEST: Final = -1
_EARLIEST: Final = -2
_MAX_TIMESTAMP: Final = -3
_EARLIEST_LOCAL: Final = -4
#: Tiered storage: nothing is there. -5 latest tiered (KIP-1005), -6 earliest pending upload (KIP-1023).
_TIERED: Final = (-5, -6)
_NOWHERE: Final = RecordPlace(-1, -1)
#: The first version that knows each special time; others, and those of later versions, are UNSUPPORTED_VERSION as in Kafka.
_SPECIAL: Final = {_LATEST: 1, _EARLIEST: 1, _MAX_TIMESTAMP: 7, _EARLIEST_LOCAL: 8, -5: 9, -6: 11}
#: What is looked at in one turn of the loop.
_PARTITIONS_A_STEP: Final = 500
_RECORDS_A_STEP: Final = 5_000


def fetch(broker: Broker, call: Call) -> None:
    """4-18. Whole batches, up to what the isolation may see (rules R1-R4). From 7 sessions (KIP-227); 13 topic ids. Fields for
    followers, tiered storage and other leaders have nothing to say on one node.
    """
    broker.fetching.fetch(call)


def list_offsets(broker: Broker, call: Call) -> None:
    """1-11. Times: -1 latest, -2 earliest, -3 largest timestamp (7), -4 as -2 (8), -5, -6 nothing; else look-up (R5).

    From 2 with isolation; from 4 with leader epochs.
    """
    broker.in_steps(call, _list_offsets(broker, call))


def _list_offsets(broker: Broker, call: Call) -> Iterator[None]:
    """In steps: there may be tens of thousands of partitions, and a look-up by time may open a batch of a million records."""
    request = call.request
    is_committed = getattr(request, "isolation_level", 0) == 1
    topics: list[dict[str, Any]] = []
    counts = Counter((topic.name, part.partition_index) for topic in request.topics for part in topic.partitions)
    done = 0
    for topic in request.topics:
        partitions: list[dict[str, Any]] = []
        for part in topic.partitions:
            done += 1
            if done % _PARTITIONS_A_STEP == 0:
                yield
            place, code = _NOWHERE, ErrorCode.NONE
            log = broker.state.log_of(topic.name, part.partition_index)
            try:
                if counts[topic.name, part.partition_index] > 1:
                    raise Refusal(ErrorCode.INVALID_REQUEST, "the partition is named more than once")
                if log is None:
                    raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
                check_leader_epoch(getattr(part, "current_leader_epoch", -1))
                if part.timestamp < 0 and call.version < _SPECIAL.get(part.timestamp, call.version + 1):
                    raise Refusal(ErrorCode.UNSUPPORTED_VERSION, f"no special time {part.timestamp} in this version")
                place = yield from _find(broker, log, part.timestamp, is_committed=is_committed)
            except DamagedRecords as no:
                assert log is not None
                broker.tell_damage(log.id, no)
                code = broker.refused(call, no)
            except Refusal as no:
                code = broker.refused(call, no)
            partitions.append(
                {
                    "partition_index": part.partition_index,
                    "error_code": code,
                    "timestamp": place.timestamp_ms,
                    "offset": place.offset,
                    "leader_epoch": 0 if place.offset >= 0 else -1,
                }
            )
        topics.append({"name": topic.name, "partitions": partitions})
    yield from broker.answering_read(call, {"throttle_time": 0, "topics": topics})


def _find(broker: Broker, log: Log, timestamp: int, *, is_committed: bool) -> Generator[None, None, RecordPlace]:
    end = offset_end(log, is_committed=is_committed)
    if timestamp == _LATEST:
        return RecordPlace(end, -1)
    if timestamp in (_EARLIEST, _EARLIEST_LOCAL):
        return RecordPlace(log.offset_start, -1)
    if timestamp in _TIERED:
        return _NOWHERE
    if timestamp == _MAX_TIMESTAMP:
        found = broker.storage.find_time_max(log.id, offset_start=log.offset_start, offset_end=end)
        return (yield from _in_batch(broker, log, found, found.timestamp_max, end)) if found else _NOWHERE
    found = broker.storage.find_time(log.id, timestamp, offset_start=log.offset_start, offset_end=end)
    return (yield from _in_batch(broker, log, found, timestamp, end)) if found else _NOWHERE


def _in_batch(
    broker: Broker, log: Log, found: TimedBatch, timestamp_ms: int, end: int
) -> Generator[None, None, RecordPlace]:
    """The first record of the batch with that time or a later one."""
    for piece in broker.storage.read(log.id, found.offset, offset_end=end, bytes_max=1):
        for number, place in enumerate(record_places(piece)):
            if place.timestamp_ms >= timestamp_ms and place.offset >= log.offset_start:
                return place
            if number % _RECORDS_A_STEP == _RECORDS_A_STEP - 1:
                yield
    return _NOWHERE
