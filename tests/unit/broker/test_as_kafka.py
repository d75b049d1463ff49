"""Answers that clients were written against: each was asked of Apache Kafka 4.4 too, and is the same there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.broker.test_apis_catalog import Desk

from oncelog.model.errors import DamagedRecords, ErrorCode

PRODUCE, LIST_OFFSETS, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP, DESCRIBE_PRODUCERS = 0, 2, 12, 13, 14, 61


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.create("t")
    return desk


@pytest.mark.parametrize(
    ("version", "served"),
    [
        (1, {-1, -2}),
        (6, {-1, -2}),
        (7, {-1, -2, -3}),
        (8, {-1, -2, -3, -4}),
        (9, {-1, -2, -3, -4, -5}),
        (11, set(range(-6, 0))),
    ],
)
def test_a_special_time_that_a_version_does_not_know_is_said(desk: Desk, version: int, served: set[int]) -> None:
    desk.storage.find_time_max = lambda *_, **__: None  # type: ignore[attr-defined]
    for time in range(-8, 0):
        parts = [{"partition_index": 0, "timestamp": time}]
        (topic,) = desk.ask(LIST_OFFSETS, version, replica_id=-1, topics=[{"name": "t", "partitions": parts}]).topics
        code = ErrorCode.NONE if time in served else ErrorCode.UNSUPPORTED_VERSION
        assert topic.partitions[0].error_code == code, time


def test_damage_met_by_a_look_up_is_told(desk: Desk) -> None:
    """The partition's readers may all be at its end."""
    told: list[Any] = []
    log: Any = SimpleNamespace(debug=lambda *_, **__: None, error=lambda event, **fields: told.append((event, fields)))
    desk.broker.log = log

    def damaged(*_: Any, **__: Any) -> Any:
        raise DamagedRecords("the disk has changed the index", 7, 9)

    desk.storage.find_time = damaged  # type: ignore[attr-defined]
    for _ in range(2):
        parts = [{"partition_index": 0, "timestamp": 5}]
        (topic,) = desk.ask(LIST_OFFSETS, 5, replica_id=-1, topics=[{"name": "t", "partitions": parts}]).topics
        assert topic.partitions[0].error_code == ErrorCode.CORRUPT_MESSAGE
    ((event, fields),) = told
    assert (event, fields["topic"], fields["why"]) == ("damaged records", "t", "the disk has changed the index")
    assert (fields["offset"], fields["offset_end"]) == (7, 9), "what to give to oncelog topics trim"


@pytest.mark.parametrize("records", [None, b""])
def test_a_produce_without_a_batch_is_not_to_be_repeated(desk: Desk, records: bytes | None) -> None:
    """P4: CORRUPT_MESSAGE would be, for as long as the client has patience."""
    data = [{"name": "t", "partition_data": [{"index": 0, "records": records}]}]
    reply = desk.ask(PRODUCE, 9, acks=-1, topic_data=data)
    assert reply.responses[0].partition_responses[0].error_code == ErrorCode.INVALID_RECORD


def test_who_leaves_a_group_that_is_not_there_is_told_for_each_member(desk: Desk) -> None:
    """An administrator's tool looks at the members' errors, and takes one for all of them for a failure."""
    members = [{"member_id": "m", "group_instance_id": None}, {"member_id": "", "group_instance_id": "i"}]
    reply = desk.ask(LEAVE_GROUP, 4, group_id="never", members=members)
    assert reply.error_code == ErrorCode.NONE
    assert [(one.member_id, one.group_instance_id, one.error_code) for one in reply.members] == [
        ("m", None, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", "i", ErrorCode.UNKNOWN_MEMBER_ID),
    ]
    assert desk.ask(LEAVE_GROUP, 2, group_id="never", member_id="m").error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_group_without_a_name_is_no_unknown_member(desk: Desk) -> None:
    assert desk.ask(HEARTBEAT, 3, group_id="", generation_id=1, member_id="m").error_code == ErrorCode.INVALID_GROUP_ID
    assert desk.ask(LEAVE_GROUP, 2, group_id="", member_id="m").error_code == ErrorCode.INVALID_GROUP_ID
    assert desk.ask(SYNC_GROUP, 3, group_id="", generation_id=1, member_id="m").error_code == ErrorCode.INVALID_GROUP_ID


def test_producers_of_what_can_be_no_topic(desk: Desk) -> None:
    asked = [{"name": name, "partition_indexes": [0]} for name in ("a/b", "nope")]
    found = desk.ask(DESCRIBE_PRODUCERS, 0, topics=asked).topics
    assert [topic.partitions[0].error_code for topic in found] == [
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]
