"""The stage of a story: a whole broker without sockets or threads, its clock, and connections that are numbered.

The broker is the simulator's (production server, handlers, engine, lane), on a network without delay and a disk that syncs at
once, or not until the story says so. Time passes only when a story says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.client import ADMIN, Actor, Ask, Link
from tests.simulation.disk import StoryDisk
from tests.simulation.events import MS_US, SECOND_US, Events
from tests.simulation.host import Host
from tests.support.messages import error_codes

from oncelog.model.errors import ErrorCode

#: Longer than any story.
NEVER_US = 10**15
#: Time in which everything that needs no timer is done.
_SETTLE_US = 500


class _Person(Actor):
    """Whose connections the story uses."""

    def __init__(self, stage: Stage) -> None:
        self.world, self.name = stage, "story"  # type: ignore[assignment]
        self.events = stage.events
        self.timeout_us = NEVER_US


class Stage:
    """See the module. ``requests`` is there for the client's end."""

    def __init__(self) -> None:
        self.events = Events(0)
        self.disk = StoryDisk()
        self.host = Host(self.events, {}, self.disk)
        self.host.start()
        self.requests = 0
        self.replies: list[tuple[str, Any]] = []
        self._person = _Person(self)
        self._links: dict[int, Link] = {}
        self._make_calm()
        self.pass_time(0)

    def _make_calm(self) -> None:
        network = self.host.network
        network.delay_us, network.share_held, network.share_cut, network.share_split = 1, 0.0, 0.0, 0.0

    def pass_time(self, time_us: int) -> None:
        """Let time pass, and all that falls due happen."""
        until_us = self.events.now_us + time_us + _SETTLE_US
        self.events.at(time_us + _SETTLE_US, lambda: None)
        while self.events.now_us < until_us:
            self.events.step()
            if self.host.bug is not None:
                raise self.host.bug

    # -- requests -----------------------------------------------------------------------------------------------------

    def call(self, number: int, api: str, version: int, tree: dict[str, Any], say: Callable[[Any], str]) -> str:
        """Send a request by a connection and let it be answered: what ``say`` makes of the reply."""
        answers: list[str] = []

        def done(reply: Any) -> None:
            answers.append("no reply: the connection is closed" if reply is None else say(reply))
            if is_late:
                self.replies.append((label, answers[0]))

        is_late, label = False, api
        self._link(number).post(Ask(ADMIN, api, version, tree), done)
        self.pass_time(0)
        is_late = not answers
        return answers[0] if answers else "waits"

    def _link(self, number: int) -> Link:
        """The connection of that number; those with lower numbers are opened first."""
        for each in range(1, number + 1):
            if each not in self._links:
                self._links[each] = Link(self._person, str(each))
                self.pass_time(0)
        return self._links[number]

    def leave(self, number: int) -> None:
        """The client closes a connection; the broker has not read that yet (rule D4)."""
        self._link(number).pipe.is_end_arrived = True

    # -- the broker ---------------------------------------------------------------------------------------------------

    def restart(self, how: str) -> None:
        """``kill``: the process; ``crash``: the machine, with all that was not synced."""
        host = self.host
        host._die(is_silent=False)
        if how == "crash":
            self.disk.crash(keep=0)
        self._links.clear()
        host.start()
        self.pass_time(0)


def code_name(code: int) -> str:
    """``ok``, or the error's number and name."""
    return "ok" if code == 0 else f"{code} {ErrorCode(code).name}"


def codes(reply: Any) -> str:
    """All error codes of a reply, each once."""
    return ", ".join(dict.fromkeys(map(code_name, error_codes(reply))))


MS, SECOND = MS_US, SECOND_US
