"""The two tables of settings, under Kafka's names: topic settings and broker settings.

What lives here: name, type, default, bounds, one sentence for each. What a broker setting gives to topics follows from the
topic's ``synonyms``: the first that is set wins, later ones are in larger units. Which settings change anything is not said
here but follows from the fields of configs.py; the others are accepted and shown, so that tools and files made for Kafka
work unchanged. Knows no state. docs/settings.md is rendered from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from oncelog.model import limits


class Kind(IntEnum):
    """The type of a setting's value; the numbers are those of DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class Setting(NamedTuple):
    """One setting. ``default`` None: unset. ``low`` and ``high`` bound numbers, ``low`` the length of a list too,
    ``choices`` strings and list elements.

    ``synonyms`` (topic settings only) are the broker settings that give the default, best first. ``is_dynamic``: a running
    broker takes a new value (topic settings always do).
    """

    name: str
    kind: Kind
    default: str | None
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    is_dynamic: bool = False


_INT_MAX: Final = 2**31 - 1
_LONG_MAX: Final = str(2**63 - 1)
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_CODECS: Final = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
_PASSED: Final = "Batches are stored as the producer compressed them; the broker never compresses anew."
_SEGMENTS: Final = "Segments belong to the storage, which sizes them itself."
_COMPACTION: Final = "Compaction runs in one thread, at its own pace."
_REPLICAS: Final = "There is one replica, on this node."
_TIERED: Final = "There is no tiered storage."

BOOLEAN, STRING, INT, SHORT = Kind.BOOLEAN, Kind.STRING, Kind.INT, Kind.SHORT
LONG, DOUBLE, LIST, CLASS, PASSWORD = Kind.LONG, Kind.DOUBLE, Kind.LIST, Kind.CLASS, Kind.PASSWORD


def unit_ms(name: str) -> int:
    """How many ms one unit of a setting's value is, by its name: hours, minutes, else 1."""
    if name.endswith(".hours"):
        return _HOUR_MS
    return _MINUTE_MS if name.endswith(".minutes") else 1


