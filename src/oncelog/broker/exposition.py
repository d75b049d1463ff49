"""The broker's meters and state in Prometheus' text form. Imported when metrics are asked for, as it is slow to import.

Every name here is listed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from oncelog.broker import observe
from oncelog.broker.meters import BUCKETS, Histogram, Meters
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ERROR_NAMES: Final = {int(code): code.name for code in ErrorCode}

#: The buckets shown: from 64 microseconds to 16 seconds.
_BUCKET_FIRST: Final = 6
_BUCKET_LAST: Final = 24


class BrokerCollector(Collector):
    """Reads the broker at the time of a scrape; holds nothing."""

    def __init__(
        self,
        meters: Meters,
        state: State,
        *,
        api_names: dict[int, str],
        clock_ms: Callable[[], int],
        journal_bytes: Callable[[], int],
        unsynced_bytes: Callable[[], int],
    ) -> None:
        self._meters, self._state, self._api_names = meters, state, api_names
        self._clock_ms, self._journal_bytes, self._unsynced_bytes = clock_ms, journal_bytes, unsynced_bytes

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield from self._requests()
        yield from self._counted()
        yield from self._seen()

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("oncelog_requests", "Requests answered.", labels=["api", "version"])
        bytes_in = CounterMetricFamily("oncelog_request_bytes", "Bytes of requests.", labels=["api"])
        bytes_out = CounterMetricFamily("oncelog_response_bytes", "Bytes of replies.", labels=["api"])
        latency = HistogramMetricFamily(
            "oncelog_request_seconds", "From a request's last byte to its reply's leaving.", labels=["api"]
        )
        totals: dict[str, tuple[Histogram, list[int]]] = {}
        for (api_key, version), cell in sorted(self._meters.requests.items()):
            name = self._api_names.get(api_key, str(api_key))
            requests.add_metric([name, str(version)], cell.count)
            histogram, sizes = totals.setdefault(name, (Histogram(), [0, 0]))
            histogram.count += cell.count
            histogram.seconds += cell.seconds
            histogram.buckets = [a + b for a, b in zip(histogram.buckets, cell.buckets, strict=True)]
            sizes[0] += cell.bytes_in
            sizes[1] += cell.bytes_out
        for name, (histogram, sizes) in totals.items():
            latency.add_metric([name], _buckets(histogram), histogram.seconds)
            bytes_in.add_metric([name], sizes[0])
            bytes_out.add_metric([name], sizes[1])
        return iter((requests, latency, bytes_in, bytes_out))

    def _counted(self) -> Iterator[Metric]:
        meters = self._meters
        syncs = HistogramMetricFamily("oncelog_sync_seconds", "Syncs of the journal.")
        syncs.add_metric([], _buckets(meters.syncs), meters.syncs.seconds)
        yield syncs
        yield CounterMetricFamily(
            "oncelog_synced_entries",
            "Journal entries made safe; by syncs: the size of a group.",
            value=meters.entries_synced,
        )
        fences = CounterMetricFamily("oncelog_fences", "Producers fenced, by reason.", labels=["reason"])
        for fence, count in meters.fences.items():
            fences.add_metric([fence.value], count)
        yield fences
        refusals = CounterMetricFamily("oncelog_refusals", "Requests refused, by error code.", labels=["error"])
        for code, count in sorted(meters.refusals.items()):
            refusals.add_metric([_ERROR_NAMES.get(code, str(code))], count)
        yield refusals
        yield CounterMetricFamily(
            "oncelog_transaction_timeouts", "Transactions that timed out.", value=meters.transaction_timeouts
        )
        yield _gauge("oncelog_connections", "Open client connections.", meters.connections_open)
        yield CounterMetricFamily(
            "oncelog_connections_accepted", "Client connections accepted.", value=meters.connections_accepted
        )
        yield CounterMetricFamily(
            "oncelog_connections_refused",
            "Connections closed for what came by them.",
            value=meters.connections_closed_bad,
        )

    def _seen(self) -> Iterator[Metric]:
        totals = observe.totals(self._state, self._clock_ms())
        yield _gauge("oncelog_topics", "Topics.", totals.topics)
        yield _gauge("oncelog_partitions", "Partitions of all topics.", totals.partitions)
        yield _gauge("oncelog_producers", "Producers remembered, summed over partitions.", totals.producers)
        yield _gauge("oncelog_groups", "Consumer groups.", totals.groups)
        yield _gauge("oncelog_transactional_ids", "Transactional ids known.", totals.transactional_ids)
        yield _gauge("oncelog_transactions_open", "Transactions under way.", totals.transactions_open)
        yield _gauge(
            "oncelog_transaction_oldest_seconds",
            "Age of the oldest open transaction; 0 if none is open.",
            totals.oldest_open_ms / 1000,
        )
        lag = GaugeMetricFamily(
            "oncelog_last_stable_offset_lag",
            f"Records held back by open transactions; the {observe.LAGS_MAX} partitions with the most.",
            labels=["topic", "partition"],
        )
        for one in observe.lags(self._state):
            lag.add_metric([one.topic, str(one.partition)], one.records)
        yield lag
        yield _gauge("oncelog_journal_bytes", "Bytes in use in the journal.", self._journal_bytes())
        yield _gauge("oncelog_unsynced_bytes", "Bytes appended and not yet synced.", self._unsynced_bytes())


def text_of(collector: BrokerCollector) -> bytes:
    """The whole text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts; bucket i holds what is below 2**i microseconds."""
    shown: list[tuple[str, float]] = []
    total = sum(histogram.buckets[:_BUCKET_FIRST])
    for bucket in range(_BUCKET_FIRST, BUCKETS):
        total += histogram.buckets[bucket]
        if bucket <= _BUCKET_LAST:
            shown.append((repr(2**bucket / 1e6), total))
    shown.append(("+Inf", total))
    return shown
