"""Durable bytes: one journal that is written once before the acknowledgement, segments that it settles into.

Storage knows bytes, numbers of logs and offsets. It never learns what a transaction, a producer or a group is (law 6).
"""

from oncelog.storage.files import FileStorage
from oncelog.storage.memory import MemoryDisk, MemoryStorage

__all__ = ["FileStorage", "MemoryDisk", "MemoryStorage"]
