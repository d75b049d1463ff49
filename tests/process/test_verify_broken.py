"""``oncelog verify`` against brokers broken on purpose: copies of this one, each with one rule gone that a client can see.

Each line below changes one place of a copied source tree. The change must be found, and called by a name that fits; where
nothing else follows from it, by that name alone.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.fixtures import TEST_OPTIONS

SOURCE = Path(__file__).resolve().parents[2] / "src"


class Broken(NamedTuple):
    """``old`` becomes ``new`` in one file; verify with these options finds one of ``kinds``; ``alone``: and no other kind."""

    file: str
    old: str
    new: str
    workload: str
    faults: str
    kinds: frozenset[str]
    alone: bool = False
    seconds: int = 20


#: A batch is answered and its sequence counts, and it is not written.
SWALLOW = """
    if level is _SYNCED and producer_id >= 0 and header.base_sequence % 4 == 1:
        log.producers[producer_id] = producer_after(row, log.id, offset, header, now_ms)
        return Decision(level=level, reply=Written(offset, -1))
"""
#: A plain batch is written once more behind itself, by nobody, with other values.
HAUNT = """
    if level is _SYNCED and b"plain" in stamped:
        ghost = bytearray(stamp(stamped.replace(b"plain", b"ghost"), offset + header.offset_delta_last + 1))
        ghost[43:57] = bytes([255] * 14)
        ghost[17:21] = crc32c(ghost[21:]).to_bytes(4, "big")
        nobody = header._replace(producer_id=-1, producer_epoch=-1, base_sequence=-1)
        second = Append(log.id, offset + header.offset_delta_last + 1, nobody, bytes(ghost))
        return Decision((), (Append(log.id, offset, header, stamped), second), level, Written(offset, append_time_ms))
"""
#: Two records of one plain batch change places: what is behind length, attributes and deltas, a byte each.
CROSS = """
def _crossed(piece):
    data, at = bytearray(piece), 0
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        middle = (at + 61 + end) // 2
        if data[at + 22] == 0 and data[at + 60] == 2 and data[at + 61] == data[middle] == 2 * (middle - at - 62):
            data[at + 65 : middle], data[middle + 4 : end] = data[middle + 4 : end], data[at + 65 : middle]
            data[at + 17 : at + 21] = crc32c(data[at + 21 : end]).to_bytes(4, "big")
        at = end
    return bytes(data)


