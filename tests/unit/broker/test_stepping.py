"""Long requests go in steps: everybody else has a turn between two of them, and what they answer stays true (law 8; D1)."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from tests.unit.broker.test_apis_catalog import Desk, QuietPeer, read
from tests.unit.broker.test_lane import HandLoop
from tests.unit.engine.world import client_batch

from oncelog.broker import fetching, stepping
from oncelog.broker.apis import offsets, parts, produce
from oncelog.broker.call import Call
from oncelog.broker.stepping import Stepping
from oncelog.engine import catalog
from oncelog.engine.groups import commits
from oncelog.engine.transactions import Session
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import Epoch, ProducerId

COUNT = 3_000
NAMES = [f"topic-{number}" for number in range(COUNT)]
FETCH, OFFSET_COMMIT, OFFSET_FETCH, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID, END_TXN = 1, 8, 9, 19, 20, 22, 26


class Job:
    """A request of so many steps, and which of them were done."""

    def __init__(self, done: list[str], name: str, count: int, bytes_received: int = 0) -> None:
        self.done, self.name, self.count = done, name, count
        self.peer = QuietPeer()
        self.call = Call(self.peer, 0, 0, 1, None, None, 0, bytes_received)

    def steps(self) -> Iterator[None]:
        for number in range(self.count):
            if number:
                yield
            self.done.append(f"{self.name}{number}")


class TestStepping:
    def begin(self, loop: HandLoop, *jobs: Job) -> Stepping:
        queue = Stepping(loop)
        for job in jobs:
            queue.begin(job.call, job.steps())
        return queue

    def test_a_short_one_is_done_at_once(self) -> None:
        loop, done = HandLoop(), []
        self.begin(loop, Job(done, "a", 1))
        assert done == ["a0"] and not loop.soon

    def test_one_step_a_turn_the_oldest_first(self) -> None:
        loop, done = HandLoop(), []
        first, second = Job(done, "a", 3), Job(done, "b", 2)
        self.begin(loop, first, second)
        assert done == ["a0", "b0"], "each has its first step when it comes"
        assert first.call.is_in_steps and second.call.is_in_steps
        turns = []
        while loop.soon:
            before = len(done)
            loop.turn()
            turns.append(done[before:])
        assert turns == [["a1"], ["a2"], ["b1"]]
        assert not first.call.is_in_steps and not second.call.is_in_steps

    def test_above_the_bound_it_is_done_in_one_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Law 8: what waits holds memory."""
        monkeypatch.setattr(stepping, "STEPPED_REQUESTS_MAX", 1)
        loop, done = HandLoop(), []
        self.begin(loop, Job(done, "a", 2), Job(done, "b", 3))
        assert done == ["a0", "b0", "b1", "b2"]
        monkeypatch.setattr(stepping, "STEPPED_REQUESTS_MAX", 100)
        monkeypatch.setattr(stepping, "STEPPED_BYTES_MAX", 100)
        loop, done = HandLoop(), []
        queue = self.begin(loop, Job(done, "a", 2, 160), Job(done, "b", 2, 60))
        assert done == ["a0", "b0", "b1"], "the first may be as large as it likes"
        while loop.soon:
            loop.turn()
        done.clear()
        late = Job(done, "c", 2, 60)
        queue.begin(late.call, late.steps())
        assert done == ["c0"], "there is room again"

    def test_nothing_goes_on_after_the_stop(self) -> None:
        loop, done = HandLoop(), []
        queue = self.begin(loop, Job(done, "a", 3))
        queue.stop()
        while loop.soon:
            loop.turn()
        assert done == ["a0"]


@pytest.fixture(scope="module")
def desk() -> Desk:
    """Three thousand topics, and one of as many partitions."""
    desk = Desk()
    desk.broker.new_id = uuid4
    quiet: Any = SimpleNamespace(debug=lambda *_, **__: None, info=lambda *_, **__: None)
    desk.broker.log = quiet
    storage: Any = desk.storage
    storage.read = lambda *_, **__: []
    desk.create(*NAMES)
    desk.create("wide", partitions=COUNT)
    return desk


def turns_of(desk: Desk, call: Call) -> int:
    """Turns of the loop that the request took; then it is answered."""
    turns = 0
    while desk.loop.soon:
        desk.loop.turn()
        turns += 1
    desk.settle()
    assert call.body is not None
    return turns


def each(name: str, **more: Any) -> list[dict[str, Any]]:
    return [{name: index, **more} for index in range(COUNT)]


