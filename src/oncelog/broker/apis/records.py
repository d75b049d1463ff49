"""DeleteRecords 0-2 and OffsetForLeaderEpoch 2-4: where a partition's log begins, and where an epoch of its leader ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Call
from oncelog.engine.catalog import DeleteUpTo, decide_delete_records
from oncelog.engine.reading import check_leader_epoch
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker


#: Partitions whose records are deleted in one step, by a decision and an entry of its own.
_PARTITIONS_A_STEP: Final = 500


def delete_records(broker: Broker, call: Call) -> None:
    """0-2. Offset -1 is the high watermark; a higher one is out of range; one before the log's start changes nothing."""
    broker.in_steps(call, _delete_records(broker, call))


def _delete_records(broker: Broker, call: Call) -> Iterator[None]:
    wanted = (
        DeleteUpTo(topic.name, part.partition_index, part.offset)
        for topic in call.request.topics
        for part in topic.partitions
    )
    answers: list[tuple[int, ErrorCode]] = []
    while some := list(islice(wanted, _PARTITIONS_A_STEP)):
        if answers:
            yield
        decision = decide_delete_records(broker.state, some)
        broker.commit(None, decision)
        answers += decision.reply
    results = iter(answers)
    topics: list[dict[str, Any]] = []
    for topic in call.request.topics:
        partitions = []
        for part, (low_watermark, code) in zip(topic.partitions, results, strict=False):
            partitions.append(
                {"partition_index": part.partition_index, "low_watermark": low_watermark, "error_code": code}
            )
        topics.append({"name": topic.name, "partitions": partitions})
    yield from broker.answering_read(call, {"throttle_time": 0, "topics": topics})


def offset_for_leader_epoch(broker: Broker, call: Call) -> None:
    """2-4. The only leader epoch there ever is, 0, has not ended: its end is the high watermark. Others are unknown (-1)."""

    def of_topic(topic: Any) -> dict[str, Any]:
        return {
            "topic": topic.topic,
            "partitions": Each(partial(_epoch_end, broker, call, topic.topic), topic.partitions),
        }

    broker.answer_read(call, {"throttle_time": 0, "topics": Each(of_topic, call.request.topics)})


def _epoch_end(broker: Broker, call: Call, topic: str, part: Any) -> dict[str, Any]:
    code, epoch, end = ErrorCode.NONE, -1, -1
    try:
        log = broker.state.log_of(topic, part.partition)
        if log is None:
            raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        check_leader_epoch(part.current_leader_epoch)
        if part.leader_epoch == 0:
            epoch, end = 0, log.high_watermark
    except Refusal as no:
        code = broker.refused(call, no)
    return {"error_code": code, "partition": part.partition, "leader_epoch": epoch, "end_offset": end}
