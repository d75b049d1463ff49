"""Topics and their settings: made, grown, deleted, changed; records deleted.

What lives here: one decide function for each administrative request. A request names several resources and each has its own
error, as in Kafka: what is refused stands in the reply tree, the rest is one Decision, so one journal entry. A topic's id
comes from the caller, its logs' numbers from the state. One node is all there is: the replication factor is 1.

May not know: who asks, storage. KIPs 4, 195, 107, 339, 516, 599.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple
from uuid import UUID

from oncelog.engine import configs
from oncelog.engine.decision import Decision
from oncelog.engine.state import State
from oncelog.model.errors import ErrorCode, Refusal, SettingError
from oncelog.model.ids import LogId, TopicPartition
from oncelog.model.limits import (
    PARTITIONS_MAX,
    PARTITIONS_PER_TOPIC_MAX,
    RESOURCES_PER_REQUEST_MAX,
    TOPIC_NAME_CHARACTERS_MAX,
    TOPICS_MAX,
)
from oncelog.model.rows import GroupOffsetDeleted, LogStart, Row, Topic, TopicDeleted

_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
_UNSET: Final = -1
#: Kafka keeps its own metadata under this name and refuses it to all others.
_RESERVED: Final = "__cluster_metadata"


class NewTopic(NamedTuple):
    """A topic to make. ``assignments``: (partition, nodes) as the client wants them, or none. -1: the broker's default."""

    name: str
    id: UUID
    partitions: int = _UNSET
    replication_factor: int = _UNSET
    configs: tuple[tuple[str, str | None], ...] = ()
    assignments: tuple[tuple[int, tuple[int, ...]], ...] = ()


def check_name(name: str) -> None:
    """Whether a topic may have this name. Raises Refusal(INVALID_TOPIC_EXCEPTION)."""
    if not name or name in (".", ".."):
        why = f"{name!r} can't be a topic's name"
    elif len(name) > TOPIC_NAME_CHARACTERS_MAX:
        why = f"a topic's name has at most {TOPIC_NAME_CHARACTERS_MAX} characters, this one {len(name)}"
    elif not _NAME.fullmatch(name):
        why = f"{name[:50]!r}: a topic's name is made of letters, digits, '.', '_' and '-' only"
    else:
        return
    raise Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, why)


class Naming:
    """What a whole request names. Who decides about a part of it must know: each resource once, and not too many in all."""

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self._counts = Counter(keys)
        self._total = self._counts.total()

    def check(self, key: Hashable) -> None:
        """Whether the request may name this resource. Raises Refusal."""
        if self._total > RESOURCES_PER_REQUEST_MAX:
            raise Refusal(
                ErrorCode.POLICY_VIOLATION,
                f"{self._total} topics or resources in one request; send at most {RESOURCES_PER_REQUEST_MAX} at once",
            )
        if self._counts[key] > 1:
            raise Refusal(ErrorCode.INVALID_REQUEST, "it is named more than once in the request")


# -- topics are made --------------------------------------------------------------------------------------------------


