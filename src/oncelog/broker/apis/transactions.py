"""InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn, and what operators ask (rules T, O, D4).

Every request of a producer passes ``_admit`` first: a connection that was closed or replaced meanwhile has no say (D4).
TV1 and TV2 differ by the request's version only; version notes stand at each function.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.call import Call, milliseconds
from oncelog.broker.meters import Fence
from oncelog.engine import transactions as engine
from oncelog.engine.catalog import check_name
from oncelog.engine.connections import Role
from oncelog.engine.decision import Decision, Level
from oncelog.engine.groups.subscriptions import compile_pattern
from oncelog.engine.groups.transactional import decide_transactional_commit
from oncelog.engine.state import Log
from oncelog.engine.transactions import Session
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import NO_EPOCH, NO_PRODUCER, Epoch, ProducerId
from oncelog.model.limits import ID_CHARACTERS_MAX, RESOURCES_PER_REQUEST_MAX
from oncelog.model.rows import Producer, Transaction, TransactionState
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_BATCHED_VERSION = 4
#: Transactions that are looked at in one step; markers that are written in one, each an entry.
_TRANSACTIONS_A_STEP: Final = 5_000
_MARKERS_A_STEP: Final = 100
#: Answers for more offsets or partitions are encoded in steps.
_OFFSETS_AT_ONCE: Final = 1_000


def _admit(broker: Broker, call: Call, transactional_id: str, session: Session, role: Role) -> None:
    """Refuse a late request; else remember the connection, if the session is the current one (rule D4)."""
    broker.connections.check(*session, role, call.peer.number)
    row = broker.state.transactions.get(transactional_id)
    if row is not None and session == (row.producer_id, row.epoch):
        broker.connections.note(*session, role, call.peer.number)


def init_producer_id(broker: Broker, call: Call) -> None:
    """0-5. From 3 with the caller's session (KIP-360); 4 knows PRODUCER_FENCED; 5 TRANSACTION_ABORTABLE."""
    request = call.request
    if call.is_abandoned():
        return
    caller = Session(
        ProducerId(getattr(request, "producer_id", NO_PRODUCER)), Epoch(getattr(request, "producer_epoch", NO_EPOCH))
    )
    try:
        if request.transactional_id is not None and caller.producer_id >= 0:
            broker.connections.check(*caller, Role.COORDINATOR, call.peer.number)
        decision = engine.decide_init(
            broker.state,
            request.transactional_id,
            timeout_ms=milliseconds(request.transaction_timeout),
            caller=caller,
            version=call.version,
            client_address=call.peer.address,
            now_ms=broker.now_ms(),
        )
    except Refusal as no:
        tree = {"error_code": broker.refused(call, no), "producer_id": -1, "producer_epoch": -1}
        broker.answer_read(call, {"throttle_time": 0, **tree})
        return
    session: Session = decision.reply
    if request.transactional_id is not None:
        broker.connections.note(*session, Role.COORDINATOR, call.peer.number)
        _log_fence(broker, request.transactional_id, decision)
    broker.commit(call, decision._replace(reply=_session_tree(session)))


def _log_fence(broker: Broker, transactional_id: str, decision: Decision) -> None:
    before = broker.state.transactions.get(transactional_id)
    after = next((row for row in decision.rows if getattr(row, "id", None) == transactional_id), None)
    reason = getattr(after, "fence_reason", "")
    if before is not None and reason:
        broker.fenced(Fence.REPLACED, before, reason)


def _session_tree(session: Session) -> dict[str, Any]:
    return {
        "throttle_time": 0,
        "error_code": 0,
        "producer_id": session.producer_id,
        "producer_epoch": session.epoch,
    }


