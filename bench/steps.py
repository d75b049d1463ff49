"""`python -m bench.steps`: what each step of oncelog's hot paths costs in µs, in this process, without a network.

The broker, the server's connections and the storage (durability "written": nothing waits for the disk) are the real ones; the
event loop and the transport are stand-ins that cost nearly nothing. So uvloop's and the kernel's part of a request is *not*
here; a live broker's CPU time under load minus these figures is theirs.
"""

import argparse
import json
import socket
import struct
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

from crc32c import crc32c
from kio.index import load_request_schema
from kio.serial import entity_writer

from oncelog.broker.apis import HANDLERS
from oncelog.broker.broker import Broker
from oncelog.broker.call import Call
from oncelog.broker.server import Connection, Server
from oncelog.engine.partitions import decide_append
from oncelog.engine.transactions import Session, decide_add_partitions, decide_end
from oncelog.model.batch import check_batch, read_header, stamp
from oncelog.model.ids import Epoch, ProducerId
from oncelog.storage.contract import Entry, StoredBatch
from oncelog.storage.files import FileStorage
from oncelog.wire.hot import produce_reply
from oncelog.wire.requests import read_request

BOUNDS = {api_key: (handler.version_min, handler.version_max) for api_key, handler in HANDLERS.items()}
TOPIC = "steps"
#: What librdkafka 2.16 sends.
PRODUCE, FETCH, ADD_PARTITIONS, END = (0, 10), (1, 16), (24, 0), (26, 1)
INIT, CREATE, METADATA = (22, 4), (19, 7), (3, 12)


class Loop:
    """Runs what was asked for when it is told to; time stands still, timers never fire."""

    def __init__(self) -> None:
        self._due: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()

    def call_soon(self, callback: Callable[..., None], *arguments: object) -> object:
        self._due.append((callback, arguments))
        return None

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: object) -> object:
        del delay_s, callback, arguments
        return SimpleNamespace(cancel=lambda: None)

    def time(self) -> float:
        return 0.0

    def turn(self) -> None:
        while self._due:
            callback, arguments = self._due.popleft()
            callback(*arguments)


