"""`python -m oncelog.demo`: options, the runs one after the other, the exit code.

0: exactly once held (or was not asked for); 1: it did not; 2: the demo could not be played; 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from oncelog.demo.processes import DemoError
from oncelog.demo.run import Result, Run
from oncelog.demo.screen import Screen
from oncelog.demo.stage import PARTITIONS, Stage
from oncelog.demo.worker import Semantics

HELD: Final = 0
BROKEN: Final = 1
NOT_PLAYED: Final = 2
INTERRUPTED: Final = 130
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RECORDS_MIN: Final = 200
RECORDS_MAX: Final = 5_000_000

DESCRIPTION: Final = """\
Plays one pipeline (read `orders`, write one invoice for each) three times, under the same faults:

  at-most-once   acks=0, no retries; offsets are committed before the work    may lose
  at-least-once  acks=all, retries; offsets are committed after the work      may repeat
  exactly-once   a transactional.id; offsets are part of the transaction      neither

The faults: the worker is killed (-9) in mid-batch; a frozen worker wakes up after another took its place (a zombie);
the broker is killed (-9) and started again; connections are cut while a reply is on its way, so that the producer
sends again. They come after the same number of orders in each run. Then the topics are read and counted.
"""
EPILOG: Final = """\
Exit code: 0 if exactly once lost nothing and repeated nothing, all faults came and every zombie was fenced; 1 if not;
2 if the demo could not be played. The pipeline is one file to copy: oncelog/demo/worker.py.
"""


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m oncelog.demo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=records_in_bounds, default=20_000, metavar="N", help="orders (20000)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the order and the places of the faults (1)")
    parser.add_argument(
        "--semantics", type=Semantics, choices=list(Semantics), action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder: data, broker.log, workers.log")
    parser.add_argument(
        "--broker",
        type=shlex.split,
        default=[sys.executable, "-m", "oncelog", "serve", "--set", "group.initial.rebalance.delay.ms=0"],
        metavar="COMMAND",
        help="what starts the broker; gets --data, --listen, --advertise (oncelog serve)",
    )
    return parser.parse_args(arguments)


def records_in_bounds(text: str) -> int:
    """A number of orders that the faults fit into."""
    records = int(text)
    if not RECORDS_MIN <= records <= RECORDS_MAX:
        raise argparse.ArgumentTypeError(f"from {RECORDS_MIN} to {RECORDS_MAX}")
    return records


def play(options: argparse.Namespace, screen: Screen) -> list[Result]:
    """All runs on one broker; each has its own topic of invoices and its own group."""
    results = []
    with Stage(options.broker, options.keep) as stage:
        if options.keep:
            screen.say(f"folder: {stage.folder}")
        screen.say(f"{options.records:,} orders in {PARTITIONS} partitions; broker behind 127.0.0.1:{stage.proxy.port}")
        stage.create_topic("orders")
        stage.write_orders(options.records, options.seed)
        for semantics in options.semantics or list(Semantics):
            screen.begin(semantics, options.records)
            try:
                result = Run(stage, screen, semantics, options.records, options.seed).play()
            finally:
                screen.end()
            screen.result(result)
            results.append(result)
    return results


def verdict(results: Sequence[Result], screen: Screen) -> int:
    """Says whether exactly once held; the exit code."""
    judged = [result for result in results if result.semantics is Semantics.EXACTLY_ONCE]
    if all(result.is_exactly_once for result in judged):
        if judged:
            screen.say("Exactly once held: nothing lost, nothing duplicated, every zombie fenced.")
        return HELD
    for result in judged:
        count = result.count
        screen.say(
            f"EXACTLY ONCE DID NOT HOLD: {count.lost} lost, {count.duplicated} duplicated, {count.unknown} of no order, "
            f"{result.zombies_fenced} of {result.zombies} zombies fenced, {result.faults_left} faults did not come."
        )
    return BROKEN


def stopped(_: int, __: FrameType | None) -> NoReturn:
    """Ctrl-C, SIGTERM or SIGHUP: everything is taken away. A second one does not disturb that."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = options_of(arguments)
    screen = Screen()
    for number in STOP_SIGNALS:
        signal.signal(number, stopped)
    try:
        results = play(options, screen)
    except KeyboardInterrupt:
        screen.say("\nstopped; nothing is left behind")
        return INTERRUPTED
    except DemoError as failure:
        screen.say(
            f"\nthe demo could not be played to its end: {failure}\nSee more: --keep leaves the logs in the folder."
        )
        return NOT_PLAYED
    screen.table(results)
    code = verdict(results, screen)
    screen.next_steps()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
