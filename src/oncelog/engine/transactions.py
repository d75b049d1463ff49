"""Transactions: who may write under a transactional id, what is in its open transaction, how it ends (rules T, D1, D7, D8).

The state table (T1); every way out of ONGOING is one Decision with the outcome, a control batch for each partition and the
group offsets (D1), so there is nothing between open and ended:

    EMPTY -- add partitions, offsets, produce (TV2) --> ONGOING
    ONGOING -- commit --> COMPLETE_COMMIT      ONGOING -- abort, timeout, operator --> COMPLETE_ABORT
    COMPLETE_* -- add ... --> ONGOING          any -- InitProducerId --> EMPTY (what was open is aborted)

TV1 requests keep the epoch over many transactions; TV2 requests (EndTxn 5+) bump it with each. The request's version says
which, not the connection. KIP-98, KIP-360, KIP-588, KIP-890.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from oncelog.engine.decision import Append, Decision, Level
from oncelog.engine.partitions import check_current, joined
from oncelog.engine.state import Log, State
from oncelog.model.batch import control_batch, control_header
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import EPOCH_MAX, NO_EPOCH, NO_PRODUCER, Epoch, LogId, ProducerId
from oncelog.model.limits import ID_CHARACTERS_MAX, TRANSACTIONAL_IDS_MAX
from oncelog.model.rows import ProducerIds, Row, Transaction, TransactionState

#: The first version of each request that knows PRODUCER_FENCED (KIP-588); before, INVALID_PRODUCER_EPOCH says it.
INIT_FENCED_VERSION: Final = 4
ADD_FENCED_VERSION: Final = 2
END_FENCED_VERSION: Final = 2
#: EndTxn from here on bumps the epoch (TV2).
END_BUMP_VERSION: Final = 5

_TOO_MANY_IDS: Final = (
    f"the broker knows {TRANSACTIONAL_IDS_MAX} transactional ids, as many as it may: use the same ones again after a start, "
    "or lower transactional.id.expiration.ms"
)

_BY_OPERATOR: Final = "aborted by an operator"

_ENDED: Final = {True: TransactionState.COMPLETE_COMMIT, False: TransactionState.COMPLETE_ABORT}


class Session(NamedTuple):
    """A producer id and its epoch: what InitProducerId and EndTxn v5 give."""

    producer_id: ProducerId
    epoch: Epoch


# -- InitProducerId -------------------------------------------------------------------------------------------------------


def decide_init(
    state: State,
    transactional_id: str | None,
    *,
    timeout_ms: int,
    caller: Session,
    version: int,
    client_address: str,
    now_ms: int,
) -> Decision:
    """A producer session begins (rules T2, T3, D8). ``caller`` is what the client says it has, (-1, -1) for nothing.

    The reply is a Session. Raises Refusal.
    """
    if transactional_id is None:
        fresh = Session(state.producer_id_next, Epoch(0))
        return Decision((_ids_after(fresh.producer_id),), reply=fresh)
    if not transactional_id or len(transactional_id) > ID_CHARACTERS_MAX:
        raise Refusal(ErrorCode.INVALID_REQUEST, "empty or too long transactional id (T2)")
    timeout_ms_max = state.settings.transaction_timeout_ms_max
    if not 0 < timeout_ms <= timeout_ms_max:
        raise Refusal(
            ErrorCode.INVALID_TRANSACTION_TIMEOUT,
            f"timeout of {timeout_ms} ms, transaction.max.timeout.ms {timeout_ms_max}",
        )
    if (caller.producer_id < 0) != (caller.epoch < 0):
        raise Refusal(ErrorCode.INVALID_REQUEST, "producer id without epoch, or epoch without producer id")
    before = state.transactions.get(transactional_id)
    if before is None:
        return _first_session(state, transactional_id, timeout_ms, caller, client_address, now_ms)
    code_fenced = ErrorCode.PRODUCER_FENCED if version >= INIT_FENCED_VERSION else ErrorCode.INVALID_PRODUCER_EPOCH
    if caller.producer_id >= 0:
        repeated = _check_caller(before, caller, code_fenced)
        if repeated is not None:
            return Decision(reply=repeated)
    return _next_session(state, before, timeout_ms, caller, client_address, now_ms)


def _first_session(
    state: State, transactional_id: str, timeout_ms: int, caller: Session, client_address: str, now_ms: int
) -> Decision:
    """A transactional id that is new, or that expired: what the caller had does not matter, as in Kafka.

    Differs: it is remembered, so that the caller may ask again if the answer is lost (rules T3, T9); Kafka fences it then.
    """
    if len(state.transactions) >= TRANSACTIONAL_IDS_MAX:
        raise Refusal(ErrorCode.POLICY_VIOLATION, _TOO_MANY_IDS)
    session = Session(state.producer_id_next, Epoch(0))
    is_free = 0 <= caller.producer_id < session.producer_id and caller.producer_id not in state.transaction_of
    row = Transaction(
        transactional_id,
        session.producer_id,
        session.epoch,
        timeout_ms,
        TransactionState.EMPTY,
        previous_producer_id=caller.producer_id if is_free else NO_PRODUCER,
        last_epoch=caller.epoch if is_free else NO_EPOCH,
        updated_ms=now_ms,
        client_address=client_address,
    )
    return Decision((_ids_after(session.producer_id), row), reply=session)


def _check_caller(before: Transaction, caller: Session, code_fenced: ErrorCode) -> Session | None:
    """Whether this producer may go on (rules T3, D8); a Session if it only repeats its last call."""
    current = Session(before.producer_id, before.epoch)
    if caller == current:
        return None
    is_same = caller.producer_id == before.producer_id
    # Later than epoch 0 only where the producer was stopped at the highest epoch, and went on (see _next_session).
    is_before = caller.producer_id == before.previous_producer_id and (before.epoch == 0 or caller.epoch >= EPOCH_MAX)
    if (is_same or is_before) and caller.epoch >= 0:
        if _is_not_replaced(before, caller):
            return None
        if caller.epoch == before.last_epoch:
            return current
    raise Refusal(
        code_fenced,
        f"{before.id!r} belongs to {current}, not to {caller}"
        + (f": {before.fence_reason}" if before.fence_reason else ""),
    )


def _next_session(
    state: State, before: Transaction, timeout_ms: int, caller: Session, client_address: str, now_ms: int
) -> Decision:
    """Abort what is open, bump the epoch, in one entry (rule T2)."""
    session, rows = _bumped(state, before)
    end_rows, batches = _end_everywhere(state, before, _epoch_after(before), commit=False, now_ms=now_ms)
    is_other = caller.producer_id < 0
    # It asks with the producer id that its timeout has exhausted, and would ask with it again.
    is_from_before = not is_other and caller.producer_id != before.producer_id
    reason = f"replaced by {client_address}, was {before.client_address}" if is_other else ""
    row = Transaction(
        before.id,
        session.producer_id,
        session.epoch,
        timeout_ms,
        TransactionState.EMPTY,
        previous_producer_id=before.previous_producer_id if is_from_before else _previous(before, session),
        last_epoch=NO_EPOCH if is_other else caller.epoch,
        updated_ms=now_ms,
        fence_reason=reason,
        client_address=client_address,
    )
    return Decision((*rows, row, *end_rows), batches, reply=session)


# -- what belongs to a transaction ----------------------------------------------------------------------------------------


def decide_add_partitions(
    state: State, transactional_id: str, session: Session, logs: Sequence[Log], *, version: int, now_ms: int
) -> Decision:
    """The partitions become part of the open transaction, which begins with the first (rule T4). Raises Refusal."""
    transaction = _current(state, transactional_id, session, version >= ADD_FENCED_VERSION)
    is_open = transaction.state is TransactionState.ONGOING
    there = set(transaction.logs) if is_open else set()
    new = tuple(dict.fromkeys(log.id for log in logs if log.id not in there))
    if not new:
        return Decision(level=Level.WRITTEN)
    return Decision((joined(transaction, logs=new, groups=(), now_ms=now_ms),), level=Level.WRITTEN)


def verify_partition(state: State, transactional_id: str, session: Session, log: Log, *, version: int) -> None:
    """AddPartitionsToTxn v4+ with verifyOnly: Refusal unless the partition is in the open transaction (KIP-890)."""
    transaction = _current(state, transactional_id, session, is_fenced_known=True)
    if transaction.state is not TransactionState.ONGOING or log.id not in transaction.logs:
        code = ErrorCode.TRANSACTION_ABORTABLE if version >= 5 else ErrorCode.INVALID_TXN_STATE
        raise Refusal(code, "the partition is not part of the open transaction")


def decide_add_group(
    state: State, transactional_id: str, session: Session, group: str, *, version: int, now_ms: int
) -> Decision:
    """The group's offsets become part of the open transaction (rule T4). Raises Refusal."""
    transaction = _current(state, transactional_id, session, version >= ADD_FENCED_VERSION)
    if transaction.state is TransactionState.ONGOING and group in transaction.groups:
        return Decision(level=Level.WRITTEN)
    return Decision((joined(transaction, logs=(), groups=(group,), now_ms=now_ms),), level=Level.WRITTEN)


