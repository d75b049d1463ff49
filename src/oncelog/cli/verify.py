"""``oncelog verify``: options become a run or the playing of the known traces, a verdict becomes an exit code."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from oncelog.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from oncelog.verify.run import Verdict
    from oncelog.verify.view import View

_UNITS = {"s": 1, "m": 60, "h": 3600}


def verify(
    *,
    bootstrap: str = "127.0.0.1:9092",
    duration: str = "60s",
    workload: Literal["copy", "bank", "append", "offsets"] = "copy",
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
    faults: str | None = None,
    on_fault: str | None = None,
    seed: int | None = None,
    known: bool = False,
    history: Path | None = None,
    out: Path | None = None,
    as_json: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
    partitions: int | None = None,
    replication: int = -1,
    min_insync_replicas: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
) -> int:
    """Prove, or disprove, what a Kafka cluster promises: any cluster, this one or another.

    Runs producers, copiers and readers (confluent-kafka) in topics of their own, disturbs them, records everything that they
    asked and were told, and checks the record. The cluster is not touched: faults act on the network between, through a proxy
    on this machine, and on the run's own workers. Do not point it at a cluster whose load matters.

    Try:

        oncelog verify                                              the broker on 127.0.0.1:9092, for a minute
        oncelog verify --workload bank --duration 10m --seed 7
        oncelog verify --bootstrap kafka-1:9092,kafka-2:9092 --on-fault 'ssh kafka-2 systemctl restart kafka'
        oncelog verify --replication 3 --min-insync-replicas 2      a cluster: topics that survive a broker
        oncelog verify --faults kill,zombie,late
        oncelog verify --known                                      the published traces, one by one: a table
        oncelog verify --history oncelog-verify-20260101/history.jsonl    check a recorded history again

    Writes a folder with report.html (opens without a network) and history.jsonl. What each anomaly means, and what a check may
    and may not conclude: docs/verify.md.

    Exit codes: 0 the guarantees held; 10 violated; 11 unproven: too little was done, or not everything could be read; 2 an
    option is wrong; 6 no broker answers.

    Parameters
    ----------
    bootstrap
        HOST:PORT of one or more brokers, with commas between them. No TLS: the proxy has to read the frames.
    duration
        How long to work and disturb: 90s, 10m, 2h. The end (waiting, reading everything, checking) comes on top.
    workload
        copy: consume, process, produce with offsets in the transaction. bank: two records that add up to nothing. append:
        transactions and plain records on any partitions. offsets: a number as a record and as a committed offset.
    isolation
        Of the readers. With read_uncommitted, aborted records may be read; the final reading is done with both.
    faults
        Names with commas between them, all, or none. kill, zombie, pause: of workers. cut, off: all connections. cut-at, lose,
        drop, delay, late, refuse: single requests, or those of one API: late:end_txn. double: a request arrives twice (not
        part of all). hook: --on-fault.
    on_fault
        A command of the shell that does to the cluster what you want to know about. Adds the fault hook.
    seed
        Makes the choice of faults and records the same again; their timing can't be. Default: a new one, shown.
    known
        Play the published traces instead, and print a table: holds, violated, not applicable. With --out also as known.md.
    history
        Check this recorded history instead of making one.
    out
        Folder for the report and the history. Default: oncelog-verify-DATE-TIME here.
    as_json
        Also write the verdict as JSON, to this file or to stdout (-).
    partitions
        Of each topic that is made. Default: 4.
    replication
        Replication factor of the topics that are made. Default: the cluster's.
    min_insync_replicas
        min.insync.replicas of the topics that are made: how many replicas have a record before it is acknowledged. Default: the
        cluster's.
    set_
        A setting of librdkafka for every client, such as security.protocol=SASL_PLAINTEXT; may be repeated.
    """
    if known:
        return _play_known(bootstrap, _client(set_ or []), replication, out, as_json)
    folder = out or Path(time.strftime("oncelog-verify-%Y%m%d-%H%M%S"))
    if history is not None:
        return _check_again(history, folder if out is not None else history.parent, as_json)
    from oncelog.faults import ProxyError
    from oncelog.verify.clients import ClusterError
    from oncelog.verify.crew import CrewError
    from oncelog.verify.run import Options, Run
    from oncelog.verify.screen import Screen

    options = Options(
        bootstrap=bootstrap,
        folder=str(folder),
        duration_seconds=_seconds(duration),
        workload=workload,
        isolation=isolation,
        faults=_faults(faults, on_fault),
        on_fault=on_fault,
        seed=time.time_ns() % 1_000_000 if seed is None else seed,
        partitions=_partitions(partitions),
        replication=replication,
        insync_min=min_insync_replicas,
        client=_client(set_ or []),
    )
    screen = Screen()
    screen.tell(f"workload {workload}, seed {options.seed}, faults: {', '.join(options.faults) or 'none'}")
    try:
        view, verdict = Run(options, screen.tell).play(screen.watch)
    except ClusterError as error:
        raise CommandError(ExitCode.NO_BROKER, str(error)) from None
    except (CrewError, ProxyError) as error:
        raise CommandError(ExitCode.UNPROVEN, str(error)) from None
    finally:
        screen.close()
    return _told(view, verdict, folder, as_json)


def _check_again(history: Path, folder: Path, as_json: str | None) -> int:
    from oncelog.verify.history import HistoryError, read_events
    from oncelog.verify.run import judged

    try:
        events = list(read_events(history))
    except (OSError, HistoryError) as error:
        raise CommandError(ExitCode.USAGE, f"can't read the history: {error}") from None
    return _told(*judged(events, str(history)), folder, as_json)


def _told(view: View, verdict: Verdict, folder: Path, as_json: str | None) -> int:
    import msgspec

    from oncelog.verify.report import html
    from oncelog.verify.screen import Screen

    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.html"
    report.write_text(html(view, verdict), encoding="utf-8")
    Screen().show(verdict, report)
    _write_json(msgspec.to_builtins(verdict), as_json)
    return {"holds": ExitCode.OK, "violated": ExitCode.VIOLATED}.get(verdict.verdict, ExitCode.UNPROVEN)


def _play_known(bootstrap: str, client: dict[str, str], replication: int, out: Path | None, as_json: str | None) -> int:
    from rich.console import Console

    from oncelog.verify.clients import ClusterError
    from oncelog.verify.known import play_all
    from oncelog.verify.known_table import markdown, rows_of, show

    try:
        played = play_all(bootstrap, client, tell=partial(print, file=sys.stderr), replication=replication)
    except ClusterError as error:
        raise CommandError(ExitCode.NO_BROKER, str(error)) from None
    show(played, Console(stderr=as_json == "-"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "known.md").write_text(markdown(played), encoding="utf-8")
    _write_json(rows_of(played), as_json)
    return ExitCode.VIOLATED if any(each.verdict == "violated" for each in played) else ExitCode.OK


def _write_json(tree: Any, as_json: str | None) -> None:
    if as_json is None:
        return
    text = json.dumps(tree, indent=2) + "\n"
    if as_json == "-":
        sys.stdout.write(text)
    else:
        Path(as_json).write_text(text, encoding="utf-8")


def _seconds(text: str) -> float:
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if matched is None or float(matched[1]) <= 0:
        raise CommandError(ExitCode.USAGE, f"--duration {text!r} is no time; write 90s, 10m or 2h")
    return float(matched[1]) * _UNITS[matched[2] or "s"]


def _partitions(count: int | None) -> int:
    from oncelog.verify.run import PARTITIONS, PARTITIONS_MAX, PARTITIONS_MIN

    if count is not None and not PARTITIONS_MIN <= count <= PARTITIONS_MAX:
        raise CommandError(ExitCode.USAGE, f"--partitions {count}: from {PARTITIONS_MIN} to {PARTITIONS_MAX}")
    return PARTITIONS if count is None else count


def _faults(text: str | None, on_fault: str | None) -> tuple[str, ...]:
    from oncelog.verify.faulting import DEFAULT, FAULTS, RETRIABLE, SINGLE

    hook = ("hook",) if on_fault is not None else ()
    if text is None or text == "all":
        return DEFAULT + hook
    if text == "none":
        return hook
    names = tuple(dict.fromkeys((*(name.strip() for name in text.split(",")), *hook)))
    for name, colon, api in (each.partition(":") for each in names):
        if name not in FAULTS:
            raise CommandError(
                ExitCode.USAGE, f"there is no fault {name!r}; there are {', '.join(FAULTS)}, all and none"
            )
        if colon and (name not in SINGLE or api not in RETRIABLE):
            raise CommandError(
                ExitCode.USAGE, f"{name}:{api}: one of {', '.join(sorted(SINGLE))} with one of {', '.join(RETRIABLE)}"
            )
    if "hook" in names and on_fault is None:
        raise CommandError(ExitCode.USAGE, "the fault hook needs a command: --on-fault 'systemctl restart kafka'")
    return names


def _client(assignments: Sequence[str]) -> dict[str, str]:
    found = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise CommandError(ExitCode.USAGE, f"--set {assignment!r} is no NAME=VALUE of a client setting")
        found[name.strip()] = value
    return found
