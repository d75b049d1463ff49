"""ConsumerGroupHeartbeat and ConsumerGroupDescribe (KIP-848; rules O3, D2): groups whose partitions the broker assigns.

Nothing is parked: a member asks again and again, and is told what it may have now.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from oncelog.broker.apis.groups import client_host, client_of
from oncelog.broker.call import Call, given_id, milliseconds
from oncelog.engine.groups.consumer import JOIN_EPOCH
from oncelog.engine.groups.heartbeats import Beaten, Heartbeat, assigned_trees, decide_consumer_heartbeat
from oncelog.engine.groups.listing import describe_consumer_group
from oncelog.engine.state import State
from oncelog.model.errors import Refusal
from oncelog.model.ids import LogId
from oncelog.model.limits import RESOURCES_PER_REQUEST_MAX
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_MEMBERS_NAME_THEMSELVES: Final = 1


def consumer_group_heartbeat(broker: Broker, call: Call) -> None:
    """0-1. 0 gives a member its id; from 1 on members name themselves (KIP-1082), and may subscribe by a pattern."""
    beat = _heartbeat(broker, call)
    try:
        decision = decide_consumer_heartbeat(broker.state, beat, broker.now_ms())
    except Refusal as no:
        refused = {
            "throttle_time": 0,
            "error_code": int(broker.refused(call, no)),
            "error_message": no.why,
            "member_id": None,
            "member_epoch": 0,
            "heartbeat_interval": 0,
            "assignment": None,
        }
        broker.answer_read(call, refused)
        return
    beaten: Beaten = decision.reply
    reply = {
        "throttle_time": 0,
        "error_code": 0,
        "error_message": None,
        "member_id": beaten.member_id,
        "member_epoch": beaten.epoch,
        "heartbeat_interval": beaten.interval_ms,
        "assignment": None
        if beaten.assigned is None
        else {"topic_partitions": assigned_trees(broker.state, beaten.assigned)},
    }
    broker.commit(call, decision._replace(reply=reply))


def _heartbeat(broker: Broker, call: Call) -> Heartbeat:
    request = call.request
    member_id = request.member_id
    if not member_id and request.member_epoch == JOIN_EPOCH and call.version < _MEMBERS_NAME_THEMSELVES:
        member_id = str(broker.new_id())
    timeout_ms = milliseconds(request.rebalance_timeout)
    topics = request.subscribed_topic_names
    return Heartbeat(
        group_id=request.group_id,
        member_id=member_id,
        epoch=request.member_epoch,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        client_id=client_of(call),
        client_host=client_host(call),
        rebalance_timeout_ms=timeout_ms,
        topics=None if topics is None else tuple(topics),
        pattern=getattr(request, "subscribed_topic_regex", None),
        assignor=request.server_assignor,
        owned=_owned(broker.state, request.topic_partitions),
    )


def _owned(state: State, topics: Any) -> frozenset[LogId] | None:
    """The logs of the partitions that a member says it has; those of unknown topics are none."""
    if topics is None:
        return None
    owned: set[LogId] = set()
    for topic in topics:
        topic_id = given_id(topic.topic_id)
        name = None if topic_id is None else state.topic_names.get(topic_id)
        logs = () if name is None else state.topics[name].logs
        owned.update(logs[index] for index in topic.partitions if 0 <= index < len(logs))
    return frozenset(owned)


def consumer_group_describe(broker: Broker, call: Call) -> None:
    """0-1. 1 says which protocol each member speaks: here all of a group speak the same."""
    asked = dict.fromkeys(call.request.group_ids[:RESOURCES_PER_REQUEST_MAX])
    described = Each(partial(describe_consumer_group, broker.state), asked)
    broker.answer_read(call, {"throttle_time": 0, "groups": described})
