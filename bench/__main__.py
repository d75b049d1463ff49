"""`python -m bench`: the rows, peers in turn, medians of the ratios oncelog / peer taken round by round."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.peers import NAMES, Peer, Unavailable

ROWS = ("txn-1x1", "txn-100x4", "bulk")
SHOWN = ("ready_ms", "rss_mib", "per_s", "p50_ms", "p99_ms", "first_commit_ms", "cpu_us")
Figures = dict[str, float]


def load(peer: Peer, kind: str, *rest: str) -> Figures:
    """Run one load in its own process; cpu_us is the broker's, a unit (transaction or record)."""
    before = peer.cpu_s()
    command = [sys.executable, "-m", "bench.load", kind, peer.bootstrap, *rest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise Unavailable(f"{kind}: {done.stderr[-300:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    figures["cpu_us"] = (peer.cpu_s() - before) / figures["units"] * 1e6
    return figures


def measure(peer: Peer, row: str, seconds: float) -> dict[str, Figures]:
    figures = load(peer, row, str(seconds))
    if row != "bulk":
        return {row: figures}
    topic = str(figures.pop("topic"))
    return {row: figures, "consume": load(peer, "consume", topic, str(int(figures["units"])))}


def table(results: dict[str, dict[str, list[Figures]]], failures: list[str]) -> str:
    """Markdown: median of each figure, and the median of the ratios oncelog / peer of the same round."""
    lines = ["| row | peer | figure | median | oncelog / peer |", "|---|---|---|---|---|"]
    for row, peers in results.items():
        ours = peers.get("oncelog", [])
        for name, rounds in peers.items():
            for key in SHOWN:
                if not rounds or key not in rounds[0]:
                    continue
                ratios = [mine[key] / one[key] for mine, one in zip(ours, rounds) if one[key]]
                ratio = f"{statistics.median(ratios):.2f}" if ratios and name != "oncelog" else ""
                lines.append(
                    f"| {row} | {name} | {key} | {statistics.median(one[key] for one in rounds):.1f} | {ratio} |"
                )
    return "\n".join([*lines, *(f"not measured: {failure}" for failure in failures)])


def run(names: list[str], rows: list[str], rounds: int, seconds: float, scratch: Path) -> tuple[dict, list[str]]:
    results: dict[str, dict[str, list[Figures]]] = {}
    failures: list[str] = []
    peers: list[Peer] = []
    try:
        for name in names:
            try:
                peer = Peer(name, scratch / name)
                peers.append(peer)
                peer.start()
                start = {"ready_ms": peer.ready_s * 1e3, "rss_mib": peer.rss_mib()}
                results.setdefault("start", {})[name] = [start]
                print(f"{name}: ready", start, file=sys.stderr, flush=True)
            except Unavailable as no:
                failures.append(f"{name}: {no}")
        for number in range(rounds):
            for row in rows:
                for peer in peers:
                    if any(one.startswith(f"{peer.name}:") for one in failures):
                        continue
                    try:
                        for key, figures in measure(peer, row, seconds).items():
                            results.setdefault(key, {}).setdefault(peer.name, []).append(figures)
                            print(f"round {number + 1} {key} {peer.name}", figures, file=sys.stderr, flush=True)
                    except (Unavailable, subprocess.TimeoutExpired) as no:
                        failures.append(f"{peer.name}: {no}")
    finally:
        for peer in peers:
            peer.stop()
    return results, failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="length of one load")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oncelog-bench-") as scratch:
        results, failures = run(
            asked.peers.split(","), asked.rows.split(","), asked.rounds, asked.seconds, Path(scratch)
        )
    print(table(results, failures))
    if asked.out:
        asked.out.write_text(json.dumps({"results": results, "not_measured": failures}, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
