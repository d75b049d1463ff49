"""The table of the known traces: on the screen, as JSON, as the rows of docs/proof.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from oncelog.verify.stage import Played

_COLOURS: Final = {"holds": "green", "violated": "red", "not applicable": "yellow"}


def rows_of(played: Sequence[Played]) -> list[dict[str, Any]]:
    """Plain values."""
    return [msgspec.to_builtins(each) for each in played]


def markdown(played: Sequence[Played]) -> str:
    """A table as in docs/proof.md."""
    head = "| trace | client | published in | verdict | what was seen |\n|---|---|---|---|---|\n"
    return head + "".join(
        f"| {each.name} | {each.protocol} | {each.source} | {each.verdict} | {each.detail} |\n" for each in played
    )


def show(played: Sequence[Played], console: Console) -> None:
    """A table for people."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("trace", "client", "source", "verdict", "what was seen"):
        table.add_column(column)
    for each in played:
        verdict = f"[{_COLOURS[each.verdict]}]{each.verdict}[/]"
        table.add_row(each.name, each.protocol, each.source, verdict, each.detail)
    console.print(table)
