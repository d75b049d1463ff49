"""The stages of a run: fresh brokers one by one, warm ones side by side, brokers after kill -9, Kafka's own tools as clients.

Results are collected as row -> peer -> one set of figures a round. A load that a peer can't bear, or that does not end in time,
leaves that peer out of the round and is told.
"""

import json
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from bench import load, rows, tools
from bench.peers import Peer, Unavailable
from bench.rows import Row
from bench.table import Figures, Results

LOAD_TIMEOUT_S = 240
#: Kafka's CPU a transaction has stopped falling when the best of a slice is within this of the best before.
_SETTLED = 0.97
#: Loads that may fail while a broker warms up.
_WARM_UP_ATTEMPTS = 3
_KEEPS_NOTHING = ("kfake",)


@dataclass
class Sizes:
    """How long and how much; see ``--quick``."""

    seconds: float = 4
    count: int = 400_000
    fresh_rounds: int = 2
    fresh_seconds: float = 3
    fresh_count: int = 150_000
    warm_rounds: int = 3
    warm_up_s_min: float = 60
    warm_up_s_max: float = 240
    restart_rounds: int = 2
    restart_count: int = 1_000_000
    idle_s: float = 15
    tool_count: int = 500_000
    tool_messages: int = 5_000


QUICK = Sizes(
    seconds=2.5, count=200_000, fresh_rounds=1, fresh_seconds=2, fresh_count=100_000, warm_rounds=2, warm_up_s_min=30,
    warm_up_s_max=75, restart_rounds=1, idle_s=8, tool_count=200_000, tool_messages=2_000,
)  # fmt: skip