def group_joined(
    state: State, transactional_id: str, session: Session, group: str, *, version: int, now_ms: int
) -> tuple[Row, ...]:
    """For TxnOffsetCommit: the rows that make the group part of the open transaction, none if it is (rule O6).

    Raises Refusal: 49, 47 for a fenced producer; TV1 without AddOffsetsToTxn: 120 (v4), 48 (below).
    """
    transaction = check_current(
        state.transactions.get(transactional_id),
        session.producer_id,
        session.epoch,
        code_fenced=ErrorCode.INVALID_PRODUCER_EPOCH,
    )
    if transaction.state is TransactionState.ONGOING and group in transaction.groups:
        return ()
    if version < 5:
        code = ErrorCode.TRANSACTION_ABORTABLE if version == 4 else ErrorCode.INVALID_TXN_STATE
        raise Refusal(code, "the group was not added to the current transaction (O6)")
    return (joined(transaction, logs=(), groups=(group,), now_ms=now_ms),)


# -- the end --------------------------------------------------------------------------------------------------------------


def decide_end(
    state: State, transactional_id: str, session: Session, *, commit: bool, version: int, now_ms: int
) -> Decision:
    """EndTxn (rules T5, T6, D1, D7). The reply is the Session that the producer has afterwards. Raises Refusal."""
    if version >= END_BUMP_VERSION:
        return _decide_end_bumping(state, transactional_id, session, commit=commit, now_ms=now_ms)
    transaction = _current(state, transactional_id, session, version >= END_FENCED_VERSION)
    if transaction.state is TransactionState.ONGOING:
        rows, batches = _end_everywhere(state, transaction, transaction.epoch, commit=commit, now_ms=now_ms)
        return Decision((_ended(transaction, session, commit=commit, now_ms=now_ms), *rows), batches, reply=session)
    if transaction.state is _ENDED[commit] or (transaction.state is TransactionState.EMPTY and not commit):
        return Decision(reply=session)
    raise Refusal(ErrorCode.INVALID_TXN_STATE, f"{_verb(commit)} in {transaction.state.name}")


