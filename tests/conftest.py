"""For all tests: assertions of the shared tools show their values too; what a machine can't run is told."""

import os

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.compiled.left_out import is_unfit  # noqa: E402 - as the next one
from tests.support.suites import TOOLCHAINS, missing  # noqa: E402 - its assertions are to be rewritten

import oncelog  # noqa: E402

FAILS_WITHOUT = os.environ.get("CI") == "true"


def needs(item: pytest.Item) -> set[str]:
    """The toolchains that a test needs, by its marker."""
    return {mark.args[0] for mark in item.iter_markers("needs")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without their toolchain tests fail in CI, and are deselected elsewhere; a compiled core can't run all of them."""
    absent = set() if FAILS_WITHOUT else {toolchain for toolchain in TOOLCHAINS if missing(toolchain)}
    is_compiled = oncelog.is_compiled()
    left_out = [item for item in items if needs(item) & absent or (is_compiled and is_unfit(item))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In CI nothing is left out."""
    for toolchain in needs(item):
        assert not missing(toolchain), f"{toolchain}: {', '.join(missing(toolchain))} not on PATH"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not run for want of a toolchain is never passed over in silence (in CI it fails)."""
    for toolchain in TOOLCHAINS:
        if missing(toolchain):
            programs = ", ".join(missing(toolchain))
            terminalreporter.write_line(f"NOT RUN: the tests that need {toolchain} ({programs} not on PATH)")
    if oncelog.is_compiled():
        terminalreporter.write_line("On a compiled core. NOT RUN: what tests/compiled/left_out.py says")


def pytest_addoption(parser: pytest.Parser) -> None:
    """tests/stories: write what the stories say now, instead of comparing it."""
    parser.addoption("--rewrite-stories", action="store_true", dest="rewrite_stories", help="write the stories anew")
