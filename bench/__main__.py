"""`python -m bench`: two tables, *fresh* and *warm*, with targets; see bench/README.md."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from bench import rows, stages
from bench.peers import NAMES
from bench.table import table, verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--rows", default="", help="only these, of " + ", ".join(row.name for row in rows.LOADED)
                        + ", recovery, tools")  # fmt: skip
    parser.add_argument("--stages", default="fresh,warm,restart")
    parser.add_argument("--rounds", type=int, help="rounds of the warm table")
    parser.add_argument("--seconds", type=float, help="length of one load of the warm table")
    parser.add_argument("--warm-up", type=float, help="warm up for at most so many seconds")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    asked = parser.parse_args()
    sizes = dataclasses.replace(stages.QUICK if asked.quick else stages.Sizes())
    sizes.warm_rounds = asked.rounds or sizes.warm_rounds
    sizes.seconds = asked.seconds or sizes.seconds
    if asked.warm_up is not None:
        sizes.warm_up_s_max = asked.warm_up
        sizes.warm_up_s_min = min(sizes.warm_up_s_min, asked.warm_up)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="oncelog-bench-") as scratch:
        run = stages.Run(asked.peers.split(","), list(filter(None, asked.rows.split(","))), sizes, Path(scratch))
        for name in asked.stages.split(","):
            {"fresh": stages.fresh, "warm": stages.warm, "restart": stages.restart}[name](run)
    report(run, time.monotonic() - begun)
    if asked.out:
        asked.out.write_text(json.dumps(as_json(run), indent=1))
    return 1 if run.failures else 0


def report(run: stages.Run, seconds: float) -> None:
    print(f"{platform.platform()}, {os.cpu_count()} cores, {seconds / 60:.1f} minutes")
    for title, results, shown, is_fresh in (
        ("Fresh: from exec through the first half minute, each broker by itself", run.fresh, rows.FRESH, True),
        ("Warm: after load until CPU a transaction stopped falling, in turn", run.warm, rows.WARM, False),
    ):
        if not results:
            continue
        met, missed = verdicts(results, shown, is_fresh=is_fresh)
        print(f"\n## {title}\n\n{table(results, shown, run.names, is_fresh=is_fresh)}\n")
        print(f"{met} targets met, {len(missed)} missed")
        for one in missed:
            print(f"- missed: {one}")
    for failure in run.failures:
        print(f"- not measured: {failure}")


def as_json(run: stages.Run) -> dict[str, object]:
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "sizes": dataclasses.asdict(run.sizes),
        "fresh": run.fresh,
        "warm": run.warm,
        "warm_up_cpu_us": run.warm_up,
        "not_measured": run.failures,
    }


if __name__ == "__main__":
    sys.exit(main())
