"""Whatever a well-formed request about groups holds, it is answered or waits, and its changes outlive a restart (laws 1, 8)."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.properties.test_admin_requests import entity
from tests.support.messages import api_name, message_type
from tests.unit.broker.test_apis_catalog import Desk, QuietPeer, read, versions_of
from tests.unit.engine.groups.group_world import durable
from tests.unit.engine.world import everything

from oncelog.broker.apis import HANDLERS, consumer_groups, groups, offsets
from oncelog.broker.call import Call
from oncelog.broker.lane import _decode_entry, _replayed
from oncelog.engine.state import State

MODULES = {module.__name__ for module in (consumer_groups, groups, offsets)}
ASKED = versions_of(*(key for key, handler in HANDLERS.items() if handler.handle.__module__ in MODULES))
HEARTBEAT = 68
ASKED += versions_of(HEARTBEAT) * 20
#: The more often the same names come, the further the requests go.
TEXTS = (
    st.sampled_from(("g", "m", "a"))
    | st.sampled_from(("g", "m", "i", "uniform", "range", "consumer", "a", "[ab].*", "(", ""))
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
)


def join_consumer_group(desk: Desk) -> None:
    """The group g has the member m, in epoch 1."""
    timeout = 9_000
    asked = {"group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout": timeout, "topic_partitions": ()}
    reply = desk.ask(HEARTBEAT, 0, subscribed_topic_names=("a",), **asked)
    assert (reply.error_code, reply.member_epoch) == (0, 1)


def join_classic_group(desk: Desk) -> None:
    """The group g has one member, in generation 1."""
    timeout = 9_000
    asked = {"group_id": "g", "member_id": "", "session_timeout": timeout, "rebalance_timeout": timeout}
    protocols = [{"name": "range", "metadata": b""}]
    reply = desk.ask(11, 3, protocol_type="consumer", protocols=protocols, **asked)
    assert (reply.error_code, reply.generation_id) == (0, 1)


def likely(draw: st.DrawFn, version: int) -> dict[str, object]:
    """Most of a heartbeat as members say it; the rest is anything."""
    said: dict[str, object] = {
        "group_id": "g",
        "member_id": draw(st.sampled_from(("m", "n"))),
        "member_epoch": draw(st.integers(-2, 3)),
        "instance_id": draw(st.sampled_from((None, "i"))),
        "server_assignor": draw(st.sampled_from((None, "uniform", "range"))),
    }
    if said["member_epoch"] == 0:
        said["topic_partitions"] = ()
    if version:
        said["subscribed_topic_regex"] = draw(st.sampled_from((None, "", "[ab].*", "(")))
    return said


BEGINNINGS = {"nothing": lambda _: None, "consumer": join_consumer_group, "classic": join_classic_group}


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_every_request_is_answered_or_waits(data: st.DataObject) -> None:
    desk = Desk(group_min_session_timeout_ms="1")
    desk.create("a", "b.c", partitions=2)
    BEGINNINGS[data.draw(st.sampled_from(sorted(BEGINNINGS)))](desk)
    for _ in range(data.draw(st.integers(1, 8))):
        api_key, version = data.draw(st.sampled_from(ASKED))
        known = list(desk.broker.state.topic_names)
        request = entity(data.draw, message_type(api_name(api_key), version, "request"), known, TEXTS)
        if api_key == HEARTBEAT:
            request = replace(request, **likely(data.draw, version))
        call = Call(QuietPeer(), api_key, version, 1, "test", request)
        desk.broker.route(call)
        desk.settle()
        if call.body is not None:
            read(call)
        else:
            assert HANDLERS[api_key].name in ("JoinGroup", "SyncGroup")
    after = State(desk.broker.state.static_configs)
    for entry in desk.storage.entries:
        rows, now_ms = _decode_entry(entry.rows)
        after.apply(rows, [_replayed(batch) for batch in entry.batches], now_ms)
    after.finish_recovery()
    assert everything(after) == everything(desk.broker.state)
    assert durable(after, desk.broker.state) == durable(desk.broker.state, desk.broker.state)
