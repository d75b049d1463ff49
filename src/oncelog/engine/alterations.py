"""Settings of topics and of the broker are changed: AlterConfigs and IncrementalAlterConfigs (KIPs 133, 226, 339).

A request names several resources, each with its own error; what is allowed is one Decision. On one node the broker and "all
brokers" (the empty name) are the same resource: a value set for one is seen for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from oncelog.engine import configs
from oncelog.engine.catalog import Naming, check_name
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS, Kind, Setting
from oncelog.engine.decision import Decision
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal, SettingError
from oncelog.model.rows import BrokerConfig, Row, Topic


class Operation(IntEnum):
    """What shall happen to a value; the numbers are the protocol's."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class ResourceType(IntEnum):
    """Whose settings; the numbers are the protocol's."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


_REFUSED: Final = {
    ResourceType.BROKER_LOGGER: "log levels are set when the broker is started",
    ResourceType.CLIENT_METRICS: "the broker takes no metrics from clients",
    ResourceType.GROUP: "groups have no settings of their own; the broker's group.* settings are for all",
}


class Change(NamedTuple):
    """One setting's change; ``operation`` as the client sent it."""

    name: str
    value: str | None
    operation: int = Operation.SET


class Alteration(NamedTuple):
    """What shall change about one resource; type and name as the client sent them."""

    resource_type: int
    resource_name: str
    changes: tuple[Change, ...]


def decide_alter_configs(
    state: State,
    wanted: Sequence[Alteration],
    *,
    node_id: int,
    validate_only: bool,
    is_incremental: bool,
    naming: Naming | None = None,
) -> Decision:
    """Change settings. The reply is the tree of both APIs. ``naming`` is of the whole request, if this is a part.

    Not ``is_incremental``: what is named replaces all that was set, the rest goes back to the defaults.
    """
    naming = naming or Naming(one[:2] for one in wanted)
    rows: list[Row] = []
    results: list[dict[str, Any]] = []
    for one in wanted:
        code, why = ErrorCode.NONE, None
        try:
            naming.check(one[:2])
            rows += _alter(state, one, node_id, is_incremental=is_incremental)
        except Refusal as no:
            code, why = no.code, no.why
        results.append(
            {
                "error_code": code,
                "error_message": why,
                "resource_type": one.resource_type,
                "resource_name": one.resource_name,
            }
        )
    reply = {"throttle_time": 0, "responses": results}
    return Decision(rows=() if validate_only else tuple(rows), reply=reply)


def check_resource(state: State, resource_type: int, name: str, node_id: int) -> ResourceType:
    """Which of the two kinds of resource it is that have settings here. Raises Refusal."""
    if resource_type == ResourceType.TOPIC:
        check_name(name)
        if name not in state.topics:
            raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"no topic {name!r}")
        return ResourceType.TOPIC
    if resource_type == ResourceType.BROKER:
        if name not in ("", str(node_id)):
            raise Refusal(ErrorCode.INVALID_REQUEST, f"this is broker {node_id}; there is no broker {name[:20]!r}")
        return ResourceType.BROKER
    why = next((why for refused, why in _REFUSED.items() if refused == resource_type), "no such type of resource")
    raise Refusal(ErrorCode.INVALID_REQUEST, why)


def _alter(state: State, one: Alteration, node_id: int, *, is_incremental: bool) -> list[Row]:
    names = Counter(change.name for change in one.changes)
    if any(count > 1 for count in names.values()):
        raise Refusal(ErrorCode.INVALID_REQUEST, "a setting is named more than once for the resource")
    unset = [change.name for change in one.changes if change.value is None and change.operation != Operation.DELETE]
    if unset:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"null is no value for {configs.brief(', '.join(unset))}")
    if check_resource(state, one.resource_type, one.resource_name, node_id) is ResourceType.TOPIC:
        topic = state.topics[one.resource_name]
        after = _after(topic.configs if is_incremental else {}, topic.configs, one.changes, TOPIC_SETTINGS)
        try:
            configs.check_topic({name: after[name] for name in after if name in TOPIC_SETTINGS or name in names})
        except SettingError as error:
            raise Refusal(ErrorCode.INVALID_CONFIG, str(error)) from None
        if after == topic.configs:
            return []
        return [Topic(topic.name, topic.id, topic.logs, after, topic.created_ms)]
    before = state.dynamic_configs
    after = _after(before if is_incremental else {}, before, one.changes, BROKER_SETTINGS)
    try:
        configs.check_dynamic({name: after[name] for name in after if name in names})
    except SettingError as error:
        raise Refusal(ErrorCode.INVALID_REQUEST, str(error)) from None
    return [
        BrokerConfig(name, after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _after(
    kept: Mapping[str, str], before: Mapping[str, str], changes: Sequence[Change], settings: Mapping[str, Setting]
) -> dict[str, str]:
    """What is set once ``changes`` are made to ``kept``; lists grow and shrink from what was set before."""
    after = dict(kept)
    for name, value, operation in changes:
        if operation == Operation.DELETE:
            after.pop(name, None)
        elif operation == Operation.SET:
            after[name] = value or ""
        elif operation in (Operation.APPEND, Operation.SUBTRACT):
            setting = settings.get(name)
            if setting is None or setting.kind is not Kind.LIST:
                raise Refusal(
                    ErrorCode.INVALID_CONFIG, f"{configs.brief(name)} is not a list: nothing can be added or taken away"
                )
            listed = _elements(before.get(name, setting.default or ""))
            given = _elements(value or "")
            if operation == Operation.APPEND:
                listed += [one for one in given if one not in listed]
            else:
                listed = [one for one in listed if one not in given]
            after[name] = ",".join(listed)
        else:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"there is no operation {operation} on settings")
    return after


def _elements(text: str) -> list[str]:
    return [one for part in text.split(",") if (one := part.strip())]
