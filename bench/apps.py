"""`python -m bench.apps`: pass-through applications on one oncelog broker, in turn, several rounds; see bench/README.md.

One run of a copier: it starts and copies single records until it is warm; then records come at an even pace, and each tells
how long it took until a read_committed reader had it; then many records become visible at once (they are one transaction),
and the reader counts until it has the last.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from bench.copiers import KINDS
from bench.load import delete_topic, new_topic, percentile, transactional
from bench.peers import CACHE, TICKS, Peer, Unavailable, free_port

QUIX = "quix"
QUIX_VERSION = "3.28.1"
NAMES = (*KINDS, QUIX)
SIZES = (100, 1024)
PARTITIONS = 4
_TIMEOUT_S = 60
_WARM_RECORDS = 20
_STAMP_BYTES = 8
#: Requests that end a batch, with transactions and without.
_COMMITS = ("EndTxn", "OffsetCommit")

Figures = dict[str, float]
#: (size, copier) -> one Figures a round
Results = dict[tuple[int, str], list[Figures]]


class Target(NamedTuple):
    ours: str
    other: str
    figure: str
    bound: float
    text: str

    def ratio(self, results: Results, size: int) -> float | None:
        """The median of the ratios, each of one round."""
        pairs = zip(results.get((size, self.ours), []), results.get((size, self.other), []))
        ratios = [mine[self.figure] / one[self.figure] for mine, one in pairs]
        return statistics.median(ratios) if ratios else None

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.figure == "per_s" else ratio <= self.bound


TARGETS = (
    Target("once", "at-least-once", "per_s", 0.95, "exactly once / at least once, records/s"),
    Target("once-batch", "at-least-once-batch", "per_s", 0.95, "the same with batch handlers"),
    Target("once-batch", "loop-batch", "per_s", 0.9, "batch handlers / loop by hand, records/s"),
    Target("once", QUIX, "per_s", 1.0, "exactly once / Quix Streams, records/s"),
    Target("once", QUIX, "p99_ms", 1.0, "exactly once / Quix Streams, p99"),
    Target("once-batch", QUIX, "per_s", 1.0, "batch handlers / Quix Streams, records/s"),
    Target("once-batch", QUIX, "p99_ms", 1.0, "batch handlers / Quix Streams, p99"),
)


def quix_python() -> str:
    """The Python of an environment with Quix Streams, kept in the cache."""
    folder = CACHE / f"quix-{QUIX_VERSION}"
    if not (folder / "complete").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        install = [str(folder / "bin" / "pip"), "install", "-q", f"quixstreams=={QUIX_VERSION}"]
        for command in ([sys.executable, "-m", "venv", str(folder)], install):
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise Unavailable(f"quixstreams can't be installed: {done.stderr[-300:]}")
        (folder / "complete").touch()
    return str(folder / "bin" / "python")


class Broker(Peer):
    """The one oncelog broker of a run, and what it says of itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__("oncelog", folder)
        self.metrics = f"127.0.0.1:{free_port()}"
        self.command += ["--metrics", self.metrics]

    def commits(self) -> float:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=_TIMEOUT_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [one for family in families if family.name == "oncelog_requests" for one in family.samples]
        return sum(one.value for one in samples if one.labels["api"] in _COMMITS)


class Copier:
    """One process that copies ``source`` to ``target``."""

    def __init__(self, kind: str, bootstrap: str, size: int, folder: Path) -> None:
        self.bootstrap, self.size = bootstrap, size
        self.source, self.target = (new_topic(bootstrap, PARTITIONS) for _ in range(2))
        self.log = folder / f"{kind}-{self.source}.log"
        words = [bootstrap, f"app-{self.source}", self.source, self.target, str(folder / self.source)]
        program = (
            [quix_python(), str(Path(__file__).with_name("quix_copier.py"))]
            if kind == QUIX
            else [sys.executable, "-m", "bench.copiers", kind]
        )
        self.reader = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": self.target, "isolation.level": "read_committed"}
        )
        self.reader.assign([TopicPartition(self.target, one, 0) for one in range(PARTITIONS)])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*program, *words], stdout=log, stderr=log)

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def value(self) -> bytes:
        return time.monotonic_ns().to_bytes(_STAMP_BYTES, "big") + b"x" * (self.size - _STAMP_BYTES)

    def read(self, count: int) -> list[float]:
        """The age of each of the next ``count`` records, in seconds, when the reader gets it."""
        ages: list[float] = []
        deadline = time.monotonic() + _TIMEOUT_S
        while len(ages) < count:
            assert self.process.poll() is None, f"the copier has ended: {self.log.read_text()[-1000:]}"
            assert time.monotonic() < deadline, f"{len(ages)} of {count} records: {self.log.read_text()[-1000:]}"
            first = self.reader.poll(0.05)
            if first is None:
                continue
            for message in (first, *self.reader.consume(10_000, 0)):
                assert message.error() is None, message.error()
                stamp = int.from_bytes(message.value()[:_STAMP_BYTES], "big")
                ages.append((time.monotonic_ns() - stamp) / 1e9)
        assert len(ages) == count, f"{len(ages)} records instead of {count}"
        return ages

    def warm(self) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0})
        for number in range(_WARM_RECORDS):
            producer.produce(self.source, self.value(), str(number))
            assert producer.flush(_TIMEOUT_S) == 0, "not delivered"
            self.read(1)

    def latency(self, broker: Broker, seconds: float, per_s: int) -> Figures:
        """Fed by a process of its own, so that reading does not delay it."""
        feeder = [sys.executable, "-m", "bench.apps", "--feed", self.bootstrap, self.source, str(self.size)]
        count = round(seconds * per_s)
        commits, spent, own, begun = broker.commits(), broker.cpu_s(), self.cpu_s(), time.monotonic()
        with subprocess.Popen([*feeder, str(count), str(per_s)]) as process:
            ages = self.read(count)
        took = time.monotonic() - begun
        assert process.returncode == 0, "the feeder has failed"
        return {
            "p50_ms": percentile(ages, 0.5) * 1e3,
            "p99_ms": percentile(ages, 0.99) * 1e3,
            "commits_per_s": (broker.commits() - commits) / took,
            "broker_percent": (broker.cpu_s() - spent) / took * 100,
            "copier_percent": (self.cpu_s() - own) / took * 100,
        }

    def bulk(self, count: int) -> Figures:
        producer = transactional(self.bootstrap, f"feed-{self.source}", **{"linger.ms": 20})
        producer.init_transactions(_TIMEOUT_S)
        producer.begin_transaction()
        for number in range(count):
            producer.produce(self.source, self.value(), str(number % 1000))
            if number % 10_000 == 9_999:
                producer.flush(_TIMEOUT_S)
        producer.flush(_TIMEOUT_S)
        spent, begun = self.cpu_s(), time.monotonic()
        producer.commit_transaction(_TIMEOUT_S)
        self.read(count)
        took = time.monotonic() - begun
        return {"per_s": count / took, "cpu_us": (self.cpu_s() - spent) / count * 1e6}

    def close(self) -> None:
        self.reader.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for topic in (self.source, self.target):
            delete_topic(self.bootstrap, topic)