"""


BROKEN = {
    "aborted list dropped": Broken(
        "engine/reading.py",
        "    found.sort(key=lambda transaction: transaction[1])",
        "    found.clear()",
        "append",
        "none",
        frozenset({"aborted read"}),
    ),
    "last stable offset ignored": Broken(
        "engine/reading.py",
        "return log.stable_offset if is_committed else log.high_watermark",
        "return log.high_watermark",
        "append",
        "none",
        frozenset({"aborted read", "read before commit"}),
    ),
    "open transactions are copied": Broken(
        "engine/reading.py",
        "return log.stable_offset if is_committed else log.high_watermark",
        "return log.high_watermark",
        "copy",
        "none",
        frozenset({"read before commit", "aborted read"}),
    ),
    "duplicate check off": Broken(
        "engine/partitions.py",
        "check_sequence(row, header, first_must_be_zero=True)",
        "pass",
        "append",
        "lose:produce",
        frozenset({"duplicate"}),
    ),
    "epoch fence off": Broken(
        "engine/partitions.py",
        "    if transaction.epoch != epoch:\n        raise Refusal(code_fenced, _why_fenced(transaction, epoch))\n",
        "",
        "append",
        "zombie",
        frozenset({"zombie write"}),
    ),
    "offsets committed at abort": Broken(
        "engine/groups/offsets.py",
        "        if commit:\n            committed = ",
        "        if True:\n            committed = ",
        "offsets",
        "none",
        frozenset({"aborted read", "offset and output apart", "dirty order"}),
    ),
    "offsets lost at commit": Broken(
        "engine/groups/offsets.py",
        "        if commit:\n            committed = ",
        "        if False:\n            committed = ",
        "offsets",
        "none",
        frozenset({"offset and output apart"}),
    ),
    "one partition without its marker": Broken(
        "engine/transactions.py",
        "_marker(state.logs[log_id], session, commit, now_ms, 0) for log_id",
        "_marker(state.logs[log_id], session, commit and log_id != transaction.logs[-1], now_ms, 0) for log_id",
        "bank",
        "none",
        frozenset({"torn transaction", "lost write"}),
    ),
    "late requests accepted": Broken(
        "engine/connections.py",
        "connection < seen[1][role]",
        "connection < 0",
        "bank",
        "late:end_txn",
        frozenset({"torn transaction", "aborted read", "read before commit", "lost write"}),
    ),
    "acknowledged and not written": Broken(
        "engine/partitions.py",
        "    offset, append_time_ms = log.offset_next, -1\n",
        "    offset, append_time_ms = log.offset_next, -1" + SWALLOW,
        "append",
        "none",
        frozenset({"lost write"}),
        alone=True,
        seconds=8,
    ),
    "a record that nobody sent": Broken(
        "engine/partitions.py",
        "        stamped = stamp(data, offset)\n",
        "        stamped = stamp(data, offset)" + HAUNT,
        "append",
        "none",
        frozenset({"phantom record"}),
        alone=True,
        seconds=8,
    ),
    "two records change places for some": Broken(
        "broker/fetching.py",
        "        aborted = _aborted(log, wanted.offset, pieces) if is_committed else None\n",
        "        pieces = [_crossed(piece) for piece in pieces] if is_committed else pieces\n"
        "        aborted = _aborted(log, wanted.offset, pieces) if is_committed else None\n",
        "append",
        "none",
        frozenset({"divergent read"}),
        alone=True,
        seconds=8,
    ),
    # It takes 40 s more: verify must give a transaction its time before it says that nobody can have one open.
    "the stable offset stops at the last marker": Broken(
        "engine/state.py",
        "            seen.append(Visible(log, log.offset_next, log.stable_offset_applied, log.offset_start))\n"
        "        for row in rows:\n",
        "            stable = min(log.stable_offset_applied, batch.offset if batch.header.is_control else log.offset_next)\n"
        "            seen.append(Visible(log, log.offset_next, stable, log.offset_start))\n"
        "        for row in rows:\n",
        "bank",
        "none",
        frozenset({"stuck last stable offset"}),
        alone=True,
        seconds=8,
    ),
}

#: The second change of a copy.
ALSO = {
    # A repeated batch is answered by P1, and P3 would refuse it too.
    "duplicate check off": (
        "engine/partitions.py",
        "        repeated = duplicate_of(row, header)",
        "        repeated = None",
    ),
    "acknowledged and not written": (
        "engine/partitions.py",
        "import check_sequence, duplicate_of",
        "import check_sequence, duplicate_of, producer_after",
    ),
    "a record that nobody sent": (
        "engine/partitions.py",
        "from typing import Final\n",
        "from typing import Final\nfrom crc32c import crc32c\n",
    ),
    "two records change places for some": (
        "broker/fetching.py",
        "def _aborted(",
        "from crc32c import crc32c\n" + CROSS + "def _aborted(",
    ),
}


class BrokenBroker(BrokerProcess):
    """Runs the copied source."""

    def __init__(self, folder: Path, source: Path) -> None:
        super().__init__(folder, options=TEST_OPTIONS)
        self._source = source

    def start(self) -> BrokenBroker:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(self._source)
        try:
            super().start()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        return self


def change(source: Path, file: str, old: str, new: str) -> None:
    path = source / "oncelog" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file} has {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def copy_broken(name: str, source: Path) -> None:
    broken = BROKEN[name]
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    change(source, broken.file, broken.old, broken.new)
    if name in ALSO:
        change(source, *ALSO[name])


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_fits_the_sources(name: str, tmp_path: Path) -> None:
    """The others run for long: who moves a line that is broken here shall know it before."""
    copy_broken(name, tmp_path / "src")
    ast.parse((tmp_path / "src" / "oncelog" / BROKEN[name].file).read_text(encoding="utf-8"))


@pytest.mark.soak
@pytest.mark.client("confluent-kafka")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_broker_is_found(name: str, tmp_path: Path) -> None:
    broken, source = BROKEN[name], tmp_path / "src"
    copy_broken(name, source)
    options = ("--workload", broken.workload, "--faults", broken.faults, "--seed", "1")
    options += ("--duration", f"{broken.seconds}s")
    with BrokenBroker(tmp_path / "broker", source) as broker:
        command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", broker.bootstrap, *options]
        command += ["--out", str(tmp_path / "out"), "--json", "-"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 10, ran.stderr
    verdict = json.loads(ran.stdout)
    found = {violation["kind"] for violation in verdict["violations"]}
    assert found & broken.kinds, verdict["reason"]
    assert not (broken.alone and found - broken.kinds), verdict["reason"]
