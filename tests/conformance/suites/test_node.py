"""Node clients: our scenarios in node/ on kafkajs, and on Confluent's client, which is librdkafka below."""

from __future__ import annotations

import pytest
from tests.support.fixtures import Broker
from tests.support.suites import SUITES, judge, node_modules, run, verdicts

pytestmark = pytest.mark.needs("node")


@pytest.mark.client("kafkajs")
def test_kafkajs(broker: Broker) -> None:
    """T2-T5, O1, O2, R1-R5 as kafkajs meets them; it speaks the first protocol (TV1) in old versions of the requests."""
    play(broker, "kafkajs", "kafkajs")


@pytest.mark.client("confluent-kafka-javascript")
def test_confluent_kafka_javascript(broker: Broker) -> None:
    """P1, T2-T5, O1-O3, R1-R5; its librdkafka is compiled when it is installed."""
    play(broker, "confluent", "@confluentinc/kafka-javascript")


def play(broker: Broker, program: str, package: str) -> None:
    modules = node_modules(package) / "node_modules"
    ran = run(["node", str(SUITES / "node" / f"{program}.js"), broker.bootstrap, str(modules)], 600)
    judge(program, *verdicts(ran.checked()))
