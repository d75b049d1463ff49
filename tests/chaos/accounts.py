"""What a tormented application has made of its inputs, looked at afterwards: each result once, each sum right, nothing open.

Pure: what independent read_committed readers and the database gave, in; sentences about what is wrong, out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.chaos.shop import Entry, is_poison

NAMED_MAX = 15


class Seen(NamedTuple):
    """A record in a topic."""

    partition: int
    offset: int
    key: str
    entry: Entry

    @property
    def place(self) -> str:
        return f"[{self.partition}]@{self.offset}"


class Books(NamedTuple):
    """Everything at the end. ``rows``: of the outbox, committed; ``stored``: what the sink's table holds."""

    inputs: Sequence[Seen]
    totals: Sequence[Seen]
    dead: Sequence[Seen]
    orders: Sequence[Seen]
    slips: Sequence[Seen]
    rows: Mapping[str, str]
    stored: Sequence[str]


def wrongs(books: Books, fed: Mapping[str, tuple[int, int]]) -> list[str]:
    """Nothing if all is right. ``fed``: where each input was acknowledged."""
    places = {seen.entry.id: f"in{seen.place}" for seen in books.inputs}
    sound = [seen for seen in books.inputs if not is_poison(seen.entry.amount)]
    poison = [seen for seen in books.inputs if is_poison(seen.entry.amount)]
    results = [*_ids(sound), *books.rows]
    return [
        *_acknowledged(books.inputs, fed),
        *_each_once("totals", _ids(sound), books.totals, places),
        *_each_once("dead", _ids(poison), books.dead, places),
        *_each_once("orders", books.rows, books.orders, {}),
        *_each_once("slips", results, books.slips, places),
        *_stored_once(results, books.stored, places),
        *_sums(sound, books.totals, places),
        *_in_order("orders", _ids_by_key((key, name) for name, key in books.rows.items()), books.orders),
    ]


def _ids(records: Iterable[Seen]) -> list[str]:
    return [seen.entry.id for seen in records]


def _ids_by_key(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        found[key].append(name)
    return found


def _acknowledged(inputs: Sequence[Seen], fed: Mapping[str, tuple[int, int]]) -> list[str]:
    """Not the application's work, but all the rest rests on it."""
    there = {seen.entry.id: (seen.partition, seen.offset) for seen in inputs}
    if there == dict(fed) and len(there) == len(inputs):
        return []
    differing = sorted(name for name in there.keys() | fed.keys() if there.get(name) != fed.get(name))
    return [f"the inputs themselves are not as they were acknowledged: {differing[:NAMED_MAX]}"]


def _each_once(topic: str, wanted: Iterable[str], records: Sequence[Seen], sources: Mapping[str, str]) -> list[str]:
    where: dict[str, list[str]] = defaultdict(list)
    for seen in records:
        where[seen.entry.id].append(f"{topic}{seen.place}")
    found = Counter({name: len(places) for name, places in where.items()})
    return _told(topic, Counter(list(wanted)), found, sources, where)


def _stored_once(wanted: Iterable[str], stored: Sequence[str], sources: Mapping[str, str]) -> list[str]:
    return _told("the sink's table", Counter(list(wanted)), Counter(stored), sources, {})


def _told(
    what: str,
    wanted: Counter[str],
    found: Counter[str],
    sources: Mapping[str, str],
    where: Mapping[str, Sequence[str]],
) -> list[str]:
    def named(names: Iterable[str]) -> str:
        chosen = sorted(names, key=lambda name: (sources.get(name, ""), name))
        told = [f"{name} ({', '.join([sources.get(name, '-'), *where.get(name, ())])})" for name in chosen[:NAMED_MAX]]
        return f"{len(chosen)}: {'; '.join(told)}"

    lost = wanted - found
    strange = [name for name in found if name not in wanted]
    doubled = [name for name in found - wanted if name in wanted]
    return [
        f"{what}: {kind} {named(names)}"
        for kind, names in (("lost", lost), ("doubled", doubled), ("from nowhere", strange))
        if names
    ]


def _sums(inputs: Sequence[Seen], totals: Sequence[Seen], sources: Mapping[str, str]) -> list[str]:
    """Of each key, every output is the running sum as of its input, and they are in the order of the inputs."""
    wanted: dict[str, list[tuple[str, int]]] = defaultdict(list)
    sums: Counter[str] = Counter()
    for seen in _sorted(inputs):
        sums[seen.key] += seen.entry.amount
        wanted[seen.key].append((seen.entry.id, sums[seen.key]))
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    where: dict[str, list[str]] = defaultdict(list)
    for seen in _sorted(totals):
        found[seen.key].append((seen.entry.id, seen.entry.total))
        where[seen.key].append(f"totals{seen.place}")
    told = []
    for key in sorted(wanted.keys() | found.keys()):
        right, real = wanted[key], found[key]
        if right == real:
            continue
        at = next((n for n, (one, other) in enumerate(zip(right, real)) if one != other), min(len(right), len(real)))
        expected = (
            f"{right[at][0]} ({sources.get(right[at][0], '-')}) = {right[at][1]}" if at < len(right) else "nothing"
        )
        instead = f"{real[at][0]} = {real[at][1]} ({where[key][at]})" if at < len(real) else "nothing"
        told.append(
            f"the sums of {key}: of {len(right)} outputs to {right[-1][1] if right else 0} number {at} should be {expected}, "
            f"and is {instead}"
        )
    return told[:NAMED_MAX]


def _in_order(topic: str, wanted: Mapping[str, list[str]], records: Sequence[Seen]) -> list[str]:
    """Rows of one key come in the order of their transactions."""
    found = _ids_by_key((seen.key, seen.entry.id) for seen in _sorted(records))
    return [
        f"{topic}: those of {key} are not in the order of their rows"
        for key in wanted
        if found[key] != wanted[key] and sorted(found[key]) == sorted(wanted[key])
    ]


def _sorted(records: Iterable[Seen]) -> list[Seen]:
    return sorted(records, key=lambda seen: (seen.partition, seen.offset))
