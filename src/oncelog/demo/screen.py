"""What the demo shows: progress, faults as they come, the table, what to do next.

On a terminal with a bar that moves; elsewhere plain lines.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from oncelog.demo.worker import Semantics

if TYPE_CHECKING:
    from oncelog.demo.run import Result

COLUMNS: Final = (
    "semantics",
    "sent",
    "deliv-\nered",
    "lost",
    "dupli-\ncated",
    "sec-\nonds",
    "worker\nrestarts",
    "broker\nrestarts",
    "zombies\nfenced",
    "replies\ncut",
)
#: The table is as wide as this, also where the terminal is narrower.
TABLE_COLUMNS_MIN: Final = 80
PLAIN_STEPS: Final = 4


class Screen:
    """Writes to stdout, or to the console given (tests)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._shown = 0

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, semantics: Semantics, records: int) -> None:
        """A run begins."""
        self._total, self._shown = records, 0
        self.say(f"\n{semantics.value}")
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task(semantics.value, total=records)
            self._progress.start()

    def advance(self, done: int) -> None:
        """So many orders are done. Some may be done twice: the bar stops at its end."""
        done = min(done, self._total)
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
        elif done * PLAIN_STEPS // self._total > self._shown:
            self._shown = done * PLAIN_STEPS // self._total
            self.say(f"{done:>9,}  orders done")

    def tell(self, done: int, text: str) -> None:
        """Something happened after so many orders."""
        self.say(f"{done:>9,}  {text}")

    def end(self) -> None:
        """The run is over, well or not."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def result(self, result: Result) -> None:
        """One run in one line."""
        count = result.count
        text = f"counted: {count.delivered:,} of {count.sent:,} delivered, {count.lost:,} lost, {count.duplicated:,} duplicated"
        if result.semantics is Semantics.EXACTLY_ONCE:
            text += f" ({count.aborted:,} aborted invoices in the log, shown to no one)"
        self.say(f"{'':>9}  {text}")

    def table(self, results: Sequence[Result]) -> None:
        """All runs side by side."""
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "semantics" else "right", no_wrap=True)
        for row in results:
            count = row.count
            figures = (count.sent, count.delivered, count.lost, count.duplicated)
            table.add_row(
                row.semantics.value.replace("-", " "),
                *(f"{figure:,}" for figure in figures),
                f"{row.seconds:.1f}",
                str(row.worker_restarts),
                str(row.broker_restarts),
                f"{row.zombies_fenced} of {row.zombies}",
                str(row.replies_cut),
            )
        self.say("")
        self.console.print(table, width=max(self.console.width, TABLE_COLUMNS_MIN), crop=False)
        self.say(
            "Counted by reading the topics after one more kill and start of the broker (exactly once: read_committed)."
        )

    def next_steps(self) -> None:
        """Where to go from here."""
        command = "oncelog" if shutil.which("oncelog") else shown_path(Path(sys.executable).parent / "oncelog")
        self.say("\nNext")
        self.say(f"  serve    {command} serve --data ./data          a broker on 127.0.0.1:9092")
        self.say('  connect  any Kafka client: {"bootstrap.servers": "127.0.0.1:9092", "transactional.id": "mine"}')
        self.say(
            f"  copy     {shown_path(Path(__file__).with_name('worker.py'))}   this pipeline, in all three semantics"
        )
        self.say("  docs     README.md, docs/demo.md, docs/guarantees.md")


def shown_path(path: Path) -> str:
    """Relative to where the user is, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
