"""Names the process that has taken our place: the group tells its members' client ids and addresses (mistake 3)."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from oncelog.app.errors import FencedByPeer
from oncelog.app.settings import Cluster

_WAIT_SECONDS: Final = 5.0


def name_of_peer(cluster: Cluster, group: str, instance: str) -> str:
    """Client id (name, host, process) and address of the group's member with this instance id, as far as brokers tell."""
    client = AdminClient(cluster.for_admin("oncelog-app"))
    try:
        described = client.describe_consumer_groups([group], request_timeout=_WAIT_SECONDS)[group].result(
            _WAIT_SECONDS * 2
        )
    except (KafkaException, TimeoutError) as failure:
        return f"the brokers don't tell which ({failure})"
    for member in described.members:
        if member.group_instance_id == instance:
            return f"{member.client_id} at {member.host}"
    return "it has left the group already"


def fenced_by(cluster: Cluster, group: str, instance: str) -> FencedByPeer:
    """The error that ends this process, with the other's name."""
    return FencedByPeer(
        f"another process runs as {instance} and has taken its place twice within a minute: "
        f"{name_of_peer(cluster, group, instance)}. Give each process its own instance (ONCELOG_INSTANCE, or a state folder "
        "of its own)"
    )
