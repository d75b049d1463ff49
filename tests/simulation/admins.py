"""Simulated administrators: topics that come and go, deleted records, looks at everything, operators' aborts (rule T11)."""

from __future__ import annotations

from typing import Any

from tests.simulation.checkers import Bounds, Violation
from tests.simulation.client import ADMIN, Actor, Steps
from tests.simulation.events import MS_US
from tests.simulation.history import Place

_INVALID_PARTITIONS = 37


class Admin(Actor):
    """Does one thing after the other, at random."""

    def run(self) -> Steps:
        acts = (self._list_offsets, self._list_offsets, self._fetch_offsets, self._look, self._delete_records)
        while not self.world.is_ending:
            rare = (self._delete_topic, self._abort, self._mark, self._grow)
            act = self.random.choice(rare if self.events.chance(self.world.share_rare) else acts)
            yield from act()
            yield from self.rest(20 * self.world.pace_us)

    def create_topics(self, topics: dict[str, int]) -> Steps:
        """Create until they are there."""
        wanted = [
            {"name": name, "num_partitions": count, "replication_factor": 1, "configs": self._configs(name)}
            for name, count in topics.items()
        ]
        while wanted:
            reply = yield from self.call(ADMIN, "create_topics", 5, topics=wanted, timeout=10_000)
            if reply is not None:
                done = {topic.name for topic in reply.topics if topic.error_code in (0, 36)}
                wanted = [topic for topic in wanted if topic["name"] not in done]
            yield from self.rest(20 * MS_US)

    def _configs(self, topic: str) -> list[dict[str, str]]:
        """Some worlds keep what nobody copies for a short time only, some have a topic that is compacted."""
        if topic in self.world.history.compacted:
            return [{"name": name, "value": value} for name, value in self.world.compaction.items()]
        if topic.startswith("plain") and self.world.retention_ms >= 0:
            return [{"name": "retention.ms", "value": str(self.world.retention_ms)}]
        return []

    def _delete_topic(self) -> Steps:
        """Delete a mortal topic and make it anew."""
        mortal = sorted(self.world.history.mortal)
        if not mortal:
            return
        topic = self.random.choice(mortal)
        yield from self.call(ADMIN, "delete_topics", 4, topic_names=[topic], timeout=10_000)
        yield from self.rest(50 * MS_US)
        yield from self.create_topics({topic: self.world.topics[topic]})

    def _grow(self) -> Steps:
        """A topic gets one more partition."""
        count = self.world.topics["plain"] + 1
        if count > 5:
            return
        topics = [{"name": "plain", "count": count, "assignments": None}]
        reply = yield from self.call(ADMIN, "create_partitions", 1, topics=topics, timeout=10_000)
        if reply is not None and int(reply.results[0].error_code) in (0, _INVALID_PARTITIONS):
            self.world.topics["plain"] = max(self.world.topics["plain"], count)

    def _delete_records(self) -> Steps:
        places = [place for place in self.world.places() if place[0].startswith("plain")]
        if not places:
            return
        topic, index = place = self.random.choice(places)
        offset = self.random.randint(0, max(1, self.world.floors.now([place])[place].shown.high_watermark))
        partition = {"partition_index": index, "offset": offset}
        before = self.world.floors.now([place])
        reply = yield from self.call(
            ADMIN, "delete_records", 1, topics=[{"name": topic, "partitions": [partition]}], timeout=10_000
        )
        if reply is not None and not (part := reply.topics[0].partitions[0]).error_code:
            self.note("deleted {} before {}", place, part.low_watermark)
            self.world.floors.check(before, place, Bounds(-1, -1, part.low_watermark))

    def _list_offsets(self) -> Steps:
        """Ends and starts must not go back (rule R5)."""
        places = [place for place in self.world.places() if place[0] not in self.world.history.mortal]
        isolation, timestamp = self.random.choice((0, 1)), self.random.choice((-1, -1, -2))
        before = self.world.floors.now(places)
        topics: dict[str, list[dict[str, Any]]] = {}
        for topic, index in places:
            topics.setdefault(topic, []).append({"partition_index": index, "timestamp": timestamp})
        reply = yield from self.call(
            ADMIN,
            "list_offsets",
            self.random.choice((2, 3)),
            replica_id=-1,
            isolation_level=isolation,
            topics=[{"name": topic, "partitions": parts} for topic, parts in topics.items()],
        )
        for topic in reply.topics if reply is not None else ():
            for part in topic.partitions:
                offset = part.offset
                shown = Bounds(-1, -1, offset) if timestamp == -2 else Bounds(offset, -1, -1)
                if timestamp == -1 and isolation:
                    shown = Bounds(-1, offset, -1)
                self.world.floors.check(before, (topic.name, part.partition_index), shown)

    def _fetch_offsets(self) -> Steps:
        for group, place in sorted(self.world.history.copyings):
            yield from self.world.fetch_offset(self, ADMIN, group, place, require_stable=self.events.chance(0.5))

    def _look(self) -> Steps:
        """Ask what tools ask; the answers are looked at by tests/conformance, here they must only not disturb."""
        yield from self._look_at_transactions()
        topics = [{"name": topic, "partition_indexes": [0]} for topic in self.world.topics]
        yield from self.call(ADMIN, "describe_producers", 0, topics=topics)
        yield from self.call(ADMIN, "metadata", 4, topics=None, allow_auto_topic_creation=False)

    def _look_at_transactions(self) -> Steps:
        """None is open that its producer knows nothing of (rule D4)."""
        since_us = self.events.now_us
        reply = yield from self.call(ADMIN, "list_transactions", 0, state_filters=["Ongoing"], producer_id_filters=[])
        for found in reply.transaction_states if reply is not None else ():
            if self.world.history.is_idle(found.transactional_id, since_us):
                raise Violation("phantom transaction", f"{found.transactional_id} has one open, its producer has not")

    def _producers(self, place: Place) -> Steps:
        """What the partition says of its producers."""
        topics = [{"name": place[0], "partition_indexes": [place[1]]}]
        reply = yield from self.call(ADMIN, "describe_producers", 0, topics=topics)
        if reply is None or reply.topics[0].partitions[0].error_code:
            return []
        return list(reply.topics[0].partitions[0].active_producers)

    def _write_marker(self, place: Place, producer_id: int, epoch: int) -> Steps:
        marker = {
            "producer_id": producer_id,
            "producer_epoch": epoch,
            "transaction_result": False,
            "topics": [{"name": place[0], "partition_indexes": [place[1]]}],
            "coordinator_epoch": 0,
        }
        self.world.reasons.operators += 1
        yield from self.call(ADMIN, "write_txn_markers", 1, markers=[marker])

    def _abort(self) -> Steps:
        """An operator aborts what is open on a partition."""
        place = self.random.choice(self.world.places())
        for producer in (yield from self._producers(place)):
            if producer.current_txn_start_offset >= 0:
                self.note("aborts producer {} of {}", producer.producer_id, place)
                yield from self._write_marker(place, producer.producer_id, producer.producer_epoch)
                return

    def _mark(self) -> Steps:
        """A marker where nothing is open (rule T8)."""
        place = self.random.choice(self.world.places())
        for producer in (yield from self._producers(place)):
            if producer.current_txn_start_offset < 0:
                yield from self._write_marker(place, producer.producer_id, producer.producer_epoch)
                return
