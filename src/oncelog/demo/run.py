"""One run: the pipeline in one of the semantics, from the first order to the last, under the planned faults.

The worker stops in the middle of every batch and waits for leave to go on. There the run looks whether a fault is due,
and lets it happen: so faults come by progress. Whatever the workers say is only used to steer; the figures are counted
by `counting.py` after the broker was killed and started once more, so they come from what it had stored.
"""

from __future__ import annotations

import queue
import signal
import time
from dataclasses import dataclass
from typing import Final

from oncelog.demo.counting import Count, count_topics
from oncelog.demo.faults import Fault, Kind, plan_faults
from oncelog.demo.processes import Child, DemoError, last_line
from oncelog.demo.proxy import Trap
from oncelog.demo.screen import Screen
from oncelog.demo.stage import Heard, Stage
from oncelog.demo.worker import ALL_DONE, FENCED, REPLACED, Semantics

STALL_SECONDS_MAX: Final = 60.0
RESTARTS_MAX: Final = 60
BATCHES: Final = 200
BATCH_MIN: Final = 5
BATCH_MAX: Final = 1_000

ZOMBIE_ENDS: Final = {
    FENCED: "the zombie was fenced: the broker refused what it wrote",
    REPLACED: "the zombie wrote its invoices; only its offsets were refused",
}


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the table."""

    semantics: Semantics
    count: Count
    seconds: float
    worker_restarts: int
    broker_restarts: int
    zombies: int
    zombies_fenced: int
    replies_cut: int
    faults_left: int

    @property
    def is_exactly_once(self) -> bool:
        """Nothing lost, nothing doubled, under all the faults, and the fence was seen to hold."""
        count = self.count
        untouched = count.lost == count.duplicated == count.unknown == 0 and count.sent > 0
        return untouched and self.faults_left == 0 and self.zombies_fenced == self.zombies > 0


class Run:
    """`play` does all; one Run, one use."""

    def __init__(self, stage: Stage, screen: Screen, semantics: Semantics, records: int, seed: int) -> None:
        self.stage = stage
        self.screen = screen
        self.semantics = semantics
        self.target = f"invoices-{semantics.value}"
        self.batch = min(max(records // BATCHES, BATCH_MIN), BATCH_MAX)
        self.plan = plan_faults(records, seed)
        self.done = 0
        self.worker: Child | None = None
        self.worker_restarts = 0
        self.zombies: set[Child] = set()
        self.zombies_seen = 0
        self.zombies_fenced = 0
        self.replies_cut = 0
        self.kill_pending = False

    def play(self) -> Result:
        """DemoError if the pipeline cannot reach the end."""
        self.stage.create_topic(self.target)
        broker_starts, begun_at = self.stage.broker_starts, time.monotonic()
        self.start_worker()
        while self.worker is not None or self.zombies:
            self.hear(self.next_event())
        seconds = time.monotonic() - begun_at
        faults_left = len(self.plan) + self.stage.proxy.disarm()
        self.restart_broker_before_counting()
        count = count_topics(self.stage.proxy.port, self.target, self.semantics)
        return Result(
            semantics=self.semantics,
            count=count,
            seconds=seconds,
            worker_restarts=self.worker_restarts,
            broker_restarts=self.stage.broker_starts - broker_starts,
            zombies=self.zombies_seen,
            zombies_fenced=self.zombies_fenced,
            replies_cut=self.replies_cut,
            faults_left=faults_left,
        )

    def next_event(self) -> Heard:
        """What happens next; a long silence is a failure."""
        try:
            return self.stage.events.get(timeout=STALL_SECONDS_MAX)
        except queue.Empty:
            raise DemoError(f"nothing happened for {STALL_SECONDS_MAX:.0f} s") from None

    def hear(self, heard: Heard) -> None:
        """One event."""
        worker, line = heard.worker, heard.line
        if worker is None:
            self.broker_died()
        elif line is None:
            self.worker_ended(worker)
        elif line.startswith("half"):
            self.worker_waits(worker)
        elif worker is self.worker:
            self.advance(int(line.split()[1]))

    def broker_died(self) -> None:
        """Starts it again if we killed it."""
        if not self.kill_pending:
            raise DemoError(f"the broker ended by itself: {last_line(self.stage.folder / 'broker.log')}")
        self.kill_pending = False
        self.stage.start_broker()

    def worker_ended(self, worker: Child) -> None:
        """The end of the work, of a zombie, or of one that needs a successor."""
        if worker in self.zombies:
            self.zombies.discard(worker)
            self.zombies_fenced += worker.exit_code == FENCED
            self.screen.tell(self.done, ZOMBIE_ENDS.get(worker.exit_code or 0, "the zombie ended, not fenced"))
        elif worker is self.worker and worker.exit_code == ALL_DONE:
            self.worker = None
            self.thaw_zombies()
        elif worker is self.worker:
            if worker.exit_code != -signal.SIGKILL:
                self.screen.tell(self.done, f"worker gave up: {last_line(self.stage.folder / 'workers.log')}")
            self.worker_restarts += 1
            if self.worker_restarts > RESTARTS_MAX:
                raise DemoError(f"{RESTARTS_MAX} workers gave up: {last_line(self.stage.folder / 'workers.log')}")
            self.start_worker()

    def worker_waits(self, worker: Child) -> None:
        """In the middle of a batch: the next fault if it is due, else leave to go on."""
        if worker is not self.worker or not self.plan or self.plan[0].at > self.done:
            worker.tell("go")
        else:
            self.strike(self.plan.pop(0), worker)

    def advance(self, orders: int) -> None:
        """A batch is done; a frozen worker whose place was taken may wake up now."""
        self.done += orders
        self.screen.advance(self.done)
        self.thaw_zombies()

    def thaw_zombies(self) -> None:
        """Wakes them in the middle of their batch; they know nothing of what happened."""
        for zombie in self.zombies:
            if zombie.frozen:
                zombie.thaw()
                zombie.tell("go")

    def strike(self, fault: Fault, worker: Child) -> None:
        """Lets one fault happen."""
        self.screen.tell(self.done, fault.sentence())
        if fault.kind is Kind.WORKER_KILLED:
            worker.kill()
            return
        if fault.kind is Kind.ZOMBIE:
            worker.freeze()
            self.zombies.add(worker)
            self.zombies_seen += 1
            self.worker_restarts += 1
            self.start_worker()
            return
        spring = self.cut_reply if fault.kind is Kind.REPLY_CUT else self.kill_broker
        self.stage.proxy.arm(Trap(fault.target, fault.moment, spring))
        worker.tell("go")

    def cut_reply(self) -> None:
        """Called by the proxy, on its thread."""
        self.replies_cut += 1

    def kill_broker(self) -> None:
        """Called by the proxy, on its thread, or before counting."""
        self.kill_pending = True
        self.stage.kill_broker()

    def restart_broker_before_counting(self) -> None:
        """Whatever is counted has survived one kill more."""
        self.kill_broker()
        while self.kill_pending:
            self.hear(self.next_event())

    def start_worker(self) -> None:
        """The first one, or a successor."""
        self.worker = self.stage.start_worker(self.semantics, self.target, self.batch)
