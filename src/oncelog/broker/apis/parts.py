"""A request that names many things in parts: what each part decides is one step of the loop, and one entry of the journal.

Only where each thing has an error of its own in Kafka's protocol, so that some may be done and others not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

#: What one part may weigh: a weight of one is some twenty microseconds of work.
PART_WEIGHT_MAX: Final = 250


def in_parts(things: Iterable[T], weight: Callable[[T], int]) -> Iterator[list[T]]:
    """The things in order; a part is full when its weight has reached the bound."""
    part: list[T] = []
    left = PART_WEIGHT_MAX
    for thing in things:
        part.append(thing)
        left -= weight(thing)
        if left <= 0:
            yield part
            part, left = [], PART_WEIGHT_MAX
    if part:
        yield part
