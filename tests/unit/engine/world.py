"""A State without a broker: decide, apply, and keep what was applied, so that every test can replay it (law 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from crc32c import crc32c

from oncelog.engine import transactions
from oncelog.engine.decision import Decision, Written
from oncelog.engine.partitions import decide_append
from oncelog.engine.state import Log, State
from oncelog.engine.transactions import Session
from oncelog.model.batch import check_batch, read_header
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import Epoch, LogId, ProducerId
from oncelog.model.rows import Topic, decode_rows, encode_rows

TV1, TV2 = 9, 12
NOBODY = Session(ProducerId(-1), Epoch(-1))


def client_batch(
    session: Session = NOBODY,
    sequence: int = -1,
    count: int = 1,
    *,
    transactional: bool = False,
    control: bool = False,
    timestamp_ms: int = 1_000,
    attributes: int = 0,
) -> bytes:
    """A batch as a producer makes it; its records are not real, only the header matters to the engine."""
    import struct

    attributes |= (0x10 if transactional else 0) | (0x20 if control else 0)
    tail = struct.pack(
        ">hiqqqhii",
        attributes,
        count - 1,
        timestamp_ms,
        timestamp_ms,
        session.producer_id,
        session.epoch,
        sequence,
        count,
    )
    tail += b"records" * count
    return struct.pack(">qii", 0, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail


@dataclass
class World:
    """One State, its clock, and the journal of what was applied."""

    state: State = field(default_factory=State)
    now_ms: int = 1_000_000
    journal: list[tuple[bytes, tuple[Any, ...], int]] = field(default_factory=list)

    def apply(self, decision: Decision) -> Any:
        if decision.is_durable:
            before = self.state.version
            self.journal.append((encode_rows(decision.rows), decision.batches, self.now_ms))
            self.state.apply(decision.rows, decision.batches, self.now_ms)
            assert self.state.version >= before + 1
            self.state.settle_visible(self.state.visible_after(decision.rows, decision.batches))
        self.state.apply_volatile(decision.volatile)
        return decision.reply

    def topic(self, name: str = "t", partitions: int = 1, **configs: str) -> Log:
        first = self.state.log_id_next
        logs = tuple(LogId(first + index) for index in range(partitions))
        self.apply(Decision((Topic(name, UUID(int=first), logs, configs, self.now_ms),)))
        return self.state.logs[logs[0]]

    def log(self, name: str = "t", index: int = 0) -> Log:
        log = self.state.log_of(name, index)
        assert log is not None
        return log

    def init(
        self,
        transactional_id: str | None = "x",
        *,
        caller: Session = NOBODY,
        version: int = 4,
        timeout_ms: int = 60_000,
    ) -> Session:
        return self.apply(
            transactions.decide_init(
                self.state,
                transactional_id,
                timeout_ms=timeout_ms,
                caller=caller,
                version=version,
                client_address="127.0.0.1:5000",
                now_ms=self.now_ms,
            )
        )

    def produce(
        self,
        session: Session = NOBODY,
        sequence: int = -1,
        count: int = 1,
        *,
        transactional_id: str | None = None,
        version: int = TV1,
        log: Log | None = None,
        timestamp_ms: int = 1_000,
        attributes: int = 0,
        transactional: bool | None = None,
    ) -> Written:
        is_transactional = transactional_id is not None if transactional is None else transactional
        data = client_batch(
            session, sequence, count, transactional=is_transactional, timestamp_ms=timestamp_ms, attributes=attributes
        )
        log = log or self.log()
        decision = decide_append(
            self.state,
            log,
            check_batch(data, bytes_max=10_000),
            data,
            transactional_id=transactional_id,
            version=version,
            now_ms=self.now_ms,
        )
        return self.apply(decision)

    def add(self, session: Session, *logs: Log, transactional_id: str = "x", version: int = 3) -> None:
        self.apply(
            transactions.decide_add_partitions(
                self.state, transactional_id, session, logs or [self.log()], version=version, now_ms=self.now_ms
            )
        )

    def add_group(self, session: Session, group: str = "g", *, transactional_id: str = "x", version: int = 3) -> None:
        self.apply(
            transactions.decide_add_group(
                self.state, transactional_id, session, group, version=version, now_ms=self.now_ms
            )
        )

    def end(self, session: Session, *, commit: bool, transactional_id: str = "x", version: int = 3) -> Session:
        return self.apply(
            transactions.decide_end(
                self.state, transactional_id, session, commit=commit, version=version, now_ms=self.now_ms
            )
        )

    def time_out(self, transactional_id: str = "x") -> bool:
        decision = transactions.decide_timeout(self.state, transactional_id, self.now_ms)
        if decision is not None:
            self.apply(decision)
        return decision is not None

    def replayed(self) -> State:
        """What a restart makes of the journal."""
        state = State()
        for rows, batches, now_ms in self.journal:
            state.apply(decode_rows(rows), batches, now_ms)
        state.finish_recovery()
        return state

    def checkpointed(self) -> State:
        """What a restart makes of a checkpoint."""
        state = State()
        state.apply(decode_rows(encode_rows(self.state.rows())), (), self.now_ms)
        state.finish_checkpoint()
        state.finish_recovery()
        return state


def everything(state: State) -> list[Any]:
    """All that must be the same after a restart."""
    logs = [
        (log.row(), list(log.open.items()), sorted(log.producers.items()), log.high_watermark, log.stable_offset)
        for _, log in sorted(state.logs.items())
    ]
    rows = sorted(map(repr, state.rows()))
    return [logs, rows, state.producer_id_next, sorted(state.transaction_of.items()), state.cluster_id]


def refusal(call: Any, *arguments: Any, **named: Any) -> ErrorCode:
    """The error code that the call is refused with; NONE if it isn't."""
    try:
        call(*arguments, **named)
    except Refusal as no:
        return no.code
    return ErrorCode.NONE


def markers(world: World, log: Log | None = None) -> list[tuple[int, int, bool]]:
    """(offset, epoch, is commit) of the control batches that were journalled for the log."""
    from oncelog.model.batch import control_outcome

    wanted = (log or world.log()).id
    return [
        (batch.offset, read_header(batch.data).producer_epoch, control_outcome(batch.data))
        for _, batches, _ in world.journal
        for batch in batches
        if batch.log == wanted and batch.header.is_control
    ]
