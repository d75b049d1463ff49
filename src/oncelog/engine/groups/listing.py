"""What operators ask about groups: DescribeGroups, ConsumerGroupDescribe, ListGroups (KIP-518, KIP-848, KIP-1043)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from oncelog.engine.groups.commits import exists
from oncelog.engine.groups.consumer import NO_PARTITIONS, ConsumerGroup, ConsumerMember
from oncelog.engine.groups.heartbeats import assigned_trees
from oncelog.engine.groups.values import CLASSIC, CONSUMER, ClassicGroup, ClassicState
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode

#: From this version on DescribeGroups says that a group is not there; before, it shows a dead one.
_DESCRIBE_KNOWS_ABSENCE = 6


def describe_group(state: State, group_id: str, *, version: int) -> dict[str, Any]:
    """One group of DescribeGroups's reply. Members tell what they know of themselves only while nothing moves."""
    group = state.groups.by_id.get(group_id)
    if isinstance(group, ClassicGroup) or (group is None and exists(state, group_id)):
        return _described(group or ClassicGroup(group_id))
    code = ErrorCode.GROUP_ID_NOT_FOUND if version >= _DESCRIBE_KNOWS_ABSENCE else ErrorCode.NONE
    return {
        "error_code": int(code),
        "error_message": f"There is no classic group {group_id}." if code else None,
        "group_id": group_id,
        "group_state": "Dead",
        "protocol_type": "",
        "protocol_data": "",
        "members": [],
    }


def _described(group: ClassicGroup) -> dict[str, Any]:
    is_stable = group.state is ClassicState.STABLE
    return {
        "error_code": 0,
        "error_message": None,
        "group_id": group.id,
        "group_state": str(group.state),
        "protocol_type": group.protocol_type,
        "protocol_data": group.protocol if is_stable else "",
        "members": [
            {
                "member_id": member.id,
                "group_instance_id": member.instance_id,
                "client_id": member.client_id,
                "client_host": member.client_host,
                "member_metadata": member.metadata(group.protocol) if is_stable else b"",
                "member_assignment": member.assignment if is_stable else b"",
            }
            for member in group.members.values()
        ],
    }


_CONSUMER_MEMBER = 1


def describe_consumer_group(state: State, group_id: str) -> dict[str, Any]:
    """One group of ConsumerGroupDescribe's reply: what each member has, and what it is to have."""
    group = state.groups.by_id.get(group_id)
    if not isinstance(group, ConsumerGroup):
        return {
            "error_code": int(ErrorCode.GROUP_ID_NOT_FOUND),
            "error_message": f"There is no group {group_id} of the consumer protocol.",
            "group_id": group_id,
            "group_state": "",
            "group_epoch": 0,
            "assignment_epoch": 0,
            "assignor_name": "",
            "members": [],
        }
    return {
        "error_code": 0,
        "error_message": None,
        "group_id": group_id,
        "group_state": group.state,
        "group_epoch": group.epoch,
        "assignment_epoch": group.assignment_epoch,
        "assignor_name": group.assignor or state.settings.consumer_assignors[0],
        "members": [_consumer_member(state, group, member) for member in group.members.values()],
    }


def _consumer_member(state: State, group: ConsumerGroup, member: ConsumerMember) -> dict[str, Any]:
    target = group.targets.get(member.id, NO_PARTITIONS)
    return {
        "member_id": member.id,
        "instance_id": member.instance_id,
        "rack_id": member.rack_id,
        "member_epoch": member.epoch,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "subscribed_topic_names": list(member.topics),
        "subscribed_topic_regex": member.pattern or None,
        "assignment": {"topic_partitions": assigned_trees(state, member.assigned, with_names=True)},
        "target_assignment": {"topic_partitions": assigned_trees(state, target, with_names=True)},
        "member_type": _CONSUMER_MEMBER,
    }


def list_groups(state: State, states: Iterable[str], types: Iterable[str]) -> Iterator[dict[str, Any]]:
    """ListGroups: what is in one of the states and of one of the types, whatever the case; all if none is given.

    Lazy: the state may change meanwhile, and a group that is gone by then is left out.
    """
    wanted_states, wanted_types = {one.lower() for one in states}, {one.lower() for one in types}
    for group_id in {**state.groups.by_id, **state.offsets.committed, **state.offsets.pending}:
        if not exists(state, group_id):
            continue
        listed = _listed(state, group_id)
        if wanted_states and listed["group_state"].lower() not in wanted_states:
            continue
        if not wanted_types or listed["group_type"].lower() in wanted_types:
            yield listed


def _listed(state: State, group_id: str) -> dict[str, Any]:
    group = state.groups.by_id.get(group_id) or ClassicGroup(group_id)
    protocol_type, group_type = (
        (group.protocol_type, CLASSIC) if isinstance(group, ClassicGroup) else (CONSUMER, CONSUMER)
    )
    return {
        "group_id": group_id,
        "protocol_type": protocol_type,
        "group_state": str(group.state),
        "group_type": group_type,
    }
