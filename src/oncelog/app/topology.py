"""What an application is made of: processors, sinks and outboxes, each with its topics and its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from oncelog.app.errors import ConfigurationError
from oncelog.app.handlers import Handler
from oncelog.app.serializing import Serializer
from oncelog.app.settings import Delivery


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failing handler is called for a record, all in all, and how long is waited in between (seconds, doubling)."""

    attempts: int = 3
    back_off: float = 0.1
    back_off_max: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.back_off < 0 or self.back_off_max < self.back_off:
            raise ConfigurationError(f"{self}: at least one attempt, and 0 <= back_off <= back_off_max seconds")

    def delay(self, attempts: int) -> float:
        """Seconds to wait after so many failed attempts."""
        return min(self.back_off * 2.0 ** (attempts - 1), self.back_off_max)


@dataclass(frozen=True, slots=True)
class Processor:
    """``handler`` for the records of ``topics``; what it gives goes ``to`` a topic, in the transaction of its offsets."""

    name: str
    topics: tuple[str, ...]
    handler: Handler
    to: str | None
    retry: Retry
    dead_letter: str | None
    serializer: Serializer | None

    @property
    def keeps_state(self) -> bool:
        """State belongs to one partition of one topic."""
        return self.handler.takes_second and not self.handler.is_batch and len(self.topics) == 1


@dataclass(frozen=True, slots=True)
class Sink:
    """``handler`` writes records of ``topics`` into ``database``, with the offsets in the same database transaction.

    Without a database its ``delivery`` is one of the weaker ones.
    """

    name: str
    topics: tuple[str, ...]
    handler: Handler
    database: str | None
    retry: Retry
    dead_letter: bool
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class OutboxRoute:
    """Rows of ``table`` in ``database`` become records of ``topic``, each once."""

    topic: str
    database: str
    table: str
    serializer: Serializer | None


@dataclass(slots=True)
class Topology:
    """All parts of an application."""

    processors: list[Processor] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    outboxes: list[OutboxRoute] = field(default_factory=list)

    def add(self, part: Processor | Sink | OutboxRoute) -> None:
        """ConfigurationError for a name that is taken: changelogs, groups and transactional ids are made of names."""
        if isinstance(part, OutboxRoute):
            if any((part.database, part.table) == (other.database, other.table) for other in self.outboxes):
                raise ConfigurationError(f"the outbox table {part.table} is relayed already")
            self.outboxes.append(part)
            return
        names = {processor.name for processor in self.processors} | {sink.name for sink in self.sinks}
        if part.name in names:
            raise ConfigurationError(f"there is a handler named {part.name} already; give this one another name=")
        if isinstance(part, Processor):
            self.processors.append(part)
        else:
            self.sinks.append(part)

    @property
    def sources(self) -> list[str]:
        """The topics that processors read."""
        return sorted({topic for processor in self.processors for topic in processor.topics})

    @property
    def targets(self) -> list[str]:
        """The topics named as targets; handlers may name others."""
        named = {processor.to for processor in self.processors} | {part.dead_letter for part in self.processors}
        return sorted({topic for topic in named if topic} | {outbox.topic for outbox in self.outboxes})

    @property
    def topics(self) -> list[str]:
        """Every topic that has to be there."""
        return sorted({*self.sources, *self.targets, *(topic for sink in self.sinks for topic in sink.topics)})

    def readers(self, topic: str) -> Sequence[Processor]:
        """The processors of a topic."""
        return [processor for processor in self.processors if topic in processor.topics]
