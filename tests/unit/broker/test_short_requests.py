"""A short request does not make a huge reply, take long, or grow what the broker keeps (law 8)."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from crc32c import crc32c
from tests.support.batches import batch
from tests.unit.broker.test_apis_catalog import Desk, read
from tests.unit.engine.world import client_batch

from oncelog.broker import fetching
from oncelog.broker.apis import fetch, transactions
from oncelog.broker.call import Call
from oncelog.engine import state as state_module
from oncelog.engine.groups import classic, transactional
from oncelog.engine.transactions import Session
from oncelog.model.batch import check_batch
from oncelog.model.errors import DamagedRecords, ErrorCode, LostRecords, Refusal, StorageError
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.limits import ID_CHARACTERS_MAX
from oncelog.model.records import record_places
from oncelog.storage.contract import TimedBatch

FETCH, DELETE_TOPICS, DELETE_RECORDS, END_TXN, METADATA = 1, 20, 21, 26, 3
PRODUCE, LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH, DESCRIBE_GROUPS = 0, 2, 8, 9, 15
INIT_PRODUCER_ID, TXN_OFFSET_COMMIT, WRITE_TXN_MARKERS, DESCRIBE_LOG_DIRS = 22, 28, 27, 35
JOIN_GROUP, ADD_PARTITIONS = 11, 24
DESCRIBE_PRODUCERS, LIST_TRANSACTIONS, CONSUMER_GROUP_DESCRIBE = 61, 66, 69
NOW_MS, HOUR_MS = 1_000_000, 3_600_000


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    quiet: Any = SimpleNamespace(debug=lambda *_, **__: None, info=lambda *_, **__: None)
    quiet.warning = quiet.info
    desk.broker.log = quiet
    desk.create("t", partitions=2)
    return desk


def commit(desk: Desk, group: str) -> int:
    topics = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 1, "committed_metadata": ""}]}]
    reply = desk.ask(OFFSET_COMMIT, 8, group_id=group, generation_id_or_member_epoch=-1, topics=topics)
    return int(reply.topics[0].partitions[0].error_code)


class TestPatterns:
    """T11: ListTransactions 2 filters by a pattern; Kafka's are RE2's too."""

    def listed(self, desk: Desk, pattern: str) -> Any:
        return desk.ask(LIST_TRANSACTIONS, 2, duration_filter=-1, transactional_id_pattern=pattern)

    def test_a_pattern_that_backtracks_does_not_hold_the_broker(self, desk: Desk) -> None:
        desk.ask(INIT_PRODUCER_ID, 4, transactional_id="a" * 60 + "b", transaction_timeout=60_000)
        assert self.listed(desk, r"(a)\1").error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
        assert self.listed(desk, "(a+)+").transaction_states == ()
        assert len(self.listed(desk, "(a+)+b").transaction_states) == 1


class TestNamedTwice:
    """Whatever is named often is answered once, as Metadata does; ListOffsets refuses it, as Kafka does."""

    def test_groups(self, desk: Desk) -> None:
        commit(desk, "g")
        assert len(desk.ask(DESCRIBE_GROUPS, 5, groups=["g"] * 5).groups) == 1
        assert len(desk.ask(CONSUMER_GROUP_DESCRIBE, 0, group_ids=["g"] * 5).groups) == 1
        everything = {"group_id": "g", "topics": None, "member_epoch": -1}
        part = everything | {"topics": [{"name": "t", "partition_indexes": [0]}]}
        groups = desk.ask(OFFSET_FETCH, 8, groups=[{"group_id": "g", "topics": None}] * 5).groups
        assert len(groups) == 1
        assert len(desk.ask(OFFSET_FETCH, 9, groups=[everything, part, part]).groups) == 3

    def test_partitions(self, desk: Desk) -> None:
        named = [{"name": "t", "partition_indexes": [0, 0, 1]}, {"name": "t", "partition_indexes": [1]}]
        found = desk.ask(DESCRIBE_PRODUCERS, 0, topics=named).topics
        assert [[part.partition_index for part in topic.partitions] for topic in found] == [[0, 1]]
        named = [{"topic": "t", "partitions": [0, 0, 1]}, {"topic": "t", "partitions": [1]}]
        found = desk.ask(DESCRIBE_LOG_DIRS, 2, topics=named).results[0].topics
        assert [[part.partition_index for part in topic.partitions] for topic in found] == [[0, 1]]
        partitions = [{"partition_index": index, "timestamp": -1} for index in (0, 0, 1)]
        found = desk.ask(LIST_OFFSETS, 5, replica_id=-1, topics=[{"name": "t", "partitions": partitions}]).topics
        codes = [part.error_code for part in found[0].partitions]
        assert codes == [ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_REQUEST, 0]


def test_groups_of_nothing_but_offsets_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """GROUPS_MAX holds for clients without members too; a group that is there goes on."""
    monkeypatch.setattr(classic, "GROUPS_MAX", 2)
    assert [commit(desk, name) for name in "abab"] == [0, 0, 0, 0]
    assert commit(desk, "c") == ErrorCode.GROUP_MAX_SIZE_REACHED
    topics = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 1, "committed_metadata": ""}]}]
    for group, code in (("a", 0), ("c", ErrorCode.GROUP_MAX_SIZE_REACHED), ("x" * 2000, ErrorCode.INVALID_GROUP_ID)):
        session = desk.ask(INIT_PRODUCER_ID, 4, transactional_id="x", transaction_timeout=60_000)
        reply = desk.ask(
            TXN_OFFSET_COMMIT, 5, transactional_id="x", group_id=group, producer_id=session.producer_id,
            producer_epoch=session.producer_epoch, generation_id=-1, topics=topics,
        )  # fmt: skip
        assert reply.topics[0].partitions[0].error_code == code


def test_the_offsets_of_a_transaction_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: its end commits them all in one decision, of every group; what is too much is refused, the rest stays."""
    monkeypatch.setattr(transactional, "TRANSACTION_OFFSETS_MAX", 3)
    session = desk.ask(INIT_PRODUCER_ID, 4, transactional_id="x", transaction_timeout=60_000)
    parts = [{"partition_index": index, "committed_offset": 1, "committed_metadata": ""} for index in range(2)]
    codes = []
    for group in ("a", "b"):
        reply = desk.ask(
            TXN_OFFSET_COMMIT, 5, transactional_id="x", group_id=group, producer_id=session.producer_id,
            producer_epoch=session.producer_epoch, generation_id=-1, topics=[{"name": "t", "partitions": parts}],
        )  # fmt: skip
        codes += [part.error_code for part in reply.topics[0].partitions]
    assert codes == [0, 0, 0, ErrorCode.INVALID_COMMIT_OFFSET_SIZE]


