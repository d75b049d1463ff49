"""D1-D5, P1, O1, R1-R3: a short run of ``make chaos``: the broker is struck while ``oncelog verify`` disturbs its clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.__main__ import play
from tests.chaos.tormentor import TormentedBroker


@pytest.mark.client("confluent-kafka")
def test_struck_while_clients_are_disturbed(tmp_path: Path) -> None:
    with TormentedBroker(tmp_path / "broker") as broker:
        verdict = play(broker, tmp_path, "bank", 15, 3)
        broker.assert_healthy()
    assert verdict["strikes"].total() >= 1
    assert verdict["counts"]["transactions_committed"] > 0
    assert verdict["verdict"] == "holds", verdict["violations"]
