"""AlterConfigs and IncrementalAlterConfigs: each resource has its own error, the rest is one decision."""

from __future__ import annotations

import pytest
from tests.unit.engine.world import World, everything

from oncelog.engine import catalog
from oncelog.engine.alterations import Alteration, Change, Operation, ResourceType, decide_alter_configs
from oncelog.model.errors import ErrorCode
from oncelog.model.rows import BrokerConfig

NODE = 1
SET, DELETE, APPEND, SUBTRACT = Operation.SET, Operation.DELETE, Operation.APPEND, Operation.SUBTRACT


def topic(name: str, *changes: Change) -> Alteration:
    return Alteration(ResourceType.TOPIC, name, changes)


def broker(*changes: Change, name: str = "1") -> Alteration:
    return Alteration(ResourceType.BROKER, name, changes)


def alter(world: World, *wanted: Alteration, incremental: bool = True, validate_only: bool = False) -> list[int]:
    before = everything(world.state)
    decision = decide_alter_configs(
        world.state, wanted, node_id=NODE, validate_only=validate_only, is_incremental=incremental
    )
    assert everything(world.state) == before
    reply = world.apply(decision)
    assert everything(world.replayed()) == everything(world.state) == everything(world.checkpointed())
    for asked, result in zip(wanted, reply["responses"], strict=True):
        assert (result["resource_type"], result["resource_name"]) == asked[:2]
        assert (result["error_message"] is None) == (result["error_code"] == 0)
    return [int(result["error_code"]) for result in reply["responses"]]


def code_of(world: World, wanted: Alteration, *, incremental: bool = True) -> ErrorCode:
    before = everything(world.state)
    (code,) = alter(world, wanted, incremental=incremental)
    assert code == 0 or everything(world.state) == before
    return ErrorCode(code)


def test_values_are_set_and_taken_back() -> None:
    world = World()
    log = world.topic("t", **{"retention.bytes": "7"})
    assert alter(world, topic("t", Change("retention.ms", "5"), Change("max.message.bytes", "6"))) == [0]
    assert (log.settings.retention_ms, log.settings.batch_bytes_max, log.settings.retention_bytes) == (5, 6, 7)
    assert alter(world, topic("t", Change("retention.ms", None, DELETE))) == [0]
    assert world.state.topics["t"].configs == {"retention.bytes": "7", "max.message.bytes": "6"}
    assert log.settings.retention_ms == 604_800_000


def test_the_old_api_replaces_everything() -> None:
    world = World()
    world.topic("t", **{"retention.bytes": "7", "retention.ms": "8"})
    assert alter(world, topic("t", Change("retention.ms", "9")), incremental=False) == [0]
    assert world.state.topics["t"].configs == {"retention.ms": "9"}
    assert alter(world, topic("t"), incremental=False) == [0]
    assert world.state.topics["t"].configs == {}


