"""What may be seen of a running broker: read-only values, made when somebody asks.

Metrics, the HTTP pages and the pytest plugin look through here. Nothing returned refers to live state.
Each function walks what it reports, so its cost grows with it; ``LAGS_MAX`` and others bound the answers.
Rules D5 (why a producer was fenced), R1 (last stable offset).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from oncelog.engine.state import State
from oncelog.engine.transactions import state_name_of
from oncelog.model.rows import Transaction, TransactionState

#: Partitions whose lag is reported; those that lag most come first.
LAGS_MAX: Final = 1_000
#: Producers fenced most recently that are remembered.
FENCES_MAX: Final = 1_000
#: Transactional ids that one answer lists; open ones first, the oldest of them first.
TRANSACTIONS_MAX: Final = 10_000


class Totals(NamedTuple):
    """How much there is of everything. ``oldest_open_ms`` is 0 if no transaction is open."""

    topics: int
    partitions: int
    producers: int
    groups: int
    transactional_ids: int
    transactions_open: int
    oldest_open_ms: int


class Lag(NamedTuple):
    """Offsets between the last stable one and the high watermark of a partition: held back by an open transaction."""

    topic: str
    partition: int
    offsets: int


class SeenTransaction(NamedTuple):
    """One transactional id; ``open_ms`` is the age of its open transaction, or -1."""

    id: str
    state: str
    producer_id: int
    epoch: int
    timeout_ms: int
    open_ms: int
    partitions: tuple[str, ...]
    groups: tuple[str, ...]
    client_address: str
    fence_reason: str


class FencedProducer(NamedTuple):
    """A producer that lost its transactional id (rule D5). ``reason`` is a word of broker/meters.py's Fence."""

    time_ms: int
    transactional_id: str
    producer_id: int
    epoch: int
    reason: str
    why: str
    client_address: str


def totals(state: State, now_ms: int) -> Totals:
    """Count everything."""
    started = [row.started_ms for row in state.transactions.values() if row.state is TransactionState.ONGOING]
    return Totals(
        topics=len(state.topics),
        partitions=len(state.logs),
        producers=sum(len(log.producers) for log in state.logs.values()),
        groups=len(state.groups.by_id.keys() | state.offsets.committed.keys()),
        transactional_ids=len(state.transactions),
        transactions_open=len(started),
        oldest_open_ms=max(0, now_ms - min(started)) if started else 0,
    )


def lags(state: State) -> list[Lag]:
    """The partitions whose last stable offset is behind, those that are most behind first."""
    found = [
        Lag(log.topic, log.index, log.high_watermark - log.stable_offset)
        for log in state.logs.values()
        if log.stable_offset < log.high_watermark
    ]
    found.sort(key=lambda lag: (-lag.offsets, lag.topic, lag.partition))
    return found[:LAGS_MAX]


def transactions(state: State, now_ms: int) -> list[SeenTransaction]:
    """All transactional ids: open ones first, the oldest first, then the newest changes."""
    rows = sorted(state.transactions.values(), key=_order)
    return [_seen(state, row, now_ms) for row in rows[:TRANSACTIONS_MAX]]


def _order(row: Transaction) -> tuple[int, int]:
    if row.state is TransactionState.ONGOING:
        return 0, row.started_ms
    return 1, -row.updated_ms


def _seen(state: State, row: Transaction, now_ms: int) -> SeenTransaction:
    is_open = row.state is TransactionState.ONGOING
    logs = [state.logs[log_id] for log_id in row.logs if log_id in state.logs]
    return SeenTransaction(
        id=row.id,
        state=state_name_of(row.state),
        producer_id=row.producer_id,
        epoch=row.epoch,
        timeout_ms=row.timeout_ms,
        open_ms=max(0, now_ms - row.started_ms) if is_open else -1,
        partitions=tuple(f"{log.topic}-{log.index}" for log in logs) if is_open else (),
        groups=row.groups if is_open else (),
        client_address=row.client_address,
        fence_reason=row.fence_reason,
    )
