"""The rules of producing and of transactions, request by request: what a client would never send can be sent here."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.support.batches import batch
from tests.support.fixtures import Broker
from tests.support.raw import RawClient
from tests.support.raw_producer import (
    READ_UNCOMMITTED,
    RawProducer,
    committed_offset,
    create_topic,
    fetch,
    fetched,
    list_offset,
    produce_bytes,
    transaction_state,
    values,
)

Unique = Callable[[str], str]

NONE, CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION, MESSAGE_TOO_LARGE = 0, 2, 3, 10
ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, INVALID_REQUEST, OUT_OF_ORDER_SEQUENCE_NUMBER = 22, 25, 42, 45
INVALID_PRODUCER_EPOCH, INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING, INVALID_TRANSACTION_TIMEOUT = 47, 48, 49, 50
TRANSACTIONAL_ID_AUTHORIZATION_FAILED, OPERATION_NOT_ATTEMPTED, INVALID_RECORD, UNSTABLE_OFFSET_COMMIT = 53, 55, 87, 88
PRODUCER_FENCED, TRANSACTION_ABORTABLE = 90, 120


@pytest.fixture
def topic(raw: RawClient, unique: Unique) -> str:
    return create_topic(raw, unique("topic"), 2)


@pytest.fixture
def writer(raw: RawClient, unique: Unique) -> RawProducer:
    return RawProducer(raw, unique("id")).init()


def end_offset(raw: RawClient, topic: str, partition: int = 0) -> int:
    return list_offset(raw, topic, partition, -1, isolation=READ_UNCOMMITTED)[0]


def test_duplicates_are_answered_and_not_written(raw: RawClient, topic: str) -> None:
    """P1: one of the last five batches again: its original offset; older ones and partial overlaps: 45."""
    writer = RawProducer(raw, None).init()
    for number in range(7):
        assert writer.produce(topic, 0, b"a", b"b").base_offset == 2 * number
    for number in range(2, 7):
        again = writer.produce(topic, 0, b"a", b"b", sequence=2 * number)
        assert (again.error_code, again.base_offset) == (NONE, 2 * number)
    assert writer.produce(topic, 0, b"a", b"b", sequence=2).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert writer.produce(topic, 0, b"a", sequence=12).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert writer.produce(topic, 0, b"a", b"b", sequence=13).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert end_offset(raw, topic) == 14


def test_sequences(raw: RawClient, topic: str, writer: RawProducer) -> None:
    """P2, P3, D6: gaps are refused, the first is 0, a new epoch begins at 0 again, an old epoch is refused."""
    plain = RawProducer(raw, None).init()
    assert plain.produce(topic, 0, b"x", sequence=3).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert plain.produce(topic, 0, b"x").error_code == NONE
    assert plain.produce(topic, 0, b"x", sequence=2).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    plain.epoch += 1
    assert plain.produce(topic, 0, b"x", sequence=1).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert plain.produce(topic, 0, b"x", sequence=0).error_code == NONE
    plain.epoch -= 1
    assert plain.produce(topic, 0, b"x", sequence=1).error_code == INVALID_PRODUCER_EPOCH
    writer.add(topic, 1)
    assert writer.produce(topic, 1, b"x").error_code == NONE
    old = writer.epoch
    writer.init()
    assert writer.epoch == old + 1
    writer.add(topic, 1)
    assert writer.produce(topic, 1, b"x", sequence=1).error_code == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert writer.produce(topic, 1, b"x", sequence=0).error_code == NONE
    writer.epoch = old
    assert writer.produce(topic, 1, b"x", sequence=1).error_code == INVALID_PRODUCER_EPOCH


def test_what_no_batch_may_be(raw: RawClient, topic: str) -> None:
    """P4: checked before anything is written."""

    def error_of(data: bytes) -> int:
        return int(produce_bytes(raw, topic, 0, data).error_code)

    good = batch([b"x", b"y"])
    assert error_of(good[:-1] + bytes([good[-1] ^ 1])) == CORRUPT_MESSAGE
    assert error_of(good[:17] + b"\0\0\0\0" + good[21:]) == CORRUPT_MESSAGE
    assert error_of(good + good) == INVALID_RECORD
    assert error_of(good[:40]) == CORRUPT_MESSAGE
    assert error_of(batch([b"x"], control=True)) == INVALID_RECORD
    assert error_of(batch([b"x"], producer_id=5, epoch=0, sequence=-1)) == INVALID_RECORD
    assert error_of(batch([bytes(1_100_000)])) == MESSAGE_TOO_LARGE
    assert end_offset(raw, topic) == 0
    assert error_of(good) == NONE


def test_transactional_batches_and_their_transaction(raw: RawClient, topic: str, writer: RawProducer) -> None:
    """P5, P6, P7: the partition must belong to the current transaction of the request's own producer."""
    session = {"producer_id": writer.producer_id, "epoch": writer.epoch}
    unnamed = produce_bytes(raw, topic, 0, batch([b"x"], **session, sequence=0, transactional=True))
    assert unnamed.error_code == TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert writer.produce(topic, 0, b"x", sequence=0).error_code == INVALID_TXN_STATE
    assert writer.produce(topic, 0, b"x", sequence=0, version=11).error_code == TRANSACTION_ABORTABLE
    assert writer.add(topic, 0) == [NONE]
    assert writer.produce(topic, 0, b"x").error_code == NONE
    assert produce_bytes(raw, topic, 0, batch([b"x"], **session, sequence=1)).error_code == INVALID_TXN_STATE
    assert writer.end(commit=True) == NONE
    assert writer.produce(topic, 0, b"x", sequence=1).error_code == INVALID_TXN_STATE
    assert values(fetch(raw, topic, 0)) == [b"x"]


