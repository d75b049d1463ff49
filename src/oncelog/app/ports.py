"""What a worker asks of whatever moves its records: the exactly-once exchange, or a weaker one under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from confluent_kafka import Message

from oncelog.app.errors import Undone
from oncelog.app.exchange import Outcome, Sent
from oncelog.app.intake import Place


class Transactor(Protocol):
    """See ``oncelog.app.exchange.Exchange``, which keeps all of it."""

    def open(self) -> None:
        """Once."""

    def close(self) -> None:
        """In good order."""

    def abandon(self) -> None:
        """Without waiting for brokers."""

    def take(self, records_max: int | None = None) -> list[Message]:
        """The next records; [] when the application stops."""

    @property
    def assignments(self) -> Mapping[Place, int]:
        """Which assignment brought each partition of what was taken."""

    @property
    def must_hurry(self) -> bool:
        """Whether to cut the batch short."""

    def put_back(self, messages: Sequence[Message]) -> None:
        """Not processed."""

    def settle(self) -> None:
        """Nothing was processed."""

    def send(self, record: Sent) -> None:
        """For the transaction."""

    def commit(self, processed: Sequence[Message]) -> Outcome:
        """Outputs and offsets."""

    def undo(self, why: str | Undone) -> None:
        """Back to the kept offsets."""
