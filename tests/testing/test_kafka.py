"""oncelog.testing as a test of a user's meets it: confluent-kafka against a staged broker, with every fault."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from tests.support.batches import batch
from tests.support.messages import build, encode_request, message_type
from tests.support.raw import RawClient

from oncelog.testing import DidNotFinish, FaultDidNotHappen, Kafka, NotExactlyOnce, assert_exactly_once
from oncelog.testing.kafka import CLIENT_SETTINGS


@pytest.fixture
def kafka() -> Iterator[Kafka]:
    broker = Kafka().start()
    yield broker
    broker.close()


def transactional(kafka: Kafka, name: str = "id", **settings: Any) -> Producer:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": name, "retry.backoff.ms": 10,
         "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 100, **CLIENT_SETTINGS, **settings}
    )  # fmt: skip
    producer.init_transactions(20)
    return producer


def write(producer: Producer, topic: str, *values: str, commit: bool = True) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    if commit:
        producer.commit_transaction(20)
    else:
        producer.flush(20)
        producer.abort_transaction(20)


def values(kafka: Kafka, topic: str = "t", **given: Any) -> list[bytes | None]:
    return [record.value for record in kafka.consume(topic, **given)]


# -- asking -----------------------------------------------------------------------------------------------------------


def test_records_go_in_and_out(kafka: Kafka) -> None:
    kafka.topic("t", partitions=2, max_message_bytes=2000)
    kafka.produce("t", {"a": "1", "b": None}, partition=1)
    kafka.produce("t", ["2", ("c", "3")], partition=0)
    assert [(record.partition, record.key, record.value) for record in kafka.consume("t")] == [
        (0, None, b"2"),
        (0, b"c", b"3"),
        (1, b"a", b"1"),
        (1, b"b", None),
    ]
    assert kafka.ends("t") == {0: 2, 1: 2}
    assert kafka.topics() == ["t"]


def test_each_record_has_its_fate(kafka: Kafka) -> None:
    producer = transactional(kafka)
    kafka.produce("t", ["plain"])
    write(producer, "t", "gone", commit=False)
    write(producer, "t", "there")
    producer.begin_transaction()
    producer.produce("t", "open")
    producer.flush(20)
    assert [(row.value, row.state) for row in kafka.rows("t")] == [
        (b"plain", "plain"),
        (b"gone", "aborted"),
        (None, "abort marker"),
        (b"there", "committed"),
        (None, "commit marker"),
        (b"open", "open"),
    ]
    assert values(kafka) == [b"plain", b"there"]
    assert values(kafka, isolation="read_uncommitted") == [b"plain", b"gone", b"there", b"open"]
    assert kafka.transactions()["id"].state == "Ongoing"
    assert "0:5      open           producer" in kafka.shown("t")
    producer.abort_transaction(20)


def test_offsets_of_groups(kafka: Kafka) -> None:
    kafka.produce("t", ["1", "2", "3"])
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g", **CLIENT_SETTINGS})
    reader.commit(offsets=[TopicPartition("t", 0, 2)], asynchronous=False)
    reader.close()
    assert kafka.groups() == {"g": {("t", 0): 2}}


def test_time_goes_on_when_told(kafka: Kafka) -> None:
    """T7, D5: a transaction of an hour times out without an hour's waiting."""
    producer = transactional(kafka, **{"transaction.timeout.ms": 600_000})
    producer.begin_transaction()
    producer.produce("t", "late")
    producer.flush(20)
    kafka.clock.advance(599)
    assert kafka.transactions()["id"].state == "Ongoing"
    kafka.clock.advance(2)
    assert kafka.transactions()["id"].state == "CompleteAbort"
    assert "timed out" in kafka.transactions()["id"].fence_reason
    with pytest.raises(KafkaException) as fenced:
        producer.commit_transaction(20)
    assert fenced.value.args[0].code() in (
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    )
    with pytest.raises(ValueError, match="time does not go back"):
        kafka.clock.advance(-1)


