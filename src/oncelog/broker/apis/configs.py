"""DescribeConfigs 1-4, AlterConfigs 0-2, IncrementalAlterConfigs 0-1, ListConfigResources 0-1.

Topics and the broker have settings; log levels, client metrics and groups have none here, and are refused in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from oncelog.broker.apis.parts import in_parts
from oncelog.broker.call import Call
from oncelog.engine import configs
from oncelog.engine.alterations import (
    Alteration,
    Change,
    ResourceType,
    check_resource,
    decide_alter_configs,
)
from oncelog.engine.catalog import Naming
from oncelog.engine.configs import Shown, Source
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker


def describe_configs(broker: Broker, call: Call) -> None:
    """1-4. 1 has sources and synonyms; 3 types and, if asked for, documentation. No keys, or null, ask for all settings.

    The broker by the empty name ("all brokers") has only what was set while running.
    """
    resources = call.request.resources
    naming = Naming((resource.resource_type, resource.resource_name) for resource in resources)
    broker.answer_catalog(
        call, {"throttle_time": 0, "results": Each(partial(_described, broker, call, naming), resources)}
    )


def _described(broker: Broker, call: Call, naming: Naming, resource: Any) -> dict[str, Any]:
    code, why = ErrorCode.NONE, None
    shown: list[Shown] = []
    try:
        naming.check((resource.resource_type, resource.resource_name))
        shown = _shown(broker, resource.resource_type, resource.resource_name)
    except Refusal as no:
        code, why = broker.refused(call, no), no.why
    keys = set(resource.configuration_keys or ())
    return {
        "error_code": code,
        "error_message": why,
        "resource_type": resource.resource_type,
        "resource_name": resource.resource_name,
        "configs": [
            _tree(
                one,
                is_topic=resource.resource_type == ResourceType.TOPIC,
                with_synonyms=call.request.include_synonyms,
                with_documentation=getattr(call.request, "include_documentation", False),
            )
            for one in shown
            if not keys or one.setting.name in keys
        ],
    }


def _shown(broker: Broker, resource_type: int, name: str) -> list[Shown]:
    """The settings of a resource. Raises Refusal."""
    state = broker.state
    static, dynamic = state.static_configs, state.dynamic_configs
    if check_resource(state, resource_type, name, broker.node_id) is ResourceType.TOPIC:
        return list(configs.show_topic(static, dynamic, state.topics[name].configs))
    if name:
        return list(configs.show_broker(static, dynamic, source_dynamic=Source.DYNAMIC_BROKER))
    every = configs.show_broker(static, dynamic, source_dynamic=Source.DYNAMIC_DEFAULT_BROKER)
    return [one for one in every if one.setting.name in dynamic]


def _tree(one: Shown, *, is_topic: bool, with_synonyms: bool, with_documentation: bool) -> dict[str, Any]:
    setting = one.setting
    return {
        "name": setting.name,
        "value": one.value,
        "read_only": not (is_topic or setting.is_dynamic),
        "config_source": one.source,
        "is_sensitive": False,
        "synonyms": [{"name": place.name, "value": place.value, "source": place.source} for place in one.synonyms]
        if with_synonyms
        else [],
        "config_type": setting.kind,
        "documentation": setting.doc if with_documentation else None,
    }


def alter_configs(broker: Broker, call: Call) -> None:
    """0-2. What is named replaces everything that was set on the resource."""
    _alter(broker, call, lambda config: Change(config.name, config.value), is_incremental=False)


def incremental_alter_configs(broker: Broker, call: Call) -> None:
    """0-1. Set, delete, append and subtract (KIP-339)."""
    _alter(broker, call, lambda config: Change(config.name, config.value, config.config_operation), is_incremental=True)


def _alter(broker: Broker, call: Call, change: Callable[[Any], Change], *, is_incremental: bool) -> None:
    broker.in_steps(call, _altering(broker, call, change, is_incremental=is_incremental))


def _altering(broker: Broker, call: Call, change: Callable[[Any], Change], *, is_incremental: bool) -> Iterator[None]:
    """So many resources are one decision: each has an error of its own."""
    request = call.request
    naming = Naming((resource.resource_type, resource.resource_name) for resource in request.resources)
    results: list[dict[str, Any]] = []
    for some in in_parts(request.resources, lambda resource: 1 + len(resource.configs)):
        if results:
            yield
        wanted = [
            Alteration(resource.resource_type, resource.resource_name, tuple(map(change, resource.configs)))
            for resource in some
        ]
        decision = decide_alter_configs(
            broker.state,
            wanted,
            node_id=broker.node_id,
            validate_only=request.validate_only,
            is_incremental=is_incremental,
            naming=naming,
        )
        broker.commit(None, decision)
        results += decision.reply["responses"]
    yield from broker.answering_read(call, {"throttle_time": 0, "responses": results})


def list_config_resources(broker: Broker, call: Call) -> None:
    """0-1. 0 lists client metrics, of which there are none (KIP-714); 1 what has settings: topics, the broker (KIP-1142)."""
    resources: list[tuple[str, ResourceType]] = []
    if call.version > 0:
        asked: Iterable[int] = call.request.resource_types or tuple(ResourceType)
        if unknown := [kind for kind in asked if kind not in tuple(ResourceType)]:
            code = ErrorCode.UNSUPPORTED_VERSION
            broker.refused(call, Refusal(code, f"no such type of resource: {unknown[0]}"))
            broker.answer(call, {"throttle_time": 0, "error_code": code, "config_resources": []})
            return
        if ResourceType.TOPIC in asked:
            resources += ((name, ResourceType.TOPIC) for name in broker.state.topics)
        if ResourceType.BROKER in asked:
            resources.append((str(broker.node_id), ResourceType.BROKER))
    listed = Each(lambda one: {"resource_name": one[0], "resource_type": one[1]}, resources)
    broker.answer_catalog(call, {"throttle_time": 0, "error_code": ErrorCode.NONE, "config_resources": listed})
