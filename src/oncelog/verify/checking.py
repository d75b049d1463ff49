"""The checks: pure functions from a history to its violations.

Each check is an analysis of Jepsen's workload for Kafka-like logs, or of Adya's phenomena behind it, narrowed to what may be
concluded: it accuses only if no order of the events that the clients saw can explain the reading otherwise. What each
may and may not conclude is in its docstring, and for users in docs/verify.md. Cluster and client are judged together: a
client that says "committed" though the cluster refused is found too, and looks the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final

import msgspec

from oncelog.verify.history import COMMITTED, NO_OFFSET, UNCOMMITTED, Initialized, OffsetsSeen, Sent
from oncelog.verify.view import NEVER, Outcome, Partition, Transaction, View

#: A stable offset that stands still for longer than the transaction timeout and this is stuck. Kafka looks every 10 s.
STUCK_GRACE_SECONDS: Final = 30.0

Place = tuple[str, int, int]


class Kind(Enum):
    """The anomalies."""

    ABORTED_READ = "aborted read"
    READ_BEFORE_COMMIT = "read before commit"
    LOST_WRITE = "lost write"
    TORN_TRANSACTION = "torn transaction"
    DUPLICATE = "duplicate"
    DIRTY_ORDER = "dirty order"
    DIVERGENT_READ = "divergent read"
    OFFSET_APART = "offset and output apart"
    ZOMBIE_WRITE = "zombie write"
    STUCK_STABLE_OFFSET = "stuck last stable offset"
    PHANTOM = "phantom record"


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One anomaly: what is wrong in a sentence, and the records and transactions that show it."""

    kind: Kind
    sentence: str
    places: list[Place] = []
    transactions: list[str] = []


def check(view: View) -> list[Violation]:
    """All violations of a history, worst kinds first."""
    found = [violation for each in CHECKS for violation in each(view)]
    order = list(Kind)
    return sorted(found, key=lambda violation: order.index(violation.kind))


# -- what may be seen -------------------------------------------------------------------------------------------------


def aborted_reads(view: View) -> Iterator[Violation]:
    """Adya's G1a: a read_committed reader, a committed offset or a copy shows a transaction that can't have committed.

    May conclude: the abort was confirmed, or no commit was ever called. May not: anything about transactions whose
    commit was called and whose outcome the client never learned.
    """
    seen: dict[str, set[Place]] = defaultdict(set)
    for value, places in view.places(COMMITTED).items():
        seen[value].update(places)
    for reading in view.committed_readings():
        seen[reading.value].add((*reading.partition, reading.offset))
    by_transaction: dict[str, set[Place]] = defaultdict(set)
    for value, where in seen.items():
        transaction = view.transaction_of(value)
        if transaction is not None and transaction.outcome.is_without_effect:
            by_transaction[transaction.key].update(where)
    for key, where in by_transaction.items():
        yield Violation(
            kind=Kind.ABORTED_READ,
            sentence=f"{len(where)} records of transaction {key}, {_why(view.transactions[key])}, were read as committed",
            places=sorted(where),
            transactions=[key],
        )
    yield from _aborted_sources(view)
    yield from _aborted_offsets(view)


def _why(transaction: Transaction) -> str:
    return "which was aborted" if transaction.outcome is Outcome.ABORTED else "which was never told to commit"


def _copied(view: View) -> Iterator[tuple[Sent, Place, str, Transaction]]:
    """Each copy of a record of a transaction: the copy, where its source stands, the source's value and transaction."""
    sources = {place: value for value, places in view.places(UNCOMMITTED).items() for place in places}
    for copy in view.sent.values():
        value = sources.get(copy.source) if copy.source is not None else None
        transaction = view.transaction_of(value) if value is not None else None
        if copy.source is not None and value is not None and transaction is not None:
            yield copy, copy.source, value, transaction


def _aborted_sources(view: View) -> Iterator[Violation]:
    for _, source, value, transaction in _copied(view):
        if transaction.outcome.is_without_effect:
            yield Violation(
                kind=Kind.ABORTED_READ,
                sentence=f"a copier got {value} of transaction {transaction.key}, {_why(transaction)}",
                places=[source],
                transactions=[transaction.key],
            )


