"""FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and what operators ask about groups (rules O, D2).

This node coordinates every group. JoinGroup and SyncGroup are parked: a decision of this or another member answers them.
Version notes stand at each function.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oncelog.broker.call import Call, milliseconds
from oncelog.engine.decision import Decision
from oncelog.engine.groups import classic, commits, listing
from oncelog.engine.groups.draft import join_refused, sync_refused
from oncelog.engine.groups.values import Protocol
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.limits import ID_CHARACTERS_MAX, RESOURCES_PER_REQUEST_MAX
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

_GROUP, _TRANSACTION = 0, 1
_FIND_BATCHED: Final = 4
_JOIN_REQUIRES_ID: Final = 4
_JOIN_SKIPS_ASSIGNMENT: Final = 9
_LEAVE_BATCHED: Final = 3
#: Groups that are looked at, or deleted, in one step.
_GROUPS_A_STEP: Final = 500


def find_coordinator(broker: Broker, call: Call) -> None:
    """0-6. 1 asks for transactional ids too; 4 for several keys at once; 6 for share groups, which there are none of."""
    request = call.request
    key_type = getattr(request, "key_type", _GROUP)
    is_known = key_type in (_GROUP, _TRANSACTION)
    if call.version >= _FIND_BATCHED:
        told = _coordinator(broker, is_known=is_known)
        found = Each(lambda key: {"key": key, **told}, request.coordinator_keys)
        broker.answer_in_steps(call, {"throttle_time": 0, "coordinators": found})
    else:
        broker.answer(call, {"throttle_time": 0, **_coordinator(broker, is_known=is_known)})


def _coordinator(broker: Broker, *, is_known: bool) -> dict[str, Any]:
    if not is_known:
        why = "Groups and transactional ids have coordinators here, nothing else."
        return {
            "error_code": int(ErrorCode.INVALID_REQUEST),
            "error_message": why,
            "node_id": -1,
            "host": "",
            "port": -1,
        }
    host, port = broker.advertised
    return {"error_code": 0, "error_message": None, "node_id": broker.node_id, "host": host, "port": port}


def join_group(broker: Broker, call: Call) -> None:
    """0-9. 1 has a rebalance timeout; 4 asks new members to come back with an id (KIP-394); 5 knows static members
    (KIP-345); 9 tells a static leader that it need not assign (KIP-814).
    """
    request = call.request
    session_timeout_ms = milliseconds(request.session_timeout)
    rebalance_timeout = getattr(request, "rebalance_timeout", None)
    rebalance_timeout_ms = -1 if rebalance_timeout is None else milliseconds(rebalance_timeout)
    instance_id = getattr(request, "group_instance_id", None)
    client_id = client_of(call)
    join = classic.Join(
        group_id=request.group_id,
        member_id=request.member_id,
        member_id_new=_member_id(client_id if instance_id is None else instance_id, broker.new_id()),
        instance_id=instance_id,
        client_id=client_id,
        client_host=client_host(call),
        session_timeout_ms=session_timeout_ms,
        rebalance_timeout_ms=rebalance_timeout_ms if rebalance_timeout_ms >= 0 else session_timeout_ms,
        protocol_type=request.protocol_type,
        protocols=tuple(Protocol(one.name, bytes(one.metadata)) for one in request.protocols),
        is_member_id_required=call.version >= _JOIN_REQUIRES_ID,
        can_skip_assignment=call.version >= _JOIN_SKIPS_ASSIGNMENT,
    )
    ticket = broker.park(call)
    try:
        decision = classic.decide_join(broker.state, join, ticket, broker.now_ms())
    except Refusal as no:
        code = broker.refused(call, no)
        member_id = "" if code is ErrorCode.GROUP_MAX_SIZE_REACHED else join.member_id
        decision = Decision(answers=((ticket, join_refused(code, member_id)),))
    broker.commit(None, decision)


def _member_id(name: str, random: UUID) -> str:
    """A new member's id; not too long to be accepted when it comes back."""
    suffix = f"-{random}"
    return name[: ID_CHARACTERS_MAX - len(suffix)] + suffix


def client_of(call: Call) -> str:
    """The client's id, as much of it as is kept with a member."""
    return (call.client_id or "")[:ID_CHARACTERS_MAX]


def client_host(call: Call) -> str:
    """The client's address as Kafka's tools show it."""
    return "/" + call.peer.address.rpartition(":")[0]


