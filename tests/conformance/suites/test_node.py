"""Node clients: our scenarios in node/ on kafkajs."""

from __future__ import annotations

import pytest
from tests.support.fixtures import Broker
from tests.support.suites import SUITES, judge, node_modules, run, verdicts

pytestmark = [pytest.mark.client("kafkajs"), pytest.mark.needs("node")]


def test_kafkajs(broker: Broker) -> None:
    """T2-T5, O1, O2, R1-R5 as kafkajs meets them; it speaks the first protocol (TV1) in old versions of the requests."""
    modules = node_modules("kafkajs") / "node_modules"
    ran = run(["node", str(SUITES / "node" / "kafkajs.js"), broker.bootstrap, str(modules)], 300)
    judge("kafkajs", *verdicts(ran.checked()))
