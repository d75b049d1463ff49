"""Requests: what kio writes is read back in every API and version, and no bytes at all end in anything but a WireError.

kio's reader alone trusts array counts: five bytes end the process. So these tests also show that nothing gets that far.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from kio.serial import entity_reader
from tests.properties.wire_trees import MESSAGES, NAMES, entity, kio_type, text, trees, written
from tests.support.messages import encode_request

from oncelog.model.errors import WireError
from oncelog.wire.requests import read_request

FEW = settings(max_examples=12, deadline=None, database=None)
MANY = settings(max_examples=300, deadline=None)
#: All that kio knows, as if it were served.
ALL = {
    key: (min(known), max(known))
    for key in dict.fromkeys(api_key for api_key, _ in MESSAGES)
    if (known := [version for api_key, version in MESSAGES if api_key == key])
}


def frame_of(message: Any, client_id: str | None = "someone") -> bytes:
    """A request's frame, without its length."""
    return encode_request(5, client_id, message)[4:]


@pytest.mark.parametrize(("api_key", "version"), MESSAGES, ids=NAMES)
def test_every_request_is_read_back(api_key: int, version: int) -> None:
    message = kio_type(api_key, version, "request")

    @FEW
    @given(trees(message), strategies.none() | text)
    def check(tree: dict[str, Any], client_id: str | None) -> None:
        sent = entity(message, tree)
        frame = frame_of(sent, client_id)
        expected, _ = entity_reader(message)(written(sent), 0)
        for form in (frame, memoryview(frame), memoryview(bytearray(frame)).toreadonly()):
            request = read_request(form, ALL)
            assert (request.api_key, request.version, request.correlation_id) == (api_key, version, 5)
            assert request.body == expected
            if message.__header_schema__.__version__ > 0:
                assert request.client_id == client_id

    check()


@pytest.mark.parametrize(("api_key", "version"), MESSAGES, ids=NAMES)
def test_truncated_and_trailing_bytes_are_refused(api_key: int, version: int) -> None:
    message = kio_type(api_key, version, "request")

    @FEW
    @given(trees(message), strategies.data())
    def check(tree: dict[str, Any], data: strategies.DataObject) -> None:
        frame = frame_of(entity(message, tree))
        # Three bytes may follow a Metadata: see the unit tests.
        with pytest.raises(WireError):
            read_request(frame + b"\0" * 4, ALL)
        with pytest.raises(WireError):
            read_request(frame[: data.draw(strategies.integers(0, len(frame) - 1))], ALL)

    check()


@pytest.mark.parametrize(("api_key", "version"), MESSAGES, ids=NAMES)
def test_changed_bytes_are_read_or_refused(api_key: int, version: int) -> None:
    message = kio_type(api_key, version, "request")
    parts = strategies.binary(min_size=1, max_size=5) | strategies.sampled_from(
        [b"\xff\xff\xff\xff\x0f", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe", b"\xff" * 10, b"\x80" * 6, b"\0\0\0\0"]
    )

    @FEW
    @given(trees(message), strategies.lists(strategies.tuples(strategies.integers(0, 400), parts), max_size=3))
    def check(tree: dict[str, Any], changes: list[tuple[int, bytes]]) -> None:
        frame = bytearray(frame_of(entity(message, tree)))
        for place, new in changes:
            at = 8 + place % (len(frame) - 7)
            frame[at : at + len(new)] = new
        with suppress(WireError):
            read_request(bytes(frame), ALL)

    check()


@MANY
@given(strategies.sampled_from(MESSAGES), strategies.binary(max_size=60))
def test_random_bytes_are_read_or_refused(message: tuple[int, int], noise: bytes) -> None:
    with suppress(WireError):
        read_request(struct.pack(">hhih", *message, 1, -1) + noise, ALL)


@MANY
@given(strategies.binary(max_size=40))
def test_random_heads_are_read_or_refused(noise: bytes) -> None:
    with suppress(WireError):
        read_request(noise, ALL)


FLEXIBLE = [one for one in MESSAGES if kio_type(*one, "request").__flexible__]


@settings(max_examples=200, deadline=None)
@given(strategies.sampled_from(FLEXIBLE), strategies.data())
def test_unknown_tagged_fields_are_skipped(which: tuple[int, int], data: strategies.DataObject) -> None:
    """KIP-482: whoever does not know a tagged field leaves it out."""
    message = kio_type(*which, "request")
    tagged = {item.name for item in fields(message) if "tag" in item.metadata}
    tree = {name: value for name, value in data.draw(trees(message)).items() if name not in tagged}
    body = written(entity(message, tree))
    assert body.endswith(b"\0"), "without tagged fields a message ends with their number"
    count = data.draw(strategies.integers(1, 3))
    unknown = b"".join(bytes((100 + tag, 3)) + b"abc" for tag in range(count))
    head = struct.pack(">hhih", *which, 5, -1) + data.draw(strategies.sampled_from([b"\0", b"\x01\x63\x02hi"]))
    found = read_request(head + body[:-1] + bytes((count,)) + unknown, ALL)
    assert found.body == entity_reader(message)(body, 0)[0]
