"""D2, P1, law 7: each strike of ``make chaos`` once, by itself, under load: it does what its name says, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.tormentor import WEIGHTS, TormentedBroker, Tormentor
from tests.support.confluent import by_partition, create_topic, read_all
from tests.support.load import IdempotentWriter

PARTITIONS = 3


@pytest.mark.client("confluent-kafka")
def test_every_strike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.tormentor.FREEZE_SECONDS", (0.1, 0.3))
    with TormentedBroker(tmp_path / "broker") as broker:
        create_topic(broker.bootstrap, "plain", PARTITIONS)
        writer = IdempotentWriter(broker.bootstrap, "plain", PARTITIONS, "one").start()
        tormentor = Tormentor(broker, 1)
        assert [tormentor.strike(how) for how in WEIGHTS] == list(WEIGHTS)
        writer.finish()
        writer.check(by_partition(read_all(broker.bootstrap, "plain")))
        broker.assert_healthy()
