"""Which connection speaks for a transactional producer now (rule D4).

A client that has moved on does not use its old connection again. So a request that comes from an older connection than
the newest one seen for the same producer id, epoch and role is late: it was held up somewhere while its client
reconnected, repeated it and went on. It is refused before anything is decided.

Volatile, and outside State: after a restart of the broker all old connections are gone. Connections are known by numbers
that grow in the order of their acceptance.

Differs: Kafka answers a late request of a client without epoch bumps as if it belonged to the current transaction
(KAFKA-17754).
"""

from __future__ import annotations

from enum import IntEnum

from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.limits import FENCED_PRODUCERS_MAX


class Role(IntEnum):
    """Clients use a connection of its own for each of these."""

    COORDINATOR = 0
    OFFSETS = 1
    PRODUCE = 2


class LateRequest(Refusal):
    """The request came by a connection that its client has given up."""


class Connections:
    """The newest connection of each (producer id, epoch) in each role; bounded, the least recently seen goes first."""

    def __init__(self) -> None:
        self._newest: dict[ProducerId, tuple[Epoch, list[int]]] = {}

    def check(self, producer_id: ProducerId, epoch: Epoch, role: Role, connection: int) -> None:
        """Raise LateRequest if it is one: NOT_LEADER_OR_FOLLOWER for Produce, else CONCURRENT_TRANSACTIONS."""
        seen = self._newest.get(producer_id)
        if seen is not None and seen[0] == epoch and connection < seen[1][role]:
            code = ErrorCode.NOT_LEADER_OR_FOLLOWER if role is Role.PRODUCE else ErrorCode.CONCURRENT_TRANSACTIONS
            raise LateRequest(
                code,
                f"late request: connection {connection} was replaced by {seen[1][role]} for producer {producer_id}",
            )

    def note(self, producer_id: ProducerId, epoch: Epoch, role: Role, connection: int) -> None:
        """Remember the connection of a request whose producer id and epoch are the current ones."""
        seen = self._newest.get(producer_id)
        if seen is None or seen[0] != epoch:
            seen = (epoch, [0, 0, 0])
            self._newest.pop(producer_id, None)
            self._newest[producer_id] = seen
            if len(self._newest) > FENCED_PRODUCERS_MAX:
                del self._newest[next(iter(self._newest))]
        if connection > seen[1][role]:
            seen[1][role] = connection
