"""Identifiers and the arithmetic that belongs to them.

What lives here: the nominal types of the field's ids, and sequence arithmetic modulo 2**31 (rule P3), in this one place.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NewType

ProducerId = NewType("ProducerId", int)
Epoch = NewType("Epoch", int)
#: Number of a partition's log: given at creation, never reused, so a topic deleted and made again starts a new log.
LogId = NewType("LogId", int)
#: Place of an entry in the journal: 1 for the first, one more for each; 0 means "nothing yet".
Position = NewType("Position", int)

NO_PRODUCER: Final = ProducerId(-1)
NO_EPOCH: Final = Epoch(-1)
#: The highest epoch a client is given; the next bump makes a new producer id (rule T2).
EPOCH_MAX: Final = Epoch(32766)
SEQUENCE_MODULUS: Final = 2**31


class TopicPartition(NamedTuple):
    """A partition by its topic's name and its index."""

    topic: str
    partition: int


def sequence_after(sequence: int, count: int) -> int:
    """The sequence number ``count`` records after ``sequence``; 2**31 - 1 is followed by 0 (rule P3)."""
    return (sequence + count) % SEQUENCE_MODULUS
