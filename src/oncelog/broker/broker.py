"""The broker: state, lane and storage put together, and what every handler may ask of them.

``route`` hands a request to its handler (broker/apis). A handler asks the engine to decide, and gives the Decision to
``commit``, which applies it, journals it and answers when the answer's promise is kept (laws 1-3, rule D2).
What falls due (timeouts, retention, expiry) comes through one timer and takes the same way.

Knows no socket: connections are ``Peer``s, and the loop is what broker/lane.py asks for. Rules D2, D5.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol
from uuid import UUID

from oncelog.broker.apis import HANDLERS
from oncelog.broker.apis.cluster import TopicPieces
from oncelog.broker.call import Body, Call
from oncelog.broker.fetching import Fetching
from oncelog.broker.lane import Lane, Loop
from oncelog.broker.meters import Fence, Meters
from oncelog.broker.observe import FENCES_MAX, FencedProducer
from oncelog.broker.stepping import Stepping
from oncelog.broker.upkeep import Upkeep
from oncelog.engine import transactions
from oncelog.engine.connections import Connections, LateRequest
from oncelog.engine.decision import Decision, Level, Ticket
from oncelog.engine.state import State
from oncelog.model.errors import DamagedRecords, ErrorCode, LostRecords, Refusal, StorageError
from oncelog.model.ids import LogId, Position
from oncelog.model.rows import Cluster, Transaction
from oncelog.storage.contract import Storage

NODE_ID: Final = 1
_FETCH: Final = 1
_FENCED: Final = (ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.PRODUCER_FENCED)


class Log(Protocol):
    """What the broker needs of a logger: an event and its fields."""

    def debug(self, event: str, **fields: Any) -> Any:
        """For whoever looks closely."""

    def info(self, event: str, **fields: Any) -> Any:
        """Worth a line."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Worth a look."""

    def error(self, event: str, **fields: Any) -> Any:
        """Something failed."""


