"""The report: one HTML file with everything in it, which opens without a network.

A timeline for each partition: a bar for each transaction from its first record to its known end, by outcome; faults as
bands behind; violating records marked where their transactions are. Then the violations in words, the counts, the settings.
Everything that comes from the history is escaped. What is drawn is bounded; what is left out is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Final

from oncelog.verify.checking import Violation
from oncelog.verify.run import Verdict
from oncelog.verify.view import NEVER, Outcome, Partition, Transaction, View

BARS_MAX: Final = 4000
VIOLATIONS_MAX: Final = 200
FAULTS_MAX: Final = 1000
PLACES_MAX: Final = 20
UNREAD_MAX: Final = 100
CLOSE_UPS_MAX: Final = 8
CLOSE_UP_SECONDS: Final = 0.5
WIDTH: Final = 1400
LEFT: Final = 190
ROWS: Final = 6
ROW: Final = 7
LANE: Final = ROWS * ROW + 14

_COLOURS: Final = {
    Outcome.COMMITTED: ("#2e7d32", "committed"),
    Outcome.ABORTED: ("#9e9e9e", "aborted"),
    Outcome.UNENDED: ("#c9c9c9", "never told to commit"),
    Outcome.UNKNOWN: ("#ef9a1a", "outcome unknown to the client"),
}

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --band: #d5a00033; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1480px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.holds { color: #2e7d32; } .violated { color: #c62828; } .unproven { color: #b26a00; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: currentColor; }
.key span { margin-right: 1.2rem; } .key i { display: inline-block; width: .9em; height: .9em; margin-right: .35em; }
code { font-size: .93em; overflow-wrap: anywhere; } .left-out { opacity: .7; }
"""


def html(view: View, verdict: Verdict) -> str:
    """The whole page."""
    title = f"oncelog verify: {verdict.verdict}"
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>',
            f'<h1>oncelog verify: <span class="{verdict.verdict}">{verdict.verdict}</span></h1>',
            f"<p>{escape(verdict.reason)}</p>",
            *_violations(verdict.violations),
            "<h2>Timeline</h2>",
            *_timeline(view, verdict.violations),
            "<h2>Counts</h2>",
            *_table(_counted(verdict)),
            "<h2>Settings</h2>",
            *_table((name, str(value)) for name, value in sorted(verdict.settings.items()) if name != "client"),
            *_unread(view),
            *_faults(view),
            "</body></html>",
            "",
        )
    )