def feed(bootstrap: str, topic: str, size: int, count: int, per_s: int) -> None:
    """``count`` records at an even pace, each with the time when it was given to the producer."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    producer.list_topics(topic, timeout=_TIMEOUT_S)
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / per_s - time.monotonic()))
        stamp = time.monotonic_ns().to_bytes(_STAMP_BYTES, "big")
        producer.produce(topic, stamp + b"x" * (size - _STAMP_BYTES), str(number % 1000))
        producer.poll(0)
    assert producer.flush(_TIMEOUT_S) == 0, "not delivered"


def measured(kind: str, broker: Broker, size: int, folder: Path, asked: argparse.Namespace) -> Figures:
    copier = Copier(kind, broker.bootstrap, size, folder)
    try:
        copier.warm()
        return {**copier.latency(broker, asked.seconds, asked.pace), **copier.bulk(asked.records)}
    finally:
        copier.close()


def table(results: Results, size: int, names: list[str]) -> str:
    lines = [
        "| copier | records/s | CPU µs a record | p50 ms | p99 ms | commits/s | copier's CPU | broker's CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        rounds = results.get((size, name), [])
        if rounds:
            middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            lines.append(
                f"| `{name}` | {middle['per_s']:,.0f} | {middle['cpu_us']:.1f} | {middle['p50_ms']:.0f} "
                f"| {middle['p99_ms']:.0f} | {middle['commits_per_s']:.0f} | {middle['copier_percent']:.1f} % "
                f"| {middle['broker_percent']:.1f} % |"
            )
    return "\n".join(lines)


def verdicts(results: Results) -> str:
    lines = ["| target | " + " | ".join(f"{size} B" for size in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
    for target in TARGETS:
        sign = "≥" if target.figure == "per_s" else "≤"
        cells = []
        for size in SIZES:
            ratio = target.ratio(results, size)
            verdict = "" if ratio is None else f"{ratio:.2f} {'met' if target.is_met(ratio) else '**missed**'}"
            cells.append(verdict or "not measured")
        lines.append(f"| {target.text} {sign} {target.bound:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.apps")
    parser.add_argument("--copiers", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=300_000, help="records of the throughput part")
    parser.add_argument("--seconds", type=float, default=5, help="length of the latency part")
    parser.add_argument("--pace", type=int, default=500, help="records a second there")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--feed", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.feed:
        feed(*asked.feed[:2], *map(int, asked.feed[2:]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the broker and the copiers end too
    names, results, failures, begun = asked.copiers.split(","), Results(), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="oncelog-bench-") as scratch:
        peer = Broker(Path(scratch) / "broker")
        peer.launch()
        try:
            peer.wait()
            for number in range(asked.rounds):
                first = number * len(names) // asked.rounds  # who comes first after another size is slower
                for size in SIZES:
                    for name in (*names[first:], *names[:first]):
                        try:
                            figures = measured(name, peer, size, Path(scratch), asked)
                        except (Unavailable, AssertionError) as error:
                            failures.append(f"{name}, {size} B, round {number + 1}: {error}")
                            continue
                        results.setdefault((size, name), []).append(figures)
                        print(number + 1, size, name, {key: round(one, 1) for key, one in figures.items()}, flush=True)
        finally:
            peer.stop()
    print(f"{platform.platform()}, {os.cpu_count()} cores, {(time.monotonic() - begun) / 60:.1f} minutes")
    for size in SIZES:
        print(f"\n## {size} B\n\n{table(results, size, names)}")
    print(f"\n{verdicts(results)}")
    for failure in failures:
        print(f"- not measured: {failure}")
    if asked.out:
        kept = [{"size": size, "copier": name, "rounds": rounds} for (size, name), rounds in results.items()]
        asked.out.write_text(json.dumps(kept, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
