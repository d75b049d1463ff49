"""The commands that look at a running cluster, with transactions made by a client that we did not write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from tests.support.broker_process import BrokerProcess, free_port
from tests.support.commands import run
from tests.support.confluent import consumer, create_topic, producer, read_all, transactional_producer, values_of

from oncelog.testing import Kafka

SECONDS_MAX = 60.0


@pytest.fixture
def pages() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def served(tmp_path: Path, pages: str) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "broker", options=("--metrics", pages)) as process:
        yield process
        process.assert_healthy()
        process.stop()


def said(*words: str) -> str:
    """What a command prints that must succeed."""
    ran = run(*words)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def rows(*words: str) -> list[Any]:
    """The rows of a command in JSON."""
    return [json.loads(line) for line in said(*words, "--json").splitlines()]


def table(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [re.split(r"\s{2,}", line) for line in text.splitlines()[1:]]


def test_topics(served: BrokerProcess) -> None:
    at = ("--bootstrap", served.bootstrap)
    assert said("topics", "list", *at).split() == ["TOPIC", "PARTITIONS"]
    made = said("topics", "create", "b", "a", "--partitions", "3", "--set", "retention.ms=60000", *at)
    assert made == "created b with 3 partitions\ncreated a with 3 partitions\n"
    assert table(said("topics", "list", *at)) == [["a", "3"], ["b", "3"]]
    writer = transactional_producer(served.bootstrap, "id")
    writer.begin_transaction()
    writer.produce("a", b"x", partition=1)
    writer.flush(SECONDS_MAX)
    described = rows("topics", "describe", "a", *at)
    assert described[1] == {"partition": 1, "leader": 1, "start": 0, "stable": 0, "end": 1}
    assert described[3] == {"setting": "retention.ms", "value": "60000"}
    for before, start in (("1", 1), ("0", 1)):
        assert said("topics", "trim", "a", "--partition", "1", "--before", before, *at) == f"a-1 begins at {start}\n"
    assert rows("topics", "describe", "a", *at)[1]["start"] == 1
    assert said("topics", "delete", "a", *at) == "deleted a\n"
    assert table(said("topics", "list", *at)) == [["b", "3"]]


def test_groups(served: BrokerProcess) -> None:
    at = ("--bootstrap", served.bootstrap)
    create_topic(served.bootstrap, "records", 2)
    writer = producer(served.bootstrap)
    for _ in range(5):
        writer.produce("records", b"x", partition=1)
    writer.flush(SECONDS_MAX)
    reader = consumer(served.bootstrap, "readers")
    reader.subscribe(["records"])
    while not reader.assignment():
        reader.poll(0.1)
    reader.commit(offsets=[TopicPartition("records", 1, 2)], asynchronous=False)
    assert table(said("groups", "list", *at)) == [["readers", "Stable", "consumer"]]
    text = said("groups", "describe", "readers", *at)
    assert text.startswith("group readers: Stable, 1 member\n")
    assert ["records", "1", "2", "5", "3"] in table(text)
    described = rows("groups", "describe", "readers", *at)
    assert {"topic": "records", "partition": 1, "committed": 2, "end": 5, "lag": 3} in described
    assert described[-1]["host"] == "/127.0.0.1"
    reader.close()
    assert table(said("groups", "list", *at)) == [["readers", "Empty", "consumer"]]


def test_a_group_of_the_consumer_protocol(served: BrokerProcess) -> None:
    """KIP-848: its members are told by an API of their own; by the classic one it has none."""
    at = ("--bootstrap", served.bootstrap)
    create_topic(served.bootstrap, "records", 2)
    reader = consumer(served.bootstrap, "modern", group_protocol="consumer", client_id="mine")
    reader.subscribe(["records"])
    while not reader.assignment():
        reader.poll(0.1)
    assert said("groups", "describe", "modern", *at).startswith("group modern: Stable, 1 member\n")
    (member,) = rows("groups", "describe", "modern", *at)
    assert (member["client"], member["host"]) == ("mine", "/127.0.0.1")
    reader.close()
    assert said("groups", "describe", "modern", *at).startswith("group modern: Empty, 0 members\n")


def test_transactions(served: BrokerProcess, pages: str) -> None:
    """D5, T11: what is open, since when, where; an abort fences its producer; who was fenced and by whom is shown."""
    at = ("--bootstrap", served.bootstrap)
    create_topic(served.bootstrap, "records", 2)
    writer = transactional_producer(served.bootstrap, "orders", transaction_timeout_ms=60_000)
    writer.begin_transaction()
    writer.produce("records", b"never", partition=1)
    writer.flush(SECONDS_MAX)
    (listed,) = table(said("transactions", "list", *at))
    assert (listed[0], listed[1], listed[5], listed[6]) == ("orders", "Ongoing", "1 min 0 s", "records-1")
    (found,) = rows("transactions", "list", "--open-only", *at)
    assert 0 < found["open_ms"] < 60_000
    assert re.fullmatch(
        r"aborted orders \(producer \d+, epoch 0\) in records-1\n", said("transactions", "abort", "orders", *at)
    )
    assert rows("transactions", "list", "--open-only", *at) == []
    again = run("transactions", "abort", "orders", *at)
    assert again.returncode == 7
    assert re.fullmatch(r"oncelog: .*'orders': INVALID_TXN_STATE\. No transaction is open: Empty\.\n", again.stderr)
    with pytest.raises(Exception, match=r"fenced|FENCED|INVALID_PRODUCER_EPOCH"):
        writer.commit_transaction(SECONDS_MAX)
    (fence,) = rows("transactions", "fences", "--metrics", pages)
    assert (fence["id"], fence["reason"]) == ("orders", "replaced")
    assert re.fullmatch(r"replaced by 127\.0\.0\.1:\d+, was 127\.0\.0\.1:\d+", fence["why"])
    shown = said("transactions", "describe", "orders", "--metrics", pages, *at)
    assert "replaced by 127.0.0.1:" in shown
    assert values_of(read_all(served.bootstrap, "records")) == []


def test_the_batches_of_a_partition(served: BrokerProcess) -> None:
    """R1-R3: committed, aborted and open batches are told apart, markers are named."""
    at = ("--bootstrap", served.bootstrap)
    create_topic(served.bootstrap, "records")
    for name, end in (("one", "commit_transaction"), ("two", "abort_transaction"), ("three", "")):
        writer = transactional_producer(served.bootstrap, name, compression_type="lz4" if name == "two" else "none")
        writer.begin_transaction()
        for _ in range(3):
            writer.produce("records", b"x" * 100, partition=0)
        writer.flush(SECONDS_MAX)
        if end:
            getattr(writer, end)(SECONDS_MAX)
    plain = producer(served.bootstrap, enable_idempotence=False)
    plain.produce("records", b"x", partition=0)
    plain.flush(SECONDS_MAX)
    found = rows("log", "records", *at)
    assert [(row["offsets"], row["kind"], row["fate"]) for row in found] == [
        ("0-2", "transactional", "committed"),
        ("3", "control", "committed"),
        ("4-6", "transactional", "aborted"),
        ("7", "control", "aborted"),
        ("8-10", "transactional", "open"),
        ("11", "plain", ""),
    ]
    assert [row["compression"] for row in found][:3] == ["none", "none", "lz4"]
    assert (found[0]["sequences"], found[0]["epoch"], found[3]["sequences"]) == ("0-2", 0, None)
    first, second = rows("log", "records", "--from", "2", "--count", "2", *at)
    assert (first["offset_first"], second["offset_first"]) == (0, 3), "a look inside a batch shows the whole batch"
    (only,) = rows("log", "records", "--from", "4", "--count", "1", *at)
    assert only["fate"] == "aborted", "the end is searched behind what is shown"
    assert "FATE" in said("log", "records", *at).splitlines()[0]


MISTAKES = [
    (("topics", "describe", "nowhere"), r"topic 'nowhere': UNKNOWN_TOPIC_OR_PARTITION\. `oncelog topics list`.*"),
    (("topics", "create", "a/b"), r"topic 'a/b' was not created: INVALID_TOPIC_EXCEPTION\. .*"),
    (("topics", "delete", "nowhere"), r"topic 'nowhere' was not deleted: UNKNOWN_TOPIC_OR_PARTITION\. .*"),
    (("groups", "describe", "nobody"), r"group 'nobody': GROUP_ID_NOT_FOUND\. `oncelog groups list`.*"),
    (("transactions", "describe", "nobody"), r".*'nobody': TRANSACTIONAL_ID_NOT_FOUND\. `oncelog transactions list`.*"),
    (
        ("topics", "trim", "there", "--partition", "7", "--before", "1"),
        r"there-7: UNKNOWN_TOPIC_OR_PARTITION\. .* 0 to 0\.",
    ),
    (
        ("topics", "trim", "compacted", "--partition", "0", "--before", "0"),
        r"records of compacted-0 .* is only compacted: .*",
    ),
    (
        ("topics", "trim", "there", "--partition", "0", "--before", "9"),
        r"records of there-0 .*: OFFSET_OUT_OF_RANGE\. .*",
    ),
    (("log", "nowhere"), r"topic 'nowhere': UNKNOWN_TOPIC_OR_PARTITION\. .*"),
    (("log", "there", "--partition", "7"), r"there-7: UNKNOWN_TOPIC_OR_PARTITION\. The topic has partitions 0 to 0\."),
]


def test_what_is_refused_is_one_sentence(served: BrokerProcess) -> None:
    create_topic(served.bootstrap, "there")
    create_topic(served.bootstrap, "compacted", cleanup_policy="compact")
    for words, sentence in MISTAKES:
        ran = run(*words, "--bootstrap", served.bootstrap)
        assert (ran.returncode, ran.stdout) == (7, "")
        assert re.fullmatch(f"oncelog: {sentence}\n", ran.stderr), ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("topics", "list"),
        ("topics", "describe", "a"),
        ("groups", "list"),
        ("transactions", "list"),
        ("transactions", "abort", "a"),
        ("log", "a"),
    ],
)
def test_no_broker_there(words: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"
    ran = run(*words, "--bootstrap", address)
    assert (ran.returncode, ran.stdout) == (6, "")
    assert ran.stderr == (
        f"oncelog: no broker answers at {address}: Connection refused. "
        "Start one with `oncelog serve`, or say where it is with --bootstrap HOST:PORT.\n"
    )


def test_no_pages_there() -> None:
    ran = run("transactions", "fences", "--metrics", f"127.0.0.1:{free_port()}")
    assert (ran.returncode, ran.stdout) == (6, "")
    assert re.fullmatch(
        r"oncelog: no pages at .*: Connection refused\. Start the broker with .* --metrics .*\n", ran.stderr
    )


def test_an_abort_that_is_only_begun_is_waited_for(kafka: Kafka) -> None:
    """Apache Kafka answers CONCURRENT_TRANSACTIONS until its markers are written; the command asks again."""
    writer = transactional_producer(kafka.bootstrap, "orders")
    writer.begin_transaction()
    writer.produce("records", b"x")
    writer.flush(SECONDS_MAX)
    with kafka.faults(refuse="InitProducerId", error="CONCURRENT_TRANSACTIONS", times=3):
        told = said("transactions", "abort", "orders", "--bootstrap", kafka.bootstrap)
    assert told.startswith("aborted orders")
    assert [row.state for row in kafka.rows("records")] == ["aborted", "abort marker"]
