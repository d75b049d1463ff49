"""The catalog against a naive model: topics as a dict of partition counts, settings as dicts (laws 1 and 2).

After each step: deciding left the state untouched, replay and a checkpoint give what is live, every partition has a log of
its own that no topic ever had before, and what a topic's settings resolve to follows from the model's dicts.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.engine.world import World, everything

from oncelog.engine.alterations import Alteration, Change, Operation, ResourceType, decide_alter_configs
from oncelog.engine.catalog import (
    DeleteUpTo,
    MorePartitions,
    NewTopic,
    OldTopic,
    decide_create_partitions,
    decide_create_topics,
    decide_delete_records,
    decide_delete_topics,
)
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS, Kind, Setting
from oncelog.engine.configs import check_topic, parse, resolve_broker, resolve_topic
from oncelog.engine.decision import Decision
from oncelog.engine.retention import decide_retention
from oncelog.model.errors import ErrorCode, SettingError

NODE = 1
NAMES = ("a", "b.c", "b_c", "d", "no/name")
TOPIC_VALUES = (("retention.ms", "5"), ("retention.ms", "9"), ("max.message.bytes", "7"), ("retention.ms", "bad"))
BROKER_VALUES = (("log.retention.ms", "11"), ("log.retention.ms", "13"), ("message.max.bytes", "17"), ("x", "1"))
DEFAULTS = {"retention.ms": "604800000", "max.message.bytes": "1048588"}
SYNONYMS = {"retention.ms": "log.retention.ms", "max.message.bytes": "message.max.bytes"}


class CatalogAgainstModel(RuleBasedStateMachine):
    """Random administrators."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.topics: dict[str, int] = {}
        self.configs: dict[str, dict[str, str]] = {}
        self.dynamic: dict[str, str] = {}
        self.records: dict[str, tuple[int, int]] = {}
        self.logs_seen: dict[int, str] = {}
        self.id_last = 0

    def decided(self, decision: Decision, before: list[Any]) -> Any:
        assert everything(self.world.state) == before, "deciding changed the state"
        return self.world.apply(decision)

    @rule(
        wanted=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-1, 3), st.sampled_from((-1, 1, 2))), max_size=3)
    )
    def create(self, wanted: list[tuple[str, int, int]]) -> None:
        before = everything(self.world.state)
        asked = []
        for name, partitions, factor in wanted:
            self.id_last += 1
            asked.append(NewTopic(name, UUID(int=self.id_last), partitions, factor))
        decision = decide_create_topics(
            self.world.state, asked, node_id=NODE, validate_only=False, now_ms=self.world.now_ms
        )
        results = {one["name"]: one["error_code"] for one in self.decided(decision, before)["topics"]}
        names = [name for name, *_ in wanted]
        for name, partitions, factor in wanted:
            is_free = not {other.replace(".", "_") for other in self.topics} & {name.replace(".", "_")}
            is_good = names.count(name) == 1 and name != "no/name" and partitions != 0 and factor != 2 and is_free
            assert (results[name] == 0) is is_good, (name, results[name])
            if is_good:
                self.topics[name] = max(1, partitions)
                self.configs[name] = {}
                self.records[name] = (0, 0)

    @rule(name=st.sampled_from(NAMES), count=st.integers(0, 5))
    def grow(self, name: str, count: int) -> None:
        before = everything(self.world.state)
        decision = decide_create_partitions(
            self.world.state, [MorePartitions(name, count)], node_id=NODE, validate_only=False
        )
        (result,) = self.decided(decision, before)["results"]
        is_good = count > self.topics.get(name, 1_000)
        assert (result["error_code"] == 0) is is_good
        if is_good:
            self.topics[name] = count

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True), by_id=st.booleans())
    def delete(self, names: list[str], by_id: bool) -> None:
        state = self.world.state
        before = everything(state)
        asked = [
            OldTopic(None, state.topics[name].id) if by_id and name in state.topics else OldTopic(name)
            for name in names
        ]
        results = self.decided(decide_delete_topics(state, asked), before)["responses"]
        assert [one["error_code"] == 0 for one in results] == [name in self.topics for name in names]
        for name in names:
            for kept in (self.topics, self.configs, self.records):
                kept.pop(name, None)

    @rule(
        name=st.sampled_from(NAMES),
        value=st.sampled_from(TOPIC_VALUES),
        operation=st.sampled_from((Operation.SET, Operation.DELETE)),
        is_incremental=st.booleans(),
    )
    def alter_topic(self, name: str, value: tuple[str, str], operation: Operation, is_incremental: bool) -> None:
        before = everything(self.world.state)
        change = Change(value[0], value[1], operation)
        decision = decide_alter_configs(
            self.world.state,
            [Alteration(ResourceType.TOPIC, name, (change,))],
            node_id=NODE,
            validate_only=False,
            is_incremental=is_incremental,
        )
        (result,) = self.decided(decision, before)["responses"]
        is_good = name in self.topics and (operation is Operation.DELETE or value[1] != "bad")
        assert (result["error_code"] == 0) is is_good
        if is_good:
            kept = self.configs[name] if is_incremental else {}
            self.configs[name] = {key: kept[key] for key in kept if key != value[0]}
            if operation is Operation.SET:
                self.configs[name][value[0]] = value[1]

    @rule(value=st.sampled_from(BROKER_VALUES), is_set=st.booleans())
    def alter_broker(self, value: tuple[str, str], is_set: bool) -> None:
        before = everything(self.world.state)
        change = Change(*value) if is_set else Change(value[0], None, Operation.DELETE)
        decision = decide_alter_configs(
            self.world.state,
            [Alteration(ResourceType.BROKER, "", (change,))],
            node_id=NODE,
            validate_only=False,
            is_incremental=True,
        )
        (result,) = self.decided(decision, before)["responses"]
        assert (result["error_code"] == 0) is (value[0] != "x" or not is_set)
        if result["error_code"] == 0:
            self.dynamic.pop(value[0], None)
            if is_set:
                self.dynamic[value[0]] = value[1]

    @rule(name=st.sampled_from(NAMES))
    def produce(self, name: str) -> None:
        if name in self.topics:
            self.world.produce(log=self.world.log(name))
            start, end = self.records[name]
            self.records[name] = start, end + 1

    @rule(name=st.sampled_from(NAMES), offset=st.integers(-2, 4))
    def delete_records(self, name: str, offset: int) -> None:
        before = everything(self.world.state)
        decision = decide_delete_records(self.world.state, [DeleteUpTo(name, 0, offset)])
        ((low, code),) = self.decided(decision, before)
        if name not in self.topics:
            assert code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            return
        start, end = self.records[name]
        wanted = end if offset == -1 else offset
        assert (code == 0) is (0 <= wanted <= end)
        if code == 0:
            self.records[name] = max(start, wanted), end
            assert low == self.records[name][0]

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 4))
    def retain(self, name: str, count: int) -> None:
        """Every batch is a stretch as old as 1 s; the topic keeps what its settings say."""
        if name not in self.topics:
            return
        before = everything(self.world.state)
        start, end = self.records[name]
        log = self.world.log(name)
        stretches = [(offset + 1, 1_000, 1) for offset in range(start, end)][:count]
        self.decided(decide_retention(log, stretches, self.world.now_ms), before)
        if self.world.now_ms - 1_000 > int(self.value(name, "retention.ms")):
            self.records[name] = start + len(stretches), end

    def value(self, name: str, key: str) -> str:
        """What is in force, by the model."""
        return self.configs[name].get(key, self.dynamic.get(SYNONYMS[key], DEFAULTS[key]))

    @invariant()
    def the_model_is_right(self) -> None:
        state = self.world.state
        assert {name: len(topic.logs) for name, topic in state.topics.items()} == self.topics
        assert {name: topic.configs for name, topic in state.topics.items()} == self.configs
        assert state.dynamic_configs == self.dynamic
        assert len(state.logs) == sum(self.topics.values())
        for topic in state.topics.values():
            for log_id in topic.logs:
                owner = f"{topic.name} {topic.id}"
                assert self.logs_seen.setdefault(log_id, owner) == owner, "a log's number was given twice"
                log_settings = state.logs[log_id].settings
                assert log_settings.retention_ms == int(self.value(topic.name, "retention.ms"))
                assert log_settings.batch_bytes_max == int(self.value(topic.name, "max.message.bytes"))
            log = self.world.log(topic.name)
            assert (log.offset_start, log.offset_next) == self.records[topic.name]

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        live = everything(self.world.state)
        for after in (self.world.replayed(), self.world.checkpointed()):
            assert everything(after) == live
            assert after.log_id_next == self.world.state.log_id_next
            assert after.settings == self.world.state.settings
            assert [log.settings for log in after.logs.values()] == [
                self.world.state.logs[log_id].settings for log_id in after.logs
            ]