def _counted(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for name in verdict.counts.__struct_fields__:
        yield name.replace("_", " "), f"{getattr(verdict.counts, name):,}"


def _table(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield "<table>"
    for name, value in rows:
        yield f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td></tr>'
    yield "</table>"


def _violations(violations: list[Violation]) -> Iterator[str]:
    if not violations:
        return
    yield "<h2>Violations</h2><table><tr><th>kind</th><th>what is wrong</th><th>transactions</th></tr>"
    for violation in violations[:VIOLATIONS_MAX]:
        keys = ", ".join(violation.transactions[:5])
        yield f"<tr><td>{escape(violation.kind.value)}</td><td>{escape(violation.sentence)}</td>"
        yield f"<td><code>{escape(keys)}</code></td></tr>"
    yield "</table>"
    if len(violations) > VIOLATIONS_MAX:
        yield f'<p class="left-out">{len(violations) - VIOLATIONS_MAX} more are left out here; --json has all.</p>'


def _unread(view: View) -> Iterator[str]:
    if not view.unread:
        return
    told = ", ".join(f"{each.api} version {each.version} ({each.count:,})" for each in view.unread[:UNREAD_MAX])
    yield "<h2>Passed unread</h2><p>The proxy can't read these requests, or their replies; it passed them on. Faults"
    yield f"that have to look into a request do not meet them: {escape(told)}</p>"


def _faults(view: View) -> Iterator[str]:
    if not view.faults:
        return
    began = _began(view)
    yield "<h2>Faults</h2><table><tr><th>at</th><th>kind</th><th>what</th></tr>"
    for fault in view.faults[:FAULTS_MAX]:
        yield f'<tr><td class="number">{fault.at - began:.2f} s</td><td>{escape(fault.fault)}</td>'
        yield f"<td>{escape(fault.detail)}</td></tr>"
    yield "</table>"
    if len(view.faults) > FAULTS_MAX:
        yield f'<p class="left-out">{len(view.faults) - FAULTS_MAX} more are left out.</p>'


# -- the timeline -----------------------------------------------------------------------------------------------------


def _began(view: View) -> float:
    times = [transaction.began for transaction in view.transactions.values()] + [fault.at for fault in view.faults]
    return min(times, default=0.0)


def _ended(view: View) -> float:
    times = [transaction.over for transaction in view.transactions.values() if transaction.over != NEVER]
    return max([*times, *(fault.until for fault in view.faults), _began(view) + 1.0])


def _chosen(view: View, violating: set[str]) -> tuple[list[Transaction], int]:
    """The transactions to draw: all that violate, then an even choice of the others; and how many are left out."""
    transactions = sorted(view.transactions.values(), key=lambda transaction: transaction.began)
    if len(transactions) <= BARS_MAX:
        return transactions, 0
    step = -(-len(transactions) // BARS_MAX)
    chosen = [each for index, each in enumerate(transactions) if each.key in violating or index % step == 0]
    return chosen[: 2 * BARS_MAX], len(transactions) - min(len(chosen), 2 * BARS_MAX)


def _timeline(view: View, violations: list[Violation]) -> Iterator[str]:
    """All of the run, then a close-up of what surrounds the first violating transactions."""
    marks = _Marks(view, violations[:VIOLATIONS_MAX])
    chosen, left_out = _chosen(view, set(marks.transactions))
    yield _key()
    yield from _drawing(view, marks, chosen, _began(view), _ended(view))
    if left_out:
        yield f'<p class="left-out">{left_out} transactions are not drawn; every violating one is.</p>'
    for key in list(marks.transactions)[:CLOSE_UPS_MAX]:
        transaction = view.transactions[key]
        over = transaction.over if transaction.over != NEVER else transaction.began + 1.0
        began, ended = transaction.began - CLOSE_UP_SECONDS, over + CLOSE_UP_SECONDS
        near = [each for each in view.transactions.values() if began < each.began < ended]
        yield f"<h3>Around {escape(key)}: {escape(', '.join(sorted(set(marks.transactions[key]))))}</h3>"
        yield from _drawing(view, marks, near[:BARS_MAX], began, ended)


class _Marks:
    """What the violations point at."""

    def __init__(self, view: View, violations: list[Violation]) -> None:
        self.transactions: dict[str, list[str]] = defaultdict(list)
        self.places: dict[Partition, list[tuple[int, str]]] = defaultdict(list)
        for violation in violations:
            for key in violation.transactions:
                if key in view.transactions:
                    self.transactions[key].append(violation.kind.value)
            for topic, partition, offset in violation.places[:PLACES_MAX]:
                self.places[topic, partition].append((offset, violation.kind.value))


def _drawing(view: View, marks: _Marks, chosen: list[Transaction], began: float, ended: float) -> Iterator[str]:
    lanes = sorted({(sent.topic, sent.partition) for sent in view.sent.values()} | set(marks.places))
    height = 34 + len(lanes) * LANE
    scale = (WIDTH - LEFT - 12) / (ended - began)
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="transactions by partition over time">'
    for fault in view.faults[:FAULTS_MAX]:
        if began < fault.until and fault.at < ended:
            x, end = LEFT + max(0.0, fault.at - began) * scale, LEFT + (min(ended, fault.until) - began) * scale
            yield f'<rect x="{x:.1f}" y="20" width="{max(1.0, end - x):.1f}" height="{height - 20}" fill="var(--band)">'
            yield f"<title>{escape(fault.fault)}: {escape(fault.detail)}</title></rect>"
    digits = 2 if ended - began < 10 else 0
    for tick in range(12):
        at = (ended - began) * tick / 12
        yield f'<text x="{LEFT + at * scale:.1f}" y="13">{began - _began(view) + at:.{digits}f} s</text>'
    for number, lane in enumerate(lanes):
        top = 26 + number * LANE
        yield f'<line x1="0" x2="{WIDTH}" y1="{top}" y2="{top}" stroke="var(--line)"/>'
        yield f'<text x="0" y="{top + 17}">{escape(_short(lane))}</text>'
        yield from _bars(lane, top, chosen, marks.transactions, began, scale)
        yield from _diamonds(view, lane, top, marks.places.get(lane, []), began, scale)
    yield "</svg>"


def _key() -> str:
    names = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for colour, name in _COLOURS.values())
    return (
        f'<p class="key">{names}<span><i style="background:#c62828"></i>violating</span>'
        '<span><i style="background:var(--band)"></i>fault</span></p>'
    )


def _short(lane: Partition) -> str:
    topic, partition = lane
    return f"{topic.rsplit('-', 1)[-1]}/{partition}"


def _bars(
    lane: Partition, top: int, chosen: list[Transaction], violating: dict[str, list[str]], began: float, scale: float
) -> Iterator[str]:
    free = [0.0] * ROWS
    for transaction in chosen:
        if not any((sent.topic, sent.partition) == lane for sent in transaction.records):
            continue
        start = LEFT + (transaction.began - began) * scale
        over = transaction.over if transaction.over != NEVER else transaction.began + 0.2
        width = max(1.2, (over - transaction.began) * scale)
        row = min(range(ROWS), key=lambda index: (free[index] > start, free[index]))
        free[row] = start + width + 0.5
        colour, name = _COLOURS[transaction.outcome]
        kinds = violating.get(transaction.key, [])
        stroke = ' stroke="#c62828" stroke-width="2"' if kinds else ""
        told = f"{transaction.key}: {name}" + (f"; {', '.join(sorted(set(kinds)))}" if kinds else "")
        yield f'<rect x="{start:.1f}" y="{top + 7 + row * ROW}" width="{width:.1f}" height="{ROW - 2}" fill="{colour}"{stroke}>'
        yield f"<title>{escape(told)}</title></rect>"


def _diamonds(
    view: View, lane: Partition, top: int, marked: list[tuple[int, str]], began: float, scale: float
) -> Iterator[str]:
    """A diamond for each violating record, at the time when it was sent; at the end if nobody knows."""
    values = {offset: value for logs in view.logs.values() for offset, value in logs.get(lane, [])}
    for offset, kind in marked:
        sent = view.sent.get(values.get(offset, ""))
        x = LEFT + (sent.at - began) * scale if sent is not None else WIDTH - 8.0
        if not LEFT <= x <= WIDTH:
            continue
        y = top + 5
        yield f'<path d="M{x:.1f} {y - 5}l5 5l-5 5l-5 -5z" fill="#c62828">'
        yield f"<title>{escape(kind)}: offset {offset}, {escape(values.get(offset, 'unreadable'))}</title></path>"
