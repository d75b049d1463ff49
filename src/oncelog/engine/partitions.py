"""May this batch be written to this partition, and where (rules P1-P9, D6, T7).

``decide_append`` looks at one batch of one partition; the batch's own soundness (P4) was checked by model/batch.py. The
order of the questions is Kafka's: a repeated batch first, then the transaction, the epoch, the sequence.
"""

from __future__ import annotations

from typing import Final

from oncelog.engine.decision import Append, Decision, Level, Written
from oncelog.engine.producers import check_sequence, duplicate_of
from oncelog.engine.state import Log, State
from oncelog.model.batch import stamp
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import TIMESTAMP_LOG_APPEND, TRANSACTIONAL, BatchHeader
from oncelog.model.ids import LogId, ProducerId
from oncelog.model.limits import ABORTED_PER_PARTITION_MAX, TRANSACTION_PARTITIONS_MAX
from oncelog.model.rows import Row, Transaction, TransactionState

#: Produce versions from here on add the partition to the transaction implicitly (TV2, KIP-890).
IMPLICIT_ADD_VERSION: Final = 12
#: Produce versions from here on know TRANSACTION_ABORTABLE.
ABORTABLE_VERSION: Final = 11
#: Produce versions from here on may carry zstd (KIP-110).
ZSTD_VERSION: Final = 7
_ZSTD: Final = 4
#: Looked up once: finding a member of an Enum is dear.
_SYNCED: Final = Level.SYNCED
_WRITTEN: Final = Level.WRITTEN
_ONGOING: Final = TransactionState.ONGOING


def decide_append(
    state: State,
    log: Log,
    header: BatchHeader,
    data: bytes | memoryview,
    *,
    transactional_id: str | None,
    version: int,
    now_ms: int,
    wall_ms: int | None = None,
    joining: tuple[LogId, ...] = (),
) -> Decision:
    """Append one sound batch, of a Produce request of ``version``. The reply is ``Written``.

    ``joining`` are the logs of the request's other batches: TV2 adds them with the first, so that a request of a thousand
    partitions writes their list once. ``wall_ms`` is the machine's own time where that differs: a producer's timestamp may be
    right by either, and LogAppendTime is the machine's.
    Raises Refusal with the partition's error code.
    """
    if wall_ms is None:
        wall_ms = now_ms
    _check_topic_settings(log, header, version, now_ms, wall_ms)
    rows: tuple[Row, ...] = ()
    level = _SYNCED
    producer_id = header.producer_id
    if producer_id >= 0:
        row = log.producers.get(producer_id)
        repeated = duplicate_of(row, header)
        if header.attributes & TRANSACTIONAL:
            level = _WRITTEN
            if repeated is None:
                _check_room_to_abort(log, producer_id)
                rows = _join_transaction(state, log, header, transactional_id, version, now_ms, joining)
        elif producer_id in log.open:
            raise Refusal(ErrorCode.INVALID_TXN_STATE, "the producer has an open transaction here (P6)")
        if repeated is not None:
            return Decision(level=level, reply=Written(repeated.offset_base, repeated.timestamp_ms))
        if row is not None and row.window:
            check_sequence(row, header, first_must_be_zero=True)
        else:
            check_sequence(row, header, first_must_be_zero=_must_begin_at_zero(state, log, header, version, now_ms))
    offset, append_time_ms = log.offset_next, -1
    if log.settings.is_log_append_time:
        append_time_ms = wall_ms
        header = header._replace(attributes=header.attributes | TIMESTAMP_LOG_APPEND, timestamp_max=append_time_ms)
        stamped = stamp(data, offset, append_time_ms=append_time_ms)
    else:
        stamped = stamp(data, offset)
    return Decision(rows, (Append(log.id, offset, header, stamped),), level, Written(offset, append_time_ms))


