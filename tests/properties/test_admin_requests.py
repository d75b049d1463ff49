"""Whatever a well-formed administrative request holds, it is answered, and the answer is read by kio (laws 1, 8).

An exception out of a handler would stop the broker; so nonsense of every kind is sent, in every version.
"""

from __future__ import annotations

import datetime
import uuid
from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.messages import _inner, api_name, message_type
from tests.unit.broker.test_apis_catalog import Desk, QuietPeer, read, versions_of
from tests.unit.engine.world import everything

from oncelog.broker.apis import HANDLERS, cluster, configs, records, topics
from oncelog.broker.call import Call
from oncelog.broker.lane import _decode_entry, _replayed
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS
from oncelog.engine.state import State

MODULES = {module.__name__ for module in (cluster, configs, records, topics)}
ASKED = versions_of(*(key for key, handler in HANDLERS.items() if handler.handle.__module__ in MODULES))

NUMBERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
TEXTS = (
    st.sampled_from(("a", "b.c"))
    | st.sampled_from(("b_c", "", "1", "a/b"))
    | st.sampled_from(("retention.ms", "cleanup.policy", "num.partitions"))
    | st.sampled_from((*TOPIC_SETTINGS, *BROKER_SETTINGS))
    | st.sampled_from(("1", "compact", "true"))
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
)


def whole(kind: str) -> st.SearchStrategy[int]:
    bound = 2 ** (NUMBERS[kind] - 1)
    return st.sampled_from((2, 4)) | st.integers(-3, 9) | st.sampled_from((8, 16, 32)) | st.integers(-bound, bound - 1)


def scalar(kafka_type: str, known: list[uuid.UUID], texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Any]:
    if kafka_type in NUMBERS:
        return whole(kafka_type)
    if kafka_type == "string":
        return texts
    if kafka_type == "bytes":
        return st.binary(max_size=30)
    if kafka_type == "bool":
        return st.booleans()
    if kafka_type == "uuid":
        return st.sampled_from([*known, uuid.UUID(int=0), uuid.UUID(int=5)])
    if kafka_type.startswith("timedelta"):
        return st.integers(-1, 1000).map(lambda ms: datetime.timedelta(milliseconds=ms))
    raise NotImplementedError(kafka_type)


def entity(draw: st.DrawFn, kind: type[Any], known: list[uuid.UUID], texts: st.SearchStrategy[str] = TEXTS) -> Any:
    values = {}
    for item in fields(kind):
        inner, is_array, is_optional = _inner(item)
        if is_optional and draw(st.integers(0, 4)) == 0:
            values[item.name] = None
        elif hasattr(inner, "__dataclass_fields__"):
            some = [entity(draw, inner, known, texts) for _ in range(draw(st.integers(0, 3)) if is_array else 1)]
            values[item.name] = tuple(some) if is_array else some[0]
        else:
            one = scalar(item.metadata["kafka_type"], known, texts)
            values[item.name] = draw(st.lists(one, max_size=3).map(tuple)) if is_array else draw(one)
    return kind(**values)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_every_request_is_answered(data: st.DataObject) -> None:
    """And what it has changed is there after a restart."""
    desk = Desk()
    desk.create("a", "b.c", partitions=2)
    desk.produce("a", 5)
    for _ in range(data.draw(st.integers(1, 3))):
        api_key, version = data.draw(st.sampled_from(ASKED))
        known = list(desk.broker.state.topic_names)
        request = entity(data.draw, message_type(api_name(api_key), version, "request"), known)
        call = Call(QuietPeer(), api_key, version, 1, "test", request)
        desk.broker.route(call)
        desk.settle()
        read(call)
    after = State(desk.broker.state.static_configs)
    for entry in desk.storage.entries:
        rows, now_ms = _decode_entry(entry.rows)
        after.apply(rows, [_replayed(batch) for batch in entry.batches], now_ms)
    after.finish_recovery()
    assert everything(after) == everything(desk.broker.state)