def test_the_producers_of_a_partition_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """PRODUCERS_PER_PARTITION_MAX, P8: the one idle for longest goes first, one with an open transaction never."""
    monkeypatch.setattr(state_module, "PRODUCERS_PER_PARTITION_MAX", 3)
    log = desk.broker.state.log_of("t", 0)
    assert log is not None

    def produce(producer_id: int, sequence: int, transactional_id: str | None = None) -> int:
        session = Session(ProducerId(producer_id), Epoch(0))
        data = client_batch(session, sequence, transactional=transactional_id is not None)
        parts = [{"index": 0, "records": data}]
        topics = [{"topic_id": desk.broker.state.topics["t"].id, "partition_data": parts}]
        reply = desk.ask(PRODUCE, 13, transactional_id=transactional_id, acks=-1, timeout=1000, topic_data=topics)
        return int(reply.responses[0].partition_responses[0].error_code)

    open_one = desk.ask(INIT_PRODUCER_ID, 4, transactional_id="x", transaction_timeout=60_000).producer_id
    assert produce(open_one, 0, "x") == 0
    first, second, third = (
        desk.ask(INIT_PRODUCER_ID, 4, transactional_id=None, transaction_timeout=1).producer_id for _ in range(3)
    )
    assert [produce(first, 0), produce(second, 0), produce(first, 1)] == [0, 0, 0]
    assert produce(third, 0) == 0
    assert list(log.producers) == [open_one, first, third]
    assert produce(second, 1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "D6: it can't be taken for a new one"
    assert produce(first, 2) == 0
    for producer_id in range(1_000, 1_010):
        markers = [{"producer_id": producer_id, "topics": [{"name": "t", "partition_indexes": [0]}]}]
        desk.ask(WRITE_TXN_MARKERS, 1, markers=markers)
    assert list(log.producers) == [open_one, 1_008, 1_009]


def test_markers_of_one_request_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """T11: each is an entry of the journal, however often the partition is named."""
    monkeypatch.setattr(transactions, "RESOURCES_PER_REQUEST_MAX", 3)
    topics = [{"name": "t", "partition_indexes": [0, 1]}] * 2
    reply = desk.ask(WRITE_TXN_MARKERS, 1, markers=[{"producer_id": 7, "topics": topics}] * 2)
    codes = [part.error_code for marker in reply.markers for topic in marker.topics for part in topic.partitions]
    assert codes == [0] * 3 + [ErrorCode.POLICY_VIOLATION] * 5


def test_an_operators_abort_may_name_all_partitions_and_come_again(desk: Desk) -> None:
    """T11: the first marker ends the whole transaction (D1); the others, and a repeated request, ask for what has happened."""
    asked = {"transactional_id": "x", "transaction_timeout": 60_000}
    session = desk.ask(INIT_PRODUCER_ID, 4, **asked)
    who = {"producer_id": session.producer_id, "producer_epoch": session.producer_epoch}
    topics = [{"name": "t", "partitions": [0, 1]}]
    added = {
        f"v3_and_below_{name}": value for name, value in {"transactional_id": "x", "topics": topics, **who}.items()
    }
    desk.ask(ADD_PARTITIONS, 3, **added)

    def codes(*, commit: bool) -> list[int]:
        topics = [{"name": "t", "partition_indexes": [0, 1]}]
        (marker,) = desk.ask(
            WRITE_TXN_MARKERS, 1, markers=[{**who, "transaction_result": commit, "topics": topics}]
        ).markers
        return [part.error_code for part in marker.topics[0].partitions]

    assert codes(commit=True) == [ErrorCode.INVALID_TXN_STATE] * 2
    assert [codes(commit=False), codes(commit=False)] == [[0, 0], [0, 0]]
    assert codes(commit=True) == [ErrorCode.INVALID_PRODUCER_EPOCH] * 2
    assert [log.offset_next for log in desk.broker.state.logs.values()] == [1, 1]
    desk.ask(INIT_PRODUCER_ID, 4, **asked)
    assert codes(commit=False) == [ErrorCode.INVALID_PRODUCER_EPOCH] * 2


@pytest.mark.parametrize("named", [{"client": "c" * 30_000}, {"group_instance_id": "i" * 1_000}])
def test_whoever_has_a_long_name_can_join_with_the_id_it_is_given(desk: Desk, named: dict[str, Any]) -> None:
    """KIP-394: a member id is made of a name and a random part; what is made must be accepted, and kept within bounds."""
    client = named.pop("client", "test")
    asked = {
        "group_id": "g",
        "session_timeout": 9_000,
        "rebalance_timeout": 9_000,
        "protocol_type": "consumer",
        **named,
    }
    member_id = ""
    for _ in range(2):
        call = desk.send(
            JOIN_GROUP, 5, protocols=[{"name": "p", "metadata": b""}], member_id=member_id, client=client, **asked
        )
        desk.settle()
        member_id = read(call).member_id
    assert read(call).error_code == 0
    assert len(member_id) <= ID_CHARACTERS_MAX
    (member,) = desk.broker.state.groups.by_id["g"].members.values()
    assert len(member.client_id) <= ID_CHARACTERS_MAX


def test_a_partition_is_named_once_in_a_produce(desk: Desk) -> None:
    """P4: one batch for each partition, whichever way a second one comes."""
    parts = [{"index": index, "records": client_batch()} for index in (0, 1, 0)]
    topics = [{"name": "t", "partition_data": parts}] * 2
    reply = desk.ask(PRODUCE, 9, transactional_id=None, acks=-1, timeout=1000, topic_data=topics)
    codes = [part.error_code for topic in reply.responses for part in topic.partition_responses]
    assert codes == [0, 0] + [ErrorCode.INVALID_RECORD] * 4


class TestTwoClocks:
    """The broker's clock goes on evenly; after a night's sleep of the machine it is hours behind for days (broker/clock.py)."""

    def produce(self, desk: Desk, timestamp_ms: int) -> int:
        data = client_batch(timestamp_ms=timestamp_ms)
        topics = [{"name": "t", "partition_data": [{"index": 0, "records": data}]}]
        reply = desk.ask(PRODUCE, 9, transactional_id=None, acks=-1, timeout=1000, topic_data=topics)
        return int(reply.responses[0].partition_responses[0].error_code)

    def test_what_clients_date_by_the_machines_time_is_taken(self, desk: Desk) -> None:
        assert self.produce(desk, NOW_MS + 9 * HOUR_MS) == ErrorCode.INVALID_TIMESTAMP
        desk.broker.wall_ms = lambda: NOW_MS + 9 * HOUR_MS
        assert self.produce(desk, NOW_MS + 9 * HOUR_MS) == 0
        assert self.produce(desk, NOW_MS) == 0
        assert self.produce(desk, NOW_MS + 11 * HOUR_MS) == ErrorCode.INVALID_TIMESTAMP

    def test_a_clock_that_was_wrong_deletes_nothing(self) -> None:
        """Started while the machine's time was years ahead: today's records are not old when it has been set right."""
        desk = Desk(log_retention_ms=str(HOUR_MS))
        desk.create("t")
        desk.produce("t", 1)
        log = desk.broker.state.log_of("t", 0)
        assert log is not None
        storage: Any = desk.storage
        storage.first_batches = lambda _: [(1, NOW_MS - 1_000, 70)]
        desk.broker.now_ms = lambda: NOW_MS + 1_000 * HOUR_MS
        desk.broker.wall_ms = lambda: NOW_MS
        desk.broker.upkeep._sweep_log(log.id)
        assert log.offset_start == 0
        desk.broker.wall_ms = lambda: NOW_MS + 10 * HOUR_MS
        desk.broker.upkeep._sweep_log(log.id)
        assert log.offset_start == 1


def claiming(count: int, body: bytes = b"record!") -> bytes:
    """A batch with a sound CRC that says it has so many records."""
    tail = struct.pack(">hiqqqhii", 0, count - 1, NOW_MS, NOW_MS, -1, -1, -1, count) + body
    return struct.pack(">qii", 0, len(tail) + 9, 0) + b"\x02" + struct.pack(">I", crc32c(tail)) + tail


class TestRecords:
    """P4, R5: a CRC may be right over nonsense, which must not keep the one loop busy when it is looked into."""

    def test_more_records_than_bytes(self) -> None:
        assert check_batch(claiming(1), bytes_max=1000).record_count == 1
        with pytest.raises(Refusal) as no:
            check_batch(claiming(2**31 - 1), bytes_max=1000)
        assert no.value.code is ErrorCode.INVALID_RECORD

    @pytest.mark.parametrize(
        "body",
        [b"\xff" * 300_000, b"\x01" * 70, b"\x00" * 70, b"\x05" * 70],
        ids=["endless", "back", "empty", "negative"],
    )
    def test_numbers_without_end_and_lengths_that_lead_back(self, body: bytes) -> None:
        with pytest.raises(Refusal) as no:
            list(record_places(claiming(len(body) // 7, body)))
        assert no.value.code is ErrorCode.CORRUPT_MESSAGE


def test_other_requests_have_their_turn_while_offsets_are_looked_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: fifty thousand partitions, or a batch of a million records, are looked at in steps."""
    partitions = [{"partition_index": index, "timestamp": -1} for index in range(1_200)]
    call = desk.send(LIST_OFFSETS, 5, replica_id=-1, topics=[{"name": "t", "partitions": partitions}])
    turns = 0
    while desk.loop.soon:
        desk.loop.turn()
        turns += 1
    assert turns >= 2
    desk.settle()
    assert [part.error_code for part in read(call).topics[0].partitions] == [0, 0] + [3] * 1_198
    monkeypatch.setattr(fetch, "_RECORDS_A_STEP", 2)
    storage: Any = desk.storage
    storage.find_time = lambda *_, **__: TimedBatch(0, 7)
    storage.read = lambda *_, **__: [batch([b"x"] * 7, timestamp_ms=7)]
    log = desk.broker.state.log_of("t", 0)
    assert log is not None
    log.offset_start = log.high_watermark = 6
    wanted = [{"name": "t", "partitions": [{"partition_index": 0, "timestamp": 7}]}]
    call = desk.send(LIST_OFFSETS, 5, replica_id=-1, topics=wanted)
    assert call.body is None and desk.loop.soon
    desk.settle()
    assert read(call).topics[0].partitions[0].offset == 6


def test_a_request_of_many_partitions_adds_them_at_once(desk: Desk) -> None:
    """P7, TV2: the transaction's list is written once, not again for each batch, and a refused batch does no harm."""
    session = desk.ask(INIT_PRODUCER_ID, 4, transactional_id="x", transaction_timeout=60_000)
    desk.create("u", partitions=50)
    before = len(desk.storage.entries)
    data = client_batch(Session(session.producer_id, session.producer_epoch), 0, transactional=True)
    gap = client_batch(Session(session.producer_id, session.producer_epoch), 5, transactional=True)
    parts = [{"index": index, "records": gap if index in (0, 7) else data} for index in range(50)]
    topics = [{"name": "u", "partition_data": parts}]
    reply = desk.ask(PRODUCE, 12, transactional_id="x", acks=-1, timeout=1000, topic_data=topics)
    codes = [part.error_code for part in reply.responses[0].partition_responses]
    assert codes == [45] + [0] * 6 + [45] + [0] * 42
    rows = [entry.rows for entry in desk.storage.entries[before:]]
    assert len(rows) == 48 and sum(len(row) > 8 for row in rows) == 1
    assert sorted(desk.broker.state.transactions["x"].logs) == sorted(desk.broker.state.topics["u"].logs)
    ended = desk.ask(
        END_TXN, 5, transactional_id="x", producer_id=session.producer_id, producer_epoch=session.producer_epoch,
        committed=True,
    )  # fmt: skip
    assert ended.error_code == 0
    for index in range(50):
        log = desk.broker.state.log_of("u", index)
        assert log is not None and log.stable_offset == log.high_watermark == (1 if index in (0, 7) else 2)
        assert not log.aborted


class TestFetches:
    def fetch(self, desk: Desk, session_id: int, epoch: int, *partitions: int, wait_ms: int = 0) -> Call:
        named = [{"partition": index, "fetch_offset": 0, "partition_max_bytes": 1000} for index in partitions]
        return desk.send(
            FETCH, 12, max_wait=wait_ms, min_bytes=1, max_bytes=1000, isolation_level=1, session_id=session_id,
            session_epoch=epoch, topics=[{"topic": "t", "partitions": named}] if named else [],
        )  # fmt: skip

    def test_sessions_together_name_so_many_partitions(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """KIP-227: FETCH_PARTITIONS_MAX; the least recently used session goes, its client begins anew."""
        monkeypatch.setattr(fetching, "FETCH_PARTITIONS_MAX", 3)
        first, second = (read(self.fetch(desk, 0, 0, 0)).session_id for _ in range(2))
        assert read(self.fetch(desk, second, 1, 1)).error_code == 0
        assert read(self.fetch(desk, first, 1)).error_code == 0
        third = read(self.fetch(desk, 0, 0, 0)).session_id
        assert read(self.fetch(desk, second, 2)).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        assert read(self.fetch(desk, third, 1)).error_code == 0
        assert read(self.fetch(desk, first, 2, *range(5))).error_code == 0
        assert read(self.fetch(desk, first, 3)).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    def test_fetches_together_wait_for_so_many_partitions(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetching, "FETCH_PARTITIONS_MAX", 3)
        assert self.fetch(desk, 0, -1, 0, 1, wait_ms=100).body is None
        assert read(self.fetch(desk, 0, -1, 0, 1, wait_ms=100)).error_code == 0
        assert self.fetch(desk, 0, -1, 0, wait_ms=100).body is None
        desk.broker.fetching.close()
        assert desk.broker.fetching._waiting_partitions == 0

    def test_what_a_session_knows_is_not_looked_at_again(self, desk: Desk) -> None:
        """KIP-227: a consumer of ten thousand quiet partitions costs next to nothing; news of any kind is told."""
        session_id = read(self.fetch(desk, 0, 0, 0, 1)).session_id
        looked_at: list[int] = []
        read_partition = desk.broker.fetching._read_partition

        def counted(wanted: Any, *rest: Any) -> Any:
            looked_at.append(wanted.key[1])
            return read_partition(wanted, *rest)

        desk.broker.fetching._read_partition = counted  # type: ignore[method-assign]
        assert read(self.fetch(desk, session_id, 1)).responses == ()
        assert looked_at == []
        log = desk.broker.state.log_of("t", 1)
        assert log is not None
        log.offset_start = log.high_watermark = log.stable_offset = log.offset_next = 4
        told = read(self.fetch(desk, session_id, 2)).responses[0].partitions
        assert [(part.partition_index, part.error_code) for part in told] == [(1, ErrorCode.OFFSET_OUT_OF_RANGE)]
        assert looked_at == [1]
        desk.ask(DELETE_TOPICS, 5, topic_names=["t"], timeout=1000)
        told = read(self.fetch(desk, session_id, 3)).responses[0].partitions
        assert [part.error_code for part in told] == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 2


def test_damage_is_over_when_it_is_deleted(desk: Desk) -> None:
    """Nobody has to start the broker again; what is met later is told again."""
    lines: list[tuple[int, int]] = []
    desk.broker.log.error = lambda _, **more: lines.append((more["offset"], more["offset_end"]))  # type: ignore[method-assign]
    desk.produce("t", 3)
    broker, log_id = desk.broker, desk.broker.state.topics["t"].logs[0]
    for _ in range(2):
        broker.tell_damage(log_id, DamagedRecords("it is damaged", 0, 2))
    assert (broker.is_damaged(log_id), broker.damaged_count, lines) == (True, 1, [(0, 2)])
    named = [{"name": "t", "partitions": [{"partition_index": 0, "offset": 2}]}]
    (topic,) = desk.ask(DELETE_RECORDS, 2, topics=named, timeout=1_000).topics
    assert topic.partitions[0].error_code == ErrorCode.NONE
    assert (broker.is_damaged(log_id), broker.damaged_count) == (False, 0)
    broker.tell_damage(log_id, DamagedRecords("it is damaged", 2, 3))
    assert (broker.is_damaged(log_id), lines) == (True, [(0, 2), (2, 3)])


def test_what_the_journal_has_lost_is_named(desk: Desk) -> None:
    lines: list[dict[str, Any]] = []
    desk.broker.log.error = lambda _, **more: lines.append(more)  # type: ignore[method-assign]
    log_id = desk.broker.state.topics["t"].logs[1]
    desk.broker.lane.failed(LostRecords("it can't be read", log_id, 4711))
    assert lines == [{"why": "it can't be read", "topic": "t", "partition": 1, "offset": 4711}]


def test_a_storage_that_fails_for_who_was_in_the_way_stops_the_broker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 7: another request of the same peer answers a fetch that waits, and that reads."""

    def failing(*_: Any) -> None:
        raise StorageError("the disk has failed")

    monkeypatch.setattr(desk.broker.fetching, "make_way", failing)
    desk.broker.log.error = lambda *_, **__: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="closed: the storage has failed"):
        desk.send(METADATA, 12, topics=None)
    assert str(desk.broker.lane.failure) == "the disk has failed"


def test_damaged_records_are_told_to_their_readers_only(desk: Desk) -> None:
    """No reader gets what the disk has changed; the partition says so, all others go on, the log says it once (D2)."""
    lines: list[dict[str, Any]] = []
    desk.broker.log.error = lambda event, **more: lines.append({"event": event, **more})  # type: ignore[method-assign]
    desk.create("u")
    for topic in ("t", "u"):
        desk.produce(topic, 3)
    damaged = desk.broker.state.topics["t"].logs[0]

    def read_damaged(log: Any, offset: int, *, bytes_max: int, **_: Any) -> list[bytes]:
        if log == damaged and (bytes_max > 1 or offset > 0):
            raise DamagedRecords("the disk has changed them", 1, 2)
        return [client_batch(count=3)]

    desk.storage.read = read_damaged  # type: ignore[attr-defined]
    for _ in range(2):
        parts = [{"partition": 0, "fetch_offset": 1, "partition_max_bytes": 10_000}]
        topics = [{"topic": topic, "partitions": parts} for topic in ("t", "u")]
        reply = desk.ask(FETCH, 12, max_wait=0, min_bytes=1, max_bytes=10_000, session_epoch=-1, topics=topics)
        told = {topic.topic: topic.partitions[0] for topic in reply.responses}
        assert (told["t"].error_code, told["t"].records) == (ErrorCode.CORRUPT_MESSAGE, b"")
        assert (told["u"].error_code, bool(told["u"].records)) == (ErrorCode.NONE, True)
    parts = [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 10_000}]
    asked = {"max_wait": 0, "min_bytes": 1, "max_bytes": 10_000, "session_epoch": -1}
    (topic,) = desk.ask(FETCH, 12, topics=[{"topic": "t", "partitions": parts}], **asked).responses
    assert topic.partitions[0].records == client_batch(count=3), "what is sound before it is read"
    desk.storage.find_time = lambda *_, **__: TimedBatch(1, 5_000)  # type: ignore[attr-defined]
    named = [{"name": "t", "partitions": [{"partition_index": 0, "timestamp": 5, "current_leader_epoch": -1}]}]
    (topic,) = desk.ask(LIST_OFFSETS, 4, isolation_level=0, topics=named).topics
    assert topic.partitions[0].error_code == ErrorCode.CORRUPT_MESSAGE
    assert [(line["event"], line["topic"], line["partition"], line["why"]) for line in lines] == [
        ("damaged records", "t", 0, "the disk has changed them")
    ]
