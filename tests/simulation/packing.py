"""Who compresses in a world, and how: each client in one way, as real ones do.

Where a topic is compacted that matters, for compaction opens batches and writes them anew; elsewhere the broker only carries
them. Drawn by a chance of its own, so that a seed whose world has none of it is the world that it always was.
"""

from __future__ import annotations

from random import Random

from tests.support.batches import Codec

#: The first version of Produce that may carry zstd (KIP-110).
ZSTD_VERSION = 7


class Packing:
    """See the module."""

    def __init__(self, seed: int, *, has_compaction: bool) -> None:
        self._random = Random(f"packed world {seed}")
        self._share = 0.0
        if self._random.random() < (0.7 if has_compaction else 0.1):
            self._share = self._random.choice((0.5, 0.9))

    @property
    def is_there(self) -> bool:
        """Whether anybody compresses."""
        return self._share > 0

    def codec_for(self, produce_version: int) -> Codec:
        """How one client compresses that speaks this version of Produce."""
        if not self.is_there or self._random.random() > self._share:
            return Codec.NONE
        return self.any_codec(produce_version)

    def any_codec(self, produce_version: int) -> Codec:
        """One that this version of Produce may carry."""
        codecs = [codec for codec in Codec if codec and (codec is not Codec.ZSTD or produce_version >= ZSTD_VERSION)]
        return self._random.choice(codecs)
