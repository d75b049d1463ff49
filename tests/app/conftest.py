"""Applications against a broker process; results are counted by an independent read_committed reader.

With ``ONCELOG_TEST_BOOTSTRAP`` they run on a broker that somebody else started, such as Apache Kafka: tests that need no
broker, or kill one of their own, are left out then.
"""

from __future__ import annotations

import os

import pytest
from tests.support.broker_process import BOOTSTRAP_VARIABLE
from tests.support.fixtures import broker, is_alive_afterwards, own_broker, proxy, unique

__all__ = ["broker", "is_alive_afterwards", "own_broker", "proxy", "unique"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if BOOTSTRAP_VARIABLE not in os.environ:
        return
    left_out = [item for item in items if "broker" not in getattr(item, "fixturenames", ())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
