"""One scenario for every transactional client: lost connections and restarts, which its own retries must bear (D4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing

from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition, committed, read_all
from tests.support.proxy import Proxy
from tests.support.transactors import Transactor

PARTITIONS = 3
TRANSACTIONS = 48
CONCURRENT_TRANSACTIONS, NOT_LEADER_OR_FOLLOWER = 51, 6
APIS = ("produce", "add_partitions_to_txn", "add_offsets_to_txn", "txn_offset_commit", "end_txn")


def disturbances(proxy: Proxy, seed: int, apis: Sequence[str]) -> list[Callable[[], object]]:
    """One for each transaction: every API cut before and after the broker has seen it, delays, and nothing."""
    each: list[Callable[[], object]] = [lambda: None, lambda: None, proxy.cut_all]
    for api in apis:
        each.append(lambda api=api: proxy.cut_at_next(api))
        each.append(lambda api=api: proxy.lose_reply_of_next(api))
    each.append(lambda: proxy.delay_next("end_txn", 0.2))
    each.append(lambda: proxy.delay_next("produce", 0.2))
    chosen = [each[number % len(each)] for number in range(TRANSACTIONS)]
    random.Random(seed).shuffle(chosen)
    return chosen


class Expected:
    """Runs numbered transactions, and remembers what must be read in the end."""

    def __init__(self, transactor: Transactor, topic: str, group: str) -> None:
        self.transactor = transactor
        self.topic, self.group = topic, group
        self.records: dict[int, list[bytes]] = {index: [] for index in range(PARTITIONS)}
        self.offset = -1001

    def run(self, number: int, in_the_middle: Callable[[], object] = lambda: None) -> None:
        """A transaction over all partitions with offsets; every fifth is aborted."""
        self.transactor.begin()
        self._send(number, "a")
        if number % 3 == 0:
            self.transactor.flush()
        in_the_middle()
        self._send(number, "b")
        self.transactor.flush()
        self.transactor.send_offset(self.group, self.topic, number)
        if number % 5 == 4:
            self.transactor.abort()
        else:
            self.transactor.commit()
            for index in range(PARTITIONS):
                self.records[index] += [b"%d%s/%d" % (number, part, index) for part in (b"a", b"b")]
            self.offset = number

    def _send(self, number: int, part: str) -> None:
        for index in range(PARTITIONS):
            self.transactor.send(self.topic, index, f"{number}{part}/{index}".encode())

    def check(self, bootstrap: str) -> None:
        assert by_partition(read_all(bootstrap, self.topic)) == self.records
        assert committed(bootstrap, self.group, self.topic, [0]) == {0: self.offset}


def lose_connections(transactor: Transactor, proxy: Proxy, expected: Expected, apis: Sequence[str] = APIS) -> None:
    """Cuts between and during transactions; each ends as it was told, and nothing is refused as late (D4)."""
    for number, disturb in enumerate(disturbances(proxy, 7, apis)):
        if number % 2:
            disturb()
            expected.run(number)
        else:
            expected.run(number, disturb)
        proxy.clear()
    transactor.close()
    assert [each for each in proxy.errors if each[1] in (CONCURRENT_TRANSACTIONS, NOT_LEADER_OR_FOLLOWER)] == []


def restart_the_broker(transactor: Transactor, broker: BrokerProcess, expected: Expected) -> None:
    """The broker is killed between and during transactions; each ends as it was told (D1, D2)."""
    with closing(transactor):
        for number in range(12):
            if number in (3, 8):
                broker.restart()
            expected.run(number, broker.restart if number in (5, 9) else lambda: None)