def _aborted_offsets(view: View) -> Iterator[Violation]:
    """Offsets that only one transaction ever sent."""
    senders: dict[tuple[str, str, int, int], list[Transaction]] = defaultdict(list)
    for transaction in view.transactions.values():
        for sent in transaction.offsets:
            for partition, offset in sent.offsets.items():
                senders[sent.group, sent.topic, partition, offset].append(transaction)
    told: set[tuple[str, str, int, int]] = set()
    for seen in view.offsets_seen:
        for partition, offset in seen.offsets.items():
            where = (seen.group, seen.topic, partition, offset)
            transactions = senders.get(where, [])
            if where in told or not transactions:
                continue
            if all(each.outcome.is_without_effect for each in transactions):
                kind, why = Kind.ABORTED_READ, _why(transactions[0])
            elif all(each.commit_invoked > seen.at for each in transactions):
                kind, why = Kind.READ_BEFORE_COMMIT, "whose commit was not called yet"
            else:
                continue
            told.add(where)
            yield Violation(
                kind=kind,
                sentence=f"group {seen.group} shows offset {offset} of {seen.topic}/{partition}, sent by transaction "
                f"{transactions[0].key}, {why}",
                transactions=[each.key for each in transactions],
            )


def reads_before_commit(view: View) -> Iterator[Violation]:
    """A read_committed reader, or a copier, got a record before its commit was even called (G1b).

    May conclude: the transaction was open when its record was read. May not: anything about the time between the
    call and its answer, when both are right.
    """
    early: dict[str, list[Place]] = defaultdict(list)
    for reading in view.committed_readings():
        transaction = view.transaction_of(reading.value)
        if transaction is None or transaction.outcome.is_without_effect:
            continue
        if reading.at < transaction.commit_invoked:
            early[transaction.key].append((*reading.partition, reading.offset))
    for copy, source, _, transaction in _copied(view):
        if not transaction.outcome.is_without_effect and copy.at < transaction.commit_invoked:
            early[transaction.key].append(source)
    for key, places in early.items():
        yield Violation(
            kind=Kind.READ_BEFORE_COMMIT,
            sentence=f"{len(places)} records of transaction {key} were read as committed before its commit was called",
            places=sorted(set(places)),
            transactions=[key],
        )


# -- what must be there -----------------------------------------------------------------------------------------------


def lost_writes(view: View) -> Iterator[Violation]:
    """What was acknowledged (outside a transaction), committed, or read as committed before, is not there at the end.

    May conclude: only for partitions that were read from 0 to their end when all was over. May not: tell a loss from a
    record that is merely unreadable for this client.
    """
    places = view.places(COMMITTED)
    for transaction in view.transactions.values():
        missing, there = _parts(view, transaction)
        if transaction.outcome is Outcome.COMMITTED and missing and not there:
            yield Violation(
                kind=Kind.LOST_WRITE,
                sentence=f"{len(missing)} of {len(transaction.records)} records of committed transaction {transaction.key} are "
                f"gone, and none is there: {_values(missing)}",
                transactions=[transaction.key],
            )
    lost = [
        sent
        for value in view.acknowledged
        if (sent := view.sent[value]).transaction is None and value not in places and _is_whole(view, sent)
    ]
    if lost:
        yield Violation(
            kind=Kind.LOST_WRITE,
            sentence=f"{len(lost)} acknowledged records are gone: {_values(lost)}",
        )
    yield from _vanished(view)
    yield from _sources_gone(view)


def _parts(view: View, transaction: Transaction) -> tuple[list[Sent], list[Place]]:
    """The records of a transaction that are missing from partitions which were read whole, and where the others stand."""
    places = view.places(COMMITTED)
    missing = [sent for sent in transaction.records if sent.value not in places and _is_whole(view, sent)]
    return missing, sorted(place for sent in transaction.records for place in places.get(sent.value, []))


def _is_whole(view: View, sent: Sent) -> bool:
    return (sent.topic, sent.partition) in view.complete[COMMITTED]