def test_transactions_of_the_second_protocol(raw: RawClient, topic: str, writer: RawProducer, unique: Unique) -> None:
    """P7, O6, T6, R3: partitions and groups are added implicitly; every end brings a new epoch, which the marker has."""
    group = unique("group")
    for number, commit in enumerate((True, False, True)):
        epoch = writer.epoch
        for index in (0, 1):
            assert writer.produce(topic, index, b"%d" % number, version=12).error_code == NONE
        assert writer.commit_offset(group, topic, 0, number, version=5) == NONE
        assert writer.end(commit=commit, version=5) == NONE
        assert writer.epoch == epoch + 1
        marker = fetched(fetch(raw, topic, 0, isolation=READ_UNCOMMITTED))[-1]
        assert (marker.is_control, marker.is_commit, marker.producer_epoch) == (True, commit, writer.epoch)
    assert [values(part) for part in fetch(raw, topic, [0, 1])] == [[b"0", b"2"]] * 2
    assert committed_offset(raw, group, topic, 0) == (NONE, 2)


def test_what_init_refuses(raw: RawClient, unique: Unique) -> None:
    """T2: empty ids, impossible timeouts."""
    assert RawProducer(raw, "").init_as(-1, -1) == INVALID_REQUEST
    for timeout_ms in (0, -1, 900_001):
        assert RawProducer(raw, unique("id"), timeout_ms=timeout_ms).init_as(-1, -1) == INVALID_TRANSACTION_TIMEOUT
    first, second = RawProducer(raw, None).init(), RawProducer(raw, None).init()
    assert first.producer_id != second.producer_id
    assert (first.epoch, second.epoch) == (0, 0)


