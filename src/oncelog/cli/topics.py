"""``oncelog topics``: what topics there are, how far each partition reaches, making, trimming and deleting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from oncelog.cli.options import BOOTSTRAP, EXIT_CODES, AsJson, Bootstrap

if TYPE_CHECKING:
    from oncelog.cli.cluster import Cluster

_LIST_OFFSETS: Final = 2
_CREATE_TOPICS: Final = 19
_DELETE_TOPICS: Final = 20
_DELETE_RECORDS: Final = 21
_DESCRIBE_CONFIGS: Final = 32
_TOPIC_RESOURCE: Final = 2
_SET_ON_TOPIC: Final = 1
_EARLIEST: Final = -2
_LATEST: Final = -1
_TIMEOUT_MS: Final = 15_000
_COMPACTED_ONLY: Final = (
    "The topic is only compacted: set cleanup.policy=compact,delete and retention.ms=-1 on it in one request (else what is "
    "older than a week goes too), trim, then set both back."
)

app = App(name="topics", help=f"List, create, describe and delete the topics of a running cluster.\n\n{EXIT_CODES}")


@app.command(name="list")
def list_topics(*, bootstrap: Bootstrap = BOOTSTRAP, json: AsJson = False) -> None:
    """List all topics with their numbers of partitions."""
    from oncelog.cli.cluster import Cluster
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        found = sorted(cluster.topics(), key=lambda topic: topic.name)
    show(
        ({"topic": one.name, "partitions": len(one.partitions)} for one in found), ("topic", "partitions"), is_json=json
    )


@app.command
def describe(topic: str, /, *, bootstrap: Bootstrap = BOOTSTRAP, json: AsJson = False) -> None:
    """Show how far each partition of a topic reaches, and what is set on the topic.

    START is the first offset that is kept, STABLE where read_committed readers must stop for now, END the next offset to be
    written. STABLE before END: a transaction is open there; `oncelog transactions list` shows which.

    Parameters
    ----------
    topic
        The topic's name.
    """
    from oncelog.cli.cluster import Cluster
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        rows = [
            {"partition": part.partition_index, "leader": part.leader_id}
            | {
                name: offset_of(cluster, topic, part.partition_index, part.leader_id, timestamp, is_committed)
                for name, timestamp, is_committed in (
                    ("start", _EARLIEST, False),
                    ("stable", _LATEST, True),
                    ("end", _LATEST, False),
                )
            }
            for part in sorted(cluster.topic(topic).partitions, key=lambda part: part.partition_index)
        ]
        configs = _configs(cluster, topic)
    show(rows, ("partition", "leader", "start", "stable", "end"), is_json=json)
    if configs:
        if not json:
            print()
        show(configs, ("setting", "value"), is_json=json)


def offset_of(
    cluster: Cluster, topic: str, partition: int, leader: int, timestamp: int, is_committed: bool = False
) -> int:
    """The offset of a time, or of -2 the start, -1 the end, as a reader of that isolation sees it."""
    from oncelog.cli.cluster import refused

    asked = {"partition_index": partition, "current_leader_epoch": -1, "timestamp": timestamp}
    tree = {
        "replica_id": -1,
        "isolation_level": int(is_committed),
        "topics": [{"name": topic, "partitions": [asked]}],
    }
    reply = cluster.ask(_LIST_OFFSETS, 4, tree, node=leader)
    part = reply.topics[0].partitions[0]
    if part.error_code:
        raise refused(f"offsets of {topic}-{partition}", int(part.error_code))
    offset: int = part.offset
    return offset


def _configs(cluster: Cluster, topic: str) -> list[dict[str, Any]]:
    asked = {"resource_type": _TOPIC_RESOURCE, "resource_name": topic, "configuration_keys": None}
    (result,) = cluster.ask(_DESCRIBE_CONFIGS, 2, {"resources": [asked], "include_synonyms": False}).results
    rows = (row for row in result.configs if row.config_source == _SET_ON_TOPIC)
    return [{"setting": row.name, "value": row.value} for row in sorted(rows, key=lambda row: row.name)]


@app.command
def create(
    *names: str,
    partitions: int = -1,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> None:
    """Create topics.

    Try: oncelog topics create orders --partitions 6 --set retention.ms=604800000

    Parameters
    ----------
    names
        Names of the topics; letters, digits, dots, underscores and hyphens.
    partitions
        Of each topic. Default: the broker's num.partitions.
    set_
        A topic setting under Kafka's name, key=value; may be repeated.
    """
    from oncelog.broker.settings import parse_assignments
    from oncelog.cli.cluster import Cluster, refused

    configs = [{"name": name, "value": value} for name, value in parse_assignments(set_ or []).items()]
    topics = [
        {"name": name, "num_partitions": partitions, "replication_factor": -1, "assignments": (), "configs": configs}
        for name in names
    ]
    with Cluster(bootstrap) as cluster:
        reply = cluster.ask(_CREATE_TOPICS, 5, {"topics": topics, "timeout": _TIMEOUT_MS, "validate_only": False})
    bad = [one for one in reply.topics if one.error_code]
    for one in reply.topics:
        if not one.error_code:
            print(f"created {one.name} with {_count(one.num_partitions, 'partition')}")
    for one in bad:
        raise refused(f"topic {one.name!r} was not created", int(one.error_code), one.error_message)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@app.command
def delete(*names: str, bootstrap: Bootstrap = BOOTSTRAP) -> None:
    """Delete topics with all their records. There is no way back.

    Parameters
    ----------
    names
        Names of the topics.
    """
    from oncelog.cli.cluster import Cluster, refused

    with Cluster(bootstrap) as cluster:
        reply = cluster.ask(_DELETE_TOPICS, 4, {"topic_names": names, "timeout": _TIMEOUT_MS})
    for one in reply.responses:
        if not one.error_code:
            print(f"deleted {one.name}")
    for one in reply.responses:
        if one.error_code:
            raise refused(f"topic {one.name!r} was not deleted", int(one.error_code))


@app.command
def trim(topic: str, /, *, partition: int, before: int, bootstrap: Bootstrap = BOOTSTRAP) -> None:
    """Delete the records of a partition before an offset. There is no way back.

    Try: oncelog topics trim orders --partition 2 --before 4711

    Parameters
    ----------
    topic
        The topic's name.
    partition
        The partition's number.
    before
        The first offset that is kept; -1 deletes all that there is.
    """
    from oncelog.cli.cluster import Cluster, refused
    from oncelog.model.errors import ErrorCode

    with Cluster(bootstrap) as cluster:
        leaders = {part.partition_index: part.leader_id for part in cluster.topic(topic).partitions}
        if partition not in leaders:
            raise refused(f"{topic}-{partition}", 3, f"The topic has partitions 0 to {len(leaders) - 1}.")
        wanted = [{"name": topic, "partitions": [{"partition_index": partition, "offset": before}]}]
        reply = cluster.ask(_DELETE_RECORDS, 1, {"topics": wanted, "timeout": _TIMEOUT_MS}, node=leaders[partition])
    part = reply.topics[0].partitions[0]
    if part.error_code:
        why = _COMPACTED_ONLY if part.error_code == ErrorCode.POLICY_VIOLATION else None
        raise refused(f"records of {topic}-{partition} were not deleted", int(part.error_code), why)
    print(f"{topic}-{partition} begins at {part.low_watermark}")
