"""What is measured, and what it must be: one Row for each line of the tables, with the targets as ratios oncelog / peer.

A ratio's target says ">=" or "<="; an absolute one is a bound on oncelog's own figure. Only *warm* has targets of its own; in
*fresh* oncelog must be ahead of both Kafkas in every row.
"""

from dataclasses import dataclass, field

KAFKA = "kafka"
FLUSH = "kafka-flush"


@dataclass(frozen=True)
class Target:
    """``bound`` for the ratio oncelog / peer, or for oncelog's figure itself if ``is_absolute``."""

    bound: float
    is_absolute: bool = False


@dataclass(frozen=True)
class Figure:
    """One figure of a row: its key in what a load prints, its unit, and the targets by peer."""

    key: str
    label: str
    is_more_better: bool = False
    targets: dict[str, Target] = field(default_factory=dict)
    digits: int = 2
    #: Whether to be ahead of both Kafkas in the fresh table is a target.
    is_compared: bool = True

    def target(self, peer: str, *, is_fresh: bool) -> Target | None:
        """Fresh: ahead of both Kafkas; warm: the row's own figure."""
        if is_fresh:
            return Target(1.0) if self.is_compared else None
        return self.targets.get(peer)

    def is_met(self, value: float, target: Target) -> bool:
        return value >= target.bound if self.is_more_better else value <= target.bound


@dataclass(frozen=True)
class Row:
    """``argument`` names the size of its load: "seconds", "count", or "" for rows that a stage measures itself."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    argument: str = "seconds"


def against(kafka: float | None = None, flush: float | None = None) -> dict[str, Target]:
    """Targets as ratios."""
    return {name: Target(bound) for name, bound in ((KAFKA, kafka), (FLUSH, flush)) if bound is not None}


def own(bound: float) -> dict[str, Target]:
    """A bound on oncelog's own figure."""
    return {KAFKA: Target(bound, is_absolute=True)}


def _rate(what: str, kafka: float | None = None, flush: float | None = None) -> Figure:
    return Figure("per_s", f"{what}/s", is_more_better=True, targets=against(kafka, flush), digits=0)


def _cpu(what: str, kafka: float | None = None, flush: float | None = None, digits: int = 0) -> Figure:
    return Figure("cpu_us", f"broker CPU µs a {what}", targets=against(kafka, flush), digits=digits)


def _p99(kafka: float, flush: float | None = None, key: str = "p99_ms", label: str = "p99 ms") -> Figure:
    return Figure(key, label, targets=against(kafka, flush))


_RECORDS = "records"
_RECORD = "record"
_TRANSACTION = "transaction"
_TRANSACTIONS = "transactions"

START = Row(
    "start",
    "start",
    (
        Figure("first_commit_s", "exec → first committed transaction, s", targets=against(0.1)),
        Figure("idle_mib", "idle memory, MiB", targets=own(80), digits=0),
        Figure("idle_cpu_percent", "idle CPU, % of a core", targets=own(0.5)),
    ),
    "",
)

LOADED = (
    Row(
        "txn-1x1",
        "1 producer, 1 record × 1 partition a transaction",
        (
            _rate(_TRANSACTIONS, 1.1, 2),
            Figure("p50_ms", "p50 ms"),
            _p99(0.9, 0.15),
            _cpu(_TRANSACTION, 0.6, 0.25),
        ),
    ),
    Row(
        "txn-100x4",
        "1 producer, 100 records × 4 partitions a transaction",
        (_rate(_TRANSACTIONS, 1.3, 10), _p99(0.7, 0.1), _cpu(_TRANSACTION, 0.5, 0.15)),
    ),
    Row(
        "txn-10-producers",
        "10 producers at once, 1 × 1",
        (_rate(_TRANSACTIONS, 1.1, 8), _p99(0.3, 0.1), _cpu(_TRANSACTION, 0.6, 0.15)),
    ),
    Row(
        "visible",
        "a waiting read_committed reader",
        (
            _p99(0.1, 0.1, "shown_p99_ms", "commit returns → read, p99 ms"),
            Figure("shown_p50_ms", "commit returns → read, p50 ms"),
            _p99(0.9, 0.55, "consumed_p50_ms", "begin → read, p50 ms"),
            _p99(0.4, 0.3, "consumed_p99_ms", "begin → read, p99 ms"),
        ),
    ),
    Row(
        "new-id",
        "a new transactional.id to its first commit",
        (_p99(0.2, 0.3, "p50_ms", "p50 ms"), Figure("p99_ms", "p99 ms")),
    ),
    Row(
        "bulk-plain",
        "1 KB bulk, plain",
        (_rate(_RECORDS, 1.0, 1.3), _cpu(_RECORD, 1.0, 0.9, digits=2)),
        "count",
    ),
    Row(
        "bulk-idempotent",
        "1 KB bulk, idempotent",
        (_rate(_RECORDS, 1.0, 1.3), _cpu(_RECORD, 1.0, 0.9, digits=2)),
        "count",
    ),
    Row(
        "bulk-transactional",
        "1 KB bulk, a commit every 100 ms",
        (
            _rate(_RECORDS, 1.0, 1.3),
            _cpu(_RECORD, 1.0, 0.9, digits=2),
            Figure("of_plain", "records/s, of plain", is_more_better=True, targets=own(0.97), is_compared=False),
        ),
        "count",
    ),
    Row(
        "tail",
        "consuming 1 KB at the tail",
        (_rate(_RECORDS, 1.0), _cpu(_RECORD, 1.0, digits=2)),
        "",
    ),
    Row(
        "many",
        "50 producers, 100 B, linger 0",
        (_rate("requests", 0.8, 4), _p99(1.2, 0.4), _cpu("request", 1.3, 0.25)),
    ),
)

RESTART = (
    Row(
        "recovery",
        "kill -9 with 1 million records and an open transaction",
        (Figure("recovery_s", "killed → the same transactional.id has committed, s", targets=against(0.1)),),
        "",
    ),
    Row(
        "backlog",
        "consuming these 1 KB records after the restart",
        (_rate(_RECORDS, 1.0), _cpu(_RECORD, 1.0, digits=2)),
        "",
    ),
)

#: Told for completeness: their JVM is new each time, and they count in whole milliseconds. No targets.
TOOLS = (
    Row("tool-produce", "Kafka's ProducerPerformance, 1 KB", (_rate(_RECORDS), _cpu(_RECORD, digits=2)), ""),
    Row("tool-consume", "Kafka's ConsumerPerformance", (_rate(_RECORDS), _cpu(_RECORD, digits=2)), ""),
    Row(
        "tool-latency",
        "Kafka's EndToEndLatency, acks=all",
        (
            Figure("average_ms", "average ms"),
            Figure("p50_ms", "p50 ms"),
            Figure("p99_ms", "p99 ms"),
            _cpu("message"),
        ),
        "",
    ),
)

WARM = (START, *LOADED, *RESTART, *TOOLS)
FRESH = (START, *LOADED)