def add_partitions_to_txn(broker: Broker, call: Call) -> None:
    """0-3: one transaction; 2 knows PRODUCER_FENCED. 4-5: several, also only to verify (KIP-890), as brokers ask."""
    request = call.request
    if call.is_abandoned():
        return
    if call.version >= _BATCHED_VERSION:
        results: list[dict[str, Any]] = []
        level = Level.WRITTEN
        for one in request.transactions:
            session = Session(one.producer_id, one.producer_epoch)
            topics, is_refused = _add_partitions(
                broker, call, one.transactional_id, session, one.topics, is_verifying=one.verify_only
            )
            level = Level.SYNCED if is_refused else level
            results.append({"transactional_id": one.transactional_id, "topic_results": topics})
        tree = {"throttle_time": 0, "error_code": 0, "results_by_transaction": results}
    else:
        session = Session(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch)
        topics, is_refused = _add_partitions(
            broker, call, request.v3_and_below_transactional_id, session, request.v3_and_below_topics
        )
        level = Level.SYNCED if is_refused else Level.WRITTEN
        tree = {"throttle_time": 0, "results_by_topic_v3_and_below": topics}
    broker.reply_at(level, broker.storage.position_appended, call, call.encode(tree))


def _add_partitions(
    broker: Broker, call: Call, transactional_id: str, session: Session, topics: Any, *, is_verifying: bool = False
) -> tuple[list[dict[str, Any]], bool]:
    """The results by topic, and whether anything was refused. One bad partition: the others get 55 (rule T4)."""
    state = broker.state
    try:
        if not is_verifying:
            _admit(broker, call, transactional_id, session, Role.COORDINATOR)
        logs: dict[tuple[str, int], Log] = {}
        is_any_unknown = False
        for topic in topics:
            for index in topic.partitions:
                log = state.log_of(topic.name, index)
                if log is None:
                    is_any_unknown = True
                else:
                    logs[topic.name, index] = log
        if is_verifying:
            return _verified(broker, call, transactional_id, session, topics), False
        if is_any_unknown:
            missing, others = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.OPERATION_NOT_ATTEMPTED
            return _by_partition(topics, lambda name, index: others if (name, index) in logs else missing), True
        decision = engine.decide_add_partitions(
            state, transactional_id, session, list(logs.values()), version=call.version, now_ms=broker.now_ms()
        )
    except Refusal as no:
        code = broker.refused(call, no)
        return _by_partition(topics, lambda *_: code), True
    broker.commit(None, decision)
    return _by_partition(topics, lambda *_: ErrorCode.NONE), False


def _verified(broker: Broker, call: Call, transactional_id: str, session: Session, topics: Any) -> list[dict[str, Any]]:
    def verify(name: str, index: int) -> ErrorCode:
        log = broker.state.log_of(name, index)
        if log is None:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        try:
            engine.verify_partition(broker.state, transactional_id, session, log, version=call.version)
        except Refusal as no:
            return no.code
        return ErrorCode.NONE

    return _by_partition(topics, verify)


def _by_partition(topics: Any, code: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": topic.name,
            "results_by_partition": [
                {"partition_index": index, "partition_error_code": int(code(topic.name, index))}
                for index in topic.partitions
            ],
        }
        for topic in topics
    ]


def add_offsets_to_txn(broker: Broker, call: Call) -> None:
    """0-4; 2 knows PRODUCER_FENCED. TV2 clients don't send it (rule O6)."""
    request = call.request
    if call.is_abandoned():
        return
    session = Session(request.producer_id, request.producer_epoch)
    try:
        _admit(broker, call, request.transactional_id, session, Role.COORDINATOR)
        if not request.group_id or len(request.group_id) > ID_CHARACTERS_MAX:
            raise Refusal(ErrorCode.INVALID_GROUP_ID, "empty or too long group id")
        decision = engine.decide_add_group(
            broker.state,
            request.transactional_id,
            session,
            request.group_id,
            version=call.version,
            now_ms=broker.now_ms(),
        )
    except Refusal as no:
        broker.answer_read(call, {"throttle_time": 0, "error_code": broker.refused(call, no)})
        return
    broker.commit(call, decision._replace(reply={"throttle_time": 0, "error_code": 0}))


