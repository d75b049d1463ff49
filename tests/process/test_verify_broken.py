"""``oncelog verify`` against brokers broken on purpose: copies of this one, each with one rule gone that a client can see.

Each line below changes one place of a copied source tree. The change must be found, and called by a name that fits.
"""

from __future__ import annotations

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
    """``old`` becomes ``new`` in one file; verify with these options finds one of ``kinds``."""

    file: str
    old: str
    new: str
    workload: str
    faults: str
    kinds: frozenset[str]


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
}

#: The second change of a copy: a repeated batch is answered by P1, and P3 would refuse it too.
ALSO = {
    "duplicate check off": (
        "engine/partitions.py",
        "        repeated = duplicate_of(row, header)",
        "        repeated = None",
    )
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


@pytest.mark.soak
@pytest.mark.client("confluent-kafka")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_broker_is_found(name: str, tmp_path: Path) -> None:
    broken, source = BROKEN[name], tmp_path / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    change(source, broken.file, broken.old, broken.new)
    if name in ALSO:
        change(source, *ALSO[name])
    options = ("--workload", broken.workload, "--faults", broken.faults, "--duration", "20s", "--seed", "1")
    with BrokenBroker(tmp_path / "broker", source) as broker:
        command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", broker.bootstrap, *options]
        command += ["--out", str(tmp_path / "out"), "--json", "-"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 10, ran.stderr
    verdict = json.loads(ran.stdout)
    found = {violation["kind"] for violation in verdict["violations"]}
    assert found & broken.kinds, verdict["reason"]
