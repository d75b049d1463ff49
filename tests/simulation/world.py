"""One simulated world: drawn from its seed, run for some steps under faults, healed, brought to its end, and judged.

The seed draws everything: topics, clients and what they do, how bad network, disk and machine are. After the faults all clients
finish what they have begun; a world that does not come to its end within its time is a violation too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.simulation.admins import Admin
from tests.simulation.aged import age
from tests.simulation.ambushes import LateRequest, Replaced
from tests.simulation.checkers import (
    Bounds,
    FinalLog,
    Floors,
    Violation,
    check_codecs,
    check_everything,
    check_nothing_left,
    compacted_log,
    final_log,
)
from tests.simulation.client import ADMIN, Actor, Steps
from tests.simulation.disk import FileDisk
from tests.simulation.events import MS_US, SECOND_US, Events
from tests.simulation.forgetting import Memory
from tests.simulation.history import Fate, History, Place, Transaction
from tests.simulation.host import Host
from tests.simulation.members import GROUP, TARGET, Member, ModernMember
from tests.simulation.packing import Packing
from tests.simulation.producers import Forgetful, PlainProducer, Producing, Transactional, Writer
from tests.simulation.reading import UNKNOWN_TOPIC, Consumer, Copier, fetch, parts_of, shown_of, values_of
from tests.simulation.reasons import Reasons
from tests.simulation.threads import installed
from tests.simulation.trespassing import Trespasser
from tests.support.batches import Batch, batches

STEPS = 12_000
#: Requests after which the broker may be struck down.
_MOMENTS = (
    "produce",
    "produce",
    "end_txn",
    "txn_offset_commit",
    "init_producer_id",
    "add_partitions_to_txn",
    "join_group",
)
#: Simulated time in which a healed world must come to its end.
_END_US = 400 * SECOND_US
#: Longer than any transaction may be open.
_TIMEOUT_US = 12 * SECOND_US
_SWEEP_US = 10 * MS_US
#: The topic that is compacted.
_TABLE = "table"


class World:
    """See the module."""

    def __init__(self, seed: int, *, steps: int = STEPS, trace_lines: int = 400) -> None:
        self.seed, self.steps_wanted = seed, steps
        self.events = Events(seed, trace_lines)
        self.random = random = self.events.random
        self.history, self.floors = History(), Floors()
        self.pace_us = random.choice((1, 5, 20)) * MS_US
        self.share_rare = random.choice((0.0, 0.1, 0.4))
        self.fault_us = random.choice((20, 20, 60, 60, 200, 200, 1_000, 10**9)) * MS_US
        self.is_ending = False
        self.retention_ms = random.choice((-1, -1, 1_000))
        self.memory = Memory(seed)
        self.packed = 0
        #: Settings of the compacted topic, if there is one.
        self.compaction = self._draw_compaction()
        self.packing = Packing(seed, has_compaction=bool(self.compaction))
        self.disk = FileDisk(self.events)
        self.host = Host(self.events, self._draw_configs() | self.memory.configs(), self.disk)
        self._prepare_to_forget()
        self.reasons = Reasons(self.host)
        self._member_kind = random.choice((None, Member, ModernMember))
        self._hold_us = random.choice((30, 100, 1_000)) * MS_US
        self._faults = self._draw_faults()
        self.topics = self._draw_topics()
        self.actors: list[Actor] = []
        self._count = self.requests = self.zombies = self.late = 0
        self._is_tv2 = random.choice((lambda: True, lambda: False, lambda: self.events.chance(0.5)))
        self.timeouts_ms: tuple[int, ...] = (60, 200, 1_000)
        self._is_about_late_requests = random.random() < 0.3
        if self._is_about_late_requests:
            self._be_about_late_requests()
        self.logs: dict[Place, FinalLog] = {}

    def _be_about_late_requests(self) -> None:
        """Old clients, impatient and quick, and hardly any other fault: as many requests as may be are late (rule D4)."""
        self._is_tv2 = lambda: False
        self.fault_us, self._hold_us, self.pace_us = 5 * SECOND_US, 2 * MS_US, MS_US
        self.timeouts_ms = (8,)
        self.disk.sync_us, self.disk.share_slow = 100, 0.0
        self.host.network.share_cut = self.host.network.share_held = 0.0
        self.host.network.delay_us = 300

    def _prepare_to_forget(self) -> None:
        self.memory.host = self.host
        self.history.forgotten_after_us = self.memory.producer_ms * MS_US
        self.history.lag_us = self.memory.lag_us

    def _draw_configs(self) -> dict[str, str]:
        return {
            "flush.interval.ms": str(self.random.choice((1, 10, 100))),
            "log.retention.check.interval.ms": "400",
            "log.cleaner.backoff.ms": self.random.choice(("50", "300")),
            "group.min.session.timeout.ms": "100",
            "group.initial.rebalance.delay.ms": str(self.random.choice((0, 50))),
            "group.consumer.min.session.timeout.ms": "100",
            "group.consumer.min.heartbeat.interval.ms": "10",
            "group.consumer.session.timeout.ms": str(self.random.choice((300, 1_000, 6_000))),
            "group.consumer.heartbeat.interval.ms": "50",
        }

    def _draw_compaction(self) -> dict[str, str]:
        random = self.random
        if random.random() < 0.5:
            return {}
        settings = {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": random.choice(("0", "0", "0.3")),
            "segment.ms": random.choice(("1", "1", "100")),
            "min.compaction.lag.ms": random.choice(("0", "0", "50")),
        }
        tombstone_ms = random.choice(("", "", "0", "100"))
        self.history.has_tombstones = random.random() < 0.7
        if tombstone_ms:
            self.history.are_tombstones_fleeting = True
            settings["delete.retention.ms"] = tombstone_ms
        return settings | random.choice(({}, {"max.compaction.lag.ms": "100"}))

    def _draw_topics(self) -> dict[str, int]:
        random = self.random
        names = ("in", "mid", "out", "plain", *((TARGET,) if self._member_kind else ()))
        topics = {name: random.randint(1, 3) for name in names}
        if self.compaction:
            topics[_TABLE] = random.randint(1, 2)
            self.history.compacted.add(_TABLE)
        if self.share_rare:
            topics["mortal"] = random.randint(1, 2)
            self.history.mortal.add("mortal")
        return topics

    def places(self, *topics: str) -> list[Place]:
        """All partitions, or those of some topics."""
        return [(topic, index) for topic in topics or self.topics for index in range(self.topics[topic])]

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything. Raises Violation, or what the broker raised."""
        with installed(self.disk.numbers):
            self.host.start()
            self._run()

    def _run(self) -> None:
        setup = Admin(self, "setup")
        self._do(setup, setup.create_topics(self.topics))
        self._populate(age(self))
        self.events.at(self.fault_us, self._fault)
        self.events.at(self._hold_us, self._hold)
        self.events.at(100 * MS_US, self._look_after)
        if self.compaction:
            self.events.at(_SWEEP_US, self._sweep)
        while self.events.steps < self.steps_wanted:
            self._step()
        self._end()
        self._judge()

    def _step(self) -> None:
        if not self.events.step():
            raise Violation("stuck", "nothing happens any more")
        if self.host.bug is not None:
            raise self.host.bug

    def _do(self, actor: Actor, steps: Steps) -> None:
        """One actor does something, and the world goes on until it is done."""
        actor.run = lambda: steps  # type: ignore[method-assign]
        actor.begin()
        self.until(lambda: actor.is_done, actor.name)

    def until(self, is_done: Any, what: str) -> None:
        """The world goes on until something is so; not for ever."""
        deadline_us = self.events.now_us + _END_US
        while not is_done():
            if self.events.now_us > deadline_us:
                raise Violation("stuck", f"{what}: not done after {_END_US // SECOND_US} s without faults")
            self._step()

    def _populate(self, old: tuple[int, dict[Place, int]] | None) -> None:
        """``old``: the session that the first producer goes on with."""
        random, mortal = self.random, self.places(*self.history.mortal) if self.history.mortal else []
        for _ in range(random.randint(1, 3)):
            places = [*self.places("in", "plain"), *mortal] if random.random() < 0.5 else self.places("in")
            plain = PlainProducer(self, self._name("plain"), [place for place in places if place not in mortal])
            if old is not None:
                plain.start_at(*old)
                old = None
            self.add(plain)
        for number in range(random.randint(2 * self._is_about_late_requests, 3)):
            self.add(self._writer(f"write-{number}"))
        for index in range(self.topics["in"]):
            self.add(self._copier(f"copy-first{index}"))
        if random.random() < 0.5:
            for index in range(self.topics["mid"]):
                self.add(self._copier(f"copy-second{index}"))
        if random.random() < 0.3:
            self.add(Forgetful(self, self._name("forgetful"), self.places("plain")))
        if self._member_kind is not None:
            for number in range(random.randint(1, 3)):
                self.add(self._member(f"{GROUP}-{number}"))
        for number in range(random.randint(1, 4)):
            places = self.places()
            chosen = random.sample(places, random.randint(1, len(places)))
            self.add(Consumer(self, self._name("read"), chosen, is_committed=number % 3 != 2))
        if self.compaction:
            self.add(PlainProducer(self, self._name("keyed"), self.places(_TABLE)))
            self.add(self._table_writer(f"{_TABLE}-0"))
            self.add(Consumer(self, self._name("read"), self.places(_TABLE), is_committed=random.random() < 0.7))
        self.add(Admin(self, self._name("admin")))
        self.add(Trespasser(self, self._name("trespasser"), self.places("plain")))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def add(self, actor: Actor) -> None:
        """Somebody begins to act."""
        if self._is_about_late_requests and isinstance(actor, Transactional) and self.events.chance(0.3):
            actor.late = LateRequest(actor, "init_producer_id")
        if isinstance(actor, Producing):
            actor.codec = self.packing.codec_for(actor.produce_version)
        self.actors.append(actor)
        actor.begin()

    def _writer(self, transactional_id: str) -> Writer:
        places = self.places("in", "plain", *self.history.compacted, *self.history.mortal)
        writer = Writer(self, self._name("writer"), transactional_id, places, is_tv2=self._is_tv2())
        if not (writer.is_tv2 or self.host.network.share_cut) and self.random.random() < 0.7:
            # Where the network cuts, a batch that was given up may come before the end of its connection (FINDINGS.md).
            writer.be_careless()
        return writer

    def _table_writer(self, transactional_id: str) -> Writer:
        """Half of what it writes is aborted: what compaction makes of that is a matter of its own (rule R2)."""
        writer = Writer(self, self._name("keeper"), transactional_id, self.places(_TABLE), is_tv2=self._is_tv2())
        writer.share_aborted = 0.5
        return writer

    def _member(self, transactional_id: str) -> Member:
        assert self._member_kind is not None
        name = self._name(transactional_id)
        return self._member_kind(self, name, transactional_id, self.places(TARGET), is_tv2=self._is_tv2())

    def _copier(self, transactional_id: str) -> Copier:
        group = transactional_id.removeprefix("copy-")
        kind, index = group[:-1], int(group[-1])
        source, targets = ("in", ("mid",)) if kind == "first" else ("mid", ("out",))
        return Copier(self, self._name(group), group, (source, index), self.places(*targets), is_tv2=self._is_tv2())

    # -- faults -------------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        """Something bad happens, now and again."""
        if self.is_ending:
            return
        fault = self.random.choices(list(self._faults), list(self._faults.values()))[0]
        fault()
        self.events.at(self.events.about(self.fault_us), self._fault)

    def _draw_faults(self) -> dict[Callable[[], object], int]:
        """What may happen, and how often: another mixture for each seed."""
        host, random = self.host, self.random
        disk = self.disk
        faults: tuple[Callable[[], object], ...] = (
            host.kill,
            host.crash,
            host.close,
            disk.fail,
            disk.fill,
            disk.damage,
            lambda: disk.strike(is_power_lost=False),
            lambda: disk.strike(is_power_lost=self.disk.is_durable),
            lambda: host.wait_for(
                random.choice(_MOMENTS), is_power_lost=self.disk.is_durable and self.events.chance(0.5)
            ),
            lambda: host.pause(self.events.about(300 * MS_US)),
            lambda: host.sleep(self.events.about(2 * SECOND_US)),
            lambda: host.jump(random.choice((-1, 1)) * self.events.about(random.choice((1, 100)) * SECOND_US)),
            self._double,
            self._replace,
            self._kill_client,
            self._freeze_client,
        )
        drawn = {fault: random.choice((0, 0, 1, 1, 5)) for fault in faults}
        if self.compaction:
            drawn[host.strike_in_sweep] = random.choice((3, 5, 10))
        return drawn | {self._settle: 1}

    def _settle(self) -> None:
        if self.host.server is not None:
            self.host.loop.call_soon(self.host.storage.settle)

    def _sweep(self) -> None:
        """Look for what is to be compacted: the broker itself does so every 50 ms at most, seldom for a world of a second."""
        if self.host.server is not None:
            self.host.loop.call_soon(self.host.broker.upkeep._compacting.look)
        if not self.is_ending:
            self.events.at(self.events.about(_SWEEP_US), self._sweep)

    def _transactional(self) -> list[Transactional]:
        return [one for one in self.actors if isinstance(one, Transactional) and not (one.is_dead or one.is_done)]

    def _double(self) -> None:
        """Another instance with the same transactional id begins; the old one knows nothing of it."""
        actors = self._transactional()
        if actors:
            old = self.random.choice(actors)
            if self.events.chance(0.5):
                old.freeze(self.events.about(SECOND_US))
            self.zombies += 1
            self.add(self.again(old.transactional_id))

    def again(self, transactional_id: str) -> Transactional:
        """A new instance."""
        kinds = {"copy": self._copier, "write": self._writer, _TABLE: self._table_writer, GROUP: self._member}
        return kinds[transactional_id.partition("-")[0]](transactional_id)

    def _hold(self) -> None:
        """A request of somebody will be late (rule D4)."""
        if self.is_ending:
            return
        self.events.at(self.events.about(self._hold_us), self._hold)
        actors = [actor for actor in self._transactional() if actor.late is None]
        if self.events.chance(0.8):
            actors = [actor for actor in actors if not actor.is_tv2] or actors
        if self.events.chance(0.5):
            actors = [actor for actor in actors if actor.is_careless] or actors
        if actors:
            victim = self.random.choice(actors)
            victim.late = LateRequest(victim)
            self.late += 1

    def _replace(self) -> None:
        """Another instance begins while a request of the old one is under way."""
        actors = [actor for actor in self._transactional() if actor.late is None or actor.late.is_idle]
        if actors:
            victim = self.random.choice(actors)
            victim.late = Replaced(victim)
            self.zombies += 1

    def _kill_client(self) -> None:
        actors = self._transactional()
        if actors:
            self.random.choice(actors).kill(is_silent=self.events.chance(0.3))

    def _freeze_client(self) -> None:
        actors = [actor for actor in self.actors if not (actor.is_dead or actor.is_done)]
        self.random.choice(actors).freeze(self.events.about(3 * SECOND_US))

    def _look_after(self) -> None:
        """Whoever starts clients again: each transactional id has somebody who works for it."""
        live = {actor.transactional_id for actor in self._transactional()}
        known = dict.fromkeys(actor.transactional_id for actor in self.actors if isinstance(actor, Transactional))
        for transactional_id in known:
            is_needed = not self.is_ending or not self._is_finished(transactional_id)
            if transactional_id not in live and is_needed:
                self.add(self.again(transactional_id))
        self.actors = [
            actor for actor in self.actors if not actor.is_dead and not (actor.is_done and not _is_witness(actor))
        ]
        self.host.examine()
        self.events.at(self.events.about(300 * MS_US), self._look_after)

    def _is_finished(self, transactional_id: str) -> bool:
        """At the end: whether an instance has said that nothing is left to do."""
        return any(
            isinstance(actor, Transactional)
            and actor.transactional_id == transactional_id
            and actor.is_done
            and actor.is_over()
            for actor in self.actors
        )

    def counts(self) -> dict[str, int]:
        """What happened, for people."""
        host, network, transactions = self.host, self.host.network, self.history.transactions
        return {
            "requests": self.requests,
            "records": len(self.history.values),
            "commits": sum(one.fate is Fate.COMMITTED for one in transactions),
            "aborts": sum(one.fate is Fate.ABORTED for one in transactions),
            "unknown": sum(one.fate is Fate.UNKNOWN for one in transactions),
            "zombies": self.zombies,
            "kills": host.kills,
            "machine crashes": host.crashes,
            "failed syncs and writes": host.failures,
            "checkpoints": self.disk.tree.counts["checkpoint"],
            "segment files": self.disk.tree.counts["segment"],
            "compactions": host.sweeps,
            "deaths in them": host.deaths_in_sweeps,
            "reads damaged": self.disk.reads_damaged,
            "requests held": self.late,
            "clock jumps": host.jumps,
            "connections cut": network.cut,
            "producers forgotten": host.producers_forgotten,
            "transactional ids forgotten": host.ids_forgotten,
            "batches compressed": self.packed,
            "messages held": network.held,
        }

    # -- what actors ask and tell -------------------------------------------------------------------------------------

    def is_quiet_before(self, topic: str) -> bool:
        """At the end: whether nobody writes to the topic any more."""
        if not self.is_ending:
            return False
        if topic == "in":
            return not any(
                isinstance(actor, PlainProducer | Writer) and not (actor.is_done or actor.is_dead)
                for actor in self.actors
            )
        firsts = [f"copy-first{index}" for index in range(self.topics["in"])]
        live = {actor.transactional_id for actor in self._transactional()}
        return all(one not in live and self._is_finished(one) for one in firsts)

    def committed(self, transaction: Transaction) -> None:
        """A commit was acknowledged: everything of it is visible from now on."""
        self.floors.committed(transaction)
        for (group, topic, index), offset in transaction.offsets.items():
            self.floors.raise_to((f"offset of {group} in {topic}", index), Bounds(-1, -1, offset))

    def seen_committed(self, names: Iterable[bytes]) -> None:
        """Somebody has read these: all of their transactions is visible from now on."""
        for name in names:
            value = self.history.values.get(name)
            if value is None:
                raise Violation("invented", f"{name!r} was read and never sent")
            transaction = value.transaction
            if transaction is not None:
                if transaction.fate in (Fate.OPEN, Fate.ABORTED):
                    raise Violation("aborted read", f"{name!r} of a transaction that is {transaction.fate.value}")
                self.floors.committed(transaction)

    def fetch_offset(self, actor: Actor, role: str, group: str, place: Place, *, require_stable: bool) -> Steps:
        """A group's committed offset, -1 for none; None if there is no answer. It never goes back."""
        known = (f"offset of {group} in {place[0]}", place[1])
        before = self.floors.now([known])
        topics = [{"name": place[0], "partition_indexes": [place[1]]}]
        tree: dict[str, Any] = {"group_id": group, "topics": topics}
        version = actor.random.choice((5, 7)) if not require_stable else 7
        if version >= 7:
            tree["require_stable"] = require_stable
        reply = yield from actor.call(role, "offset_fetch", version, **tree)
        if reply is None or reply.error_code or reply.topics[0].partitions[0].error_code:
            return None
        offset = reply.topics[0].partitions[0].committed_offset
        self.floors.check(before, known, Bounds(-1, -1, offset))
        return offset

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """No more faults: everybody finishes."""
        self.is_ending = True
        self.events.note("world", "is healed")
        self.host.network.heal()
        self.disk.calm()
        self.pace_us = 50 * MS_US
        self.until(lambda: self.host.server is not None, "the broker")
        self.until(self._is_all_done, "the clients")
        for actor in self.actors:
            if not (actor.is_done or actor.is_dead):
                actor.kill()
        # Whoever could not go on may have left a transaction open: it times out.
        over_us = self.events.now_us + _TIMEOUT_US
        self.until(lambda: self.events.now_us >= over_us, "the last timeouts")

    def _is_all_done(self) -> bool:
        firsts = {one.transactional_id for one in self.actors if isinstance(one, Transactional)}
        return all(actor.is_done or actor.is_dead for actor in self.actors if not isinstance(actor, Consumer)) and all(
            self._is_finished(one) for one in firsts
        )

    def _judge(self) -> None:
        auditor = Auditor(self, "auditor")
        self._do(auditor, auditor.read_all())
        found = check_everything(self.history, self.floors, self.logs, auditor.offsets)
        found += auditor.packed_otherwise
        found += check_nothing_left(self.history, self.logs, auditor.offsets)
        if found:
            raise found[0]
        self.host.close()
        self.until(lambda: self.host.server is not None, "the last start")