def txn_offset_commit(broker: Broker, call: Call) -> None:
    """0-5. 3 carries the member (KIP-447, rule O2); 5 adds the group implicitly (TV2, rule O6)."""
    request = call.request
    if call.is_abandoned():
        return
    session = Session(request.producer_id, request.producer_epoch)
    try:
        _admit(broker, call, request.transactional_id, session, Role.OFFSETS)
        rows = engine.group_joined(
            broker.state,
            request.transactional_id,
            session,
            request.group_id,
            version=call.version,
            now_ms=broker.now_ms(),
        )
        decision = decide_transactional_commit(broker.state, request, version=call.version, now_ms=broker.now_ms())
    except Refusal as no:
        code = int(broker.refused(call, no))
        topics = [
            {
                "name": topic.name,
                "partitions": [
                    {"partition_index": part.partition_index, "error_code": code} for part in topic.partitions
                ],
            }
            for topic in request.topics
        ]
        broker.answer_read(call, {"throttle_time": 0, "topics": topics})
        return
    if len(decision.rows) < _OFFSETS_AT_ONCE:
        broker.commit(call, decision._replace(rows=(*rows, *decision.rows)))
        return
    position = broker.commit(None, decision._replace(rows=(*rows, *decision.rows)))
    broker.in_steps(call, broker.answering_at(decision.level, position, call, decision.reply))


def end_txn(broker: Broker, call: Call) -> None:
    """0-4 (TV1, rule T5): the epoch stays; 2 knows PRODUCER_FENCED. 5 (TV2, rule T6): the epoch is bumped."""
    request = call.request
    if call.is_abandoned():
        return
    session = Session(request.producer_id, request.producer_epoch)
    try:
        _admit(broker, call, request.transactional_id, session, Role.COORDINATOR)
        decision = engine.decide_end(
            broker.state,
            request.transactional_id,
            session,
            commit=request.committed,
            version=call.version,
            now_ms=broker.now_ms(),
        )
    except Refusal as no:
        tree = {"error_code": broker.refused(call, no), "producer_id": -1, "producer_epoch": -1}
        broker.answer_read(call, {"throttle_time": 0, **tree})
        return
    broker.commit(call, decision._replace(reply=_session_tree(decision.reply)))


# -- operators ------------------------------------------------------------------------------------------------------------


def write_txn_markers(broker: Broker, call: Call) -> None:
    """1. An operator's abort. Differs: an open transaction ends whole, in all its partitions. Where none is, it fences (T8)."""
    broker.in_steps(call, _write_markers(broker, call))


def _write_markers(broker: Broker, call: Call) -> Iterator[None]:
    markers: list[dict[str, Any]] = []
    # Each is an entry of its own: a request may name no more of them than an administrative one may of anything.
    done = 0
    for marker in call.request.markers:
        session = Session(marker.producer_id, marker.producer_epoch)
        topics: list[dict[str, Any]] = []
        for topic in marker.topics:
            partitions: list[dict[str, Any]] = []
            for index in topic.partition_indexes:
                done += 1
                if done % _MARKERS_A_STEP == 0:
                    yield
                code = ErrorCode.POLICY_VIOLATION
                if done <= RESOURCES_PER_REQUEST_MAX:
                    code = _write_marker(broker, marker, session, topic.name, index, call.peer.address)
                partitions.append({"partition_index": index, "error_code": int(code)})
            topics.append({"name": topic.name, "partitions": partitions})
        markers.append({"producer_id": marker.producer_id, "topics": topics})
    yield from broker.answering_read(call, {"markers": markers})


def _write_marker(broker: Broker, marker: Any, session: Session, topic: str, index: int, peer: str) -> ErrorCode:
    state, now_ms = broker.state, broker.now_ms()
    log = state.log_of(topic, index)
    if log is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    try:
        row = state.transactions.get(state.transaction_of.get(session.producer_id, ""))
        is_open = row is not None and row.state is TransactionState.ONGOING and row.producer_id == session.producer_id
        if row is not None and is_open and (log.id in row.logs):
            if session.epoch < row.epoch:
                raise Refusal(ErrorCode.INVALID_PRODUCER_EPOCH, f"the open transaction has epoch {row.epoch}")
            if marker.transaction_result:
                raise Refusal(ErrorCode.INVALID_TXN_STATE, "only its producer commits a transaction")
            decision = engine.decide_operator_abort(state, row.id, now_ms)
            broker.fenced(Fence.OPERATOR, row, f"an operator at {peer} has aborted it")
        elif row is not None and not marker.transaction_result and engine.is_aborted_by_operator(row, session):
            return ErrorCode.NONE
        else:
            decision = engine.decide_marker(
                log,
                session,
                commit=marker.transaction_result,
                coordinator_epoch=marker.coordinator_epoch,
                now_ms=now_ms,
            )
    except Refusal as no:
        return no.code
    broker.lane.commit(decision, now_ms)
    return ErrorCode.NONE


