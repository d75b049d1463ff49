"""What a partition knows of a producer, and whether its next batch may be written (rules P1, P2, P3, P8, D6, T8).

Knows rows and headers only. ``producer_after`` is the one place that derives a Producer row from a batch; live decisions
and recovery both use it.
"""

from __future__ import annotations

from typing import Final

from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import CONTROL, TIMESTAMP_LOG_APPEND, TRANSACTIONAL, BatchHeader
from oncelog.model.ids import LogId, sequence_after
from oncelog.model.limits import DUPLICATE_WINDOW_BATCHES
from oncelog.model.rows import Producer, WrittenBatch

_NO_TRANSACTION: Final = -1


def producer_after(before: Producer | None, log: LogId, offset: int, header: BatchHeader, now_ms: int) -> Producer:
    """The row after a batch at ``offset``: the window moves on, a marker ends the transaction and fences (rules T8, P8)."""
    epoch, producer_id = header.producer_epoch, header.producer_id
    if header.attributes & CONTROL:
        if before is None or before.epoch < epoch:
            return Producer(log, producer_id, epoch, (), _NO_TRANSACTION, now_ms, 0)
        # Never lowered: an operator's marker may have fenced more than the transaction's own end does.
        return Producer(log, producer_id, before.epoch, before.window, _NO_TRANSACTION, now_ms, 0)
    last = sequence_after(header.base_sequence, header.offset_delta_last)
    timestamp_ms = header.timestamp_max if header.attributes & TIMESTAMP_LOG_APPEND else -1
    batch = WrittenBatch(header.base_sequence, last, offset, timestamp_ms)
    window: tuple[WrittenBatch, ...]
    if before is None or before.epoch != epoch:
        window, first_offset = (batch,), _NO_TRANSACTION
    else:
        window, first_offset = (*before.window[1 - DUPLICATE_WINDOW_BATCHES :], batch), before.transaction_first_offset
    if first_offset < 0 and header.attributes & TRANSACTIONAL:
        first_offset = offset
    return Producer(log, producer_id, epoch, window, first_offset, now_ms)


def duplicate_of(row: Producer | None, header: BatchHeader) -> WrittenBatch | None:
    """The batch of the window that ``header`` repeats exactly, if any (rule P1)."""
    if row is None or row.epoch != header.producer_epoch:
        return None
    first = header.base_sequence
    for batch in row.window:
        if batch.sequence_first == first and batch.sequence_last == sequence_after(first, header.offset_delta_last):
            return batch
    return None


def check_sequence(row: Producer | None, header: BatchHeader, *, first_must_be_zero: bool) -> None:
    """Whether the batch comes next (rules P2, P3, D6).

    ``first_must_be_zero`` says whether a partition that knows nothing of the producer can be sure of it.
    Raises Refusal: INVALID_PRODUCER_EPOCH, OUT_OF_ORDER_SEQUENCE_NUMBER.
    """
    sequence = header.base_sequence
    if row is None:
        if first_must_be_zero and sequence != 0:
            raise Refusal(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"first sequence is {sequence}, expected 0")
        return
    if header.producer_epoch < row.epoch:
        raise Refusal(ErrorCode.INVALID_PRODUCER_EPOCH, f"epoch {header.producer_epoch}, partition has {row.epoch}")
    expected = 0
    if header.producer_epoch == row.epoch:
        if row.window:
            expected = sequence_after(row.window[-1].sequence_last, 1)
        elif not first_must_be_zero:
            return
    if sequence != expected:
        raise Refusal(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"sequence {sequence}, expected {expected}")


def is_expired(row: Producer, now_ms: int, expiration_ms: int) -> bool:
    """Whether the row may be forgotten (rule P8)."""
    return row.transaction_first_offset < 0 and now_ms - row.updated_ms >= expiration_ms
