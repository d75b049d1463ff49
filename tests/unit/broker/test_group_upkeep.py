"""The broker's one timer and groups: members that are silent go, and the log names them (rule D5)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.unit.broker.test_apis_catalog import Desk

HEARTBEAT, DESCRIBE = 68, 69


def test_a_silent_member_is_removed_and_named() -> None:
    desk = Desk(group_consumer_session_timeout_ms="1000")
    desk.create("t")
    lines: list[tuple[str, dict[str, Any]]] = []
    desk.broker.log = SimpleNamespace(
        debug=lambda *_, **__: None, info=lambda event, **more: lines.append((event, more))
    )
    asked = {"group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout": 9, "topic_partitions": ()}
    joined = desk.ask(HEARTBEAT, 0, subscribed_topic_names=("t",), **asked)
    start_ms = desk.broker.now_ms()
    for passed_ms, members in ((999, 1), (1_000, 0)):
        desk.broker.now_ms = lambda: start_ms + passed_ms  # noqa: B023
        desk.broker.upkeep.ring()
        (group,) = desk.ask(DESCRIBE, 0, group_ids=("g",), include_authorized_operations=False).groups
        assert len(group.members) == members
    assert lines == [
        ("group members removed: silent, or late in a rebalance", {"group": "g", "members": [joined.member_id]})
    ]