def _values(records: Sequence[Sent]) -> str:
    shown = ", ".join(f"{sent.value} in {sent.topic}/{sent.partition}" for sent in records[:5])
    return shown + (" …" if len(records) > 5 else "")


def _vanished(view: View) -> Iterator[Violation]:
    """What a reader has had is not there any more; where its transaction is accused elsewhere, that says it."""
    for isolation, readers in view.readings.items():
        places = view.places(isolation)
        gone: dict[str, Place] = {}
        for reading in (reading for readings in readers.values() for reading in readings):
            if reading.value in places or reading.value not in view.sent:
                continue
            transaction = view.transaction_of(reading.value)
            outcome = Outcome.UNKNOWN if transaction is None else transaction.outcome
            is_told = outcome is Outcome.COMMITTED or (isolation == COMMITTED and outcome.is_without_effect)
            if not is_told and reading.partition in view.complete[isolation]:
                gone[reading.value] = (*reading.partition, reading.offset)
        if gone:
            yield Violation(
                kind=Kind.LOST_WRITE,
                sentence=f"{len(gone)} records that were read ({isolation}) are gone at the end: {', '.join(list(gone)[:5])}",
                places=sorted(gone.values()),
            )


def _sources_gone(view: View) -> Iterator[Violation]:
    """The same of what a copier has had: it reads committed records only."""
    there = {place for places in view.places(COMMITTED).values() for place in places}
    values = {place: value for value, places in view.places(UNCOMMITTED).items() for place in places}
    gone: list[Place] = []
    for source in sorted({sent.source for sent in view.sent.values() if sent.source is not None} - there):
        transaction = view.transaction_of(values.get(source, ""))
        is_told = transaction is not None and transaction.outcome is not Outcome.UNKNOWN
        if source[:2] in view.complete[COMMITTED] and not is_told:
            gone.append(source)
    if gone:
        yield Violation(
            kind=Kind.LOST_WRITE,
            sentence=f"{len(gone)} records that were copied are gone at the end: {_shown(gone[:5])}",
            places=gone[:100],
        )


def torn_transactions(view: View) -> Iterator[Violation]:
    """Some of a transaction's records are there at the end, others are not; or the bank's money does not add up.

    May conclude: at the end, when no transaction is open, also where the outcome is unknown: half is wrong either way. May
    not: anything about a reader who sees one partition earlier than another while the run goes on; Kafka allows that.
    """
    places = view.places(COMMITTED)
    for transaction in view.transactions.values():
        if transaction.outcome.is_without_effect:
            continue
        missing, there = _parts(view, transaction)
        if missing and there:
            yield Violation(
                kind=Kind.TORN_TRANSACTION,
                sentence=f"transaction {transaction.key} ({transaction.outcome.value}): {len(missing)} of "
                f"{len(transaction.records)} records are missing: {_values(missing)}",
                places=there,
                transactions=[transaction.key],
            )
    amounts = [(sent.amount, len(found)) for value, found in places.items() if (sent := view.sent.get(value))]
    total = sum(amount * count for amount, count in amounts if amount is not None)
    if total and all(_is_whole(view, sent) for sent in view.sent.values()):
        yield Violation(
            kind=Kind.TORN_TRANSACTION,
            sentence=f"the bank's accounts add up to {total} and not to 0: money was made or lost",
        )


def duplicates(view: View) -> Iterator[Violation]:
    """A record stands at more than one offset, or one source record has two visible copies.

    May conclude: every value is sent once, by idempotent producers, so two of it are one too many, also where the outcome is
    unknown. May not: tell whether the client or the cluster repeated it.
    """
    committed = view.places(COMMITTED)
    for isolation in (COMMITTED, UNCOMMITTED):
        for value, places in view.places(isolation).items():
            if len(places) > 1 and (isolation == COMMITTED or len(committed.get(value, [])) < 2):
                yield Violation(
                    kind=Kind.DUPLICATE,
                    sentence=f"{value} is there {len(places)} times ({isolation}): {_shown(places)}",
                    places=sorted(places),
                    transactions=_keys(view, value),
                )
    copies: dict[Place, list[str]] = defaultdict(list)
    for value in committed:
        sent = view.sent.get(value)
        if sent is not None and sent.source is not None:
            copies[sent.source].append(value)
    for source, values in copies.items():
        if len(values) > 1:
            yield Violation(
                kind=Kind.DUPLICATE,
                sentence=f"record {source[2]} of {source[0]}/{source[1]} was copied {len(values)} times: {', '.join(values)}",
                places=sorted(place for value in values for place in committed[value]),
                transactions=sorted({key for value in values for key in _keys(view, value)}),
            )


