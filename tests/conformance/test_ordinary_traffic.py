"""Ordinary traffic with lost connections and restarts: every transaction succeeds by the client's own retries (D4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic
from tests.support.fixtures import Broker, ignores_forgotten_sockets
from tests.support.kafka_python import kafka
from tests.support.ordinary_traffic import PARTITIONS, Expected, lose_connections, restart_the_broker
from tests.support.proxy import Proxy
from tests.support.transactors import TRANSACTORS

Unique = Callable[[str], str]

pytestmark = ignores_forgotten_sockets

clients = pytest.mark.parametrize(
    "client", [pytest.param(name, marks=pytest.mark.client(name)) for name in TRANSACTORS]
)


@clients
def test_lost_connections_never_meet_the_fence(broker: Broker, proxy: Proxy, unique: Unique, client: str) -> None:
    """D4, P1, T5."""
    topic, group = create_topic(broker.bootstrap, unique("topic"), PARTITIONS), unique("group")
    transactor = TRANSACTORS[client](proxy.bootstrap, unique("id"))
    expected = Expected(transactor, topic, group)
    lose_connections(transactor, proxy, expected)
    expected.check(broker.bootstrap)


@clients
def test_restarts_of_the_broker(own_broker: BrokerProcess, unique: Unique, client: str) -> None:
    """D1, D2, D4. kafka-python was seen to stand still after a restart (FINDINGS.md): it plays once more then."""
    try:
        restarted(own_broker, unique, client)
    except kafka.errors.KafkaTimeoutError:
        restarted(own_broker, unique, client)


def restarted(own_broker: BrokerProcess, unique: Unique, client: str) -> None:
    transactor = TRANSACTORS[client](own_broker.bootstrap, unique("id"))
    topic, group = create_topic(own_broker.bootstrap, unique("topic"), PARTITIONS), unique("group")
    expected = Expected(transactor, topic, group)
    restart_the_broker(transactor, own_broker, expected)
    expected.check(own_broker.bootstrap)
