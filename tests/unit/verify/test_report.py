"""The report is one well-formed page that shows every violation, whatever the history says."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

from tests.unit.verify.world import World, Wrong

from oncelog.verify.history import Began, Sent, Struck
from oncelog.verify.report import html
from oncelog.verify.run import Verdict, judged


def page(wrong: Wrong, *more: Began | Sent | Struck) -> tuple[str, Verdict]:
    events = World(random.Random(5), wrong).play(150)
    view, verdict = judged([*events, *more], "history.jsonl")
    return html(view, verdict), verdict


def test_it_is_well_formed_and_marks_what_is_wrong() -> None:
    shown, verdict = page(Wrong.TEARS, Struck(at=110, until=115, fault="cut", detail="<b>9</b> connections"))
    assert verdict.verdict == "violated"
    root = ElementTree.fromstring(shown.replace("<!doctype html>", "").replace('<meta charset="utf-8">', ""))
    assert root.find(".//h1/span").text == "violated"  # type: ignore[union-attr]
    titles = [title.text or "" for title in root.iter("title")]
    for violation in verdict.violations:
        assert violation.sentence in "".join(root.itertext())
        for key in violation.transactions[:1]:
            assert any(title.startswith(f"{key}: ") and violation.kind.value in title for title in titles)
    assert "cut: <b>9</b> connections" in titles, "what comes from the history is text, never markup"
    assert len(root.findall(".//h3")) >= 1


def test_it_opens_without_a_network() -> None:
    shown, _ = page(Wrong.NOTHING)
    assert not re.search(r"https?:|src=|href=|@import|url\(", shown)


def test_nothing_happened() -> None:
    view, verdict = judged([Began(at=0, settings={"workload": "copy"})], "none")
    assert verdict.verdict == "unproven"
    assert "unproven" in html(view, verdict)


def test_a_clean_run_holds() -> None:
    _, verdict = page(Wrong.NOTHING)
    assert (verdict.verdict, verdict.violations) == ("holds", [])
    assert verdict.counts.transactions_committed > 10


def test_what_was_not_read_to_the_end_proves_nothing() -> None:
    events = World(random.Random(5)).play(80)
    _, verdict = judged([event for event in events if getattr(event, "is_complete", False) is False], "none")
    assert verdict.verdict == "unproven"
    assert verdict.reason.startswith("not read to the end")
