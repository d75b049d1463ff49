"""The tables: medians of the rounds, ratios oncelog / peer taken round by round, targets and whether they are met."""

import statistics
from collections.abc import Iterable

from bench.rows import FLUSH, KAFKA, Figure, Row, Target

OURS = "oncelog"
Figures = dict[str, float]
#: row -> peer -> one Figures a round
Results = dict[str, dict[str, list[Figures]]]


def values(results: Results, row: Row, peer: str, figure: Figure) -> list[float]:
    return [one[figure.key] for one in results.get(row.name, {}).get(peer, []) if figure.key in one]


def ratio(results: Results, row: Row, peer: str, figure: Figure) -> float | None:
    """The median of the ratios oncelog / peer, each of one round."""
    ours, theirs = values(results, row, OURS, figure), values(results, row, peer, figure)
    ratios = [mine / one for mine, one in zip(ours, theirs) if one]
    return statistics.median(ratios) if ratios else None


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _verdict(results: Results, row: Row, peer: str, figure: Figure, target: Target | None) -> list[str]:
    """Three cells: the ratio, the target, whether it is met."""
    found = ratio(results, row, peer, figure)
    shown = f"{found:.2f}" if found is not None else ""
    if target is None:
        return [shown, "", ""]
    ours = values(results, row, OURS, figure)
    value = (statistics.median(ours) if ours else None) if target.is_absolute else found
    sign = "≥" if figure.is_more_better else "≤"
    wanted = f"{sign} {target.bound:g}" + ("" if target.is_absolute else "×")
    if value is None:
        return [shown, wanted, "?"]
    return [shown, wanted, "met" if figure.is_met(value, target) else "**missed**"]


def table(results: Results, rows: Iterable[Row], peers: list[str], *, is_fresh: bool) -> str:
    """Markdown. In a fresh table every figure's target is to be ahead of both Kafkas."""
    kafkas = [peer for peer in (KAFKA, FLUSH) if peer in peers]
    others = [peer for peer in peers if peer not in (OURS, KAFKA, FLUSH)]
    heads = ["row", "figure", OURS]
    for peer in kafkas:
        heads += [peer, f"ratio to {peer}", "target", ""]
    heads += others
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        for figure in row.figures:
            if not values(results, row, OURS, figure) and not any(values(results, row, one, figure) for one in peers):
                continue
            cells = [row.title, figure.label, _median(results, row, OURS, figure)]
            for peer in kafkas:
                target = figure.target(peer, is_fresh=is_fresh)
                cells += [_median(results, row, peer, figure), *_verdict(results, row, peer, figure, target)]
            cells += [_median(results, row, peer, figure) for peer in others]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(results: Results, row: Row, peer: str, figure: Figure) -> str:
    found = values(results, row, peer, figure)
    return _number(statistics.median(found), figure.digits) if found else "–"


def verdicts(results: Results, rows: Iterable[Row], *, is_fresh: bool) -> tuple[int, list[str]]:
    """How many targets are met, and each that is not, by how much."""
    met, missed = 0, []
    for row in rows:
        for figure in row.figures:
            for peer in (KAFKA, FLUSH):
                target = figure.target(peer, is_fresh=is_fresh)
                if target is None or not values(results, row, OURS, figure):
                    continue
                shown, wanted, verdict = _verdict(results, row, peer, figure, target)
                if verdict == "met":
                    met += 1
                elif verdict == "**missed**":
                    value = _median(results, row, OURS, figure) if target.is_absolute else f"{shown}×"
                    missed.append(f"{row.title}: {figure.label}: {value}, target {wanted} against {peer}")
    return met, missed