def _shown(places: Iterable[Place]) -> str:
    return ", ".join(f"{topic}/{partition} at {offset}" for topic, partition, offset in sorted(places))


def _keys(view: View, value: str) -> list[str]:
    transaction = view.transaction_of(value)
    return [] if transaction is None else [transaction.key]


# -- order ------------------------------------------------------------------------------------------------------------


def dirty_orders(view: View) -> Iterator[Violation]:
    """Offsets go backwards, or pass over what was there: in a reader, a group, a partition's ends, records or copies.

    Jepsen's int-poll-nonmonotonic, poll-skip and nonmonotonic-send, for readers that never seek. May conclude: of two
    observations only if the first was over before the second began. May not: anything about readers that were killed.
    """
    yield from _backwards_and_skipped(view)
    yield from _producers_out_of_order(view)
    yield from _copies_out_of_order(view)
    yield from _ends_backwards(view)


def _backwards_and_skipped(view: View) -> Iterator[Violation]:
    for isolation, readers in view.readings.items():
        logs = view.logs[isolation]
        for reader, readings in readers.items():
            offsets: dict[Partition, list[int]] = defaultdict(list)
            for reading in readings:
                offsets[reading.partition].append(reading.offset)
            for partition, seen in offsets.items():
                yield from _steps(reader, isolation, partition, seen, logs.get(partition, []))


def _steps(
    reader: str, isolation: str, where: Partition, seen: list[int], log: list[tuple[int, str]]
) -> Iterator[Violation]:
    name = f"{where[0]}/{where[1]}"
    for before, after in pairwise(seen):
        if after <= before:
            yield Violation(
                kind=Kind.DIRTY_ORDER,
                sentence=f"{reader} ({isolation}) read offset {after} of {name} after {before}",
                places=[(*where, after)],
            )
    passed = max(seen)
    skipped = sorted({offset for offset, _ in log if offset < passed} - set(seen))
    if skipped:
        yield Violation(
            kind=Kind.DIRTY_ORDER,
            sentence=f"{reader} ({isolation}) read up to offset {passed} of {name} and never saw {len(skipped)} records "
            f"before it that are there at the end, at {_few(skipped)}",
            places=[(*where, offset) for offset in skipped[:100]],
        )


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")


def _producers_out_of_order(view: View) -> Iterator[Violation]:
    number = {value: index for index, value in enumerate(view.sent)}
    for (topic, partition), records in view.logs[UNCOMMITTED].items():
        newest: dict[str, int] = {}
        for offset, value in records:
            sent = view.sent.get(value)
            if sent is None:
                continue
            if number[value] < newest.get(sent.instance, -1):
                yield Violation(
                    kind=Kind.DIRTY_ORDER,
                    sentence=f"{value} stands at offset {offset} of {topic}/{partition}, behind a record that its producer "
                    "sent later",
                    places=[(topic, partition, offset)],
                )
            newest[sent.instance] = max(number[value], newest.get(sent.instance, -1))


def _copies_out_of_order(view: View) -> Iterator[Violation]:
    """Who copies next begins at the committed offset, so the visible copies of a partition stand in its order."""
    for (topic, partition), records in view.logs[COMMITTED].items():
        newest: dict[Partition, int] = {}
        for offset, value in records:
            sent = view.sent.get(value)
            if sent is None or sent.source is None:
                continue
            where, source = sent.source[:2], sent.source[2]
            if source < newest.get(where, -1):
                yield Violation(
                    kind=Kind.DIRTY_ORDER,
                    sentence=f"the copy of record {source} of {where[0]}/{where[1]} stands at offset {offset} of "
                    f"{topic}/{partition}, behind that of record {newest[where]}",
                    places=[(topic, partition, offset)],
                    transactions=_keys(view, value),
                )
            newest[where] = max(source, newest.get(where, -1))


