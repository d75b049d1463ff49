"""What a reader may see of a partition (rules R1, R2, R5).

Bounds are those of synced data: ``Log.high_watermark`` and ``Log.stable_offset`` (rule D2).
"""

from __future__ import annotations

from bisect import bisect_left

from oncelog.engine.state import Log
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import ProducerId


def offset_end(log: Log, *, is_committed: bool) -> int:
    """Up to where a reader of this isolation may read (rule R1)."""
    return log.stable_offset if is_committed else log.high_watermark


def check_offset(log: Log, offset: int) -> None:
    """Raise Refusal(OFFSET_OUT_OF_RANGE) for an offset outside the log."""
    if not log.offset_start <= offset <= log.offset_next:
        raise Refusal(
            ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset}, log has {log.offset_start} to {log.high_watermark}"
        )


def check_leader_epoch(epoch: int) -> None:
    """A client's idea of the leader epoch, which is 0 for ever on one node; -1 means no idea. Raises Refusal."""
    if epoch > 0:
        raise Refusal(ErrorCode.UNKNOWN_LEADER_EPOCH, f"leader epoch {epoch}, the newest is 0")


def first_aborted(log: Log, offset: int) -> int:
    """Where in ``log.aborted`` the transactions begin whose marker is at ``offset`` or later."""
    return bisect_left(log.aborted, offset, key=lambda aborted: aborted.offset_marker)


def aborted_between(log: Log, offset: int, end: int) -> list[tuple[ProducerId, int]]:
    """(producer id, first offset) of the aborted transactions that overlap [offset, end), by first offset (rule R2)."""
    found: list[tuple[ProducerId, int]] = []
    for at in range(first_aborted(log, offset), len(log.aborted)):
        aborted = log.aborted[at]
        if aborted.offset_first < end:
            found.append((aborted.producer_id, aborted.offset_first))
        if aborted.stable_offset >= end:
            break
    found.sort(key=lambda transaction: transaction[1])
    return found