def test_it_is_killed_and_comes_back_with_everything(kafka: Kafka) -> None:
    producer = transactional(kafka)
    write(producer, "t", "before")
    at = kafka.bootstrap
    kafka.restart()
    assert kafka.bootstrap == at
    write(producer, "t", "after")
    assert values(kafka) == [b"before", b"after"]


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "lose_reply", "kill_broker_before", "kill_broker_after"])
@pytest.mark.parametrize("api", ["Produce", "AddPartitionsToTxn", "EndTxn"])
def test_a_retry_writes_once(kafka: Kafka, fault: str, api: str) -> None:
    """P1, D1: whatever is lost on the way, what was committed is there once."""
    kafka.topic("t")
    producer = transactional(kafka)
    with kafka.faults(**{fault: api}, times=2):
        for number in range(3):
            write(producer, "t", str(number))
    assert values(kafka) == [b"0", b"1", b"2"]


def test_a_refusal_has_the_error_that_was_asked_for(kafka: Kafka) -> None:
    kafka.topic("t")
    producer = transactional(kafka)
    with kafka.faults(refuse="EndTxn", error="INVALID_TXN_STATE"), pytest.raises(KafkaException) as refused:
        write(producer, "t", "1")
    assert refused.value.args[0].code() == KafkaError.INVALID_TXN_STATE
    failed: list[Any] = []
    plain = Producer({"bootstrap.servers": kafka.bootstrap, **CLIENT_SETTINGS})
    with kafka.faults(refuse="Produce", error="MESSAGE_TOO_LARGE"):
        plain.produce("t", "2", on_delivery=lambda error, _: failed.append(error.code()))
        plain.flush(20)
    assert failed == [KafkaError.MSG_SIZE_TOO_LARGE]
    assert values(kafka) == []


@pytest.mark.parametrize(
    "api",
    [
        "FindCoordinator",
        "InitProducerId",
        "AddPartitionsToTxn",
        "Produce",
        "EndTxn",
        "Fetch",
        "ListOffsets",
        "Metadata",
    ],
)
def test_any_api_can_be_refused(kafka: Kafka, api: str) -> None:
    """A client cures a retriable error by itself, so its reply was well-formed."""
    kafka.topic("t")
    errors = {"Produce": "NOT_LEADER_OR_FOLLOWER", "Fetch": "NOT_LEADER_OR_FOLLOWER", "ListOffsets": "NOT_LEADER_OR_FOLLOWER",
              "Metadata": "LEADER_NOT_AVAILABLE"}  # fmt: skip
    with kafka.faults(refuse=api, error=errors.get(api, "COORDINATOR_NOT_AVAILABLE")):
        write(transactional(kafka), "t", "1")
        reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g", **CLIENT_SETTINGS})
        reader.assign([TopicPartition("t", 0, -2)])
        message = reader.poll(20)
        assert message is not None
        assert message.value() == b"1"
        reader.close()


def test_what_is_held_waits_and_what_comes_after_it_too(kafka: Kafka) -> None:
    kafka.topic("t")
    producer = transactional(kafka)
    with kafka.faults(hold="EndTxn") as held:
        writing = threading.Thread(target=write, args=(producer, "t", "1"))
        writing.start()
        held.wait()
        assert values(kafka) == []
        held.release()
        writing.join(20)
    assert values(kafka) == [b"1"]


def test_a_delay(kafka: Kafka) -> None:
    kafka.topic("t")
    producer = transactional(kafka)
    began = time.monotonic()
    with kafka.faults(delay="EndTxn", seconds=0.3):
        write(producer, "t", "1")
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("fault", ["kill_client_before", "kill_client_after"])
def test_a_client_is_killed_at_the_step(kafka: Kafka, fault: str) -> None:
    """D1: before EndTxn nothing is there; after it everything is, though the client never heard of it."""
    kafka.topic("t")
    program = """
        import sys
        from confluent_kafka import Producer
        producer = Producer({"bootstrap.servers": sys.argv[1], "transactional.id": "id"})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce("t", "1")
        producer.commit_transaction()
    """
    with kafka.faults(**{fault: "EndTxn"}):
        ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program), kafka.bootstrap], timeout=30, check=False)
    assert ran.returncode == -9
    assert values(kafka) == ([b"1"] if fault == "kill_client_after" else [])