def _ends_backwards(view: View) -> Iterator[Violation]:
    """Committed offsets and the ends of partitions only grow.

    In a cluster of several brokers one that was frozen may answer with what it knew, once, before it learns that another has
    taken its place; so there only what is still so at the end counts.
    """
    is_alone = view.settings.get("brokers", 1) == 1
    #: When it was seen, when that was asked for, what must not fall, what was seen.
    looks: dict[tuple[str, Partition], list[tuple[float, float, int, int]]] = defaultdict(list)
    ranks: dict[Partition, dict[int, int]] = {}
    for seen in view.offsets_seen:
        for partition, offset in seen.offsets.items():
            place = (seen.topic, partition)
            if place not in ranks:
                ranks[place] = view.ranks_of_numbers(place)
            rank = ranks[place].get(offset) if ranks[place] else offset
            if rank is not None:
                looks[f"committed offset of group {seen.group} for", place].append(
                    (seen.at, seen.invoked, rank, offset)
                )
    for ends in view.watermarks:
        for name, offset in (("last stable offset", ends.stable), ("high watermark", ends.high)):
            looks[f"{name} of", (ends.topic, ends.partition)].append((ends.at, ends.invoked, offset, offset))
    for (name, place), found in looks.items():
        found.sort()
        last = found[-1][2]
        for (at, _, before, shown), (_, invoked, after, shown_after) in pairwise(found):
            if after < before and at <= invoked and (is_alone or last < before):
                yield Violation(
                    kind=Kind.DIRTY_ORDER,
                    sentence=f"the {name} {place[0]}/{place[1]} went from {shown} back to {shown_after}",
                    places=[(*place, shown_after)],
                )


def divergent_reads(view: View) -> Iterator[Violation]:
    """One offset holds different values for different readers, or a record stands elsewhere than its producer was told.

    Jepsen's inconsistent-offsets. May conclude: always; an offset never changes its record.
    """
    values: dict[Place, set[str]] = defaultdict(set)
    for logs in view.logs.values():
        for where, records in logs.items():
            for offset, value in records:
                values[*where, offset].add(value)
    for readers in view.readings.values():
        for readings in readers.values():
            for reading in readings:
                values[*reading.partition, reading.offset].add(reading.value)
    for place, found in values.items():
        if len(found) > 1:
            yield Violation(
                kind=Kind.DIVERGENT_READ,
                sentence=f"{_shown([place])} was read as {' and as '.join(sorted(found))}",
                places=[place],
            )
    yield from _only_committed(view)
    stored = view.places(UNCOMMITTED)
    for value, offset in view.acknowledged.items():
        places = stored.get(value, [])
        if offset >= 0 and places and offset not in {place[2] for place in places}:
            yield Violation(
                kind=Kind.DIVERGENT_READ,
                sentence=f"{value} was acknowledged at offset {offset} and stands at {_shown(places)}",
                places=places,
                transactions=_keys(view, value),
            )


def _only_committed(view: View) -> Iterator[Violation]:
    """Who reads uncommitted records sees the committed ones too."""
    for where in view.complete[COMMITTED] & view.complete[UNCOMMITTED]:
        seen = {offset for offset, _ in view.logs[UNCOMMITTED][where]}
        if alone := [(*where, offset) for offset, _ in view.logs[COMMITTED][where] if offset not in seen]:
            yield Violation(
                kind=Kind.DIVERGENT_READ,
                sentence=f"{len(alone)} records are there for read_committed and hidden from others: {_shown(alone[:5])}",
                places=alone[:100],
            )


