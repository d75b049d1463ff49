"""Kafka's error codes, and the refusal that carries one.

One row an error: number, whether a client may simply try again, one sentence. Those that this broker sends, and those of other
brokers that the command line explains and ``oncelog.testing`` can answer with.
"""

from __future__ import annotations

from enum import IntEnum

from oncelog.model.ids import LogId


class ErrorCode(IntEnum):
    """A Kafka error code; ``is_retriable`` and ``sentence`` belong to each."""

    is_retriable: bool
    sentence: str

    def __new__(cls, number: int, is_retriable: bool, sentence: str) -> ErrorCode:
        self = int.__new__(cls, number)
        self._value_ = number
        self.is_retriable = is_retriable
        self.sentence = sentence
        return self

    UNKNOWN_SERVER_ERROR = -1, False, "The broker met a condition that it has no code for."
    NONE = 0, False, "No error."
    OFFSET_OUT_OF_RANGE = 1, False, "The offset is before the log's start or after its end."
    CORRUPT_MESSAGE = 2, True, "The record batch is damaged."
    UNKNOWN_TOPIC_OR_PARTITION = 3, True, "No such topic or partition here."
    LEADER_NOT_AVAILABLE = 5, True, "The partition has no leader yet."
    NOT_LEADER_OR_FOLLOWER = 6, True, "Ask for the leader again, then send this again."
    REQUEST_TIMED_OUT = 7, True, "The request was not done in its time."
    MESSAGE_TOO_LARGE = 10, False, "The batch is larger than max.message.bytes."
    OFFSET_METADATA_TOO_LARGE = 12, False, "The metadata of the committed offset is too long."
    COORDINATOR_LOAD_IN_PROGRESS = 14, True, "The coordinator is still loading."
    COORDINATOR_NOT_AVAILABLE = 15, True, "The coordinator can't answer now."
    NOT_COORDINATOR = 16, True, "This broker does not coordinate that group or transactional id."
    INVALID_TOPIC_EXCEPTION = 17, False, "That is not a valid topic name."
    RECORD_LIST_TOO_LARGE = 18, False, "The batch is larger than a segment."
    INVALID_REQUIRED_ACKS = 21, False, "acks must be 0, 1 or -1."
    ILLEGAL_GENERATION = 22, False, "The member's generation is not the group's."
    INCONSISTENT_GROUP_PROTOCOL = 23, False, "The member's protocols do not fit the group's."
    INVALID_GROUP_ID = 24, False, "That is not a valid group id."
    UNKNOWN_MEMBER_ID = 25, False, "The group has no such member."
    INVALID_SESSION_TIMEOUT = 26, False, "The session timeout is outside the broker's bounds."
    REBALANCE_IN_PROGRESS = 27, False, "The group is rebalancing; join again."
    INVALID_COMMIT_OFFSET_SIZE = 28, False, "The offsets to commit are too large."
    TOPIC_AUTHORIZATION_FAILED = 29, False, "Not allowed on that topic."
    GROUP_AUTHORIZATION_FAILED = 30, False, "Not allowed on that group."
    CLUSTER_AUTHORIZATION_FAILED = 31, False, "Not allowed on the cluster."
    INVALID_TIMESTAMP = 32, False, "The record's timestamp is outside the topic's bounds."
    UNSUPPORTED_VERSION = 35, False, "That version of the request is not served."
    TOPIC_ALREADY_EXISTS = 36, False, "A topic of that name exists."
    INVALID_PARTITIONS = 37, False, "That number of partitions is not possible."
    INVALID_REPLICATION_FACTOR = 38, False, "One node holds one replica: the replication factor is 1."
    INVALID_REPLICA_ASSIGNMENT = 39, False, "The only replica is on this node."
    INVALID_CONFIG = 40, False, "That setting or its value is not valid."
    NOT_CONTROLLER = 41, True, "This node is not the controller."
    INVALID_REQUEST = 42, False, "The request contradicts itself or the protocol."
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43, False, "Only record batches of magic 2 are stored."
    POLICY_VIOLATION = 44, False, "A broker policy forbids it."
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45, False, "The sequence number is not the one expected next."
    DUPLICATE_SEQUENCE_NUMBER = 46, False, "The sequence number was written before."
    INVALID_PRODUCER_EPOCH = 47, False, "The producer's epoch is old."
    INVALID_TXN_STATE = 48, False, "The transaction's state does not allow it."
    INVALID_PRODUCER_ID_MAPPING = 49, False, "The transactional id belongs to another producer id."
    INVALID_TRANSACTION_TIMEOUT = 50, False, "The transaction timeout is outside the broker's bounds."
    CONCURRENT_TRANSACTIONS = 51, True, "Another step of the transactional id is under way; try again."
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53, False, "Not allowed for that transactional id."
    SECURITY_DISABLED = 54, False, "The broker runs without authentication."
    OPERATION_NOT_ATTEMPTED = 55, False, "Not tried, because another part of the request was refused."
    KAFKA_STORAGE_ERROR = 56, True, "The disk failed; the broker stops."
    LOG_DIR_NOT_FOUND = 57, False, "No such log directory."
    UNKNOWN_PRODUCER_ID = 59, False, "Nothing is known of the producer id."
    REASSIGNMENT_IN_PROGRESS = 60, False, "The partition is being moved."
    NON_EMPTY_GROUP = 68, False, "The group still has members or open offsets."
    GROUP_ID_NOT_FOUND = 69, False, "No such group."
    FETCH_SESSION_ID_NOT_FOUND = 70, True, "No such fetch session; begin a new one."
    INVALID_FETCH_SESSION_EPOCH = 71, True, "The fetch session is at another epoch; begin a new one."
    TOPIC_DELETION_DISABLED = 73, False, "delete.topic.enable is false."
    FENCED_LEADER_EPOCH = 74, True, "The client's leader epoch is old."
    UNKNOWN_LEADER_EPOCH = 75, True, "The client's leader epoch is newer than the broker's."
    UNSUPPORTED_COMPRESSION_TYPE = 76, False, "That compression is not served."
    STALE_BROKER_EPOCH = 77, False, "The broker epoch is old."
    MEMBER_ID_REQUIRED = 79, False, "Join again with the member id given here."
    GROUP_MAX_SIZE_REACHED = 81, False, "The group has as many members as it may."
    FENCED_INSTANCE_ID = 82, False, "Another member uses this group.instance.id."
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83, True, "No replica can lead."
    ELECTION_NOT_NEEDED = 84, True, "The leader is already the preferred one."
    NO_REASSIGNMENT_IN_PROGRESS = 85, False, "No partition is being moved."
    GROUP_SUBSCRIBED_TO_TOPIC = 86, False, "The group is subscribed to the topic."
    INVALID_RECORD = 87, False, "The batch breaks a rule of the log."
    UNSTABLE_OFFSET_COMMIT = 88, True, "An open transaction holds an offset for the partition."
    THROTTLING_QUOTA_EXCEEDED = 89, True, "A bound of the broker is reached; try again later."
    PRODUCER_FENCED = 90, False, "A newer producer has the transactional id."
    RESOURCE_NOT_FOUND = 91, False, "No such resource."
    UNKNOWN_TOPIC_ID = 100, True, "No topic has that id."
    INCONSISTENT_TOPIC_ID = 103, True, "The topic has another id."
    TRANSACTIONAL_ID_NOT_FOUND = 105, False, "No such transactional id."
    FETCH_SESSION_TOPIC_ID_ERROR = 106, True, "The fetch session mixes topic ids and names."
    FENCED_MEMBER_EPOCH = 110, False, "The member's epoch is not the group's; join again."
    UNRELEASED_INSTANCE_ID = 111, False, "Another member still holds this group.instance.id."
    UNSUPPORTED_ASSIGNOR = 112, False, "No such assignor on the broker."
    STALE_MEMBER_EPOCH = 113, False, "The member's epoch is old; learn the new one by heartbeat."
    MISMATCHED_ENDPOINT_TYPE = 114, False, "The request belongs to another kind of endpoint."
    UNSUPPORTED_ENDPOINT_TYPE = 115, False, "No such kind of endpoint."
    TRANSACTION_ABORTABLE = 120, False, "Abort the transaction, then go on."
    INVALID_REGULAR_EXPRESSION = 128, False, "The subscription's regular expression is not valid."


