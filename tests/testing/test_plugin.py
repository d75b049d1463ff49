"""The plugin as a stranger's project meets it: installed, without a conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(folder: Path, program: str, *options: str) -> str:
    (folder / "test_mine.py").write_text(program, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *options, str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return ran.stdout


def test_a_test_has_a_broker_by_naming_it(tmp_path: Path) -> None:
    shown = run(
        tmp_path,
        """
import pytest

def test_one(kafka):
    kafka.produce("orders", {"1": "ten"})
    assert [record.value for record in kafka.consume("orders")] == [b"ten"]

def test_another_one_knows_nothing_of_it(kafka):
    assert kafka.topics() == []

@pytest.mark.kafka(num_partitions=3)
def test_settings(kafka):
    kafka.produce("orders", ["x"])
    assert len(kafka.ends("orders")) == 3

def test_shared(kafka_session):
    kafka_session.produce("shared", ["x"])

def test_shared_still(kafka_session):
    assert kafka_session.topics() == ["shared"]
""",
        "--strict-markers",
    )
    assert "5 passed" in shown, shown


def test_a_failed_test_shows_its_topics(tmp_path: Path) -> None:
    shown = run(
        tmp_path,
        """
from confluent_kafka import Producer

def test_it(kafka):
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "id"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce("orders", "never", "key")
    producer.flush()
    producer.abort_transaction()
    assert False
""",
    )
    assert "what is in kafka" in shown, shown
    assert "topic orders: 2 records and markers" in shown, shown
    assert "0:0      aborted        producer 1/0     key = never" in shown, shown


def test_a_fixture_of_the_users_own_wins(tmp_path: Path) -> None:
    """One named kafka in the project is the project's, also when its test fails."""
    shown = run(
        tmp_path,
        """
import pytest

@pytest.fixture
def kafka():
    return "localhost:9092"

def test_it(kafka):
    assert kafka == "elsewhere:9092"
""",
    )
    assert "1 failed" in shown, shown
    assert "INTERNALERROR" not in shown, shown


def test_a_broker_costs_little(tmp_path: Path) -> None:
    """A fresh broker for each test is affordable: far below a second each, also on a busy machine."""
    program = """
import pytest

@pytest.mark.parametrize("number", range(50))
def test_it(kafka, number):
    assert kafka.bootstrap
"""
    shown = run(tmp_path, program, "--durations=0")
    assert "50 passed" in shown, shown


def test_the_documentation_is_true(tmp_path: Path) -> None:
    """Every Python block of docs/testing.md is run, and what a failed test is said to show is shown."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = [block.split("```", 1)[0] for block in page.split("```python\n")[1:]]
    assert len(blocks) == 3
    shown = run(tmp_path, "\n\n".join(blocks), "-W", "ignore")
    assert "3 passed" in shown, shown
    table = page.split("```text\n", 1)[1].split("```", 1)[0]
    shown = run(tmp_path, blocks[0].replace('== [b"committed"]', "== []"))
    assert table in shown, shown
