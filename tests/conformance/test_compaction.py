"""Compacted topics as confluent-kafka reads them: every codec, commits and aborts, kill -9 in between (R1, R2)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicPartition
from tests.support.apps import until
from tests.support.broker_process import BrokerProcess
from tests.support.commands import run
from tests.support.confluent import consumer, create_topic, producer, read_all, transactional_producer
from tests.support.fixtures import TEST_OPTIONS

from oncelog.storage.segments import read_segment

Unique = Callable[[str], str]
Latest = dict[bytes, bytes]

KEYS = [b"key %d of some length" % number for number in range(40)]
EAGER = {"cleanup_policy": "compact", "segment_ms": 1, "min_cleanable_dirty_ratio": 0.01}


@pytest.fixture
def compacting(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker that looks for something to compact all the time."""
    options = [*TEST_OPTIONS, "--set", "log.cleaner.backoff.ms=50"]
    with BrokerProcess(tmp_path / "broker", options=options) as process:
        yield process
        process.assert_healthy()
        process.stop()


def write(bootstrap: str, topic: str, latest: Latest, codec: str, seed: int) -> int:
    """Transactions of some records; what counts goes into ``latest``. How many records that took."""
    chance = random.Random(seed)
    writer = transactional_producer(bootstrap, f"writer-{codec}-{seed}", compression_type=codec)
    count = 0
    for _ in range(12):
        writer.begin_transaction()
        own: dict[bytes, bytes | None] = {}
        for _ in range(chance.randint(1, 30)):
            key, count = chance.choice(KEYS), count + 1
            own[key] = None if chance.random() < 0.1 else b"%d of seed %d in %s" % (count, seed, codec.encode())
            writer.produce(topic, own[key], key)
        if chance.random() < 0.3:
            writer.flush(30)
            writer.abort_transaction(30)
            continue
        writer.commit_transaction(30)
        for key, value in own.items():
            latest.pop(key, None)
            if value is not None:
                latest[key] = value
    return count


def read(bootstrap: str, topic: str, isolation: str = "read_committed") -> tuple[int, Latest]:
    """How many records there are, and each key's newest value."""
    messages = read_all(bootstrap, topic, isolation=isolation)
    offsets = [message.offset() for message in messages]
    assert offsets == sorted(set(offsets))
    found = {message.key() or b"": message.value() for message in messages}
    return len(messages), {key: value for key, value in found.items() if value is not None}


def test_each_keys_newest_value_survives(compacting: BrokerProcess, unique: Unique) -> None:
    """Readers of both isolations, again after kill -9; a reader comes to the end of the log."""
    topic = create_topic(compacting.bootstrap, unique("compacted"), 1, **EAGER)
    latest: Latest = {}
    written = 0
    for number, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd") * 2):
        written += write(compacting.bootstrap, topic, latest, codec, number)
        assert read(compacting.bootstrap, topic)[1] == latest
        if number == 4:
            compacting.restart()
    few = 2 * len(KEYS) + 30  # the newest transaction is left as it is
    until(lambda: read(compacting.bootstrap, topic)[0] <= few, "compaction")
    assert read(compacting.bootstrap, topic)[1] == latest
    until(lambda: read(compacting.bootstrap, topic, "read_uncommitted") == read(compacting.bootstrap, topic), "aborted")
    compacting.restart()
    count, found = read(compacting.bootstrap, topic)
    assert (count <= few, found) == (True, latest)
    reader = consumer(compacting.bootstrap, unique("group"))
    low, high = reader.get_watermark_offsets(TopicPartition(topic, 0), 15)
    reader.close()
    assert low == 0
    assert high > written


def test_an_open_transaction_is_left_alone(compacting: BrokerProcess, unique: Unique) -> None:
    """R1: what comes after its first record is not compacted, until it ends."""
    topic = create_topic(compacting.bootstrap, unique("compacted"), 1, **EAGER)
    plain, holding = producer(compacting.bootstrap), transactional_producer(compacting.bootstrap, unique("holding"))
    early_ms = time.time_ns() // 1_000_000 - 60_000
    for number in range(50):  # a second apart: what is removed as one by retention is compacted as one, or not at all
        plain.produce(topic, b"early %d" % number, b"k", timestamp=early_ms + 1_000 * number)
        plain.flush(30)
    holding.begin_transaction()
    holding.produce(topic, b"open", b"k")
    holding.flush(30)
    for number in range(50):
        plain.produce(topic, b"late %d" % number, b"k")
        plain.flush(30)
    until(lambda: read(compacting.bootstrap, topic)[0] == 1, "what comes before it to be compacted")
    assert read(compacting.bootstrap, topic)[1] == {b"k": b"early 49"}
    assert read(compacting.bootstrap, topic, "read_uncommitted")[0] == 52
    holding.abort_transaction(30)
    until(lambda: read(compacting.bootstrap, topic)[0] == 1, "the rest to be compacted")
    assert read(compacting.bootstrap, topic)[1] == {b"k": b"late 49"}


