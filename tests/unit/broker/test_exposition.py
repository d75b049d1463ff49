"""Metrics: what is counted is shown, under the names that docs/metrics.md lists, and no others."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

import oncelog
from oncelog.broker.exposition import METRICS, BrokerCollector, text_of
from oncelog.broker.meters import Fence, Meters
from oncelog.engine.state import State


def collector(meters: Meters) -> BrokerCollector:
    return BrokerCollector(
        meters, State(), api_names={0: "Produce"}, clock_ms=lambda: 5_000, journal_bytes=lambda: 64, unsynced_bytes=lambda: 3,
        damaged_count=lambda: 2,
    )  # fmt: skip


def samples(meters: Meters) -> dict[str, float]:
    text = text_of(collector(meters)).decode()
    return {
        " ".join([one.name, *one.labels.values()]): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_every_metric_is_in_the_list_and_every_listed_one_is_shown() -> None:
    assert {metric.name for metric in collector(Meters()).collect()} == set(METRICS)


def test_names_are_prometheus_names() -> None:
    for name, described in METRICS.items():
        assert re.fullmatch(r"oncelog_[a-z_]+", name)
        assert described.text.endswith(".")


def test_requests_by_api_and_version() -> None:
    meters = Meters()
    meters.answered(0, 9, 0.000_100, 1_000, 50)
    meters.answered(0, 12, 0.010, 2_000, 60)
    meters.answered(999, 0, 0.0, 1, 1)
    seen = samples(meters)
    assert (seen["oncelog_requests_total Produce 9"], seen["oncelog_requests_total Produce 12"]) == (1, 1)
    assert seen["oncelog_requests_total 999 0"] == 1
    assert (seen["oncelog_request_bytes_total Produce"], seen["oncelog_response_bytes_total Produce"]) == (3_000, 110)
    assert (seen["oncelog_request_seconds_count Produce"], seen["oncelog_request_seconds_sum Produce"]) == (2, 0.0101)
    assert (
        seen["oncelog_request_seconds_bucket Produce 6.4e-05"],
        seen["oncelog_request_seconds_bucket Produce 0.000128"],
    ) == (
        0,
        1,
    )
    assert seen["oncelog_request_seconds_bucket Produce +Inf"] == 2


def test_syncs_and_their_groups() -> None:
    meters = Meters()
    for seconds, entries in ((0.001, 1), (0.003, 3), (40.0, 100_000)):
        meters.synced(seconds, entries)
    seen = samples(meters)
    assert (seen["oncelog_sync_seconds_count"], seen["oncelog_sync_seconds_sum"]) == (3, 40.004)
    assert seen["oncelog_sync_seconds_bucket +Inf"] == 3
    assert (seen["oncelog_sync_entries_bucket 1.0"], seen["oncelog_sync_entries_bucket 3.0"]) == (1, 2)
    assert (seen["oncelog_sync_entries_bucket 16383.0"], seen["oncelog_sync_entries_sum"]) == (2, 100_004)


def test_refusals_by_name_and_fences_by_reason() -> None:
    """D5: every reason is there from the start, so that an alarm sees the first one."""
    meters = Meters()
    meters.refused(45)
    meters.refused(12_345)
    meters.fenced(Fence.TIMED_OUT)
    seen = samples(meters)
    assert (seen["oncelog_refusals_total OUT_OF_ORDER_SEQUENCE_NUMBER"], seen["oncelog_refusals_total 12345"]) == (1, 1)
    assert {name: value for name, value in seen.items() if name.startswith("oncelog_fences")} == {
        f"oncelog_fences_total {fence.value}": float(fence is Fence.TIMED_OUT) for fence in Fence
    }


def test_what_runs() -> None:
    core = "compiled" if oncelog.is_compiled() else "python"
    assert samples(Meters())[f"oncelog_build {core} {oncelog.__version__}"] == 1
