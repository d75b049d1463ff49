"""What no client should send, sent to a real process: the sender gets a clear no, the log names it, nobody else notices.

Law 8: whatever comes, the broker's memory stays bounded; it is measured.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType

import pytest
from kio.schema.index import api_key_map, schema_name_map
from tests.support.batches import batch
from tests.support.broker_process import BrokerProcess
from tests.support.messages import build, encode_request, message_type
from tests.support.nonsense import NONSENSE
from tests.support.raw import RawClient
from tests.support.raw_producer import create_topic, fetch, produce_bytes, values

SECONDS_MAX = 20.0
FRAME_BYTES_MAX = 104_857_600
_numbers = itertools.count()


def resident_mib(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


class Bystander:
    """Another client, that writes and reads all the time: every record once, and never a long wait."""

    #: Seconds; what a busy machine may need for two requests.
    WAIT_MAX = 10.0

    def __init__(self, broker: BrokerProcess) -> None:
        self._raw = RawClient(broker.port, timeout_seconds=SECONDS_MAX)
        self._topic = create_topic(self._raw, f"bystander-{next(_numbers)}")
        self._sent: list[bytes] = []
        self._worst_seconds = 0.0
        self._error: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="bystander")

    def _work(self) -> None:
        try:
            while not self._is_over.wait(0.01):
                began = time.monotonic()
                value = b"%d" % len(self._sent)
                assert produce_bytes(self._raw, self._topic, 0, batch([value])).error_code == 0
                self._sent.append(value)
                self._worst_seconds = max(self._worst_seconds, time.monotonic() - began)
        except (AssertionError, OSError) as error:
            self._error = error

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join(SECONDS_MAX)
        try:
            if error is None:
                assert self._error is None
                assert self._worst_seconds < self.WAIT_MAX
                assert values(fetch(self._raw, self._topic, 0, offset=0)) == self._sent
        finally:
            self._raw.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One broker bears all of it."""
    options = ("--set", "auto.create.topics.enable=false")
    with BrokerProcess(tmp_path_factory.mktemp("bad-input"), options=options) as process:
        yield process
        process.assert_healthy()
        process.stop()


@pytest.fixture(autouse=True)
def bystander(broker: BrokerProcess) -> Iterator[None]:
    """Nobody else notices."""
    with Bystander(broker):
        yield
    broker.assert_healthy()


def logged(broker: BrokerProcess, peer: str) -> str:
    """Why the broker closed the connection of ``peer``, as its log says."""
    deadline = time.monotonic() + SECONDS_MAX
    while (found := re.search(rf"connection closed peer={re.escape(peer)} why=(.*)", broker.log)) is None:
        assert time.monotonic() < deadline, broker.log[-2_000:]
        time.sleep(0.02)
    return found[1]


_hosts = itertools.count(2)


def answer(broker: BrokerProcess, data: bytes) -> tuple[bytes, str]:
    """Everything that is answered to some bytes until the connection is closed, and why it was, by the log.

    From an address of its own each time: the log has ten such lines of a host a minute.
    """
    source = (f"127.0.0.{next(_hosts)}", 0)
    with socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS_MAX, source_address=source) as client:
        host, port = client.getsockname()
        client.sendall(data)
        received = b""
        try:
            while more := client.recv(65_536):
                received += more
        except ConnectionResetError:
            pass  # it was closed with bytes that nobody wanted to read
    return received, logged(broker, f"{host}:{port}")


def frame(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def head(api_key: int, version: int) -> bytes:
    """A request's header, version 1, without a client id."""
    return struct.pack(">hhih", api_key, version, 7, -1)


# -- bytes that are no request ----------------------------------------------------------------------------------------

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)

