"""``make chaos``: the real broker struck again and again under the workloads of ``oncelog verify``, for as long as you like.

    python -m tests.chaos --minutes 10 --seed 1

Each workload has its part of the time: transactional copiers, writers and readers behind a proxy that cuts, delays, loses and
repeats requests, workers that are killed and come back as zombies, and a broker that is killed, frozen and stopped. The checks
are those that anybody may run against any cluster. Exit code 0: nothing was violated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.tormentor import Tormentor
from tests.support.broker_process import BrokerProcess

WORKLOADS = ("copy", "bank", "append", "offsets")


def play(broker: BrokerProcess, folder: Path, workload: str, seconds: int, seed: int) -> dict[str, Any]:
    """The verdict on one workload, with what was done to the broker meanwhile."""
    command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", broker.bootstrap, "--workload", workload]
    command += ["--duration", f"{seconds}s", "--seed", str(seed), "--out", str(folder / workload), "--json", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with Tormentor(broker, seed) as tormentor:
        over = threading.Event()
        over.wait(seconds)
        tormentor.end()
    out, _ = running.communicate(timeout=600)
    if running.returncode not in (0, 10, 11):
        raise SystemExit(f"oncelog verify ended with exit code {running.returncode}")
    verdict: dict[str, Any] = json.loads(out)
    return {"workload": workload, "strikes": tormentor.strikes, **verdict}


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = max(5, round(options.minutes * 60 / len(WORKLOADS)))
    strikes: Counter[str] = Counter()
    rows: list[str] = []
    is_held = True
    with tempfile.TemporaryDirectory(prefix="oncelog-chaos-") as name, BrokerProcess(Path(name) / "broker") as broker:
        for number, workload in enumerate(WORKLOADS):
            verdict = play(broker, Path(name), workload, seconds, options.seed + number)
            is_held &= verdict["verdict"] == "holds"
            strikes.update(verdict["strikes"])
            counts = verdict["counts"]
            rows.append(
                f"| `{workload}` | {counts['transactions_committed']} | {counts['faults']} | "
                f"{verdict['strikes']['kill']} | {verdict['strikes']['freeze']} | {verdict['strikes']['stop']} | "
                f"{len(verdict['violations'])} | {verdict['verdict']} |"
            )
            sys.stdout.write(rows[-1] + "\n")
            for violation in verdict["violations"]:
                sys.stdout.write(f"    {violation}\n")
        broker.assert_healthy()
        broker.stop()
    sys.stdout.write(
        "\n| workload | transactions | other faults | broker killed | frozen | stopped | violations | verdict |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
        f"seed {options.seed}, {len(WORKLOADS)} x {seconds} s, strikes on the broker: {strikes.total()}\n"
    )
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
