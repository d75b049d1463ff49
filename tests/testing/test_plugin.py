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
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
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


def test_tests_that_do_not_ask_for_it_pay_nothing(tmp_path: Path) -> None:
    """The plugin is loaded with every run of pytest, also in projects that have oncelog for something else."""
    program = """
import sys

def test_it():
    dear = {"confluent_kafka", "kio", "uvloop", "msgspec", "asyncio", "sqlalchemy", "prometheus_client"}
    assert not dear & set(sys.modules)
    assert {name for name in sys.modules if name.startswith("oncelog")} == {
        "oncelog", "oncelog.testing", "oncelog.testing.plugin"
    }
"""
    shown = run(tmp_path, program, "-p", "no:xdist", "-p", "no:hypothesispytest", "-p", "no:asyncio", "-p", "no:anyio")
    assert "1 passed" in shown, shown


def test_a_fresh_broker_takes_milliseconds(tmp_path: Path) -> None:
    """Where others are busy many a start waits for the processor, but not all of them."""
    program = """
import time
from oncelog.testing import Kafka

def test_it():
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        broker = Kafka().start()
        seconds.append(time.perf_counter() - began)
        broker.close()
    assert sorted(seconds)[3] < 0.1, seconds
"""
    shown = run(tmp_path, program)
    assert "1 passed" in shown, shown


def test_many_at_once(tmp_path: Path) -> None:
    """With pytest-xdist: each test has a broker of its own, and each process one for its session."""
    program = """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_it(kafka, kafka_session, number):
    assert kafka.topics() == []
    kafka.produce("t", [str(number)])
    kafka_session.produce(f"t{number}", [str(number)])
    assert [record.value for record in kafka.consume("t")] == [str(number).encode()]
    assert [record.value for record in kafka_session.consume(f"t{number}")] == [str(number).encode()]
"""
    shown = run(tmp_path, program, "-n", "3")
    assert "20 passed" in shown, shown


OTHER_CLIENTS = """
import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from kafka import KafkaConsumer, KafkaProducer


async def write(producer, *values):
    async with producer.transaction():
        for value in values:
            await producer.send_and_wait("t", value)


def test_aiokafka(kafka):
    async def check():
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="a") as producer:
            with kafka.faults(lose_reply="EndTxn"):
                await write(producer, b"1", b"2")
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction():
                    await producer.send_and_wait("t", b"aborted")
                    1 / 0
        reader = AIOKafkaConsumer(
            "t", bootstrap_servers=kafka.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        async with reader:
            return [(await asyncio.wait_for(reader.getone(), 20)).value for _ in range(2)]

    assert asyncio.run(check()) == [b"1", b"2"]


def test_aiokafka_is_late(kafka):
    async def check():
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="a", transaction_timeout_ms=60_000)
        async with producer:
            with pytest.raises(KafkaError):
                async with producer.transaction():
                    await producer.send_and_wait("t", b"late")
                    kafka.clock.advance(61)

    asyncio.run(check())
    assert kafka.consume("t") == []


def test_kafka_python(kafka):
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="p")
    producer.init_transactions()
    for end in (producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.send("t", end.__name__.encode())
        producer.flush()
        end()
    producer.close()
    reader = KafkaConsumer(
        "t", bootstrap_servers=kafka.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    assert next(reader).value == b"commit_transaction"
    reader.close()
"""


def test_other_clients_and_tests_of_asyncio(tmp_path: Path) -> None:
    """The fixture serves any client: here both pure Python ones, with transactions, a fault, and the clock."""
    shown = run(tmp_path, OTHER_CLIENTS, "-W", "ignore")
    assert "3 passed" in shown, shown
