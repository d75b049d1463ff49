"""Settings with Kafka's names: checked, and resolved to what the engine uses.

What lives here: validation of names and values with a sentence that says the next step, resolution (topic over dynamic broker
setting over static broker setting over default), and where each value came from. The tables are in config_tables.py.
A setting is *in force* if a field below is read from it; all others are accepted and shown only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from enum import IntEnum
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS, Kind, Setting, unit_ms
from oncelog.model import limits
from oncelog.model.errors import SettingError

Configs: TypeAlias = Mapping[str, str]

#: Characters of a client's text that a message repeats; longer names are not looked for among the settings.
_REPEATED_MAX: Final = 100
_BOUNDS: Final[dict[Kind, int]] = {Kind.SHORT: 2**15, Kind.INT: 2**31, Kind.LONG: 2**63}


class TopicSettings(NamedTuple):
    """The resolved settings of a topic, as the engine uses them; bytes and ms, -1 means unlimited."""

    batch_bytes_max: int = 1_048_588
    is_log_append_time: bool = False
    timestamp_before_ms_max: int = 2**63 - 1
    timestamp_after_ms_max: int = 3_600_000
    retention_ms: int = 604_800_000
    retention_bytes: int = -1
    is_compacted: bool = False
    is_deleted_by_age: bool = True
    segment_bytes: int = 1_073_741_824
    segment_ms: int = 604_800_000
    tombstone_ms: int = 86_400_000
    compaction_lag_ms_min: int = 0
    compaction_lag_ms_max: int = 2**63 - 1
    dirty_ratio_min: float = 0.5


class BrokerSettings(NamedTuple):
    """The resolved settings of the broker, as the engine uses them (Kafka's names in config_tables.py)."""

    transaction_timeout_ms_max: int = 900_000
    producer_expiration_ms: int = 86_400_000
    transactional_id_expiration_ms: int = 604_800_000
    partitions_default: int = 1
    is_auto_create: bool = True
    is_deletion_allowed: bool = True
    offsets_retention_ms: int = 604_800_000
    empty_group_kept_ms: int = 600_000
    offset_metadata_characters_max: int = limits.OFFSET_METADATA_CHARACTERS_MAX
    group_session_timeout_ms_min: int = 6_000
    group_session_timeout_ms_max: int = 1_800_000
    group_initial_rebalance_delay_ms: int = 0
    group_members_max: int = limits.GROUP_MEMBERS_MAX
    consumer_session_timeout_ms: int = 45_000
    consumer_heartbeat_interval_ms: int = 5_000
    consumer_members_max: int = limits.GROUP_MEMBERS_MAX
    consumer_assignors: tuple[str, ...] = ("uniform", "range")
    flush_interval_ms: int = 10
    retention_check_ms: int = 300_000
    fetch_bytes_max: int = limits.FETCH_BYTES_MAX
    fetch_sessions_max: int = limits.FETCH_SESSIONS_MAX
    connections_max: int = limits.CONNECTIONS_MAX
    partitions_described_max: int = 2_000
    is_compacting: bool = True
    compaction_check_ms: int = 15_000
    compaction_map_bytes: int = 134_217_728


_Value: TypeAlias = Callable[[str], Any]


def _topic_settings(value: _Value) -> TopicSettings:
    policies = value("cleanup.policy")
    return TopicSettings(
        batch_bytes_max=value("max.message.bytes"),
        is_log_append_time=value("message.timestamp.type") == "LogAppendTime",
        timestamp_before_ms_max=value("message.timestamp.before.max.ms"),
        timestamp_after_ms_max=value("message.timestamp.after.max.ms"),
        retention_ms=value("retention.ms"),
        retention_bytes=value("retention.bytes"),
        is_compacted="compact" in policies,
        is_deleted_by_age="delete" in policies,
        segment_bytes=value("segment.bytes"),
        segment_ms=value("segment.ms"),
        tombstone_ms=value("delete.retention.ms"),
        compaction_lag_ms_min=value("min.compaction.lag.ms"),
        compaction_lag_ms_max=value("max.compaction.lag.ms"),
        dirty_ratio_min=value("min.cleanable.dirty.ratio"),
    )


def _broker_settings(value: _Value) -> BrokerSettings:
    return BrokerSettings(
        transaction_timeout_ms_max=value("transaction.max.timeout.ms"),
        producer_expiration_ms=value("producer.id.expiration.ms"),
        transactional_id_expiration_ms=value("transactional.id.expiration.ms"),
        partitions_default=value("num.partitions"),
        is_auto_create=value("auto.create.topics.enable"),
        is_deletion_allowed=value("delete.topic.enable"),
        offsets_retention_ms=value("offsets.retention.minutes") * unit_ms("offsets.retention.minutes"),
        empty_group_kept_ms=value("offsets.retention.check.interval.ms"),
        offset_metadata_characters_max=value("offset.metadata.max.bytes"),
        group_session_timeout_ms_min=value("group.min.session.timeout.ms"),
        group_session_timeout_ms_max=value("group.max.session.timeout.ms"),
        group_initial_rebalance_delay_ms=value("group.initial.rebalance.delay.ms"),
        group_members_max=value("group.max.size"),
        consumer_session_timeout_ms=value("group.consumer.session.timeout.ms"),
        consumer_heartbeat_interval_ms=value("group.consumer.heartbeat.interval.ms"),
        consumer_members_max=value("group.consumer.max.size"),
        consumer_assignors=value("group.consumer.assignors"),
        flush_interval_ms=value("flush.interval.ms"),
        retention_check_ms=value("log.retention.check.interval.ms"),
        fetch_bytes_max=value("fetch.max.bytes"),
        fetch_sessions_max=value("max.incremental.fetch.session.cache.slots"),
        connections_max=value("max.connections"),
        partitions_described_max=value("max.request.partition.size.limit"),
        is_compacting=value("log.cleaner.enable"),
        compaction_check_ms=value("log.cleaner.backoff.ms"),
        compaction_map_bytes=value("log.cleaner.dedupe.buffer.size"),
    )


def brief(text: str) -> str:
    """A client's text as a message repeats it: a reply must not grow with what is wrong in a request."""
    return text if len(text) <= _REPEATED_MAX else text[:_REPEATED_MAX] + "…"


# -- checking ---------------------------------------------------------------------------------------------------------


def parse(setting: Setting, text: str) -> bool | int | float | str | tuple[str, ...]:
    """The value that a text stands for. Raises SettingError that says what would be right."""
    text = text.strip()
    try:
        value = _converted(setting.kind, text)
    except ValueError:
        raise SettingError(f"{setting.name}={brief(text)}: {_wanted(setting)}.") from None
    if isinstance(value, tuple | str):
        wrong = [one for one in (value if isinstance(value, tuple) else (value,)) if one not in setting.choices]
        if (setting.choices and wrong) or len(value) < (setting.low or 0):
            raise SettingError(f"{setting.name}={brief(text)}: {_wanted(setting)}.")
    elif not isinstance(value, bool):
        bound = _BOUNDS.get(setting.kind)
        low = -bound if bound and setting.low is None else setting.low
        high = bound - 1 if bound and setting.high is None else setting.high
        if (low is not None and value < low) or (high is not None and value > high):
            raise SettingError(f"{setting.name}={brief(text)}: {_wanted(setting)}.")
    return value


def _converted(kind: Kind, text: str) -> bool | int | float | str | tuple[str, ...]:
    """Raises ValueError."""
    if kind is Kind.BOOLEAN:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind in (Kind.INT, Kind.LONG, Kind.SHORT):
        if "_" in text:
            raise ValueError(text)
        return int(text)
    if kind is Kind.DOUBLE:
        value = float(text)
        if "_" in text or not isfinite(value):
            raise ValueError(text)
        return value
    if kind is Kind.LIST:
        return tuple(one for part in text.split(",") if (one := part.strip()))
    return text


def _wanted(setting: Setting) -> str:
    if setting.kind is Kind.BOOLEAN:
        return "write true or false"
    if setting.choices:
        several = ", or several of them with commas" if setting.kind is Kind.LIST else ""
        return f"choose {' or '.join(setting.choices)}{several}"
    if setting.kind is Kind.DOUBLE:
        what = "a number"
    elif setting.kind in _BOUNDS:
        what = f"a whole number of {16 if setting.kind is Kind.SHORT else 32 if setting.kind is Kind.INT else 64} bits"
    else:
        return "write text"
    if setting.low is not None and setting.low == setting.high:
        return f"leave it out, it is always {setting.low:g}"
    if setting.low is not None and setting.high is not None:
        return f"write {what} from {setting.low:.0f} to {setting.high:.0f}"
    return f"write {what}" + (f", at least {setting.low:.0f}" if setting.low is not None else "")


def unknown(name: str, known: Mapping[str, Setting], what: str) -> SettingError:
    """The error for a name that is no setting, with the one that was probably meant."""
    if known is BROKER_SETTINGS and name in TOPIC_SETTINGS:
        synonyms = TOPIC_SETTINGS[name].synonyms
        remedy = f"for all topics set {synonyms[0]}" if synonyms else "set it on the topic"
        meant = f"that is a topic setting; {remedy}"
    elif known is TOPIC_SETTINGS and name in BROKER_SETTINGS:
        topics = [setting.name for setting in TOPIC_SETTINGS.values() if name in setting.synonyms]
        meant = f"a topic's is {topics[0]}" if topics else "that is a broker setting; set it on the broker"
    else:
        close = get_close_matches(name, known, n=1, cutoff=0.6) if len(name) <= _REPEATED_MAX else []
        meant = f"did you mean {close[0]}" if close else "docs/settings.md lists all"
    end = "?" if meant.startswith("did") else "."
    return SettingError(f"{what} has no setting {brief(name)!r}: {meant}{end}")


def check_topic(topic: Configs) -> None:
    """Check what is set on a topic. Raises SettingError for unknown names and impossible values."""
    for name, text in topic.items():
        setting = TOPIC_SETTINGS.get(name)
        if setting is None:
            raise unknown(name, TOPIC_SETTINGS, "a topic")
        parse(setting, text)
    value = _reader(TOPIC_SETTINGS, lambda setting: topic.get(setting.name, setting.default))
    low, high = value("min.compaction.lag.ms"), value("max.compaction.lag.ms")
    if low > high:
        raise SettingError(
            f"min.compaction.lag.ms={low} is above max.compaction.lag.ms={high}: lower the first or raise the second."
        )


def check_static(static: Configs) -> None:
    """Check what a broker is started with. Raises SettingError for unknown names and impossible values."""
    for name, text in static.items():
        setting = BROKER_SETTINGS.get(name)
        if setting is None:
            raise unknown(name, BROKER_SETTINGS, "the broker")
        parse(setting, text)


def check_dynamic(dynamic: Configs) -> None:
    """Check what is set on a running broker. Raises SettingError, also for settings that need a restart."""
    check_static(dynamic)
    for name in dynamic:
        if not BROKER_SETTINGS[name].is_dynamic:
            raise SettingError(f"{name} can't be changed while the broker runs: start it with --set {name}=VALUE.")


# -- resolving --------------------------------------------------------------------------------------------------------


def resolve_topic(static: Configs, dynamic: Configs, topic: Configs) -> TopicSettings:
    """The settings in force for a topic: its own over the broker's dynamic over the broker's static ones."""
    if not (static or dynamic or topic):
        return _TOPIC_DEFAULT
    return _topic_settings(_reader(TOPIC_SETTINGS, lambda setting: _topic_text(setting, static, dynamic, topic)))


def resolve_broker(static: Configs, dynamic: Configs) -> BrokerSettings:
    """The settings in force for the broker."""
    return _broker_settings(_reader(BROKER_SETTINGS, lambda it: dynamic.get(it.name, static.get(it.name, it.default))))


def _reader(settings: Mapping[str, Setting], text: Callable[[Setting], str | None]) -> _Value:
    """Gives values that were checked before; bounds are not looked at, so that old rows are always taken."""

    def value(name: str) -> Any:
        setting = settings[name]
        found = text(setting)
        return _converted(setting.kind, found.strip() if found is not None else "")

    return value


def _topic_text(setting: Setting, static: Configs, dynamic: Configs, topic: Configs) -> str | None:
    own = topic.get(setting.name)
    if own is not None:
        return own
    for configs in (dynamic, static):
        for name in setting.synonyms:
            if name in configs:
                return _in_ms(name, configs[name])
    return setting.default


def _in_ms(name: str, text: str) -> str:
    """The value of a broker setting in the unit of the topic setting."""
    unit = unit_ms(name)
    return text if unit == 1 else str(max(-1, int(text) * unit))


# -- showing ----------------------------------------------------------------------------------------------------------


class Source(IntEnum):
    """Where a value comes from; the numbers of DescribeConfigs."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5


class Synonym(NamedTuple):
    """One place that gives a value, best first."""

    name: str
    value: str | None
    source: Source


class Shown(NamedTuple):
    """A setting as it stands: the value in force, where it comes from, and all places that could give it."""

    setting: Setting
    value: str | None
    source: Source
    synonyms: tuple[Synonym, ...]


def show_topic(static: Configs, dynamic: Configs, topic: Configs) -> Iterator[Shown]:
    """Every topic setting as it stands."""
    for setting in TOPIC_SETTINGS.values():
        places: list[Synonym] = []
        if setting.name in topic:
            places.append(Synonym(setting.name, topic[setting.name], Source.TOPIC))
        places += _places(setting.synonyms, static, dynamic, Source.DYNAMIC_DEFAULT_BROKER)
        source = places[0].source if places else Source.DEFAULT
        yield Shown(setting, _topic_text(setting, static, dynamic, topic), source, tuple(places))


def show_broker(static: Configs, dynamic: Configs, *, source_dynamic: Source) -> Iterator[Shown]:
    """Every broker setting as it stands; ``source_dynamic`` is what a dynamic one is called."""
    for setting in BROKER_SETTINGS.values():
        places = tuple(_places((setting.name,), static, dynamic, source_dynamic))
        value, source = (places[0].value, places[0].source) if places else (None, Source.DEFAULT)
        yield Shown(setting, value, source, places)


def _places(names: tuple[str, ...], static: Configs, dynamic: Configs, source_dynamic: Source) -> Iterator[Synonym]:
    for configs, source in ((dynamic, source_dynamic), (static, Source.STATIC_BROKER)):
        for name in names:
            if name in configs:
                yield Synonym(name, configs[name], source)
    for name in names:
        default = BROKER_SETTINGS[name].default
        if default is not None:
            yield Synonym(name, default, Source.DEFAULT)


def _names_read(build: Callable[[_Value], object], settings: Mapping[str, Setting]) -> frozenset[str]:
    names: set[str] = set()

    def text(setting: Setting) -> str | None:
        names.add(setting.name)
        return setting.default

    build(_reader(settings, text))
    return frozenset(names)


_TOPIC_DEFAULT: Final = _topic_settings(_reader(TOPIC_SETTINGS, lambda setting: setting.default))
#: The names that change something here.
TOPIC_IN_FORCE: Final = _names_read(_topic_settings, TOPIC_SETTINGS)
BROKER_IN_FORCE: Final = _names_read(_broker_settings, BROKER_SETTINGS) | {
    name for setting in TOPIC_IN_FORCE for name in TOPIC_SETTINGS[setting].synonyms
}
