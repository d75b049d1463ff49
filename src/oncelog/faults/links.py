"""One client's connection through the proxy, and the traps that wait on it for single requests.

A link pumps whole frames in both directions, each behind the one before it: what follows a held request on its connection
waits too, as on a slow network. At most one frame a direction is in memory here, plus what the sockets buffer. All of this
runs on the proxy's event loop, except the methods of Trap that say otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from oncelog.faults.frames import (
    PRODUCE,
    Address,
    Head,
    Unreadable,
    addresses_in,
    api_name,
    decode_reply,
    decode_request,
    encode_reply,
    error_codes,
    is_known,
    may_carry_addresses,
    moved,
    read_head,
    refusal,
)

FRAME_BYTES_MAX: Final = 256 * 1024 * 1024
#: API key, version, correlation id: what is shorter is no request.
_HEAD_BYTES: Final = 8
#: Requests of one connection that have no answer yet. Produce with acks=0 never gets one: the oldest are forgotten.
UNANSWERED_MAX: Final = 4096
WAIT_SECONDS: Final = 20.0

_WHY_READ: Final = (
    "It may name brokers, and a client that got their own addresses would leave the proxy. "
    "Update kio, or use a client whose requests are older."
)

#: The producers' own requests, whose errors the proxy notes.
_OF_PRODUCERS: Final = frozenset((PRODUCE, 22, 24, 25, 26, 28))


class ProxyError(Exception):
    """What was waited for did not come, or the proxy itself has failed."""


class Action(Enum):
    """What a trap does to the request that springs it."""

    HOLD = "keep it until release()"
    CUT = "cut the connection; the broker does not see it"
    LOSE_REPLY = "let the broker answer, then cut the connection instead of answering"
    DROP_REPLY = "swallow the answer; the connection stays"
    DELAY = "pass it on some seconds later"
    REFUSE = "answer with an error in the broker's place; the broker does not see it"
    DOUBLE = "send it a second time, by a second connection that is as old as the client's"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that passed. ``link`` numbers the client's connection; ``body`` is the frame without its length."""

    link: int
    head: Head
    body: bytes

    @property
    def api(self) -> str:
        """``end_txn``."""
        return api_name(self.head.api_key)

    @property
    def api_key(self) -> int:
        """26."""
        return self.head.api_key

    @property
    def version(self) -> int:
        """Of the API."""
        return self.head.version

    @property
    def entity(self) -> Any:
        """Kio's entity of it. Unreadable if it does not know this version."""
        return decode_request(self.body)


class Trap:
    """One request that is waited for, and what became of it. All but ``accepts`` and ``spring`` is for any thread."""

    def __init__(
        self,
        call: Callable[[Callable[[], None]], None],
        api_key: int,
        action: Action,
        *,
        where: Callable[[Any], bool] | None = None,
        skip: int = 0,
        seconds: float = 0.0,
        error_code: int = 0,
    ) -> None:
        self.api_key, self.action, self.seconds, self.error_code = api_key, action, seconds, error_code
        self.released = asyncio.Event()
        self._call, self._where, self._skip = call, where, skip
        self._link: Link | None = None
        self._request: Request | None = None
        self._reply: bytes | None = None
        self._caught, self._answered = threading.Event(), threading.Event()

    def accepts(self, request: Request) -> bool:
        """Whether this is the request; counts down what is to be let through before it.

        One that can't be read is no request for a trap that has to look into it, or to answer it.
        """
        if request.api_key != self.api_key:
            return False
        try:
            if self._where is not None and not self._where(request.entity):
                return False
            if self.action is Action.REFUSE:
                refusal(request.body, self.error_code)
        except Unreadable:
            return False
        self._skip -= 1
        return self._skip < 0

    def spring(self, link: Link, request: Request) -> None:
        """It has come."""
        self._link, self._request = link, request
        self._caught.set()

    def answer(self, body: bytes | None) -> None:
        """The broker's answer, or None: its connection has ended without one."""
        if not self._answered.is_set():
            self._reply = body
            self._answered.set()

    @property
    def is_sprung(self) -> bool:
        """Whether the request has come."""
        return self._caught.is_set()

    def wait(self, timeout_seconds: float = WAIT_SECONDS) -> Request:
        """Until the request has come. ProxyError if it doesn't in time."""
        if not self._caught.wait(timeout_seconds):
            raise ProxyError(f"no {api_name(self.api_key)} request came in {timeout_seconds:g} s")
        assert self._request is not None
        return self._request

    def cut(self) -> None:
        """Cut the client's side of the connection by which the request came; the broker's side stays open."""
        link = self._link
        assert link is not None, "nothing was caught yet"
        self._call(link.cut_client)

    def release(self) -> None:
        """Pass the held request on, by the connection that it was sent on."""
        self._call(self.released.set)

    def reply(self, timeout_seconds: float = WAIT_SECONDS) -> Any:
        """The broker's answer, as kio's entity; None if it closed the connection instead. ProxyError if none can be had."""
        if not self._answered.wait(timeout_seconds):
            raise ProxyError(f"the broker has not answered {api_name(self.api_key)} in {timeout_seconds:g} s")
        request = self._request
        assert request is not None
        try:
            return None if self._reply is None else decode_reply(request.api_key, request.version, self._reply)
        except Unreadable as unreadable:
            raise ProxyError(str(unreadable)) from unreadable


