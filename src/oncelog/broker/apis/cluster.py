"""ApiVersions 0-4, Metadata 0-13, DescribeCluster 0-2, DescribeTopicPartitions 0, DescribeLogDirs 1-5, and what a single node
answers to those who ask about leaders and replicas: ElectLeaders 0-2, AlterPartitionReassignments 0-1,
ListPartitionReassignments 0 (rules P10, T10).

Every partition is led by this node, in leader epoch 0, with this node as its only replica. Topics are shown when they are
synced: a topic that a crash could take back is not seen by anyone (rule D2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from oncelog.broker.apis.parts import in_parts
from oncelog.broker.apis.topics import topic_weight
from oncelog.broker.call import Call, given_id
from oncelog.engine.catalog import NewTopic, check_name, decide_create_topics
from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import LogId
from oncelog.model.limits import RESOURCES_PER_REQUEST_MAX
from oncelog.model.rows import Topic
from oncelog.wire.metadata import OPERATIONS_UNASKED, BrokerAddress, metadata_reply, topic_piece
from oncelog.wire.replies import Each

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

#: Features as (name, lowest level, highest level); the highest is in force. transaction.version 2 is TV2 (rule T10).
FEATURES: Final = (("group.version", 0, 1), ("transaction.version", 0, 2))
#: Clients believe the features only with an epoch that is not negative (rule T10); they never change here.
_FEATURES_EPOCH: Final = 1
_SOFTWARE: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")

#: Sets of Kafka's AclOperation numbers as bits: without access control everybody may do everything.
_TOPIC_OPERATIONS: Final = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))
_CLUSTER_OPERATIONS: Final = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))

_ENDPOINT_BROKERS: Final = 1
_ENDPOINT_CONTROLLERS: Final = 2
_ELECTION_TYPES: Final = (0, 1)
#: What is looked up in one turn of the loop.
_TOPICS_A_STEP: Final = 250
_PARTITIONS_A_STEP: Final = 5_000


def api_versions(broker: Broker, call: Call) -> None:
    """0-4. From 3 with features, and a check of how the client names itself; 4 may say that a feature begins at 0.

    A version that is not known is answered as version 0 with error 35, before any handler.
    """
    from oncelog.broker.apis import HANDLERS

    request = call.request
    if call.version >= 3 and not all(
        _SOFTWARE.fullmatch(name) for name in (request.client_software_name, request.client_software_version)
    ):
        broker.answer(call, {"error_code": ErrorCode.INVALID_REQUEST, "api_keys": [], "throttle_time": 0})
        return
    tree = {
        "error_code": ErrorCode.NONE,
        "api_keys": [
            {
                "api_key": key,
                "min_version": api.version_min if api.version_min_shown is None else api.version_min_shown,
                "max_version": api.version_max,
            }
            for key, api in sorted(HANDLERS.items())
        ],
        "throttle_time": 0,
        # Readers of version 3 take no feature that begins at 0.
        "supported_features": [
            {"name": name, "min_version": max(low, 1 if call.version < 4 else 0), "max_version": high}
            for name, low, high in FEATURES
        ],
        "finalized_features_epoch": _FEATURES_EPOCH,
        "finalized_features": [
            {"name": name, "max_version_level": high, "min_version_level": high} for name, _, high in FEATURES
        ],
    }
    broker.answer(call, tree)


# -- Metadata ---------------------------------------------------------------------------------------------------------


class TopicPieces:
    """Encoded topics of Metadata replies, kept while their rows stay the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool, str], tuple[Topic, bytes]] = {}

    def piece(self, version: int, topic: Topic, *, leader_id: int, with_operations: bool, kept_max: int) -> bytes:
        """The topic's piece; at most ``kept_max`` pieces are kept."""
        key = (version, with_operations, topic.name)
        kept = self._kept.get(key)
        if kept is not None and kept[0] is topic:
            return kept[1]
        if len(self._kept) >= kept_max:
            self._kept.clear()
        operations = _TOPIC_OPERATIONS if with_operations else OPERATIONS_UNASKED
        piece = topic_piece(version, topic.name, topic.id, len(topic.logs), leader_id=leader_id, operations=operations)
        self._kept[key] = topic, piece
        return piece


