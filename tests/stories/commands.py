"""The words of a story. Each command is a method; its words are positional, or ``name=value``; ``v=`` is the request's version.

    topic NAME [PARTITIONS]                    delete-topic NAME                    delete-records PARTITION OFFSET
    init ID [v= timeout= as=SESSION]           add SESSION PARTITION... [v=]        add-group SESSION GROUP [v=]
    produce SESSION PARTITION VALUE... [v= seq= plain]
    offset SESSION GROUP PARTITION OFFSET [v= generation= member= instance=]
    end SESSION commit|abort [v=]              marker SESSION PARTITION commit|abort
    read PARTITION [uncommitted from=]         log PARTITION [from=]                offset-of GROUP PARTITION [stable]
    age ID EPOCH   age-sequence SESSION PARTITION SEQUENCE
    show ID        producers PARTITION         commit GROUP PARTITION OFFSET        join GROUP [member=]
    wait TIME      kill      crash             hold-syncs      sync      sync-as NAME    leave CONNECTION

``NAME = command`` keeps the producer's session that the reply carries. A session is a kept name, or ID:PRODUCER/EPOCH.
Sequences go on by themselves unless ``seq=`` says otherwise. ``@N command`` uses connection N. A partition is TOPIC-INDEX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulation.reading import values_of
from tests.stories.stage import MS, NEVER_US, SECOND, Stage, code_name, codes
from tests.support.batches import Batch, batch, batches

from oncelog.broker import observe
from oncelog.engine.decision import Decision
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.rows import Producer, ProducerIds, Transaction, TransactionState, WrittenBatch

_TIMES = {"ms": MS, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_SEQUENCES = 2**31


class Session(NamedTuple):
    """A producer id and epoch, for a transactional id."""

    id: str
    producer_id: int
    epoch: int


class Words:
    """The words of one command."""

    def __init__(self, words: list[str]) -> None:
        self.plain = [word for word in words if "=" not in word]
        self.named = dict(word.split("=", 1) for word in words if "=" in word)

    def number(self, name: str, default: int) -> int:
        return int(self.named.get(name, default))


class Commands:
    """See the module."""

    def __init__(self) -> None:
        self.stage = Stage()
        self._sessions: dict[str, Session] = {}
        self._sequences: dict[tuple[int, int, str], int] = {}
        self._connection = 1
        self._given: Session | None = None
        self._members: dict[str, str] = {}

    def do(self, line: str) -> str:
        """One command; what it says."""
        words = line.split()
        self._connection = int(words.pop(0)[1:]) if words[0].startswith("@") else 1
        kept = words[0] if len(words) > 2 and words[1] == "=" else None
        if kept is not None:
            del words[:2]
        self._given = None
        act: Callable[[Words], str] = getattr(self, "do_" + words[0].replace("-", "_"))
        said = act(Words(words[1:]))
        if kept is not None and self._given is not None:
            self._sessions[kept] = self._given
        return said

    def _call(self, api: str, version: int, tree: dict[str, Any], say: Callable[[Any], str] = codes) -> str:
        return self.stage.call(self._connection, api, version, tree, say)

    def _session(self, word: str) -> Session:
        if "/" in word:
            name, _, numbers = word.rpartition(":")
            producer_id, epoch = numbers.split("/")
            return Session(name, int(producer_id), int(epoch))
        return self._sessions[word]

    def _give(self, name: str, reply: Any) -> str:
        if reply.error_code:
            return code_name(reply.error_code)
        if not hasattr(reply, "producer_id") or reply.producer_id < 0:
            return "ok"
        self._given = Session(name, reply.producer_id, reply.producer_epoch)
        return f"ok, producer {reply.producer_id} epoch {reply.producer_epoch}"

    # -- topics -------------------------------------------------------------------------------------------------------

    def do_topic(self, words: Words) -> str:
        name, *rest = words.plain
        topic = {"name": name, "num_partitions": int(rest[0]) if rest else 1, "replication_factor": 1}
        return self._call("create_topics", 4, {"topics": [topic], "timeout": 1_000})

    def do_delete_topic(self, words: Words) -> str:
        return self._call("delete_topics", 3, {"topic_names": words.plain, "timeout": 1_000})

    def do_delete_records(self, words: Words) -> str:
        topic, index = words.plain[0].rsplit("-", 1)
        partition = {"partition_index": int(index), "offset": int(words.plain[1])}
        tree = {"topics": [{"name": topic, "partitions": [partition]}], "timeout": 1_000}

        def say(reply: Any) -> str:
            part = reply.topics[0].partitions[0]
            return code_name(part.error_code) if part.error_code else f"ok, from {part.low_watermark}"

        return self._call("delete_records", 1, tree, say)

    # -- producers ----------------------------------------------------------------------------------------------------

    def do_init(self, words: Words) -> str:
        name = words.plain[0].replace("''", "")
        version = words.number("v", 4)
        tree: dict[str, Any] = {
            "transactional_id": None if name == "-" else name,
            "transaction_timeout": words.number("timeout", 60_000),
        }
        if version >= 3:
            caller = self._session(words.named["as"]) if "as" in words.named else Session(name, -1, -1)
            tree |= {"producer_id": caller.producer_id, "producer_epoch": caller.epoch}
        return self._call("init_producer_id", version, tree, lambda reply: self._give(name, reply))

    def _who(self, session: Session) -> dict[str, Any]:
        return {
            "transactional_id": session.id,
            "producer_id": session.producer_id,
            "producer_epoch": session.epoch,
        }

    def do_add(self, words: Words) -> str:
        session = self._session(words.plain[0])
        topics: dict[str, list[int]] = {}
        for word in words.plain[1:]:
            topic, index = word.rsplit("-", 1)
            topics.setdefault(topic, []).append(int(index))
        tree = {f"v3_and_below_{name}": value for name, value in self._who(session).items()}
        tree["v3_and_below_topics"] = [{"name": topic, "partitions": indexes} for topic, indexes in topics.items()]
        return self._call("add_partitions_to_txn", words.number("v", 3), tree, codes)

    def do_add_group(self, words: Words) -> str:
        session = self._session(words.plain[0])
        tree = {**self._who(session), "group_id": words.plain[1]}
        return self._call("add_offsets_to_txn", words.number("v", 3), tree)

    def do_produce(self, words: Words) -> str:
        session = self._session(words.plain[0])
        is_plain = words.plain[-1] == "plain"
        place, *values = words.plain[1:-1] if is_plain else words.plain[1:]
        topic, index = place.rsplit("-", 1)
        key = session.producer_id, session.epoch, place
        is_next = "seq" not in words.named
        sequence = self._sequences.get(key, 0) if is_next else int(words.named["seq"])
        if is_next:
            self._sequences[key] = (sequence + len(values)) % _SEQUENCES
        data = batch(
            [value.encode() for value in values],
            producer_id=session.producer_id,
            epoch=session.epoch,
            sequence=sequence,
            transactional=not is_plain,
            timestamp_ms=self.stage.host.clock_ms(),
        )
        tree = {
            "transactional_id": None if is_plain else session.id,
            "acks": -1,
            "timeout": 1_000,
            "topic_data": [{"name": topic, "partition_data": [{"index": int(index), "records": data}]}],
        }

        def say(reply: Any) -> str:
            part = reply.responses[0].partition_responses[0]
            return code_name(part.error_code) if part.error_code else f"ok, at {part.base_offset}"

        return self._call("produce", words.number("v", 9), tree, say)

    def do_offset(self, words: Words) -> str:
        session = self._session(words.plain[0])
        group, place, offset = words.plain[1:4]
        topic, index = place.rsplit("-", 1)
        version = words.number("v", 3)
        partition = {"partition_index": int(index), "committed_offset": int(offset)}
        tree = {**self._who(session), "group_id": group, "topics": [{"name": topic, "partitions": [partition]}]}
        if version >= 3:
            tree |= {"generation_id": words.number("generation", -1), "member_id": self._member(words)}
            tree |= {"group_instance_id": words.named.get("instance")}
        return self._call("txn_offset_commit", version, tree)

    def do_end(self, words: Words) -> str:
        session = self._session(words.plain[0])
        tree = {**self._who(session), "committed": words.plain[1] == "commit"}
        return self._call("end_txn", words.number("v", 3), tree, lambda reply: self._give(session.id, reply))

    def do_marker(self, words: Words) -> str:
        session = self._session(words.plain[0])
        topic, index = words.plain[1].rsplit("-", 1)
        marker = {
            "producer_id": session.producer_id,
            "producer_epoch": session.epoch,
            "transaction_result": words.plain[2] == "commit",
            "topics": [{"name": topic, "partition_indexes": [int(index)]}],
            "coordinator_epoch": 0,
        }
        return self._call("write_txn_markers", 1, {"markers": [marker]})

    # -- looking ------------------------------------------------------------------------------------------------------

    def _fetch(self, place: str, offset: int, isolation: int, say: Callable[[Any, list[Batch]], str]) -> str:
        topic, index = place.rsplit("-", 1)
        part = {"partition": int(index), "fetch_offset": offset, "partition_max_bytes": 1 << 20}
        tree = {
            "replica_id": -1,
            "max_wait": 0,
            "min_bytes": 0,
            "max_bytes": 1 << 20,
            "isolation_level": isolation,
            "topics": [{"topic": topic, "partitions": [part]}],
        }

        def answer(reply: Any) -> str:
            found = reply.responses[0].partitions[0]
            if found.error_code:
                return code_name(found.error_code)
            return say(found, batches(found.records))

        return self._call("fetch", 5, tree, answer)

    def do_read(self, words: Words) -> str:
        isolation = 0 if "uncommitted" in words.plain else 1
        offset = words.number("from", 0)

        def say(part: Any, found: list[Batch]) -> str:
            seen = [f"{at}:{value.decode()}" for at, value in values_of(part, found, offset)]
            end = part.last_stable_offset if isolation else part.high_watermark
            return f"{' '.join(seen) or 'nothing'}; end {end}"

        return self._fetch(words.plain[0], offset, isolation, say)

    def do_log(self, words: Words) -> str:
        def say(part: Any, found: list[Batch]) -> str:
            bounds = f"from {part.log_start_offset}, stable {part.last_stable_offset} of {part.high_watermark}"
            return "\n".join([*map(_line, found), bounds])

        return self._fetch(words.plain[0], words.number("from", 0), 0, say)

    def do_offset_of(self, words: Words) -> str:
        topic, index = words.plain[1].rsplit("-", 1)
        topics = [{"name": topic, "partition_indexes": [int(index)]}]
        tree = {"group_id": words.plain[0], "topics": topics, "require_stable": "stable" in words.plain}

        def say(reply: Any) -> str:
            part = reply.topics[0].partitions[0]
            return code_name(part.error_code) if part.error_code else str(part.committed_offset)

        return self._call("offset_fetch", 7, tree, say)

    def do_commit(self, words: Words) -> str:
        topic, index = words.plain[1].rsplit("-", 1)
        partition = {"partition_index": int(index), "committed_offset": int(words.plain[2])}
        tree = {
            "group_id": words.plain[0],
            "generation_id_or_member_epoch": words.number("generation", -1),
            "member_id": self._member(words),
            "topics": [{"name": topic, "partitions": [partition]}],
        }
        return self._call("offset_commit", 6, tree)

    def do_join(self, words: Words) -> str:
        """A member joins and takes what it is assigned; version 3 needs no second round."""
        protocol = {"name": "range", "metadata": b""}
        tree = {
            "group_id": words.plain[0],
            "session_timeout": 30_000,
            "rebalance_timeout": 30_000,
            "member_id": words.named.get("member", ""),
            "protocol_type": "consumer",
            "protocols": [protocol],
        }
        member = ""

        def say(reply: Any) -> str:
            nonlocal member
            member = reply.member_id
            return f"{code_name(reply.error_code)}, generation {reply.generation_id}"

        said = self._call("join_group", 3, tree, say)
        if member:
            self._members[words.plain[0]] = member
        return said

    def _member(self, words: Words) -> str:
        """``member=GROUP`` is the member that joined that group last; anything else stands for itself."""
        word = words.named.get("member", "")
        return self._members.get(word, word)

    def do_show(self, words: Words) -> str:
        found = observe.transactions(self.stage.host.broker.state, self.stage.host.clock_ms())
        for one in found:
            if one.id == words.plain[0]:
                text = f"{one.state}, producer {one.producer_id} epoch {one.epoch}"
                text += f", in {' '.join((*one.partitions, *one.groups))}" if one.open_ms >= 0 else ""
                return text + (f"; {one.fence_reason}" if one.fence_reason else "")
        return "no such transactional id"

    def do_producers(self, words: Words) -> str:
        topic, index = words.plain[0].rsplit("-", 1)
        topics = [{"name": topic, "partition_indexes": [int(index)]}]

        def say(reply: Any) -> str:
            found = reply.topics[0].partitions[0].active_producers
            return "\n".join(
                f"producer {one.producer_id} epoch {one.producer_epoch} sequence {one.last_sequence}"
                f" open from {one.current_txn_start_offset}"
                for one in found
            )

        return self._call("describe_producers", 0, {"topics": topics}, say)

    # -- what would take long to come about ---------------------------------------------------------------------------

    def do_age(self, words: Words) -> str:
        """A new transactional id that is at that epoch already."""
        broker = self.stage.host.broker
        producer_id = broker.state.producer_id_next
        row = Transaction(
            words.plain[0],
            producer_id,
            Epoch(int(words.plain[1])),
            60_000,
            TransactionState.EMPTY,
            updated_ms=broker.now_ms(),
        )
        broker.commit(None, Decision((ProducerIds(ProducerId(producer_id + 1)), row)))
        return ""

    def do_age_sequence(self, words: Words) -> str:
        """The producer's newest batch on a partition had that sequence."""
        session, broker = self._session(words.plain[0]), self.stage.host.broker
        topic, index = words.plain[1].rsplit("-", 1)
        log = broker.state.log_of(topic, int(index))
        assert log is not None
        last = int(words.plain[2])
        row = log.producers[ProducerId(session.producer_id)]
        window = (WrittenBatch(last, last, row.window[-1].offset_base, -1),)
        broker.commit(None, Decision((Producer(log.id, row.id, row.epoch, window, -1, broker.now_ms()),)))
        return ""

    # -- time and faults ----------------------------------------------------------------------------------------------

    def do_wait(self, words: Words) -> str:
        text = words.plain[0]
        unit = text.lstrip("0123456789")
        self.stage.pass_time(int(text.removesuffix(unit)) * _TIMES[unit])
        return ""

    def do_kill(self, words: Words) -> str:
        self.stage.restart("kill")
        return ""

    def do_crash(self, words: Words) -> str:
        self.stage.restart("crash")
        return ""

    def do_leave(self, words: Words) -> str:
        self.stage.leave(int(words.plain[0]))
        return ""

    def do_hold_syncs(self, words: Words) -> str:
        self.stage.host.disk.sync_us = NEVER_US
        return ""

    def do_sync(self, words: Words) -> str:
        self.stage.host.storage.sync_now()
        self.stage.pass_time(0)
        return self.do_replies(words)

    def do_sync_as(self, words: Words) -> str:
        """As ``sync``; the session that a reply carries is kept under that name."""
        said = self.do_sync(words)
        assert self._given is not None, said
        self._sessions[words.plain[0]] = self._given
        return said

    def do_replies(self, words: Words) -> str:
        replies, self.stage.replies = self.stage.replies, []
        return "\n".join(f"{api}: {said}" for api, said in replies) or "none"


def _line(each: Batch) -> str:
    what = "commit" if each.is_control and each.is_commit else "abort" if each.is_control else ""
    if not what:
        values = " ".join((record.value or b"").decode() for record in each.records)
        what = f"{'transactional' if each.is_transactional else 'plain'} {values}, sequence {each.base_sequence}"
    return f"{each.base_offset}: {what}, producer {each.producer_id} epoch {each.producer_epoch}"
