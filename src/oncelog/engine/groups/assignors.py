"""The broker's own assignors for groups of the consumer protocol (KIP-848): who is to read what.

``uniform`` gives every member as many partitions as the others, give or take one, and moves as few as it can.
``range`` gives neighbours: for each topic consecutive partitions, in the order of the members, so that members read the same
indexes of topics with the same number of partitions.

Both are pure and give the same for the same input. Members are sorted by instance id, else by member id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, NamedTuple, TypeAlias

from oncelog.model.ids import LogId

Targets: TypeAlias = dict[str, frozenset[LogId]]


class Reader(NamedTuple):
    """A member as an assignor sees it: ``topics`` it subscribes to, ``target`` it had until now."""

    id: str
    instance_id: str | None
    topics: frozenset[str]
    target: frozenset[LogId]


Assignor: TypeAlias = Callable[[Sequence[Reader], Mapping[str, Sequence[LogId]]], Targets]


def _in_order(readers: Iterable[Reader]) -> list[Reader]:
    return sorted(readers, key=lambda one: (one.instance_id is None, one.instance_id or one.id))


def assign_range(readers: Sequence[Reader], topics: Mapping[str, Sequence[LogId]]) -> Targets:
    """Consecutive partitions of each topic."""
    targets: dict[str, list[LogId]] = {reader.id: [] for reader in readers}
    ordered = _in_order(readers)
    for topic in sorted(topics):
        subscribers = [reader for reader in ordered if topic in reader.topics]
        if not subscribers:
            continue
        share, extra = divmod(len(topics[topic]), len(subscribers))
        at = 0
        for number, reader in enumerate(subscribers):
            end = at + share + (number < extra)
            targets[reader.id] += topics[topic][at:end]
            at = end
    return {member_id: frozenset(logs) for member_id, logs in targets.items()}


def assign_uniform(readers: Sequence[Reader], topics: Mapping[str, Sequence[LogId]]) -> Targets:
    """Equal shares, with as few moves as possible."""
    if not readers:
        return {}
    if all(reader.topics == readers[0].topics for reader in readers):
        return _assign_equal(readers, [log for topic in sorted(readers[0].topics) for log in topics.get(topic, ())])
    return _assign_unequal(readers, topics)


def _assign_equal(readers: Sequence[Reader], logs: Sequence[LogId]) -> Targets:
    """All subscribe to the same: who has most keeps the larger shares."""
    wanted = frozenset(logs)
    ordered = sorted(_in_order(readers), key=lambda one: -len(one.target & wanted))
    share, extra = divmod(len(logs), len(readers))
    kept: dict[str, list[LogId]] = {}
    taken: set[LogId] = set()
    for number, reader in enumerate(ordered):
        mine = sorted(log for log in reader.target if log in wanted and log not in taken)
        kept[reader.id] = mine[: share + (number < extra)]
        taken.update(kept[reader.id])
    free = iter([log for log in logs if log not in taken])
    for number, reader in enumerate(ordered):
        for _ in range(share + (number < extra) - len(kept[reader.id])):
            kept[reader.id].append(next(free))
    return {member_id: frozenset(mine) for member_id, mine in kept.items()}


def _assign_unequal(readers: Sequence[Reader], topics: Mapping[str, Sequence[LogId]]) -> Targets:
    """Subscriptions differ: keep what is still wanted, give the rest to whoever has least, then level topic by topic."""
    ordered = _in_order(readers)
    place = {reader.id: number for number, reader in enumerate(ordered)}
    owned: dict[str, set[LogId]] = {reader.id: set() for reader in ordered}
    subscribers = {topic: [one.id for one in ordered if topic in one.topics] for topic in topics}
    # Topics that few can read first: the others can make up for them.
    topics_ordered = sorted((one for one in topics if subscribers[one]), key=lambda one: (len(subscribers[one]), one))
    owner: dict[LogId, str] = {}
    for reader in ordered:
        wanted = {log for topic in reader.topics for log in topics.get(topic, ())}
        for log in reader.target & wanted:
            if owner.setdefault(log, reader.id) == reader.id:
                owned[reader.id].add(log)
    for topic in topics_ordered:
        heap = [(len(owned[one]), place[one], one) for one in subscribers[topic]]
        heapify(heap)
        for log in topics[topic]:
            if log not in owner:
                load, number, least = heap[0]
                heapreplace(heap, (load + 1, number, least))
                owner[log] = least
                owned[least].add(log)
    for _ in range(_LEVELLING_ROUNDS):
        if not sum(_level(topics[topic], subscribers[topic], place, owner, owned) for topic in topics_ordered):
            break
    return {member_id: frozenset(logs) for member_id, logs in owned.items()}


#: Each round levels every topic once; what is left uneven after so many would need long chains of moves.
_LEVELLING_ROUNDS: Final = 8


def _level(
    logs: Sequence[LogId],
    subscribers: Sequence[str],
    place: Mapping[str, int],
    owner: dict[LogId, str],
    owned: dict[str, set[LogId]],
) -> int:
    """Move partitions of one topic from who has most to who has least; the number of moves."""
    by_owner: dict[str, list[LogId]] = {}
    for log in logs:
        by_owner.setdefault(owner[log], []).append(log)
    rich = [(-len(owned[one]), place[one], one) for one in by_owner]
    poor = [(len(owned[one]), place[one], one) for one in subscribers]
    heapify(rich)
    heapify(poor)
    moves = 0
    while rich:
        _, _, giver = heappop(rich)
        taker = poor[0][2]
        if len(owned[taker]) != poor[0][0]:
            heapreplace(poor, (len(owned[taker]), place[taker], taker))
            heappush(rich, (-len(owned[giver]), place[giver], giver))
            continue
        if len(owned[giver]) - len(owned[taker]) < 2:
            break
        log = by_owner[giver].pop()
        owned[giver].discard(log)
        owned[taker].add(log)
        owner[log] = taker
        moves += 1
        heapreplace(poor, (len(owned[taker]), place[taker], taker))
        if by_owner[giver]:
            heappush(rich, (-len(owned[giver]), place[giver], giver))
    return moves


ASSIGNORS: Final[Mapping[str, Assignor]] = {"uniform": assign_uniform, "range": assign_range}