def wide(topic: str, indexes: str, parts: list[Any] | None = None) -> list[dict[str, Any]]:
    """The wide topic with all its partitions, under the names that an API has for them."""
    return [{topic: "wide", indexes: list(range(COUNT)) if parts is None else parts}]


def named(**more: Any) -> list[dict[str, Any]]:
    return [{"name": name, **more} for name in NAMES]


def resources(**more: Any) -> list[dict[str, Any]]:
    return [{"resource_type": 2, "resource_name": name, **more} for name in NAMES]


COMMITTED = wide("name", "partitions", each("partition_index", committed_offset=1, committed_metadata=""))
FETCHED = wide("topic", "partitions", each("partition", partition_max_bytes=100))
RETENTION = [{"name": "retention.ms", "value": "9"}]
#: More than one step of each: API, version, request.
LONG: dict[str, tuple[int, int, dict[str, Any]]] = {
    "Fetch": (1, 12, {"max_wait": 0, "min_bytes": 1, "max_bytes": 1000, "session_epoch": -1, "topics": FETCHED}),
    "ListOffsets": (2, 5, {"topics": wide("name", "partitions", each("partition_index", timestamp=-1))}),
    "Metadata, all": (3, 12, {"topics": None}),
    "Metadata, named": (3, 9, {"topics": named()}),
    "Metadata, made": (
        3,
        9,
        {"topics": [{"name": f"new-{name}"} for name in NAMES], "allow_auto_topic_creation": True},
    ),
    "OffsetCommit": (8, 8, {"group_id": "g", "generation_id_or_member_epoch": -1, "topics": COMMITTED}),
    "OffsetFetch": (9, 8, {"groups": [{"group_id": "g", "topics": wide("name", "partition_indexes")}]}),
    "OffsetFetch, all": (9, 8, {"groups": [{"group_id": "g", "topics": None}]}),
    "FindCoordinator": (10, 4, {"coordinator_keys": NAMES}),
    "DescribeGroups": (15, 5, {"groups": NAMES}),
    "DeleteRecords": (21, 2, {"topics": wide("name", "partitions", each("partition_index", offset=0))}),
    "OffsetForLeaderEpoch": (23, 4, {"topics": wide("topic", "partitions", each("partition"))}),
    "WriteTxnMarkers": (27, 1, {"markers": [{"producer_id": 9, "topics": wide("name", "partition_indexes")}]}),
    "DescribeConfigs": (32, 4, {"resources": resources(configuration_keys=None)[:300]}),
    "AlterConfigs": (33, 2, {"resources": resources(configs=RETENTION)}),
    "IncrementalAlterConfigs": (44, 1, {"resources": resources(configs=RETENTION)}),
    "DescribeLogDirs": (35, 4, {"topics": None}),
    "CreatePartitions": (37, 2, {"topics": named(count=2, assignments=None)}),
    "ElectLeaders": (43, 2, {"topic_partitions": wide("topic", "partitions")}),
    "AlterPartitionReassignments": (
        45,
        0,
        {"topics": wide("name", "partitions", each("partition_index", replicas=[1]))},
    ),
    "OffsetDelete": (47, 0, {"group_id": "g", "topics": wide("name", "partitions", each("partition_index"))}),
    "DescribeProducers": (61, 0, {"topics": wide("name", "partition_indexes")}),
    "DescribeTransactions": (65, 0, {"transactional_ids": NAMES}),
    "ListConfigResources": (74, 1, {}),
    "DescribeTopicPartitions": (75, 0, {"response_partition_limit": 2_000}),
    "CreateTopics": (
        19,
        7,
        {"topics": [{"name": f"x{name}", "num_partitions": 1, "replication_factor": 1} for name in NAMES]},
    ),
    "DeleteTopics": (20, 5, {"topic_names": [f"x{name}" for name in NAMES]}),
}
#: What must have been asked for before there is enough to do.
FIRST = {"OffsetFetch, all": "OffsetCommit", "OffsetDelete": "OffsetCommit", "DeleteTopics": "CreateTopics"}


@pytest.mark.parametrize("name", LONG)
def test_others_have_their_turn(desk: Desk, name: str) -> None:
    """Law 8: a request that names thousands of things takes a turn for each thousand of them at least."""
    if name in FIRST:
        api_key, version, tree = LONG[FIRST[name]]
        desk.send(api_key, version, **tree)
    api_key, version, tree = LONG[name]
    desk.settle()
    assert turns_of(desk, desk.send(api_key, version, **tree)) >= 3