@pytest.mark.parametrize("fault", ["kill_client_before", "kill_client_after"])
def test_a_client_is_killed_once_for_all_its_requests_on_their_way(kafka: Kafka, fault: str) -> None:
    """Two requests are on their way when the first is done: each kill is another process's."""
    kafka.topic("t", partitions=2)

    def service() -> None:
        producer = transactional(kafka)
        producer.begin_transaction()
        for partition in (0, 1):
            producer.produce("t", "x", partition=partition)
        producer.commit_transaction()
        time.sleep(60)

    with kafka.faults(**{fault: "Produce"}, times=2):
        assert kafka.run(service, until=lambda: bool(values(kafka))).kills == 2
    assert values(kafka) == [b"x", b"x"]


def test_what_comes_after_a_request_that_was_cut_is_lost_too(kafka: Kafka) -> None:
    """As TCP would have it: the broker meets every request of the connection up to some point, and none behind it."""
    kafka.topic("t", partitions=4)
    sent = [
        {
            "transactional_id": None,
            "acks": -1,
            "timeout": 10_000,
            "topic_data": [{"name": "t", "partition_data": [{"index": partition, "records": batch([b"1"])}]}],
        }
        for partition in range(4)
    ]
    requests = (build(message_type("produce", 9, "request"), tree) for tree in sent)
    with kafka.faults(cut="Produce"), RawClient(int(kafka.bootstrap.rpartition(":")[2])) as raw:
        raw.send_bytes(b"".join(encode_request(number, "raw", one) for number, one in enumerate(requests)))
        assert raw.is_closed_by_peer()
    assert values(kafka) == []


def test_a_program_may_end_by_itself_when_its_work_is_done(kafka: Kafka) -> None:
    kafka.topic("t")
    program = """
        import os
        from confluent_kafka import Producer
        producer = Producer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"]})
        producer.produce("t", "1")
        producer.flush()
        os._exit(0)
    """
    looked: list[int] = []

    def is_done() -> bool:
        looked.append(len(values(kafka)))
        return len(looked) > 1 and looked[-1] == 1

    kafka.run([sys.executable, "-c", textwrap.dedent(program)], until=is_done)
    with pytest.raises(DidNotFinish, match="exit code 0 before its work was done"):
        kafka.run([sys.executable, "-c", "pass"], until=lambda: False)