class Transport:
    """Takes what is written; its socket is a real one, as the server asks the kernel about it (rule D4)."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._client = socket.create_connection(self._listening.getsockname())
        self._socket, _ = self._listening.accept()
        self.out: list[bytes] = []

    def get_extra_info(self, name: str) -> object:
        return self._socket if name == "socket" else ("127.0.0.1", 1)

    def write(self, data: bytes) -> None:
        self.out.append(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.out += (bytes(piece) for piece in pieces)

    def set_write_buffer_limits(self, **limits: int) -> None:
        del limits

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        for one in (self._listening, self._client, self._socket):
            one.close()


class World:
    """A broker with one connection."""

    def __init__(self, folder: Path, loop: Loop | None = None) -> None:
        self.loop = loop or Loop()
        silent = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error"), lambda *_, **__: None))
        self.storage = FileStorage(folder, durability="written")
        self.broker = Broker(
            storage=self.storage,
            loop=self.loop,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            ids=uuid.uuid4,
            log=silent,
        )
        self.broker.open()

        def stop(bug: BaseException) -> None:
            raise bug

        self.server = Server(self.loop, self.broker.route, bounds=BOUNDS, log=silent, on_bug=stop)  # type: ignore[arg-type]
        self.transport = Transport()
        self.connection = Connection(self.server)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.ask(frame(CREATE, {"topics": [{"name": TOPIC, "num_partitions": 4, "replication_factor": 1}]}))

    def tell(self, data: bytes) -> None:
        """Bytes arrive; the turn of the loop goes to its end."""
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))
        self.loop.turn()

    def ask(self, data: bytes) -> bytes:
        self.transport.out.clear()
        self.tell(data)
        return b"".join(self.transport.out)

    def new_session(self, transactional_id: str | None) -> Session:
        reply = self.ask(frame(INIT, {"transactional_id": transactional_id, "transaction_timeout": 60_000}))
        producer_id, epoch = struct.unpack_from(">qh", reply, 4 + 4 + 1 + 4 + 2)
        return Session(ProducerId(producer_id), Epoch(epoch))

    def close(self) -> None:
        self.transport.close()
        self.broker.close()


# -- requests -------------------------------------------------------------------------------------------------------------


def _build(kind: type, tree: dict[str, object]) -> object:
    """A kio entity from plain values; what is not given is empty or zero."""
    import dataclasses
    import datetime
    from types import UnionType
    from typing import get_args, get_origin

    zero = {"string": "", "bytes": b"", "records": b"", "bool": False, "uuid": None}

    def value(item: dataclasses.Field[object]) -> object:
        hint = item.type
        if get_origin(hint) is UnionType:
            hint = next(one for one in get_args(hint) if one is not type(None))
        is_array = get_origin(hint) is tuple
        inner = get_args(hint)[0] if is_array else hint
        if item.name not in tree:
            if item.default is not dataclasses.MISSING:
                return item.default
            if is_array:
                return ()
            name = item.metadata.get("kafka_type", "int32")
            return datetime.timedelta(0) if name.startswith("timedelta") else zero.get(name, 0)
        given = tree[item.name]
        if given is None:
            return None
        if dataclasses.is_dataclass(inner):
            return tuple(_build(inner, one) for one in given) if is_array else _build(inner, given)  # type: ignore[arg-type,attr-defined]
        if item.metadata.get("kafka_type", "").startswith("timedelta"):
            return datetime.timedelta(milliseconds=given)  # type: ignore[arg-type]
        return tuple(given) if is_array else given  # type: ignore[arg-type]

    return kind(**{item.name: value(item) for item in dataclasses.fields(kind)})


def frame(api: tuple[int, int], tree: dict[str, object]) -> bytes:
    """A request with its length and header, as client "rdkafka"."""
    import io

    schema = load_request_schema(*api)
    out = io.BytesIO()
    entity_writer(schema)(out, _build(schema, tree))
    head = struct.pack(">hhih", *api, 1, 7) + b"rdkafka"
    if schema.__header_schema__.__version__ == 2:
        head += b"\0"
    body = head + out.getvalue()
    return struct.pack(">i", len(body)) + body


def batch(session: Session, sequence: int, value: bytes, *, is_transactional: bool) -> bytes:
    record = b"\0\0\0\x01" + _varint(len(value)) + value + b"\0"
    now_ms = time.time_ns() // 1_000_000
    attributes = 0x10 if is_transactional else 0
    tail = (
        struct.pack(">hiqqqhii", attributes, 0, now_ms, now_ms, *session, sequence, 1) + _varint(len(record)) + record
    )
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, crc32c(tail)) + tail


def _varint(value: int) -> bytes:
    value <<= 1
    return bytes((value,)) if value < 128 else bytes((value & 127 | 128, value >> 7))


def produce_frame(session: Session, sequence: int, transactional_id: str | None, partition: int = 0) -> bytes:
    data = batch(session, sequence, b"x" * 100, is_transactional=transactional_id is not None)
    parts = [{"index": partition, "records": data}]
    return frame(
        PRODUCE,
        {"transactional_id": transactional_id, "acks": -1, "topic_data": [{"name": TOPIC, "partition_data": parts}]},
    )


def fetch_frame(offset: int, *, wait_ms: int = 0, partition: int = 0) -> bytes:
    part = {
        "partition": partition, "fetch_offset": offset, "partition_max_bytes": 2**20, "last_fetched_epoch": -1,
        "current_leader_epoch": -1,
    }  # fmt: skip
    return frame(
        FETCH,
        {
            "max_wait": wait_ms, "min_bytes": 1, "max_bytes": 2**25, "isolation_level": 1, "session_epoch": -1,
            "topics": [{"topic_id": world_topic_id[0], "partitions": [part]}],
        },
    )  # fmt: skip


world_topic_id: list[uuid.UUID] = []


# -- timing ---------------------------------------------------------------------------------------------------------------


def each_us(action: Callable[[int], object], count: int) -> float:
    """The middle of nine runs, in µs of this thread's CPU time."""
    size = count // 9
    taken: list[float] = []
    for run in range(9):
        begun = time.thread_time_ns()
        for number in range(run * size, (run + 1) * size):
            action(number)
        taken.append((time.thread_time_ns() - begun) / size / 1e3)
    return sorted(taken)[4]


