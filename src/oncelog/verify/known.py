"""The published traces, with clients of the protocol before KIP-890 (TV1): each plays one known way to lose exactly-once.

A trace is a short, fixed order of requests, most of them with one held back by the proxy while its client moves on. It is
deterministic where a run with faults is lucky. `holds` and `violated` speak of what a client can read afterwards, not of error
codes; `not applicable` says why the trace could not be played.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from oncelog.faults import Proxy, ProxyError
from oncelog.faults.frames import Address, Unreadable
from oncelog.verify.clients import Cluster, ClusterError, settings, words
from oncelog.verify.known_tv2 import TRACES_TV2
from oncelog.verify.raw import Connection, RawProducer, coordinator, in_states, leader, stable_offsets
from oncelog.verify.stage import (
    CALL_SECONDS,
    Judgement,
    NotApplicable,
    Played,
    Protocol,
    Stage,
    arrive,
    ended,
    must,
    said,
    send,
    while_held,
)

VISIBLE_COMMITS: Final = 300
VISIBLE_PARTITIONS: Final = 12
#: A transaction timeout of 2 s, and Kafka's look every 10 s.
TIMED_OUT_SECONDS_MAX: Final = 30.0

Trace = Callable[[Stage], tuple[Judgement, str]]


# -- the traces -------------------------------------------------------------------------------------------------------


def late_commit(stage: Stage) -> tuple[Judgement, str]:
    """A commit arrives again when its client is in the next transaction, and commits half of that."""
    topic, writer = stage.topic(), stage.producer()
    writer.begin_transaction()
    send(writer, topic, "first")
    held = stage.proxy.hold_next("end_txn")
    while_held(held, lambda: writer.commit_transaction(CALL_SECONDS))
    writer.begin_transaction()
    send(writer, topic, "to be aborted")
    answer = arrive(held)
    told = ended(lambda: writer.abort_transaction(CALL_SECONDS))
    read = stage.values(topic)
    if "to be aborted" in read:
        return "violated", f"late commit {answer}; abort {told}; the aborted record is read as committed"
    return (
        "holds" if read == ["first"] else "violated"
    ), f"late commit {answer}; abort {told}; read: {', '.join(read)}"


def late_abort(stage: Stage) -> tuple[Judgement, str]:
    """An abort arrives again when its client is in the next transaction, and takes the first half of that away."""
    topic, writer = stage.topic(2), stage.producer()
    writer.begin_transaction()
    send(writer, topic, "aborted")
    held = stage.proxy.hold_next("end_txn")
    while_held(held, lambda: writer.abort_transaction(CALL_SECONDS))
    writer.begin_transaction()
    send(writer, topic, "half")
    answer = arrive(held)
    try:
        send(writer, topic, "other half", partition=1)
    except NotApplicable:
        answer += "; the second half was refused"
    told = ended(lambda: writer.commit_transaction(CALL_SECONDS))
    read = stage.values(topic, (0, 1))
    if told == "succeeded":
        is_whole = read == ["half", "other half"]
        return ("holds" if is_whole else "violated"), f"late abort {answer}; commit succeeded; read: {', '.join(read)}"
    return (
        "violated" if read else "holds"
    ), f"late abort {answer}; commit {told}; read: {', '.join(read) or 'nothing'}"


def late_add_partitions(stage: Stage) -> tuple[Judgement, str]:
    """AddPartitionsToTxn arrives again after the commit, and begins a transaction that nobody will end."""
    topic, writer = stage.topic(), stage.producer()
    writer.begin_transaction()
    held = stage.proxy.hold_next("add_partitions_to_txn")
    while_held(held, lambda: send(writer, topic, "one"))
    writer.commit_transaction(CALL_SECONDS)
    stage.settle(topic)
    answer = arrive(held)
    is_open = in_states(stage.address, stage.name, "Ongoing")
    return (
        ("violated", f"late request {answer}; a transaction is open that its client knows nothing of")
        if is_open
        else ("holds", f"late request {answer}; no transaction is open")
    )


def late_offsets(stage: Stage) -> tuple[Judgement, str]:
    """TxnOffsetCommit arrives again in the next transaction, and its old offset replaces the new one."""
    topic, group, writer = stage.topic(), f"{stage.name}-group", stage.producer()
    outsider = Consumer(settings(stage.bootstrap, stage.client, group_id=group))
    membership = outsider.consumer_group_metadata()
    outsider.close()

    def commit(offset: int) -> None:
        writer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], membership, CALL_SECONDS)

    writer.begin_transaction()
    held = stage.proxy.hold_next("txn_offset_commit")
    while_held(held, lambda: commit(5))
    writer.commit_transaction(CALL_SECONDS)
    writer.begin_transaction()
    commit(9)
    answer = arrive(held)
    told = ended(lambda: writer.commit_transaction(CALL_SECONDS))
    found = stage.offset(group, topic)
    return (
        "holds" if found == 9 else "violated"
    ), f"late offset 5 {answer}; commit of 9 {told}; committed offset {found}"


def late_produce(stage: Stage) -> tuple[Judgement, str]:
    """A batch that its client has repeated arrives again after the commit's marker."""
    topic, writer = stage.topic(), stage.producer()
    writer.begin_transaction()
    held = stage.proxy.hold_next("produce")
    while_held(held, lambda: send(writer, topic, "one"))
    writer.commit_transaction(CALL_SECONDS)
    stage.settle(topic)
    answer = arrive(held)
    if stage.is_stuck(topic):
        return "violated", f"late batch {answer}; it has opened a transaction"

    def second() -> None:
        writer.begin_transaction()
        send(writer, topic, "two")
        writer.commit_transaction(CALL_SECONDS)

    told = ended(second)
    read = stage.values(topic)
    verdict: Judgement = "holds" if read == ["one", "two"][: 2 if told == "succeeded" else 1] else "violated"
    return verdict, f"late batch {answer}; next transaction {told}; read: {', '.join(read)}"


