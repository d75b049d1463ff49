"""DeleteRecords 0-2 and OffsetForLeaderEpoch 2-4: where a partition's log begins, and where an epoch of its leader ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oncelog.broker.call import Call
from oncelog.engine.catalog import DeleteUpTo, decide_delete_records
from oncelog.engine.reading import check_leader_epoch
from oncelog.model.errors import ErrorCode, Refusal

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker


def delete_records(broker: Broker, call: Call) -> None:
    """0-2. Offset -1 is the high watermark; a higher one is out of range; one before the log's start changes nothing."""
    wanted = [
        DeleteUpTo(topic.name, part.partition_index, part.offset)
        for topic in call.request.topics
        for part in topic.partitions
    ]
    decision = decide_delete_records(broker.state, wanted)
    results = iter(decision.reply)
    topics: list[dict[str, Any]] = []
    for topic in call.request.topics:
        partitions = []
        for part, (low_watermark, code) in zip(topic.partitions, results, strict=False):
            partitions.append(
                {"partition_index": part.partition_index, "low_watermark": low_watermark, "error_code": code}
            )
        topics.append({"name": topic.name, "partitions": partitions})
    broker.commit(call, decision._replace(reply={"throttle_time": 0, "topics": topics}))


def offset_for_leader_epoch(broker: Broker, call: Call) -> None:
    """2-4. The only leader epoch there ever is, 0, has not ended: its end is the high watermark. Others are unknown (-1)."""
    topics = []
    for topic in call.request.topics:
        partitions = []
        for part in topic.partitions:
            code, epoch, end = ErrorCode.NONE, -1, -1
            try:
                log = broker.state.log_of(topic.topic, part.partition)
                if log is None:
                    raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
                check_leader_epoch(part.current_leader_epoch)
                if part.leader_epoch == 0:
                    epoch, end = 0, log.high_watermark
            except Refusal as no:
                code = broker.refused(call, no)
            partitions.append(
                {"error_code": code, "partition": part.partition, "leader_epoch": epoch, "end_offset": end}
            )
        topics.append({"topic": topic.topic, "partitions": partitions})
    broker.answer_read(call, {"throttle_time": 0, "topics": topics})
