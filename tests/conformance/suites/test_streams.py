"""Kafka Streams with exactly_once_v2: a word count that is killed while it counts, and whose result is exact."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, producer, read_all
from tests.support.suites import IS_LONG, classes, java, killed, tell

pytestmark = [pytest.mark.client("kafka-streams"), pytest.mark.needs("java")]

WORDS = ["once", "twice", "thrice", "ledger", "epoch", "fence", "marker", "abort", "commit", "zombie"]
LINES = 40_000 if IS_LONG else 3_000
LIVES = 6 if IS_LONG else 2
SECONDS_MAX = 600 if IS_LONG else 300


class Application:
    """One instance over all its lives, always with the same state folder."""

    def __init__(self, broker: BrokerProcess, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = java(classes(), "WordCount", self.broker.bootstrap, str(self.folder / "state"))
        with (self.folder / "app.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        assert self.process is not None
        killed(self.process)
        self.process.wait(20)

    def told(self) -> str:
        return (self.folder / "app.txt").read_text(encoding="utf-8", errors="replace")[-3000:]


def say(bootstrap: str, count: int, chance: random.Random) -> Counter[str]:
    """Some lines of words; how often each word was said."""
    said: Counter[str] = Counter()
    writer = producer(bootstrap)
    for _ in range(count):
        words = chance.choices(WORDS, k=3)
        writer.produce("lines", " ".join(words).encode())
        said.update(words)
        writer.poll(0)
    assert writer.flush(30) == 0
    return said


def counted(bootstrap: str) -> dict[str, list[int]]:
    """Every count of each word, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for message in read_all(bootstrap, "counts"):
        found[message.key().decode()].append(int(message.value()))
    return found


def wait_until_counted(application: Application, count: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while sum(map(len, counted(application.broker.bootstrap).values())) < count:
        assert time.monotonic() < deadline, f"the application does not get on:\n{application.told()}"
        time.sleep(0.2)


def test_every_word_is_counted_exactly_once(own_broker: BrokerProcess, tmp_path: Path) -> None:
    """The counts of each word are 1, 2, 3, … without a gap or a repetition, however often the application dies.

    Half-way the broker dies too. KIP-447, R1, O1, D1; the state is read back from its changelog.
    """
    chance = random.Random(len(WORDS) * LINES)
    for topic in ("lines", "counts"):
        create_topic(own_broker.bootstrap, topic, 3)
    application, said = Application(own_broker, tmp_path), Counter[str]()
    application.start()
    try:
        for life in range(LIVES):
            before = said.total()
            said += say(own_broker.bootstrap, LINES // LIVES, chance)
            wait_until_counted(application, before + (said.total() - before) // 3)
            application.kill()
            if life == LIVES // 2:
                own_broker.restart()
            application.start()
        wait_until_counted(application, said.total())
    finally:
        application.kill()
    found = counted(own_broker.bootstrap)
    assert {word: len(counts) for word, counts in found.items()} == dict(said)
    assert all(counts == list(range(1, len(counts) + 1)) for counts in found.values())
    tell(f"streams: {said.total()} words counted exactly once in {LIVES + 1} lives")
