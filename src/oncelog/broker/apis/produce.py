"""Produce 3-13: append one batch to each partition named (rules P1-P10, D2, D4).

Each partition is a decision and an entry of its own, as each has its own error; the reply waits for the last of them. One of
many partitions goes in steps (broker/stepping.py), and whether its client is still there is asked in each (rule D4).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oncelog.broker.call import Call
from oncelog.engine.connections import Role
from oncelog.engine.decision import Level, Written
from oncelog.engine.partitions import IMPLICIT_ADD_VERSION, decide_append
from oncelog.engine.state import Log
from oncelog.engine.transactions import Session
from oncelog.model.batch import check_batch
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.header import TRANSACTIONAL, BatchHeader
from oncelog.model.ids import LogId, Position
from oncelog.model.rewriting import check_keys
from oncelog.wire.hot import produce_reply

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

#: From this version on a reply may say in words what is wrong.
_MESSAGE_VERSION = 8
_ID_VERSION = 13
#: Looked up once: a member of an Enum costs more to find than a batch's CRC to compute.
_UNKNOWN_PARTITION: Final = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

#: Partitions that are written in one step; whose batches are checked in one, if they are small.
_PARTITIONS_A_STEP: Final = 250
_CHECKED_A_STEP: Final = 2_000

_Answer = tuple[int, int, int, int, int, str | None]


def produce(broker: Broker, call: Call) -> None:
    """3-13. One batch for each partition (rules P1-P9). 0-2 are shown and refused (P10); 7 allows zstd; 8 says in words what
    is wrong; 11 knows TRANSACTION_ABORTABLE; 12 adds partitions to the transaction by itself (TV2); 13 names topics by id.
    """
    if call.request.acks == 0:
        # Nothing keeps the connection from being read on: what comes next must not be written first.
        call.is_expecting_reply = False
        for _ in _produce(broker, call):
            pass
    else:
        broker.in_steps(call, _produce(broker, call))


def _produce(broker: Broker, call: Call) -> Iterator[None]:
    try:
        checked, session = yield from _check_request(broker, call)
    except Refusal as no:
        broker.refused(call, no)
        _reply_same(call, no)
        return
    if session is not None:
        if call.is_abandoned():
            return
        _note_connection(broker, call, session)
    level, position, now_ms = Level.NOTHING, Position(0), broker.now_ms()
    topics: list[tuple[str | UUID, list[_Answer]]] = []
    left = _PARTITIONS_A_STEP
    joining = _joining(checked) if session is not None and call.version >= IMPLICIT_ADD_VERSION else ()
    for name, partitions in checked:
        answers: list[_Answer] = []
        for index, log, batch in partitions:
            left -= 1
            if left == 0:
                left = _PARTITIONS_A_STEP
                yield
                if session is not None and call.is_abandoned():
                    return
            answer, level_wanted, position_wanted = _append(broker, call, index, log, batch, now_ms, joining)
            answers.append(answer)
            level = level_wanted if level_wanted > level else level
            position = position_wanted if position_wanted > position else position
        topics.append((name, answers))
    if call.is_expecting_reply:
        broker.reply_at(level, position, call, produce_reply(call.version, topics))
    elif any(answer[1] for _, answers in topics for answer in answers):
        # As Kafka: closing is the only way to tell an acks=0 producer to look for its partitions again.
        call.peer.close("a batch with acks=0 was refused")


_Checked = list[tuple[str | UUID, list[tuple[int, Log | ErrorCode, tuple[BatchHeader, Any] | Refusal]]]]


def _check_request(broker: Broker, call: Call) -> Generator[None, None, tuple[_Checked, Session | None]]:
    """Look at every batch before the first is written. Also the producer session of the transactional ones.

    Raises Refusal for the whole request (rule P5, unknown acks).
    """
    request = call.request
    if request.acks not in (-1, 0, 1):
        raise Refusal(ErrorCode.INVALID_REQUIRED_ACKS, f"acks {request.acks}")
    state = broker.state
    session: Session | None = None
    checked: _Checked = []
    left = _CHECKED_A_STEP
    seen: set[LogId] = set()
    for topic in request.topic_data:
        if call.version >= _ID_VERSION:
            key = topic.topic_id
            name = state.topic_names.get(key, "")
            unknown = _UNKNOWN_PARTITION if name in state.topics else ErrorCode.UNKNOWN_TOPIC_ID
        else:
            key = name = topic.name
            unknown = _UNKNOWN_PARTITION
        partitions: list[tuple[int, Log | ErrorCode, tuple[BatchHeader, Any] | Refusal]] = []
        for part in topic.partition_data:
            left -= 1
            if left == 0:
                left = _CHECKED_A_STEP
                yield
            log = state.log_of(name, part.index)
            batch: tuple[BatchHeader, Any] | Refusal
            try:
                header = check_batch(part.records, bytes_max=log.settings.batch_bytes_max if log else 2**31)
                batch = header, part.records
                if log is not None:
                    if log.settings.is_compacted:
                        check_keys(part.records, header)
                    if log.id in seen:
                        raise Refusal(ErrorCode.INVALID_RECORD, "more than one batch for a partition in one request")
                    seen.add(log.id)
                if header.attributes & TRANSACTIONAL:
                    if request.transactional_id is None:
                        raise Refusal(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "no transactional id (P5)")
                    if session is not None and session.producer_id != header.producer_id:
                        raise Refusal(ErrorCode.INVALID_PRODUCER_ID_MAPPING, "two producer ids in one request (P5)")
                    session = Session(header.producer_id, header.producer_epoch)
            except Refusal as no:
                if no.code in (
                    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                    ErrorCode.INVALID_PRODUCER_ID_MAPPING,
                ):
                    raise
                batch = no
            partitions.append((part.index, log or unknown, batch))
        checked.append((key, partitions))
    return checked, session


def _joining(checked: _Checked) -> tuple[LogId, ...]:
    """The logs that sound transactional batches are for. One of them may still be refused: its log is in the transaction then
    without data, which changes nothing there (rule T8; as in Kafka).
    """
    return tuple(
        log.id
        for _, partitions in checked
        for _, log, batch in partitions
        if isinstance(log, Log) and not isinstance(batch, Refusal) and batch[0].is_transactional
    )


def _note_connection(broker: Broker, call: Call, session: Session) -> None:
    """The connection speaks for the producer from now on, if the session is the current one (rule D4).

    A zombie's epoch must not count: it would shut the living producer out.
    """
    transaction = broker.state.transactions.get(call.request.transactional_id)
    if transaction is not None and session == (transaction.producer_id, transaction.epoch):
        broker.connections.note(*session, Role.PRODUCE, call.peer.number)


def _append(
    broker: Broker,
    call: Call,
    index: int,
    log: Log | ErrorCode,
    batch: tuple[BatchHeader, Any] | Refusal,
    now_ms: int,
    joining: tuple[LogId, ...],
) -> tuple[_Answer, Level, Position]:
    """Write one batch, or say why not; with what the answer must wait for."""
    try:
        if isinstance(log, ErrorCode):
            raise Refusal(log)
        if isinstance(batch, Refusal):
            raise batch
        if log.id not in broker.state.logs:
            raise Refusal(_UNKNOWN_PARTITION, "the topic was deleted")
        header, data = batch
        if header.is_transactional:
            broker.connections.check(header.producer_id, header.producer_epoch, Role.PRODUCE, call.peer.number)
        decision = decide_append(
            broker.state,
            log,
            header,
            data,
            transactional_id=call.request.transactional_id,
            version=call.version,
            now_ms=now_ms,
            wall_ms=broker.wall_ms(),
            joining=joining,
        )
    except Refusal as no:
        code = broker.refused(call, no)
        message = no.why if call.version >= _MESSAGE_VERSION else None
        # What refused it may not be synced yet: wait, so that a crash can't make the answer untrue (rule D2).
        return (index, code, -1, -1, -1, message), Level.SYNCED, broker.storage.position_appended
    written: Written = decision.reply
    if decision.batches:
        position = broker.lane.commit(decision, now_ms)
    else:
        position = broker.storage.position_appended
    answer = (index, 0, written.offset_base, written.append_time_ms, log.offset_start_visible, None)
    return answer, decision.level, position


def _reply_same(call: Call, no: Refusal) -> None:
    """The same error for every partition of the request."""
    if not call.is_expecting_reply:
        return
    message = no.why if call.version >= _MESSAGE_VERSION else None
    topics = [
        (
            topic.topic_id if call.version >= _ID_VERSION else topic.name,
            [(part.index, int(no.code), -1, -1, -1, message) for part in topic.partition_data],
        )
        for topic in call.request.topic_data
    ]
    call.reply(produce_reply(call.version, topics))
