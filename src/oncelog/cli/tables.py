"""Aligned columns for people, the same rows as JSON lines for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

_YEAR_10000_MS: Final = 253_402_300_800_000


def show(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...], *, is_json: bool) -> None:
    """Print rows by their columns' names; other keys are for JSON only. What a peer named can't forge a line."""
    if is_json:
        for row in rows:
            print(json.dumps(row))
        return
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max([len(column), *(len(line[at]) for line in cells)]) for at, column in enumerate(columns)]
    for line in ([column.upper().replace("_", "-") for column in columns], *cells):
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
    return text if text.isprintable() else json.dumps(text)


def moment(time_ms: int) -> str:
    """A time, to the millisecond, in UTC; empty for "never". Producers may say any: beyond the year 9999 it is the number."""
    if time_ms < 0:
        return ""
    if time_ms >= _YEAR_10000_MS:
        return str(time_ms)
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lasted(duration_ms: int) -> str:
    """A duration: 850 ms, 12.3 s, 5 min 20 s."""
    if duration_ms < 1_000:
        return f"{duration_ms} ms"
    if duration_ms < 60_000:
        return f"{duration_ms / 1000:.1f} s"
    return f"{duration_ms // 60_000} min {duration_ms % 60_000 // 1000} s"