def test_init_by_a_producer_that_goes_on(raw: RawClient, writer: RawProducer) -> None:
    """T3, KIP-360: the current epoch is bumped; the last one is a retry; anything else is fenced."""
    producer_id, epoch = writer.producer_id, writer.epoch
    assert writer.init_as(producer_id, epoch) == NONE
    assert (writer.producer_id, writer.epoch) == (producer_id, epoch + 1)
    assert writer.init_as(producer_id, epoch) == NONE
    assert writer.epoch == epoch + 1
    assert writer.init_as(producer_id + 1, epoch + 1) == PRODUCER_FENCED
    assert writer.init_as(producer_id, epoch + 7) == PRODUCER_FENCED
    assert writer.init_as(producer_id, epoch + 7, version=3) == INVALID_PRODUCER_EPOCH
    writer.init()  # as another instance
    for old in (epoch, epoch + 1):
        assert writer.init_as(producer_id, old) == PRODUCER_FENCED


def test_add_partitions(raw: RawClient, topic: str, writer: RawProducer) -> None:
    """T4: all or nothing; unknown and fenced callers; what is there already is fine."""
    assert sorted(writer.add(topic, 0, 9)) == [UNKNOWN_TOPIC_OR_PARTITION, OPERATION_NOT_ATTEMPTED]
    assert writer.produce(topic, 0, b"x", sequence=0).error_code == INVALID_TXN_STATE
    assert writer.add(topic, 0, 1) == [NONE, NONE]
    assert writer.add(topic, 1) == [NONE]
    stranger = RawProducer(raw, writer.transactional_id)
    stranger.producer_id, stranger.epoch = writer.producer_id + 1, 0
    assert stranger.add(topic, 0) == [INVALID_PRODUCER_ID_MAPPING]
    stranger.producer_id, stranger.epoch = writer.producer_id, writer.epoch + 1
    assert stranger.add(topic, 0) == [PRODUCER_FENCED]
    assert stranger.end(commit=True) == PRODUCER_FENCED
    assert stranger.end(commit=True, version=1) == INVALID_PRODUCER_EPOCH


def test_ends_of_the_first_protocol(raw: RawClient, topic: str, writer: RawProducer) -> None:
    """T5, D7, T1: the same again succeeds, the opposite does not; an abort of nothing does; a commit of nothing does not."""
    state = writer.transactional_id
    assert state is not None
    assert transaction_state(raw, state) == "Empty"
    assert writer.end(commit=True) == INVALID_TXN_STATE
    assert writer.end(commit=False) == NONE
    for commit in (True, False):
        writer.add(topic, 0)
        assert transaction_state(raw, state) == "Ongoing"
        writer.produce(topic, 0, b"x")
        assert [writer.end(commit=commit), writer.end(commit=commit)] == [NONE, NONE]
        assert transaction_state(raw, state) == ("CompleteCommit" if commit else "CompleteAbort")
    assert writer.end(commit=True) == INVALID_TXN_STATE
    writer.add(topic, 0)
    assert writer.end(commit=True) == NONE
    assert writer.end(commit=False) == INVALID_TXN_STATE
    assert values(fetch(raw, topic, 0)) == [b"x"]


ENDS = [
    # state, commit, is a retry, error, whether the epoch is bumped
    ("empty", False, True, PRODUCER_FENCED, False),
    ("empty", False, False, NONE, True),
    ("empty", True, True, PRODUCER_FENCED, False),
    ("empty", True, False, INVALID_TXN_STATE, False),
    ("ongoing", False, True, PRODUCER_FENCED, False),
    ("ongoing", False, False, NONE, True),
    ("ongoing", True, True, PRODUCER_FENCED, False),
    ("ongoing", True, False, NONE, True),
    ("aborted", False, True, NONE, False),
    ("aborted", False, False, NONE, True),
    ("aborted", True, True, INVALID_TXN_STATE, False),
    ("aborted", True, False, INVALID_TXN_STATE, False),
    ("committed", False, True, INVALID_TXN_STATE, False),
    ("committed", False, False, NONE, True),
    ("committed", True, True, NONE, False),
    ("committed", True, False, INVALID_TXN_STATE, False),
]


