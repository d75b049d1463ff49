"""A bound on everything that a peer can make grow (law 8): value, unit, reason. Nothing else bounds a peer.

Those with a Kafka setting name can be changed by it (broker/settings.py); the others are firm.
"""

from __future__ import annotations

from typing import Final

#: Bytes of one request frame; Kafka's socket.request.max.bytes.
FRAME_BYTES_MAX: Final = 104_857_600
#: Open connections; each costs a socket and a small buffer.
CONNECTIONS_MAX: Final = 10_000
#: Descriptors that connections leave to the storage's files and to all else: without one for a file the broker would stop.
DESCRIPTORS_KEPT: Final = 384
#: Requests of one connection that are read but not answered; more are left in the socket.
REQUESTS_IN_FLIGHT_MAX: Final = 100
#: Bytes of replies that one connection has not taken yet; above it nothing more is read from it.
REPLY_BYTES_PENDING_MAX: Final = 16 * 1024 * 1024
#: Bytes of replies that all connections together may leave untaken; above it the one that owes longest is closed.
REPLY_BYTES_TOTAL_MAX: Final = 512 * 1024 * 1024
#: Seconds that a connection may hold its replies back before it is closed.
REPLY_STALL_SECONDS_MAX: Final = 60
#: Seconds in which a connection that has begun a frame must send some more of it.
FRAME_STALL_SECONDS_MAX: Final = 60
#: Requests that go in steps and wait for their turn, and the bytes of their frames; above it one is done in one go. Decoded, a
#: request takes ten to thirty times its bytes, and what its first step has made up to a megabyte.
STEPPED_REQUESTS_MAX: Final = 200
STEPPED_BYTES_MAX: Final = 16 * 1024 * 1024
#: Bytes that all connections together may have under way as unfinished frames.
FRAME_BYTES_TOTAL_MAX: Final = 512 * 1024 * 1024
#: Bytes appended to the journal and not yet written or synced; above it connections that write are not read.
UNSYNCED_BYTES_MAX: Final = 64 * 1024 * 1024
#: Bytes of one fetch reply, whatever the client asks for.
FETCH_BYTES_MAX: Final = 57_671_680
#: Fetches waiting for data.
FETCHES_WAITING_MAX: Final = 20_000
#: Partitions that all fetch sessions together may name, and those that all waiting fetches may wait for; 300 bytes each.
FETCH_PARTITIONS_MAX: Final = 1_000_000
#: Fetch sessions kept (KIP-227); the least recently used goes first.
FETCH_SESSIONS_MAX: Final = 1_000
#: Topics.
TOPICS_MAX: Final = 20_000
#: Partitions of all topics.
PARTITIONS_MAX: Final = 50_000
#: Partitions of one topic.
PARTITIONS_PER_TOPIC_MAX: Final = 10_000
#: Topics or resources that one administrative request may name; Kafka's bound on the changes of one request.
RESOURCES_PER_REQUEST_MAX: Final = 10_000
#: Characters of a topic's name (Kafka's own bound, from file names).
TOPIC_NAME_CHARACTERS_MAX: Final = 249
#: Characters of a group id, member id, instance id, transactional id, client id.
ID_CHARACTERS_MAX: Final = 1_024
#: Transactional ids known.
TRANSACTIONAL_IDS_MAX: Final = 100_000
#: Partitions and groups of one open transaction: its end is one decision, which holds the loop for 4 µs for each.
TRANSACTION_PARTITIONS_MAX: Final = 10_000
#: Offsets that one open transaction holds, of all its groups: its end commits them in the same decision, 1 µs each.
TRANSACTION_OFFSETS_MAX: Final = 20_000
#: Producers remembered by one partition; the one that has been idle for longest is forgotten first.
PRODUCERS_PER_PARTITION_MAX: Final = 100_000
#: Producer ids whose connections are remembered for rule D4.
FENCED_PRODUCERS_MAX: Final = 100_000
#: Batches of a producer that a partition remembers for the duplicate check (rule P1).
DUPLICATE_WINDOW_BATCHES: Final = 5
#: Aborted transactions that one partition lists; above it no other may begin there, for an entry can't be let go (rule R2).
ABORTED_PER_PARTITION_MAX: Final = 1_000_000
#: Groups known.
GROUPS_MAX: Final = 20_000
#: Members of one group; Kafka's group.max.size.
GROUP_MEMBERS_MAX: Final = 1_000
#: Bytes of one member's subscription or assignment.
MEMBER_BYTES_MAX: Final = 1_048_576
#: Bytes of the subscriptions of all members of a group, and of the assignments of a classic one: a row of the journal holds
#: those, written anew with every generation. Kafka's bound is a message's size, 1 MiB compressed.
GROUP_BYTES_MAX: Final = 33_554_432
#: Protocols that one member of a classic group may name.
MEMBER_PROTOCOLS_MAX: Final = 100
#: Topics that one member of a group may name.
MEMBER_TOPICS_MAX: Final = 10_000
#: Characters of the regular expression of a subscription; compiling the worst of this length takes 60 ms.
PATTERN_CHARACTERS_MAX: Final = 1_000
#: Bytes that a compiled regular expression, with what it remembers while it matches, may take.
PATTERN_BYTES_MAX: Final = 1_048_576
#: Different regular expressions of one group's members; each is tried on every topic when topics change (1 µs a topic).
PATTERNS_PER_GROUP_MAX: Final = 10
#: Committed offsets of one group.
GROUP_OFFSETS_MAX: Final = 100_000
#: Characters of the metadata beside a committed offset; Kafka's offset.metadata.max.bytes.
OFFSET_METADATA_CHARACTERS_MAX: Final = 4_096
#: Elements of all arrays of one request together; a Fetch of all partitions that there may be has far fewer.
ARRAY_ELEMENTS_MAX: Final = 250_000
#: Records of one batch of a compacted topic: each is looked at when it is produced, some 2 µs, and again by compaction.
COMPACTED_BATCH_RECORDS_MAX: Final = 100_000
#: Bytes of the records of one batch when decompressed, where the broker must look into it (ListOffsets by time).
RECORDS_BYTES_MAX: Final = 128 * 1024 * 1024
