"""examples/plain as its readers run it: each program in a process of its own, killed in the middle by faults that must come."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from tests.support.apps import until

from oncelog.testing import Kafka, assert_exactly_once
from oncelog.testing.kafka import CLIENT_SETTINGS

PLAIN = Path(__file__).parents[2] / "examples" / "plain"


def program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(PLAIN / f"{name}.py"), *arguments]


def orders(count: int) -> dict[str, str]:
    return {f"o{number}": json.dumps({"quantity": 2, "price_cents": number}) for number in range(count)}


def values(kafka: Kafka, topic: str) -> list[str]:
    return [(record.value or b"").decode() for record in kafka.consume(topic)]


# -- idempotent producer ----------------------------------------------------------------------------------------------


def fed(kafka: Kafka, lines: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KAFKA_BOOTSTRAP": kafka.bootstrap}
    text = "".join(f"{line}\n" for line in lines)
    return subprocess.run(
        program("idempotent_producer"),
        input=text,
        env=environment,
        text=True,
        capture_output=True,
        timeout=90,
        check=False,
    )


def test_an_idempotent_producer_writes_once_over_lost_replies(kafka: Kafka) -> None:
    kafka.topic("lines")
    with kafka.faults(lose_reply="Produce", times=2):
        ran = fed(kafka, ["one", "two", "three"])
    assert ran.returncode == 0
    assert values(kafka, "lines") == ["one", "two", "three"]


def test_an_idempotent_producer_tells_what_was_refused(kafka: Kafka) -> None:
    kafka.topic("lines")
    with kafka.faults(refuse="Produce", error="MESSAGE_TOO_LARGE"):
        ran = fed(kafka, ["one"])
    assert ran.returncode == 1
    assert "1 refused" in ran.stderr


def test_an_idempotent_producer_that_is_killed_and_fed_again_repeats(kafka: Kafka) -> None:
    """Its page says so: idempotence is of one producer's life."""
    kafka.topic("lines")
    with kafka.faults(kill_client_after="Produce"):
        assert fed(kafka, ["one"]).returncode == -signal.SIGKILL
    assert fed(kafka, ["one"]).returncode == 0
    assert values(kafka, "lines") == ["one", "one"]


# -- transactional producer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["Produce", "EndTxn"])
@pytest.mark.parametrize("moment", ["kill_client_before", "kill_client_after"])
def test_each_line_once_whatever_is_killed(kafka: Kafka, tmp_path: Path, api: str, moment: str) -> None:
    lines = [f"line {number}" for number in range(55)]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    kafka.topic("lines", partitions=2)
    kafka.topic("positions")
    with kafka.faults(**{moment: api}, times=3, after=1):
        ran = kafka.run(
            program("transactional_producer", str(tmp_path / "lines.txt")),
            until=lambda: len(values(kafka, "lines")) >= 55,
        )
    assert ran.kills == 3
    assert Counter(values(kafka, "lines")) == Counter(lines)


# -- read_committed consumer ------------------------------------------------------------------------------------------


def test_a_consumer_prints_what_is_committed_and_loses_nothing(kafka: Kafka, tmp_path: Path) -> None:
    kafka.topic("lines")
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "writer", **CLIENT_SETTINGS})
    producer.init_transactions(20)
    for number in range(20):
        producer.begin_transaction()
        producer.produce("lines", f"{'gone' if number % 2 else 'there'} {number}")
        producer.flush(20)
        if number % 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    shown = tmp_path / "shown.txt"
    command = ["sh", "-c", f'exec "{sys.executable}" "{PLAIN}/read_committed_consumer.py" >> "{shown}"']
    with kafka.faults(kill_client_before="OffsetCommit"):
        ran = kafka.run(command, group="printer", topics=["lines"])
    assert ran.kills == 1
    printed = Counter(shown.read_text(encoding="utf-8").split("\n")[:-1])
    assert set(printed) == {f"there {number}" for number in range(0, 20, 2)}
    assert max(printed.values()) == 2, "printed, killed before the commit, printed again: at least once"


# -- consume, process, produce ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["Produce", "TxnOffsetCommit", "EndTxn"])
@pytest.mark.parametrize("moment", ["kill_client_before", "kill_client_after"])
def test_each_order_has_one_invoice_whatever_is_killed(kafka: Kafka, api: str, moment: str) -> None:
    kafka.topic("invoices", partitions=2)
    kafka.produce("orders", orders(150))
    with kafka.faults(**{moment: api}):
        ran = kafka.run(program("consume_process_produce"), group="billing", topics=["orders"])
    assert ran.kills == 1
    assert_exactly_once(kafka, source="orders", result="invoices", group="billing")