def _check_topic_settings(log: Log, header: BatchHeader, version: int, now_ms: int, wall_ms: int) -> None:
    settings = log.settings
    if header.compression == _ZSTD and version < ZSTD_VERSION:
        raise Refusal(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7")
    if settings.is_log_append_time:
        return
    if header.timestamp_max > max(now_ms, wall_ms) + settings.timestamp_after_ms_max:
        raise Refusal(ErrorCode.INVALID_TIMESTAMP, f"timestamp {header.timestamp_max} is too far ahead of {now_ms}")
    if 0 <= header.timestamp_base < min(now_ms, wall_ms) - settings.timestamp_before_ms_max:
        raise Refusal(ErrorCode.INVALID_TIMESTAMP, f"timestamp {header.timestamp_base} is too far behind {now_ms}")


def _check_room_to_abort(log: Log, producer_id: ProducerId) -> None:
    """Whether the log can list one more aborted transaction (rule R2). Raises Refusal.

    If an entry were let go, readers from the log's start would take its records for committed ones.
    """
    if len(log.aborted) >= ABORTED_PER_PARTITION_MAX and producer_id not in log.open:
        raise Refusal(
            ErrorCode.POLICY_VIOLATION,
            f"the partition lists {ABORTED_PER_PARTITION_MAX} aborted transactions, as many as it may: delete old records, "
            "or shorten retention.ms, which takes those off the list that are gone",
        )


def check_current(
    transaction: Transaction | None,
    header_producer_id: int,
    epoch: int,
    *,
    code_fenced: ErrorCode,
) -> Transaction:
    """The transaction of exactly this producer id and epoch; else Refusal: 49, or ``code_fenced`` (rules T4, T5, T7)."""
    if transaction is None:
        raise Refusal(ErrorCode.INVALID_PRODUCER_ID_MAPPING, "no such transactional id")
    if transaction.producer_id != header_producer_id:
        if transaction.previous_producer_id == header_producer_id:
            raise Refusal(code_fenced, _why_fenced(transaction, epoch))
        raise Refusal(
            ErrorCode.INVALID_PRODUCER_ID_MAPPING,
            f"transactional id has producer id {transaction.producer_id}, not {header_producer_id}",
        )
    if transaction.epoch != epoch:
        raise Refusal(code_fenced, _why_fenced(transaction, epoch))
    return transaction


def _why_fenced(transaction: Transaction, epoch: int) -> str:
    reason = f" ({transaction.fence_reason})" if transaction.fence_reason else ""
    return f"epoch {epoch} of {transaction.id!r} is not the current one, {transaction.epoch}{reason}"


def _join_transaction(
    state: State,
    log: Log,
    header: BatchHeader,
    transactional_id: str | None,
    version: int,
    now_ms: int,
    joining: tuple[LogId, ...],
) -> tuple[Row, ...]:
    """The rows that make the partition part of the producer's open transaction; none if it is (rules P5, P7)."""
    if transactional_id is None:
        raise Refusal(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional batch, no transactional id (P5)")
    transaction = check_current(
        state.transactions.get(transactional_id),
        header.producer_id,
        header.producer_epoch,
        code_fenced=ErrorCode.INVALID_PRODUCER_EPOCH,
    )
    is_open = transaction.state is _ONGOING
    if is_open and (header.producer_id in log.open or log.id in transaction.logs):
        return ()
    if version < IMPLICIT_ADD_VERSION:
        code = ErrorCode.TRANSACTION_ABORTABLE if version >= ABORTABLE_VERSION else ErrorCode.INVALID_TXN_STATE
        raise Refusal(code, "the partition was not added to the current transaction (P7)")
    there = set(transaction.logs) if is_open else ()
    new = tuple(dict.fromkeys(one for one in (log.id, *joining) if one not in there))
    return (joined(transaction, logs=new, groups=(), now_ms=now_ms),)


def joined(transaction: Transaction, *, logs: tuple[LogId, ...], groups: tuple[str, ...], now_ms: int) -> Transaction:
    """The transaction, begun if it was not open, with more logs and groups in it (rule T7: its time runs from here).

    Raises Refusal(POLICY_VIOLATION) above the bound.
    """
    is_open = transaction.state is TransactionState.ONGOING
    all_logs, all_groups = (*transaction.logs, *logs), (*transaction.groups, *groups)
    if len(all_logs) + len(all_groups) > TRANSACTION_PARTITIONS_MAX:
        raise Refusal(
            ErrorCode.POLICY_VIOLATION, f"a transaction has at most {TRANSACTION_PARTITIONS_MAX} partitions and groups"
        )
    return Transaction(
        transaction.id,
        transaction.producer_id,
        transaction.epoch,
        transaction.timeout_ms,
        TransactionState.ONGOING,
        transaction.previous_producer_id,
        transaction.last_epoch,
        transaction.timed_out_epoch,
        all_logs,
        all_groups,
        transaction.started_ms if is_open else now_ms,
        now_ms,
        transaction.fence_reason,
        transaction.client_address,
    )


def _must_begin_at_zero(state: State, log: Log, header: BatchHeader, version: int, now_ms: int) -> bool:
    """Whether a partition that knows nothing of the producer can be sure that nothing was there (rule D6)."""
    if header.base_sequence == 0:
        return True
    if header.is_transactional and version >= IMPLICIT_ADD_VERSION:
        return True
    if header.producer_id < log.producer_id_created:
        return False
    age_ms = state.producer_id_age_ms_max(header.producer_id, now_ms)
    return age_ms is not None and age_ms < state.settings.producer_expiration_ms
