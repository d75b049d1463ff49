"""What an application counts, for Prometheus: one registry for each ``App``; nothing is global."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Meters:
    """Counters and a histogram; the names begin with ``oncelog_app_``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self._transactions = Counter("oncelog_app_transactions", "Transactions by outcome", ["outcome"], registry=on)
        self._records = Counter("oncelog_app_records", "Records processed in committed transactions", registry=on)
        self._outputs = Counter("oncelog_app_outputs", "Records sent in committed transactions", registry=on)
        self._seconds = Histogram(
            "oncelog_app_transaction_seconds", "From the batch's first record to its end", buckets=_SECONDS, registry=on
        )
        self._fences = Counter("oncelog_app_fences", "Times that another process took a worker's name", registry=on)
        self._retries = Counter("oncelog_app_retries", "Attempts beyond the first", ["processor"], registry=on)
        self._dead_letters = Counter("oncelog_app_dead_letters", "Records put aside", ["processor"], registry=on)

    def transaction(self, outcome: str, records: int, outputs: int, seconds: float) -> None:
        """One has ended."""
        self._transactions.labels(outcome).inc()
        if outcome == "committed":
            self._records.inc(records)
            self._outputs.inc(outputs)
            self._seconds.observe(seconds)

    def fenced(self) -> None:
        """Our name was taken."""
        self._fences.inc()

    def retried(self, processor: str) -> None:
        """A handler is tried again."""
        self._retries.labels(processor).inc()

    def dead_letter(self, processor: str) -> None:
        """A record was put aside."""
        self._dead_letters.labels(processor).inc()