@pytest.mark.parametrize("fault", ["lose_reply", "cut", "kill_broker_after"])
@pytest.mark.parametrize("api", ["TxnOffsetCommit", "EndTxn"])
def test_each_order_has_one_invoice_whatever_is_cut(kafka: Kafka, api: str, fault: str) -> None:
    kafka.topic("invoices")
    kafka.produce("orders", orders(150))
    with kafka.faults(**{fault: api}):
        kafka.run(program("consume_process_produce"), group="billing", topics=["orders"])
    assert_exactly_once(kafka, source="orders", result="invoices", group="billing")


def test_aborted_orders_come_again(kafka: Kafka) -> None:
    """Without the rewind they are passed over: the offsets of the next transaction stand behind them."""
    kafka.topic("invoices")
    kafka.produce("orders", orders(150))
    with kafka.faults(refuse="TxnOffsetCommit", error="ILLEGAL_GENERATION"):
        ran = kafka.run(program("consume_process_produce"), group="billing", topics=["orders"])
    assert ran.kills == 0
    assert_exactly_once(kafka, source="orders", result="invoices", group="billing")


# -- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["kill_client_before", "kill_client_after"])
def test_each_order_has_an_invoice_or_a_dead_letter(kafka: Kafka, moment: str) -> None:
    good, bad = orders(60), {f"bad{number}": "{" for number in range(20)}
    kafka.topic("invoices")
    kafka.topic("orders.dead")
    kafka.produce("orders", {**good, **bad})
    with kafka.faults(**{moment: "EndTxn"}):
        kafka.run(program("dead_letter"), group="billing", topics=["orders"])
    assert Counter(record.key for record in kafka.consume("invoices")) == Counter(key.encode() for key in good)
    dead = kafka.consume("orders.dead")
    assert Counter(record.key for record in dead) == Counter(key.encode() for key in bad)
    assert dead[0].headers[0][0] == "error"
    assert dead[0].headers[1] == ("source", b"orders/0/60")


# -- SQL sink ---------------------------------------------------------------------------------------------------------


def stored(database: Path) -> Counter[str]:
    db = sqlite3.connect(database, timeout=30)
    has_table = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'invoices'").fetchone()
    found = Counter(row[0] for row in db.execute("SELECT id FROM invoices")) if has_table else Counter[str]()
    db.close()
    return found


def test_each_invoice_is_stored_once(kafka: Kafka, tmp_path: Path) -> None:
    database = tmp_path / "invoices.db"
    kafka.topic("invoices", partitions=2)
    kafka.produce("invoices", orders(100), partition=0)
    kafka.produce("invoices", {f"second-{key}": value for key, value in orders(100).items()}, partition=1)
    with kafka.faults(kill_client_after="Fetch", times=3, after=1) as kills:
        ran = kafka.run(
            program("sql_sink"),
            until=lambda: kills.hits == 3 and stored(database).total() >= 200,
            environment={"DATABASE": str(database)},
        )
    assert ran.kills >= 2, "the last one may have had nothing left to do"
    assert set(stored(database).values()) == {1}
    assert stored(database).total() == 200


def test_who_comes_second_stores_nothing(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was frozen with records in hand finds that the database is further on."""
    monkeypatch.syspath_prepend(str(PLAIN))
    import sql_sink

    kafka.produce("invoices", orders(3))
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "test", **CLIENT_SETTINGS})
    reader.assign([TopicPartition("invoices", 0, 0)])
    messages = []
    until(lambda: bool(messages.extend(reader.consume(3, 0.2)) or len(messages) == 3), "three invoices")
    reader.close()
    db = sqlite3.connect(tmp_path / "invoices.db", isolation_level=None)
    db.executescript(sql_sink.TABLES)
    assert sql_sink.store(db, messages)
    assert not sql_sink.store(db, messages)
    assert not sql_sink.store(db, messages[1:])
    assert stored(tmp_path / "invoices.db").total() == 3
    db.close()


def test_half_a_batch_is_never_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: Kafka) -> None:
    """If the offset can't be written, the rows are not there either."""
    monkeypatch.syspath_prepend(str(PLAIN))
    import sql_sink

    kafka.produce("invoices", ["x"])
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "test", **CLIENT_SETTINGS})
    reader.assign([TopicPartition("invoices", 0, 0)])
    (message,) = reader.consume(1, 20)
    reader.close()
    db = sqlite3.connect(tmp_path / "invoices.db", isolation_level=None)
    db.executescript(sql_sink.TABLES)
    db.execute("CREATE TRIGGER full BEFORE INSERT ON places BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        sql_sink.store(db, [message])
    assert stored(tmp_path / "invoices.db").total() == 0
    db.close()


def test_every_program_is_named_in_its_page() -> None:
    page = (PLAIN / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PLAIN.glob("*.py") if path.name not in page] == []