class TestFetch:
    """A fetch of more partitions than one step reads."""

    @pytest.fixture
    def desk(self, monkeypatch: pytest.MonkeyPatch) -> Desk:
        monkeypatch.setattr(fetching, "_PARTITIONS_A_STEP", 2)
        desk = Desk()
        desk.create("t", partitions=6)
        storage: Any = desk.storage
        storage.read = lambda log, offset, *, offset_end, bytes_max: [client_batch(count=offset_end - offset)]
        return desk

    def fetch(self, desk: Desk, wait_ms: int = 0, session_epoch: int = -1) -> Call:
        parts = [{"partition": index, "fetch_offset": 0, "partition_max_bytes": 1_000} for index in range(6)]
        return desk.send(
            1, 12, max_wait=wait_ms, min_bytes=1, max_bytes=100_000, isolation_level=1, session_epoch=session_epoch,
            topics=[{"topic": "t", "partitions": parts}],
        )  # fmt: skip

    def begin(self, desk: Desk) -> Session:
        """A transaction with a batch on each partition."""
        asked = desk.ask(22, 4, transactional_id="x", transaction_timeout=60_000)
        session = Session(asked.producer_id, asked.producer_epoch)
        data = client_batch(session, 0, transactional=True)
        topics = [{"name": "t", "partition_data": [{"index": index, "records": data} for index in range(6)]}]
        reply = desk.ask(0, 12, transactional_id="x", acks=-1, timeout=1000, topic_data=topics)
        assert {part.error_code for part in reply.responses[0].partition_responses} == {0}
        return session

    def commit(self, desk: Desk, session: Session) -> None:
        """It ends, is synced, and readers are told, without a turn of the loop."""
        producer_id, epoch = session
        desk.send(26, 5, transactional_id="x", producer_id=producer_id, producer_epoch=epoch, committed=True)
        desk.storage.position_synced = desk.storage.position_written = desk.storage.position_appended
        desk.broker.lane.synced(desk.storage.position_appended)

    def has_records(self, call: Call) -> list[bool]:
        return [bool(part.records) for part in read(call).responses[0].partitions]

    @pytest.mark.parametrize("turns", range(12))
    def test_it_shows_all_of_a_transaction_or_nothing(self, desk: Desk, turns: int) -> None:
        """D1: whenever the transaction ends while the fetch reads."""
        session = self.begin(desk)
        call = self.fetch(desk)
        assert call.is_in_steps
        for _ in range(turns):
            desk.loop.turn()
        self.commit(desk, session)
        desk.settle()
        assert self.has_records(call) in ([False] * 6, [True] * 6)

    @pytest.mark.parametrize("turns", range(12))
    def test_it_misses_nothing_that_comes_while_it_reads(self, desk: Desk, turns: int) -> None:
        """D3: one that waits is answered, whenever the transaction ends."""
        session = self.begin(desk)
        call = self.fetch(desk, wait_ms=100)
        for _ in range(turns):
            desk.loop.turn()
        self.commit(desk, session)
        desk.settle()
        assert self.has_records(call) == [True] * 6
        assert desk.broker.fetching.waiting_count == 0

    @pytest.mark.parametrize("turns", range(12))
    def test_its_time_is_over_while_it_reads(self, desk: Desk, turns: int) -> None:
        call = self.fetch(desk, wait_ms=100, session_epoch=0)
        for _ in range(turns):
            desk.loop.turn()
        waiting = [timer for timer in desk.loop.timers if timer.delay_seconds == 0.1]
        for timer in waiting:
            timer.callback()
        desk.settle()
        if waiting:
            assert self.has_records(call) == [False] * 6
            assert desk.broker.fetching.waiting_count == 0


