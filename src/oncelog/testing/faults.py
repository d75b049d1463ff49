"""Faults between a test's clients and its broker: a request is lost, its reply is lost, it is held back or refused.

    with kafka.faults(lose_reply="EndTxn", times=2):
        application()

The broker runs in the test's process, so a fault sits where requests reach it: every client is met, in whatever language, and
nothing is left to chance. A connection's requests stay in their order: while one is held, those after it wait.
A fault that did not happen as often as it was asked for is an error of the test, told when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

from oncelog.broker.apis import HANDLERS
from oncelog.broker.call import Call
from oncelog.broker.peer import Peer
from oncelog.model.errors import ErrorCode
from oncelog.testing.processes import NoSuchProcess, process_of
from oncelog.testing.refusals import refusal_of

Route = Callable[[Call], None]

API_KEYS: Final = {handler.name: key for key, handler in HANDLERS.items()}


class Action(Enum):
    """What happens to a request that is met."""

    CUT = "the connection is closed before the request reaches the broker"
    LOSE_REPLY = "the request is done, and the connection is closed instead of the reply"
    DELAY = "the request waits, then goes on"
    HOLD = "the request waits until it is released"
    REFUSE = "the request is answered with an error, and nothing is done"
    KILL_CLIENT_BEFORE = "the client's process is killed (-9), the request is lost"
    KILL_CLIENT_AFTER = "the request is done, the client's process is killed (-9) before it learns of it"
    KILL_BROKER_BEFORE = "the broker dies and starts again, the request is lost"
    KILL_BROKER_AFTER = "the request is done, the broker dies before it says so, and starts again"


_KILLS_CLIENT: Final = (Action.KILL_CLIENT_BEFORE, Action.KILL_CLIENT_AFTER)
_LOSES_REQUEST: Final = (Action.CUT, Action.KILL_CLIENT_BEFORE, Action.KILL_BROKER_BEFORE)


class FaultDidNotHappen(AssertionError):
    """The requests that a fault waited for did not come: the test did not test what it says."""


class Fault:
    """One kind of fault while a ``with`` block runs. Made by ``kafka.faults``."""

    def __init__(
        self,
        owner: Faults,
        action: Action,
        api: str,
        *,
        times: int,
        after: int,
        seconds: float,
        error: ErrorCode | None,
    ) -> None:
        self.action, self.api, self.times, self.seconds, self.error = action, api, times, seconds, error
        #: Requests of the API that are let through first.
        self.after = after
        #: How often it has happened.
        self.hits = 0
        self._owner = owner
        self._happened = threading.Condition()

    def wait(self, seconds: float = 20.0, *, hits: int = 1) -> None:
        """Wait until it has happened ``hits`` times. Raises FaultDidNotHappen after ``seconds``."""
        with self._happened:
            if not self._happened.wait_for(lambda: self.hits >= hits, seconds):
                raise FaultDidNotHappen(f"{self} within {seconds} s")

    def release(self) -> None:
        """Let go of what is held."""
        self._owner.release(self)

    def happened(self) -> None:
        """Count one; called on the broker's loop."""
        with self._happened:
            self.hits += 1
            self._happened.notify_all()

    def __str__(self) -> str:
        return f"{self.action.name.lower()} of {self.api} happened {self.hits} times of {self.times}"

    def __enter__(self) -> Self:
        self._owner.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner.end(self)
        if error is None and self.hits < self.times:
            raise FaultDidNotHappen(f"{self}: fewer such requests came. Ask for fewer times, or look at the client.")