# fmt: off
_TOPIC: Final = (
    Setting("cleanup.policy", LIST, "delete",
            "delete removes old records by age and size; compact keeps the newest value of each key, and both do both.",
            choices=("compact", "delete"), synonyms=("log.cleanup.policy",)),
    Setting("compression.gzip.level", INT, "-1", _PASSED, low=-1, high=9, synonyms=("compression.gzip.level",)),
    Setting("compression.lz4.level", INT, "9", _PASSED, low=1, high=17, synonyms=("compression.lz4.level",)),
    Setting("compression.type", STRING, "producer", _PASSED, choices=_CODECS, synonyms=("compression.type",)),
    Setting("compression.zstd.level", INT, "3", _PASSED, low=-131072, high=22, synonyms=("compression.zstd.level",)),
    Setting("delete.retention.ms", LONG, "86400000",
            "How long tombstones of a compacted topic stay, at least, once all older values of their keys are gone.",
            low=0, synonyms=("log.cleaner.delete.retention.ms",)),
    Setting("file.delete.delay.ms", LONG, "60000", "Files are removed as soon as a deletion is synced.",
            low=0, synonyms=("log.segment.delete.delay.ms",)),
    Setting("flush.messages", LONG, _LONG_MAX, "What is acknowledged is synced already; see flush.interval.ms.",
            low=1, synonyms=("log.flush.interval.messages",)),
    Setting("flush.ms", LONG, _LONG_MAX, "What is acknowledged is synced already; see flush.interval.ms.",
            low=0, synonyms=("log.flush.interval.ms", "log.flush.scheduler.interval.ms")),
    Setting("follower.replication.throttled.replicas", LIST, "", _REPLICAS),
    Setting("index.interval.bytes", INT, "4096", "The storage's indexes know every batch.",
            low=0, synonyms=("log.index.interval.bytes",)),
    Setting("leader.replication.throttled.replicas", LIST, "", _REPLICAS),
    Setting("local.retention.bytes", LONG, "-2", _TIERED, low=-2, synonyms=("log.local.retention.bytes",)),
    Setting("local.retention.ms", LONG, "-2", _TIERED, low=-2, synonyms=("log.local.retention.ms",)),
    Setting("max.compaction.lag.ms", LONG, _LONG_MAX,
            "What is older than this and not compacted is compacted at the next look, however little it is.", low=1,
            synonyms=("log.cleaner.max.compaction.lag.ms",)),
    Setting("max.message.bytes", INT, "1048588", "Largest record batch that is taken, in bytes, as it is on the wire.",
            low=0, synonyms=("message.max.bytes",)),
    Setting("message.timestamp.after.max.ms", LONG, "3600000",
            "How far a record's time may be ahead of the broker's clock. Not used with LogAppendTime.",
            low=0, synonyms=("log.message.timestamp.after.max.ms",)),
    Setting("message.timestamp.before.max.ms", LONG, _LONG_MAX,
            "How far a record's time may be behind the broker's clock. Not used with LogAppendTime.",
            low=0, synonyms=("log.message.timestamp.before.max.ms",)),
    Setting("message.timestamp.type", STRING, "CreateTime",
            "Whose time records carry: the producer's (CreateTime) or the broker's (LogAppendTime).",
            choices=("CreateTime", "LogAppendTime"), synonyms=("log.message.timestamp.type",)),
    Setting("min.cleanable.dirty.ratio", DOUBLE, "0.5",
            "A partition is compacted when more than this share of its bytes is new since the last time.", low=0, high=1,
            synonyms=("log.cleaner.min.cleanable.ratio",)),
    Setting("min.compaction.lag.ms", LONG, "0", "How long a record stays as it is before compaction may take it.", low=0,
            synonyms=("log.cleaner.min.compaction.lag.ms",)),
    Setting("min.insync.replicas", INT, "1", "There is one replica and it is always in sync: no value refuses a write.",
            low=1, synonyms=("min.insync.replicas",)),
    Setting("preallocate", BOOLEAN, "false", "The journal is preallocated in any case.", synonyms=("log.preallocate",)),
    Setting("remote.log.copy.disable", BOOLEAN, "false", _TIERED),
    Setting("remote.log.delete.on.disable", BOOLEAN, "false", _TIERED),
    Setting("remote.storage.enable", BOOLEAN, "false", _TIERED),
    Setting("retention.bytes", LONG, "-1", "Bytes that a partition keeps before its oldest records go; -1: no bound.",
            synonyms=("log.retention.bytes",)),
    Setting("retention.ms", LONG, "604800000", "How long records are kept; -1: for ever.", low=-1,
            synonyms=("log.retention.ms", "log.retention.minutes", "log.retention.hours")),
    Setting("segment.bytes", INT, "1073741824",
            "How much of a partition retention removes at once, at most: 64 KiB to 64 MiB, whatever is set.",
            low=14, synonyms=("log.segment.bytes",)),
    Setting("segment.index.bytes", INT, "10485760", _SEGMENTS, low=4, synonyms=("log.index.size.max.bytes",)),
    Setting("segment.jitter.ms", LONG, "0", _SEGMENTS, low=0,
            synonyms=("log.roll.jitter.ms", "log.roll.jitter.hours")),
    Setting("segment.ms", LONG, "604800000",
            "How much time of a partition retention removes at once, at most; not less than 10 s, whatever is set.",
            low=1, synonyms=("log.roll.ms", "log.roll.hours")),
    Setting("unclean.leader.election.enable", BOOLEAN, "false", _REPLICAS,
            synonyms=("unclean.leader.election.enable",)),
)

_GROUPS_SHARE: Final = "There are no share groups."
_QUOTAS: Final = "There are no quotas."
_SECURITY: Final = "There is no TLS and no SASL yet."
_NODES: Final = "There is one node, which is broker and controller."
_THREADS: Final = "All decisions are made on one loop; threads only wait for the disk."
_INTERNAL: Final = "Offsets and transactions live in the journal, not in topics."

