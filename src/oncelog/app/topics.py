"""Topics as an application needs them: sources must be there; changelogs and positions are made, compacted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is documented there
from confluent_kafka.cimpl import NewTopic

from oncelog.app.errors import ConfigurationError
from oncelog.app.settings import Cluster

log = logging.getLogger("oncelog.app")

_WAIT_SECONDS: Final = 15.0
_STEP_SECONDS: Final = 5.0
#: So long a topic may be missing before it is called so; first asked again after the pause, which doubles.
MISSING_SECONDS: Final = 3.5
_PAUSE_SECONDS: Final = 0.1
#: Errors of a creation that say nothing about the topic: the connection was cut, or the cluster is moving.
_PASSING: Final = frozenset(
    (
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    )
)


def partition_counts(cluster: Cluster) -> dict[str, int]:
    """Every topic that this login may see, with its partitions. ConfigurationError if no broker answers."""
    client = AdminClient(cluster.for_admin("oncelog-app"))
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            found = client.list_topics(timeout=_STEP_SECONDS).topics
        except KafkaException as failure:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"no broker answers at {cluster.bootstrap}: {failure.args[0].str()}"
                ) from failure
        else:
            return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}


def check_topics(cluster: Cluster, topics: Sequence[str]) -> dict[str, int]:
    """All topics are there: the partitions of each. Else a ConfigurationError that names those missing.

    One that was created a moment ago is waited for: Apache Kafka answers its creation a little before its metadata has it.
    """
    deadline, pause = time.monotonic() + MISSING_SECONDS, _PAUSE_SECONDS
    while True:
        counts = partition_counts(cluster)
        missing = sorted(topic for topic in topics if topic not in counts)
        if not missing:
            return {topic: counts[topic] for topic in topics}
        if time.monotonic() + pause > deadline:
            raise ConfigurationError(
                f"no such topic: {', '.join(missing)}. Create it first, with the partitions that you want"
            )
        time.sleep(pause)
        pause *= 2


def create_compacted(cluster: Cluster, wanted: Mapping[str, int], *, tombstone_seconds: float = 0.0) -> None:
    """Makes the topics (name: partitions) that are not there; those that are must be compacted and have as many partitions.

    ``tombstone_seconds``: so long a topic must keep the record of a deletion. Where a connection is cut on the way, nobody
    knows whether a topic was made, or how: it is looked for, and asked for again.
    """
    client = AdminClient(cluster.for_admin("oncelog-app"))
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return _make_missing(cluster, client, wanted, tombstone_seconds)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() not in _PASSING or time.monotonic() > deadline:
                raise ConfigurationError(f"{', '.join(wanted)} can't be created: {error.str()}") from failure
            log.debug("again: topics %s: %s", list(wanted), error)
            time.sleep(_PAUSE_SECONDS)


def _make_missing(cluster: Cluster, client: AdminClient, wanted: Mapping[str, int], tombstone_seconds: float) -> None:
    """One attempt. Raises KafkaException."""
    counts = partition_counts(cluster)
    for topic, partitions in wanted.items():
        if topic in counts:
            _check_made(client, topic, counts[topic], partitions, tombstone_seconds)
    missing = [NewTopic(topic, count, -1, config=_COMPACTED) for topic, count in wanted.items() if topic not in counts]
    for topic, created in client.create_topics(missing, request_timeout=_WAIT_SECONDS).items() if missing else ():
        try:
            created.result(_WAIT_SECONDS * 2)
        except KafkaException as failure:
            if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            # another worker was first, and may have counted before partitions were added
            _check_made(client, topic, check_topics(cluster, [topic])[topic], wanted[topic], tombstone_seconds)


def _check_made(client: AdminClient, topic: str, found: int, wanted: int, tombstone_seconds: float) -> None:
    if found != wanted:
        raise ConfigurationError(
            f"topic {topic} has {found} partitions and needs {wanted}, as many as what it follows. Where partitions were "
            "added keys have left their state: go on in a topic with as many as before, or begin anew under another name"
        )
    _check_settings(topic, _settings(client, topic), tombstone_seconds)


def check_keys_stay(source: str, now: int, changelog: str, made: int) -> None:
    """A state is of use as long as its source has as many partitions as when it was made. Else a ConfigurationError."""
    if now != made:
        raise ConfigurationError(
            f"{source} has {now} partitions now, and the state in {changelog} was made with {made}: keys have left their "
            f"state, so nothing more is committed. Copy what is not processed yet, by key, into a topic with {made} partitions "
            "and let the processor read that one, under its old name; or begin anew under another name"
        )


def _settings(client: AdminClient, topic: str) -> Mapping[str, str]:
    """None at all where this login may not ask. Raises KafkaException where nobody can tell."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        settings = client.describe_configs([resource], request_timeout=_WAIT_SECONDS)[resource].result(
            _WAIT_SECONDS * 2
        )
    except KafkaException as failure:
        if failure.args[0].code() in _PASSING:
            raise
        log.debug("settings of %s: %s", topic, failure)
        return {}
    return {name: str(entry.value) for name, entry in settings.items() if entry.value is not None}


def _check_settings(topic: str, settings: Mapping[str, str], tombstone_seconds: float) -> None:
    """Only of those that are known."""
    policy = settings.get("cleanup.policy", "compact")
    if policy != "compact":
        raise ConfigurationError(
            f"topic {topic} has cleanup.policy={policy}: what it is to keep would be forgotten. Set it to compact"
        )
    kept_ms = settings.get("delete.retention.ms", "")  # -1: for ever, with some brokers
    if kept_ms.isdigit() and int(kept_ms) < tombstone_seconds * 1000:
        raise ConfigurationError(
            f"topic {topic} has delete.retention.ms={kept_ms}: what was deleted could come back when state is restored. Set it "
            f"to {tombstone_seconds * 1000:.0f} or more, and delete the state's files (*.sqlite in state_folder): they are "
            "copies, and are restored from it"
        )


#: A day, as Kafka's own; a broker may have another for topics that don't say.
_TOMBSTONES_MS: Final = "86400000"
_COMPACTED: Final[dict[str, Any]] = {"cleanup.policy": "compact", "delete.retention.ms": _TOMBSTONES_MS}
