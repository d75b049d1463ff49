"""Whatever a well-formed request of any API holds, it is answered, parked, or its connection closed (law 8).

An exception out of a handler stops the broker. So every API meets numbers, names and batches from a small world, where ids
and epochs are often right and often not, in every order; afterwards a replay of the journal gives the same state (law 1).
"""

from __future__ import annotations

import datetime
import struct
import uuid
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.batches import batch
from tests.support.messages import _inner, api_name, build, decode_response, message_type
from tests.unit.broker.test_lane import HandLoop
from tests.unit.engine.world import everything

from oncelog.broker.apis import HANDLERS
from oncelog.broker.broker import Broker
from oncelog.broker.call import Call
from oncelog.broker.lane import _decode_entry, _replayed
from oncelog.broker.peer import Peer
from oncelog.engine.state import State
from oncelog.storage.memory import MemoryDisk, MemoryStorage
from oncelog.wire.replies import reply_head

ASKED = [
    (key, version)
    for key, handler in HANDLERS.items()
    for version in range(handler.version_min, handler.version_max + 1)
]
#: Says -1 for a transaction that has not begun, as Kafka does; kio refuses to read that.
DESCRIBE_TRANSACTIONS = 65
BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
NAMES = (
    "a",
    "b",
    "g",
    "t",
    "",
    "range",
    "uniform",
    "consumer",
    "test-00000000-0000-0000-0000-000000000007",
    "x" * 2_000,
)
TEXTS = st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NOBODY = uuid.UUID(int=0)


def whole(bits: int) -> st.SearchStrategy[int]:
    bound = 2 ** (bits - 1)
    return st.integers(-2, 3) | st.integers(-2, 3) | st.integers(-bound, bound - 1)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A batch, often a sound one."""
    data = batch(
        [b"value"] * draw(st.integers(1, 3)),
        producer_id=draw(st.integers(-1, 4)),
        epoch=draw(st.integers(-1, 2)),
        sequence=draw(st.integers(-1, 3)),
        transactional=draw(st.booleans()),
        timestamp_ms=1_000_000,
    )
    cut = draw(st.sampled_from((len(data),) * 5 + (0, 5, 61, len(data) - 1)))
    return data[:cut]


def scalar(name: str, kafka_type: str, known: list[uuid.UUID]) -> st.SearchStrategy[Any]:
    if kafka_type in BITS:
        return whole(BITS[kafka_type])
    if kafka_type in ("uint8", "uint16", "uint32"):
        return st.integers(0, 3)
    if kafka_type.startswith("timedelta"):
        bits = 31 if kafka_type.endswith("32") else 40
        return st.sampled_from((-1, 0, 1, 10_000, 60_000, 2**bits - 1)).map(
            lambda ms: datetime.timedelta(milliseconds=ms)
        )
    if kafka_type.startswith("datetime"):
        return st.just(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    return {
        "string": TEXTS,
        "bool": st.booleans(),
        "bytes": st.binary(max_size=40) | st.just(struct.pack(">hi", 0, 1) + b"\x00\x01a" + struct.pack(">i", -1)),
        "records": written(),
        "uuid": st.sampled_from([*known, NOBODY, uuid.UUID(int=5)]),
        "float64": st.floats(allow_nan=False),
    }[kafka_type]


def entity(draw: st.DrawFn, kind: type[Any], known: list[uuid.UUID]) -> Any:
    values = {}
    for item in fields(kind):
        inner, is_array, is_optional = _inner(item)
        if is_optional and draw(st.integers(0, 3)) == 0:
            values[item.name] = None
        elif hasattr(inner, "__dataclass_fields__"):
            some = [
                entity(draw, inner, known) for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2))) if is_array else 1)
            ]
            values[item.name] = tuple(some) if is_array else some[0]
        else:
            one = scalar(item.name, item.metadata["kafka_type"], known)
            values[item.name] = draw(st.lists(one, max_size=2).map(tuple)) if is_array else draw(one)
    return kind(**values)


class AnyPeer(Peer):
    def __init__(self, number: int) -> None:
        self.number, self.address, self.is_closed = number, "127.0.0.1:5000", False

    def answered(self, call: Call) -> None: ...

    def is_gone(self) -> bool:
        return False

    def close(self, why: str) -> None:
        self.is_closed = True

    def go_on(self) -> None: ...


class Desk:
    """A broker on a memory disk, turned by hand; time goes on with each request."""

    def __init__(self) -> None:
        self.loop, self.disk, self.now_ms = HandLoop(), MemoryDisk(), 1_000_000
        self.ids = iter(range(1, 1_000))
        silent = dict.fromkeys(("debug", "info", "warning", "error"), lambda *_, **__: None)
        self.broker = Broker(
            storage=MemoryStorage(self.disk), loop=self.loop, clock_ms=lambda: self.now_ms,
            ids=lambda: uuid.UUID(int=next(self.ids)), log=SimpleNamespace(**silent),
        )  # fmt: skip
        self.broker.open()
        self.settle()

    def settle(self) -> None:
        while self.loop.soon:
            self.loop.turn()

    def send(self, api_key: int, version: int, request: Any, number: int = 1) -> None:
        call = Call(AnyPeer(number), api_key, version, 1, "test", request)
        self.broker.route(call)
        self.settle()
        if call.body is not None and api_key != DESCRIBE_TRANSACTIONS:
            body = call.body if isinstance(call.body, bytes) else b"".join(call.body)
            decode_response(api_name(api_key), version, reply_head(api_key, version, 1, len(body))[4:] + body)

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.broker.upkeep.ring()
        self.settle()

    def state_after_restart(self) -> State:
        after = State(self.broker.state.static_configs)
        for _, entry in self.disk.entries:
            rows, now_ms = _decode_entry(entry.rows)
            after.apply(rows, [_replayed(batch) for batch in entry.batches], now_ms)
        after.finish_recovery()
        return after


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_every_request_is_answered(data: st.DataObject) -> None:
    desk = Desk()
    new = {"num_partitions": 2, "replication_factor": 1, "assignments": [], "configs": []}
    topics = [{"name": name, **new} for name in ("a", "b")]
    desk.send(19, 5, build(message_type("create_topics", 5, "request"), {"topics": topics, "timeout": 1_000}))
    for name in (None, "t"):
        asked = {"transactional_id": name, "transaction_timeout": 60_000}
        desk.send(22, 1, build(message_type("init_producer_id", 1, "request"), asked))
    for _ in range(data.draw(st.integers(1, 8))):
        api_key, version = data.draw(st.sampled_from(ASKED))
        known = list(desk.broker.state.topic_names)
        request = entity(data.draw, message_type(api_name(api_key), version, "request"), known)
        desk.send(api_key, version, request, number=data.draw(st.integers(1, 3)))
        if data.draw(st.integers(0, 3)) == 0:
            desk.wait(data.draw(st.sampled_from((1, 100, 30_000, 700_000))))
    assert everything(desk.state_after_restart()) == everything(desk.broker.state)