class Draft:
    """What one request has added so far: the next topic of it must fit in beside the ones before.

    A request that only wants to know is decided in parts with the same draft; else each part has its own, for what the
    parts before have added is in the state then.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.rows: list[Row] = []
        self.topics = len(state.topics)
        self.partitions = len(state.logs)
        self.log_id_next = state.log_id_next
        self._names: dict[str, str] | None = None
        self._shown: dict[frozenset[tuple[str, str]], list[dict[str, Any]]] = {}

    def take_logs(self, count: int) -> tuple[LogId, ...]:
        """Numbers for so many new partitions. Raises Refusal(POLICY_VIOLATION) above the bound."""
        if self.partitions + count > PARTITIONS_MAX:
            raise Refusal(
                ErrorCode.POLICY_VIOLATION,
                f"this broker holds at most {PARTITIONS_MAX} partitions, has {self.partitions}, asked for {count} more",
            )
        first = self.log_id_next
        self.partitions += count
        self.log_id_next = LogId(first + count)
        return tuple(LogId(number) for number in range(first, first + count))

    def shown(self, own: dict[str, str]) -> list[dict[str, Any]]:
        """The settings of a new topic as the reply shows them; most topics of a request have the same."""
        key = frozenset(own.items())
        if key not in self._shown:
            self._shown[key] = [
                {
                    "name": one.setting.name,
                    "value": one.value,
                    "read_only": False,
                    "config_source": one.source,
                    "is_sensitive": False,
                }
                for one in configs.show_topic(self.state.static_configs, self.state.dynamic_configs, own)
            ]
        return self._shown[key]

    def check_collision(self, name: str) -> None:
        """'a.b' and 'a_b' would share their metrics' names in Kafka: only one of them may exist."""
        if "." not in name and "_" not in name:
            return
        if self._names is None:
            self._names = {other.replace(".", "_"): other for other in self.state.topics}
        other = self._names.setdefault(name.replace(".", "_"), name)
        if other != name:
            raise Refusal(
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                f"{name!r} collides with the topic {other!r}: '.' and '_' count as the same",
            )


def decide_create_topics(
    state: State,
    wanted: Sequence[NewTopic],
    *,
    node_id: int,
    validate_only: bool,
    now_ms: int,
    naming: Naming | None = None,
    draft: Draft | None = None,
) -> Decision:
    """Make topics. The reply is CreateTopics' tree; what is refused has its own error there.

    ``wanted`` may be a part of a request: ``naming`` is the whole then, and ``draft`` that of the parts before.
    """
    naming = naming or Naming(topic.name for topic in wanted)
    draft = draft or Draft(state)
    results: dict[str, dict[str, Any]] = {}
    for topic in wanted:
        try:
            naming.check(topic.name)
            results[topic.name] = _create(draft, topic, node_id, now_ms)
        except Refusal as no:
            results[topic.name] = {
                "name": topic.name,
                "topic_id": None,
                "error_code": no.code,
                "error_message": no.why,
                "num_partitions": _UNSET,
                "replication_factor": _UNSET,
                "configs": [],
            }
    reply = {"throttle_time": 0, "topics": list(results.values())}
    return Decision(rows=() if validate_only else tuple(draft.rows), reply=reply)


def _create(draft: Draft, wanted: NewTopic, node_id: int, now_ms: int) -> dict[str, Any]:
    """Add the topic's row to the draft, or raise Refusal; the result's tree."""
    state, name = draft.state, wanted.name
    check_name(name)
    if name == _RESERVED:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{name} is Kafka's own name")
    if name in state.topics:
        raise Refusal(ErrorCode.TOPIC_ALREADY_EXISTS, f"the topic {name!r} exists")
    own = _given_configs(wanted)
    partitions = _partitions_of(wanted, state.settings.partitions_default, node_id)
    draft.check_collision(name)
    if draft.topics >= TOPICS_MAX:
        raise Refusal(ErrorCode.POLICY_VIOLATION, f"this broker holds at most {TOPICS_MAX} topics")
    draft.rows.append(Topic(name, wanted.id, draft.take_logs(partitions), own, now_ms))
    draft.topics += 1
    return {
        "name": name,
        "topic_id": wanted.id,
        "error_code": ErrorCode.NONE,
        "error_message": None,
        "num_partitions": partitions,
        "replication_factor": 1,
        "configs": draft.shown(own),
    }


def _given_configs(wanted: NewTopic) -> dict[str, str]:
    unset = [name for name, value in wanted.configs if value is None]
    if unset:
        raise Refusal(ErrorCode.INVALID_CONFIG, f"null is no value for {configs.brief(', '.join(unset))}")
    own = {name: value for name, value in wanted.configs if value is not None}
    _check(own)
    return own


def _check(own: Mapping[str, str]) -> None:
    try:
        configs.check_topic(own)
    except SettingError as error:
        raise Refusal(ErrorCode.INVALID_CONFIG, str(error)) from None


