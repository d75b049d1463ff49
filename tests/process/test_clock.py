"""T7, D5: a machine whose time is set back while the broker is down does not keep transactions open for longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

import oncelog
from oncelog.testing.kafka import CLIENT_SETTINGS

HOUR_NS = 3_600_000_000_000


def test_time_set_back_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_ns = time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(
            "oncelog.broker.clock.Clock.__init__.__defaults__", (lambda: real_ns() + HOUR_NS, time.monotonic_ns)
        )
        with oncelog.Broker(data=tmp_path / "data", durability="written") as broker:
            producer = Producer(
                {
                    "bootstrap.servers": broker.bootstrap,
                    "transactional.id": "id",
                    "transaction.timeout.ms": 2000,
                    **CLIENT_SETTINGS,
                }
            )
            producer.init_transactions(20)
            producer.begin_transaction()
            producer.produce("t", "1")
            producer.flush(20)
    with oncelog.Broker(data=tmp_path / "data", durability="written") as broker:
        deadline = time.monotonic() + 20
        while broker.ask(lambda core: [log.stable_offset for log in core.state.logs.values()]) == [0]:
            assert time.monotonic() < deadline, "the transaction is still open"
            time.sleep(0.02)