def hanging_transaction(stage: Stage) -> tuple[Judgement, str]:
    """A batch that was given up arrives after the abort's marker, and no marker will ever follow it."""
    topic = stage.topic()
    producer = RawProducer(stage.address, stage.name)
    with Connection(leader(stage.address, topic, 0)) as late:
        must("init", producer.init())
        must("add", producer.add(topic, 0))
        must("abort", producer.end(commit=False))
        stage.settle(topic)
        code = producer.produce(late, topic, 0, b"late", sequence=0, is_repeated=True)
    producer.close()
    time.sleep(0.5)
    if stage.is_stuck(topic):
        return "violated", "the late batch was written: the last stable offset stands still"
    return "holds", f"late batch {said(code)}; no transaction hangs"


def late_produce_in_next(stage: Stage) -> tuple[Judgement, str]:
    """A batch of an aborted transaction, given up by its client, arrives when the next transaction has its partition again."""
    topic = stage.topic()
    producer = RawProducer(stage.address, stage.name)
    with Connection(leader(stage.address, topic, 0)) as late, Connection(leader(stage.address, topic, 0)) as newer:
        must("init", producer.init())
        must("add", producer.add(topic, 0))
        must("produce", producer.produce(late, topic, 0, b"aborted", sequence=0, is_repeated=True))
        must("abort", producer.end(commit=False))
        must("add", producer.add(topic, 0))
        must("produce", producer.produce(newer, topic, 0, b"next", sequence=1, is_repeated=True))
        code = producer.produce(late, topic, 0, b"given up", sequence=2)
        must("commit", producer.end(commit=True))
    producer.close()
    read = stage.values(topic)
    verdict: Judgement = "violated" if "given up" in read else "holds"
    return verdict, f"late batch {said(code)}; read: {', '.join(read)}"


def late_produce_first(stage: Stage) -> tuple[Judgement, str]:
    """The same, before the client has sent any batch of the next transaction: nothing tells it from one of that."""
    topic = stage.topic()
    producer = RawProducer(stage.address, stage.name)
    with Connection(leader(stage.address, topic, 0)) as late, Connection(leader(stage.address, topic, 0)) as newer:
        must("init", producer.init())
        must("add", producer.add(topic, 0))
        must("produce", producer.produce(late, topic, 0, b"aborted", sequence=0, is_repeated=True))
        must("abort", producer.end(commit=False))
        must("add", producer.add(topic, 0))
        code = producer.produce(late, topic, 0, b"given up", sequence=1)
        must("produce", producer.produce(newer, topic, 0, b"next", sequence=1 if code else 2, is_repeated=True))
        must("commit", producer.end(commit=True))
    producer.close()
    read = stage.values(topic)
    verdict: Judgement = "violated" if "given up" in read else "holds"
    return verdict, f"late batch {said(code)}; read: {', '.join(read)}"