def _partitions_of(wanted: NewTopic, default: int, node_id: int) -> int:
    """How many partitions the topic gets. Raises Refusal."""
    count, factor = wanted.partitions, wanted.replication_factor
    if wanted.assignments:
        if count != _UNSET or factor != _UNSET:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                "with an assignment of replicas, the number of partitions and the replication factor must both be -1",
            )
        indexes = [index for index, _ in wanted.assignments]
        if sorted(indexes) != list(range(len(indexes))):
            raise Refusal(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "assign each partition from 0 on, once")
        for index, nodes in wanted.assignments:
            _check_nodes(index, nodes, node_id)
        count = len(indexes)
    elif factor < _UNSET or factor == 0:
        raise Refusal(ErrorCode.INVALID_REPLICATION_FACTOR, "the replication factor is 1, or -1 for the default")
    elif count < _UNSET or count == 0:
        raise Refusal(ErrorCode.INVALID_PARTITIONS, "a topic has at least 1 partition; -1 takes the default")
    elif factor > 1:
        raise Refusal(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"replication factor {factor}, but this broker is one node: ask for 1, or for -1 to take the default",
        )
    elif count == _UNSET:
        count = default
    if count > PARTITIONS_PER_TOPIC_MAX:
        raise Refusal(ErrorCode.INVALID_PARTITIONS, f"a topic has at most {PARTITIONS_PER_TOPIC_MAX} partitions")
    return count


def _check_nodes(index: int, nodes: Iterable[int], node_id: int) -> None:
    if tuple(nodes) != (node_id,):
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"partition {index} is wanted on nodes {configs.brief(str(list(nodes)))}; the only node is {node_id}",
        )


# -- partitions are added ---------------------------------------------------------------------------------------------


class MorePartitions(NamedTuple):
    """A topic shall have so many partitions in all; ``assignments`` are the nodes of each new one, or None."""

    topic: str
    partitions: int
    assignments: tuple[tuple[int, ...], ...] | None = None


def decide_create_partitions(
    state: State,
    wanted: Sequence[MorePartitions],
    *,
    node_id: int,
    validate_only: bool,
    naming: Naming | None = None,
    draft: Draft | None = None,
) -> Decision:
    """Add partitions to topics. The reply is CreatePartitions' tree; ``naming`` and ``draft`` as for new topics."""
    naming = naming or Naming(more.topic for more in wanted)
    draft = draft or Draft(state)
    results: dict[str, dict[str, Any]] = {}
    for more in wanted:
        code, why = ErrorCode.NONE, None
        try:
            naming.check(more.topic)
            _grow(draft, more, node_id)
        except Refusal as no:
            code, why = no.code, no.why
        results[more.topic] = {"name": more.topic, "error_code": code, "error_message": why}
    reply = {"throttle_time": 0, "results": list(results.values())}
    return Decision(rows=() if validate_only else tuple(draft.rows), reply=reply)


def _grow(draft: Draft, more: MorePartitions, node_id: int) -> None:
    topic = draft.state.topics.get(more.topic)
    if topic is None:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"no topic {configs.brief(more.topic)!r}")
    added = more.partitions - len(topic.logs)
    if added <= 0:
        raise Refusal(
            ErrorCode.INVALID_PARTITIONS,
            f"the topic has {len(topic.logs)} partitions; {more.partitions} in all would not be more",
        )
    if more.partitions > PARTITIONS_PER_TOPIC_MAX:
        raise Refusal(ErrorCode.INVALID_PARTITIONS, f"a topic has at most {PARTITIONS_PER_TOPIC_MAX} partitions")
    if more.assignments is not None:
        if len(more.assignments) != added:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{added} partitions to add, {len(more.assignments)} assigned"
            )
        for at, nodes in enumerate(more.assignments):
            _check_nodes(len(topic.logs) + at, nodes, node_id)
    logs = (*topic.logs, *draft.take_logs(added))
    draft.rows.append(Topic(topic.name, topic.id, logs, topic.configs, topic.created_ms))


