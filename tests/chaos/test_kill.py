"""Kill -9 of the broker and of its clients at random moments under load: nothing lost, nothing doubled, nothing torn."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.apps import until
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition, create_topic, read_all
from tests.support.load import CopierProcess, IdempotentWriter, PairWriter

pytestmark = pytest.mark.client("confluent-kafka")

PARTITIONS = 4
KILLS = 6


@contextmanager
def copiers(folder: Path, bootstrap: str) -> Iterator[list[CopierProcess]]:
    """Two processes that copy ``source`` to ``target``; killed at the end."""
    both = [
        CopierProcess(
            folder / f"copier-{name}.txt",
            bootstrap=bootstrap,
            source="source",
            target="target",
            group="group",
            transactional_id=f"copier-{name}",
            session_timeout_ms=6000,
            heartbeat_interval_ms=200,
        )
        for name in "ab"
    ]
    try:
        yield both
    finally:
        for each in both:
            each.kill()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_moments(own_broker: BrokerProcess, tmp_path: Path, seed: int) -> None:
    """D1, D2, P1, P3, O1, R1: after every kill all that was promised is there, once, in order, and whole."""
    chance = random.Random(seed)
    bootstrap = own_broker.bootstrap
    for topic in ("plain", "source", "target", "pairs"):
        create_topic(bootstrap, topic, PARTITIONS)
    writers = [IdempotentWriter(bootstrap, "plain", PARTITIONS, name).start() for name in ("one", "two")]
    feeder = IdempotentWriter(bootstrap, "source", PARTITIONS, "fed").start()
    pairs = PairWriter(bootstrap, "pairs", PARTITIONS, "pairs", seed).start()
    with copiers(tmp_path, bootstrap) as processes:
        for number in range(KILLS):
            time.sleep(chance.uniform(0.1, 1.2))
            own_broker.restart()
            if number % 3 == 1:  # a copier dies too; its successor has its transactional id, and aborts what is open
                dying = chance.choice(processes)
                dying.kill()
                dying.start()
        until(lambda: len(pairs.committed) > KILLS, "enough to be committed to judge")
        for worker in (*writers, feeder, pairs):
            worker.finish()
        plain, source = by_partition(read_all(bootstrap, "plain")), by_partition(read_all(bootstrap, "source"))
        for writer in writers:
            writer.check(plain)
        feeder.check(source)
        pairs.check(by_partition(read_all(bootstrap, "pairs")))
        copied_within(bootstrap, source, processes, seconds=40)


def copied_within(
    bootstrap: str, source: dict[int, list[bytes | None]], processes: list[CopierProcess], seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    wanted = sum(map(len, source.values()))
    while sum(map(len, (target := by_partition(read_all(bootstrap, "target"))).values())) < wanted:
        assert all(each.is_running for each in processes), "\n".join(each.log for each in processes)
        assert time.monotonic() < deadline, "\n".join(["not everything was copied", *(each.log for each in processes)])
        time.sleep(0.2)
    assert target == source