class Refusal(Exception):
    """A lawful no: the error code for the client and the reason for the log. Raised by decide functions only."""

    def __init__(self, code: ErrorCode, why: str = "") -> None:
        super().__init__(f"{code.name}: {why or code.sentence}")
        self.code = code
        self.why = why or code.sentence


class DamagedRecords(Refusal):
    """Stored batches are not what was written: whoever asks for them is refused (CORRUPT_MESSAGE), nothing else is touched.

    What could not be given lies from ``offset`` on and before ``offset_end``.
    """

    def __init__(self, why: str, offset: int, offset_end: int) -> None:
        super().__init__(ErrorCode.CORRUPT_MESSAGE, why)
        self.offset, self.offset_end = offset, offset_end


class StorageError(Exception):
    """The world below failed (disk full, write or sync refused, data unreadable): law 7 stops the broker."""


class LostRecords(StorageError):
    """Acknowledged records that only the journal has, and that it does not give back: nobody may say that all is safe.

    They are of ``log``, from ``offset`` on.
    """

    def __init__(self, why: str, log: LogId, offset: int) -> None:
        super().__init__(why)
        self.log, self.offset = log, offset


class WireError(Exception):
    """Bytes that are no request: the connection is closed, nothing else is touched."""


class SettingError(ValueError):
    """A setting that is unknown or has an impossible value; the sentence names both and the next step."""