def _decide_end_bumping(
    state: State, transactional_id: str, session: Session, *, commit: bool, now_ms: int
) -> Decision:
    """The table of rule T6."""
    transaction = state.transactions.get(transactional_id)
    if transaction is not None and _is_retry(transaction, session):
        return _end_repeated(transaction, session, commit=commit)
    transaction = _current(state, transactional_id, session, is_fenced_known=True)
    if commit and transaction.state is not TransactionState.ONGOING:
        raise Refusal(ErrorCode.INVALID_TXN_STATE, f"commit in {transaction.state.name}")
    after, id_rows = _bumped(state, transaction)
    rows, batches = _end_everywhere(state, transaction, _epoch_after(transaction), commit=commit, now_ms=now_ms)
    row = _ended(transaction, after, commit=commit, now_ms=now_ms)
    return Decision((*id_rows, row, *rows), batches, reply=after)


def _is_retry(transaction: Transaction, session: Session) -> bool:
    """Whether the present epoch was made by ending this session's own transaction (rule T6).

    Being one less is not enough: TV1's ends leave the epoch where InitProducerId put it, and then the epoch before belongs to
    the instance that was replaced.
    """
    is_same = session.producer_id == transaction.producer_id
    is_previous = session.producer_id == transaction.previous_producer_id and transaction.epoch == 0
    if not (is_same or is_previous) or session.epoch < 0 or (is_same and session.epoch == transaction.epoch):
        return False
    if session.epoch == transaction.last_epoch:
        return True
    if _is_not_replaced(transaction, session):
        return True
    is_just_before = session.epoch == (transaction.epoch - 1 if is_same else EPOCH_MAX)
    return is_just_before and transaction.fence_reason != ""


