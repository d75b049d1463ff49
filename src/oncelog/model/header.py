"""The header in front of every record batch of format version 2 (magic 2), and the bits of its attributes.

A value of its own module: model/batch.py can be compiled, a msgspec struct can't (docs/decisions/compiled-core.md). KIP-98.
"""

from __future__ import annotations

from typing import Final

from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.values import Value

COMPRESSION: Final = 0x07
TIMESTAMP_LOG_APPEND: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
#: The base timestamp is the time from which the batch's tombstones may go (KIP-534); only the broker says so.
DELETE_HORIZON: Final = 0x40


class BatchHeader(Value, frozen=True, gc=False):
    """The 61 bytes in front of every batch; offsets absolute, times in ms since the epoch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    offset_delta_last: int
    timestamp_base: int
    timestamp_max: int
    producer_id: ProducerId
    producer_epoch: Epoch
    base_sequence: int
    record_count: int

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def compression(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & COMPRESSION

    @property
    def offset_next(self) -> int:
        """The offset after the batch's last record."""
        return self.base_offset + self.offset_delta_last + 1