class TestProduce:
    """A Produce of more partitions than one step writes."""

    @pytest.fixture
    def desk(self, monkeypatch: pytest.MonkeyPatch) -> Desk:
        monkeypatch.setattr(produce, "_PARTITIONS_A_STEP", 2)
        desk = Desk()
        silent: Any = SimpleNamespace(debug=lambda *_, **__: None, info=lambda *_, **__: None)
        desk.broker.log = silent
        desk.create("t", partitions=6)
        return desk

    def send(self, desk: Desk, session: Session | None = None, acks: int = -1) -> Call:
        data = client_batch(
            session or Session(ProducerId(-1), Epoch(-1)), 0 if session else -1, transactional=bool(session)
        )
        topics = [{"name": "t", "partition_data": [{"index": index, "records": data} for index in range(6)]}]
        transactional_id = "x" if session else None
        return desk.send(0, 12, transactional_id=transactional_id, acks=acks, timeout=1000, topic_data=topics)

    def written(self, desk: Desk) -> int:
        return sum(log.offset_next for log in desk.broker.state.logs.values())

    def test_others_have_their_turn(self, desk: Desk) -> None:
        call = self.send(desk)
        assert self.written(desk) == 1
        assert turns_of(desk, call) >= 3
        assert [part.error_code for part in read(call).responses[0].partition_responses] == [0] * 6
        assert self.written(desk) == 6

    def test_its_topic_is_deleted_meanwhile(self, desk: Desk) -> None:
        call = self.send(desk)
        desk.send(20, 5, topic_names=["t"], timeout=1)
        desk.settle()
        codes = [part.error_code for part in read(call).responses[0].partition_responses]
        assert codes == [0] + [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 5

    def test_without_acks_it_is_done_at_once(self, desk: Desk) -> None:
        """P9: no reply holds the connection, and what comes next by it must be written after this."""
        self.send(desk, acks=0)
        assert self.written(desk) == 6

    def test_a_client_that_has_gone_writes_no_more(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """D4: it may have begun another transaction, with the same epoch, by another connection."""
        asked = desk.ask(22, 4, transactional_id="x", transaction_timeout=60_000)
        self.send(desk, Session(asked.producer_id, asked.producer_epoch))
        assert self.written(desk) == 1
        monkeypatch.setattr(QuietPeer, "is_gone", lambda _: True)
        monkeypatch.setattr(QuietPeer, "close", lambda *_: None)
        desk.settle()
        assert self.written(desk) == 1


class TestParts:
    """Administrative requests are decided in parts; each thing has its own answer, as if it had been one."""

    @pytest.fixture
    def desk(self, monkeypatch: pytest.MonkeyPatch) -> Desk:
        monkeypatch.setattr(parts, "PART_WEIGHT_MAX", 2)
        return Desk()

    def new(self, *names: str) -> list[dict[str, Any]]:
        return [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in names]

    def test_topics(self, desk: Desk) -> None:
        call = desk.send(19, 7, topics=self.new("a", "b", "c", "no/name", "d", "a"), validate_only=False)
        assert list(desk.broker.state.topics) == ["b"], "the first part: a is named twice"
        desk.settle()
        codes = {topic.name: topic.error_code for topic in read(call).topics}
        assert codes == {"a": 42, "b": 0, "c": 0, "no/name": 17, "d": 0}
        assert list(desk.broker.state.topics) == ["b", "c", "d"]
        call = desk.send(20, 5, topic_names=["b", "c", "x", "d", "c"], timeout=1)
        desk.settle()
        assert [(topic.name, topic.error_code) for topic in read(call).responses] == [
            ("b", 0),
            ("c", ErrorCode.INVALID_REQUEST),
            ("x", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ("d", 0),
        ]
        assert list(desk.broker.state.topics) == ["c"]

    def test_a_check_of_many_topics_counts_them_together(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """validate_only: what the parts before would have made counts."""
        monkeypatch.setattr(catalog, "TOPICS_MAX", 3)
        call = desk.send(19, 7, topics=self.new("a", "b", "c.d", "c_d", "e"), validate_only=True)
        desk.settle()
        codes = [topic.error_code for topic in read(call).topics]
        assert codes == [0, 0, 0, ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.POLICY_VIOLATION]
        assert not desk.broker.state.topics

    def test_too_many_in_all(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalog, "RESOURCES_PER_REQUEST_MAX", 3)
        call = desk.send(19, 7, topics=self.new("a", "b", "c", "d"))
        desk.settle()
        assert {topic.error_code for topic in read(call).topics} == {ErrorCode.POLICY_VIOLATION}

    def test_offsets_of_a_group_that_changes_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each offset has its own answer: what was committed before the group was fenced stays."""
        monkeypatch.setattr(offsets, "_OFFSETS_A_STEP", 2)
        desk = Desk()
        desk.create("t", partitions=4)
        one = {"committed_offset": 7, "committed_metadata": ""}
        named = [{"name": "t", "partitions": [{"partition_index": index, **one} for index in range(4)]}]
        call = desk.send(8, 8, group_id="g", generation_id_or_member_epoch=-1, topics=named)
        monkeypatch.setattr(commits, "check_commit", refused)
        desk.settle()
        assert [part.error_code for part in read(call).topics[0].partitions] == [0, 0, 22, 22]
        assert len(desk.broker.state.offsets.committed["g"]) == 2


def refused(*_: Any, **__: Any) -> None:
    raise Refusal(ErrorCode.ILLEGAL_GENERATION, "as asked")
