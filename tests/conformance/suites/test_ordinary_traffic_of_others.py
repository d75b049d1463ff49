"""Ordinary traffic of the Java client, kafkajs and sarama: as test_ordinary_traffic.py, each client in a program of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic
from tests.support.fixtures import Broker
from tests.support.ordinary_traffic import APIS, PARTITIONS, Expected, lose_connections, restart_the_broker
from tests.support.program_transactor import ProgramTransactor
from tests.support.proxy import Proxy
from tests.support.suites import SUITES, classes, go_program, java, node_modules

Unique = Callable[[str], str]
Made = Callable[[str, str], ProgramTransactor]


def _kafkajs() -> list[str]:
    return ["node", str(SUITES / "node" / "transactor.js"), str(node_modules("kafkajs") / "node_modules")]


#: The command of each client's program; the bootstrap address and the transactional id follow.
PROGRAMS: dict[str, Callable[[], list[str]]] = {
    "java": lambda: java(classes(), "Transactor"),
    "kafkajs": _kafkajs,
    "sarama": lambda: [str(go_program("transactor", "github.com/IBM/sarama"))],
}
#: kafkajs neither repeats an EndTxn whose connection was lost nor lets its user do so.
NOT_BORNE = {("kafkajs", "end_txn")}
TOOLCHAIN = {"java": "java", "kafkajs": "node", "sarama": "go"}

clients = pytest.mark.parametrize(
    "client",
    [pytest.param(name, marks=[pytest.mark.client(name), pytest.mark.needs(TOOLCHAIN[name])]) for name in PROGRAMS],
)


@pytest.fixture
def made(client: str, tmp_path: Path) -> Iterator[Made]:
    """Makes a transactor; its program is gone afterwards."""
    running: list[ProgramTransactor] = []

    def make(bootstrap: str, transactional_id: str) -> ProgramTransactor:
        running.append(ProgramTransactor([*PROGRAMS[client](), bootstrap, transactional_id], tmp_path / "stderr"))
        return running[-1]

    yield make
    for one in running:
        one.kill()


@clients
def test_lost_connections_never_meet_the_fence(
    broker: Broker, proxy: Proxy, unique: Unique, made: Made, client: str
) -> None:
    """D4, P1, T5, T6."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), PARTITIONS), unique("group")
    transactor = made(proxy.bootstrap, unique("id"))
    expected = Expected(transactor, topic, group)
    lose_connections(transactor, proxy, expected, [api for api in APIS if (client, api) not in NOT_BORNE])
    expected.check(broker.bootstrap)


@clients
def test_restarts_of_the_broker(own_broker: BrokerProcess, unique: Unique, made: Made) -> None:
    """D1, D2, D4."""
    transactor = made(own_broker.bootstrap, unique("id"))
    expected = Expected(transactor, create_topic(own_broker.bootstrap, "topic", PARTITIONS), "group")
    restart_the_broker(transactor, own_broker, expected)
    expected.check(own_broker.bootstrap)
