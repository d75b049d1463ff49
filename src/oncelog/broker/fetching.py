"""Fetch: reading at once, waiting for more, sessions (rules R1, R2, R4, D2, D3; KIP-74, KIP-227).

A fetch reads whole stored batches, up to what is synced and, for read_committed, to the last stable offset. If there is too
little it waits on its partitions' logs: the lane tells which logs readers see more of, in the instant in which they do.
A session remembers the partitions of one consumer, so that each fetch names only what changed.

Differs: a fetch does not hold up what comes behind it by its connection: it is answered, with what there is. Replies leave in
order, so a FindCoordinator would wait as long as the fetch does, and librdkafka 2.16 gives up the coordinator that it asks
for again and again if that takes longer than its ``retry.backoff.ms`` (docs/limits.md).

A fetch of many partitions goes in steps (broker/stepping.py). What it may show of each partition is noted in one instant,
before the first is read: of a transaction it shows all or nothing, however many steps it takes (rule D1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from oncelog.broker.call import Call, milliseconds
from oncelog.broker.lane import Timer
from oncelog.broker.peer import Peer
from oncelog.engine.decision import Visible
from oncelog.engine.reading import aborted_between, check_leader_epoch, check_offset, first_aborted, offset_end
from oncelog.engine.state import Log
from oncelog.model.batch import offset_after
from oncelog.model.errors import DamagedRecords, ErrorCode, Refusal
from oncelog.model.ids import LogId
from oncelog.model.limits import FETCH_BYTES_MAX, FETCH_PARTITIONS_MAX, FETCHES_WAITING_MAX
from oncelog.wire.hot import FetchedPartition, fetch_reply, fetch_reply_in_steps

if TYPE_CHECKING:
    from oncelog.broker.broker import Broker

#: Topics are named by id from this version on (KIP-516).
_ID_VERSION = 13
#: Longest time that a fetch waits, whatever the client asks for, for its client may be gone long since; ms.
_WAIT_MS_MAX = 60_000
_READ_COMMITTED = 1
#: Partitions that are looked up, or read, in one step.
_PARTITIONS_A_STEP: Final = 1_000

Key = tuple[str | UUID, int]
#: High watermark, last stable offset, start.
Shown: TypeAlias = tuple[int, int, int]


class Bounds(NamedTuple):
    """What readers may see of a partition, and where those of one isolation end."""

    shown: Shown
    end: int


_NOTHING_SEEN: Final = Bounds((-1, -1, -1), -1)


class Wanted:
    """One partition of a fetch: from where, and how much. ``shown`` is what the session's client knows already."""

    __slots__ = ("bytes_max", "key", "leader_epoch", "log", "offset", "shown")

    def __init__(self, key: Key, log: Log | ErrorCode, offset: int, bytes_max: int, leader_epoch: int) -> None:
        self.key, self.log = key, log
        self.offset, self.bytes_max, self.leader_epoch = offset, bytes_max, leader_epoch
        self.shown: Shown | None = None

    def bounds(self, *, is_committed: bool) -> Bounds:
        """What may be seen now."""
        log = self.log
        if isinstance(log, Log):
            shown = log.high_watermark, log.stable_offset, log.offset_start_visible
            return Bounds(shown, offset_end(log, is_committed=is_committed))
        return _NOTHING_SEEN


class Session:
    """A consumer's partitions, in the order in which they are read; those that gave data go to the end.

    Its topics have ids or names, as in the request that began it, for as long as it lives.
    """

    __slots__ = ("catalog_version", "epoch", "has_ids", "id", "wanted")

    def __init__(self, session_id: int, wanted: dict[Key, Wanted], *, has_ids: bool, catalog_version: int) -> None:
        self.id, self.wanted, self.epoch, self.has_ids = session_id, wanted, 1, has_ids
        #: As of when the partitions were looked up.
        self.catalog_version = catalog_version


Read: TypeAlias = list[tuple[Wanted, FetchedPartition]]


class Waiting:
    """A fetch under way.

    One that goes in steps may be told meanwhile that there is more to see, and that its time is over.
    """

    __slots__ = (
        "bytes_max", "bytes_min", "call", "is_committed", "is_due", "is_incremental", "is_reading", "is_stale", "session",
        "timer", "wanted",
    )  # fmt: skip

    def __init__(self, call: Call, wanted: list[Wanted], session: Session | None, *, is_incremental: bool) -> None:
        request = call.request
        self.call, self.wanted, self.session, self.is_incremental = call, wanted, session, is_incremental
        # One byte at least: whoever asks for none gets one batch all the same (rule R4).
        self.bytes_max = max(1, min(getattr(request, "max_bytes", FETCH_BYTES_MAX), FETCH_BYTES_MAX))
        self.bytes_min = min(request.min_bytes, self.bytes_max)
        self.is_committed = getattr(request, "isolation_level", 0) == _READ_COMMITTED
        self.timer: Timer | None = None
        self.is_reading = self.is_stale = self.is_due = False

    @property
    def is_long(self) -> bool:
        """Whether it takes more than one step to read."""
        return len(self.wanted) >= _PARTITIONS_A_STEP


