"""Meters: what the broker counts while it works, and how Prometheus reads it.

Counting is plain integer arithmetic on one thread (law 4): no locks, no objects made, under a microsecond for a request.
What can be asked of the state at any time (open transactions, offsets, groups) is not counted here but read when somebody
asks (broker/observe.py). Rule D5: fences are counted by reason.

Bounds: one cell for each served API and version, one counter for each reason in ``Fence``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

#: Histogram buckets: bucket i counts values below 2**i; the last one everything above.
BUCKETS: Final = 27


class Fence(StrEnum):
    """Why a producer was fenced or a request of it refused (rules D4, D5); ``SENTENCES`` says it to people."""

    REPLACED = "replaced"
    TIMED_OUT = "timed_out"
    MACHINE_RESTARTED = "machine_restarted"
    OPERATOR = "operator"
    LATE_REQUEST = "late_request"
    OLD_EPOCH = "old_epoch"


SENTENCES: Final = {
    Fence.REPLACED: "Another instance called InitProducerId with the same transactional id.",
    Fence.TIMED_OUT: "Its transaction was open for longer than transaction.timeout.ms, and was aborted.",
    Fence.MACHINE_RESTARTED: "The machine went down with its transaction open, which was aborted.",
    Fence.OPERATOR: "An operator has aborted its transaction.",
    Fence.LATE_REQUEST: "A request came by a connection that its client had given up, and was refused (D4).",
    Fence.OLD_EPOCH: "A request of a producer that was fenced before, and was refused.",
}


class Histogram:
    """Whole numbers in powers of two; durations are in microseconds."""

    __slots__ = ("buckets", "count", "sum")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.count = 0
        self.sum = 0

    def add(self, value: int) -> None:
        """Count one."""
        self.count += 1
        self.sum += value
        bucket = value.bit_length()
        self.buckets[bucket if bucket < BUCKETS else BUCKETS - 1] += 1


class Requests(Histogram):
    """The requests of one API and version."""

    __slots__ = ("bytes_in", "bytes_out")

    def __init__(self) -> None:
        super().__init__()
        self.bytes_in = 0
        self.bytes_out = 0


class Meters:
    """Everything that is counted, since the start of the broker."""

    def __init__(self) -> None:
        #: By API key and version.
        self.requests: dict[tuple[int, int], Requests] = {}
        #: Refusals by the number of their error code, whichever API sent them.
        self.refusals: dict[int, int] = {}
        self.fences: dict[Fence, int] = dict.fromkeys(Fence, 0)
        self.transaction_timeouts = 0
        #: Compactions that were carried out, the bytes that they have read, and those that were left.
        self.compactions = self.compacted_bytes_before = self.compacted_bytes_after = 0
        #: What the syncs of the journal took, and how many entries each made safe.
        self.syncs = Histogram()
        self.sync_groups = Histogram()
        self.connections_open = 0
        self.connections_accepted = 0
        #: Connections that the broker closed because of what came by them.
        self.connections_closed_bad = 0

    def answered(self, api_key: int, version: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """A reply has left: ``seconds`` since its request was read. Frame bytes both ways."""
        cell = self.requests.get((api_key, version))
        if cell is None:
            cell = self.requests[api_key, version] = Requests()
        micros = int(seconds * 1e6)
        cell.count += 1
        cell.sum += micros
        cell.bytes_in += bytes_in
        cell.bytes_out += bytes_out
        bucket = micros.bit_length()
        cell.buckets[bucket if bucket < BUCKETS else BUCKETS - 1] += 1

    def refused(self, code: int) -> None:
        """A decide function said no."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def fenced(self, fence: Fence) -> None:
        """A producer was fenced, or a request of a fenced producer came."""
        self.fences[fence] += 1

    def synced(self, seconds: float, entries: int) -> None:
        """One sync of the journal made ``entries`` entries safe."""
        self.syncs.add(int(seconds * 1e6))
        self.sync_groups.add(entries)

    def compacted(self, bytes_before: int, bytes_after: int) -> None:
        """One log was compacted."""
        self.compactions += 1
        self.compacted_bytes_before += bytes_before
        self.compacted_bytes_after += bytes_after

    def connected(self) -> None:
        """A connection was accepted."""
        self.connections_open += 1
        self.connections_accepted += 1

    def disconnected(self) -> None:
        """A connection is gone."""
        self.connections_open -= 1