@pytest.mark.parametrize(("state", "commit", "retry", "error", "bumped"), ENDS)
def test_ends_of_the_second_protocol(
    topic: str, writer: RawProducer, state: str, commit: bool, retry: bool, error: int, bumped: bool
) -> None:
    """T6: the whole table."""
    writer.init()  # so that there is an epoch before the current one
    if state != "empty":
        assert writer.produce(topic, 0, b"x", version=12).error_code == NONE
    if state in ("aborted", "committed"):
        assert writer.end(commit=state == "committed", version=5) == NONE
    current = writer.epoch
    writer.epoch = current - 1 if retry else current
    assert writer.end(commit=commit, version=5) == error
    if error == NONE:
        assert writer.epoch == (current + 1 if bumped else current)


def test_a_timeout_is_not_a_fence(raw: RawClient, topic: str, unique: Unique) -> None:
    """D5, D8, T7, KIP-588: the timed-out producer goes on with InitProducerId, until another instance has begun."""
    writer = RawProducer(raw, unique("id"), timeout_ms=1000).init()
    producer_id, epoch = writer.producer_id, writer.epoch
    began = time.monotonic()
    writer.add(topic, 0)
    writer.produce(topic, 0, b"x")
    while fetch(raw, topic, 0).last_stable_offset == 0:
        assert time.monotonic() - began < 8, "the timeout did not fire when due"
        time.sleep(0.02)
    assert time.monotonic() - began > 0.9, "the timeout fired too soon"
    assert writer.produce(topic, 0, b"y").error_code == INVALID_PRODUCER_EPOCH
    assert writer.end(commit=True) == PRODUCER_FENCED
    assert writer.add(topic, 0) == [PRODUCER_FENCED]
    assert writer.init_as(producer_id, epoch) == NONE
    assert writer.producer_id == producer_id
    assert writer.epoch > epoch
    writer.add(topic, 0)
    assert writer.produce(topic, 0, b"z").error_code == NONE
    assert writer.end(commit=True) == NONE
    assert values(fetch(raw, topic, 0)) == [b"z"]
    last = writer.epoch
    RawProducer(raw, writer.transactional_id).init()
    assert writer.init_as(producer_id, last) == PRODUCER_FENCED


def test_pending_offsets(raw: RawClient, topic: str, writer: RawProducer, unique: Unique) -> None:
    """O1, O4: pending offsets are not seen; requireStable waits for them; an abort forgets them."""
    group = unique("group")
    assert committed_offset(raw, group, topic, 0) == (NONE, -1)
    assert writer.commit_offset(group, topic, 0, 5) == INVALID_TXN_STATE
    assert writer.add_group(group) == NONE
    assert writer.commit_offset(group, topic, 0, 5) == NONE
    assert committed_offset(raw, group, topic, 0) == (NONE, -1)
    assert committed_offset(raw, group, topic, 0, stable=True)[0] == UNSTABLE_OFFSET_COMMIT
    assert committed_offset(raw, group, topic, 1, stable=True) == (NONE, -1)
    assert writer.end(commit=False) == NONE
    assert committed_offset(raw, group, topic, 0, stable=True) == (NONE, -1)
    writer.add_group(group)
    writer.commit_offset(group, topic, 0, 7)
    assert writer.end(commit=True) == NONE
    assert committed_offset(raw, group, topic, 0, stable=True) == (NONE, 7)


def test_offsets_of_members(raw: RawClient, topic: str, writer: RawProducer, unique: Unique) -> None:
    """O2, KIP-447: a generation or a member id that is given is checked; without any, offsets are taken as they are."""
    group = unique("group")
    writer.add_group(group)
    assert writer.commit_offset(group, topic, 0, 5, generation_id=3, member_id="nobody") in (
        ILLEGAL_GENERATION,
        UNKNOWN_MEMBER_ID,
    )
    member_id, generation_id = join(raw, group)
    for wrong, code in (
        ({"generation_id": generation_id, "member_id": "nobody"}, UNKNOWN_MEMBER_ID),
        ({"generation_id": generation_id + 1, "member_id": member_id}, ILLEGAL_GENERATION),
        ({"generation_id": generation_id - 1, "member_id": member_id}, ILLEGAL_GENERATION),
    ):
        assert writer.commit_offset(group, topic, 0, 6, **wrong) == code
    assert writer.commit_offset(group, topic, 0, 7) == NONE
    assert writer.commit_offset(group, topic, 1, 8, generation_id=generation_id, member_id=member_id) == NONE
    assert writer.end(commit=True) == NONE
    assert [committed_offset(raw, group, topic, index) for index in (0, 1)] == [(NONE, 7), (NONE, 8)]