_BROKER: Final = (
    Setting("auto.create.topics.enable", BOOLEAN, "true", "Whether a topic that a client asks for is made."),
    Setting("auto.leader.rebalance.enable", BOOLEAN, "true", _NODES),
    Setting("background.threads", INT, "10", _THREADS, low=1, is_dynamic=True),
    Setting("broker.id", INT, "1", "This node's id: 1.", low=1, high=1),
    Setting("broker.rack", STRING, None, _NODES),
    Setting("connection.failed.authentication.delay.ms", INT, "100", _SECURITY, low=0),
    Setting("connections.max.idle.ms", LONG, "600000", "Idle connections are kept."),
    Setting("connections.max.reauth.ms", LONG, "0", _SECURITY),
    Setting("controlled.shutdown.enable", BOOLEAN, "true", _NODES),
    Setting("controller.listener.names", STRING, None, _NODES),
    Setting("controller.quorum.bootstrap.servers", LIST, "", _NODES),
    Setting("controller.quorum.voters", LIST, "", _NODES),
    Setting("controller.socket.timeout.ms", INT, "30000", _NODES),
    Setting("default.replication.factor", INT, "1", "Replicas of a topic that does not say: one node holds one.",
            low=1, high=1),
    Setting("delete.topic.enable", BOOLEAN, "true", "Whether topics may be deleted."),
    Setting("fetch.max.bytes", INT, str(limits.FETCH_BYTES_MAX),
            "Bytes of one fetch reply, whatever a client asks for; a value above the default changes nothing.", low=1024),
    Setting("fetch.purgatory.purge.interval.requests", INT, "1000", "Waiting fetches are kept by partition."),
    Setting("flush.interval.ms", INT, "10",
            "What is written is synced within this time, also if no reply waits for it. Kafka has no such setting.",
            low=0, high=60_000, is_dynamic=True),
    Setting("group.consumer.assignors", LIST, "uniform,range", "Assignors of the broker; the first is the default.",
            choices=("uniform", "range"), low=1),
    Setting("group.consumer.heartbeat.interval.ms", INT, "5000", "How often members of new groups (KIP-848) report.",
            low=1),
    Setting("group.consumer.max.heartbeat.interval.ms", INT, "15000", "Bound of a group's own setting.", low=1),
    Setting("group.consumer.max.session.timeout.ms", INT, "60000", "Bound of a group's own setting.", low=1),
    Setting("group.consumer.max.size", INT, str(limits.GROUP_MEMBERS_MAX), "Members of one new group (KIP-848).", low=1),
    Setting("group.consumer.migration.policy", STRING, "bidirectional",
            "Groups change their protocol when they are empty.",
            choices=("bidirectional", "disabled", "downgrade", "upgrade")),
    Setting("group.consumer.min.heartbeat.interval.ms", INT, "5000", "Bound of a group's own setting.", low=1),
    Setting("group.consumer.min.session.timeout.ms", INT, "45000", "Bound of a group's own setting.", low=1),
    Setting("group.consumer.session.timeout.ms", INT, "45000",
            "Silence after which a member of a new group (KIP-848) is gone.", low=1),
    Setting("group.coordinator.append.linger.ms", INT, "5", "Decisions are written at the end of each turn.", low=-1),
    Setting("group.coordinator.rebalance.protocols", LIST, "classic,consumer", "Both are served.",
            choices=("classic", "consumer", "share", "streams")),
    Setting("group.coordinator.threads", INT, "4", _THREADS, low=1),
    Setting("group.initial.rebalance.delay.ms", INT, "0",
            "How long a new group waits for more members. Kafka waits 3000 ms; here the first member begins at once, because "
            "a rebalance costs little on one node.", low=0, high=600_000),
    Setting("group.max.session.timeout.ms", INT, "1800000", "Longest session timeout that a member may ask for.", low=1),
    Setting("group.max.size", INT, str(limits.GROUP_MEMBERS_MAX), "Members of one group.", low=1),
    Setting("group.min.session.timeout.ms", INT, "6000", "Shortest session timeout that a member may ask for.", low=1),
    Setting("group.share.max.size", SHORT, "200", _GROUPS_SHARE, low=1),
    Setting("inter.broker.listener.name", STRING, None, _NODES),
    Setting("inter.broker.protocol.version", STRING, None, _NODES),
    Setting("leader.imbalance.check.interval.seconds", LONG, "300", _NODES, low=1),
    Setting("leader.imbalance.per.broker.percentage", INT, "10", _NODES),
    Setting("listener.security.protocol.map", STRING, "PLAINTEXT:PLAINTEXT", _SECURITY),
    Setting("log.cleaner.backoff.ms", LONG, "15000", "How often the broker looks for partitions to compact.", low=0,
            is_dynamic=True),
    Setting("log.cleaner.dedupe.buffer.size", LONG, "134217728",
            "Bytes of memory for the keys of one compaction, 200 a key; what has more new keys is compacted piece by piece.",
            low=1, is_dynamic=True),
    Setting("log.cleaner.enable", BOOLEAN, "true", "Whether topics with cleanup.policy=compact are compacted."),
    Setting("log.cleaner.io.buffer.load.factor", DOUBLE, "0.9", _COMPACTION, is_dynamic=True),
    Setting("log.cleaner.io.buffer.size", INT, "524288", _COMPACTION, low=0, is_dynamic=True),
    Setting("log.cleaner.io.max.bytes.per.second", DOUBLE, "1.7976931348623157E308", _COMPACTION, is_dynamic=True),
    Setting("log.cleaner.threads", INT, "1", _COMPACTION, low=0, is_dynamic=True),
    Setting("log.flush.offset.checkpoint.interval.ms", INT, "60000", "Recovery points belong to the journal.", low=0),
    Setting("log.flush.start.offset.checkpoint.interval.ms", INT, "60000", "Log starts are in the journal.", low=0),
    Setting("log.retention.check.interval.ms", LONG, "300000",
            "How often the broker looks for records, producers and transactional ids that are past their time.", low=1),
    Setting("max.connection.creation.rate", INT, str(_INT_MAX), _QUOTAS, low=0, is_dynamic=True),
    Setting("max.connections", INT, str(limits.CONNECTIONS_MAX),
            "Connections open at once; more are closed. Fewer where the process may not open so many files.", low=1),
    Setting("max.connections.per.ip", INT, str(_INT_MAX), _QUOTAS, low=0, is_dynamic=True),
    Setting("max.connections.per.ip.overrides", STRING, "", _QUOTAS, is_dynamic=True),
    Setting("max.incremental.fetch.session.cache.slots", INT, str(limits.FETCH_SESSIONS_MAX), "Fetch sessions kept.",
            low=1),
    Setting("max.request.partition.size.limit", INT, "2000", "Partitions in one reply of DescribeTopicPartitions.", low=1),
    Setting("metadata.log.dir", STRING, None, "Everything lives in one folder."),
    Setting("metric.reporters", LIST, "", "Metrics are served over HTTP; see --metrics."),
    Setting("node.id", INT, "1", "This node's id: 1.", low=1, high=1),
    Setting("num.io.threads", INT, "8", _THREADS, low=1, is_dynamic=True),
    Setting("num.network.threads", INT, "3", _THREADS, low=1, is_dynamic=True),
    Setting("num.partitions", INT, "1", "Partitions of a topic that does not say how many.",
            low=1, high=limits.PARTITIONS_PER_TOPIC_MAX, is_dynamic=True),
    Setting("num.recovery.threads.per.data.dir", INT, "2", _THREADS, low=1, is_dynamic=True),
    Setting("num.replica.fetchers", INT, "1", _REPLICAS, is_dynamic=True),
    Setting("offset.metadata.max.bytes", INT, str(limits.OFFSET_METADATA_CHARACTERS_MAX),
            "Characters of the text that a consumer may keep beside a committed offset.", low=0),
    Setting("offsets.commit.required.acks", SHORT, "-1", _INTERNAL),
    Setting("offsets.commit.timeout.ms", INT, "5000", _INTERNAL, low=1),
    Setting("offsets.load.buffer.size", INT, "5242880", _INTERNAL, low=1),
    Setting("offsets.retention.check.interval.ms", LONG, "600000",
            "How long a group without offsets is kept after its last member has left.", low=1),
    Setting("offsets.retention.minutes", INT, "10080", "How long offsets of a group without members are kept.", low=1),
    Setting("offsets.topic.compression.codec", INT, "0", _INTERNAL),
    Setting("offsets.topic.num.partitions", INT, "50", _INTERNAL, low=1),
    Setting("offsets.topic.replication.factor", SHORT, "1", _INTERNAL, low=1),
    Setting("offsets.topic.segment.bytes", INT, "104857600", _INTERNAL, low=1),
    Setting("process.roles", LIST, "broker,controller", _NODES, choices=("broker", "controller")),
    Setting("producer.id.expiration.check.interval.ms", INT, "600000",
            "Producers are looked at every log.retention.check.interval.ms.", low=1),
    Setting("producer.id.expiration.ms", INT, "86400000",
            "How long a partition remembers an idle producer's sequence numbers (rule P8).", low=1, is_dynamic=True),
    Setting("producer.purgatory.purge.interval.requests", INT, "1000", "Waiting replies are kept by position."),
    Setting("queued.max.requests", INT, "500", "Each connection has its own bound.", low=1),
    Setting("quota.window.num", INT, "11", _QUOTAS, low=1),
    Setting("quota.window.size.seconds", INT, "1", _QUOTAS, low=1),
    Setting("remote.log.storage.system.enable", BOOLEAN, "false", _TIERED),
    Setting("replica.fetch.max.bytes", INT, "1048576", _REPLICAS, low=0),
    Setting("replica.fetch.min.bytes", INT, "1", _REPLICAS),
    Setting("replica.fetch.wait.max.ms", INT, "500", _REPLICAS),
    Setting("replica.lag.time.max.ms", LONG, "30000", _REPLICAS),
    Setting("replica.selector.class", STRING, None, _REPLICAS),
    Setting("replica.socket.timeout.ms", INT, "30000", _REPLICAS),
    Setting("request.timeout.ms", INT, "30000", _NODES),
    Setting("sasl.enabled.mechanisms", LIST, "GSSAPI", _SECURITY, is_dynamic=True),
    Setting("security.inter.broker.protocol", STRING, "PLAINTEXT", _SECURITY, choices=("PLAINTEXT",)),
    Setting("share.coordinator.state.topic.min.isr", SHORT, "1", _GROUPS_SHARE, low=1),
    Setting("share.coordinator.state.topic.replication.factor", SHORT, "1", _GROUPS_SHARE, low=1),
    Setting("socket.listen.backlog.size", INT, "50", "The operating system's bound is asked for.", low=1),
    Setting("socket.receive.buffer.bytes", INT, "102400", "The operating system sizes the buffers of sockets."),
    Setting("socket.request.max.bytes", INT, str(limits.FRAME_BYTES_MAX), "Bytes of one request: a firm bound.", low=1),
    Setting("socket.send.buffer.bytes", INT, "102400", "The operating system sizes the buffers of sockets."),
    Setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", INT, "10000",
            "Transactions time out when they are due (rule D5).", low=1),
    Setting("transaction.max.timeout.ms", INT, "900000", "Longest transaction timeout that a producer may ask for.",
            low=1),
    Setting("transaction.partition.verification.enable", BOOLEAN, "true",
            "Each transactional batch is checked against its transaction (rule P7).", is_dynamic=True),
    Setting("transaction.remove.expired.transaction.cleanup.interval.ms", INT, "3600000",
            "Transactional ids are looked at every log.retention.check.interval.ms.", low=1),
    Setting("transaction.state.log.load.buffer.size", INT, "5242880", _INTERNAL, low=1),
    Setting("transaction.state.log.min.isr", INT, "1", _INTERNAL, low=1),
    Setting("transaction.state.log.num.partitions", INT, "50", _INTERNAL, low=1),
    Setting("transaction.state.log.replication.factor", SHORT, "1", _INTERNAL, low=1),
    Setting("transaction.state.log.segment.bytes", INT, "104857600", _INTERNAL, low=1),
    Setting("transaction.two.phase.commit.enable", BOOLEAN, "false", "Two-phase commit (KIP-939) is not served."),
    Setting("transactional.id.expiration.ms", INT, "604800000", "How long an unused transactional id is remembered.",
            low=1),
    Setting("zookeeper.connect", STRING, None, _NODES),
    Setting("zookeeper.connection.timeout.ms", INT, None, _NODES),
)
# fmt: on


def _defaults_of_topics() -> Iterator[Setting]:
    """The broker settings that give topics their defaults, from the table of topic settings.

    Of several only the last, coarsest one has a default, as in Kafka; and only the first can be changed while running.
    """
    for topic in _TOPIC:
        for at, name in enumerate(topic.synonyms):
            unit = unit_ms(name)
            is_last = at == len(topic.synonyms) - 1
            default = topic.default
            if unit > 1:
                default = str(int(topic.default or 0) // unit)
            low = topic.low if topic.low is None or topic.low <= 0 else max(1, topic.low // unit)
            kind = INT if unit > 1 else topic.kind
            yield Setting(
                name,
                kind,
                default if is_last else None,
                f"Default of the topics' {topic.name}" + (f": {topic.doc}" if at == 0 else ", in a larger unit."),
                low,
                topic.high,
                topic.choices,
                is_dynamic=at == 0,
            )


def _by_name(*settings: Setting) -> dict[str, Setting]:
    return {setting.name: setting for setting in sorted(settings)}


TOPIC_SETTINGS: Final[dict[str, Setting]] = _by_name(*_TOPIC)
BROKER_SETTINGS: Final[dict[str, Setting]] = _by_name(*_BROKER, *_defaults_of_topics())