def torn_visibility(stage: Stage) -> tuple[Judgement, str]:
    """A reader that begins after the commit was acknowledged finds some partitions of it, and others not yet."""
    topic = stage.topic(VISIBLE_PARTITIONS)
    partitions = range(VISIBLE_PARTITIONS)
    led: dict[Address, list[int]] = defaultdict(list)
    for index in partitions:
        led[leader(stage.address, topic, index)].append(index)
    writer = Producer(settings(stage.bootstrap, stage.client, transactional_id=stage.name, linger_ms=0))
    writer.init_transactions(CALL_SECONDS)
    ends: dict[int, int] = {}
    late = torn = 0
    with ExitStack() as stack:
        connections = [(stack.enter_context(Connection(node)), indices) for node, indices in led.items()]
        for number in range(VISIBLE_COMMITS):
            writer.begin_transaction()
            for index in partitions:
                writer.produce(topic, str(number).encode(), partition=index, on_delivery=_into(ends))
            writer.flush(CALL_SECONDS)
            writer.commit_transaction(CALL_SECONDS)
            stable: dict[int, int] = {}
            for connection, indices in connections:
                stable |= stable_offsets(connection, topic, indices)
            if len(stable) < VISIBLE_PARTITIONS:
                raise NotApplicable("a partition got another leader meanwhile")
            missing = sum(stable[index] <= ends[index] for index in partitions)
            late += missing > 0
            torn += 0 < missing < VISIBLE_PARTITIONS
    told = f"of {VISIBLE_COMMITS} commits, {late} were not wholly visible when acknowledged, {torn} of them in part"
    return ("violated" if late else "holds"), told


def timeout_taken_for_fence(stage: Stage) -> tuple[Judgement, str]:
    """A producer whose transaction timed out, and that nobody has replaced, asks to go on (KIP-588)."""
    topic = stage.topic()
    producer = RawProducer(stage.address, stage.name, timeout_ms=2000)
    must("init", producer.init())
    must("add", producer.add(topic, 0))
    with Connection(leader(stage.address, topic, 0)) as connection:
        must("produce", producer.produce(connection, topic, 0, b"too slow", sequence=0, is_repeated=True))
    until = time.monotonic() + TIMED_OUT_SECONDS_MAX
    while stage.is_stuck(topic):
        if time.monotonic() > until:
            raise NotApplicable(f"the transaction did not time out in {TIMED_OUT_SECONDS_MAX:.0f} s")
        time.sleep(0.2)
    code = producer.init(producer.producer_id, producer.epoch)
    producer.close()
    if code:
        return "violated", f"refused with {code}, as if another instance had taken its place"
    return "holds", "it gets a new epoch and goes on"


def past_generation(stage: Stage) -> tuple[Judgement, str]:
    """A member of a past generation sends offsets in its transaction (KIP-447)."""
    with _group(stage) as (topic, group, producer, member, generation):
        code = producer.commit_offset(group, topic, 7, generation=generation - 1, member=member)
        must("abort" if code else "commit", producer.end(commit=not code))
    found = stage.offset(group, topic)
    return ("violated" if found == 7 else "holds"), f"generation {generation - 1} of {generation} {said(code)}"


def no_generation(stage: Stage) -> tuple[Judgement, str]:
    """A member that has lost its membership sends offsets with generation -1 and no member id, as librdkafka then does."""
    with _group(stage) as (topic, group, producer, _, generation):
        code = producer.commit_offset(group, topic, 7)
        must("abort" if code else "commit", producer.end(commit=not code))
    found = stage.offset(group, topic)
    told = f"generation -1 beside a living member of generation {generation} {said(code)}; committed offset {found}"
    return ("violated" if found == 7 else "holds"), told


