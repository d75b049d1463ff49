"""What is in a topic, read out of the broker itself: every record, and whether it is committed, aborted or still open.

For people who look at a failed test. Readers see less (rule R1); exactly-once is asserted with a foreign reader, not with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from oncelog.broker.broker import Broker
from oncelog.engine.state import Log
from oncelog.model.batch import LENGTH_OVERHEAD_BYTES, control_outcome, read_header
from oncelog.model.header import BatchHeader
from oncelog.model.records import records

#: Records that are looked at in one partition, from its end backwards in whole batches of the storage's choice.
ROWS_MAX = 100_000
_READ_BYTES = 4 * 1024 * 1024
_SHOWN_BYTES = 40


class Row(NamedTuple):
    """One record, or one marker (``key`` and ``value`` None).

    ``state``: "plain" outside transactions; "committed", "aborted" or "open"; "commit marker", "abort marker".
    """

    partition: int
    offset: int
    state: str
    producer_id: int
    epoch: int
    key: bytes | None
    value: bytes | None


def rows_of(broker: Broker, topic: str) -> list[Row]:
    """All rows of a topic, partition by partition. Called on the broker's loop. KeyError if there is no such topic."""
    found: list[Row] = []
    for log_id in broker.state.topics[topic].logs:
        log = broker.state.logs[log_id]
        found += settled(log.index, batches_of(broker, log))
    return found


def batches_of(broker: Broker, log: Log) -> Iterator[tuple[BatchHeader, memoryview]]:
    """The whole log, also what is not visible yet."""
    offset = log.offset_start
    while offset < log.offset_next:
        pieces = broker.storage.read(log.id, offset, offset_end=log.offset_next, bytes_max=_READ_BYTES)
        if not pieces:
            return
        for piece in pieces:
            view = memoryview(piece)
            while view:
                header = read_header(view)
                end = header.length + LENGTH_OVERHEAD_BYTES
                yield header, view[:end]
                offset = header.offset_next
                view = view[end:]


def settled(partition: int, batches: Iterable[tuple[BatchHeader, memoryview]]) -> list[Row]:
    """The rows of some batches in their order; a marker says what became of its producer's records before it."""
    rows: list[Row] = []
    open_rows: dict[int, list[int]] = {}
    for header, data in batches:
        producer_id, epoch = header.producer_id, header.producer_epoch
        if header.is_control:
            outcome = "commit" if control_outcome(data) else "abort"
            for at in open_rows.pop(producer_id, ()):
                rows[at] = rows[at]._replace(state="committed" if outcome == "commit" else "aborted")
            rows.append(Row(partition, header.base_offset, f"{outcome} marker", producer_id, epoch, None, None))
            continue
        for record in records(data):
            if header.is_transactional:
                open_rows.setdefault(producer_id, []).append(len(rows))
            state = "open" if header.is_transactional else "plain"
            rows.append(Row(partition, record.offset, state, producer_id, epoch, record.key, record.value))
        if len(rows) > ROWS_MAX:
            break
    return rows


def shown(topic: str, rows: Sequence[Row], *, rows_max: int = 60) -> str:
    """A table for people; of long topics the newest rows."""
    lines = [f"topic {topic}: {len(rows)} records and markers"]
    if len(rows) > rows_max:
        lines.append(f"  ... {len(rows) - rows_max} before these")
    for row in rows[-rows_max:]:
        producer = f"producer {row.producer_id}/{row.epoch}" if row.producer_id >= 0 else ""
        what = "" if row.state.endswith("marker") else f"{_brief(row.key)} = {_brief(row.value)}"
        lines.append(f"  {row.partition}:{row.offset:<6} {row.state:<14} {producer:<16} {what}".rstrip())
    return "\n".join(lines)


def _brief(data: bytes | None) -> str:
    if data is None:
        return "null"
    text = data[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return text if len(data) <= _SHOWN_BYTES else f"{text}... ({len(data)} bytes)"
