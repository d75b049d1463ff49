"""What a run shows while it goes on, and its verdict: for people at a terminal with a bar, elsewhere plain lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from oncelog.verify.checking import Violation
from oncelog.verify.run import Run, Verdict

VIOLATIONS_SHOWN: Final = 10
PLAIN_SECONDS: Final = 10.0
COLOURS: Final = {"holds": "bold green", "violated": "bold red", "unproven": "bold yellow"}


class Screen:
    """Writes to stderr, so that ``--json -`` and pipes stay clean; or to the console given (tests)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._plain_next = PLAIN_SECONDS

    def tell(self, line: str) -> None:
        """A line of its own; the bar, if one is shown, has ended."""
        self._end()
        self.console.print(line, markup=False, soft_wrap=True)

    def watch(self, run: Run, seconds: float) -> None:
        """How far it is, and what struck last."""
        storm = run.storm
        faults = "" if storm is None or not storm.count else f"{storm.count} faults, last: {storm.last}"
        if not self.console.is_terminal:
            if seconds >= self._plain_next:
                self._plain_next += PLAIN_SECONDS
                self.console.print(f"{seconds:.0f} s  {faults}", markup=False, soft_wrap=True)
            return
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[faults]}"),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task(run.options.workload, total=run.options.duration_seconds, faults="")
            self._progress.start()
        self._progress.update(self._task, completed=seconds, faults=faults)

    def show(self, verdict: Verdict, report: Path) -> None:
        """The end."""
        self._end()
        counts = verdict.counts
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for name in counts.__struct_fields__:
            table.add_row(name.replace("_", " "), f"{getattr(counts, name):,}")
        self.console.print(table)
        for violation in verdict.violations[:VIOLATIONS_SHOWN]:
            self.console.print(_line(violation), soft_wrap=True)
        if len(verdict.violations) > VIOLATIONS_SHOWN:
            self.console.print(f"… and {len(verdict.violations) - VIOLATIONS_SHOWN} more; see the report", markup=False)
        told = Text(verdict.verdict, style=COLOURS[verdict.verdict])
        self.console.print(told.append(f": {verdict.reason}", style="default"), soft_wrap=True)
        self.console.print(f"report: {report}\nhistory: {verdict.history}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves no bar behind, whatever has happened."""
        self._end()

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _line(violation: Violation) -> Text:
    return Text(violation.kind.value, style="red").append(f": {violation.sentence}", style="default")