#: Versions that clients in use send at the same time; more only makes pieces be encoded again.
_VERSIONS_KEPT: Final = 4
_PIECES_KEPT_MIN: Final = 1_000
_NULL_NAME_VERSION: Final = 12


def metadata(broker: Broker, call: Call) -> None:
    """0-13. 0 asks for all topics with an empty list, later ones with null; from 4 the client may forbid to make topics;
    8-10 with the cluster's operations (later DescribeCluster has them); from 10 topics by id; 13 with an error of its own.

    An unknown topic is made if the client and auto.create.topics.enable allow it, and is answered in the same reply.
    """
    broker.in_steps(call, _metadata(broker, call))


def _metadata(broker: Broker, call: Call) -> Iterator[None]:
    request, version = call.request, call.version
    state = broker.state
    with_operations = getattr(request, "include_topic_authorized_operations", False)
    kept_max = _PIECES_KEPT_MIN + _VERSIONS_KEPT * len(state.topics)

    def shown(topic: Topic) -> bytes:
        return broker.pieces.piece(
            version, topic, leader_id=broker.node_id, with_operations=with_operations, kept_max=kept_max
        )

    pieces: list[bytes] = []
    if request.topics is None or (version == 0 and not request.topics):
        for topic in list(state.topics.values()):
            pieces.append(shown(topic))
            if len(pieces) % _TOPICS_A_STEP == 0:
                yield
    else:
        yield from _make_missing(broker, call)
        # Each topic once, however often it is named: a short request must not ask for a huge reply.
        for name, topic_id in dict.fromkeys(
            (one.name, given_id(getattr(one, "topic_id", None))) for one in request.topics
        ):
            if len(pieces) % _TOPICS_A_STEP == _TOPICS_A_STEP - 1:
                yield
            found = _find(broker, call, name, topic_id)
            if isinstance(found, Topic):
                pieces.append(shown(found))
            else:
                pieces.append(_missing_piece(version, *found))
    with_cluster = getattr(request, "include_cluster_authorized_operations", False)
    body = metadata_reply(
        version,
        [BrokerAddress(broker.node_id, *broker.advertised)],
        pieces,
        cluster_id=broker.cluster_id,
        controller_id=broker.node_id,
        operations=_CLUSTER_OPERATIONS if with_cluster else OPERATIONS_UNASKED,
    )
    broker.reply_catalog(call, body)


def _missing_piece(version: int, name: str | None, topic_id: UUID | None, code: ErrorCode) -> bytes:
    if version < _NULL_NAME_VERSION:
        name = name or ""
    return topic_piece(version, name, topic_id, 0, leader_id=-1, error_code=code)


def _find(
    broker: Broker, call: Call, name: str | None, topic_id: UUID | None
) -> Topic | tuple[str | None, UUID | None, ErrorCode]:
    """The topic, or what to say about it: (name, id, error)."""
    state = broker.state
    if topic_id is not None:
        known = state.topic_names.get(topic_id)
        return state.topics[known] if known is not None else (None, topic_id, ErrorCode.UNKNOWN_TOPIC_ID)
    name = name or ""
    topic = state.topics.get(name)
    if topic is not None:
        return topic
    try:
        check_name(name)
    except Refusal as no:
        return name, None, broker.refused(call, no)
    return name, None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def _make_missing(broker: Broker, call: Call) -> Iterator[None]:
    """Make the topics that are asked for and may be made; those that can't be made stay unknown."""
    request, state = call.request, broker.state
    if not (state.settings.is_auto_create and getattr(request, "allow_auto_topic_creation", True)):
        return
    missing = {asked.name for asked in request.topics if asked.name and asked.name not in state.topics}
    if len(missing) > RESOURCES_PER_REQUEST_MAX:
        return
    weight = topic_weight(-1, state.settings.partitions_default)
    for number, some in enumerate(in_parts(sorted(missing), lambda _: weight)):
        if number:
            yield
        wanted = [NewTopic(name, broker.new_id()) for name in some]
        decision = decide_create_topics(
            state, wanted, node_id=broker.node_id, validate_only=False, now_ms=broker.now_ms()
        )
        if decision.is_durable:
            broker.commit(None, decision._replace(reply=None))


# -- the cluster ------------------------------------------------------------------------------------------------------