def test_what_the_disk_has_changed_is_told_and_left_as_it_is(compacting: BrokerProcess, unique: Unique) -> None:
    """It is not written again with a sum that fits it; the broker goes on, and so does compaction elsewhere."""
    bad, good = (create_topic(compacting.bootstrap, unique(name), 1, **EAGER) for name in ("bad", "good"))

    def write_to(*topics: str) -> None:
        writer = producer(compacting.bootstrap)
        for number in range(30):
            for topic in topics:
                writer.produce(topic, b"of " + topic.encode(), b"%d" % (number % 10))
                writer.flush(30)

    write_to(bad, good)
    until(lambda: max(read(compacting.bootstrap, topic)[0] for topic in (bad, good)) < 15, "compaction")
    compacting.stop()
    changed = 0
    for path in (compacting.data / "segments").iterdir():
        content = path.read_bytes()
        changed += content.count(b"of " + bad.encode())
        path.write_bytes(content.replace(b"of " + bad.encode(), b"OF " + bad.encode()))
    assert changed
    compacting.start()
    write_to(bad, good)
    until(lambda: "damaged records" in compacting.log, "a word")
    until(lambda: read(compacting.bootstrap, good)[0] < 15, "compaction of the other")
    assert f"topic={bad}" in next(line for line in compacting.log.splitlines() if "damaged records" in line)
    with pytest.raises(KafkaException):
        read(compacting.bootstrap, bad)


def test_a_damaged_index_is_told_to_the_readers_of_its_partition(compacting: BrokerProcess, unique: Unique) -> None:
    """Others read and write on; past what is damaged the partition is sound again, by the command that the log names."""
    both = EAGER | {"cleanup_policy": "compact,delete"}
    topics = {name: create_topic(compacting.bootstrap, unique(name), 1, **both) for name in ("bad", "good")}

    def write_some() -> None:
        writer = producer(compacting.bootstrap)
        for number in range(30):
            for topic in topics.values():
                writer.produce(topic, topic.encode(), b"%d" % (number % 10))
            writer.flush(30)

    write_some()
    until(lambda: max(read(compacting.bootstrap, topic)[0] for topic in topics.values()) < 15, "compaction")
    compacting.stop()
    for path in (compacting.data / "segments").iterdir():
        content = bytearray(path.read_bytes())
        for stretch in read_segment(path).stretches:
            if topics["bad"].encode() in content[stretch.at : stretch.at + stretch.size]:
                content[stretch.at + stretch.size] ^= 1
        path.write_bytes(content)
    compacting.start()
    assert read(compacting.bootstrap, topics["good"])[0] < 15
    with pytest.raises(KafkaException):
        read(compacting.bootstrap, topics["bad"])
    write_some()
    assert f"topic={topics['bad']}" in next(line for line in compacting.log.splitlines() if "damaged records" in line)
    compacting.assert_healthy()
    at = ("--partition", "0", "--before", "30", "--bootstrap", compacting.bootstrap)
    trimmed = run("topics", "trim", topics["bad"], *at)
    assert (trimmed.returncode, trimmed.stdout) == (0, f"{topics['bad']}-0 begins at 30\n"), trimmed.stderr
    until(
        lambda: 10 <= read(compacting.bootstrap, topics["bad"])[0] < 15, "compaction of what is left, without a start"
    )
    assert len(read(compacting.bootstrap, topics["bad"])[1]) == 10


def test_a_record_without_a_key_is_refused(compacting: BrokerProcess, unique: Unique) -> None:
    """P4: as Kafka, INVALID_RECORD."""
    topic = create_topic(compacting.bootstrap, unique("compacted"), 1, **EAGER)
    errors: list[str] = []
    writer = producer(compacting.bootstrap, compression_type="zstd", enable_idempotence=False)
    for key in (b"k", None):
        writer.produce(topic, b"v", key, on_delivery=lambda error, _: errors.append(error.name() if error else ""))
        writer.flush(30)
    assert errors == ["", "INVALID_RECORD"]
    with pytest.raises(KafkaException):
        create_topic(compacting.bootstrap, unique("wrong"), 1, min_cleanable_dirty_ratio=2)