def _end_repeated(transaction: Transaction, session: Session, *, commit: bool) -> Decision:
    """A repeated EndTxn: NONE if it asks for what happened, without another bump (rule T6)."""
    present = Session(transaction.producer_id, transaction.epoch)
    if _is_not_replaced(transaction, session):
        if not commit:
            return Decision(reply=present)
    elif transaction.state is _ENDED[commit]:
        return Decision(reply=present)
    elif transaction.state in (TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT):
        raise Refusal(ErrorCode.INVALID_TXN_STATE, f"{_verb(commit)} again, but it is {transaction.state.name}")
    raise Refusal(ErrorCode.PRODUCER_FENCED, transaction.fence_reason or "the epoch is not the current one")


def decide_timeout(state: State, transactional_id: str, now_ms: int) -> Decision | None:
    """Abort a transaction whose time is over and bump the epoch (rules T7, D5, D8); None if it isn't."""
    transaction = state.transactions.get(transactional_id)
    if transaction is None or transaction.state is not TransactionState.ONGOING:
        return None
    if now_ms < transaction.started_ms + transaction.timeout_ms:
        return None
    return _abort_and_fence(state, transaction, f"timed out after {transaction.timeout_ms} ms", now_ms, is_timeout=True)


def decide_all_lost(state: State, now_ms: int) -> Iterator[Decision]:
    """After the machine's restart: abort every open transaction, which may have lost unsynced batches (rule D2).

    Lazy: each decision must be committed before the next is taken.
    """
    reason = "the machine restarted while the transaction was open"
    open_ids = [row.id for row in state.transactions.values() if row.state is TransactionState.ONGOING]
    for transactional_id in open_ids:
        yield _abort_and_fence(state, state.transactions[transactional_id], reason, now_ms, is_timeout=True)


def decide_all_doubted(state: State) -> Iterator[Decision]:
    """After the machine's restart: fence every producer that has nothing open here (rule D2).

    It may have had: a transaction may be lost whole, with all that was answered, and its producer would add the rest to a new
    one and commit that, or take the answer to its commit from the transaction before. It may go on with a new epoch (rule D8).
    Lazy as ``decide_all_lost``.
    """
    doubted = [row.id for row in state.transactions.values() if row.state is not TransactionState.ONGOING]
    for transactional_id in doubted:
        before = state.transactions[transactional_id]
        after, id_rows = _bumped(state, before)
        # The machine may go down again before the producer comes: it asks with the producer id from before all that.
        is_before_known = before.previous_producer_id >= 0 and before.timed_out_epoch >= 0 and not id_rows
        row = Transaction(
            before.id,
            after.producer_id,
            after.epoch,
            before.timeout_ms,
            before.state,
            previous_producer_id=before.previous_producer_id if is_before_known else _previous(before, after),
            last_epoch=before.last_epoch,
            timed_out_epoch=_first_not_replaced(before),
            updated_ms=before.updated_ms,
            fence_reason="the machine restarted, and may have lost a transaction",
            client_address=before.client_address,
        )
        yield Decision((*id_rows, row))


def decide_operator_abort(state: State, transactional_id: str, now_ms: int) -> Decision:
    """Abort a whole open transaction on an operator's word (WriteTxnMarkers, rule T11).

    Differs: Kafka aborts one partition and lets the others be committed, which tears the transaction (rule D1).
    """
    transaction = state.transactions[transactional_id]
    return _abort_and_fence(state, transaction, _BY_OPERATOR, now_ms, is_timeout=False)