def produce_steps(world: World, count: int) -> dict[str, float]:
    """A Produce of one batch of 100 bytes by an idempotent producer."""
    session = world.new_session(None)
    frames = [produce_frame(session, number, None) for number in range(2 * count)]
    bodies = [one[4:] for one in frames]
    broker, state = world.broker, world.broker.state
    data = read_request(bodies[0], BOUNDS).body.topic_data[0].partition_data[0].records
    steps = {"whole: bytes in to bytes out": each_us(lambda number: world.tell(frames[number]), count)}
    log = state.log_of(TOPIC, 0)
    assert log is not None and log.offset_next >= count - 9, log and log.offset_next
    framing, scratch = world.connection._framing, world.server.buffers.scratch
    first = frames[0]
    scratch[: len(first)] = first
    steps["cut the frame"] = each_us(lambda _: framing.received(len(first)), count)
    steps["header, checker, kio"] = each_us(lambda number: read_request(bodies[number], BOUNDS), count)
    steps["check the batch, CRC"] = each_us(lambda _: check_batch(data, bytes_max=2**20), count)
    next_sequence = log.producers[session.producer_id].window[-1].sequence_last + 1
    header = read_header(data)._replace(base_sequence=next_sequence)
    settled = {"transactional_id": None, "version": 10, "now_ms": broker.now_ms()}
    steps["decide_append"] = each_us(lambda _: decide_append(state, log, header, data, **settled), count)
    steps["  of it stamp"] = each_us(lambda _: stamp(data, 1), count)
    decision = decide_append(state, log, header, data, **settled)
    steps["encode the reply"] = each_us(lambda _: produce_reply(10, [(TOPIC, [(0, 0, 1, -1, 0, None)])]), count)

    def apply(number: int) -> None:
        batches = (decision.batches[0]._replace(offset=log.offset_next),)
        state.apply((), batches, number)

    base_us = each_us(lambda _: (decision.batches[0]._replace(offset=1),), count)
    steps["apply"] = each_us(apply, count) - base_us
    steps["what becomes visible"] = each_us(lambda _: state.visible_after((), decision.batches), count)
    steps["make the Call"] = each_us(lambda _: Call(world.connection, 0, 10, 1, "x", None), count)
    return steps


