"""The breakages fit the sources; ``make mutants`` shows that each is noticed."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from tests.mutants.__main__ import SOURCES, broken
from tests.mutants.applications import APPLICATIONS, MISTAKES
from tests.mutants.breakages import BREAKAGES, Breakage
from tests.mutants.forgetting import FORGETTING
from tests.mutants.packing import PACKING

ALL = [*BREAKAGES, *FORGETTING, *PACKING, *APPLICATIONS]


@pytest.mark.parametrize("breakage", ALL, ids=[one.name for one in ALL])
def test_it_fits(breakage: Breakage) -> None:
    text = broken(breakage)
    ast.parse(text)
    assert text != (SOURCES / breakage.file).read_text(encoding="utf-8")


def test_there_are_many_and_each_has_a_name() -> None:
    assert len(BREAKAGES) >= 30
    assert Counter(one.name for one in ALL).most_common(1)[0][1] == 1


def test_every_mistake_of_applications_has_a_breakage() -> None:
    """docs/mistakes.md lists them."""
    numbers = {int(one.name.partition(":")[0].removeprefix("mistake ")) for one in MISTAKES if ":" in one.name}
    assert numbers == set(range(1, 20))