# -- topics are deleted -----------------------------------------------------------------------------------------------


class OldTopic(NamedTuple):
    """A topic to delete, by its name or by its id."""

    name: str | None
    id: UUID | None = None


def decide_delete_topics(state: State, wanted: Sequence[OldTopic], *, naming: Naming | None = None) -> Decision:
    """Delete topics and the offsets that groups have committed for them. The reply is DeleteTopics' tree.

    Pending offsets go with the topic, their group stays with its transaction (rule O5). A transaction that is open on the topic
    simply has one log less.
    """
    naming = naming or Naming(topic_of(state, old) for old in wanted)
    deleted: dict[str, Row] = {}
    results: list[dict[str, Any]] = []
    refused: set[OldTopic] = set()
    for old in wanted:
        name, topic_id, code, why = old.name, old.id, ErrorCode.NONE, None
        try:
            naming.check(topic_of(state, old))
            topic = _deletable(state, old)
            name, topic_id = topic.name, topic.id
            deleted[name] = TopicDeleted(name)
        except Refusal as no:
            if old in refused:
                continue
            refused.add(old)
            code, why = no.code, no.why
        results.append({"name": name, "topic_id": topic_id, "error_code": code, "error_message": why})
    rows = (*deleted.values(), *_offsets_of(state, deleted.keys()))
    return Decision(rows=rows, reply={"throttle_time": 0, "responses": results})


def topic_of(state: State, old: OldTopic) -> str | UUID | None:
    """What stands for the topic, whichever way it is named."""
    if old.name is not None:
        return old.name
    return state.topic_names.get(old.id, old.id) if old.id is not None else None


def _deletable(state: State, old: OldTopic) -> Topic:
    if (old.name is None) == (old.id is None):
        raise Refusal(ErrorCode.INVALID_REQUEST, "name each topic either by its name or by its id")
    if not state.settings.is_deletion_allowed:
        raise Refusal(ErrorCode.TOPIC_DELETION_DISABLED, "delete.topic.enable is false")
    if old.id is not None and old.id not in state.topic_names:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {old.id}")
    name = old.name if old.name is not None else state.topic_names[old.id] if old.id is not None else ""
    topic = state.topics.get(name)
    if topic is None:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"no topic {configs.brief(name)!r}")
    return topic


def _offsets_of(state: State, names: Set[str]) -> list[Row]:
    """Rows that delete what groups have committed for some topics."""
    return [
        GroupOffsetDeleted(group, name, index)
        for name in names
        for group in state.offsets.groups_of(name)
        for index in range(len(state.topics[name].logs))
        if TopicPartition(name, index) in state.offsets.committed[group]
    ]


# -- records are deleted ----------------------------------------------------------------------------------------------


class DeleteUpTo(NamedTuple):
    """Records of a partition before ``offset`` shall go; -1 is the high watermark."""

    topic: str
    partition: int
    offset: int


def decide_delete_records(state: State, wanted: Sequence[DeleteUpTo]) -> Decision:
    """Move the starts of logs. The reply is a list of (low watermark, ErrorCode), one for each of ``wanted``."""
    starts: dict[LogId, int] = {}
    results: list[tuple[int, ErrorCode]] = []
    for one in wanted:
        log = state.log_of(one.topic, one.partition)
        if log is None:
            results.append((-1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            continue
        if log.settings.is_compacted and not log.settings.is_deleted_by_age:
            results.append((-1, ErrorCode.POLICY_VIOLATION))
            continue
        offset = log.high_watermark if one.offset == -1 else one.offset
        if not 0 <= offset <= log.high_watermark:
            results.append((-1, ErrorCode.OFFSET_OUT_OF_RANGE))
            continue
        start = max(offset, starts.get(log.id, log.offset_start))
        if start > log.offset_start:
            starts[log.id] = start
        results.append((start, ErrorCode.NONE))
    return Decision(rows=tuple(LogStart(log, start) for log, start in starts.items()), reply=results)
