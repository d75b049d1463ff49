"""The history of a run: what clients asked for, what they were told, and what was read; one JSON object a line.

A worker writes the line of an invocation before it makes the call, so one that is killed leaves an invocation without a
completion: its outcome is unknown, and the checks treat it so. Times are seconds of the machine's monotonic clock, which all
workers of a run share. Knows nothing of clusters or clients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

LINE_BYTES_MAX: Final = 64 * 1024 * 1024

Isolation = Literal["read_committed", "read_uncommitted"]
#: A group has committed nothing.
NO_OFFSET: Final = -1
COMMITTED: Final = "read_committed"
UNCOMMITTED: Final = "read_uncommitted"

#: A record that was read: topic, partition, offset, value.
Read = tuple[str, int, int, str]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Something that happened. ``at``: when it was known to have happened; of an invocation: just before it."""

    at: float


class Began(Event, frozen=True, kw_only=True, omit_defaults=True, tag="began"):
    """The run: its settings as given."""

    settings: dict[str, Any]


class Initialized(Event, frozen=True, kw_only=True, omit_defaults=True, tag="initialized"):
    """An instance of a transactional id is ready; every earlier one is fenced from here on. ``invoked``: its call."""

    instance: str
    transactional_id: str
    invoked: float


class Sent(Event, frozen=True, kw_only=True, omit_defaults=True, tag="sent"):
    """A record is handed to the producer. ``value`` is unique in the run. ``transaction`` is None outside of one.

    ``source``: the record that it is a copy of. ``amount``: what the bank moves. ``number``: the offset sent with it.
    """

    instance: str
    value: str
    topic: str
    partition: int
    transaction: str | None = None
    source: tuple[str, int, int] | None = None
    amount: int | None = None
    number: int | None = None


class Acknowledged(Event, frozen=True, kw_only=True, omit_defaults=True, tag="acknowledged"):
    """The cluster has confirmed a record. ``offset`` is -1 where the client does not know it."""

    value: str
    offset: int


class Refused(Event, frozen=True, kw_only=True, omit_defaults=True, tag="refused"):
    """The client has given a record up; it may be there all the same."""

    value: str
    error: str


class OffsetsSent(Event, frozen=True, kw_only=True, omit_defaults=True, tag="offsets"):
    """Offsets are sent in a transaction (before the call)."""

    transaction: str
    group: str
    topic: str
    offsets: dict[int, int]


class Ending(Event, frozen=True, kw_only=True, omit_defaults=True, tag="ending"):
    """A transaction's commit or abort is called."""

    transaction: str
    instance: str
    commit: bool


class Ended(Event, frozen=True, kw_only=True, omit_defaults=True, tag="ended"):
    """What the call said. ``failed``: certainly without effect; ``unknown``: it may have ended or not."""

    transaction: str
    commit: bool
    outcome: Literal["ok", "failed", "unknown"]
    error: str | None = None


class Polled(Event, frozen=True, kw_only=True, omit_defaults=True, tag="polled"):
    """A reader got records. It was assigned every partition from offset 0, and never seeks. ``invoked``: its call."""

    reader: str
    isolation: Isolation
    invoked: float
    records: list[Read]


class OffsetsSeen(Event, frozen=True, kw_only=True, omit_defaults=True, tag="offsets-seen"):
    """The committed offsets of a group; none: -1. ``is_final``: nobody commits any more.

    ``waited``: given if some were still pending then, in a transaction; seconds since the producers stopped.
    """

    group: str
    topic: str
    invoked: float
    offsets: dict[int, int]
    is_final: bool = False
    waited: float = 0.0


class Watermarks(Event, frozen=True, kw_only=True, omit_defaults=True, tag="watermarks"):
    """Ends of a partition. ``waited``: seconds since its producers stopped; 0 while they run."""

    topic: str
    partition: int
    invoked: float
    stable: int
    high: int
    waited: float = 0.0


class Logged(Event, frozen=True, kw_only=True, omit_defaults=True, tag="logged"):
    """A partition as a reader of this isolation sees it when all is over. ``is_complete``: from 0 to its end."""

    topic: str
    partition: int
    isolation: Isolation
    records: list[tuple[int, str]]
    is_complete: bool


class Struck(Event, frozen=True, kw_only=True, omit_defaults=True, tag="struck"):
    """A fault, over at ``until``."""

    fault: str
    detail: str
    until: float


class PassedUnread(Event, frozen=True, kw_only=True, omit_defaults=True, tag="unread"):
    """So many requests of an API and version went through the proxy that it can't read: it could only pass them on."""

    api: str
    version: int
    count: int


class Noted(Event, frozen=True, kw_only=True, omit_defaults=True, tag="noted"):
    """What happened to a worker: started, died, an error that it got over."""

    who: str
    what: str


AnyEvent = (
    Began
    | Initialized
    | Sent
    | Acknowledged
    | Refused
    | OffsetsSent
    | Ending
    | Ended
    | Polled
    | OffsetsSeen
    | Watermarks
    | Logged
    | Struck
    | PassedUnread
    | Noted
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(AnyEvent)


class HistoryError(Exception):
    """A file is no history; the text names file and line."""


def now() -> float:
    """The time of events."""
    return time.monotonic()


class Recorder:
    """Appends events to a file. Each line is handed to the operating system at once, so a kill loses nothing said before."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: AnyEvent) -> None:
        """From any thread; lines are not mixed."""
        os.write(self._file, _encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Nothing is written afterwards."""
        os.close(self._file)


def read_events(path: Path) -> Iterator[AnyEvent]:
    """The events of a file. A last line that its writer did not live to end is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if len(line) > LINE_BYTES_MAX:
                raise HistoryError(f"{path}:{number}: a line of {len(line)} bytes")
            try:
                yield _decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise HistoryError(f"{path}:{number}: not an event: {error}") from None


def merge(parts: Sequence[Path], target: Path) -> list[AnyEvent]:
    """The events of several files by time, written to one."""
    events = sorted((event for part in parts for event in read_events(part)), key=_by_time)
    write_events(events, target)
    return events


def write_events(events: Iterable[AnyEvent], path: Path) -> None:
    """Anew."""
    with path.open("wb") as file:
        for event in events:
            file.write(_encoder.encode(event) + b"\n")


def _by_time(event: AnyEvent) -> float:
    return event.at
