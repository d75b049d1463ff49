"""The table of all APIs: what is served, in which versions, by which function. It is also the answer to ApiVersions.

One file a family; each function says its API's behaviour and version notes. An API that is not whole is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from oncelog.broker.apis import (
    cluster,
    configs,
    consumer_groups,
    fetch,
    groups,
    offsets,
    produce,
    records,
    topics,
    transactions,
)
from oncelog.broker.call import Call


class Handler(NamedTuple):
    """One API: Kafka's name, the versions served, the function; ``version_min_shown`` if ApiVersions says another."""

    name: str
    version_min: int
    version_max: int
    handle: Callable[[Any, Call], None]
    version_min_shown: int | None = None


HANDLERS: Final[dict[int, Handler]] = {
    # Versions 0-2 are refused, but librdkafka wants to see them (rule P10).
    0: Handler("Produce", 3, 13, produce.produce, 0),
    1: Handler("Fetch", 4, 18, fetch.fetch),
    2: Handler("ListOffsets", 1, 11, fetch.list_offsets),
    3: Handler("Metadata", 0, 13, cluster.metadata),
    8: Handler("OffsetCommit", 2, 10, offsets.offset_commit),
    9: Handler("OffsetFetch", 1, 10, offsets.offset_fetch),
    10: Handler("FindCoordinator", 0, 6, groups.find_coordinator),
    11: Handler("JoinGroup", 0, 9, groups.join_group),
    12: Handler("Heartbeat", 0, 4, groups.heartbeat),
    13: Handler("LeaveGroup", 0, 5, groups.leave_group),
    14: Handler("SyncGroup", 0, 5, groups.sync_group),
    15: Handler("DescribeGroups", 0, 6, groups.describe_groups),
    16: Handler("ListGroups", 0, 5, groups.list_groups),
    18: Handler("ApiVersions", 0, 4, cluster.api_versions),
    19: Handler("CreateTopics", 2, 7, topics.create_topics),
    20: Handler("DeleteTopics", 1, 6, topics.delete_topics),
    21: Handler("DeleteRecords", 0, 2, records.delete_records),
    22: Handler("InitProducerId", 0, 5, transactions.init_producer_id),
    23: Handler("OffsetForLeaderEpoch", 2, 4, records.offset_for_leader_epoch),
    24: Handler("AddPartitionsToTxn", 0, 5, transactions.add_partitions_to_txn),
    25: Handler("AddOffsetsToTxn", 0, 4, transactions.add_offsets_to_txn),
    26: Handler("EndTxn", 0, 5, transactions.end_txn),
    27: Handler("WriteTxnMarkers", 1, 1, transactions.write_txn_markers),
    28: Handler("TxnOffsetCommit", 0, 5, transactions.txn_offset_commit),
    32: Handler("DescribeConfigs", 1, 4, configs.describe_configs),
    33: Handler("AlterConfigs", 0, 2, configs.alter_configs),
    35: Handler("DescribeLogDirs", 1, 5, cluster.describe_log_dirs),
    37: Handler("CreatePartitions", 0, 3, topics.create_partitions),
    42: Handler("DeleteGroups", 0, 2, groups.delete_groups),
    43: Handler("ElectLeaders", 0, 2, cluster.elect_leaders),
    44: Handler("IncrementalAlterConfigs", 0, 1, configs.incremental_alter_configs),
    45: Handler("AlterPartitionReassignments", 0, 1, cluster.alter_partition_reassignments),
    46: Handler("ListPartitionReassignments", 0, 0, cluster.list_partition_reassignments),
    47: Handler("OffsetDelete", 0, 0, offsets.offset_delete),
    60: Handler("DescribeCluster", 0, 2, cluster.describe_cluster),
    61: Handler("DescribeProducers", 0, 0, transactions.describe_producers),
    65: Handler("DescribeTransactions", 0, 0, transactions.describe_transactions),
    66: Handler("ListTransactions", 0, 2, transactions.list_transactions),
    68: Handler("ConsumerGroupHeartbeat", 0, 1, consumer_groups.consumer_group_heartbeat),
    69: Handler("ConsumerGroupDescribe", 0, 1, consumer_groups.consumer_group_describe),
    74: Handler("ListConfigResources", 0, 1, configs.list_config_resources),
    75: Handler("DescribeTopicPartitions", 0, 0, cluster.describe_topic_partitions),
}
