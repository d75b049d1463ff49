"""One run: topics, workers, faults; then silence, a final reading of everything, and the verdict.

1. the workers of the workload do their work through the proxy, while faults strike and an observer, past the proxy, notes
committed offsets and the ends of partitions;
2. the faults end, the workers go on for a moment, then the producers are stopped, then the readers;
3. when no transaction is open any more (or the time for that is over) every partition is read with both isolations;
4. all parts of the history become one file, which is checked.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from confluent_kafka import KafkaError, KafkaException

from oncelog.faults import Proxy
from oncelog.verify.checking import STUCK_GRACE_SECONDS, Violation, check
from oncelog.verify.clients import Cluster, ClusterError, error_of, patiently, words
from oncelog.verify.crew import Crew
from oncelog.verify.faulting import APIS, Field, Storm
from oncelog.verify.history import (
    COMMITTED,
    UNCOMMITTED,
    AnyEvent,
    Began,
    Isolation,
    Logged,
    Noted,
    OffsetsSeen,
    PassedUnread,
    Recorder,
    Watermarks,
    merge,
    now,
)
from oncelog.verify.view import Outcome, View, view_of
from oncelog.verify.worker import Role, Task

Workload = Literal["copy", "bank", "append", "offsets"]

PARTITIONS: Final = 4
#: The offsets workload has three workers with a partition each; the check holds all that is read in memory.
PARTITIONS_MIN: Final = 3
PARTITIONS_MAX: Final = 1000
SETTLE_SECONDS: Final = 2.0
OBSERVE_SECONDS: Final = 0.5
#: How long a cluster is waited for that was struck at the end.
ANSWER_SECONDS_MAX: Final = 180.0

#: The workers of each workload, and the topics they use (source first).
ROLES: Final[dict[Workload, tuple[Role, ...]]] = {
    "append": ("append", "append", "plain", "reader", "reader"),
    "bank": ("bank", "bank", "bank", "reader"),
    "copy": ("source", "copy", "copy", "reader"),
    "offsets": ("offsets", "offsets", "offsets", "reader"),
}
TOPICS: Final[dict[Workload, tuple[str, ...]]] = {
    "append": ("log",),
    "bank": ("accounts",),
    "copy": ("source", "target"),
    "offsets": ("numbers",),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run. ``client``: settings of librdkafka for every client, as for a login.

    ``partitions``, ``replication`` (-1: the cluster's own) and ``insync_min`` (min.insync.replicas; None: the cluster's own)
    are those of the run's topics.
    """

    bootstrap: str
    folder: str
    duration_seconds: float = 60.0
    workload: Workload = "copy"
    isolation: Isolation = COMMITTED
    faults: tuple[str, ...] = ()
    on_fault: str | None = None
    seed: int = 0
    partitions: int = PARTITIONS
    replication: int = -1
    insync_min: int | None = None
    transaction_timeout_ms: int = 10_000
    keep_topics: bool = False
    client: dict[str, str] = {}


class Counts(msgspec.Struct, kw_only=True):
    """What the verdict rests on."""

    records_sent: int = 0
    records_read: int = 0
    transactions_committed: int = 0
    transactions_aborted: int = 0
    transactions_unknown: int = 0
    instances: int = 0
    faults: int = 0
    zombies: int = 0
    requests_unread: int = 0
    events: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``holds``: enough was done and nothing was found. ``unproven``: too little was done, or it could not all be read."""

    verdict: Literal["holds", "violated", "unproven"]
    reason: str
    settings: dict[str, Any]
    counts: Counts
    violations: list[Violation]
    history: str


class Observer(Recorder):
    """Notes what can be seen from outside while the run goes on, in its own thread. An unanswered question is no fact."""

    def __init__(self, path: Path, cluster: Cluster, partitions: Sequence[tuple[str, int]], group: str | None) -> None:
        super().__init__(path)
        self._cluster, self._partitions, self._group = cluster, list(partitions), group
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="oncelog observer", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def look(self, *, waited: float = 0.0, is_final: bool = False) -> bool:
        """Once; whether every stable offset has reached the high watermark. KafkaException if the cluster doesn't answer."""
        invoked = now()
        stable = self._cluster.ends(self._partitions, COMMITTED)
        high = self._cluster.ends(self._partitions, UNCOMMITTED)
        at = now()
        for topic, partition in self._partitions:
            where = (topic, partition)
            self.write(
                Watermarks(
                    at=at,
                    topic=topic,
                    partition=partition,
                    invoked=invoked,
                    waited=waited,
                    stable=stable[where],
                    high=high[where],
                )
            )
        if self._group is not None:
            self._look_at_offsets(self._group, is_final=is_final)
        return all(stable[where] >= high[where] for where in self._partitions)

    def note_pending_offsets(self, waited: float) -> None:
        """The group's offsets can't be had, for some are still in a transaction."""
        if self._group is not None:
            self._look_at_offsets(self._group, waited=waited)

    def _look_at_offsets(self, group: str, *, is_final: bool = False, waited: float = 0.0) -> None:
        topic = self._partitions[0][0]
        count = sum(name == topic for name, _ in self._partitions)
        invoked = now()
        offsets = self._cluster.offsets(group, topic, count, stable=is_final)
        where: dict[str, Any] = {"group": group, "topic": topic, "invoked": invoked}
        self.write(OffsetsSeen(at=now(), offsets=offsets, is_final=is_final, waited=waited, **where))

    def _work(self) -> None:
        while not self._ended.wait(OBSERVE_SECONDS):
            try:
                self.look()
            except KafkaException as failure:
                self.write(Noted(at=now(), who="observer", what=words(failure)))