def test_a_fault_that_did_not_happen_is_told(kafka: Kafka) -> None:
    with (
        pytest.raises(FaultDidNotHappen, match="cut of EndTxn happened 0 times of 2"),
        kafka.faults(cut="EndTxn", times=2),
    ):
        pass
    with kafka.faults(cut="EndTxn", times=0) as fault, pytest.raises(FaultDidNotHappen):
        fault.wait(0.01)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "name one fault"),
        ({"cut": "EndTxn", "hold": "EndTxn"}, "name one fault"),
        ({"cut": "EndTransaction"}, "no API 'EndTransaction'"),
        ({"refuse": "EndTxn"}, "refuse needs error="),
        ({"cut": "EndTxn", "error": "NONE"}, "refuse needs error="),
        ({"refuse": "EndTxn", "error": "NOPE"}, "no error 'NOPE'"),
    ],
)
def test_what_is_no_fault_is_told(kafka: Kafka, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        kafka.faults(**given)


# -- exactly once -----------------------------------------------------------------------------------------------------


def test_exactly_once_is_asserted(kafka: Kafka) -> None:
    kafka.produce("in", {"1": "a", "2": "b", "3": "c"})
    kafka.produce("out", {"1": "A", "2": "B"})
    with pytest.raises(NotExactlyOnce, match=r"1 lost, without a result: b'3'"):
        assert_exactly_once(kafka, source="in", result="out")
    kafka.produce("out", {"3": "C"})
    assert_exactly_once(kafka, source="in", result="out")
    kafka.produce("out", {"3": "C"})
    with pytest.raises(NotExactlyOnce, match=r"1 repeated, with more results than inputs: b'3'"):
        assert_exactly_once(kafka, source="in", result="out")


def test_exactly_once_by_other_means(kafka: Kafka) -> None:
    kafka.produce("in", ["a", "b"])
    kafka.produce("out", ["A", "B", "X"])
    with pytest.raises(NotExactlyOnce, match="1 results that no input asked for: b'x'"):
        assert_exactly_once(kafka, source="in", result="out", by=lambda record: record.value.lower())
    with pytest.raises(ValueError, match="say 'key', 'value'"):
        assert_exactly_once(kafka, source="in", result="out", by="offset")


def test_offsets_must_have_moved_too(kafka: Kafka) -> None:
    kafka.produce("in", {"1": "a"})
    kafka.produce("out", {"1": "A"})
    with pytest.raises(NotExactlyOnce, match=r"group g is at \{\} of in, which ends at \{0: 1\}"):
        assert_exactly_once(kafka, source="in", result="out", group="g")
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g", **CLIENT_SETTINGS})
    reader.commit(offsets=[TopicPartition("in", 0, 1)], asynchronous=False)
    reader.close()
    assert_exactly_once(kafka, source="in", result="out", group="g")


# -- running a service ------------------------------------------------------------------------------------------------

COPIER = """
import os, signal
from confluent_kafka import Consumer, Producer, TopicPartition

at = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"], "log_level": 0}
is_running = True

def stop(*_):
    global is_running
    is_running = False

signal.signal(signal.SIGTERM, stop)
reader = Consumer({**at, "group.id": "copy", "auto.offset.reset": "earliest", "enable.auto.commit": False,
                   "group.instance.id": "one", "isolation.level": "read_committed", "session.timeout.ms": 6000})
producer = Producer({**at, "transactional.id": "copy"})
producer.init_transactions()
reader.subscribe(["in"])
while is_running:
    message = reader.poll(0.1)
    if message is None or message.error():
        continue
    producer.begin_transaction()
    producer.produce("out", message.value(), message.key())
    place = TopicPartition(message.topic(), message.partition(), message.offset() + 1)
    producer.send_offsets_to_transaction([place], reader.consumer_group_metadata())
    producer.commit_transaction()
reader.close()
"""


@pytest.mark.parametrize("api", ["TxnOffsetCommit", "EndTxn"])
def test_a_service_is_killed_and_goes_on_until_it_is_done(kafka: Kafka, api: str) -> None:
    """D1, O1: killed three times in the middle of its transactions, each result is there once."""
    kafka.topic("in")
    kafka.topic("out")
    kafka.produce("in", {str(number): str(number) for number in range(20)})
    with kafka.faults(kill_client_after=api, times=3):
        ran = kafka.run([sys.executable, "-c", COPIER], group="copy", topics=["in"])
    assert ran == (4, 3)
    assert_exactly_once(kafka, source="in", result="out", group="copy")


def test_a_service_that_forgets_its_offsets_is_found_out(kafka: Kafka) -> None:
    """The assertion can fail: the same service with its offsets committed outside the transaction, after the results."""
    careless = COPIER.replace(
        "producer.send_offsets_to_transaction([place], reader.consumer_group_metadata())\n    producer.commit_transaction()",
        "producer.commit_transaction()\n    reader.commit(offsets=[place], asynchronous=False)",
    )
    assert careless != COPIER
    kafka.topic("in")
    kafka.topic("out")
    kafka.produce("in", {str(number): str(number) for number in range(10)})
    with kafka.faults(kill_client_before="OffsetCommit"):
        kafka.run([sys.executable, "-c", careless], group="copy", topics=["in"])
    with pytest.raises(NotExactlyOnce, match="1 repeated"):
        assert_exactly_once(kafka, source="in", result="out")


def test_a_function_runs_in_a_process_of_its_own(kafka: Kafka) -> None:
    def service() -> None:
        write(transactional(kafka), "t", "from a child")
        time.sleep(60)

    assert kafka.run(service, until=lambda: "t" in kafka.topics() and len(values(kafka)) == 1) == (1, 0)


def test_a_program_that_ends_is_told(kafka: Kafka) -> None:
    with pytest.raises(DidNotFinish, match="exit code 3"):
        kafka.run([sys.executable, "-c", "raise SystemExit(3)"], until=lambda: False)
    with pytest.raises(DidNotFinish, match="still had work"):
        kafka.run([sys.executable, "-c", "import time; time.sleep(60)"], until=lambda: False, seconds=0.5)
    with pytest.raises(ValueError, match="say when it is done"):
        kafka.run(["true"])
