"""What a worker asks of whatever moves its records: the exactly-once exchange, or a weaker one under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from oncelog.app.exchange import Outcome
from oncelog.app.intake import Place
from oncelog.app.records import Raw
from oncelog.app.transactions import Sent


class Transactor(Protocol):
    """See ``oncelog.app.exchange.Exchange``, which keeps all of it."""

    def open(self) -> None:
        """Once."""

    def close(self) -> None:
        """In good order."""

    def abandon(self) -> None:
        """Without waiting for brokers."""

    def take(self, records_max: int | None = None) -> list[Raw]:
        """The next records, the caller's own from now on; none when the application stops."""

    @property
    def assignments(self) -> Mapping[Place, int]:
        """Which assignment brought each partition of what was taken."""

    @property
    def must_hurry(self) -> bool:
        """Whether to cut the batch short."""

    def put_back(self, records: Sequence[Raw]) -> None:
        """Not processed."""

    def settle(self) -> None:
        """Nothing was processed."""

    def commit(self, processed: list[Raw], outputs: list[Sent]) -> Outcome:
        """Outputs and offsets. Both lists are emptied."""