NO_REQUESTS = {
    "tls": (TLS_HELLO, r"TLS"),
    "two GiB": (struct.pack(">i", 2**31 - 1) + bytes(100), r"2147483647 bytes, more than"),
    "negative": (struct.pack(">i", -5) + bytes(100), r"-5 bytes"),
    "one too many": (struct.pack(">i", FRAME_BYTES_MAX + 1), r"more than 104857600"),
    "empty": (frame(b""), r"no header"),
    "half a header": (frame(b"\x00\x12\x00"), r"no header"),
    "truncated": (frame(head(3, 1) + struct.pack(">i", 2) + b"\x00\x05abc"), r"too early|fill"),
    "trailing": (frame(head(3, 1) + struct.pack(">i", 0) + b"more"), r"does not fill its frame"),
    "array of 2**31-1": (frame(head(3, 1) + struct.pack(">i", 2**31 - 1)), r"too early|elements|fill"),
    "array of -7": (frame(head(3, 1) + struct.pack(">i", -7)), r"."),
    "compact array of 2**32-1": (frame(head(3, 9) + b"\x00" + b"\xff\xff\xff\xff\x0f" + bytes(8)), r"."),
    "a varint without an end": (frame(head(3, 9) + b"\x00" + b"\xff" * 50), r"."),
    "a client id that is no text": (frame(struct.pack(">hhih", 3, 1, 7, 2) + b"\xff\xfe" + bytes(4)), r"."),
    "unknown API": (frame(head(999, 0)), r"API 999 is not served"),
    "negative API": (frame(head(-1, 0)), r"API -1 is not served"),
    "an API for brokers": (frame(head(4, 0) + bytes(20)), r"API 4 is not served"),
    "old version": (frame(head(0, 1) + bytes(20)), r"version 1 of API 0 is not served, only 3 to"),
    "new version": (frame(head(3, 99) + bytes(20)), r"version 99 of API 3 is not served, only 0 to"),
    "noise": (Random(1).randbytes(5_000), r"."),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_no_request_closes_its_connection(broker: BrokerProcess, name: str) -> None:
    data, why = NO_REQUESTS[name]
    received, said = answer(broker, data)
    assert received == b""
    assert re.search(why, said), said


def test_http_is_told_what_this_port_is(broker: BrokerProcess) -> None:
    received, why = answer(broker, b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"Kafka port" in received
    assert "HTTP" in why


def test_what_was_asked_before_is_answered(broker: BrokerProcess) -> None:
    """The request before the broken one has its reply."""
    asked = encode_request(5, "before", build(message_type("metadata", 1, "request"), {"topics": []}))
    received, _ = answer(broker, asked + struct.pack(">i", -1))
    assert struct.unpack(">i", received[4:8]) == (5,)


def test_a_newer_api_versions_is_told_the_known_ones(broker: BrokerProcess) -> None:
    with RawClient(broker.port) as raw:
        raw.send_bytes(frame(head(18, 99)))
        body = raw.receive_body()
        assert struct.unpack_from(">ih", body) == (7, 35)
        assert raw.call("api_versions", 0).error_code == 0, "the connection goes on"


def test_mutated_requests(broker: BrokerProcess) -> None:
    """Requests of every API and version with bytes changed, cut and added: seeded, so that a failure comes again."""
    chance = Random(7)
    requests = [
        encode_request(1, "mutant", build(message_type(name, version, "request"), {}))
        for name in api_key_map.values()
        for version in schema_name_map[name]
    ]
    for _ in range(1_500):
        data = bytearray(chance.choice(requests)[4:])
        for _ in range(chance.randint(1, 4)):
            kind, at = chance.randint(0, 2), chance.randrange(8, len(data) + 1) if len(data) > 8 else len(data)
            if kind == 0 and at < len(data):
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            elif kind == 1:
                del data[at:]
            else:
                data[at:at] = chance.randbytes(chance.randint(1, 6))
        with socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS_MAX) as client:
            client.sendall(frame(bytes(data)))
            client.shutdown(socket.SHUT_WR)
            client.recv(65_536)
    broker.assert_healthy()


# -- requests that ask for what is not there --------------------------------------------------------------------------


@pytest.fixture
def raw(broker: BrokerProcess) -> Iterator[RawClient]:
    with RawClient(broker.port) as client:
        yield client


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a" * 250, "ü", "with space", "../../etc/passwd", "nul\0"])
def test_invalid_topic_names(raw: RawClient, broker: BrokerProcess, name: str) -> None:
    topic = {"name": name, "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
    reply = raw.call("create_topics", 5, topics=[topic], timeout=1_000, validate_only=False)
    assert reply.topics[0].error_code == 17
    assert reply.topics[0].error_message
    assert produce_bytes(raw, name, 0, batch([b"x"])).error_code in (3, 17)
    assert sorted(path.name for path in broker.data.iterdir()) == ["boot", "format", "journal", "lock", "segments"]


@pytest.mark.parametrize(
    ("partitions", "configs", "code"),
    [
        (0, {}, 37),
        (-5, {}, 37),
        (2**31 - 1, {}, 37),
        (1, {"no.such.setting": "1"}, 40),
        (1, {"retention.ms": "soon"}, 40),
        (1, {"cleanup.policy": "sometimes"}, 40),
    ],
)
def test_invalid_topics(raw: RawClient, partitions: int, configs: dict[str, str], code: int) -> None:
    pairs = [{"name": name, "value": value} for name, value in configs.items()]
    topic = {"name": "bad", "num_partitions": partitions, "replication_factor": 1, "assignments": [], "configs": pairs}
    reply = raw.call("create_topics", 5, topics=[topic], timeout=1_000, validate_only=False)
    assert reply.topics[0].error_code == code
    assert reply.topics[0].error_message


@pytest.mark.parametrize("partition", [-1, 1, 2**31 - 1, -(2**31)])
def test_partitions_out_of_range(raw: RawClient, partition: int) -> None:
    topic = create_topic(raw, f"one-{partition}")
    assert produce_bytes(raw, topic, partition, batch([b"x"])).error_code == 3
    assert fetch(raw, topic, partition, offset=0).error_code == 3
    part = {"partition_index": partition, "current_leader_epoch": -1, "timestamp": -1}
    reply = raw.call("list_offsets", 4, replica_id=-1, topics=[{"name": topic, "partitions": [part]}])
    assert reply.topics[0].partitions[0].error_code == 3
    assert fetch(raw, topic, 0, offset=0).error_code == 0


def test_unknown_topic_ids(raw: RawClient) -> None:
    nobody = uuid.UUID(int=12345)
    part = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1_000, "current_leader_epoch": -1}
    reply = raw.call(
        "fetch", 13, max_wait=0, min_bytes=0, max_bytes=1_000, session_id=0, session_epoch=-1,
        topics=[{"topic_id": nobody, "partitions": [part]}],
    )  # fmt: skip
    assert reply.error_code == 100 or reply.responses[0].partitions[0].error_code == 100
    reply = raw.call("metadata", 12, topics=[{"topic_id": nobody, "name": None}])
    assert reply.topics[0].error_code == 100
    reply = raw.call("delete_topics", 6, topics=[{"topic_id": nobody, "name": None}], timeout=1_000)
    assert reply.responses[0].error_code == 100


def test_damaged_batches(raw: RawClient) -> None:
    """P4: cut, changed and nonsensical batches are refused, and nothing of them is written."""
    topic = create_topic(raw, "sound")
    whole = batch([b"value"] * 3)
    for at in range(0, len(whole), 7):
        assert produce_bytes(raw, topic, 0, whole[:at]).error_code in (2, 42, 87)
        if at >= 16:  # what comes before is not the producer's: the broker stamps it
            changed = bytearray(whole)
            changed[at] ^= 0xFF
            assert produce_bytes(raw, topic, 0, bytes(changed)).error_code in (2, 43, 76, 87)
    assert values(fetch(raw, topic, 0, offset=0)) == []


# -- how it is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NONSENSE)
def test_records_that_are_none(raw: RawClient, broker: BrokerProcess, name: str) -> None:
    """Their CRC is right, so they are stored; who looks for a time there is refused, and the broker goes on."""
    topic = f"nonsense-{list(NONSENSE).index(name)}"
    create_topic(raw, topic)
    assert produce_bytes(raw, topic, 0, NONSENSE[name]).error_code == 0
    parts = [{"partition_index": 0, "timestamp": 0, "current_leader_epoch": -1}]
    found = raw.call("list_offsets", 7, replica_id=-1, isolation_level=0, topics=[{"name": topic, "partitions": parts}])
    assert found.topics[0].partitions[0].error_code in (0, 2)
    assert raw.call("metadata", 9, topics=None).brokers
    broker.assert_healthy()


def test_a_slow_sender_is_answered(broker: BrokerProcess) -> None:
    asked = encode_request(9, "slow", build(message_type("metadata", 1, "request"), {"topics": []}))
    with socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS_MAX) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in asked:
            client.sendall(bytes((byte,)))
            time.sleep(0.01)
        assert struct.unpack(">i", client.recv(1_000)[4:8]) == (9,)


