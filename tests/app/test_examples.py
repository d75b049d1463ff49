"""The examples, as processes that are killed: what they promise is counted."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from tests.support.apps import WAIT_SECONDS, done, until, until_done
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, producer, read_all

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """An example's process, again and again with the same surroundings."""

    def __init__(self, name: str, broker: BrokerProcess, folder: Path, **environment: str) -> None:
        self.broker = broker
        self._command = [sys.executable, str(EXAMPLES / f"{name}.py")]
        self._environment = {"BOOTSTRAP": broker.bootstrap, "STATE": str(folder / "state"), **environment}

    @contextmanager
    def running(self, *, kills: bool) -> Iterator[None]:
        """Until the block ends; then it is killed, or stopped in good order."""
        process = subprocess.Popen(self._command, env={**_inherited(), **self._environment}, stderr=subprocess.PIPE)
        try:
            yield
            (process.kill if kills else process.terminate)()
            _, errors = process.communicate(timeout=WAIT_SECONDS)
            assert process.returncode == (-9 if kills else 0), errors.decode()
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate(timeout=WAIT_SECONDS)


def _inherited() -> dict[str, str]:
    import os

    return dict(os.environ)


def send(broker: BrokerProcess, topic: str, rows: list[tuple[str, Any]]) -> None:
    writer = producer(broker.bootstrap)
    for key, value in rows:
        writer.produce(topic, value if isinstance(value, str) else json.dumps(value), key)
    assert writer.flush(WAIT_SECONDS) == 0


def values(broker: BrokerProcess, topic: str) -> list[Any]:
    return [json.loads(message.value() or b"") for message in read_all(broker.bootstrap, topic)]


@pytest.fixture
def topics(own_broker: BrokerProcess, request: pytest.FixtureRequest) -> None:
    for topic in request.param:
        create_topic(own_broker.bootstrap, topic, 3)


@pytest.mark.parametrize("topics", [("transfers", "credits", "balances", "refused")], indirect=True)
@pytest.mark.usefixtures("topics")
def test_payments_never_change_the_sum(own_broker: BrokerProcess, tmp_path: Path) -> None:
    chance = random.Random(5)
    example = Example("payments", own_broker, tmp_path)
    sent = 0
    for round_ in range(3):
        transfers = []
        for _ in range(150):
            payer, payee = chance.sample([f"account-{number}" for number in range(12)], 2)
            cents = chance.randint(1, 20)
            transfers.append((payer, {"id": f"t{sent}", "payer": payer, "payee": payee, "cents": cents}))
            sent += 1
        before, _ = done(own_broker.bootstrap, "payments", "transfers")
        send(own_broker, "transfers", transfers)
        with example.running(kills=round_ < 2):
            if round_ < 2:
                until(lambda: done(own_broker.bootstrap, "payments", "transfers")[0] > before, "progress")  # noqa: B023
            else:
                until_done(own_broker.bootstrap, "payments", "transfers")
                until(lambda: sum(each["change"] for each in values(own_broker, "balances")) == 0, "all credits")
    changes: dict[str, list[int]] = {}
    for each in values(own_broker, "balances"):
        changes.setdefault(each["transfer"], []).append(each["change"])
    refused = Counter(each["id"] for each in values(own_broker, "refused"))
    assert all(sorted(pair) == [-abs(pair[0]), abs(pair[0])] for pair in changes.values()), "debited and credited once"
    assert set(refused.values()) == {1}
    assert set(changes) | set(refused) == {f"t{number}" for number in range(sent)}
    assert not set(changes) & set(refused)
    spent = Counter[str]()
    for each in values(own_broker, "balances"):
        spent[each["account"]] += max(0, -each["change"])
    assert max(spent.values()) <= 100, "an account went below zero"


@pytest.mark.parametrize("topics", [("lines", "words", "counts")], indirect=True)
@pytest.mark.usefixtures("topics")
def test_word_counts_are_right(own_broker: BrokerProcess, tmp_path: Path) -> None:
    chance = random.Random(6)
    example = Example("word_count", own_broker, tmp_path)
    words: list[str] = []
    for round_ in range(3):
        more = [[chance.choice(["to", "be", "or", "not"]) for _ in range(5)] for _ in range(60)]
        words += [word for line in more for word in line]
        send(own_broker, "lines", [("", " ".join(line)) for line in more])
        with example.running(kills=round_ < 2):
            if round_ < 2:
                until(lambda: len(read_all(own_broker.bootstrap, "counts")) > 300 * round_, "counts")  # noqa: B023
            else:
                until(lambda: len(read_all(own_broker.bootstrap, "counts")) >= len(words), "all counts")  # noqa: B023
    found: dict[bytes, list[int]] = {}
    for message in read_all(own_broker.bootstrap, "counts"):
        found.setdefault(message.key() or b"", []).append(int(message.value() or b""))
    assert found == {word.encode(): list(range(1, times + 1)) for word, times in Counter(words).items()}


@pytest.mark.parametrize("topics", [("orders", "invoices", "orders.dead")], indirect=True)
@pytest.mark.usefixtures("topics")
def test_each_order_has_one_invoice(own_broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    monkeypatch.setenv("DATABASE", url)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import order_pipeline as shop

    from oncelog.app import schema

    engine = schema.engine_of(url)
    schema.create(engine, ["outbox"])
    with engine.begin() as db:
        for table in shop.TABLES:
            db.execute(sql.text(table))

    def invoices() -> Counter[str]:
        with engine.begin() as db:
            return Counter(db.execute(sql.text("SELECT order_id FROM invoices")).scalars())

    example = Example("order_pipeline", own_broker, tmp_path, DATABASE=url)
    for round_ in range(3):
        for number in range(40 * round_, 40 * round_ + 40):
            with engine.begin() as db:
                shop.place(db, shop.Order(f"o{number}", 2, 50))
        with example.running(kills=round_ < 2):
            wanted = 40 * round_ + (1 if round_ < 2 else 40)
            until(lambda: sum(invoices().values()) >= wanted, f"{wanted} invoices")  # noqa: B023
    assert invoices() == Counter({f"o{number}": 1 for number in range(120)})
    engine.dispose()
