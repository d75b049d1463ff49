"""What is past its time: records by age and size, idle producers, unused transactional ids (rules P8, D6, R1).

Pure: the storage says what could be removed as one (its *stretches*), these functions what may be. Callers look at some logs in
each turn of the loop; one decision forgets a bounded number of things.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from oncelog.engine.decision import NOTHING, Decision, Level
from oncelog.engine.producers import is_expired
from oncelog.engine.state import Log, State
from oncelog.model.ids import LogId
from oncelog.model.rows import LogStart, ProducerForgotten, Transaction, TransactionForgotten, TransactionState

#: Producers or transactional ids that one decision forgets, so that no turn of the loop is long.
_FORGOTTEN_MAX: Final = 1_000


def decide_retention(log: Log, stretches: Iterable[tuple[int, int, int]], now_ms: int) -> Decision:
    """Move the log's start past what is too old or too much.

    ``stretches``: (offset after it, its largest timestamp in ms, its bytes), the oldest first; it is read only as far as
    needed unless retention.bytes is set. Nothing at or above the last stable offset is removed: an open transaction's records
    stay (rule R1). Without a timestamp (-1) a stretch has no age.
    """
    settings = log.settings
    if not settings.is_deleted_by_age or (settings.retention_ms < 0 and settings.retention_bytes < 0):
        return NOTHING
    surplus_bytes = 0
    if settings.retention_bytes >= 0:
        stretches = list(stretches)
        surplus_bytes = sum(stretch[2] for stretch in stretches) - settings.retention_bytes
    bound = min(log.stable_offset, log.high_watermark)
    start = log.offset_start
    for offset_next, timestamp_max, size_bytes in stretches:
        is_old = 0 <= settings.retention_ms < now_ms - timestamp_max and timestamp_max >= 0
        surplus_bytes -= size_bytes
        if offset_next > bound or not (is_old or surplus_bytes >= 0):
            break
        start = max(start, offset_next)
    if start == log.offset_start:
        return NOTHING
    return Decision(rows=(LogStart(log.id, start),), level=Level.NOTHING)


def decide_producer_expiry(state: State, log_id: LogId, now_ms: int) -> Decision:
    """Forget producers of a log that have written nothing for producer.id.expiration.ms (rule P8)."""
    log = state.logs.get(log_id)
    if log is None:
        return NOTHING
    expiration_ms = state.settings.producer_expiration_ms
    rows: list[ProducerForgotten] = []
    for row in log.producers.values():
        if is_expired(row, now_ms, expiration_ms):
            rows.append(ProducerForgotten(log_id, row.id))
            if len(rows) == _FORGOTTEN_MAX:
                break
    return Decision(rows=tuple(rows), level=Level.NOTHING) if rows else NOTHING


def decide_transactional_id_expiry(state: State, now_ms: int) -> Iterator[Decision]:
    """Forget transactional ids that were not used for transactional.id.expiration.ms, some in each decision.

    Lazy: each decision is made when it is asked for, so the earlier ones must have been applied by then. An id with an open
    transaction stays.
    """
    expiration_ms = state.settings.transactional_id_expiration_ms
    idle = [row.id for row in state.transactions.values() if _is_idle(row, now_ms, expiration_ms)]
    for at in range(0, len(idle), _FORGOTTEN_MAX):
        rows = tuple(
            TransactionForgotten(row.id)
            for name in idle[at : at + _FORGOTTEN_MAX]
            if (row := state.transactions.get(name)) is not None and _is_idle(row, now_ms, expiration_ms)
        )
        if rows:
            yield Decision(rows=rows, level=Level.NOTHING)


def _is_idle(row: Transaction, now_ms: int, expiration_ms: int) -> bool:
    return row.state is not TransactionState.ONGOING and now_ms - row.updated_ms >= expiration_ms