class Run:
    """`play` does all; one Run, one use. ``tell`` is told what goes on, a line at a time."""

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self.options, self.tell = options, tell
        self.folder = Path(options.folder)
        self.name = f"oncelog-verify-{secrets.token_hex(4)}"
        self.topics = [f"{self.name}-{topic}" for topic in TOPICS[options.workload]]
        self.partitions = [(topic, index) for topic in self.topics for index in range(options.partitions)]
        self.group = f"{self.name}-group" if options.workload in ("copy", "offsets") else None
        self.crew: Crew | None = None
        self.storm: Storm | None = None
        self._brokers: list[str] = []

    def play(self, watch: Callable[[Run, float], None] = lambda _run, _seconds: None) -> tuple[View, Verdict]:
        """``watch`` is called ten times a second with the seconds since the beginning. Raises ClusterError, CrewError."""
        cluster = Cluster(self.options.bootstrap, self.options.client)
        self._brokers = cluster.check_reachable()
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = dict.fromkeys(self.topics, self.options.partitions)
        cluster.create_topics(wanted, self.options.replication, insync_min=self.options.insync_min)
        told = f"{len(self._brokers)} broker{'s' if len(self._brokers) > 1 else ''} at {self.options.bootstrap}"
        self.tell(f"{told}; topics {', '.join(self.topics)}")
        parts = self.folder / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        observer = Observer(parts / "run.jsonl", cluster, self.partitions, self.group)
        observer.write(Began(at=now(), settings={**msgspec.to_builtins(self.options), "brokers": len(self._brokers)}))
        try:
            self._work(parts, observer, watch)
            self._read_everything(cluster, observer)
        finally:
            observer.close()
        events = merge(sorted(parts.glob("*.jsonl")), self.folder / "history.jsonl")
        shutil.rmtree(parts)
        if not self.options.keep_topics:
            cluster.delete_topics(self.topics)
        return judged(events, str(self.folder / "history.jsonl"))

    def _work(self, parts: Path, observer: Observer, watch: Callable[[Run, float], None]) -> None:
        options = self.options

        def note(who: str, what: str) -> None:
            observer.write(Noted(at=now(), who=who, what=what))

        # Not only the bootstrap address: a worker that starts while that broker is away has others to begin with.
        upstream = ",".join(dict.fromkeys((*options.bootstrap.split(","), *self._brokers)))
        with Proxy(upstream, doubles=any(name.startswith("double") for name in options.faults)) as proxy:
            crew = self.crew = Crew(self._tasks(proxy.bootstrap, parts), self.folder, note)
            field = Field(proxy, crew, APIS[options.workload], options.on_fault, options.transaction_timeout_ms / 1000)
            storm = self.storm = Storm(field, options.faults, options.seed, observer.write)
            try:
                crew.start()
                observer.start()
                began = time.monotonic()
                storm.start()
                while (seconds := time.monotonic() - began) < options.duration_seconds:
                    crew.tend()
                    proxy.check()
                    watch(self, seconds)
                    time.sleep(0.1)
                self.tell("no more faults; waiting for the workers")
                storm.end()
                self._settle(crew)
            finally:
                storm.end()
                observer.end()
                crew.close()
                for (api, version), count in sorted(proxy.unread.items()):
                    observer.write(PassedUnread(at=now(), api=api, version=version, count=count))

    def _settle(self, crew: Crew) -> None:
        """Producers first, so that copiers and readers see what they have left."""
        until = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until:
            crew.tend()
            time.sleep(0.1)
        crew.stop("append", "plain", "source", "bank", "offsets")
        time.sleep(SETTLE_SECONDS)
        crew.stop("copy")
        time.sleep(0.5)
        crew.stop()

    def _tasks(self, bootstrap: str, parts: Path) -> list[Task]:
        options, tasks = self.options, []
        seen: dict[str, int] = {}
        for role in ROLES[options.workload]:
            index = seen[role] = seen.get(role, -1) + 1
            # with two readers, one sees everything
            isolation: Isolation = UNCOMMITTED if role == "reader" and index == 1 else options.isolation
            tasks.append(
                Task(
                    role=role,
                    name=f"{self.name[-8:]}-{role}-{index}",
                    number=0,
                    index=index,
                    bootstrap=bootstrap,
                    client=options.client,
                    topics=self.topics,
                    partitions=options.partitions,
                    group=self.group or self.name,
                    isolation=isolation,
                    transaction_timeout_ms=options.transaction_timeout_ms,
                    seed=options.seed,
                    history=str(parts / f"{role}-{index}"),
                )
            )
        return tasks

    def _read_everything(self, cluster: Cluster, observer: Observer) -> None:
        """When all transactions have ended, or can't be waited for any longer."""
        self.tell("waiting until no transaction is open")
        self._wait_for_the_end(observer)
        self.tell("reading everything")
        for isolation in (COMMITTED, UNCOMMITTED):
            for (topic, partition), (records, is_complete) in patiently(
                partial(cluster.read_all, self.partitions, isolation)
            ).items():
                where: dict[str, Any] = {"topic": topic, "partition": partition, "isolation": isolation}
                observer.write(Logged(at=now(), records=records, is_complete=is_complete, **where))

    def _wait_for_the_end(self, observer: Observer) -> None:
        """Whoever does not answer may have to begin anew to count the time of a transaction: so do we."""
        began = quiet = time.monotonic()
        limit = self.options.transaction_timeout_ms / 1000 + STUCK_GRACE_SECONDS
        while True:
            waited = max(time.monotonic() - quiet, 0.001)
            try:
                if observer.look(waited=waited) or waited > limit:
                    observer.look(waited=waited, is_final=True)
                    return
            except KafkaException as failure:
                is_pending = error_of(failure).code() == KafkaError.UNSTABLE_OFFSET_COMMIT
                if is_pending and waited > limit:
                    observer.note_pending_offsets(waited)
                    return
                if not is_pending:
                    quiet = time.monotonic()
                    if quiet - began > limit + ANSWER_SECONDS_MAX:
                        raise ClusterError(f"the cluster does not answer any more: {words(failure)}") from None
            time.sleep(0.2)