@contextmanager
def _group(stage: Stage) -> Any:
    """A group with one living member, and a producer that has added the group to its transaction."""
    topic, group = stage.topic(), f"{stage.name}-group"
    with Connection(coordinator(stage.address, group, is_transaction=False)) as connection:
        member, generation = _join(connection, group)
        producer = RawProducer(stage.address, stage.name)
        try:
            must("init", producer.init())
            must("add offsets", producer.add_group(group))
            yield topic, group, producer, member, generation
        finally:
            producer.close()


def _join(connection: Connection, group: str) -> tuple[str, int]:
    """The member id and generation of the one member of a group, after two generations."""
    member, generation = "", -1
    for _ in range(3):
        reply = connection.call(
            "join_group",
            5,
            group_id=group,
            session_timeout=30_000,
            rebalance_timeout=30_000,
            member_id=member,
            group_instance_id=None,
            protocol_type="consumer",
            protocols=[{"name": "range", "metadata": b"\0\0\0\0\0\0\0\0\0\0"}],
        )
        member = reply.member_id
        if int(reply.error_code) == 79:  # MEMBER_ID_REQUIRED
            continue
        must("join", int(reply.error_code))
        generation = reply.generation_id
        reply = connection.call(
            "sync_group",
            3,
            group_id=group,
            generation_id=generation,
            member_id=member,
            group_instance_id=None,
            assignments=[{"member_id": member, "assignment": b""}],
        )
        must("sync", int(reply.error_code))
    return member, generation


def _into(ends: dict[int, int]) -> Callable[[Any, Any], None]:
    def delivered(error: Any, message: Any) -> None:
        if error is None:
            ends[message.partition()] = message.offset()

    return delivered


TRACES: Final[tuple[tuple[str, str, Trace], ...]] = (
    ("a late commit ends the next transaction", "KAFKA-17754", late_commit),
    ("a late abort ends the next transaction", "KAFKA-17754", late_abort),
    ("a late AddPartitionsToTxn begins a transaction", "KAFKA-17754", late_add_partitions),
    ("late offsets join the next transaction", "KAFKA-17754", late_offsets),
    ("a repeated batch arrives after the marker", "KIP-98", late_produce),
    ("a batch given up arrives after the marker", "KIP-890", hanging_transaction),
    ("a batch given up arrives in the next transaction", "KIP-890", late_produce_in_next),
    ("a batch given up arrives first in the next transaction", "KIP-890", late_produce_first),
    ("a commit is acknowledged before it is visible", "Jepsen, Bufstream 0.1.0", torn_visibility),
    ("a timeout is taken for a fence", "KIP-588", timeout_taken_for_fence),
    ("offsets of a past generation", "KIP-447", past_generation),
    ("offsets with generation -1", "KIP-447", no_generation),
)


def play_all(
    bootstrap: str, client: Mapping[str, str], *, tell: Callable[[str], None], replication: int = -1
) -> list[Played]:
    """All traces, one after the other, with clients of both protocols. ClusterError if the cluster can't be reached."""
    cluster = Cluster(bootstrap, client)
    cluster.check_reachable()
    played = []
    traces: tuple[tuple[Protocol, tuple[tuple[str, str, Trace], ...]], ...] = (("TV1", TRACES), ("TV2", TRACES_TV2))
    for protocol, rows in traces:
        for name, source, trace in rows:
            try:
                with Proxy(bootstrap) as proxy:
                    stage = Stage(bootstrap, client, cluster, proxy, replication=replication)
                    verdict, detail = _play(stage, trace)
            except ProxyError as failure:
                verdict, detail = "not applicable", f"could not be played: {failure}"
            tell(f"{verdict:>14}  {protocol}  {name}: {detail}")
            played.append(Played(name=name, protocol=protocol, source=source, verdict=verdict, detail=detail))
    return played


def _play(stage: Stage, trace: Trace) -> tuple[Judgement, str]:
    try:
        return trace(stage)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except (ProxyError, KafkaException, ClusterError, Unreadable, OSError) as failure:
        said_of_it = words(failure) if isinstance(failure, KafkaException) else str(failure)
        return "not applicable", f"could not be played: {said_of_it}"
    finally:
        stage.close()
