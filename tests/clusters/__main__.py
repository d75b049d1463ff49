"""``make verify-kafka``: all workloads of ``oncelog verify`` with all faults on three nodes of Apache Kafka.

    python -m tests.clusters --seconds 90 --seed 11 [--known]

With --known the traces come first, while the cluster is quiet. In the runs its nodes are killed, stopped and frozen, one at a
time, and come back. Needs Java and Maven, as the bench does. Prints tables as in docs/proof.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.clusters.kafka import KafkaCluster
from tests.clusters.strike import strike

WORKLOADS = ("copy", "bank", "append", "offsets")
#: A node needs about as long to come back.
STRIKE_SECONDS = 15.0
COLUMNS = ("committed", "aborted", "unknown", "faults", "zombies", "killed", "stopped", "frozen")


def play(cluster: KafkaCluster, out: Path, workload: str, seconds: int, seed: int, faults: str) -> dict[str, Any]:
    """The verdict of one run, with what befell the nodes."""
    strikes = cluster.folder / "strikes"
    strikes.unlink(missing_ok=True)
    command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", cluster.bootstrap, "--workload", workload]
    command += ["--duration", f"{seconds}s", "--seed", str(seed), "--faults", faults, "--out", str(out), "--json", "-"]
    command += ["--replication", "3", "--min-insync-replicas", "2"]
    command += ["--on-fault", f"{sys.executable} -m tests.clusters.strike {cluster.folder}"]
    over = threading.Event()
    striker = threading.Thread(target=_strike, args=(cluster.folder, seconds, over), daemon=True)
    striker.start()
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds + 900)
    finally:
        over.set()
        striker.join()
    if ran.returncode not in (0, 10, 11):
        raise SystemExit(f"oncelog verify ended with exit code {ran.returncode}")
    told = strikes.read_text(encoding="ascii").splitlines() if strikes.exists() else []
    return {**json.loads(ran.stdout), "strikes": Counter(line.split()[0] for line in told)}


def _strike(folder: Path, seconds: float, over: threading.Event) -> None:
    """Besides those that come by chance as one fault of many. The last ones meet the end of the run."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.wait(STRIKE_SECONDS):
        strike(folder)


def row(workload: str, verdict: dict[str, Any]) -> str:
    """As in docs/proof.md."""
    counts, strikes = verdict["counts"], verdict["strikes"]
    done = [counts[f"transactions_{name}"] for name in ("committed", "aborted", "unknown")]
    done += [counts["faults"], counts["zombies"], *(strikes[how] for how in ("kill", "stop", "freeze"))]
    kinds = ", ".join(sorted({violation["kind"] for violation in verdict["violations"]}))
    said = verdict["verdict"] + (f": {kinds}" if kinds else "")
    return f"| `{workload}` | {' | '.join(f'{each:,}' for each in done)} | {said} |"


def main() -> int:
    """The exit code: 0 if everything was played, whatever came of it: the cluster is not ours."""
    parser = argparse.ArgumentParser(prog="python -m tests.clusters", description=__doc__)
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--faults", default="all")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--out", type=Path, help="keep reports and histories there")
    parser.add_argument("--known", action="store_true", help="play the known traces too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="oncelog-clusters-") as name:
        out = options.out or Path(name) / "out"
        with KafkaCluster(Path(name) / "kafka") as cluster:
            if options.known:
                known = [sys.executable, "-m", "oncelog", "verify", "--known", "--bootstrap", cluster.bootstrap]
                subprocess.run([*known, "--replication", "3", "--out", str(out)], check=False, timeout=900)
                sys.stdout.write((out / "known.md").read_text(encoding="utf-8"))
            for workload in filter(None, options.workloads.split(",")):
                verdict = play(cluster, out / workload, workload, options.seconds, options.seed, options.faults)
                rows.append(row(workload, verdict))
                sys.stdout.write(rows[-1] + "\n")
                for violation in verdict["violations"][:10]:
                    sys.stdout.write(f"    {violation['kind']}: {violation['sentence']}\n")
                sys.stdout.flush()
    sys.stdout.write(f"\n| workload | {' | '.join(COLUMNS)} | verdict |\n|{'---|' * (len(COLUMNS) + 2)}\n")
    sys.stdout.write("\n".join(rows) + f"\n{options.seconds} s each, seed {options.seed}, faults {options.faults}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