def append_steps(folder: Path, count: int) -> dict[str, float]:
    """The storage's part of one small batch: append, and one write a batch (the worst case)."""
    storage = FileStorage(folder, durability="written")
    recovered = storage.open()
    for _ in (*recovered.checkpoint, *recovered.entries):
        pass
    loop = Loop()
    told = SimpleNamespace(synced=lambda _: None, failed=lambda _: None)
    storage.start(told, loop.call_soon_threadsafe, list)
    data = batch(Session(ProducerId(1), Epoch(0)), 0, b"x" * 100, is_transactional=False)
    entries = [Entry(bytes(8), [StoredBatch(1, number, number + 1, 1, data)]) for number in range(2 * count)]  # type: ignore[arg-type]
    append_us = each_us(lambda number: storage.append(entries[number]), count)
    storage.flush()
    used = count // 9 * 9

    def both(number: int) -> None:
        storage.append(entries[used + number])
        storage.flush()

    both_us = each_us(both, count // 2)
    storage.close()
    return {"storage.append": append_us, "storage.flush, one write a batch": both_us - append_us}


def fetch_steps(world: World, count: int) -> dict[str, float]:
    """A Fetch of one partition that has one batch more; one that finds nothing and waits, and is woken by a Produce."""
    log = world.broker.state.log_of(TOPIC, 1)
    assert log is not None
    session = world.new_session(None)
    frames = [produce_frame(session, number, None, 1) for number in range(2 * count)]
    used = count // 9 * 9
    for number in range(used):
        world.tell(frames[number])
    at_end = fetch_frame(used - 1, partition=1)
    assert len(world.ask(at_end)) > 150
    steps = {"whole: one batch there": each_us(lambda _: world.tell(at_end), count)}
    steps["header, checker, kio"] = each_us(lambda _: read_request(at_end[4:], BOUNDS), count)

    def wait(number: int) -> None:
        world.tell(waits[number])
        world.tell(frames[used + number])

    waits = [fetch_frame(used + number, wait_ms=500, partition=1) for number in range(count)]
    steps["whole: wait, Produce, woken"] = each_us(wait, count)
    return steps


def transaction_steps(world: World, count: int) -> dict[str, float]:
    """AddPartitionsToTxn, Produce, EndTxn of one record in one partition, as a TV1 client sends them."""
    name = "steps"
    session = world.new_session(name)
    add = frame(
        ADD_PARTITIONS,
        {
            "v3_and_below_transactional_id": name,
            "v3_and_below_producer_id": session.producer_id,
            "v3_and_below_producer_epoch": session.epoch,
            "v3_and_below_topics": [{"name": TOPIC, "partitions": [2]}],
        },
    )
    end = frame(
        END,
        {
            "transactional_id": name,
            "producer_id": session.producer_id,
            "producer_epoch": session.epoch,
            "committed": True,
        },
    )
    frames = [produce_frame(session, number, name, 2) for number in range(count)]
    taken = [0, 0, 0]

    def transact(number: int) -> None:
        times = [time.thread_time_ns()]
        for one in (add, frames[number], end):
            world.tell(one)
            times.append(time.thread_time_ns())
        for at in range(3):
            taken[at] += times[at + 1] - times[at]

    whole_us = each_us(transact, count)
    done = count // 9 * 9
    assert world.broker.state.log_of(TOPIC, 2).offset_next == 2 * done  # type: ignore[union-attr]
    steps = {"whole: three requests": whole_us}
    for label, one in zip(("AddPartitionsToTxn", "Produce", "EndTxn"), taken):
        steps[f"  {label}"] = one / done / 1e3
    state, log = world.broker.state, world.broker.state.log_of(TOPIC, 2)
    assert log is not None
    now_ms = world.broker.now_ms()
    steps["decide_add_partitions"] = each_us(
        lambda _: decide_add_partitions(state, name, session, [log], version=0, now_ms=now_ms), count
    )
    world.tell(add)
    steps["decide_end"] = each_us(
        lambda _: decide_end(state, name, session, commit=True, version=1, now_ms=now_ms), count
    )
    steps["is the client gone (D4)"] = each_us(lambda _: world.connection.is_gone(), count)
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.steps")
    parser.add_argument("--count", type=int, default=18_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oncelog-steps-") as scratch:
        world = World(Path(scratch) / "world")
        world_topic_id[:] = [world.broker.state.topics[TOPIC].id]
        found = {
            "Produce, one batch of 100 bytes": produce_steps(world, asked.count)
            | append_steps(Path(scratch) / "storage", asked.count),
            "Fetch, one small batch": fetch_steps(world, asked.count),
            "a transaction, one record": transaction_steps(world, asked.count),
        }
        world.close()
    if asked.json:
        print(json.dumps(found))
        return 0
    for path, steps in found.items():
        print(f"\n| {path} | µs |\n|---|---|")
        for step, cost_us in steps.items():
            print(f"| {step} | {cost_us:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