def phantoms(view: View) -> Iterator[Violation]:
    """A record that nobody sent, an offset that nobody committed: topics and group are the run's own. May conclude: always."""
    strange: dict[str, set[Place]] = defaultdict(set)
    for isolation in (COMMITTED, UNCOMMITTED):
        for value, places in view.places(isolation).items():
            if value not in view.sent:
                strange[value].update(places)
        for reading in (reading for readings in view.readings[isolation].values() for reading in readings):
            if reading.value not in view.sent:
                strange[reading.value].add((*reading.partition, reading.offset))
    if strange:
        places = sorted(place for found in strange.values() for place in found)
        yield Violation(
            kind=Kind.PHANTOM,
            sentence=f"{len(places)} records that nobody sent: {', '.join(list(strange)[:5])[:200]}",
            places=places[:100],
        )
    yield from _phantom_offsets(view)


def _phantom_offsets(view: View) -> Iterator[Violation]:
    sent = {
        (each.group, each.topic, partition, offset)
        for transaction in view.transactions.values()
        for each in transaction.offsets
        for partition, offset in each.offsets.items()
    }
    seen = {
        (each.group, each.topic, partition, offset)
        for each in view.offsets_seen
        for partition, offset in each.offsets.items()
        if offset != NO_OFFSET
    }
    for group, topic, partition, offset in sorted(seen - sent):
        yield Violation(
            kind=Kind.PHANTOM,
            sentence=f"group {group} shows offset {offset} of {topic}/{partition}, which nobody committed",
            places=[(topic, partition, offset)],
        )


# -- offsets with their output ----------------------------------------------------------------------------------------


def offsets_apart(view: View) -> Iterator[Violation]:
    """The committed offsets of a group and the visible output of its transactions don't belong together.

    May conclude: at the end, from offsets and logs read when nobody worked any more. A source record before the committed
    offset must have its copy, one at or behind it must have none; with numbered offsets, the last visible number must
    be the committed one. May not: say which of the two is wrong.
    """
    for seen in view.offsets_seen:
        if seen.is_final:
            yield from _copies_apart(view, seen)
            yield from _numbers_apart(view, seen)


def _copies_apart(view: View, seen: OffsetsSeen) -> Iterator[Violation]:
    """A copy is missing only where all that there could be copies in was read whole."""
    copies = [sent for sent in view.sent.values() if sent.source is not None and sent.source[0] == seen.topic]
    if not copies:
        return
    places = view.places(COMMITTED)
    copied = {sent.source for sent in copies if sent.source is not None and sent.value in places}
    is_target_whole = all(_is_whole(view, sent) for sent in copies)
    for partition, committed in seen.offsets.items():
        where = (seen.topic, partition)
        if where not in view.complete[COMMITTED]:
            continue
        offsets = {offset for offset, _ in view.logs[COMMITTED][where]}
        missing = sorted(offset for offset in offsets if offset < committed and (*where, offset) not in copied)
        early = sorted(place[2] for place in copied if place[:2] == where and place[2] >= committed)
        if missing and is_target_whole:
            yield Violation(
                kind=Kind.OFFSET_APART,
                sentence=f"group {seen.group} has committed offset {committed} of {seen.topic}/{partition}, but "
                f"{len(missing)} records before it have no copy: {_few(missing)}",
                places=[(*where, offset) for offset in missing[:100]],
            )
        if early:
            yield Violation(
                kind=Kind.OFFSET_APART,
                sentence=f"group {seen.group} has committed offset {committed} of {seen.topic}/{partition}, but "
                f"{len(early)} records at or behind it have copies: {_few(early)}",
                places=[(*where, offset) for offset in early[:100]],
            )


def _numbers_apart(view: View, seen: OffsetsSeen) -> Iterator[Violation]:
    for partition, committed in seen.offsets.items():
        where = (seen.topic, partition)
        numbers = [
            sent.number
            for _, value in view.logs[COMMITTED].get(where, [])
            if (sent := view.sent.get(value)) is not None and sent.number is not None
        ]
        expected = numbers[-1] if numbers else NO_OFFSET
        if where in view.complete[COMMITTED] and view.is_numbered(where) and committed != expected:
            yield Violation(
                kind=Kind.OFFSET_APART,
                sentence=f"group {seen.group} has committed offset {committed} of {seen.topic}/{partition}; the last "
                f"visible record of its transactions says {expected}",
                places=[(*where, committed)],
            )