def judged(events: Sequence[AnyEvent], history: str) -> tuple[View, Verdict]:
    """The view of a history, and what follows from it."""
    view = view_of(events)
    violations = check(view)
    counts = counts_of(view)
    verdict, reason = _verdict(view, counts, violations)
    return view, Verdict(
        verdict=verdict, reason=reason, settings=view.settings, counts=counts, violations=violations, history=history
    )


def _verdict(
    view: View, counts: Counts, violations: Sequence[Violation]
) -> tuple[Literal["holds", "violated", "unproven"], str]:
    if violations:
        kinds = sorted({violation.kind.value for violation in violations})
        return "violated", f"{len(violations)} violations: {', '.join(kinds)}"
    if not counts.transactions_committed:
        return "unproven", "no transaction was committed; see what the workers said"
    logged = set(view.logs[COMMITTED]) | set(view.logs[UNCOMMITTED])
    unread = sorted(
        f"{topic}/{partition}"
        for topic, partition in logged
        if not ((topic, partition) in view.complete[COMMITTED] and (topic, partition) in view.complete[UNCOMMITTED])
    )
    if unread or not logged:
        return "unproven", f"not read to the end: {', '.join(unread) or 'all'}"
    return "holds", f"{counts.transactions_committed} committed transactions, {counts.faults} faults, nothing found"


def counts_of(view: View) -> Counts:
    """What was done."""
    outcomes = [transaction.outcome for transaction in view.transactions.values()]
    return Counts(
        records_sent=len(view.sent),
        records_read=sum(len(each) for readers in view.readings.values() for each in readers.values()),
        transactions_committed=outcomes.count(Outcome.COMMITTED),
        transactions_aborted=outcomes.count(Outcome.ABORTED),
        transactions_unknown=outcomes.count(Outcome.UNKNOWN) + outcomes.count(Outcome.UNENDED),
        instances=len(view.instances),
        faults=len(view.faults),
        zombies=sum(fault.fault == "zombie" for fault in view.faults),
        requests_unread=sum(each.count for each in view.unread),
        events=view.events,
    )
