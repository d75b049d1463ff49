"""What can go wrong, and the one classifier of what Kafka's client reports (mistakes 12 and 18).

A user sees three errors: ``ConfigurationError``, ``PoisonRecord``, ``FencedByPeer``. Everything else is handled inside.
Each carries the exit code with which ``App.run`` ends the process.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final

from confluent_kafka import KafkaError


class AppError(Exception):
    """What ends an application. ``exit_code``: the process's, when ``App.run`` ends by it."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(AppError):
    """Something is set up so that it can't work; the message says what to change. Trying again does not help."""

    exit_code = 2


class PoisonRecord(AppError):
    """A record that its handler can't process, and no ``dead_letter`` to put it. What came before it is committed.

    ``topic``, ``partition``, ``offset`` say where it is, ``attempts`` how often it was tried; ``__cause__`` is the
    handler's own error. Mend the handler and start again: the record comes again. Or give the processor a ``dead_letter``.
    """

    exit_code = 3

    def __init__(self, topic: str, partition: int, offset: int, attempts: int, why: BaseException) -> None:
        super().__init__(
            f"{topic}[{partition}] offset {offset} failed {attempts} times: {type(why).__name__}: {why}. Mend the handler, "
            "or give it dead_letter=TOPIC; records before it are committed"
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.attempts = attempts


class FencedByPeer(AppError):
    """Another process runs under this one's name and has taken its place twice within a minute (mistake 3)."""

    exit_code = 4


class Fate(Enum):
    """What an error of the client means for a transaction."""

    AGAIN = "the same call again"
    ABORT = "abort, read the committed offsets, go on with this producer"
    RENEW = "the outcome or the producer is in doubt: a new producer, then the committed offsets decide"
    FENCED = "another producer has this transactional id, or this transaction has timed out"
    STOP = "no attempt will help: a setting or a permission"


_FENCED_CODES: Final = frozenset(
    (
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    )
)
_STOP_CODES: Final = frozenset(
    (
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
    )
)
_RENEW_CODES: Final = frozenset(
    (
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    )
)
#: Errors that some record itself brings about: sending it again, alone, ends in the same way.
_OF_A_RECORD: Final = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
    )
)
#: The member that committed is not the group's any more; the group itself says so (mistake 10). Not a reason to stop.
_OF_THE_GROUP: Final = frozenset(
    (
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    )
)


def fate_of(error: KafkaError) -> Fate:
    """The one place where an error of the client gets its meaning. What nobody knows is met with a new producer."""
    code = error.code()
    if code in _STOP_CODES:
        return Fate.STOP
    if code in _FENCED_CODES:
        return Fate.FENCED
    if code in _RENEW_CODES or error.fatal():
        return Fate.RENEW
    if error.retriable():
        return Fate.AGAIN
    if error.txn_requires_abort() or code in _OF_A_RECORD or code in _OF_THE_GROUP:
        return Fate.ABORT
    return Fate.RENEW


def blames_a_record(error: KafkaError) -> bool:
    """Whether it is some record of the batch that can't be sent (too large, no such topic): to be found one by one."""
    return error.code() in _OF_A_RECORD


class Undone(Exception):
    """The transaction did not happen, or its outcome is not known yet. The batch comes again unless it was committed.

    ``renew``: this producer must not be used again. ``fenced``: another one may have taken its id.
    ``blames_a_record``: the same batch will fail again; its records have to be tried one by one.
    """

    def __init__(
        self,
        why: str,
        *,
        renew: bool = False,
        fenced: bool = False,
        blames_a_record: bool = False,
        rejoin: bool = False,
    ) -> None:
        super().__init__(why)
        self.renew = renew or fenced
        self.fenced = fenced
        self.blames_a_record = blames_a_record
        self.rejoin = rejoin


class Halted(Exception):
    """The application is asked to stop while it waits for a broker; nothing more can be learned now."""
