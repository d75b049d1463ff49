"""Breakages of what is done with compressed batches: who may send them, and what compaction makes of them."""

from __future__ import annotations

from tests.mutants.breakages import Breakage

_PARTITIONS = "engine/partitions.py"
_REWRITING = "model/rewriting.py"

PACKING = [
    Breakage(
        "KIP-110 zstd is taken from clients that do not know it",
        _PARTITIONS,
        "if header.compression == _ZSTD and version < ZSTD_VERSION:",
        "if False:",
    ),
    Breakage(
        "P4 compressed records need no keys",
        "broker/apis/produce.py",
        "                    if log.settings.is_compacted:\n",
        "                    if log.settings.is_compacted and not header.compression:\n",
    ),
    Breakage(
        "compaction: what was compressed is not",
        _REWRITING,
        "        return bytes(cramjam.gzip.compress(records))\n",
        "        return records\n",
    ),
    Breakage(
        "compaction: snappy loses its framing",
        _REWRITING,
        "        if bytes(memoryview(before)[HEADER_BYTES : HEADER_BYTES + len(XERIAL)]) == XERIAL:\n",
        "        if False:\n",
    ),
    Breakage(
        "compaction: snappy gets a framing that it had not",
        _REWRITING,
        "        if bytes(memoryview(before)[HEADER_BYTES : HEADER_BYTES + len(XERIAL)]) == XERIAL:\n",
        "        if True:\n",
    ),
    Breakage(
        "compaction: of snappy's blocks only the first is written",
        _REWRITING,
        "range(0, len(records), _XERIAL_BLOCK_BYTES)",
        "range(0, 1, _XERIAL_BLOCK_BYTES)",
    ),
    Breakage(
        "compaction: an lz4 block that does not shrink is said to be compressed",
        _REWRITING,
        "len(raw) | _LZ4_RAW",
        "len(raw)",
    ),
    Breakage(
        "compaction: zstd becomes gzip",
        _REWRITING,
        "    return bytes(cramjam.zstd.compress(records))\n",
        "    return bytes(cramjam.gzip.compress(records))\n",
    ),
    Breakage(
        "compaction: the records of compressed batches are told apart in what is compressed",
        _REWRITING,
        "    return bytes(decompressed(header.compression, bytes(memoryview(batch)[HEADER_BYTES:])))\n",
        "    return bytes(memoryview(batch)[HEADER_BYTES:])\n",
    ),
]
