"""Apache Kafka's own command-line tools, as operators use them; what they print is compared, not their exit codes alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import Deliveries, create_topic, producer, read_all, transactional_producer, values_of
from tests.support.fixtures import Broker
from tests.support.suites import run, tool

pytestmark = [pytest.mark.client("kafka-tools"), pytest.mark.needs("java")]

Unique = Callable[[str], str]
GROUPS = "consumer.group.ConsumerGroupCommand"


def asked(broker: Broker, main: str, *arguments: str) -> str:
    """What a tool prints; it must succeed."""
    return run(tool(main, "--bootstrap-server", broker.bootstrap, *arguments), 90).checked()


def refused(broker: Broker, main: str, *arguments: str) -> str:
    """All that a tool says that must fail (some of them fail with exit code 0)."""
    ran = run(tool(main, "--bootstrap-server", broker.bootstrap, *arguments), 90)
    return ran.out + ran.err


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table with a line of headings: parted by tabs, else by spaces."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.split("\t")] if "\t" in line else line.split() for line in lines]
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]


def fill(broker: Broker, topic: str, count: int) -> None:
    writer, deliveries = producer(broker.bootstrap), Deliveries()
    for number in range(count):
        writer.produce(topic, str(number).encode(), partition=0, on_delivery=deliveries.on_delivery)
    writer.flush(20)
    assert len(deliveries.acknowledged) == count


def test_topics(broker: Broker, unique: Unique) -> None:
    topic = unique("topic")
    asked(broker, "TopicCommand", "--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=9000")
    assert topic in asked(broker, "TopicCommand", "--list").split()
    asked(broker, "TopicCommand", "--alter", "--topic", topic, "--partitions", "5")
    told = asked(broker, "TopicCommand", "--describe", "--topic", topic)
    assert "PartitionCount: 5" in told
    assert "retention.ms=9000" in told
    assert "TopicExists" in refused(broker, "TopicCommand", "--create", "--topic", topic)
    asked(broker, "TopicCommand", "--delete", "--topic", topic)
    assert topic not in asked(broker, "TopicCommand", "--list").split()


def test_settings(broker: Broker, unique: Unique) -> None:
    topic = create_topic(broker.bootstrap, unique("topic"))
    entity = ("--entity-type", "topics", "--entity-name", topic)
    asked(
        broker, "ConfigCommand", "--alter", *entity, "--add-config", "retention.ms=7000,cleanup.policy=[compact,delete]"
    )
    told = asked(broker, "ConfigCommand", "--describe", *entity)
    assert "retention.ms=7000 " in told
    assert "cleanup.policy=compact,delete " in told
    asked(broker, "ConfigCommand", "--alter", *entity, "--delete-config", "retention.ms")
    assert "retention.ms" not in asked(broker, "ConfigCommand", "--describe", *entity)
    assert "InvalidConfiguration" in refused(
        broker, "ConfigCommand", "--alter", *entity, "--add-config", "retention.ms=soon"
    )
    told = asked(broker, "ConfigCommand", "--describe", "--all", "--entity-type", "brokers", "--entity-name", "1")
    assert "transaction.max.timeout.ms=900000 " in told


def test_records_are_deleted_and_offsets_shown(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    topic = create_topic(broker.bootstrap, unique("topic"), 2)
    fill(broker, topic, 20)
    wanted = tmp_path / "offsets.json"
    wanted.write_text(json.dumps({"partitions": [{"topic": topic, "partition": 0, "offset": 7}], "version": 1}))
    told = asked(broker, "DeleteRecordsCommand", "--offset-json-file", str(wanted))
    assert f"partition: {topic}-0\tlow_watermark: 7" in told
    shown = asked(broker, "GetOffsetShell", "--topic", topic, "--time", "earliest").split()
    assert shown == [f"{topic}:0:7", f"{topic}:1:0"]
    shown = asked(broker, "GetOffsetShell", "--topic-partitions", f"{topic}:0-2", "--time", "latest").split()
    assert shown == [f"{topic}:0:20", f"{topic}:1:0"]


def test_groups(broker: Broker, unique: Unique) -> None:
    topic, group = create_topic(broker.bootstrap, unique("topic")), unique("group")
    fill(broker, topic, 20)
    select = ("--group", group, "--topic", topic)
    for protocol in ("CLASSIC", "CONSUMER"):
        member = ("--topic", topic, "--group-id", group, "--group-protocol", protocol)
        asked(broker, "VerifiableConsumer", *member, "--max-messages", "8")
        assert group in asked(broker, GROUPS, "--list").split()
        [row] = table(asked(broker, GROUPS, "--describe", "--group", group))
        assert (row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]) == ("8", "20", "12")
        [row] = table(asked(broker, GROUPS, "--describe", "--group", group, "--state"))
        assert "Empty" in row.values()
        asked(broker, GROUPS, "--reset-offsets", *select, "--shift-by", "-3", "--execute")
        [row] = table(asked(broker, GROUPS, "--reset-offsets", *select, "--to-current", "--dry-run"))
        assert row["NEW-OFFSET"] == "5"
        assert "Successful" in asked(broker, GROUPS, "--delete-offsets", *select)
        assert "successful" in asked(broker, GROUPS, "--delete", "--group", group)
        assert "GroupIdNotFound" in refused(broker, GROUPS, "--describe", "--group", group)


def test_an_open_transaction_is_found_and_aborted(broker: Broker, unique: Unique) -> None:
    """T11: what kafka-transactions.sh does to find a transaction that hangs, and to get rid of it."""
    topic, name = create_topic(broker.bootstrap, unique("topic")), unique("id")
    writer = transactional_producer(broker.bootstrap, name)
    writer.begin_transaction()
    writer.produce(topic, b"open")
    writer.flush(10)
    main = "TransactionsCommand"
    rows = {row["TransactionalId"]: row for row in table(asked(broker, main, "list"))}
    assert rows[name]["TransactionState"] == "Ongoing"
    [row] = table(asked(broker, main, "describe", "--transactional-id", name))
    assert (row["TransactionState"], row["TopicPartitions"]) == ("Ongoing", f"{topic}-0")
    where = ("--topic", topic, "--partition", "0")
    [row] = table(asked(broker, main, "describe-producers", *where))
    assert row["ProducerId"] == rows[name]["ProducerId"]
    assert row["CurrentTransactionStartOffset"] == "0"
    assert table(asked(broker, main, "find-hanging", *where)) == []
    asked(broker, main, "abort", *where, "--start-offset", "0")
    [row] = table(asked(broker, main, "describe", "--transactional-id", name))
    assert row["TransactionState"] == "CompleteAbort"
    assert read_all(broker.bootstrap, topic) == []


def test_an_open_transaction_is_terminated_by_its_id(broker: Broker, unique: Unique) -> None:
    """T2, T11."""
    topic, name = create_topic(broker.bootstrap, unique("topic")), unique("id")
    writer = transactional_producer(broker.bootstrap, name)
    writer.begin_transaction()
    writer.produce(topic, b"open")
    writer.flush(10)
    asked(broker, "TransactionsCommand", "forceTerminateTransaction", "--transactionalId", name)
    [row] = table(asked(broker, "TransactionsCommand", "describe", "--transactional-id", name))
    assert row["TransactionState"] == "Empty"


def test_many_transactions_of_a_performance_test(broker: Broker, unique: Unique) -> None:
    """ProducerPerformance commits every 20 ms; all that it has sent is there, once."""
    topic = create_topic(broker.bootstrap, unique("topic"), 3)
    count = ("--num-records", "20000", "--record-size", "100", "--throughput", "-1")
    transactions = ("--transactional-id", unique("id"), "--transaction-duration-ms", "20")
    told = asked(broker, "ProducerPerformance", "--topic", topic, *count, *transactions)
    assert "20000 records sent" in told
    assert len(read_all(broker.bootstrap, topic)) == 20000


def test_verifiable_producer_and_consumer(broker: Broker, unique: Unique) -> None:
    topic = create_topic(broker.bootstrap, unique("topic"), 3)
    told = asked(broker, "VerifiableProducer", "--topic", topic, "--max-messages", "2000")
    events = [json.loads(line) for line in told.splitlines()]
    assert sum(event["name"] == "producer_send_success" for event in events) == 2000
    assert sorted(values_of(read_all(broker.bootstrap, topic))) == sorted(str(each).encode() for each in range(2000))
    told = asked(
        broker, "VerifiableConsumer", "--topic", topic, "--group-id", unique("group"), "--max-messages", "2000"
    )
    events = [json.loads(line) for line in told.splitlines()]
    ends = {each["partition"]: each["offset"] for event in events for each in event.get("offsets", ())}
    assert sum(ends.values()) == 2000


def test_cluster(own_broker: BrokerProcess, unique: Unique) -> None:
    topic = create_topic(own_broker.bootstrap, unique("topic"))
    told = asked(own_broker, "FeatureCommand", "describe")
    assert re.search(r"transaction\.version\s.*FinalizedVersionLevel: 2\s", told)
    told = asked(own_broker, "LogDirsCommand", "--describe", "--topic-list", topic)
    [folder] = json.loads(told.splitlines()[-1])["brokers"][0]["logDirs"]
    assert (folder["logDir"], folder["error"]) == (str(own_broker.data), None)
    assert [each["partition"] for each in folder["partitions"]] == [f"{topic}-0"]
    elect = ("--election-type", "preferred", "--topic", topic, "--partition", "0")
    assert "already elected" in asked(own_broker, "LeaderElectionCommand", *elect)