def describe_producers(broker: Broker, call: Call) -> None:
    """0. What each partition knows of its producers."""
    asked: dict[str, dict[int, None]] = {}
    for topic in call.request.topics:
        asked.setdefault(topic.name, {}).update(dict.fromkeys(topic.partition_indexes))

    def of_topic(name: str) -> dict[str, Any]:
        return {"name": name, "partitions": Each(partial(_producers_of, broker, name), asked[name])}

    broker.answer_read(call, {"throttle_time": 0, "topics": Each(of_topic, asked)})


def _producers_of(broker: Broker, topic: str, index: int) -> dict[str, Any]:
    log = broker.state.log_of(topic, index)
    no = None if log else _missing(topic)
    return {
        "partition_index": index,
        "error_code": no.code if no else ErrorCode.NONE,
        "error_message": no.why if no else None,
        "active_producers": Each(_producer, list(log.producers.values())) if log else [],
    }


def _missing(topic: str) -> Refusal:
    try:
        check_name(topic)
    except Refusal as no:
        return no
    return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


def _producer(row: Producer) -> dict[str, Any]:
    return {
        "producer_id": row.id,
        "producer_epoch": row.epoch,
        "last_sequence": row.window[-1].sequence_last if row.window else -1,
        "last_timestamp": row.updated_ms,
        "coordinator_epoch": row.coordinator_epoch,
        "current_txn_start_offset": row.transaction_first_offset,
    }


def describe_transactions(broker: Broker, call: Call) -> None:
    """0. State, producer, timeout, and since when which partitions are in the open transaction (KIP-664)."""
    # Each once, however often it is named: a short request must not ask for a huge reply.
    asked = dict.fromkeys(call.request.transactional_ids)
    states = Each(partial(engine.describe, broker.state), asked)
    broker.answer_read(call, {"throttle_time": 0, "transaction_states": states})


def list_transactions(broker: Broker, call: Call) -> None:
    """0-2. 1 filters by duration; 2 by a pattern of the transactional id (KIP-1152)."""
    broker.in_steps(call, _list_transactions(broker, call))


def _list_transactions(broker: Broker, call: Call) -> Iterator[None]:
    request, now_ms = call.request, broker.now_ms()
    names = {engine.state_name_of(state) for state in TransactionState}
    wanted = set(request.state_filters)
    ids = set(request.producer_id_filters)
    duration_ms = getattr(request, "duration_filter", -1)
    pattern = getattr(request, "transactional_id_pattern", None)
    try:
        # RE2's, as in Kafka: a pattern that backtracks would hold the broker's one loop for as long as its author likes.
        matches = compile_pattern(pattern).fullmatch if pattern else None
    except Refusal as no:
        tree = {"error_code": broker.refused(call, no), "unknown_state_filters": [], "transaction_states": []}
        broker.answer(call, {"throttle_time": 0, **tree})
        return
    rows, found = list(broker.state.transactions.values()), []
    for at in range(0, len(rows), _TRANSACTIONS_A_STEP):
        if at:
            yield
        found += [
            row
            for row in rows[at : at + _TRANSACTIONS_A_STEP]
            if (not wanted or engine.state_name_of(row.state) in wanted)
            and (not ids or row.producer_id in ids)
            and (duration_ms < 0 or (row.state is TransactionState.ONGOING and now_ms - row.started_ms > duration_ms))
            and (matches is None or matches(row.id))
        ]
    tree = {
        "throttle_time": 0,
        "error_code": 0,
        "unknown_state_filters": sorted(wanted - names - _KAFKA_STATES),
        "transaction_states": Each(_listed, found),
    }
    yield from broker.answering_read(call, tree)


def _listed(row: Transaction) -> dict[str, Any]:
    return {
        "transactional_id": row.id,
        "producer_id": row.producer_id,
        "transaction_state": engine.state_name_of(row.state),
    }


#: States of Kafka that this broker never has (rule D1), but knows the names of.
_KAFKA_STATES = {"PrepareCommit", "PrepareAbort", "Dead", "PrepareEpochFence"}