class Faults:
    """All faults of one broker, which is asked for its port.

    ``post`` runs a function on the broker's loop; ``restart`` kills and starts the broker.
    """

    def __init__(
        self, port: Callable[[], int], post: Callable[[Callable[[], None]], None], restart: Callable[[], None]
    ) -> None:
        self._port, self._post, self._restart = port, post, restart
        self._active: list[Fault] = []
        #: Requests that wait, by connection, in their order; the first of each is the one that is held.
        self._waiting: dict[int, deque[tuple[Call, Route]]] = {}
        self._held: dict[int, Fault] = {}
        #: Processes that were killed, or will be when the reply that they wait for is ready.
        self._condemned: set[int] = set()
        #: Connections that a fault has ended: what was read of them after its request is lost too, as TCP would have it.
        self._cut: set[int] = set()

    def new(self, named: dict[str, str | None], **given: Any) -> Fault:
        """The fault that the arguments of ``kafka.faults`` describe. Raises ValueError with what would be right."""
        chosen = [(name, api) for name, api in named.items() if api is not None]
        if len(chosen) != 1:
            raise ValueError(f"name one fault, such as lose_reply='EndTxn'; known: {', '.join(named)}")
        name, api = chosen[0]
        if api not in API_KEYS:
            raise ValueError(f"no API {api!r}; the broker serves {', '.join(sorted(API_KEYS))}")
        error = given.pop("error")
        if (name == "refuse") != (error is not None):
            raise ValueError("refuse needs error=, such as refuse='EndTxn', error='COORDINATOR_NOT_AVAILABLE'")
        if error is not None and error not in ErrorCode.__members__:
            raise ValueError(
                f"no error {error!r}; Kafka's names, such as {', '.join(list(ErrorCode.__members__)[5:9])}"
            )
        return Fault(self, Action[name.upper()], api, error=ErrorCode[error] if error else None, **given)

    def begin(self, fault: Fault) -> None:
        """From now on it happens."""
        self._active.append(fault)

    def end(self, fault: Fault) -> None:
        """It happens no more; what is held goes on."""
        self._active.remove(fault)
        self.release(fault)

    def release(self, fault: Fault) -> None:
        """Let go of what this fault holds."""
        self._post(lambda: self._let_go(fault))

    # -- on the broker's loop -----------------------------------------------------------------------------------------

    def through(self, route: Route) -> Route:
        """The broker's way of a request, with faults on it. A broker that starts again counts its connections anew."""
        self._cut.clear()
        return lambda call: self._met(call, route)

    def _met(self, call: Call, route: Route) -> None:
        if call.peer.number in self._cut:
            return
        queue = self._waiting.get(call.peer.number)
        if queue is not None:
            queue.append((call, route))
            return
        due = self._due(call)
        if due is None:
            route(call)
            return
        fault, victim = due
        if victim is not None:
            self._condemned.add(victim)
        fault.happened()
        self._act(fault, call, route, victim)

    def _due(self, call: Call) -> tuple[Fault, int | None] | None:
        """The fault that it meets, and the process to kill: looked up once, for it may end at any moment."""
        for fault in self._active:
            if API_KEYS[fault.api] == call.api_key and fault.hits < fault.times:
                victim = self._victim(call.peer) if fault.action in _KILLS_CLIENT else None
                if fault.action in _KILLS_CLIENT and victim is None:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                return fault, victim
        return None

    def _victim(self, peer: Peer) -> int | None:
        """The process to kill; None if it dies already: its requests that were on their way are not another one's."""
        try:
            process = process_of(peer.address, self._port())
        except NoSuchProcess:
            if sys.platform != "linux":
                raise
            return None
        if process == os.getpid():
            raise AssertionError(
                "the client to be killed is in the test's own process; run it in another one, as kafka.run does"
            )
        return None if process in self._condemned else process

    def _act(self, fault: Fault, call: Call, route: Route, victim: int | None) -> None:
        action = fault.action
        if action in _LOSES_REQUEST:
            self._cut.add(call.peer.number)
        if action is Action.CUT:
            call.peer.close(f"fault: {fault.api} was cut")
        elif action is Action.REFUSE:
            assert fault.error is not None
            call.reply(call.encode(refusal_of(call, fault.error)))
        elif action in (Action.HOLD, Action.DELAY):
            self._waiting[call.peer.number] = deque([(call, route)])
            self._held[call.peer.number] = fault
            if action is Action.DELAY:
                timer = threading.Timer(fault.seconds, self.release, (fault,))
                timer.daemon = True
                timer.start()
        elif action is Action.KILL_CLIENT_BEFORE:
            _kill(victim)
            call.peer.close(f"fault: the client was killed at {fault.api}")
        elif action is Action.KILL_BROKER_BEFORE:
            call.peer.close(f"fault: the broker was killed at {fault.api}")
            self._restart()
        else:
            call.peer = _Ended(call.peer, fault, self._restart, victim)
            route(call)

    def _let_go(self, fault: Fault) -> None:
        for number in [number for number, held in self._held.items() if held is fault]:
            del self._held[number]
            first, *rest = self._waiting.pop(number)
            first[1](first[0])
            for call, route in rest:
                self._met(call, route)


class _Ended(Peer):
    """A connection that ends when the request's reply is ready, instead of sending it."""

    def __init__(self, peer: Peer, fault: Fault, restart: Callable[[], None], victim: int | None) -> None:
        self._peer, self._fault, self._restart, self._victim = peer, fault, restart, victim
        self.number, self.address = peer.number, peer.address

    def answered(self, call: Call) -> None:
        """The reply is ready; it is not sent."""
        del call
        _kill(self._victim)
        self._peer.close(f"fault: the reply of {self._fault.api} was lost")
        if self._fault.action is Action.KILL_BROKER_AFTER:
            self._restart()

    def is_gone(self) -> bool:
        """As the connection itself."""
        return self._peer.is_gone()

    def close(self, why: str) -> None:
        """As the connection itself."""
        self._peer.close(why)

    def go_on(self) -> None:
        """As the connection itself."""
        self._peer.go_on()


def _kill(process: int | None) -> None:
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(process, signal.SIGKILL)