class Crossing(Protocol):
    """What a link asks of the proxy that it belongs to."""

    def passed(self, request: Request) -> Trap | None:
        """Notes a request; the trap that it springs."""

    def note_error(self, api: str, code: int) -> None:
        """An error that a producer was answered with."""

    def note_unread(self, head: Head) -> None:
        """A reply that was passed on without a look into it."""

    async def moves(self, addresses: set[Address]) -> dict[Address, Address]:
        """Where clients shall find these brokers."""


class Cut(Exception):
    """The connection is to be cut now."""


@dataclass(frozen=True, slots=True)
class Side:
    """One TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def frame(self) -> bytes:
        """The next message with its length before it."""
        prefix = await self.reader.readexactly(4)
        (length,) = struct.unpack(">i", prefix)
        if not 4 <= length <= FRAME_BYTES_MAX:
            raise Cut
        return prefix + await self.reader.readexactly(length)

    async def send(self, frame: bytes) -> None:
        """Waits while the other side reads too slowly."""
        self.writer.write(frame)
        await self.writer.drain()

    def cut(self) -> None:
        """At once, whatever is still to be written."""
        self.writer.transport.abort()


class Link:
    """One client's connection and ours to the broker; ``shadow`` is a second one to the broker, for copies."""

    def __init__(self, crossing: Crossing, number: int, client: Side, broker: Side, shadow: Side | None) -> None:
        self._crossing, self._number = crossing, number
        self._client, self._broker, self._shadow = client, broker, shadow
        self._unanswered: dict[int, tuple[Request, Trap | None]] = {}
        self._is_client_gone = False

    async def run(self) -> None:
        """Until either side ends. A cut client's side does not end it while a request is held, or a held one unanswered."""
        requests = asyncio.create_task(self._pump_requests())
        replies = asyncio.create_task(self._pump_replies())
        copies = asyncio.create_task(self._discard_copies())
        pumps = (requests, replies, copies)
        try:
            await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
            self._is_client_gone = requests.done()
            if self._is_client_gone and self._owes_an_answer():
                await asyncio.wait((replies,))
        finally:
            for task in pumps:
                task.cancel()
            ended = await asyncio.gather(*pumps, return_exceptions=True)
            for _, trap in self._unanswered.values():
                if trap is not None:
                    trap.answer(None)
            self._end(is_cut=any(isinstance(failure, Cut) for failure in ended))
        for failure in ended:
            if isinstance(failure, Exception) and not isinstance(failure, OSError | EOFError | Cut):
                raise failure

    def cut_client(self) -> None:
        """The client loses its connection; ours to the broker stays while it owes an answer."""
        self._client.cut()

    def cut(self) -> None:
        """Both sides, at once."""
        for side in self._sides():
            side.cut()

    def _sides(self) -> list[Side]:
        return [side for side in (self._client, self._broker, self._shadow) if side is not None]

    def _end(self, *, is_cut: bool) -> None:
        """As a client that is done: what was written still arrives. Or cut."""
        for side in self._sides():
            if is_cut:
                side.cut()
            else:
                side.writer.close()

    def _owes_an_answer(self) -> bool:
        return any(trap is not None for _, trap in self._unanswered.values())

    async def _pump_requests(self) -> None:
        while True:
            frame = await self._client.frame()
            if len(frame) < 4 + _HEAD_BYTES:
                raise Cut
            request = Request(self._number, read_head(frame[4:]), frame[4:])
            trap = self._crossing.passed(request)
            if trap is not None:
                trap.spring(self, request)
                if not await self._act(trap, request, frame):
                    continue
            self._expect(request, trap)
            await self._broker.send(frame)

    async def _act(self, trap: Trap, request: Request, frame: bytes) -> bool:
        """What the trap does before the broker sees the request; whether it shall see it."""
        if trap.action is Action.CUT:
            trap.answer(None)
            raise Cut
        if trap.action is Action.REFUSE:
            trap.answer(None)
            await self._client.send(refusal(request.body, trap.error_code))
            return False
        if trap.action is Action.DELAY:
            await asyncio.sleep(trap.seconds)
        elif trap.action is Action.HOLD:
            await self._held(trap)
        elif trap.action is Action.DOUBLE and self._shadow is not None:
            await self._shadow.send(frame)
        return True

    async def _held(self, trap: Trap) -> None:
        """Until it is released. A trap with a time of its own is released by it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(trap.released.wait(), trap.seconds or None)

    def _expect(self, request: Request, trap: Trap | None) -> None:
        if len(self._unanswered) >= UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[request.head.correlation_id] = (request, trap)

    def _answered(self, correlation_id: int) -> tuple[Request | None, Trap | None]:
        """Replies come in the order of the requests: those before it will have none (acks=0)."""
        if correlation_id not in self._unanswered:
            return None, None
        while (first := next(iter(self._unanswered))) != correlation_id:
            _, trap = self._unanswered.pop(first)
            if trap is not None:
                trap.answer(None)
        return self._unanswered.pop(correlation_id)

    async def _pump_replies(self) -> None:
        while True:
            frame = await self._broker.frame()
            (correlation_id,) = struct.unpack_from(">i", frame, 4)
            request, trap = self._answered(correlation_id)
            if trap is not None:
                trap.answer(frame[4:])
                if trap.action is Action.LOSE_REPLY:
                    raise Cut
                if trap.action is Action.DROP_REPLY:
                    continue
            if request is not None:
                frame = await self._seen(request, frame)
            with contextlib.suppress(OSError):  # a cut client's answers are read and thrown away
                await self._client.send(frame)
            if self._is_client_gone and not self._owes_an_answer():
                return

    async def _seen(self, request: Request, frame: bytes) -> bytes:
        """The reply as the client gets it: with our addresses."""
        is_of_producer = request.api_key in _OF_PRODUCERS
        if not (is_of_producer or may_carry_addresses(request.head)):
            return frame
        try:
            entity = decode_reply(request.api_key, request.version, frame[4:])
        except Unreadable as unreadable:
            if may_carry_addresses(request.head):
                raise ProxyError(f"{unreadable}. {_WHY_READ}") from unreadable
            if is_known(request.api_key, request.version):  # else it was counted when it came
                self._crossing.note_unread(request.head)
            return frame
        if is_of_producer:
            for code in filter(None, error_codes(entity)):
                self._crossing.note_error(request.api, code)
        addresses = addresses_in(entity)
        if not addresses:
            return frame
        return encode_reply(request.head.correlation_id, moved(entity, await self._crossing.moves(addresses)))

    async def _discard_copies(self) -> None:
        """Answers to copies are read and thrown away."""
        if self._shadow is not None:
            with contextlib.suppress(OSError, EOFError, Cut):
                while True:
                    await self._shadow.frame()
