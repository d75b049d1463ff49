"""What falls due: transaction timeouts, group sessions, retention, expiry (rules D5, T7, P8, O5).

Deadlines of single things are alarms of the engine's state. Sweeps over everything (retention, expiry) are alarms too, and
look at a bounded number of logs in one turn of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from oncelog.broker.compacting import Compacting
from oncelog.broker.meters import Fence
from oncelog.engine import transactions
from oncelog.engine.groups.alarms import decide_alarm, decide_start
from oncelog.engine.groups.commits import decide_offset_expiry
from oncelog.engine.retention import decide_producer_expiry, decide_retention, decide_transactional_id_expiry
from oncelog.model.ids import LogId

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_SWEEP: Final = "sweep"
_COMPACTION: Final = "compaction"
#: However small log.cleaner.backoff.ms is.
_COMPACTION_CHECK_MS_MIN: Final = 50
_LOGS_A_TURN: Final = 20


class Upkeep:
    """Serves the lane's one timer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sweeping: Iterator[None] | None = None
        self._is_stopped = False
        self._compacting = Compacting(broker)
        self._fates: dict[str, Callable[[str, int], None]] = {
            "transaction": self._transaction_due,
            "group": self._group_due,
            _SWEEP: self._sweep_due,
            _COMPACTION: self._compaction_due,
        }

    def start(self, now_ms: int) -> None:
        """Let the members of groups go on, and set the first sweep."""
        self._broker.lane.commit(decide_start(self._broker.state, now_ms), now_ms)
        settings = self._broker.state.settings
        self._broker.state.alarms.set(now_ms + settings.retention_check_ms, _SWEEP, "")
        self._set_compaction_alarm(now_ms)
        self._broker.lane.arm()

    def stop(self) -> None:
        """Nothing more falls due."""
        self._is_stopped = True
        self._compacting.stop()

    def ring(self) -> None:
        """Something is due."""
        if self._is_stopped:
            return
        now_ms = self._broker.now_ms()
        for alarm in self._broker.state.alarms.take_due(now_ms):
            self._fates[alarm.kind](alarm.key, now_ms)

    def _transaction_due(self, transactional_id: str, now_ms: int) -> None:
        broker = self._broker
        before = broker.state.transactions.get(transactional_id)
        decision = transactions.decide_timeout(broker.state, transactional_id, now_ms)
        if decision is not None and before is not None:
            broker.commit(None, decision)
            broker.meters.transaction_timeouts += 1
            why = f"the transaction was open for longer than its timeout of {before.timeout_ms} ms"
            broker.fenced(Fence.TIMED_OUT, before, why)
            return
        after = broker.state.transactions.get(transactional_id)
        if after is not None and transactions.is_open(after):
            broker.state.alarms.set(after.started_ms + after.timeout_ms, "transaction", transactional_id)

    def _group_due(self, group_id: str, now_ms: int) -> None:
        broker, groups = self._broker, self._broker.state.groups.by_id
        before = groups.get(group_id)
        broker.commit(None, decide_alarm(broker.state, group_id, now_ms))
        after = groups.get(group_id)
        gone = [] if before is None else [one for one in before.members if after is None or one not in after.members]
        if gone:
            broker.log.info("group members removed: silent, or late in a rebalance", group=group_id, members=gone)

    def _sweep_due(self, _: str, now_ms: int) -> None:
        self._broker.state.alarms.set(now_ms + self._broker.state.settings.retention_check_ms, _SWEEP, "")
        if self._sweeping is None:
            self._sweeping = self._sweep()
            self._sweep_on()

    def _compaction_due(self, _: str, now_ms: int) -> None:
        self._set_compaction_alarm(now_ms)
        self._compacting.look()

    def _set_compaction_alarm(self, now_ms: int) -> None:
        state = self._broker.state
        state.alarms.set(now_ms + max(state.settings.compaction_check_ms, _COMPACTION_CHECK_MS_MIN), _COMPACTION, "")

    def _sweep_on(self) -> None:
        """One piece of a sweep, then the loop has its turn."""
        if self._is_stopped or self._sweeping is None:
            return
        for _ in self._sweeping:
            self._broker.loop.call_soon(self._sweep_on)
            return
        self._sweeping = None

    def _sweep(self) -> Iterator[None]:
        broker, state = self._broker, self._broker.state
        logs = list(state.logs)
        for at in range(0, len(logs), _LOGS_A_TURN):
            for log_id in logs[at : at + _LOGS_A_TURN]:
                self._sweep_log(log_id)
            yield
        for decision in decide_transactional_id_expiry(state, broker.now_ms()):
            broker.commit(None, decision)
            yield
        for decision in decide_offset_expiry(state, broker.now_ms()):
            broker.commit(None, decision)
            yield

    def _sweep_log(self, log_id: LogId) -> None:
        broker, now_ms = self._broker, self._broker.now_ms()
        log = broker.state.logs.get(log_id)
        if log is None:
            return
        stretches = broker.storage.first_batches(log_id)
        # Records are dated by the machine's time: what is old by only one of two clocks that differ is not old.
        certain_ms = min(now_ms, broker.wall_ms())
        for decision in (
            decide_retention(log, stretches, certain_ms),
            decide_producer_expiry(broker.state, log_id, now_ms),
        ):
            if decision.is_durable:
                broker.commit(None, decision)
