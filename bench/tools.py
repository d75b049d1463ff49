"""Kafka's own performance tools as clients: ProducerPerformance, ConsumerPerformance, EndToEndLatency.

Their JVM is new each time, so what they say is of a client that is not warm; the same for every broker.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from bench.peers import Unavailable, classpath

_TIMEOUT_S = 180
_PRODUCED = re.compile(r"^(\d+) records sent, ([\d.]+) records/sec .*?, ([\d.]+) ms avg latency", re.M)
_LATENCY = re.compile(r"Percentiles?: 50th = (\d+), 99th = (\d+), 99\.9th = (\d+)")
_AVERAGE = re.compile(r"Avg latency: ([\d.]+) ms")


@dataclass(frozen=True)
class Tool:
    """A tool with its arguments, and what reads its output."""

    name: str
    arguments: tuple[str, ...]
    read: Callable[[str], dict[str, float]]

    def run(self) -> dict[str, float]:
        command = ["java", "-Xmx512M", "-cp", classpath("kafka-tools"), f"org.apache.kafka.tools.{self.name}"]
        done = subprocess.run([*command, *self.arguments], capture_output=True, text=True, timeout=_TIMEOUT_S)
        try:
            return self.read(done.stdout)
        except (AttributeError, IndexError, ValueError):
            raise Unavailable(f"{self.name}: {(done.stdout + done.stderr)[-300:]}") from None


def all_of(bootstrap: str, topic: str, latency_topic: str, count: int, messages: int) -> list[Tool]:
    """Produce ``count`` records of 1 KB to ``topic`` and read them back; send ``messages`` one by one, waiting for each."""
    record = "1024"
    produce = ("--topic", topic, "--num-records", str(count), "--record-size", record, "--throughput", "-1")
    bootstrap_property = f"bootstrap.servers={bootstrap}"
    return [
        Tool("ProducerPerformance", (*produce, "--producer-props", bootstrap_property, "linger.ms=5"), _produced),
        Tool(
            "ConsumerPerformance",
            ("--bootstrap-server", bootstrap, "--topic", topic, "--messages", str(count), "--timeout", "60000"),
            _consumed,
        ),
        Tool(
            "EndToEndLatency",
            ("--bootstrap-server", bootstrap, "--topic", latency_topic, "--num-records", str(messages),
             "--producer-acks", "all", "--record-size", "100"),
            lambda text: _latency(text, messages),
        ),
    ]  # fmt: skip


def _produced(text: str) -> dict[str, float]:
    count, rate, average = _PRODUCED.findall(text)[-1]
    return {"units": float(count), "per_s": float(rate), "average_ms": float(average)}


def _consumed(text: str) -> dict[str, float]:
    """The last line: start, end, MB, MB/s, records, records/s, rebalance ms, fetch ms, fetch MB/s, fetch records/s."""
    cells = [cell.strip() for cell in text.strip().splitlines()[-1].split(",")]
    return {"units": float(cells[4]), "per_s": float(cells[9])}


def _latency(text: str, messages: int) -> dict[str, float]:
    found = _LATENCY.search(text)
    average = _AVERAGE.search(text)
    if found is None or average is None:
        raise ValueError("no percentiles")
    return {"units": messages, "average_ms": float(average[1]), "p50_ms": float(found[1]), "p99_ms": float(found[2])}
