"""Kafka's TransactionalMessageCopier, as its transactions system test uses it: several copiers, random aborts, kills.

At the end the output holds every message of the input exactly once, for read_committed readers.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, producer, read_all, values_of
from tests.support.suites import IS_LONG, killed, tell, tool

pytestmark = [pytest.mark.client("kafka-tools"), pytest.mark.needs("java")]

PARTITIONS = 2
MESSAGES = 100_000 if IS_LONG else 6_000
TRANSACTION_SIZE = 750 if IS_LONG else 75
KILLS = 12 if IS_LONG else 2
SECONDS_MAX = 900 if IS_LONG else 300


class Copier:
    """One copier over all its lives, always with the same transactional id."""

    def __init__(self, broker: BrokerProcess, index: int, folder: Path, *, in_group: bool) -> None:
        self.index, self.folder, self.starts, self.broker = index, folder, 0, broker
        self.in_group = in_group
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        options = ["--input-topic", "input", "--input-partition", str(self.index), "--output-topic", "output"]
        options += ["--broker-list", self.broker.bootstrap, "--consumer-group", "copiers", "--enable-random-aborts"]
        options += ["--transaction-size", str(TRANSACTION_SIZE), "--transactional-id", f"copier-{self.index}"]
        options += ["--use-group-metadata", *(["--group-mode"] if self.in_group else [])]
        command = tool("TransactionalMessageCopier", *options)
        with self.out.open("wb") as out, (self.folder / f"copier-{self.index}.err").open("ab") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def out(self) -> Path:
        return self.folder / f"copier-{self.index}-{self.starts}.out"

    @property
    def is_under_way(self) -> bool:
        """This life has ended a transaction."""
        return '"totalProcessed"' in self.out.read_text(encoding="utf-8")

    @property
    def is_done(self) -> bool:
        """It has ended by itself, with nothing left to copy."""
        assert self.process is not None
        return self.process.poll() == 0

    def kill(self) -> None:
        assert self.process is not None
        killed(self.process)
        self.process.wait(20)

    def told(self) -> str:
        return (self.folder / f"copier-{self.index}.err").read_text(encoding="utf-8", errors="replace")[-3000:]


def fill(bootstrap: str) -> None:
    writer = producer(bootstrap)
    for number in range(MESSAGES):
        writer.produce("input", str(number).encode(), str(number).encode(), partition=number % PARTITIONS)
        if number % 1000 == 0:
            writer.poll(0)
    assert writer.flush(60) == 0


def wait_until_under_way(copier: Copier, deadline: float) -> None:
    while not (copier.is_under_way or copier.is_done):
        assert time.monotonic() < deadline, f"copier {copier.index} makes no progress:\n{copier.told()}"
        if copier.process is not None and copier.process.poll():
            copier.start()  # it gave up, as it may; the system test starts it anew too
        time.sleep(0.05)


def copy_under_kills(broker: BrokerProcess, copiers: list[Copier], seed: int) -> None:
    chance, deadline = random.Random(seed), time.monotonic() + SECONDS_MAX
    for number in range(KILLS):
        victim = chance.choice(copiers)
        for copier in copiers:
            wait_until_under_way(copier, deadline)
        if number % 3 == 1:
            broker.restart()
        elif not victim.is_done:
            victim.kill()
            victim.start()
    while not all(copier.is_done for copier in copiers):
        for copier in copiers:
            assert time.monotonic() < deadline, f"copier {copier.index} does not end:\n{copier.told()}"
            if copier.process is not None and copier.process.poll():
                copier.start()
        time.sleep(0.1)


@pytest.mark.parametrize("in_group", [False, True], ids=["assigned", "in a group"])
def test_everything_is_copied_exactly_once(own_broker: BrokerProcess, tmp_path: Path, *, in_group: bool) -> None:
    """D1-D4, T2, O1, O2: copiers that abort at random, die and come back, and a broker that is killed."""
    create_topic(own_broker.bootstrap, "input", PARTITIONS)
    create_topic(own_broker.bootstrap, "output", 3)
    fill(own_broker.bootstrap)
    copiers = [Copier(own_broker, index, tmp_path, in_group=in_group) for index in range(PARTITIONS)]
    try:
        for copier in copiers:
            copier.start()
        copy_under_kills(own_broker, copiers, seed=MESSAGES + in_group)
    finally:
        for copier in copiers:
            copier.kill()
    copied = Counter(values_of(read_all(own_broker.bootstrap, "output")))
    assert len(copied) == MESSAGES
    assert {value: count for value, count in copied.items() if count != 1} == {}
    lives = [copier.starts for copier in copiers]
    tell(f"copier: {MESSAGES} messages copied exactly once; lives: copiers {lives}, broker {own_broker.starts}")