# -- fences and liveness ----------------------------------------------------------------------------------------------


def zombie_writes(view: View) -> Iterator[Violation]:
    """A record is in the log, or a commit has taken effect, that came from an instance after it had been replaced.

    May conclude: a newer instance of the same transactional id was ready before the call; or, of a record that was sent before,
    that it stands behind one of the newer instance. May not: anything about instances that began at the same time.
    """
    fenced_at = view.fenced_at()
    stored = view.places(UNCOMMITTED)
    by_instance: dict[str, list[Place]] = defaultdict(list)
    for value, places in stored.items():
        sent = view.sent.get(value)
        if sent is not None and sent.at > fenced_at.get(sent.instance, NEVER):
            by_instance[sent.instance] += places
    for instance, places in by_instance.items():
        yield Violation(
            kind=Kind.ZOMBIE_WRITE,
            sentence=f"{len(places)} records are there that {instance} sent after it had been replaced",
            places=sorted(places),
        )
    committed = view.places(COMMITTED)
    for transaction in view.transactions.values():
        invoked = transaction.commit_invoked
        if invoked == NEVER or invoked <= fenced_at.get(transaction.instance, NEVER):
            continue
        if transaction.outcome is Outcome.COMMITTED or any(sent.value in committed for sent in transaction.records):
            yield Violation(
                kind=Kind.ZOMBIE_WRITE,
                sentence=f"transaction {transaction.key} is committed, though {transaction.instance} had been replaced when it "
                "called the commit",
                transactions=[transaction.key],
            )
    yield from _behind_successors(view)


def _behind_successors(view: View) -> Iterator[Violation]:
    """Records of an instance behind those of one that was only begun when the first was ready."""
    begun = {each.instance: each for each in view.instances}
    for where, records in view.logs[UNCOMMITTED].items():
        newest: dict[str, Initialized] = {}
        for offset, value in records:
            sent = view.sent.get(value)
            instance = begun.get(sent.instance) if sent is not None else None
            if instance is None:
                continue
            before = newest.setdefault(instance.transactional_id, instance)
            if before.invoked >= instance.at:
                yield Violation(
                    kind=Kind.ZOMBIE_WRITE,
                    sentence=f"{value} of {instance.instance} stands behind a record of {before.instance}, which replaced it",
                    places=[(*where, offset)],
                    transactions=_keys(view, value),
                )
            elif instance.invoked > before.invoked:
                newest[instance.transactional_id] = instance


def stuck_stable_offsets(view: View) -> Iterator[Violation]:
    """The last stable offset stays below the high watermark though nobody has a transaction open: readers wait for ever.

    May conclude: only after the transaction timeout and a grace of 30 s without producers. May not: say whose transaction
    hangs.
    """
    limit = view.settings.get("transaction_timeout_ms", 0) / 1000 + STUCK_GRACE_SECONDS
    final = {(seen.topic, seen.partition): seen for seen in view.watermarks if seen.waited}
    for (topic, partition), seen in final.items():
        if seen.stable < seen.high and seen.waited >= limit:
            yield Violation(
                kind=Kind.STUCK_STABLE_OFFSET,
                sentence=f"the last stable offset of {topic}/{partition} stands at {seen.stable} below {seen.high}, "
                f"{seen.waited:.0f} s after the last producer has stopped",
                places=[(topic, partition, seen.stable)],
            )
    for pending in view.offsets_seen:
        if pending.waited >= limit:
            yield Violation(
                kind=Kind.STUCK_STABLE_OFFSET,
                sentence=f"offsets of group {pending.group} are still in a transaction {pending.waited:.0f} s after the last "
                "producer has stopped: its members wait for ever",
            )


CHECKS: Final[tuple[Callable[[View], Iterator[Violation]], ...]] = (
    aborted_reads,
    reads_before_commit,
    lost_writes,
    torn_transactions,
    duplicates,
    dirty_orders,
    divergent_reads,
    phantoms,
    offsets_apart,
    zombie_writes,
    stuck_stable_offsets,
)