@dataclass
class Run:
    """What a run has found so far."""

    names: list[str]
    wanted: list[str]
    sizes: Sizes
    scratch: Path
    fresh: Results = field(default_factory=dict)
    warm: Results = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warm_up: dict[str, list[float]] = field(default_factory=dict)

    def note(self, results: Results, row: str, peer: str, figures: Figures) -> None:
        results.setdefault(row, {}).setdefault(peer, []).append(figures)
        shown = {key: round(value, 3) for key, value in figures.items()}
        tell(f"{'fresh' if results is self.fresh else 'warm'} {row} {peer} {shown}")

    def fail(self, what: str, error: BaseException) -> None:
        self.failures.append(f"{what}: {error}")
        tell(f"not measured: {what}: {error}")

    def is_wanted(self, row: str) -> bool:
        return not self.wanted or row in self.wanted


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def loaded(peer: Peer, kind: str, *arguments: object) -> tuple[Figures, dict[str, str]]:
    """One load in its own process. ``cpu_us`` is the broker's CPU time a unit. Also what is not a number."""
    before = peer.cpu_s()
    command = [sys.executable, "-m", "bench.load", kind, peer.bootstrap, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise Unavailable(f"{kind}: exit code {done.returncode}, {said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    figures = {key: value for key, value in found.items() if not isinstance(value, str)}
    figures["cpu_us"] = (peer.cpu_s() - before) / figures["units"] * 1e6
    return figures, {key: value for key, value in found.items() if isinstance(value, str)}


def first_commit_s(peer: Peer, begun: float, topic: str, transactional_id: str) -> float:
    """Seconds from ``begun`` until a transaction is committed; the client comes as soon as the port is open."""
    peer.wait_for_port()
    load.first_commit(peer.bootstrap, topic, transactional_id)
    return time.monotonic() - begun


def visit(run: Run, results: Results, peer: Peer, seconds: float, count: int) -> None:
    """All loaded rows once."""
    plain_rate = 0.0
    for row in rows.LOADED:
        if row.name == "tail" or not run.is_wanted(row.name):
            continue
        try:
            figures, texts = loaded(peer, row.name, seconds if row.argument == "seconds" else count)
            if row.argument == "count":
                if row.name == "bulk-plain":
                    plain_rate = figures["per_s"]
                elif row.name == "bulk-transactional" and plain_rate:
                    figures["of_plain"] = figures["per_s"] / plain_rate
                if row.name == "bulk-idempotent":
                    tail, _ = loaded(peer, "consume", texts["topic"], int(figures["count"]))
                    run.note(results, "tail", peer.name, tail)
                load.delete_topic(peer.bootstrap, texts["topic"])
            run.note(results, row.name, peer.name, figures)
        except (Unavailable, subprocess.TimeoutExpired) as no:
            run.fail(f"{row.name} {peer.name}", no)


def fresh(run: Run) -> None:
    """Each peer by itself, on an empty folder, from exec through its first half minute."""
    for number in range(run.sizes.fresh_rounds):
        for name in run.names:
            try:
                peer = Peer(name, run.scratch / f"fresh-{number}-{name}")
                try:
                    begun = peer.launch()
                    taken = first_commit_s(peer, begun, "first", uuid.uuid4().hex)
                    run.note(run.fresh, "start", name, {"first_commit_s": taken, "idle_mib": peer.rss_mib()})
                    # A start is measured alone: with the other brokers up it would be theirs too.
                    run.note(run.warm, "start", name, {"first_commit_s": taken})
                    visit(run, run.fresh, peer, run.sizes.fresh_seconds, run.sizes.fresh_count)
                finally:
                    peer.stop()
                    peer.remove()
            except Unavailable as no:
                run.fail(f"fresh {name}", no)


def warm(run: Run) -> None:
    """All peers up at once: idle, warmed, then measured in turn; restarts and tools at the end."""
    peers: list[Peer] = []
    try:
        for name in run.names:
            try:
                peer = Peer(name, run.scratch / name)
                peers.append(peer)
                taken = first_commit_s(peer, peer.launch(), "first", uuid.uuid4().hex)
                tell(f"{name} is up after {taken:.1f} s")
            except Unavailable as no:
                run.fail(name, no)
        peers = [peer for peer in peers if peer.is_alive()]
        _idle(run, peers)
        _warm_up(run, peers)
        for _ in range(run.sizes.warm_rounds):
            for peer in peers:
                visit(run, run.warm, peer, run.sizes.seconds, run.sizes.count)
        if run.is_wanted("tools"):
            for peer in peers:
                _use_tools(run, peer)
    finally:
        for peer in peers:
            peer.stop()
            peer.remove()


def _idle(run: Run, peers: list[Peer]) -> None:
    """What brokers need that nobody talks to; after a pause for the start to be over."""
    time.sleep(run.sizes.idle_s / 2)
    before = {peer.name: peer.cpu_s() for peer in peers}
    begun = time.monotonic()
    time.sleep(run.sizes.idle_s)
    for peer in peers:
        percent = (peer.cpu_s() - before[peer.name]) / (time.monotonic() - begun) * 100
        run.note(run.warm, "start", peer.name, {"idle_mib": peer.rss_mib(), "idle_cpu_percent": percent})


def _warm_up(run: Run, peers: list[Peer]) -> None:
    """Load each until its CPU per transaction has stopped falling; one after the other, for a JVM that shares its processors
    with three other brokers under load does not come to compile."""
    if any(run.is_wanted(row.name) for row in rows.LOADED):
        for peer in peers:
            _warm_one(run, peer)


def _warm_one(run: Run, peer: Peer) -> None:
    sizes, begun, failed = run.sizes, time.monotonic(), 0
    spent = run.warm_up.setdefault(peer.name, [])
    while (passed := time.monotonic() - begun) < sizes.warm_up_s_max:
        # Two slices in a row that were no better than the best before.
        if passed > sizes.warm_up_s_min and len(spent) > 3 and min(spent[-2:]) > min(spent[:-2]) * _SETTLED:
            break
        try:
            figures, _ = loaded(peer, "txn-1x1", 6)
            spent.append(figures["cpu_us"])
            for kind in ("txn-10-producers", "many"):
                loaded(peer, kind, 5)
            _, texts = loaded(peer, "bulk-idempotent", sizes.count // 2)
            loaded(peer, "consume", texts["topic"], sizes.count // 2 + load.PARTITIONS)
            load.delete_topic(peer.bootstrap, texts["topic"])
        except (Unavailable, subprocess.TimeoutExpired) as no:
            # A broker that has not warmed up would make every ratio of the table kinder to the others.
            failed += 1
            tell(f"once more: warming {peer.name}: {no}")
            if failed == _WARM_UP_ATTEMPTS:
                run.fail(f"warming {peer.name}", no)
                return
    tell(f"warmed {peer.name} for {passed:.0f} s, CPU µs a transaction {[round(one) for one in spent]}")


def restart(run: Run) -> None:
    """kill -9 with records and an open transaction; how long until its id works again; then read what was there."""
    if not run.is_wanted("recovery"):
        return
    for number in range(run.sizes.restart_rounds):
        for name in run.names:
            if name in _KEEPS_NOTHING:
                continue
            try:
                peer = Peer(name, run.scratch / f"restart-{number}-{name}")
                try:
                    peer.launch()
                    peer.wait()
                    _restart(run, peer)
                finally:
                    peer.stop()
                    peer.remove()
            except (Unavailable, subprocess.TimeoutExpired) as no:
                run.fail(f"restart {name}", no)


def _restart(run: Run, peer: Peer) -> None:
    figures, texts = loaded(peer, "fill", run.sizes.restart_count)
    topic = texts["topic"]
    begun = time.monotonic()
    peer.stop(signal.SIGKILL)
    peer.launch()
    taken = first_commit_s(peer, begun, topic, topic)
    run.note(run.warm, "recovery", peer.name, {"recovery_s": taken, "cpu_s": peer.cpu_s()})
    backlog, _ = loaded(peer, "consume", topic, int(figures["count"]) + 1)
    run.note(run.warm, "backlog", peer.name, backlog)


def _use_tools(run: Run, peer: Peer) -> None:
    topic, latency_topic = load.new_topic(peer.bootstrap, load.PARTITIONS), load.new_topic(peer.bootstrap, 1)
    all_tools = tools.all_of(peer.bootstrap, topic, latency_topic, run.sizes.tool_count, run.sizes.tool_messages)
    measured: list[tuple[Row, tools.Tool]] = list(zip(rows.TOOLS, all_tools))
    for row, tool in measured:
        try:
            before = peer.cpu_s()
            figures = tool.run()
            figures["cpu_us"] = (peer.cpu_s() - before) / figures["units"] * 1e6
            run.note(run.warm, row.name, peer.name, figures)
        except (Unavailable, subprocess.TimeoutExpired) as no:
            run.fail(f"{row.name} {peer.name}", no)
    load.delete_topic(peer.bootstrap, topic)
