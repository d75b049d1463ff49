"""A simulated client at the level of encoded requests: connections with time limits, and actors that say what they do in order.

An actor's ``run`` is a generator. It yields a number of microseconds to sleep, or a list of ``Ask`` to send at once, and gets
the list of replies, None for each that never came. Each role has a connection of its own, as real clients have (rule D4). When
one request of a connection has had no reply in time, the connection is closed and all others on it are lost too; the next
request opens a new one.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.simulation.events import MS_US, Event
from tests.simulation.frames import encode
from tests.support.messages import decode_response

if TYPE_CHECKING:
    from tests.simulation.ambushes import LateRequest, Replaced
    from tests.simulation.network import Pipe
    from tests.simulation.world import World

#: Which connection a request uses.
COORDINATOR, OFFSETS, LEADER, READER, ADMIN = "coordinator", "offsets", "leader", "reader", "admin"


class Ask(NamedTuple):
    """A request. Times in ms."""

    role: str
    api: str
    version: int
    tree: dict[str, Any]
    #: Whether a reply comes (not with acks=0).
    is_answered: bool = True


Steps = Generator[Any, Any, Any]


class _Waiting:
    """A request without its reply."""

    __slots__ = ("api", "correlation_id", "done", "version")

    def __init__(self, api: str, version: int, correlation_id: int, done: Callable[[Any], None]) -> None:
        self.api, self.version, self.correlation_id, self.done = api, version, correlation_id, done


class Link:
    """One connection's client end."""

    def __init__(self, actor: Actor, role: str) -> None:
        self.actor, self.role = actor, role
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self._bytes = b""
        self._is_open = False
        self.is_over = False
        #: Whether the client has closed it, and not the network or the broker.
        self.is_given_up = False
        self._correlation_id = 0
        self._timer: Event | None = None
        self.pipe: Pipe = actor.world.host.network.connect(self)

    def __str__(self) -> str:
        return f"{self.actor.name}/{self.role}"

    def post(self, ask: Ask, done: Callable[[Any], None]) -> None:
        """Send; ``done`` gets the reply, or None."""
        self._correlation_id += 1
        self.actor.world.requests += 1
        frame = encode(ask.api, ask.version, self._correlation_id, ask.tree)
        if ask.is_answered:
            self._waiting.append(_Waiting(ask.api, ask.version, self._correlation_id, done))
        if self._is_open:
            self.pipe.send(frame)
        else:
            self._unsent.append(frame)
        if not ask.is_answered:
            done(None)
        elif self._timer is None:
            self._watch()

    def _watch(self) -> None:
        self._timer = self.actor.world.events.at(self.actor.timeout_us, self._time_over, self._correlation_id)

    def _time_over(self, newest: int) -> None:
        self._timer = None
        if self.is_over or not self._waiting:
            return
        if self._waiting[0].correlation_id > newest:
            self._watch()
            return
        self.actor.note("had no reply to {} in time, closes {}", self._waiting[0].api, self.role)
        self.close()

    def close(self, *, is_silent: bool = False) -> None:
        """The client gives the connection up."""
        self.is_given_up = True
        self.pipe.close_by_client(is_silent=is_silent)
        self.closed()

    # -- what the network tells ---------------------------------------------------------------------------------------

    def opened(self) -> None:
        self._is_open = True
        unsent, self._unsent = self._unsent, []
        for frame in unsent:
            self.pipe.send(frame)

    def received(self, data: bytes) -> None:
        data = self._bytes + data if self._bytes else data
        at = 0
        while len(data) - at >= 4:
            (size,) = struct.unpack_from(">i", data, at)
            if len(data) - at - 4 < size:
                break
            self._reply(data[at + 4 : at + 4 + size])
            at += 4 + size
        self._bytes = data[at:]

    def _reply(self, body: bytes) -> None:
        if not self._waiting:
            return
        waiting = self._waiting.popleft()
        correlation_id, entity = decode_response(waiting.api, waiting.version, body)
        assert correlation_id == waiting.correlation_id, f"{self}: reply {correlation_id} out of order"
        waiting.done(entity)

    def closed(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            each.done(None)


class Actor:
    """Somebody who acts in the world. Subclasses have ``run``."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.events, self.random = world.events, world.events.random
        self.timeout_us = self.random.choice(world.timeouts_ms) * MS_US
        self.is_dead = self.is_done = False
        self.frozen_until_us = 0
        #: What waits for it to ask something (ambushes.py).
        self.late: LateRequest | Replaced | None = None
        self._links: dict[str, Link] = {}
        self._generator: Steps | None = None

    def note(self, what: str, *values: Any) -> None:
        self.events.note(self.name, what, *values)

    def run(self) -> Steps:
        """What it does."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start to act."""
        self._generator = self.run()
        self.events.at(self.events.about(5 * MS_US), self._resume, None)

    def kill(self, *, is_silent: bool = False) -> None:
        """It does nothing more; what it has sent is still under way."""
        self.is_dead = True
        self.note("is killed")
        for link in self._links.values():
            if not link.is_over:
                link.close(is_silent=is_silent)

    def cut_off(self) -> None:
        """All its connections break; it opens new ones when it needs them."""
        for link in self._links.values():
            if not link.is_over:
                link.close()

    def has_given_up(self, role: str) -> bool:
        """Whether it closed the newest connection of that role itself: whatever comes of that late is dropped (rule D4)."""
        link = self._links.get(role)
        return link is not None and link.is_given_up

    def freeze(self, time_us: int) -> None:
        """It stands still for a while."""
        self.note("stands still for {} ms", time_us // MS_US)
        self.frozen_until_us = self.events.now_us + time_us

    def _resume(self, value: Any) -> None:
        if self.is_dead:
            return
        wait_us = self.frozen_until_us - self.events.now_us
        if wait_us > 0:
            self.events.at(wait_us, self._resume, value)
            return
        assert self._generator is not None
        try:
            wanted = self._generator.send(value)
        except StopIteration:
            self.is_done = True
            self.note("is done")
            return
        if isinstance(wanted, int):
            self.events.at(wanted, self._resume, None)
        else:
            self._ask(wanted)

    def _ask(self, asked: Sequence[Ask]) -> None:
        replies: list[Any] = [None] * len(asked)
        missing = len(asked)

        def done(at: int, reply: Any) -> None:
            nonlocal missing
            replies[at] = reply
            missing -= 1
            if not missing:
                self.events.at(0, self._resume, replies)

        for at, ask in enumerate(asked):
            link = self._link(ask.role)
            if self.late is not None:
                self.late.asks(ask, link)
            link.post(ask, lambda reply, at=at: done(at, reply))

    def _link(self, role: str) -> Link:
        link = self._links.get(role)
        if link is None or link.is_over:
            link = self._links[role] = Link(self, role)
        return link

    # -- for subclasses -----------------------------------------------------------------------------------------------

    def call(self, role: str, api: str, version: int, /, **tree: Any) -> Steps:
        """One request; its reply, or None."""
        replies = yield [Ask(role, api, version, tree)]
        return replies[0]

    def rest(self, mean_us: int) -> Steps:
        """Sleep about so long."""
        yield self.events.about(mean_us)
