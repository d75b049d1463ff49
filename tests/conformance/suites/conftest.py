"""Suites that other people wrote. Without their toolchain: failed in CI, deselected and told elsewhere (tests/conftest.py)."""

from __future__ import annotations

import os

import pytest
from tests.support.suites import TOOLCHAINS, missing

FAILS_WITHOUT = os.environ.get("CI") == "true"


def needs(item: pytest.Item) -> set[str]:
    return {mark.args[0] for mark in item.iter_markers("needs")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FAILS_WITHOUT:
        return
    absent = {toolchain for toolchain in TOOLCHAINS if missing(toolchain)}
    left_out = [item for item in items if needs(item) & absent]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for toolchain in needs(item):
        assert not missing(toolchain), f"{toolchain}: {', '.join(missing(toolchain))} not on PATH"
