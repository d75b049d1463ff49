"""Settings: every default is valid, every wrong value is refused with the next step, the nearest value wins."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from oncelog.engine import configs
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS, Kind, Setting
from oncelog.engine.configs import (
    BROKER_IN_FORCE,
    TOPIC_IN_FORCE,
    BrokerSettings,
    Source,
    Synonym,
    TopicSettings,
    check_dynamic,
    check_static,
    check_topic,
    parse,
    resolve_broker,
    resolve_topic,
    show_broker,
    show_topic,
)
from oncelog.model.errors import SettingError

SETTINGS = [*TOPIC_SETTINGS.values(), *BROKER_SETTINGS.values()]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_defaults_are_valid_and_documented(setting: Setting) -> None:
    if setting.default is not None:
        parse(setting, setting.default)
    assert setting.doc.endswith(".")
    assert not (setting.choices and setting.kind not in (Kind.STRING, Kind.LIST))


def test_nothing_set_gives_the_defaults_of_the_fields() -> None:
    assert resolve_topic({}, {}, {}) == TopicSettings()
    assert resolve_topic({}, {}, {"flush.ms": "1"}) == TopicSettings()
    assert resolve_broker({}, {}) == BrokerSettings()


def test_every_synonym_is_a_broker_setting() -> None:
    for topic in TOPIC_SETTINGS.values():
        assert set(topic.synonyms) <= set(BROKER_SETTINGS)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("retention.ms", "soon", "write a whole number of 64 bits, at least -1"),
        ("retention.ms", "-2", "at least -1"),
        ("retention.ms", "9223372036854775808", "64 bits"),
        ("retention.ms", "1_000", "whole number"),
        ("max.message.bytes", "2147483648", "32 bits"),
        ("max.message.bytes", "", "whole number"),
        ("min.cleanable.dirty.ratio", "1.5", "a number from 0 to 1"),
        ("min.cleanable.dirty.ratio", "nan", "a number from 0 to 1"),
        ("preallocate", "yes", "write true or false"),
        ("compression.type", "GZIP", "choose producer or uncompressed or gzip or snappy or lz4 or zstd"),
        ("cleanup.policy", "delete,shrink", "choose compact or delete, or several of them with commas"),
        ("message.timestamp.type", "", "choose CreateTime or LogAppendTime"),
    ],
)
def test_wrong_values_are_refused_with_what_would_be_right(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingError) as refused:
        check_topic({name: value})
    assert str(refused.value).startswith(f"{name}={value}: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("retention.mss", "did you mean retention.ms?"),
        ("retention.hours", "did you mean retention.ms?"),
        ("log.retention.hours", "a topic's is retention.ms."),
        ("num.partitions", "that is a broker setting; set it on the broker."),
        ("zzz", "docs/settings.md lists all."),
    ],
)
def test_unknown_topic_settings(name: str, says: str) -> None:
    with pytest.raises(SettingError, match=f"a topic has no setting '{name}': ") as refused:
        check_topic({name: "1"})
    assert str(refused.value).endswith(says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("num.partition", "did you mean num.partitions?"),
        ("retention.ms", "for all topics set log.retention.ms."),
        ("remote.storage.enable", "set it on the topic."),
        ("zzz", "docs/settings.md lists all."),
    ],
)
def test_unknown_broker_settings(name: str, says: str) -> None:
    with pytest.raises(SettingError, match=f"the broker has no setting '{name}': ") as refused:
        check_static({name: "1"})
    assert str(refused.value).endswith(says)


def test_a_wrong_value_at_the_start_is_refused() -> None:
    check_static({"num.partitions": "3", "node.id": "1", "controller.quorum.voters": "1@localhost:9093"})
    with pytest.raises(SettingError, match=r"num.partitions=0: write a whole number of 32 bits from 1 to 10000"):
        check_static({"num.partitions": "0"})
    with pytest.raises(SettingError, match=r"node.id=2: leave it out, it is always 1"):
        check_static({"node.id": "2"})


def test_only_some_settings_change_while_running() -> None:
    check_dynamic({"log.retention.ms": "1", "flush.interval.ms": "1"})
    with pytest.raises(SettingError, match=r"start it with --set log.retention.hours=VALUE"):
        check_dynamic({"log.retention.hours": "1"})
    with pytest.raises(SettingError, match="can't be changed while the broker runs"):
        check_dynamic({"transaction.max.timeout.ms": "1"})


@pytest.mark.parametrize("configs", [{"x" * 1_000_000: "1"}, {"retention.ms": "x" * 1_000_000}])
def test_what_a_peer_sends_does_not_grow_the_message(configs: dict[str, str]) -> None:
    """Law 8: a megabyte of nonsense makes a short sentence, and no long search."""
    for check in (check_topic, check_static):
        with pytest.raises(SettingError) as refused:
            check(configs)
        assert len(str(refused.value)) < 300


def test_compaction_lags_must_fit_together() -> None:
    check_topic({"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "5"})
    with pytest.raises(SettingError, match="is above"):
        check_topic({"min.compaction.lag.ms": "6", "max.compaction.lag.ms": "5"})


@pytest.mark.parametrize(
    ("static", "dynamic", "topic", "retention_ms"),
    [
        ({"log.retention.hours": "2"}, {}, {}, 7_200_000),
        ({"log.retention.hours": "2", "log.retention.minutes": "3"}, {}, {}, 180_000),
        ({"log.retention.minutes": "3", "log.retention.ms": "4"}, {}, {}, 4),
        ({"log.retention.hours": "-1"}, {}, {}, -1),
        ({"log.retention.ms": "4"}, {"log.retention.ms": "5"}, {}, 5),
        ({"log.retention.ms": "4"}, {"log.retention.ms": "5"}, {"retention.ms": "6"}, 6),
        ({}, {}, {"retention.ms": " 7 "}, 7),
    ],
)
def test_the_nearest_value_wins(
    static: dict[str, str], dynamic: dict[str, str], topic: dict[str, str], retention_ms: int
) -> None:
    assert resolve_topic(static, dynamic, topic).retention_ms == retention_ms


def test_topic_settings_are_resolved() -> None:
    topic = {
        "cleanup.policy": "compact, delete",
        "max.message.bytes": "9",
        "message.timestamp.type": "LogAppendTime",
        "message.timestamp.before.max.ms": "10",
        "message.timestamp.after.max.ms": "11",
        "retention.bytes": "12",
    }
    assert resolve_topic({}, {}, topic) == TopicSettings(9, True, 10, 11, 604_800_000, 12, True, True)
    assert not resolve_topic({}, {}, {"cleanup.policy": ""}).is_deleted_by_age


def test_broker_settings_are_resolved() -> None:
    settings = resolve_broker(
        {"offsets.retention.minutes": "2", "auto.create.topics.enable": "FALSE", "num.partitions": "4"},
        {"num.partitions": "5"},
    )
    assert settings == BrokerSettings(offsets_retention_ms=120_000, is_auto_create=False, partitions_default=5)


def test_where_a_value_comes_from() -> None:
    shown = {
        one.setting.name: one
        for one in show_topic({"log.retention.hours": "2"}, {"log.retention.ms": "5"}, {"retention.ms": "6"})
    }
    assert set(shown) == set(TOPIC_SETTINGS)
    retention = shown["retention.ms"]
    assert (retention.value, retention.source) == ("6", Source.TOPIC)
    assert retention.synonyms == (
        Synonym("retention.ms", "6", Source.TOPIC),
        Synonym("log.retention.ms", "5", Source.DYNAMIC_DEFAULT_BROKER),
        Synonym("log.retention.hours", "2", Source.STATIC_BROKER),
        Synonym("log.retention.hours", "168", Source.DEFAULT),
    )
    assert (shown["flush.ms"].value, shown["flush.ms"].source) == (str(2**63 - 1), Source.DEFAULT)


def test_a_static_value_is_shown_in_the_topics_unit() -> None:
    shown = {one.setting.name: one for one in show_topic({"log.retention.hours": "2"}, {}, {})}
    assert (shown["retention.ms"].value, shown["retention.ms"].source) == ("7200000", Source.STATIC_BROKER)


def test_broker_settings_are_shown() -> None:
    shown = {
        one.setting.name: one
        for one in show_broker({"num.partitions": "2"}, {"num.partitions": "3"}, source_dynamic=Source.DYNAMIC_BROKER)
    }
    assert set(shown) == set(BROKER_SETTINGS)
    assert (shown["num.partitions"].value, shown["num.partitions"].source) == ("3", Source.DYNAMIC_BROKER)
    assert [place.value for place in shown["num.partitions"].synonyms] == ["3", "2", "1"]
    assert (shown["broker.rack"].value, shown["broker.rack"].source) == (None, Source.DEFAULT)


def test_a_list_that_must_not_be_empty() -> None:
    with pytest.raises(SettingError, match=r"group\.consumer\.assignors"):
        check_static({"group.consumer.assignors": " ,"})
    assert resolve_broker({"group.consumer.assignors": "range"}, {}).consumer_assignors == ("range",)


def test_what_is_in_force_follows_from_the_fields() -> None:
    assert "retention.ms" in TOPIC_IN_FORCE
    assert "flush.ms" not in TOPIC_IN_FORCE
    assert {"log.retention.hours", "message.max.bytes", "num.partitions"} <= BROKER_IN_FORCE
    assert "num.io.threads" not in BROKER_IN_FORCE


def test_every_field_is_read_by_the_code() -> None:
    """A setting that docs/settings.md calls in force changes something: its field is read outside configs.py."""
    read: set[str] = set()
    package = Path(configs.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name != "configs.py" or path.parent.name != "engine":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unread = {*TopicSettings._fields, *BrokerSettings._fields} - read
    assert unread == set()