def sync_group(broker: Broker, call: Call) -> None:
    """0-5. 3 knows static members; 5 names the protocol."""
    request = call.request
    sync = classic.Sync(
        group_id=request.group_id,
        member_id=request.member_id,
        instance_id=getattr(request, "group_instance_id", None),
        generation=request.generation_id,
        protocol_type=getattr(request, "protocol_type", None),
        protocol=getattr(request, "protocol_name", None),
        assignments={one.member_id: bytes(one.assignment) for one in request.assignments},
    )
    ticket = broker.park(call)
    try:
        decision = classic.decide_sync(broker.state, sync, ticket, broker.now_ms())
    except Refusal as no:
        decision = Decision(answers=((ticket, sync_refused(broker.refused(call, no))),))
    broker.commit(None, decision)


def heartbeat(broker: Broker, call: Call) -> None:
    """0-4. 3 knows static members."""
    request = call.request
    try:
        decision = classic.decide_heartbeat(
            broker.state,
            request.group_id,
            request.member_id,
            getattr(request, "group_instance_id", None),
            request.generation_id,
            broker.now_ms(),
        )
    except Refusal as no:
        broker.answer_read(call, {"throttle_time": 0, "error_code": int(broker.refused(call, no))})
        return
    broker.commit(call, decision)


def leave_group(broker: Broker, call: Call) -> None:
    """0-5. 3 names several members, also by instance id; 5 says why."""
    request = call.request
    if call.version >= _LEAVE_BATCHED:
        leaving = tuple(classic.Leaving(one.member_id, one.group_instance_id) for one in request.members)
    else:
        leaving = (classic.Leaving(request.member_id, None),)
    try:
        if len(leaving) > RESOURCES_PER_REQUEST_MAX:
            raise Refusal(ErrorCode.INVALID_REQUEST, "too many members in one request")
        decision = classic.decide_leave(broker.state, request.group_id, leaving, broker.now_ms())
    except Refusal as no:
        broker.answer_read(call, {"throttle_time": 0, "error_code": int(broker.refused(call, no)), "members": []})
        return
    members = [
        {"member_id": one.member_id, "group_instance_id": one.instance_id, "error_code": int(code)}
        for one, code in zip(leaving, decision.reply, strict=True)
    ]
    code = decision.reply[0] if call.version < _LEAVE_BATCHED else ErrorCode.NONE
    broker.commit(call, decision._replace(reply={"throttle_time": 0, "error_code": int(code), "members": members}))


# -- operators --------------------------------------------------------------------------------------------------------


def describe_groups(broker: Broker, call: Call) -> None:
    """0-6. 6 says that a group is not there instead of showing a dead one (KIP-1043)."""
    asked = dict.fromkeys(call.request.groups[:RESOURCES_PER_REQUEST_MAX])
    described = Each(partial(listing.describe_group, broker.state, version=call.version), asked)
    broker.answer_read(call, {"throttle_time": 0, "groups": described})


def list_groups(broker: Broker, call: Call) -> None:
    """0-5. 4 filters by state; 5 by type."""
    broker.in_steps(call, _list_groups(broker, call))


def _list_groups(broker: Broker, call: Call) -> Iterator[None]:
    request = call.request
    listed: list[dict[str, Any]] = []
    found = listing.list_groups(
        broker.state, getattr(request, "states_filter", ()), getattr(request, "types_filter", ())
    )
    for one in found:
        listed.append(one)
        if len(listed) % _GROUPS_A_STEP == 0:
            yield
    yield from broker.answering_read(call, {"throttle_time": 0, "error_code": 0, "groups": listed})


def delete_groups(broker: Broker, call: Call) -> None:
    """0-2. With their offsets; not while they have members or open transactional offsets (rule O5)."""
    broker.in_steps(call, _delete_groups(broker, call))


def _delete_groups(broker: Broker, call: Call) -> Iterator[None]:
    results: list[dict[str, Any]] = []
    for number, group_id in enumerate(dict.fromkeys(call.request.groups_names), 1):
        if number % _GROUPS_A_STEP == 0:
            yield
        try:
            broker.commit(None, commits.decide_delete_group(broker.state, group_id))
            code = ErrorCode.NONE
        except Refusal as no:
            code = broker.refused(call, no)
        results.append({"group_id": group_id, "error_code": int(code)})
    yield from broker.answering_read(call, {"throttle_time": 0, "results": results})
