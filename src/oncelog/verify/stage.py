"""Where the known traces are played: a cluster with a proxy in front of it, names of a trace's own, and how a trace ends.

What a trace may use lives here; the traces are in known.py (TV1) and known_tv2.py.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from confluent_kafka import KafkaException, Producer

from oncelog.faults import Proxy, Trap
from oncelog.faults.frames import error_codes
from oncelog.verify.clients import Cluster, Partition, error_of, patiently, settings
from oncelog.verify.history import COMMITTED, UNCOMMITTED
from oncelog.verify.raw import in_states

CALL_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 10.0
#: From the last marker to the coordinator's knowledge of it, where that can't be asked.
MARKER_SECONDS: Final = 0.2

Judgement = Literal["holds", "violated", "not applicable"]
#: Of the client: before KIP-890 part 2 one epoch serves many transactions (TV1), with it each has its own (TV2).
Protocol = Literal["TV1", "TV2"]


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A trace, and what came of it with a client of this protocol."""

    name: str
    protocol: Protocol
    source: str
    verdict: Judgement
    detail: str


class NotApplicable(Exception):
    """The trace can't be played here; the text says why."""


class Stage:
    """Where a trace is played: a cluster, a proxy in front of it, names of its own."""

    def __init__(
        self, bootstrap: str, client: Mapping[str, str], cluster: Cluster, proxy: Proxy, *, replication: int = -1
    ) -> None:
        self.bootstrap, self.client, self.cluster, self.proxy = bootstrap, client, cluster, proxy
        self._replication = replication
        self.name = f"oncelog-known-{secrets.token_hex(4)}"
        self._topics: list[str] = []

    @property
    def address(self) -> tuple[str, int]:
        """The first broker, for raw requests."""
        if self.client:
            raise NotApplicable("raw requests know no login")
        host, _, port = self.bootstrap.split(",")[0].rpartition(":")
        return host, int(port)

    def topic(self, partitions: int = 1) -> str:
        """A new topic, deleted at the end."""
        name = f"{self.name}-{len(self._topics)}"
        self.cluster.create_topics({name: partitions}, self._replication)
        self._topics.append(name)
        return name

    def producer(self) -> Producer:
        """A transactional producer behind the proxy."""
        made = Producer(settings(self.proxy.bootstrap, self.client, transactional_id=self.name, linger_ms=1))
        made.init_transactions(CALL_SECONDS)
        return made

    def settle(self, topic: str, partitions: Sequence[int] = (0,)) -> None:
        """Wait until all that was ended is visible; not for ever."""
        where = [(topic, index) for index in partitions]
        until = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until and self._ends(where, COMMITTED) != self._ends(where, UNCOMMITTED):
            time.sleep(0.05)
        if self.client:
            time.sleep(MARKER_SECONDS)
            return
        # The last marker is written before the coordinator knows of it; what is late shall not meet "try again" by luck.
        while time.monotonic() < until and in_states(self.address, self.name, "PrepareCommit", "PrepareAbort"):
            time.sleep(0.05)

    def values(self, topic: str, partitions: Sequence[int] = (0,)) -> list[str]:
        """What can be read as committed, when all that was ended has settled."""
        self.settle(topic, partitions)
        read = patiently(lambda: self.cluster.read_all([(topic, index) for index in partitions], COMMITTED))
        return sorted(value for records, _ in read.values() for _, value in records)

    def is_stuck(self, topic: str) -> bool:
        """Whether partition 0 has an open transaction still."""
        where = [(topic, 0)]
        return self._ends(where, COMMITTED) != self._ends(where, UNCOMMITTED)

    def offset(self, group: str, topic: str) -> int:
        """The committed offset of partition 0, when no transaction holds another back."""
        return patiently(lambda: self.cluster.offsets(group, topic, 1, stable=True))[0]

    def _ends(self, where: Sequence[Partition], isolation: str) -> dict[Partition, int]:
        return patiently(lambda: self.cluster.ends(where, isolation))

    def close(self) -> None:
        """The topics go."""
        if self._topics:
            self.cluster.delete_topics(self._topics)


def send(producer: Producer, topic: str, *values: str, partition: int = 0) -> None:
    """Records that are acknowledged when this returns."""
    for value in values:
        producer.produce(topic, value.encode(), partition=partition)
    if producer.flush(CALL_SECONDS):
        raise NotApplicable("the client did not get a record through")


def while_held(held: Trap, call: Callable[[], None]) -> None:
    """Run ``call``, whose request is held; cut its connection; its client repeats the request by a new one and goes on."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except (KafkaException, NotApplicable) as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    held.wait()
    held.cut()
    thread.join(2 * CALL_SECONDS)
    if thread.is_alive() or failures:
        raise NotApplicable(f"the client did not get over the cut connection: {failures or 'no answer'}")


def arrive(held: Trap) -> str:
    """The held request arrives; how the broker answered it."""
    held.release()
    reply = held.reply()
    if reply is None:
        return "its connection was closed"
    codes = [code for code in error_codes(reply) if code]
    return f"refused with {codes[0]}" if codes else "accepted"


def ended(call: Callable[[], None]) -> str:
    """How the client's call ended, in words."""
    until = time.monotonic() + CALL_SECONDS
    while True:
        try:
            call()
        except KafkaException as failure:
            if not error_of(failure).retriable() or time.monotonic() > until:
                return f"failed ({error_of(failure).name()})"
        else:
            return "succeeded"


def said(code: int) -> str:
    """How a broker answered."""
    return f"refused with {code}" if code else "accepted"


def must(step: str, code: int) -> None:
    """A step that the trace is not about has to succeed."""
    if code:
        raise NotApplicable(f"{step} was refused with {code}")
