"""``oncelog groups``: consumer groups, what they have committed, and how far behind they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from oncelog.cli.options import BOOTSTRAP, EXIT_CODES, AsJson, Bootstrap

if TYPE_CHECKING:
    from oncelog.cli.cluster import Cluster

_OFFSET_FETCH: Final = 9
_DESCRIBE_GROUPS: Final = 15
_LIST_GROUPS: Final = 16
_DESCRIBE_CONSUMER_GROUPS: Final = 69
_LATEST: Final = -1

app = App(name="groups", help=f"List and describe the consumer groups of a running cluster.\n\n{EXIT_CODES}")


@app.command(name="list")
def list_groups(*, bootstrap: Bootstrap = BOOTSTRAP, json: AsJson = False) -> None:
    """List all groups with their states."""
    from oncelog.cli.cluster import Cluster
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        found = sorted(_listed(cluster), key=lambda group: group.group_id)
    rows = ({"group": one.group_id, "state": one.group_state, "protocol": one.protocol_type} for one in found)
    show(rows, ("group", "state", "protocol"), is_json=json)


def _listed(cluster: Cluster) -> Iterator[Any]:
    from oncelog.cli.cluster import refused

    cluster.topics()
    for node in cluster.nodes:
        reply = cluster.ask(_LIST_GROUPS, 5, {"states_filter": (), "types_filter": ()}, node=node)
        if reply.error_code:
            raise refused("the list of groups", int(reply.error_code))
        yield from reply.groups


@app.command
def describe(group: str, /, *, bootstrap: Bootstrap = BOOTSTRAP, json: AsJson = False) -> None:
    """Show what a group has committed of each partition, and how many offsets it is behind.

    LAG counts offsets up to where read_committed readers may read; control records of transactions count too.

    Parameters
    ----------
    group
        The group's id.
    """
    from oncelog.cli.cluster import Cluster, refused
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        node = cluster.coordinator(group, is_transaction=False)
        listed = next((one for one in _listed(cluster) if one.group_id == group), None)
        if listed is None:
            raise refused(f"group {group!r}", 69, "`oncelog groups list` shows what there is.")
        members = _members(cluster, listed, node)
        tree = {"group_id": group, "topics": None, "require_stable": False}
        reply = cluster.ask(_OFFSET_FETCH, 7, tree, node=node)
        if reply.error_code:
            raise refused(f"offsets of group {group!r}", int(reply.error_code))
        rows = list(_offsets(cluster, reply.topics))
    if not json:
        print(f"group {group}: {listed.group_state}, {len(members)} member{'' if len(members) == 1 else 's'}")
    show(rows, ("topic", "partition", "committed", "end", "lag"), is_json=json)
    if members:
        if not json:
            print()
        show(members, ("member", "client", "host"), is_json=json)


def _members(cluster: Cluster, listed: Any, node: int) -> list[dict[str, Any]]:
    """Who is in the group; one of the consumer protocol (KIP-848) is described by an API of its own."""
    if getattr(listed, "group_type", "").lower() == "consumer":
        (found,) = cluster.ask(_DESCRIBE_CONSUMER_GROUPS, 0, {"group_ids": (listed.group_id,)}, node=node).groups
    else:
        (found,) = cluster.ask(_DESCRIBE_GROUPS, 5, {"groups": (listed.group_id,)}, node=node).groups
    return [{"member": one.member_id, "client": one.client_id, "host": one.client_host} for one in found.members]


def _offsets(cluster: Cluster, topics: Any) -> Iterator[dict[str, Any]]:
    from oncelog.cli.topics import offset_of

    for topic in sorted(topics, key=lambda topic: topic.name):
        (found,) = cluster.topics(topic.name)
        leaders = {part.partition_index: part.leader_id for part in found.partitions}
        for part in sorted(topic.partitions, key=lambda part: part.partition_index):
            leader = leaders.get(part.partition_index)
            row = {"topic": topic.name, "partition": part.partition_index, "committed": part.committed_offset}
            if leader is None:
                yield row | {"end": None, "lag": None}
                continue
            end = offset_of(cluster, topic.name, part.partition_index, leader, _LATEST, is_committed=True)
            yield row | {"end": end, "lag": max(0, end - part.committed_offset)}