class Fetching:
    """All fetches of a broker that wait, and all sessions."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[LogId, dict[Waiting, None]] = {}
        self._waiting_by_peer: dict[Peer, dict[Waiting, None]] = {}
        self._waiting_count = self._waiting_partitions = 0
        self._sessions: OrderedDict[int, Session] = OrderedDict()

    def fetch(self, call: Call) -> None:
        """Answer a Fetch now, or when there is enough, or when its time is over."""
        self._broker.in_steps(call, self._fetch(call))

    def _fetch(self, call: Call) -> Iterator[None]:
        try:
            fetch = yield from self._opened(call)
        except Refusal as no:
            code = self._broker.refused(call, no)
            call.reply(fetch_reply(call.version, code, 0, []))
            return
        wait_ms = min(milliseconds(call.request.max_wait), _WAIT_MS_MAX)
        is_full = (
            self._waiting_count >= FETCHES_WAITING_MAX
            or self._waiting_partitions + len(fetch.wanted) > FETCH_PARTITIONS_MAX
        )
        if wait_ms <= 0 or is_full:
            read, _ = yield from self._reading(fetch)
            yield from self._replying(fetch, read)
        elif fetch.is_long:
            # It must not miss what becomes visible between two steps.
            self._wait(fetch, wait_ms)
            yield from self._look(fetch)
        else:
            read, is_enough = yield from self._reading(fetch)
            if is_enough:
                yield from self._replying(fetch, read)
            else:
                self._wait(fetch, wait_ms)

    def _wait(self, fetch: Waiting, wait_ms: int) -> None:
        for wanted in fetch.wanted:
            if isinstance(wanted.log, Log):
                self._waiting.setdefault(wanted.log.id, {})[fetch] = None
        self._waiting_by_peer.setdefault(fetch.call.peer, {})[fetch] = None
        self._waiting_count += 1
        self._waiting_partitions += len(fetch.wanted)
        fetch.timer = self._broker.loop.call_later(wait_ms / 1000, lambda: self._finish(fetch))

    def _look(self, fetch: Waiting) -> Iterator[None]:
        """In steps, for a fetch that waits: answer if there is enough, or if its time is over meanwhile."""
        fetch.is_reading = fetch.is_stale = True
        while fetch.is_stale:
            fetch.is_stale = False
            read, is_enough = yield from self._reading(fetch)
            if is_enough or fetch.is_due:
                self._forget(fetch)
                yield from self._replying(fetch, read)
                return
        fetch.is_reading = False

    def wake(self, visible: Iterable[Visible]) -> None:
        """Readers see more of some logs: answer the fetches that have enough now."""
        woken: dict[Waiting, None] = {}
        for shown in visible:
            fetches = self._waiting.get(shown.log.id)
            if fetches:
                woken.update(fetches)
        for fetch in woken:
            if fetch.is_reading:
                fetch.is_stale = True
            else:
                self._broker.in_steps(fetch.call, self._look(fetch))

    def make_way(self, peer: Peer) -> None:
        """Something else than a fetch has come by this connection: answer the fetches that it would wait behind."""
        for fetch in list(self._waiting_by_peer.get(peer, ())):
            self._finish(fetch)

    def close(self) -> None:
        """Answer all that wait with what there is."""
        for fetches in list(self._waiting.values()):
            for fetch in list(fetches):
                self._finish(fetch)

    @property
    def waiting_count(self) -> int:
        """Fetches that wait for data now."""
        return self._waiting_count

    def _finish(self, fetch: Waiting) -> None:
        fetch.is_due = True
        if not fetch.is_reading:
            self._broker.in_steps(fetch.call, self._look(fetch))

    def _forget(self, fetch: Waiting) -> None:
        if fetch.timer is not None:
            fetch.timer.cancel()
        for wanted in fetch.wanted:
            if isinstance(wanted.log, Log):
                fetches = self._waiting.get(wanted.log.id)
                if fetches is not None:
                    fetches.pop(fetch, None)
                    if not fetches:
                        del self._waiting[wanted.log.id]
        of_peer = self._waiting_by_peer[fetch.call.peer]
        del of_peer[fetch]
        if not of_peer:
            del self._waiting_by_peer[fetch.call.peer]
        self._waiting_count -= 1
        self._waiting_partitions -= len(fetch.wanted)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _reading(self, fetch: Waiting) -> Generator[None, None, tuple[Read, bool]]:
        """Every partition as it was when the reading began, and whether that is enough to answer."""
        bytes_left = min(fetch.bytes_max, self._broker.state.settings.fetch_bytes_max)
        bytes_read = 0
        is_any_error = False
        partitions: Read = []
        noted = [
            (wanted, wanted.bounds(is_committed=fetch.is_committed))
            for wanted in fetch.wanted
            if not (fetch.is_incremental and self._is_told(wanted, fetch.is_committed))
        ]
        for number, (wanted, bounds) in enumerate(noted, 1):
            if number % _PARTITIONS_A_STEP == 0:
                yield
            part = self._read_partition(wanted, bounds, fetch.is_committed, bytes_left)
            if part.error:
                is_any_error = True
            elif part.records:
                size = sum(map(len, part.records))
                bytes_read += size
                bytes_left = max(0, bytes_left - size)
            partitions.append((wanted, part))
        is_enough = is_any_error or bytes_read >= fetch.bytes_min or not fetch.wanted
        return partitions, is_enough

    def _is_told(self, wanted: Wanted, is_committed: bool) -> bool:
        """Whether the session's client knows all that there is to say: most partitions of a large session, most times."""
        log = wanted.log
        if wanted.shown is None or not isinstance(log, Log) or wanted.leader_epoch > 0:
            return False
        return (
            wanted.offset == (log.stable_offset if is_committed else log.high_watermark)
            and wanted.shown == (log.high_watermark, log.stable_offset, log.offset_start_visible)
            and log.id in self._broker.state.logs
        )

    def _read_partition(self, wanted: Wanted, bounds: Bounds, is_committed: bool, bytes_left: int) -> FetchedPartition:
        log, index = wanted.log, wanted.key[1]
        try:
            if isinstance(log, ErrorCode):
                raise Refusal(log)
            if log.id not in self._broker.state.logs:
                raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "the topic was deleted")
            check_leader_epoch(wanted.leader_epoch)
            check_offset(log, wanted.offset)
        except Refusal as no:
            return FetchedPartition(index, no.code, -1, -1, -1, None, ())
        end = bounds.end
        pieces: list[bytes | memoryview] = []
        if wanted.offset < end and bytes_left > 0:
            try:
                pieces = self._read_sound(log, wanted.offset, end, min(wanted.bytes_max, bytes_left))
            except DamagedRecords as no:
                self._broker.tell_damage(log.id, no)
                return FetchedPartition(index, no.code, -1, -1, -1, None, ())
        aborted = _aborted(log, wanted.offset, pieces) if is_committed else None
        return FetchedPartition(index, 0, *bounds.shown, aborted, pieces)

    def _read_sound(self, log: Log, offset: int, end: int, bytes_max: int) -> list[bytes | memoryview]:
        """If some of it is damaged, the first batch alone: readers get all that is sound before, and the place is known."""
        try:
            return self._broker.storage.read(log.id, offset, offset_end=end, bytes_max=bytes_max)
        except DamagedRecords:
            return self._broker.storage.read(log.id, offset, offset_end=end, bytes_max=1)

    def _replying(self, fetch: Waiting, partitions: Read) -> Iterator[None]:
        session = fetch.session
        topics: dict[str | UUID, list[FetchedPartition]] = {}
        for number, (wanted, part) in enumerate(partitions, 1):
            if number % _PARTITIONS_A_STEP == 0:
                yield
            if session is not None:
                shown = (part.high_watermark, part.last_stable_offset, part.log_start_offset)
                is_news = bool(part.error or part.records) or shown != wanted.shown
                wanted.shown = None if part.error else shown
                if part.records and session.wanted.get(wanted.key) is wanted:
                    del session.wanted[wanted.key]
                    session.wanted[wanted.key] = wanted
                if fetch.is_incremental and not is_news:
                    continue
            topics.setdefault(wanted.key[0], []).append(part)
        session_id = session.id if session is not None else 0
        body = yield from fetch_reply_in_steps(fetch.call.version, 0, session_id, list(topics.items()))
        fetch.call.reply(body)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _opened(self, call: Call) -> Generator[None, None, Waiting]:
        """The fetch that the request asks for, with its session (KIP-227). Raises Refusal for a wrong session."""
        request = call.request
        session_id = getattr(request, "session_id", 0)
        epoch = getattr(request, "session_epoch", -1)
        if epoch == -1 or epoch == 0:
            self._sessions.pop(session_id, None)
            wanted = yield from self._named(call)
            session = self._new_session(wanted, has_ids=call.version >= _ID_VERSION) if epoch == 0 else None
            return Waiting(call, list(wanted.values()), session, is_incremental=False)
        session = self._sessions.get(session_id)
        if session is None:
            raise Refusal(ErrorCode.FETCH_SESSION_ID_NOT_FOUND, f"no fetch session {session_id}")
        if epoch != session.epoch:
            raise Refusal(ErrorCode.INVALID_FETCH_SESSION_EPOCH, f"fetch session at {session.epoch}, not {epoch}")
        if session.has_ids != (call.version >= _ID_VERSION):
            raise Refusal(
                ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, "topics by name in a session of ids, or by id in one of names"
            )
        session.epoch = 1 if epoch == 2**31 - 1 else epoch + 1
        self._sessions.move_to_end(session_id)
        self._look_up_again(session)
        for key, wanted_now in (yield from self._named(call)).items():
            before = session.wanted.get(key)
            if before is not None:
                wanted_now.shown = before.shown
            session.wanted[key] = wanted_now
        for topic in getattr(request, "forgotten_topics_data", ()):
            name = topic.topic_id if call.version >= _ID_VERSION else topic.topic
            for index in topic.partitions:
                session.wanted.pop((name, index), None)
        self._bound_sessions()
        return Waiting(call, list(session.wanted.values()), session, is_incremental=True)

    def _new_session(self, wanted: dict[Key, Wanted], *, has_ids: bool) -> Session:
        """Its id is a random one: a consumer that comes back after a restart must not meet the session of another."""
        session_id = 0
        while session_id == 0 or session_id in self._sessions:
            session_id = self._broker.new_id().int % 2**31
        session = Session(session_id, dict(wanted), has_ids=has_ids, catalog_version=self._broker.state.catalog_version)
        self._sessions[session.id] = session
        if len(self._sessions) > self._broker.state.settings.fetch_sessions_max:
            self._sessions.popitem(last=False)
        self._bound_sessions()
        return session

    def _bound_sessions(self) -> None:
        """The least recently used go if all together name too much; who comes back to one begins anew."""
        total = sum(len(session.wanted) for session in self._sessions.values())
        while total > FETCH_PARTITIONS_MAX:
            total -= len(self._sessions.popitem(last=False)[1].wanted)

    def _look_up_again(self, session: Session) -> None:
        """What was not there when it was named may have come since, or come again under its name: nobody names it twice."""
        state = self._broker.state
        if session.catalog_version == state.catalog_version:
            return
        session.catalog_version = state.catalog_version
        for key, wanted in session.wanted.items():
            before = wanted.log
            if isinstance(before, Log) and before.id in state.logs:
                continue
            name = state.topic_names.get(key[0], "") if isinstance(key[0], UUID) else key[0]
            log = state.log_of(name, key[1])
            if log is not None:
                # A new object: an older fetch may still wait with the one of before.
                session.wanted[key] = Wanted(key, log, wanted.offset, wanted.bytes_max, wanted.leader_epoch)

    def _named(self, call: Call) -> Generator[None, None, dict[Key, Wanted]]:
        """The partitions that the request itself names."""
        state = self._broker.state
        wanted: dict[Key, Wanted] = {}
        count = 0
        for topic in call.request.topics:
            unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            key: str | UUID
            if call.version >= _ID_VERSION:
                key = topic.topic_id or UUID(int=0)
                name = state.topic_names.get(key, "")
                if not name:
                    unknown = ErrorCode.UNKNOWN_TOPIC_ID
            else:
                key = name = topic.topic
            for part in topic.partitions:
                count += 1
                if count % _PARTITIONS_A_STEP == 0:
                    yield
                log: Any = state.log_of(name, part.partition) or unknown
                wanted[key, part.partition] = Wanted(
                    (key, part.partition),
                    log,
                    part.fetch_offset,
                    part.partition_max_bytes,
                    getattr(part, "current_leader_epoch", -1),
                )
        return wanted


def _aborted(log: Log, offset: int, pieces: list[bytes | memoryview]) -> list[tuple[int, int]]:
    if not pieces or first_aborted(log, offset) == len(log.aborted):
        return []
    return list(aborted_between(log, offset, offset_after(pieces[-1])))
