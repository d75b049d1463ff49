"""What readers see, and when: raw requests, so that no client smooths anything over."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable

from tests.support.batches import Batch
from tests.support.fixtures import Broker
from tests.support.raw import RawClient
from tests.support.raw_producer import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    RawProducer,
    create_topic,
    fetch,
    fetched,
    list_offset,
    values,
)

Unique = Callable[[str], str]

LATEST, EARLIEST, LARGEST_TIME = -1, -2, -3
ROUNDS = 150


def test_a_commit_acknowledgement_means_visible(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """D3: a read_committed fetch that starts after the reply to EndTxn sees the whole transaction, in every round."""
    topic = create_topic(raw, unique("topic"), 4)
    producer = RawProducer(raw, unique("id")).init()
    with RawClient(broker.port) as reader:
        for number in range(ROUNDS):
            assert producer.add(topic, 0, 1, 2, 3) == [0] * 4
            for partition in range(4):
                assert producer.produce(topic, partition, b"%d" % number).error_code == 0
            assert producer.end(commit=True) == 0
            parts = fetch(reader, topic, range(4), 2 * number)
            assert [values(part) for part in parts] == [[b"%d" % number]] * 4


def test_all_partitions_of_a_transaction_become_visible_at_once(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """D1: no fetch over all partitions ever shows a transaction in some of them only."""
    topic = create_topic(raw, unique("topic"), 4)
    producer = RawProducer(raw, unique("id")).init()
    done = threading.Event()
    seen: list[list[int]] = []

    def watch() -> None:
        with RawClient(broker.port) as reader:
            offset = 0
            while not done.is_set():
                stable = [part.last_stable_offset for part in fetch(reader, topic, range(4), offset)]
                seen.append(stable)
                offset = min(stable)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(ROUNDS):
            producer.add(topic, 0, 1, 2, 3)
            for partition in range(4):
                producer.produce(topic, partition, b"%d" % number)
            assert producer.end(commit=number % 3 != 0) == 0
    finally:
        done.set()
        watcher.join(20)
    assert len({tuple(stable) for stable in seen}) > 5, "the watcher saw too little to judge"
    assert [stable for stable in seen if len(set(stable)) > 1] == []


def shown_up_to(raw: RawClient, topic: str, offset: int) -> list[Batch]:
    """What read_uncommitted sees when it sees ``offset``: open data is acknowledged before it is shown (D2)."""
    deadline = time.monotonic() + 20
    while (part := fetch(raw, topic, 0, isolation=READ_UNCOMMITTED)).high_watermark < offset:
        assert time.monotonic() < deadline, "open data is never synced"
    return fetched(part)


def test_open_data_is_shown_soon(raw: RawClient, unique: Unique) -> None:
    """D2: what an open transaction has written is synced, and so shown to read_uncommitted, within flush.interval.ms."""
    topic = create_topic(raw, unique("topic"))
    producer = RawProducer(raw, unique("id")).init()
    producer.add(topic, 0)
    producer.produce(topic, 0, b"open")
    assert [each.base_offset for each in shown_up_to(raw, topic, 1)] == [0]


def test_the_last_stable_offset(raw: RawClient, unique: Unique) -> None:
    """R1: read_committed ends at the first offset of the oldest open transaction, read_uncommitted at the high watermark."""
    topic = create_topic(raw, unique("topic"))
    first, second = RawProducer(raw, unique("first")).init(), RawProducer(raw, unique("second")).init()
    plain = RawProducer(raw, None).init()

    def offsets() -> tuple[int, int, int]:
        part = fetch(raw, topic, 0)
        shown = fetched(part)
        assert all(each.offset_last < part.last_stable_offset for each in shown)
        everything = fetched(fetch(raw, topic, 0, isolation=READ_UNCOMMITTED))
        return part.last_stable_offset, part.high_watermark, everything[-1].offset_last if everything else -1

    assert offsets() == (0, 0, -1)
    plain.produce(topic, 0, b"0")
    assert offsets() == (1, 1, 0)
    first.add(topic, 0)
    assert offsets() == (1, 1, 0)
    first.produce(topic, 0, b"1")
    second.add(topic, 0)
    second.produce(topic, 0, b"2", b"3")
    plain.produce(topic, 0, b"4")
    assert offsets() == (1, 5, 4)
    first.end(commit=True)
    assert offsets() == (2, 6, 5)
    second.end(commit=False)
    assert offsets() == (7, 7, 6)
    assert values(fetch(raw, topic, 0)) == [b"0", b"1", b"4"]


def test_the_aborted_list(raw: RawClient, unique: Unique) -> None:
    """R2: every aborted transaction that overlaps the range, sorted by first offset; null for read_uncommitted."""
    topic = create_topic(raw, unique("topic"))
    outer, inner = RawProducer(raw, unique("outer")).init(), RawProducer(raw, unique("inner")).init()
    for each in (outer, inner):
        each.add(topic, 0)
        each.produce(topic, 0, b"aborted")
    inner.end(commit=False)  # ends first, began later: offset 2 is its marker
    outer.end(commit=False)
    outer.add(topic, 0)
    outer.produce(topic, 0, b"kept")
    outer.end(commit=True)

    def aborted(offset: int) -> list[tuple[int, int]]:
        part = fetch(raw, topic, 0, offset)
        return [(each.first_offset, each.producer_id) for each in part.aborted_transactions or ()]

    assert aborted(0) == [(0, outer.producer_id), (1, inner.producer_id)]
    assert aborted(2) == [(0, outer.producer_id), (1, inner.producer_id)]
    assert aborted(3) == [(0, outer.producer_id)]
    assert aborted(4) == []
    assert values(fetch(raw, topic, 0)) == [b"kept"]
    assert fetch(raw, topic, 0, isolation=READ_UNCOMMITTED).aborted_transactions is None


def test_many_interleaved_aborts_are_sorted(raw: RawClient, unique: Unique) -> None:
    """R2: transactions that end in another order than they began."""
    topic = create_topic(raw, unique("topic"))
    producers = [RawProducer(raw, unique(f"id{number}")).init() for number in range(8)]
    for each in producers:
        each.add(topic, 0)
        each.produce(topic, 0, b"x")
    for index in (5, 0, 7, 2, 6, 1, 4, 3):
        assert producers[index].end(commit=index % 2 == 0) == 0
    part = fetch(raw, topic, 0)
    assert [each.first_offset for each in part.aborted_transactions] == [1, 3, 5, 7]
    assert len(values(part)) == 4


def test_the_control_batch(raw: RawClient, unique: Unique) -> None:
    """R3: transactional + control, one record, its key and value to the byte."""
    topic = create_topic(raw, unique("topic"))
    producer = RawProducer(raw, unique("id")).init()
    for commit in (True, False):
        producer.add(topic, 0)
        producer.produce(topic, 0, b"x")
        producer.end(commit=commit)
    _, first, _, second = fetched(fetch(raw, topic, 0, isolation=READ_UNCOMMITTED))
    for marker, outcome in ((first, 1), (second, 0)):
        assert (marker.attributes & 0x30, marker.record_count, marker.base_sequence) == (0x30, 1, -1)
        assert (marker.producer_id, marker.producer_epoch) == (producer.producer_id, producer.epoch)
        record = marker.records[0]
        assert record.key == struct.pack(">hh", 0, outcome)
        assert record.value is not None
        assert len(record.value) == 6
        assert record.value[:2] == b"\x00\x00"


def test_whole_batches(raw: RawClient, unique: Unique) -> None:
    """R4: a fetch inside a batch returns all of it, and never less than one batch, whatever the limits say."""
    topic = create_topic(raw, unique("topic"), 2)
    producer = RawProducer(raw, None).init()
    for partition in (0, 1):
        for start in (0, 4):
            producer.produce(topic, partition, *(b"%d" % number * 200 for number in range(start, start + 4)))
    inside = fetched(fetch(raw, topic, 0, 2))
    assert [each.base_offset for each in inside] == [0, 4]
    assert inside[0].record_count == 4
    for offset, base in ((0, 0), (3, 0), (5, 4)):
        assert [each.base_offset for each in fetched(fetch(raw, topic, 0, offset, bytes_max=1))] == [base]
    both = fetch(raw, topic, [0, 1], bytes_max=1)
    assert sorted(len(fetched(part)) for part in both) == [0, 1]
    assert fetch(raw, topic, 0, 8).records in (None, b"")
    assert fetch(raw, topic, 0, 9).error_code == 1


def test_list_offsets_by_isolation(raw: RawClient, unique: Unique) -> None:
    """R5: LATEST is the last stable offset under read_committed; times never lead beyond what may be read."""
    topic = create_topic(raw, unique("topic"))
    plain, producer = RawProducer(raw, None).init(), RawProducer(raw, unique("id")).init()
    plain.produce(topic, 0, b"0", b"1")
    producer.add(topic, 0)
    producer.produce(topic, 0, b"2")
    open_ms = shown_up_to(raw, topic, 3)[-1].timestamp_max

    def offset(timestamp: int, isolation: int) -> int:
        return list_offset(raw, topic, 0, timestamp, isolation=isolation)[0]

    assert offset(EARLIEST, READ_COMMITTED) == offset(EARLIEST, READ_UNCOMMITTED) == 0
    assert (offset(LATEST, READ_COMMITTED), offset(LATEST, READ_UNCOMMITTED)) == (2, 3)
    assert offset(open_ms + 1, READ_UNCOMMITTED) == -1
    assert offset(0, READ_COMMITTED) == 0
    first_ms = fetched(fetch(raw, topic, 0))[0].timestamp_max
    if open_ms > first_ms:
        assert (offset(first_ms + 1, READ_COMMITTED), offset(first_ms + 1, READ_UNCOMMITTED)) == (-1, 2)
    producer.end(commit=True)
    assert offset(LATEST, READ_COMMITTED) == offset(LATEST, READ_UNCOMMITTED) == 4


def test_the_same_bytes_again(raw: RawClient, unique: Unique) -> None:
    """R6: reading again from an offset gives the same again, byte for byte."""
    topic = create_topic(raw, unique("topic"))
    producer = RawProducer(raw, unique("id")).init()
    for number in range(10):
        producer.add(topic, 0)
        producer.produce(topic, 0, b"%d" % number)
        producer.end(commit=number % 2 == 0)
    once = fetch(raw, topic, 0).records
    assert [fetch(raw, topic, 0).records for _ in range(3)] == [once] * 3
    tail = fetched(fetch(raw, topic, 0, 10))
    assert b"".join(each.data for each in tail) == once[-sum(len(each.data) for each in tail) :]


def test_a_waiting_fetch_wakes_with_the_commit(broker: Broker, raw: RawClient, unique: Unique) -> None:
    """D3, R1: a read_committed fetch that waits is not woken by open data, and returns all of it with the commit."""
    topic = create_topic(raw, unique("topic"))
    producer = RawProducer(raw, unique("id")).init()
    with RawClient(broker.port) as reader:
        answers: list[list[bytes | None]] = []
        waiting = threading.Thread(target=lambda: answers.append(values(fetch(reader, topic, 0, wait_ms=10_000))))
        waiting.start()
        producer.add(topic, 0)
        producer.produce(topic, 0, b"a")
        producer.produce(topic, 0, b"b")
        waiting.join(0.3)
        assert waiting.is_alive(), "woken by what it may not see"
        producer.end(commit=True)
        waiting.join(20)
        assert answers == [[b"a", b"b"]]
