"""What a decide function returns: everything that changes, and the reply. The values that a decision is made of.

A Decision is applied whole or not at all, and is one journal entry (laws 1, 2). ``rows`` and ``batches`` are durable;
``volatile`` holds values that need not survive a restart (a group's waiting members). A decision may change nothing and
only carry a reply.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NewType

from oncelog.model.header import BatchHeader
from oncelog.model.ids import LogId
from oncelog.model.rows import Row
from oncelog.model.values import Value

if TYPE_CHECKING:
    from oncelog.engine.state import Log

#: Names a request that waits for its reply inside the engine (JoinGroup, SyncGroup); given by the broker, unique.
Ticket = NewType("Ticket", int)


class Level(IntEnum):
    """What must be safe before the reply leaves (rule D2)."""

    NOTHING = 0
    WRITTEN = 1
    SYNCED = 2


class Append(Value, frozen=True, gc=False):
    """A batch to append to a log: ``header`` as the client sent it, ``data`` stamped with ``offset``."""

    log: LogId
    offset: int
    header: BatchHeader
    data: bytes

    @property
    def offset_next(self) -> int:
        """The offset after the batch."""
        return self.offset + self.header.offset_delta_last + 1


class Written(Value, frozen=True, gc=False):
    """What the producer is told: the batch's first offset, and its append time in ms or -1."""

    offset_base: int
    append_time_ms: int


class Visible(Value, frozen=True, gc=False):
    """What readers of a log may see once an entry is synced."""

    log: Log
    high_watermark: int
    stable_offset: int
    offset_start: int


class Decision(Value, frozen=True, gc=False):
    """See the module. ``reply`` is the answer to the command, ``answers`` those to requests that waited."""

    rows: tuple[Row, ...] = ()
    batches: tuple[Append, ...] = ()
    level: Level = Level.SYNCED
    reply: Any = None
    volatile: tuple[Any, ...] = ()
    answers: tuple[tuple[Ticket, Any], ...] = ()

    @property
    def is_durable(self) -> bool:
        """Whether there is anything to journal."""
        return bool(self.rows or self.batches)


NOTHING = Decision(level=Level.NOTHING)
