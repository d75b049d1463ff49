"""``make chaos``: the real broker struck again and again under the workloads of ``oncelog verify``, for as long as you like.

    python -m tests.chaos --minutes 10 --seed 1

Each workload has its part of the time: transactional copiers, writers and readers behind a proxy that cuts, delays, loses and
repeats requests, workers that are killed and come back as zombies, and a broker on which the strikes of tormentor.py fall. The
checks are those that anybody may run against any cluster. Exit code 0: nothing was violated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.tormentor import WEIGHTS, TormentedBroker, Tormentor

WORKLOADS = ("copy", "bank", "append", "offsets")


def play(broker: TormentedBroker, folder: Path, workload: str, seconds: int, seed: int) -> dict[str, Any]:
    """The verdict on one workload, with what was done to the broker meanwhile."""
    command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", broker.bootstrap, "--workload", workload]
    command += ["--duration", f"{seconds}s", "--seed", str(seed), "--out", str(folder / workload), "--json", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        begun = folder / workload / "parts" / "run.jsonl"
        while not begun.exists() and running.poll() is None:  # its topics are made in peace
            time.sleep(0.05)
        with Tormentor(broker, seed) as tormentor:
            threading.Event().wait(seconds)
        out, _ = running.communicate(timeout=600)
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)  # it ends its workers
            running.wait(120)
    if running.returncode not in (0, 10, 11):
        raise SystemExit(f"oncelog verify ended with exit code {running.returncode}")
    verdict: dict[str, Any] = json.loads(out)
    return {"workload": workload, "strikes": tormentor.strikes, **verdict}


def head() -> str:
    """Of the table."""
    names = ["workload", "records", "transactions", "other faults", "zombies", *WEIGHTS, "violations", "verdict"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def row(verdict: dict[str, Any]) -> str:
    """What was done, and what was found."""
    counts, strikes = verdict["counts"], verdict["strikes"]
    done = [counts[name] for name in ("records_sent", "transactions_committed", "faults", "zombies")]
    struck = [strikes[name] for name in WEIGHTS]
    cells = [*(f"{each:,}" for each in (*done, *struck, len(verdict["violations"]))), verdict["verdict"]]
    return f"| `{verdict['workload']}` | {' | '.join(cells)} |"


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
    folder = Path(tempfile.mkdtemp(prefix="oncelog-chaos-"))
    with TormentedBroker(folder / "broker") as broker:
        for number, workload in enumerate(WORKLOADS):
            verdict = play(broker, folder, workload, seconds, options.seed + number)
            is_held &= verdict["verdict"] == "holds"
            strikes.update(verdict["strikes"])
            rows.append(row(verdict))
            sys.stdout.write(rows[-1] + "\n")
            for violation in verdict["violations"]:
                sys.stdout.write(f"    {violation}\n")
        broker.assert_healthy()
        broker.stop()
    told = ", ".join(f"{name} {strikes[name]}" for name in WEIGHTS)
    sys.stdout.write(
        f"\n{head()}\n" + "\n".join(rows) + "\n"
        f"seed {options.seed}, {len(WORKLOADS)} x {seconds} s, strikes on the broker: {strikes.total()} ({told})\n"
    )
    if is_held:
        shutil.rmtree(folder)
    else:
        sys.stdout.write(f"histories and reports are kept in {folder}\n")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