class Broker:
    """One broker. ``ids`` gives random UUIDs; ``clock_ms`` ms since the epoch, never going back.

    ``advertised`` is the (host, port) that clients are told; set before the first request.
    """

    node_id: Final = NODE_ID

    def __init__(
        self,
        *,
        storage: Storage,
        loop: Loop,
        clock_ms: Callable[[], int],
        ids: Callable[[], UUID],
        log: Log,
        meters: Meters | None = None,
        configs: Mapping[str, str] | None = None,
    ) -> None:
        self.state = State(configs)
        self.storage = storage
        self.loop, self.now_ms, self.new_id, self.log = loop, clock_ms, ids, log
        #: The machine's own time, for the timestamps of records only: no deadline hangs on it (broker/clock.py).
        self.wall_ms: Callable[[], int] = clock_ms
        self.meters = meters or Meters()
        self.lane = Lane(self.state, storage, loop, clock_ms)
        self.connections = Connections()
        self.fetching = Fetching(self)
        self.upkeep = Upkeep(self)
        self._stepping = Stepping(loop)
        self.pieces = TopicPieces()
        self.advertised: tuple[str, int] = ("127.0.0.1", 9092)
        #: Where the data is, as DescribeLogDirs names it.
        self.folder = "memory"
        #: Called once with what ended the broker (law 7).
        self.on_failure: Callable[[StorageError], None] = lambda _: None
        #: Called with the time of the newest decision that was recovered, in ms: it is not earlier than that now.
        self.on_recovered: Callable[[int], None] = lambda _: None
        #: Called with True when producers must pause, False when they may go on.
        self.on_pressure: Callable[[bool], None] = lambda _: None
        #: The producers that were fenced most recently, for those who ask why (rule D5).
        self.fences: deque[FencedProducer] = deque(maxlen=FENCES_MAX)
        #: Logs of which the disk was seen to have changed something, and where that ends.
        self._damaged: dict[LogId, int] = {}
        self._parked: dict[Ticket, Call] = {}
        self._ticket_last = 0
        self.lane.on_visible = self.fetching.wake
        self.lane.on_alarm = self.upkeep.ring
        self.lane.on_sync = self.meters.synced
        self.lane.on_failure = self._failed
        self.lane.on_damage = self.tell_damage
        self.lane.on_pressure = lambda is_high: self.on_pressure(is_high)

    @property
    def cluster_id(self) -> str:
        """Made once, kept in the journal."""
        return self.state.cluster_id

    def open(self) -> None:
        """Recover everything and begin to work. Raises StorageError with one clear sentence."""
        is_same_boot = self.lane.recover()
        self.on_recovered(self.lane.decided_ms)
        self.lane.start()
        now_ms = self.now_ms()
        if not self.state.cluster_id:
            self.lane.commit(Decision(rows=(Cluster(_cluster_id(self.new_id())),)), now_ms)
        if not is_same_boot:
            for decision in transactions.decide_all_doubted(self.state):
                self.lane.commit(decision, now_ms)
            lost = [row for row in self.state.transactions.values() if transactions.is_open(row)]
            for before, decision in zip(lost, transactions.decide_all_lost(self.state, now_ms), strict=True):
                self.lane.commit(decision, now_ms)
                self.fenced(Fence.MACHINE_RESTARTED, before, "the machine restarted while the transaction was open")
        self.upkeep.start(now_ms)

    def release(self) -> None:
        """Before a stop: let nobody wait. Fetches get what there is; whoever waits for a group's rebalance comes again."""
        self.fetching.close()
        for call in self._parked.values():
            call.peer.close("the broker stops")
        self._parked.clear()

    def halt(self, failure: StorageError) -> None:
        """Decide and promise nothing more, as if the storage had failed."""
        self.upkeep.stop()
        self._stepping.stop()
        self.lane.failure = failure

    def close(self) -> None:
        """Make everything safe and release the folder. Blocks; nothing may be routed afterwards."""
        self.upkeep.stop()
        self._stepping.stop()
        self.fetching.close()
        self.storage.close()

    def route(self, call: Call) -> None:
        """Hand a request to its handler. Its API and version were checked against HANDLERS."""
        if self.lane.failure is not None:
            call.peer.close("the storage has failed")
            return
        try:
            if call.api_key != _FETCH:
                self.fetching.make_way(call.peer)
            HANDLERS[call.api_key].handle(self, call)
        except StorageError as error:
            self.lane.failed(error)
            call.peer.close("the storage has failed")

    def is_damaged(self, log_id: LogId) -> bool:
        """Whether it holds what the disk was seen to have changed: not any more when that is deleted."""
        log = self.state.logs.get(log_id)
        return log is not None and log.offset_start < self._damaged.get(log_id, -1)

    @property
    def damaged_count(self) -> int:
        """Partitions that do."""
        return sum(map(self.is_damaged, self._damaged))

    def tell_damage(self, log_id: LogId, no: DamagedRecords) -> None:
        """Once for each partition: its readers come again and again."""
        log = self.state.logs.get(log_id)
        if log is not None and not self.is_damaged(log_id):
            self._damaged[log_id] = no.offset_end
            self.log.error(
                "damaged records", topic=log.topic, partition=log.index, offset=no.offset, offset_end=no.offset_end,
                why=no.why,
                next_step="restore the data folder from a copy, or delete all before offset_end: oncelog topics trim --help",
            )  # fmt: skip

    # -- answering ----------------------------------------------------------------------------------------------------

    def commit(self, call: Call | None, decision: Decision) -> Position:
        """Apply and journal a decision, then answer ``call`` with its reply, and the parked calls with its answers."""
        position = self.lane.commit(decision, self.now_ms())
        level = decision.level
        if not position and level is not Level.NOTHING:
            position = self.storage.position_appended
        if decision.reply is not None and call is not None:
            self.reply_at(level, position, call, call.encode(decision.reply))
        for ticket, tree in decision.answers:
            waiting = self._parked.pop(ticket, None)
            if waiting is not None:
                self.reply_at(level, position, waiting, waiting.encode(tree))
        return position

    def reply_at(self, level: Level, position: Position, call: Call, body: Body) -> None:
        """Answer with an encoded body when ``position`` has reached ``level``."""
        self.lane.after(level, position, call.reply, body)

    def answer(self, call: Call, tree: Mapping[str, Any]) -> None:
        """Answer at once: nothing in the answer could be taken back by a crash."""
        call.reply(call.encode(tree))

    def answer_in_steps(self, call: Call, tree: Mapping[str, Any]) -> None:
        """As ``answer``, for what may be long."""
        self.in_steps(call, self._answering(call, tree))

    def _answering(self, call: Call, tree: Mapping[str, Any]) -> Iterator[None]:
        call.reply((yield from call.encode_in_steps(tree)))

    def answer_read(self, call: Call, tree: Mapping[str, Any]) -> None:
        """Answer when all that is applied now is synced: what the reply shows can't be taken back (rule D2)."""
        self.in_steps(call, self.answering_read(call, tree))

    def answering_read(self, call: Call, tree: Mapping[str, Any]) -> Iterator[None]:
        """The same as steps, for a handler that goes in steps itself. What the tree's ``Each`` show counts as shown too."""
        body = yield from call.encode_in_steps(tree)
        self.reply_at(Level.SYNCED, self.storage.position_appended, call, body)

    def answering_at(self, level: Level, position: Position, call: Call, tree: Mapping[str, Any]) -> Iterator[None]:
        """As steps, when ``position`` has reached ``level``: the tree shows nothing that is newer."""
        self.reply_at(level, position, call, (yield from call.encode_in_steps(tree)))

    def answer_catalog(self, call: Call, tree: Mapping[str, Any]) -> None:
        """Answer when the newest change to topics and settings is synced; for replies that show nothing else."""
        self.in_steps(call, self.answering_catalog(call, tree))

    def answering_catalog(self, call: Call, tree: Mapping[str, Any]) -> Iterator[None]:
        """The same as steps."""
        self.reply_catalog(call, (yield from call.encode_in_steps(tree)))

    def reply_catalog(self, call: Call, body: Body) -> None:
        """As ``answer_catalog``, with a body that is already encoded."""
        self.reply_at(Level.SYNCED, self.lane.catalog_position, call, body)

    def in_steps(self, call: Call, steps: Iterator[None]) -> None:
        """Do what may be long in steps: between two of them everybody else has a turn of the loop (broker/stepping.py)."""
        self._stepping.begin(call, steps)

    def park(self, call: Call) -> Ticket:
        """Keep a request that waits inside the engine; a Decision's answers release it by its ticket."""
        self._ticket_last += 1
        ticket = Ticket(self._ticket_last)
        self._parked[ticket] = call
        return ticket

    def refused(self, call: Call, refusal: Refusal) -> ErrorCode:
        """Count and log a lawful no; its code goes into the answer."""
        self.meters.refused(refusal.code)
        if isinstance(refusal, LateRequest):
            self.meters.fenced(Fence.LATE_REQUEST)
        elif refusal.code in _FENCED:
            self.meters.fenced(Fence.OLD_EPOCH)
        self.log.debug("refused", api=HANDLERS[call.api_key].name, peer=call.peer.address, why=str(refusal))
        return refusal.code

    def fenced(self, fence: Fence, before: Transaction, why: str) -> None:
        """``before`` is the producer that lost its transactional id, and whose open transaction was aborted (rule D5)."""
        self.meters.fenced(fence)
        self.fences.append(
            FencedProducer(
                self.now_ms(), before.id, before.producer_id, before.epoch, fence.value, why, before.client_address
            )
        )
        say = self.log.info if fence is Fence.REPLACED else self.log.warning
        say(
            "producer fenced", reason=fence.value, transactional_id=before.id, producer_id=before.producer_id,
            epoch=before.epoch, client=before.client_address, why=why,
        )  # fmt: skip

    def _failed(self, error: StorageError) -> None:
        self._stepping.stop()
        where: dict[str, object] = {}
        if isinstance(error, LostRecords) and (log := self.state.logs.get(error.log)) is not None:
            where = {"topic": log.topic, "partition": log.index, "offset": error.offset}
        self.log.error("storage failed, the broker stops", why=str(error), **where)
        self.on_failure(error)


def _cluster_id(random: UUID) -> str:
    """22 characters of base64, as Kafka's own."""
    return urlsafe_b64encode(random.bytes).rstrip(b"=").decode()
