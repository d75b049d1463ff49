"""Draws an application: as text for a terminal, as SVG for a page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from oncelog.app.app import App


class Row(NamedTuple):
    """One part: where from, what, where to, and what else is to know."""

    source: str
    part: str
    target: str
    note: str


def rows(app: App) -> Iterator[Row]:
    """Every part of an application."""
    for processor in app.topology.processors:
        notes = [f"{processor.retry.attempts} attempts"]
        notes.append(
            f"dead letters: {processor.dead_letter}" if processor.dead_letter else "a poison record stops the app"
        )
        if processor.keeps_state:
            notes.append(f"state: {app.name}.{processor.name}.changelog")
        yield Row(", ".join(processor.topics), processor.name, processor.to or "named by each Out", "; ".join(notes))
    for sink in app.topology.sinks:
        target = place_of_database(sink.database) if sink.database else sink.delivery.value
        yield Row(
            ", ".join(sink.topics),
            sink.name,
            target,
            "offsets in the database" if sink.database else "effects may repeat",
        )
    for outbox in app.topology.outboxes:
        source = f"{place_of_database(outbox.database)} {outbox.table}"
        yield Row(source, "outbox", outbox.topic, f"position: {app.name}.outbox.{outbox.table}.position")


def place_of_database(url: str) -> str:
    """A database without its user and password."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme.split('+')[0]}:{'//' + host if host else ''}{parts.path}"


def text(app: App) -> str:
    """A few lines."""
    found = list(rows(app))
    widths = [max((len(row[column]) for row in found), default=0) for column in range(3)]
    lines = [f"{app.name} ({app.delivery.value})"]
    for row in found:
        lines.append(
            f"  {row.source:<{widths[0]}} ──▶ {row.part:<{widths[1]}} ──▶ {row.target:<{widths[2]}}   {row.note}".rstrip()
        )
    return "\n".join(lines) + "\n"


_ROW: Final = 64
_BOX: Final = 220
_GAP: Final = 60


def svg(app: App) -> str:
    """A picture: a row for each part, topics and databases at the sides."""
    found = list(rows(app))
    width, height = 3 * _BOX + 2 * _GAP + 40, 60 + _ROW * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        f'<text x="20" y="28" font-size="16" font-weight="bold">{escape(app.name)}</text>',
    ]
    for number, row in enumerate(found):
        top = 48 + _ROW * number
        for column, name in enumerate((row.source, row.part, row.target)):
            left = 20 + column * (_BOX + _GAP)
            fill = "#e8f0fe" if column == 1 else "#f6f6f6"
            parts.append(f'<rect x="{left}" y="{top}" width="{_BOX}" height="30" rx="6" fill="{fill}" stroke="#888"/>')
            parts.append(
                f'<text x="{left + _BOX // 2}" y="{top + 20}" text-anchor="middle">{escape(_short(name))}</text>'
            )
            if column:
                ends = f'x1="{left - _GAP}" y1="{top + 15}" x2="{left - 2}" y2="{top + 15}"'
                parts.append(f'<line {ends} stroke="#444" marker-end="url(#a)"/>')
        parts.append(
            f'<text x="{20 + _BOX + _GAP}" y="{top + 45}" font-size="10" fill="#555">{escape(row.note)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "…"
