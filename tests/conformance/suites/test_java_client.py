"""Apache Kafka's Java client: our scenarios in java/ on its producer, consumer and admin client."""

from __future__ import annotations

import pytest
from tests.support.fixtures import Broker
from tests.support.suites import classes, java, judge, run, verdicts

pytestmark = [pytest.mark.client("java"), pytest.mark.needs("java")]


def test_scenarios(broker: Broker) -> None:
    """T2-T6, T10, T11, O1-O3, R1-R5 as the Java client meets them; it speaks the second protocol (TV2)."""
    ran = run(java(classes(), "Main", broker.bootstrap), 300)
    judge("java-client", *verdicts(ran.checked()))