def test_lists_grow_and_shrink() -> None:
    world = World()
    world.topic("t")
    policy = "cleanup.policy"
    for operation, value, after in [
        (APPEND, "compact", "delete,compact"),
        (APPEND, "compact,delete", "delete,compact"),
        (SUBTRACT, "delete", "compact"),
        (SUBTRACT, "compact", ""),
        (APPEND, "delete", "delete"),
    ]:
        assert alter(world, topic("t", Change(policy, value, operation))) == [0]
        assert world.state.topics["t"].configs == {policy: after}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ((Change("retention.ms", "x"),), ErrorCode.INVALID_CONFIG),
        ((Change("no.such", "1"),), ErrorCode.INVALID_CONFIG),
        ((Change("cleanup.policy", "shrink", APPEND),), ErrorCode.INVALID_CONFIG),
        ((Change("retention.ms", "1", APPEND),), ErrorCode.INVALID_CONFIG),
        ((Change("no.such", "1", SUBTRACT),), ErrorCode.INVALID_CONFIG),
        ((Change("retention.ms", None),), ErrorCode.INVALID_REQUEST),
        ((Change("cleanup.policy", None, APPEND),), ErrorCode.INVALID_REQUEST),
        ((Change("retention.ms", "1", 9),), ErrorCode.INVALID_REQUEST),
        ((Change("retention.ms", "1"), Change("retention.ms", None, DELETE)), ErrorCode.INVALID_REQUEST),
        ((Change("retention.ms", "1"), Change("max.message.bytes", "x")), ErrorCode.INVALID_CONFIG),
        ((Change("no.such", None, DELETE),), ErrorCode.NONE),
    ],
)
def test_changes_that_may_be(changes: tuple[Change, ...], code: ErrorCode) -> None:
    world = World()
    world.topic("t")
    assert code_of(world, topic("t", *changes)) is code


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (topic("x"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (topic("a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (broker(name="2"), ErrorCode.INVALID_REQUEST),
        (broker(name="one"), ErrorCode.INVALID_REQUEST),
        (Alteration(ResourceType.BROKER_LOGGER, "1", ()), ErrorCode.INVALID_REQUEST),
        (Alteration(ResourceType.CLIENT_METRICS, "m", ()), ErrorCode.INVALID_REQUEST),
        (Alteration(ResourceType.GROUP, "g", ()), ErrorCode.INVALID_REQUEST),
        (Alteration(0, "", ()), ErrorCode.INVALID_REQUEST),
        (Alteration(99, "", ()), ErrorCode.INVALID_REQUEST),
    ],
)
@pytest.mark.parametrize("incremental", [True, False])
def test_resources_without_settings(wanted: Alteration, code: ErrorCode, incremental: bool) -> None:
    assert code_of(World(), wanted, incremental=incremental) is code


def test_the_broker_is_changed_while_it_runs() -> None:
    """All brokers and this one are the same; topics that don't say otherwise follow at once."""
    world = World()
    plain, own = world.topic("plain"), world.topic("own", **{"retention.ms": "1"})
    assert alter(world, broker(Change("log.retention.ms", "5"), Change("num.partitions", "3"), name="")) == [0]
    assert (plain.settings.retention_ms, own.settings.retention_ms) == (5, 1)
    assert world.state.settings.partitions_default == 3
    assert alter(world, broker(Change("log.retention.ms", None, DELETE))) == [0]
    assert plain.settings.retention_ms == 604_800_000
    assert alter(world, broker(Change("flush.interval.ms", "2")), incremental=False) == [0]
    assert world.state.dynamic_configs == {"flush.interval.ms": "2"}
    assert world.state.settings.partitions_default == 1


@pytest.mark.parametrize(
    "change",
    [
        Change("log.retention.ms", "x"),
        Change("log.retention.hours", "1"),
        Change("no.such", "1"),
        Change("transaction.max.timeout.ms", "1"),
    ],
)
def test_broker_settings_that_do_not_change(change: Change) -> None:
    assert code_of(World(), broker(change)) is ErrorCode.INVALID_REQUEST


def test_what_is_unchanged_is_not_journalled() -> None:
    world = World()
    world.topic("t", **{"retention.ms": "1"})
    world.apply(decide_alter_configs(world.state, [broker(Change("num.partitions", "2"))], node_id=NODE,
                                     validate_only=False, is_incremental=True))  # fmt: skip
    count = len(world.journal)
    assert alter(world, topic("t", Change("retention.ms", "1")), broker(Change("num.partitions", "2"))) == [0, 0]
    assert len(world.journal) == count


def test_each_resource_has_its_own_error() -> None:
    world = World()
    world.topic("a")
    world.topic("b")
    change = Change("retention.ms", "5")
    assert alter(world, topic("a", change), topic("x", change), topic("b", change), topic("b", change)) == [
        0,
        3,
        42,
        42,
    ]
    assert [world.log(name).settings.retention_ms for name in "ab"] == [5, 604_800_000]


def test_validation_changes_nothing() -> None:
    world = World()
    world.topic("t")
    assert alter(world, topic("t", Change("retention.ms", "5")), validate_only=True) == [0]
    assert world.state.topics["t"].configs == {}


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8."""
    monkeypatch.setattr(catalog, "RESOURCES_PER_REQUEST_MAX", 1)
    world = World()
    world.topic("t")
    assert alter(world, topic("t"), broker()) == [ErrorCode.POLICY_VIOLATION, ErrorCode.POLICY_VIOLATION]
    for change in (Change("x" * 9_999, "1", APPEND), Change("x" * 9_999, None), Change("x" * 9_999, "1")):
        decision = decide_alter_configs(
            world.state, [topic("t", change)], node_id=NODE, validate_only=False, is_incremental=True
        )
        assert len(decision.reply["responses"][0]["error_message"]) < 300


def test_one_request_is_one_decision() -> None:
    world = World()
    world.topic("t")
    wanted = [topic("t", Change("retention.ms", "5")), broker(Change("num.partitions", "2"))]
    decision = decide_alter_configs(world.state, wanted, node_id=NODE, validate_only=False, is_incremental=True)
    assert len(decision.rows) == 2
    assert BrokerConfig("num.partitions", "2") in decision.rows