def join(raw: RawClient, group: str) -> tuple[str, int]:
    """A group of one member: its id and generation."""
    joined = raw.call(
        "join_group",
        3,
        group_id=group,
        session_timeout=10_000,
        rebalance_timeout=10_000,
        member_id="",
        protocol_type="consumer",
        protocols=[{"name": "range", "metadata": b"\0\0\0\0\0\0\0\0\0\0"}],
    )
    assert (joined.error_code, joined.leader) == (NONE, joined.member_id)
    synced = raw.call(
        "sync_group",
        2,
        group_id=group,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        assignments=[{"member_id": joined.member_id, "assignment": b"mine"}],
    )
    assert (synced.error_code, synced.assignment) == (NONE, b"mine")
    return joined.member_id, joined.generation_id


def test_a_marker_fences_partitions(raw: RawClient, topic: str, writer: RawProducer) -> None:
    """T8: a late batch of an epoch that was fenced is refused with 47, also where nothing of it was open."""
    assert writer.add(topic, 0, 1) == [NONE, NONE]
    writer.produce(topic, 0, b"x")
    old = writer.epoch
    RawProducer(raw, writer.transactional_id).init()
    for index in (0, 1):
        assert writer.produce(topic, index, b"late", sequence=1 - index).error_code == INVALID_PRODUCER_EPOCH
        outside = batch([b"late"], producer_id=writer.producer_id, epoch=old, sequence=1 - index)
        assert produce_bytes(raw, topic, index, outside).error_code == INVALID_PRODUCER_EPOCH
    assert [part.last_stable_offset == part.high_watermark for part in fetch(raw, topic, [0, 1])] == [True, True]
    assert fetch(raw, topic, 1).aborted_transactions in (None, ())


def test_no_reply_without_acks(broker: Broker, topic: str) -> None:
    """P9: acks=0 has no reply; the next request on the connection has its own."""
    with RawClient(broker.port) as raw:
        for _ in range(3):
            part = {"index": 0, "records": batch([b"x"])}
            topics = [{"name": topic, "partition_data": [part]}]
            raw.post("produce", 9, _reply=False, acks=0, timeout=1000, topic_data=topics)
        assert raw.call("metadata", 9, topics=[{"name": topic}]).topics[0].error_code == NONE
        deadline = time.monotonic() + 20
        while end_offset(raw, topic) < 3:
            assert time.monotonic() < deadline, "not everything was written"


def test_what_is_advertised(raw: RawClient) -> None:
    """P10, T10: Produce from 0 (librdkafka), transaction.version 2 finalized, at an epoch."""
    reply = raw.call("api_versions", 4, client_software_name="raw", client_software_version="1")
    versions = {each.api_key: (each.min_version, each.max_version) for each in reply.api_keys}
    assert versions[0][0] == 0
    assert versions[0][1] >= 12
    finalized = {each.name: each.max_version_level for each in reply.finalized_features}
    assert finalized["transaction.version"] == 2
    assert reply.finalized_features_epoch >= 0
    old = raw.call("api_versions", 0)
    assert {each.api_key for each in old.api_keys} == set(versions)


def test_a_fetch_of_no_bytes_gets_one_batch(raw: RawClient, topic: str) -> None:
    """R4, KIP-74: whatever max_bytes says."""
    for value in (b"x", b"y"):
        assert produce_bytes(raw, topic, 0, batch([value])).error_code == NONE
    assert values(fetch(raw, topic, 0, bytes_max=0)) == [b"x"]
