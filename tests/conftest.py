"""For all tests: assertions of the shared tools show their values too; what a machine can't run is told."""

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support.suites import TOOLCHAINS, missing  # noqa: E402 - its assertions are to be rewritten


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A foreign suite that was not run for want of a toolchain is never passed over in silence (in CI it fails)."""
    for toolchain in TOOLCHAINS:
        if missing(toolchain):
            programs = ", ".join(missing(toolchain))
            terminalreporter.write_line(f"NOT RUN: the foreign suites that need {toolchain} ({programs} not on PATH)")


def pytest_addoption(parser: pytest.Parser) -> None:
    """tests/stories: write what the stories say now, instead of comparing it."""
    parser.addoption("--rewrite-stories", action="store_true", dest="rewrite_stories", help="write the stories anew")
