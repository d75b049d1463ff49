"""The broker's meters and state in Prometheus' text form. Imported when metrics are asked for, as it is slow to import.

``METRICS`` is the one list of names; docs/metrics.md is made of it. Labels have few values (law 8): APIs and their versions,
reasons, error codes; partitions only where an open transaction holds readers back, and at most ``observe.LAGS_MAX`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import oncelog
from oncelog.broker import observe
from oncelog.broker.meters import BUCKETS, Histogram, Meters
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ERROR_NAMES: Final = {int(code): code.name for code in ErrorCode}

#: The buckets shown of durations, from 64 microseconds to 16 seconds; and of sizes of groups, from 1 to 16383.
_SECONDS_SHOWN: Final = (6, 24, 1e6, 0)
_COUNTS_SHOWN: Final = (1, 14, 1, 1)


class Described(NamedTuple):
    """One metric: its kind, what it says, its labels."""

    kind: type[Any]
    text: str
    labels: tuple[str, ...] = ()


METRICS: Final[dict[str, Described]] = {
    "oncelog_build": Described(
        GaugeMetricFamily,
        "Always 1: which version runs, and whether its core is compiled or python.",
        ("version", "core"),
    ),
    "oncelog_requests": Described(CounterMetricFamily, "Requests answered.", ("api", "version")),
    "oncelog_request_seconds": Described(
        HistogramMetricFamily, "From a request's last byte to its reply's leaving; waiting fetches wait here.", ("api",)
    ),
    "oncelog_request_bytes": Described(CounterMetricFamily, "Bytes of requests.", ("api",)),
    "oncelog_response_bytes": Described(CounterMetricFamily, "Bytes of replies.", ("api",)),
    "oncelog_refusals": Described(CounterMetricFamily, "Refusals, by the name of the error code.", ("error",)),
    "oncelog_sync_seconds": Described(
        HistogramMetricFamily, "Syncs of the journal to the disk; all 0 where the durability is not fsync."
    ),
    "oncelog_sync_entries": Described(
        HistogramMetricFamily, "Journal entries that one sync made safe: the size of a group."
    ),
    "oncelog_compactions": Described(CounterMetricFamily, "Compactions of a partition that were carried out."),
    "oncelog_compaction_read_bytes": Described(CounterMetricFamily, "Bytes of batches that compactions began with."),
    "oncelog_compaction_left_bytes": Described(CounterMetricFamily, "Bytes of batches that compactions have left."),
    "oncelog_journal_bytes": Described(GaugeMetricFamily, "Bytes of the journal's files."),
    "oncelog_damaged_partitions": Described(
        GaugeMetricFamily,
        "Partitions of which the disk was seen to have changed or lost something, since the start; the log names them.",
    ),
    "oncelog_unsynced_bytes": Described(GaugeMetricFamily, "Bytes appended and not yet safe."),
    "oncelog_transactions_open": Described(GaugeMetricFamily, "Transactions under way."),
    "oncelog_transaction_oldest_seconds": Described(
        GaugeMetricFamily, "Age of the oldest open transaction; 0 if none is open."
    ),
    "oncelog_transaction_timeouts": Described(CounterMetricFamily, "Transactions that timed out."),
    "oncelog_last_stable_offset_lag": Described(
        GaugeMetricFamily,
        f"Offsets that an open transaction keeps from read_committed readers; at most {observe.LAGS_MAX} partitions, "
        "those with the most.",
        ("topic", "partition"),
    ),
    "oncelog_fences": Described(
        CounterMetricFamily, "Producers fenced, and requests of fenced producers, by reason.", ("reason",)
    ),
    "oncelog_transactional_ids": Described(GaugeMetricFamily, "Transactional ids known."),
    "oncelog_producers": Described(GaugeMetricFamily, "Producers remembered, summed over partitions."),
    "oncelog_topics": Described(GaugeMetricFamily, "Topics."),
    "oncelog_partitions": Described(GaugeMetricFamily, "Partitions of all topics."),
    "oncelog_groups": Described(GaugeMetricFamily, "Consumer groups."),
    "oncelog_connections": Described(GaugeMetricFamily, "Open client connections."),
    "oncelog_connections_accepted": Described(CounterMetricFamily, "Client connections accepted."),
    "oncelog_connections_broken": Described(
        CounterMetricFamily, "Connections closed by the broker for what came by them."
    ),
}


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
        damaged_count: Callable[[], int],
    ) -> None:
        self._meters, self._state, self._api_names = meters, state, api_names
        self._clock_ms, self._journal_bytes, self._unsynced_bytes = clock_ms, journal_bytes, unsynced_bytes
        self._damaged_count = damaged_count

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        build = _family("oncelog_build")
        build.add_metric([oncelog.__version__, "compiled" if oncelog.is_compiled() else "python"], 1)
        yield build
        yield from self._requests()
        yield from self._counted()
        yield from self._seen()

    def _requests(self) -> Iterator[Metric]:
        requests, latency = _family("oncelog_requests"), _family("oncelog_request_seconds")
        bytes_in, bytes_out = _family("oncelog_request_bytes"), _family("oncelog_response_bytes")
        totals: dict[str, tuple[Histogram, list[int]]] = {}
        for (api_key, version), cell in sorted(self._meters.requests.items()):
            name = self._api_names.get(api_key, str(api_key))
            requests.add_metric([name, str(version)], cell.count)
            histogram, sizes = totals.setdefault(name, (Histogram(), [0, 0]))
            histogram.count += cell.count
            histogram.sum += cell.sum
            histogram.buckets = [a + b for a, b in zip(histogram.buckets, cell.buckets, strict=True)]
            sizes[0] += cell.bytes_in
            sizes[1] += cell.bytes_out
        for name, (histogram, sizes) in totals.items():
            latency.add_metric([name], *_shown(histogram, *_SECONDS_SHOWN))
            bytes_in.add_metric([name], sizes[0])
            bytes_out.add_metric([name], sizes[1])
        return iter((requests, latency, bytes_in, bytes_out))

    def _counted(self) -> Iterator[Metric]:
        meters = self._meters
        refusals = ((_ERROR_NAMES.get(code, str(code)), count) for code, count in sorted(meters.refusals.items()))
        yield _by_label("oncelog_refusals", refusals)
        syncs, groups = _family("oncelog_sync_seconds"), _family("oncelog_sync_entries")
        syncs.add_metric([], *_shown(meters.syncs, *_SECONDS_SHOWN))
        groups.add_metric([], *_shown(meters.sync_groups, *_COUNTS_SHOWN))
        yield from (syncs, groups)
        yield _by_label("oncelog_fences", ((fence.value, count) for fence, count in meters.fences.items()))
        yield _single("oncelog_transaction_timeouts", meters.transaction_timeouts)
        yield _single("oncelog_compactions", meters.compactions)
        yield _single("oncelog_compaction_read_bytes", meters.compacted_bytes_before)
        yield _single("oncelog_compaction_left_bytes", meters.compacted_bytes_after)
        yield _single("oncelog_connections", meters.connections_open)
        yield _single("oncelog_connections_accepted", meters.connections_accepted)
        yield _single("oncelog_connections_broken", meters.connections_closed_bad)

    def _seen(self) -> Iterator[Metric]:
        totals = observe.totals(self._state, self._clock_ms())
        yield _single("oncelog_topics", totals.topics)
        yield _single("oncelog_partitions", totals.partitions)
        yield _single("oncelog_producers", totals.producers)
        yield _single("oncelog_groups", totals.groups)
        yield _single("oncelog_transactional_ids", totals.transactional_ids)
        yield _single("oncelog_transactions_open", totals.transactions_open)
        yield _single("oncelog_transaction_oldest_seconds", totals.oldest_open_ms / 1000)
        lag = _family("oncelog_last_stable_offset_lag")
        for one in observe.lags(self._state):
            lag.add_metric([one.topic, str(one.partition)], one.offsets)
        yield lag
        yield _single("oncelog_journal_bytes", self._journal_bytes())
        yield _single("oncelog_unsynced_bytes", self._unsynced_bytes())
        yield _single("oncelog_damaged_partitions", self._damaged_count())


def text_of(collector: BrokerCollector) -> bytes:
    """The whole text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _family(name: str) -> Any:
    described = METRICS[name]
    return described.kind(name, described.text, labels=described.labels)


def _single(name: str, value: float) -> Metric:
    described = METRICS[name]
    metric: Metric = described.kind(name, described.text, value=value)
    return metric


def _by_label(name: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = _family(name)
    for label, value in values:
        family.add_metric([label], value)
    metric: Metric = family
    return metric


def _shown(
    histogram: Histogram, first: int, last: int, scale: float, below: int
) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts, bucket i of what is below 2**i, and the sum, both divided by ``scale``.

    Whole numbers (``below`` 1) are below 2**i if they are at most 2**i - 1, which is what Prometheus asks for.
    """
    shown: list[tuple[str, float]] = []
    total = sum(histogram.buckets[:first])
    for bucket in range(first, BUCKETS):
        total += histogram.buckets[bucket]
        if bucket <= last:
            shown.append((repr((2**bucket - below) / scale), total))
    shown.append(("+Inf", total))
    return shown, histogram.sum / scale
