"""Bulk load for a long time with a short retention: disk and memory stay bounded, small requests are as fast at the end.

``make soak`` runs it for an hour; ``ONCELOG_SOAK_SECONDS`` says otherwise. Its figures are printed (pytest -s).
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, producer
from tests.support.fixtures import TEST_OPTIONS

pytestmark = [pytest.mark.client("confluent-kafka"), pytest.mark.soak]

SECONDS = float(os.environ.get("ONCELOG_SOAK_SECONDS", "3600"))
WINDOWS = 20
MIB = 1024 * 1024
PARTITIONS = 6
#: Two thirds are kept for so long that they must be settled; the rest expires in the journal.
KEPT_MS, SHORT_MS = 20_000, 2_000
BYTES_A_SECOND_MAX = 60 * MIB
#: Journal at its bound, its spares, what is retained for KEPT_MS and until the next check, as much in half-empty segments.
DISK_BYTES_MAX = 1280 * MIB + 2 * 26 * BYTES_A_SECOND_MAX
MEMORY_BYTES_MAX = 500 * MIB


def memory_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def disk_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # given up meanwhile
            continue
    return total


class Load(threading.Thread):
    """1 KB records as fast as the broker and the bound on the rate allow."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.sent = self.acknowledged = 0
        self.errors: list[str] = []
        self._address = bootstrap

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self.errors.append(str(error))
        else:
            self.acknowledged += 1

    def run(self) -> None:
        writer = producer(self._address, queue_buffering_max_messages=50_000, linger_ms=5, batch_size=500_000)
        value, begun = os.urandom(1000), time.monotonic()
        while not self.stop.is_set():
            topic = "short" if self.sent % 3 == 0 else "kept"
            try:
                writer.produce(topic, value, partition=self.sent % PARTITIONS, on_delivery=self._delivered)
                self.sent += 1
            except BufferError:
                writer.poll(0.05)
            if self.sent % 1000 == 0:
                writer.poll(0)
                while self.sent * 1000 > (time.monotonic() - begun) * BYTES_A_SECOND_MAX and not self.stop.is_set():
                    writer.poll(0.005)
        assert writer.flush(60) == 0


def latencies_ms(writer: object, seconds: float) -> list[float]:
    """Of small requests, one after another, some 50 a second."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        writer.produce("small", b"small")  # type: ignore[attr-defined]
        assert writer.flush(60) == 0  # type: ignore[attr-defined]
        taken.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.02)
    return sorted(taken)


def test_bulk_load_with_short_retention(tmp_path: Path) -> None:
    """Issue: disk and memory bounded, p99 flat while it settles (law 8)."""
    options = (*TEST_OPTIONS, "--set", "log.retention.check.interval.ms=1000")
    with BrokerProcess(tmp_path / "broker", options=options) as broker:
        create_topic(broker.bootstrap, "kept", PARTITIONS, retention_ms=KEPT_MS)
        create_topic(broker.bootstrap, "short", PARTITIONS, retention_ms=SHORT_MS)
        create_topic(broker.bootstrap, "small", 1)
        load = Load(broker.bootstrap)
        load.start()
        writer = producer(broker.bootstrap, linger_ms=0)
        windows: list[tuple[float, float, float, float]] = []
        for _ in range(WINDOWS):
            before = load.acknowledged
            taken = latencies_ms(writer, SECONDS / WINDOWS)
            rate = (load.acknowledged - before) * 1000 / MIB / (SECONDS / WINDOWS)
            memory, disk = memory_bytes(broker.process_id) / MIB, disk_bytes(broker.data) / MIB
            windows.append((taken[len(taken) * 99 // 100], memory, disk, rate))
            sys.stdout.write(
                f"p50 {statistics.median(taken):6.1f} ms  p99 {windows[-1][0]:6.1f} ms  RSS {memory:4.0f} MiB  "
                f"disk {disk:5.0f} MiB  {rate:5.1f} MiB/s\n"
            )
            sys.stdout.flush()
        load.stop.set()
        load.join(90)
        broker.assert_healthy()
        assert load.errors == [] and load.acknowledged == load.sent
        p99s, memories, disks, _ = zip(*windows, strict=True)
        assert max(disks) * MIB < DISK_BYTES_MAX
        assert max(memories) * MIB < MEMORY_BYTES_MAX
        half = WINDOWS // 2
        assert max(memories[half:]) < 1.25 * max(memories[:half]), "memory grows"
        assert statistics.median(p99s[half:]) < 2 * statistics.median(p99s[:half]) + 20, "it gets slower"
        assert list((broker.data / "segments").iterdir()), "nothing was settled: too little to judge"