def describe_cluster(broker: Broker, call: Call) -> None:
    """0-2. From 1 brokers or controllers (KIP-919): a broker doesn't speak for controllers. 2 may list fenced brokers."""
    request = call.request
    endpoint = getattr(request, "endpoint_type", _ENDPOINT_BROKERS)
    host, port = broker.advertised
    tree: dict[str, Any] = {
        "throttle_time": 0,
        "error_code": ErrorCode.NONE,
        "error_message": None,
        "endpoint_type": endpoint,
        "cluster_id": broker.cluster_id,
        "controller_id": broker.node_id,
        "brokers": [{"broker_id": broker.node_id, "host": host, "port": port, "rack": None, "is_fenced": False}],
        "cluster_authorized_operations": (
            _CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else OPERATIONS_UNASKED
        ),
    }
    if endpoint != _ENDPOINT_BROKERS:
        is_controller = endpoint == _ENDPOINT_CONTROLLERS
        code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if is_controller else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        why = "this is a broker; ask it for brokers, endpoint type 1"
        tree |= {"error_code": code, "error_message": why, "controller_id": -1, "brokers": []}
    broker.answer_catalog(call, tree)


def describe_topic_partitions(broker: Broker, call: Call) -> None:
    """0. Topics by name in order, from the cursor on, as many partitions as asked for; no topics: all of them (KIP-966)."""
    broker.in_steps(call, _describe_topic_partitions(broker, call))


def _describe_topic_partitions(broker: Broker, call: Call) -> Iterator[None]:
    request, state = call.request, broker.state
    room = max(1, min(request.response_partition_limit, state.settings.partitions_described_max))
    names = sorted({topic.name for topic in request.topics} or state.topics)
    cursor = request.cursor
    if cursor is not None and cursor.partition_index < 0:
        topics = [_described_topic(name, None, ErrorCode.INVALID_REQUEST) for name in names]
        yield from broker.answering_catalog(call, {"throttle_time": 0, "topics": topics, "next_cursor": None})
        return
    described: list[dict[str, Any]] = []
    next_cursor = None
    for number, name in enumerate(names, 1):
        if number % _TOPICS_A_STEP == 0:
            yield
        if cursor is not None and name < cursor.topic_name:
            continue
        found = _find(broker, call, name, None)
        if not isinstance(found, Topic):
            described.append(_described_topic(name, None, found[2]))
            continue
        first = cursor.partition_index if cursor is not None and name == cursor.topic_name else 0
        if room == 0:
            next_cursor = {"topic_name": name, "partition_index": first}
            break
        end = min(len(found.logs), first + room)
        tree = _described_topic(name, found.id, ErrorCode.NONE)
        tree["partitions"] = [_described_partition(broker.node_id, index) for index in range(first, end)]
        described.append(tree)
        room -= max(0, end - first)
        if end < len(found.logs):
            next_cursor = {"topic_name": name, "partition_index": end}
            break
    yield from broker.answering_catalog(call, {"throttle_time": 0, "topics": described, "next_cursor": next_cursor})


def _described_topic(name: str, topic_id: UUID | None, code: ErrorCode) -> dict[str, Any]:
    return {
        "error_code": code,
        "name": name,
        "topic_id": topic_id,
        "is_internal": False,
        "partitions": [],
        "topic_authorized_operations": OPERATIONS_UNASKED if code else _TOPIC_OPERATIONS,
    }


def _described_partition(node_id: int, index: int) -> dict[str, Any]:
    return {
        "error_code": ErrorCode.NONE,
        "partition_index": index,
        "leader_id": node_id,
        "leader_epoch": 0,
        "replica_nodes": [node_id],
        "isr_nodes": [node_id],
        "eligible_leader_replicas": [],
        "last_known_elr": [],
        "offline_replicas": [],
    }


def describe_log_dirs(broker: Broker, call: Call) -> None:
    """1-5: one folder holds everything; null asks for all topics. From 3 with an error of its own, 4 with sizes of the disk,
    which are not told (-1). Partitions that are not here are left out, as in Kafka.
    """
    broker.in_steps(call, _describe_log_dirs(broker, call))