TestCatalogAgainstModel = CatalogAgainstModel.TestCase
TestCatalogAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


ANY_SETTING = st.sampled_from([*TOPIC_SETTINGS.values(), *BROKER_SETTINGS.values()])
ANY_TEXT = st.text(max_size=25) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(("true", "compact,"))


@settings(max_examples=400, deadline=None)
@given(setting=ANY_SETTING, text=ANY_TEXT)
def test_any_text_is_a_value_or_a_sentence(setting: Setting, text: str) -> None:
    """A value that passes the check can be resolved; all others are refused with the setting's name."""
    try:
        value = parse(setting, text)
    except SettingError as refused:
        assert str(refused).startswith(setting.name)
        return
    if setting.kind in (Kind.INT, Kind.LONG, Kind.SHORT):
        assert setting.low is None or value >= setting.low
        assert setting.high is None or value <= setting.high
    if setting.name in TOPIC_SETTINGS and TOPIC_SETTINGS[setting.name] is setting:
        resolve_topic({}, {}, {setting.name: text})
    else:
        resolve_topic({setting.name: text}, {setting.name: text}, {})
        resolve_broker({setting.name: text}, {})


@given(name=st.text(max_size=20), text=ANY_TEXT)
def test_any_name_is_a_setting_or_a_sentence(name: str, text: str) -> None:
    try:
        check_topic({name: text})
    except SettingError as refused:
        assert str(refused).endswith((".", "?"))
    else:
        assert name in TOPIC_SETTINGS