def _is_witness(actor: Actor) -> bool:
    return isinstance(actor, Transactional)


@dataclass(slots=True)
class Everything:
    """What an isolation is given of a partition, and what it makes of that."""

    batches: list[Batch]
    seen: list[tuple[int, bytes]]
    end: int


class Auditor(Actor):
    """Reads everything at the end."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.timeout_us = 30 * SECOND_US
        self.offsets: dict[tuple[str, Place], int] = {}
        self.packed_otherwise: list[Violation] = []

    def read_all(self) -> Steps:
        for place in self.world.places():
            yield from self._read(place)
        for group, place in self.world.history.copyings:
            offset = yield from self.world.fetch_offset(self, ADMIN, group, place, require_stable=True)
            self.offsets[group, place] = max(0, offset)

    def _read(self, place: Place) -> Steps:
        start = yield from self._start(place)
        if place[0] in self.world.history.compacted:
            # First what counts: what compaction takes meanwhile is missing from all that is there then.
            visible = (yield from self._all_of(place, start, isolation=1)).seen
            everything = yield from self._all_of(place, start, isolation=0)
            self.packed_otherwise += check_codecs(self.world.history, place, everything.batches)
            offsets = {offset for offset, _ in visible}
            log = self.world.logs[place] = compacted_log(start, everything.end, everything.batches, offsets)
            if self.world.history.are_tombstones_fleeting:
                log.bury(self.world.history.tombstones(place))
            return
        everything = yield from self._all_of(place, start, isolation=0)
        if everything is not None:
            self.packed_otherwise += check_codecs(self.world.history, place, everything.batches)
            self.world.logs[place] = final_log(start, everything.end, everything.batches)

    def _all_of(self, place: Place, at: int, *, isolation: int) -> Steps:
        """A partition from ``at`` on; None if a mortal topic is not there."""
        found = Everything([], [], at)
        while True:
            reply = (yield [fetch(isolation, {place: found.end}, 11)])[0]
            part = parts_of(reply)[place]
            if part.error_code == UNKNOWN_TOPIC and place[0] in self.world.history.mortal:
                return None
            assert part.error_code == 0, f"{place} can't be read: {part.error_code}"
            more = batches(part.records)
            if not more:
                break
            found.seen += values_of(part, more, found.end)
            found.batches += more
            found.end = more[-1].offset_last + 1
        shown = shown_of(part)
        if shown.stable_offset != shown.high_watermark:
            raise Violation("stuck", f"{place}: stable offset {shown.stable_offset} of {shown.high_watermark}")
        return found

    def _start(self, place: Place) -> Steps:
        partition = {"partition_index": place[1], "timestamp": -2}
        topics = [{"name": place[0], "partitions": [partition]}]
        reply = yield from self.call(ADMIN, "list_offsets", 2, replica_id=-1, isolation_level=0, topics=topics)
        return reply.topics[0].partitions[0].offset