def test_large_frames_that_never_come(broker: BrokerProcess) -> None:
    """A hundred connections that announce 100 MB each cost what they send."""
    before = resident_mib(broker.process_id)
    clients = [socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS_MAX) for _ in range(100)]
    try:
        for client in clients:
            client.sendall(struct.pack(">i", FRAME_BYTES_MAX) + bytes(1_000))
        with RawClient(broker.port) as raw:
            raw.call("metadata", 1, topics=[])
        assert resident_mib(broker.process_id) - before < 160
    finally:
        for client in clients:
            client.close()


def test_clients_that_never_read_their_replies(tmp_path: Path) -> None:
    """Thirty of them ask for 50 MB again and again: the broker holds a bounded part of it, and closes who owes longest."""
    with BrokerProcess(tmp_path / "broker") as broker:
        with RawClient(broker.port) as raw:
            topic = create_topic(raw, "large")
            for _ in range(60):
                assert produce_bytes(raw, topic, 0, batch([bytes(1_000_000)])).error_code == 0
        broker.restart()  # what is read now comes from the disk, and belongs to nobody but its reply
        with Bystander(broker):
            before = resident_mib(broker.process_id)
            clients = [RawClient(broker.port) for _ in range(30)]
            worst = max(asked_for_much(broker, clients, topic) for _ in range(3))
            assert worst - before < 700
            assert "replies that nobody takes" in broker.log
            for client in clients:
                client.close()
        broker.assert_healthy()
        broker.stop()