def is_aborted_by_operator(transaction: Transaction, session: Session) -> bool:
    """Whether the session's transaction was ended by ``decide_operator_abort`` and nothing has come since: a marker for another
    of its partitions, or a repeated one, asks for what has happened (rule T11).
    """
    is_next = transaction.producer_id == session.producer_id and transaction.epoch == session.epoch + 1
    return is_next and transaction.state is TransactionState.COMPLETE_ABORT and transaction.fence_reason == _BY_OPERATOR


def _abort_and_fence(state: State, transaction: Transaction, reason: str, now_ms: int, *, is_timeout: bool) -> Decision:
    """``is_timeout``: the producer itself may go on with a new epoch (rule D8)."""
    after, id_rows = _bumped(state, transaction)
    rows, batches = _end_everywhere(state, transaction, _epoch_after(transaction), commit=False, now_ms=now_ms)
    row = Transaction(
        transaction.id,
        after.producer_id,
        after.epoch,
        transaction.timeout_ms,
        TransactionState.COMPLETE_ABORT,
        previous_producer_id=_previous(transaction, after),
        timed_out_epoch=_first_not_replaced(transaction) if is_timeout else NO_EPOCH,
        started_ms=transaction.started_ms,
        updated_ms=now_ms,
        fence_reason=reason,
        client_address=transaction.client_address,
    )
    return Decision((*id_rows, row, *rows), batches)


def decide_marker(log: Log, session: Session, *, commit: bool, coordinator_epoch: int, now_ms: int) -> Decision:
    """A marker where the producer has nothing open: it only fences older epochs (rule T8). Raises Refusal (47)."""
    row = log.producers.get(session.producer_id)
    if row is not None and row.epoch > session.epoch:
        raise Refusal(ErrorCode.INVALID_PRODUCER_EPOCH, f"marker of epoch {session.epoch}, partition has {row.epoch}")
    return Decision(batches=(_marker(log, session, commit, now_ms, coordinator_epoch),))


# -- shared ---------------------------------------------------------------------------------------------------------------


def _current(state: State, transactional_id: str, session: Session, is_fenced_known: bool) -> Transaction:
    code = ErrorCode.PRODUCER_FENCED if is_fenced_known else ErrorCode.INVALID_PRODUCER_EPOCH
    return check_current(state.transactions.get(transactional_id), session.producer_id, session.epoch, code_fenced=code)


def _ids_after(producer_id: ProducerId) -> ProducerIds:
    return ProducerIds(ProducerId(producer_id + 1))


def _epoch_after(transaction: Transaction) -> Epoch:
    """The epoch that fences the current one in partitions; one above EPOCH_MAX is never given to a client."""
    return Epoch(transaction.epoch + 1)


def _bumped(state: State, transaction: Transaction) -> tuple[Session, tuple[Row, ...]]:
    """The next session and the rows that it takes: at epoch 32766 a new producer id begins at 0 (rule T2)."""
    if transaction.epoch >= EPOCH_MAX:
        return Session(state.producer_id_next, Epoch(0)), (_ids_after(state.producer_id_next),)
    return Session(transaction.producer_id, _epoch_after(transaction)), ()


def _first_not_replaced(transaction: Transaction) -> Epoch:
    """What a timeout writes down (rule D8): the epoch that it ends, or that of an earlier timeout if nobody has come since."""
    return transaction.timed_out_epoch if transaction.timed_out_epoch >= 0 else transaction.epoch


def _is_not_replaced(transaction: Transaction, session: Session) -> bool:
    """Whether only timeouts and restarts have ended the session's epoch, and no other instance has come since (rule D8)."""
    first = transaction.timed_out_epoch
    if first < 0 or session.epoch < 0:
        return False
    if session.producer_id == transaction.producer_id:
        return first <= session.epoch < transaction.epoch
    return session.producer_id == transaction.previous_producer_id and session.epoch >= first


def _previous(before: Transaction, after: Session) -> ProducerId:
    """The producer id before the newest one, for retries across its exhaustion (rules T3, T6)."""
    return before.producer_id if after.producer_id != before.producer_id else NO_PRODUCER


