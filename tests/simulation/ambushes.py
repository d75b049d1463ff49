"""Ambushes: faults that wait for a certain client to do a certain thing, since chance alone seldom meets that moment.

Rule D4 is about requests that are late: held up by the network until their client has given the connection up, repeated
them and gone on to its next transaction. And about zombies: instances that were replaced and go on where they stood, by a
new connection. Rule D2 is about crashes between appending, writing, syncing and answering.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.client import Ask, Link
from tests.simulation.events import MS_US, SECOND_US

if TYPE_CHECKING:
    from tests.simulation.producers import Transactional

#: Requests that may be late, and after which answers in the client's next transaction they come, the most harmful most often.
_MOMENTS: dict[str, tuple[str, ...]] = {
    "end_txn": ("produce", "produce", "add_partitions_to_txn", "txn_offset_commit"),
    "add_partitions_to_txn": ("end_txn", "end_txn", "add_partitions_to_txn", "produce"),
    "produce": ("produce", "produce", "produce", "add_partitions_to_txn", "end_txn"),
    "txn_offset_commit": ("txn_offset_commit", "txn_offset_commit", "produce"),
    "add_offsets_to_txn": ("end_txn", "produce"),
    "init_producer_id": ("produce", "end_txn"),
}
_PATIENCE_US = 30 * SECOND_US


class LateRequest:
    """Holds the next request of one kind until its client has moved on. Waits at the client's own answers."""

    def __init__(self, victim: Transactional, api: str = "") -> None:
        self._victim = victim
        random = victim.random
        self.api = api or random.choice(victim.apis)
        moments = [moment for moment in _MOMENTS[self.api] if moment in victim.apis]
        if victim.is_careless and not api:
            self.api, moments = "produce", ["produce", "add_partitions_to_txn"]
        self._moment = random.choice(moments)
        self._end_after_us = random.choice((0, 2 * MS_US, 20 * MS_US, 200 * MS_US))
        self._link: Link | None = None
        self._begun = -1
        self._answers_left = random.choice((0, 0, 1))

    @property
    def is_idle(self) -> bool:
        """Whether it has not met its moment yet."""
        return self._link is None

    def asks(self, ask: Ask, link: Link) -> None:
        """The client asks something."""
        if ask.api == self.api and self._link is None:
            self._link, self._begun = link, self._victim.transactions_begun
            self._victim.note("late: {} is held until {} in its next transaction", self.api, self._moment)
            link.pipe.hold()
            self._victim.events.at(_PATIENCE_US, self._let_go)

    def is_answered(self, api: str) -> None:
        """The client has an answer."""
        held, begun = self._link, self._victim.transactions_begun
        if held is None or not held.is_over or api != self._moment:
            return
        is_next = begun > self._begun or (api == "end_txn" and self.api != "end_txn")
        if not is_next:
            return
        if self._answers_left:
            self._answers_left -= 1
            return
        is_given_up = self._victim.is_careless and self.api == "produce" and api != "produce"
        if is_given_up or self.api == "init_producer_id":
            # A batch that was given up may join the next transaction by the connection that is the newest for all that the
            # broker knows, and a first InitProducerId is another instance (FINDINGS.md): only the connection's end tells.
            self._end_after_us = 0
        self._let_go()

    def _let_go(self) -> None:
        if self._victim.late is not self:
            return
        self._victim.late = None
        link = self._link
        assert link is not None
        if not link.is_over or self._victim.is_dead:
            self._end_after_us = 0
        self._victim.note("late: {} arrives", self.api)
        link.pipe.let_go(self._end_after_us)


class Replaced:
    """Another instance begins while a request of the old one is under way; the old one asks again, by a newer connection."""

    def __init__(self, victim: Transactional) -> None:
        self._victim, self.api = victim, victim.random.choice(victim.apis)
        self.is_idle = True

    def asks(self, ask: Ask, link: Link) -> None:
        """The client asks something."""
        victim = self._victim
        if ask.api != self.api:
            return
        self.is_idle = False
        victim.late = None
        victim.note("is replaced while its {} is under way", self.api)
        link.pipe.hold()
        victim.events.at(victim.events.about(SECOND_US), link.pipe.let_go, 0)
        victim.world.add(victim.world.again(victim.transactional_id))

    def is_answered(self, api: str) -> None:
        """The client has an answer."""
