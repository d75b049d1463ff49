"""`python -m bench.holds`: for how long one request of each API holds the loop at most, when it names as much as it may.

CPU time of the thread between two polls of the loop, in this process, with the real server, broker and storage (durability
"written") and without a network: what everybody else has to wait for. Decoding, deciding, the journal and the reply's encoding
are in it. The bounds are those of oncelog/model/limits.py.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from bench.steps import Loop, World, batch, frame
from oncelog.broker.serving import collect_rarely
from oncelog.engine.decision import Decision
from oncelog.engine.transactions import Session
from oncelog.model import limits
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.rows import Transaction, TransactionState

Tree = dict[str, Any]

TOPICS, WIDE, WIDE_PARTITIONS = 10_000, 4, 9_990
GROUPS, TRANSACTIONS = 20_000, 100_000
NAMES = [f"topic-{number:05}" for number in range(TOPICS)]
WIDE_NAMES = [f"wide-{number}" for number in range(WIDE)]


class Hold(NamedTuple):
    """CPU ms of the longest turn and of all turns, and how many there were."""

    name: str
    kilobytes: int
    longest_ms: float
    total_ms: float
    turns: int


class TimedLoop(Loop):
    """Turns one by one, as uvloop does: what is asked for in a turn comes in the next."""

    def turns(self) -> Iterator[float]:
        while self._due:
            due = list(self._due)
            self._due.clear()
            begun = time.thread_time_ns()
            for callback, arguments in due:
                callback(*arguments)
            yield (time.thread_time_ns() - begun) / 1e6


class Holds:
    """A world whose loop is timed, and what was found."""

    def __init__(self, folder: Path, wanted: list[str]) -> None:
        self.world = World(folder, TimedLoop())
        self.wanted, self.found = wanted, []

    def settle(self) -> None:
        self.world.loop.turn()

    def ask(self, data: bytes) -> tuple[list[float], bytes]:
        """CPU ms of each turn, and the reply."""
        world, connection = self.world, self.world.connection
        world.transport.out.clear()
        at = 0
        begun = time.thread_time_ns()
        while at < len(data):
            room = connection.get_buffer(-1)
            count = min(len(room), len(data) - at)
            room[:count] = data[at : at + count]
            del room
            at += count
            begun = time.thread_time_ns()
            connection.buffer_updated(count)
        turns = [(time.thread_time_ns() - begun) / 1e6, *world.loop.turns()]
        return turns, b"".join(world.transport.out)

    def measure(self, name: str, api: tuple[int, int], tree: Callable[[], Tree]) -> bytes:
        """The tree is gone when the request comes: the collector shall not find what is not the broker's."""
        data = frame(api, tree())
        self.settle()
        gc.collect()
        turns, reply = self.ask(data)
        self._note(Hold(name, len(data) // 1024, max(turns), sum(turns), len(turns)))
        return reply

    def after(self, name: str, action: Callable[[], object]) -> None:
        """The same for what happens without a request."""
        begun = time.thread_time_ns()
        action()
        turns = [(time.thread_time_ns() - begun) / 1e6, *self.world.loop.turns()]
        self._note(Hold(name, 0, max(turns), sum(turns), len(turns)))

    def _note(self, hold: Hold) -> None:
        if not self.wanted or any(word in hold.name for word in self.wanted):
            self.found.append(hold)
            print(
                f"{hold.longest_ms:9.1f} {hold.total_ms:9.1f} {hold.turns:7} {hold.kilobytes:8}  {hold.name}",
                flush=True,
            )


def new_topics(names: list[str], partitions: int = 1) -> Tree:
    return {"topics": [{"name": name, "num_partitions": partitions, "replication_factor": 1} for name in names]}


def everywhere() -> list[tuple[str, range]]:
    """All partitions that there are."""
    return [(name, range(1)) for name in NAMES] + [(name, range(WIDE_PARTITIONS)) for name in WIDE_NAMES]


def indexes_of(topic: str, indexes: str) -> list[Tree]:
    """All partitions, by the names that an API has for topics and lists of indexes."""
    return [{topic: name, indexes: list(of_topic)} for name, of_topic in everywhere()]


def parts_of(
    topic: str, parts: str, index: str, names: Mapping[str, object] | None = None, **more: object
) -> list[Tree]:
    """The same with more about each partition; ``names`` gives what stands for a topic's name."""
    return [
        {topic: names[name] if names else name, parts: [{**more, index: number} for number in of_topic]}
        for name, of_topic in everywhere()
    ]


def named(name: str, **more: object) -> list[Tree]:
    return [{**more, name: one} for one in NAMES]


def catalog(holds: Holds) -> None:
    measure, gone = holds.measure, [f"no-such-{number}" for number in range(200_000)]
    configs = [{"name": "retention.ms", "value": "1000000"}, {"name": "cleanup.policy", "value": "delete"}]
    changes = [{**config, "config_operation": 0} for config in configs]
    broker = [{"name": "log.retention.ms", "value": "1"}, {"name": "message.max.bytes", "value": "9999"}]
    topic = {"resource_type": 2}
    described = {"include_synonyms": True, "include_documentation": True}
    measure("CreateTopics, 10,000", (19, 7), lambda: new_topics(NAMES))
    measure("CreateTopics, 4 of 9,990 partitions", (19, 7), lambda: new_topics(WIDE_NAMES, WIDE_PARTITIONS))
    measure(
        "AlterConfigs, 10,000 topics", (33, 2), lambda: {"resources": named("resource_name", configs=configs, **topic)}
    )
    measure(
        "IncrementalAlterConfigs, 10,000 topics", (44, 1),
        lambda: {"resources": named("resource_name", configs=changes, **topic)},
    )  # fmt: skip
    measure(
        "AlterConfigs, the broker", (33, 2),
        lambda: {"resources": [{"resource_type": 4, "resource_name": "", "configs": broker}]},
    )  # fmt: skip
    measure(
        "DescribeConfigs, 10,000 topics", (32, 4),
        lambda: {"resources": named("resource_name", configuration_keys=None, **topic), **described},
    )  # fmt: skip
    measure("ListConfigResources", (74, 1), dict)
    measure("Metadata, all topics", (3, 12), lambda: {"topics": None})
    measure("Metadata, 10,000 topics by name", (3, 12), lambda: {"topics": named("name", topic_id=None)})
    measure("Metadata, the same in another version", (3, 10), lambda: {"topics": named("name", topic_id=None)})
    measure("DescribeLogDirs, all", (35, 4), lambda: {"topics": None})
    measure(
        "DescribeLogDirs, 50,000 partitions by name", (35, 4), lambda: {"topics": indexes_of("topic", "partitions")}
    )
    measure("DescribeTopicPartitions, all", (75, 0), lambda: {"response_partition_limit": 2_000})
    measure(
        "DescribeTopicPartitions, 200,000 unknown", (75, 0),
        lambda: {"topics": [{"name": name} for name in gone], "response_partition_limit": 1},
    )  # fmt: skip
    measure("ElectLeaders, 50,000", (43, 2), lambda: {"topic_partitions": indexes_of("topic", "partitions")})
    measure(
        "AlterPartitionReassignments, 50,000", (45, 0),
        lambda: {"topics": parts_of("name", "partitions", "partition_index", replicas=[1])},
    )  # fmt: skip


def records(holds: Holds) -> None:
    measure = holds.measure
    data = batch(Session(-1, -1), -1, b"x", is_transactional=False)  # type: ignore[arg-type]
    ids = {topic.name: topic.id for topic in holds.world.broker.state.topics.values()}
    fetch = {"max_wait": 0, "min_bytes": 1, "max_bytes": 2**25, "isolation_level": 1, "session_epoch": -1}

    def fetched(offset: int, **more: object) -> Tree:
        part = {"fetch_offset": offset, "partition_max_bytes": 2**20, "current_leader_epoch": -1}
        return {**fetch, "topics": parts_of("topic_id", "partitions", "partition", ids, **part), **more}

    measure(
        "ListOffsets, 50,000", (2, 7),
        lambda: {"replica_id": -1, "topics": parts_of("name", "partitions", "partition_index", timestamp=-1)},
    )  # fmt: skip
    measure(
        "OffsetForLeaderEpoch, 50,000", (23, 4),
        lambda: {"topics": parts_of("topic", "partitions", "partition", current_leader_epoch=0)},
    )  # fmt: skip
    measure(
        "Produce, 50,000", (0, 10),
        lambda: {
            "transactional_id": None, "acks": -1, "topic_data": parts_of("name", "partition_data", "index", records=data),
        },
    )  # fmt: skip
    measure("Fetch, 50,000, nothing to read", (1, 16), lambda: fetched(1))
    reply = measure("Fetch, 50,000, the first of a session", (1, 16), lambda: fetched(1, session_epoch=0))
    session_id = int.from_bytes(reply[15:19], "big")
    measure(
        "Fetch, 50,000, a session, nothing new",
        (1, 16),
        lambda: {**fetch, "session_id": session_id, "session_epoch": 1},
    )
    measure("Fetch, 50,000, waits", (1, 16), lambda: fetched(1, max_wait=500))
    holds.after("Fetch, 50,000, its time is over", holds.world.broker.fetching.close)
    measure("Fetch, 50,000, a batch of each", (1, 16), lambda: fetched(0))
    measure(
        "DeleteRecords, 50,000", (21, 2),
        lambda: {"topics": parts_of("name", "partitions", "partition_index", offset=1)},
    )  # fmt: skip
    measure("DescribeProducers, 50,000", (61, 0), lambda: {"topics": indexes_of("name", "partition_indexes")})


def offsets(holds: Holds) -> None:
    measure = holds.measure
    one = {"committed_offset": 1, "committed_metadata": ""}
    commit = {"group_id": "g", "generation_id_or_member_epoch": -1}
    few = [{"name": NAMES[0], "partitions": [{"partition_index": 0, **one}]}]
    groups = [f"group-{number}" for number in range(GROUPS - 10)]
    measure(
        "OffsetCommit, 50,000", (8, 8),
        lambda: {**commit, "topics": parts_of("name", "partitions", "partition_index", **one)},
    )  # fmt: skip
    measure(
        "OffsetFetch, 50,000", (9, 8),
        lambda: {"groups": [{"group_id": "g", "topics": indexes_of("name", "partition_indexes")}]},
    )  # fmt: skip
    measure("OffsetFetch, all", (9, 8), lambda: {"groups": [{"group_id": "g", "topics": None}]})
    measure(
        "OffsetDelete, 50,000", (47, 0),
        lambda: {"group_id": "g", "topics": parts_of("name", "partitions", "partition_index")},
    )  # fmt: skip
    measure("FindCoordinator, 200,000 keys", (10, 4), lambda: {"coordinator_keys": [f"k{n}" for n in range(200_000)]})
    for group in groups:
        holds.ask(frame((8, 8), {**commit, "group_id": group, "topics": few}))
    measure("ListGroups, 20,000", (16, 4), dict)
    measure("DescribeGroups, 10,000", (15, 5), lambda: {"groups": groups[:10_000]})
    measure(
        "OffsetFetch, 20,000 groups", (9, 8),
        lambda: {"groups": [{"group_id": group, "topics": None} for group in groups]},
    )  # fmt: skip
    measure("DeleteGroups, 20,000", (42, 2), lambda: {"groups_names": groups})


def transactions(holds: Holds) -> None:
    world, measure = holds.world, holds.measure
    count = limits.TRANSACTION_PARTITIONS_MAX - 1
    session = world.new_session("x")
    who = {"transactional_id": "x", "producer_id": session.producer_id, "producer_epoch": session.epoch}
    places = [(name, index) for name, of_topic in everywhere() for index in of_topic][:count]
    topics = [
        {"name": name, "partitions": [index for _, index in those]} for name, those in groupby(places, itemgetter(0))
    ]
    measure(
        f"AddPartitionsToTxn, {count:,}", (24, 0),
        lambda: {f"v3_and_below_{name}": value for name, value in {**who, "topics": topics}.items()},
    )  # fmt: skip
    holds.ask(frame((25, 0), {**who, "group_id": "g"}))
    one = {"committed_offset": 1, "committed_metadata": ""}
    measure(
        "TxnOffsetCommit, 50,000", (28, 3),
        lambda: {
            **who, "group_id": "g", "generation_id": -1, "member_id": "",
            "topics": parts_of("name", "partitions", "partition_index", **one),
        },
    )  # fmt: skip
    measure("DescribeTransactions, one of all those", (65, 0), lambda: {"transactional_ids": ["x"]})
    measure("EndTxn, all those partitions and offsets", (26, 1), lambda: {**who, "committed": True})
    marked = [{"name": name, "partition_indexes": [0]} for name in NAMES]
    measure("WriteTxnMarkers, 10,000", (27, 1), lambda: {"markers": [{"producer_id": 77_777, "topics": marked}]})
    many = [
        Transaction(f"id-{number}", ProducerId(100_000 + number), Epoch(0), 60_000, TransactionState.EMPTY)
        for number in range(TRANSACTIONS - 10)
    ]
    world.broker.lane.commit(Decision(tuple(many)), world.broker.now_ms())
    measure("ListTransactions, 100,000", (66, 1), lambda: {"duration_filter": -1})
    measure("DescribeTransactions, 100,000", (65, 0), lambda: {"transactional_ids": [row.id for row in many]})


def endings(holds: Holds) -> None:
    measure = holds.measure
    measure(
        "CreatePartitions, 10,000 (none fits)", (37, 2), lambda: {"topics": named("name", count=2, assignments=None)}
    )
    measure("DeleteTopics, 4 of 9,990 partitions", (20, 4), lambda: {"topic_names": WIDE_NAMES})
    measure("CreatePartitions, 10,000", (37, 2), lambda: {"topics": named("name", count=2, assignments=None)})
    measure("DeleteTopics, 10,000", (20, 4), lambda: {"topic_names": NAMES})
    measure(
        "Metadata, 10,000 topics made", (3, 12),
        lambda: {"topics": named("name", topic_id=None), "allow_auto_topic_creation": True},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.holds", description=__doc__)
    parser.add_argument("names", nargs="*", help="show only APIs with one of these words in their name")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        holds = Holds(Path(folder) / "data", options.names)
        collect_rarely()
        print("  longest       all   turns       KB  (CPU ms)")
        try:
            for part in (catalog, records, offsets, transactions, endings):
                part(holds)
        finally:
            holds.world.close()
    if options.json is not None:
        options.json.write_text(json.dumps([hold._asdict() for hold in holds.found], indent=1))


if __name__ == "__main__":
    sys.exit(main())
