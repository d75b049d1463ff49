"""Our own tests of applications (tests/app) on Apache Kafka: what the application layer promises holds on any cluster.

The tests run as they are, in a pytest of their own, with ``ONCELOG_TEST_BOOTSTRAP``; those that kill a broker or need none are
left out there (tests/app/conftest.py). Short: the heart of it; ``make apps-on-kafka``: all.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.peers import Peer
from tests.support.broker_process import BOOTSTRAP_VARIABLE
from tests.support.suites import IS_LONG, run, tell

pytestmark = [pytest.mark.client("confluent-kafka"), pytest.mark.needs("java")]

TOP = Path(__file__).resolve().parents[3]
SECONDS_MAX = 1200 if IS_LONG else 240
#: Groups form at once; a test would wait for three seconds each time.
SETTINGS = "group.initial.rebalance.delay.ms=0\n"
HEART = (
    "test_app.py::test_workers_share_the_partitions",
    "test_app.py::test_dead_letters_say_where_they_come_from",
    "test_app.py::test_batch_handlers_isolate_their_poison",
    "test_app.py::test_sigterm_finishes_the_batch",
    "test_session.py::test_everything_is_copied_once",
    "test_session.py::test_an_error_in_the_body_aborts_and_the_batch_comes_again",
    "test_state.py::test_an_aborted_transaction_leaves_no_state",
)
PASSED = re.compile(r"\b(\d+) passed\b")


@pytest.fixture
def apache_kafka(tmp_path: Path) -> Iterator[str]:
    """Apache Kafka, one node on a folder of its own; where it listens."""
    peer = Peer("kafka", tmp_path / "kafka")
    with (peer.folder / "server.properties").open("a", encoding="utf-8") as config:
        config.write(SETTINGS)
    peer.launch()
    try:
        peer.wait()
        yield peer.bootstrap
    finally:
        peer.stop()
        peer.remove()


def test_applications_hold_on_apache_kafka(apache_kafka: str) -> None:
    wanted = ["tests/app"] if IS_LONG else [f"tests/app/{name}" for name in HEART]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=10", *wanted]
    foreign = {BOOTSTRAP_VARIABLE: apache_kafka, "PYTEST_XDIST_WORKER": f"kafka{os.getpid()}"}
    told = run(command, SECONDS_MAX, cwd=TOP, variables=foreign).checked()
    passed = PASSED.search(told)
    assert passed is not None, told
    assert int(passed[1]) >= len(HEART), told
    tell(f"applications on Apache Kafka: {passed[1]} tests passed")
    if IS_LONG:
        tell(told)
