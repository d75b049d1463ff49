"""Replies against kio's own writer: every API and version, byte for byte."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies
from tests.properties.wire_trees import MESSAGES, NAMES, entity, kio_type, text, trees, written

from oncelog.wire import replies
from oncelog.wire.hot import FetchedPartition, fetch_reply, produce_reply
from oncelog.wire.replies import Each, encode_reply, encode_reply_in_steps, make_stepping_encoder, reply_head
from oncelog.wire.shapes import message_class, shape_of

FEW = settings(max_examples=12, deadline=None, database=None)


@pytest.mark.parametrize(("api_key", "version"), MESSAGES, ids=NAMES)
def test_encoders_write_what_kio_writes(api_key: int, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    message = kio_type(api_key, version, "response")

    @FEW
    @given(trees(message))
    def check(tree: dict[str, Any]) -> None:
        with_more = tree | {"a_field_of_another_version": 1}
        expected = written(entity(message, tree))
        assert encode_reply(api_key, version, with_more) == expected
        assert b"".join(in_steps(encoder(with_more))) == expected

    monkeypatch.setattr(replies, "_ELEMENTS_A_STEP", 2)
    encoder = make_stepping_encoder(shape_of(message))
    check()


def in_steps(steps: Generator[None, None, list[bytes]]) -> list[bytes]:
    """What it returns, after at least one step for each piece."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            pieces: list[bytes] = end.value
            assert len(pieces) == count + 1
            return pieces
        count += 1


def test_long_replies_take_steps_and_make_their_elements_in_them() -> None:
    """Law 8: a thousand elements a step, counted at every depth."""
    made: list[int] = []

    def partition(index: int) -> dict[str, int]:
        made.append(index)
        return {"partition_index": index, "error_code": 0}

    def topic(name: str) -> dict[str, Any]:
        return {"name": name, "partitions": Each(partition, range(700))}

    tree = {"throttle_time": 0, "topics": Each(topic, ("a", "b", "c"))}
    steps = encode_reply_in_steps(8, 8, tree)
    assert not made
    next(steps)
    assert len(made) in range(990, 1_001)
    body = list(steps)
    assert len(body) == 1 and len(made) == 2_100
    whole = {
        "throttle_time": 0,
        "topics": [topic(name) | {"partitions": list(map(partition, range(700)))} for name in "abc"],
    }
    assert b"".join(in_steps(make_stepping_encoder(shape_of(message_class(8, 8, "response")))(tree))) == encode_reply(
        8, 8, whole
    )


def test_the_header_is_flexible_where_the_reply_is_and_never_in_api_versions() -> None:
    """KIP-482, KIP-511: kio's header class says which."""
    for api_key, version in MESSAGES:
        head = message_class(api_key, version, "response").__header_schema__(correlation_id=77)
        expected = written(head)
        found = reply_head(api_key, version, 77, 1000)
        assert (found[:4], found[4:]) == ((1000 + len(expected)).to_bytes(4, "big"), expected), (api_key, version)


int32 = strategies.integers(-(2**31), 2**31 - 1)
offset = strategies.integers(-1, 2**63 - 1)
error = strategies.sampled_from([0, -1, 3, 47, 90, 100])

produced = strategies.tuples(
    int32, error, offset, strategies.sampled_from([-1, 0, 1_760_000_000_000]), offset, strategies.none() | text
)


def topics_of(version: int, partition: strategies.SearchStrategy[Any]) -> strategies.SearchStrategy[Any]:
    name = strategies.uuids() if version >= 13 else text
    return strategies.lists(strategies.tuples(name, strategies.lists(partition, max_size=3)), max_size=3)


@pytest.mark.parametrize("version", range(3, 14))
def test_produce_replies_are_what_kio_writes(version: int) -> None:
    @FEW
    @given(topics_of(version, produced))
    def check(topics: list[Any]) -> None:
        tree = {
            "throttle_time": 0,
            "responses": [
                {
                    "name": topic,
                    "topic_id": topic,
                    "partition_responses": [
                        {
                            "index": index,
                            "error_code": code,
                            "base_offset": base,
                            "log_append_time": None if time_ms < 0 else time_ms,
                            "log_start_offset": start,
                            "record_errors": [],
                            "error_message": message,
                        }
                        for index, code, base, time_ms, start, message in partitions
                    ],
                }
                for topic, partitions in topics
            ],
        }
        assert produce_reply(version, topics) == by_kio(0, version, tree)

    check()


fetched = strategies.builds(
    FetchedPartition,
    partition=int32,
    error=error,
    high_watermark=offset,
    last_stable_offset=offset,
    log_start_offset=offset,
    aborted=strategies.none() | strategies.lists(strategies.tuples(offset, offset), max_size=3),
    records=strategies.lists(strategies.binary(max_size=200), max_size=3),
)


@pytest.mark.parametrize("version", range(4, 19))
def test_fetch_replies_are_what_kio_writes(version: int) -> None:
    @FEW
    @given(error, int32, topics_of(version, fetched))
    def check(code: int, session_id: int, topics: list[Any]) -> None:
        tree = {
            "throttle_time": 0,
            "error_code": code,
            "session_id": session_id,
            "responses": [
                {
                    "topic": topic,
                    "topic_id": topic,
                    "partitions": [
                        {
                            "partition_index": part.partition,
                            "error_code": part.error,
                            "high_watermark": part.high_watermark,
                            "last_stable_offset": part.last_stable_offset,
                            "log_start_offset": part.log_start_offset,
                            "aborted_transactions": None
                            if part.aborted is None
                            else [{"producer_id": one, "first_offset": first} for one, first in part.aborted],
                            "records": b"".join(part.records),
                        }
                        for part in partitions
                    ],
                }
                for topic, partitions in topics
            ],
        }
        assert b"".join(fetch_reply(version, code, session_id, topics)) == by_kio(1, version, tree)

    check()


def by_kio(api_key: int, version: int, tree: Any) -> bytes:
    """What kio writes, of the fields that this version has."""

    def cut(message: Any, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(kinds[name], item) for name, item in value.items() if name in (kinds := nested(message))}
        return [cut(message, item) for item in value] if isinstance(value, list) else value

    message = kio_type(api_key, version, "response")
    return written(entity(message, cut(message, tree)))


def nested(message: Any) -> dict[str, Any]:
    """The names of a message's fields, each with the class of what is in it if that is a message too."""
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_origin

    from tests.properties.wire_trees import inner

    found = {}
    for item in fields(message):
        kind, _ = inner(item.type)
        kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
        found[item.name] = kind if is_dataclass(kind) else None
    return found


def test_records_are_not_copied() -> None:
    """Fetch sends the buffers that storage gave."""
    data = memoryview(bytearray(100))
    part = FetchedPartition(0, 0, 1, 1, 0, None, [data])
    assert any(piece is data for piece in fetch_reply(12, 0, 0, [("t", [part])]))


def test_a_missing_field_without_a_default_is_our_bug() -> None:
    with pytest.raises(KeyError):
        encode_reply(26, 3, {"throttle_time": 0})


def test_an_id_that_is_none_is_the_zero_id() -> None:
    tree = {"responses": [{"topic_id": None, "partition_responses": []}]}
    assert bytes(16) in encode_reply(0, 13, tree)
    assert encode_reply(0, 13, tree) == encode_reply(
        0, 13, {"responses": [{"topic_id": UUID(int=0), "partition_responses": []}]}
    )