def _ended(before: Transaction, after: Session, *, commit: bool, now_ms: int) -> Transaction:
    is_bumped = (before.producer_id, before.epoch) != after
    return Transaction(
        before.id,
        after.producer_id,
        after.epoch,
        before.timeout_ms,
        _ENDED[commit],
        previous_producer_id=_previous(before, after) if is_bumped else before.previous_producer_id,
        last_epoch=before.epoch if is_bumped else NO_EPOCH,
        started_ms=before.started_ms,
        updated_ms=now_ms,
        client_address=before.client_address,
    )


def _end_everywhere(
    state: State, transaction: Transaction, epoch: Epoch, *, commit: bool, now_ms: int
) -> tuple[tuple[Row, ...], tuple[Append, ...]]:
    """The control batch of each partition and the rows of each group; a partition deleted meanwhile has none."""
    if transaction.state is not TransactionState.ONGOING:
        return (), ()
    session = Session(transaction.producer_id, epoch)
    batches = tuple(
        _marker(state.logs[log_id], session, commit, now_ms, 0) for log_id in transaction.logs if log_id in state.logs
    )
    rows: list[Row] = []
    for group in transaction.groups:
        rows += state.offsets.end_of_transaction(group, transaction.producer_id, commit=commit)
    return tuple(rows), batches


def _marker(log: Log, session: Session, commit: bool, now_ms: int, coordinator_epoch: int) -> Append:
    header = control_header(
        producer_id=session.producer_id,
        epoch=session.epoch,
        commit=commit,
        timestamp_ms=now_ms,
        coordinator_epoch=coordinator_epoch,
    )
    data = control_batch(
        log.offset_next,
        producer_id=session.producer_id,
        epoch=session.epoch,
        commit=commit,
        timestamp_ms=now_ms,
        coordinator_epoch=coordinator_epoch,
    )
    return Append(log.id, log.offset_next, header, data)


def _verb(commit: bool) -> str:
    return "commit" if commit else "abort"


# -- looking --------------------------------------------------------------------------------------------------------------

_STATE_NAMES: Final = {
    TransactionState.EMPTY: "Empty",
    TransactionState.ONGOING: "Ongoing",
    TransactionState.COMPLETE_COMMIT: "CompleteCommit",
    TransactionState.COMPLETE_ABORT: "CompleteAbort",
}


def state_name_of(state: TransactionState) -> str:
    """The state under Kafka's name."""
    return _STATE_NAMES[state]


def is_open(transaction: Transaction) -> bool:
    """Whether it has begun and not ended."""
    return transaction.state is TransactionState.ONGOING


def topics_of(state: State, logs: Sequence[LogId]) -> dict[str, list[int]]:
    """Partition indexes by topic, without logs deleted meanwhile."""
    topics: dict[str, list[int]] = {}
    for log_id in logs:
        log = state.logs.get(log_id)
        if log is not None:
            topics.setdefault(log.topic, []).append(log.index)
    return topics


def describe(state: State, transactional_id: str) -> dict[str, Any]:
    """One element of DescribeTransactions' reply (rule T11)."""
    row = state.transactions.get(transactional_id)
    if row is None:
        code = ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
        return _description(code, transactional_id, "", 0, -1, NO_PRODUCER, NO_EPOCH, [])
    is_open = row.state is TransactionState.ONGOING
    topics = [{"topic": name, "partitions": indexes} for name, indexes in topics_of(state, row.logs).items()]
    started_ms = row.started_ms if is_open else -1
    return _description(
        ErrorCode.NONE, row.id, state_name_of(row.state), row.timeout_ms, started_ms, row.producer_id, row.epoch, topics
    )


def _description(
    code: ErrorCode,
    transactional_id: str,
    name: str,
    timeout_ms: int,
    started_ms: int,
    producer_id: ProducerId,
    epoch: Epoch,
    topics: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "error_code": code,
        "transactional_id": transactional_id,
        "transaction_state": name,
        "transaction_timeout": timeout_ms,
        "transaction_start_time": started_ms,
        "producer_id": producer_id,
        "producer_epoch": epoch,
        "topics": topics,
    }