def asked_for_much(broker: BrokerProcess, clients: list[RawClient], topic: str) -> float:
    """Every client asks for 50 MB; what the broker holds then, in MiB."""
    part = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 2**26}
    worst = 0.0
    for client in clients:
        with suppress(ConnectionError):  # it was closed for what it owes
            client.post(
                "fetch", 4, replica_id=-1, max_wait=0, min_bytes=0, max_bytes=2**26,
                topics=[{"topic": topic, "partitions": [part]}],
            )  # fmt: skip
        with RawClient(broker.port) as raw:
            raw.call("metadata", 1, topics=[])
        worst = max(worst, resident_mib(broker.process_id))
    return worst


HOLDER = """
import resource, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
print("held", flush=True)
sys.stdin.readline()
alive = 0
for one in held:
    one.setblocking(False)
    try:
        alive += one.recv(1) != b""
    except BlockingIOError:
        alive += 1
print(alive, flush=True)
"""


def test_five_thousand_idle_connections(broker: BrokerProcess) -> None:
    """They cost little, stay open, and others are served meanwhile."""
    before = resident_mib(broker.process_id)
    command = [sys.executable, "-c", HOLDER, str(broker.port), "2500"]
    holders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        with RawClient(broker.port) as raw:
            raw.call("metadata", 1, topics=[])
        assert resident_mib(broker.process_id) - before < 100, "20 KiB each"
        for holder in holders:
            alive, _ = holder.communicate("now\n", timeout=60)
            assert alive == "2500\n"
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
