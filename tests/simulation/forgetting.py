"""What the broker of a world forgets, and when it may: idle producers and unused transactional ids (rule P8).

In a world without short expiries nothing is forgotten. In the others this is the model of what a client may still count on:
times are those of the world, and the broker's own clock may have run ahead of them by what the machine has slept or its clock
was set. All of it is drawn by a chance of its own, so that a seed whose world has none of it is the world that it always was.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.events import MS_US

if TYPE_CHECKING:
    from tests.simulation.host import Host


class Memory:
    """See the module. Expiries in ms; 0: longer than any world lasts."""

    def __init__(self, seed: int) -> None:
        random = Random(f"forgetful world {seed}")
        self.producer_ms = self.transactional_id_ms = 0
        if random.random() < 0.4:
            self.producer_ms = random.choice((0, 100, 300, 1_000, 2_000))
            self.transactional_id_ms = random.choice((0, 150, 500, 1_500))
        self._check_ms = random.choice((50, 150, 400))
        self.host: Host

    @property
    def is_short(self) -> bool:
        """Whether anything is forgotten."""
        return bool(self.producer_ms or self.transactional_id_ms)

    def configs(self) -> dict[str, str]:
        """The broker's settings."""
        if not self.is_short:
            return {}
        found = {"log.retention.check.interval.ms": str(self._check_ms)}
        if self.producer_ms:
            found["producer.id.expiration.ms"] = str(self.producer_ms)
        if self.transactional_id_ms:
            found["transactional.id.expiration.ms"] = str(self.transactional_id_ms)
        return found

    def idle_us(self) -> float:
        """How long somebody must do nothing to be forgotten, about."""
        return 1.5 * MS_US * max(self.producer_ms, self.transactional_id_ms)

    @property
    def age_us(self) -> int:
        """How exactly the broker knows the age of a producer id (rule D6)."""
        return self.producer_ms * MS_US // 8

    def lag_us(self) -> int:
        """By how much the broker may know something later than it was sent."""
        return self.host.network.lag_us + self.host.paused_us + self._ahead_us()

    def may_have_forgotten_producer(self, since_us: int) -> bool:
        """Whether a producer may be forgotten that wrote nothing since then, at the earliest."""
        return bool(self.producer_ms) and self._passed_us(since_us) >= self.producer_ms * MS_US

    def may_have_forgotten_id(self, since_us: int) -> bool:
        """Whether a transactional id may be that was not used since then, at the earliest."""
        return bool(self.transactional_id_ms) and self._passed_us(since_us) >= self.transactional_id_ms * MS_US

    def _passed_us(self, since_us: int) -> int:
        # The broker counts in whole milliseconds.
        return self.host.events.now_us - since_us + self._ahead_us() + MS_US

    def _ahead_us(self) -> int:
        return self.host.slept_us + self.host.set_us
