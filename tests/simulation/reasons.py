"""Why a producer may have been fenced: what the world knows of it, so that nobody is fenced for nothing (rules D4, D8, T7)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation.events import SECOND_US

if TYPE_CHECKING:
    from tests.simulation.client import Actor
    from tests.simulation.host import Host

#: Whoever asked longer ago, and has had no answer, can't be answered any more.
_ASKED_US = 60 * SECOND_US


class Reason(NamedTuple):
    """What there was when a session was given."""

    reasons: Reasons
    transactional_id: str
    name: str
    count: int
    is_rivalled: bool

    def is_there(self) -> bool:
        """Whether something has happened since that fences."""
        return self.is_rivalled or self.reasons.count(self.transactional_id, self.name) > self.count


class Reasons:
    """Who has asked for which transactional id, what operators did, and how often the machine was started anew."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asked: dict[str, Counter[str]] = {}
        #: By transactional id and name: when it has asked last without an answer.
        self._waiting: dict[str, dict[str, int]] = {}
        #: Operators' aborts and markers.
        self.operators = 0

    def asks(self, transactional_id: str, actor: Actor) -> int:
        """Somebody asks for a session: others may be fenced from now on. Returns how many reasons there were before."""
        self._asked.setdefault(transactional_id, Counter())[actor.name] += 1
        self._waiting.setdefault(transactional_id, {})[actor.name] = actor.events.now_us
        return self.count(transactional_id, actor.name)

    def given(self, transactional_id: str, actor: Actor, asked: int, *, is_rivalled: bool) -> Reason:
        """It has one. ``asked``: what ``asks`` returned, for it may have stood still since; ``is_rivalled``: another request of
        its own may still come.
        """
        waiting = self._waiting.setdefault(transactional_id, {})
        waiting.pop(actor.name, None)
        since_us = actor.events.now_us - _ASKED_US
        is_rivalled = is_rivalled or any(asked_us > since_us for asked_us in waiting.values())
        return Reason(self, transactional_id, actor.name, asked, is_rivalled)

    def count(self, transactional_id: str, name: str) -> int:
        """How often others, operators and the machine gave a reason."""
        asked = self._asked.get(transactional_id, Counter())
        others = asked.total() - asked[name]
        return others + self.operators + self._host.reboots + self._host.jumps + self._host.late_starts