def _describe_log_dirs(broker: Broker, call: Call) -> Iterator[None]:
    state = broker.state
    here: list[tuple[str, Sequence[tuple[int, LogId]]]] = []
    if call.request.topics is None:
        here = [(topic.name, tuple(enumerate(topic.logs))) for topic in state.topics.values()]
    else:
        named: dict[str, dict[int, None]] = {}
        for topic in call.request.topics:
            named.setdefault(topic.topic, {}).update(dict.fromkeys(topic.partitions))
        looked_at = 0
        for name, indexes in named.items():
            looked_at += len(indexes)
            if looked_at > _PARTITIONS_A_STEP:
                looked_at = 0
                yield
            logs = [(index, log.id) for index in indexes if (log := state.log_of(name, index)) is not None]
            if logs:
                here.append((name, logs))

    def of_topic(found: tuple[str, Sequence[tuple[int, LogId]]]) -> dict[str, Any]:
        return {"name": found[0], "partitions": Each(partial(_partition_size, broker), found[1])}

    result = {
        "error_code": ErrorCode.NONE,
        "log_dir": broker.folder,
        "topics": Each(of_topic, here),
        "total_bytes": -1,
        "usable_bytes": -1,
        "is_cordoned": False,
    }
    yield from broker.answering_read(call, {"throttle_time": 0, "error_code": ErrorCode.NONE, "results": [result]})


def _partition_size(broker: Broker, found: tuple[int, LogId]) -> dict[str, Any]:
    """The log may be gone by now; then it has no bytes."""
    index, log = found
    return {
        "partition_index": index,
        "partition_size": broker.storage.bytes_retained(log),
        "offset_lag": 0,
        "is_future_key": False,
    }


# -- leaders and replicas: one node has nothing to choose --------------------------------------------------------------


def elect_leaders(broker: Broker, call: Call) -> None:
    """0-2. 0 elects preferred leaders, from 1 unclean ones too. The only replica leads already: nothing changes."""
    request, state = call.request, broker.state
    if getattr(request, "election_type", 0) not in _ELECTION_TYPES:
        tree: dict[str, Any] = {"error_code": ErrorCode.INVALID_REQUEST, "replica_election_results": []}
        broker.answer(call, {"throttle_time": 0, **tree})
        return

    def elected(topic: str, index: int) -> dict[str, Any]:
        code = ErrorCode.ELECTION_NOT_NEEDED
        if state.log_of(topic, index) is None:
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return {"partition_id": index, "error_code": code, "error_message": code.sentence}

    def of_topic(topic: Any) -> dict[str, Any]:
        return {"topic": topic.topic, "partition_result": Each(partial(elected, topic.topic), topic.partitions)}

    # Null asks for all partitions; then only those with a new leader are told, and there are none.
    results = Each(of_topic, request.topic_partitions or ())
    broker.answer_catalog(call, {"throttle_time": 0, "error_code": ErrorCode.NONE, "replica_election_results": results})


def alter_partition_reassignments(broker: Broker, call: Call) -> None:
    """0-1. To this node alone: done already. To any other: refused. Nothing can be cancelled, for nothing moves."""

    def reassigned(topic: str, part: Any) -> dict[str, Any]:
        code = ErrorCode.NONE
        if broker.state.log_of(topic, part.partition_index) is None:
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif part.replicas is None:
            code = ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
        elif tuple(part.replicas) != (broker.node_id,):
            code = ErrorCode.INVALID_REPLICA_ASSIGNMENT
        why = code.sentence if code else None
        return {"partition_index": part.partition_index, "error_code": code, "error_message": why}

    def of_topic(topic: Any) -> dict[str, Any]:
        return {"name": topic.name, "partitions": Each(partial(reassigned, topic.name), topic.partitions)}

    tree = {
        "throttle_time": 0,
        "allow_replication_factor_change": getattr(call.request, "allow_replication_factor_change", True),
        "error_code": ErrorCode.NONE,
        "error_message": None,
        "responses": Each(of_topic, call.request.topics),
    }
    broker.answer_catalog(call, tree)


def list_partition_reassignments(broker: Broker, call: Call) -> None:
    """0. No partition is ever moving."""
    broker.answer(call, {"throttle_time": 0, "error_code": ErrorCode.NONE, "error_message": None, "topics": []})
