"""Law 7 with the real process: on a full disk it stops with a clear message, and a start after room was made has everything.

The small disk is a tmpfs of the test's own where it may mount one; elsewhere the process's largest file is limited while it
runs, which its writes meet in the same way.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import by_partition, create_topic, producer, read_all
from tests.support.fixtures import TEST_OPTIONS

pytestmark = pytest.mark.client("confluent-kafka")

DISK_MIB = 150
RECORD_BYTES = 100_000


class Disk:
    """A folder whose file system has little room, if that can be had."""

    def __init__(self, folder: Path, *, is_wanted: bool) -> None:
        self.folder = folder
        folder.mkdir()
        self.is_mounted = is_wanted and self._mount(f"size={DISK_MIB}m")

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self, process_id: int) -> None:
        """No more room than there is."""
        if not self.is_mounted:
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (1024 * 1024, 1024 * 1024))

    def make_room(self) -> None:
        if self.is_mounted:
            assert self._mount("remount,size=1g")

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture(params=["small disk", "limited files"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    small = Disk(tmp_path / "disk", is_wanted=request.param == "small disk")
    yield small
    small.close()


def test_a_full_disk_stops_the_broker_and_loses_nothing(disk: Disk) -> None:
    """Law 7, D2, P1."""
    with BrokerProcess(disk.folder / "broker", options=TEST_OPTIONS) as broker:
        create_topic(broker.bootstrap, "records", 2)
        acknowledged: dict[int, list[bytes]] = {0: [], 1: []}
        refused: list[str] = []
        writer = producer(
            broker.bootstrap,
            **{"enable.idempotence": True, "delivery.timeout.ms": 10_000, "batch.size": 300_000, "linger.ms": 0},
        )

        def delivered(error: object, message: object) -> None:
            if error is not None:
                refused.append(str(error))
            else:
                acknowledged[message.partition()].append(message.value())  # type: ignore[attr-defined]

        disk.fill(broker.process_id)
        deadline = time.monotonic() + 60
        for number in range(10_000):
            value = b"%08d" % number
            with contextlib.suppress(BufferError):
                writer.produce("records", value.ljust(RECORD_BYTES, b"."), partition=number % 2, on_delivery=delivered)
            writer.poll(0.01)
            if not broker.is_running:
                break
            assert time.monotonic() < deadline, "the disk is never full"
        assert broker.wait() not in (0, -9, None)
        assert "No space left on device" in broker.log or "File too large" in broker.log
        assert "Make room" in broker.log and "Traceback" not in broker.log
        writer.purge()
        writer.flush(20)
        disk.make_room()
        broker.start()
        found = by_partition(read_all(broker.bootstrap, "records"))
        for partition, values in acknowledged.items():
            read = [value for value in found.get(partition, []) if value is not None]
            assert read[: len(values)] == values, "something acknowledged is lost, doubled or moved"
            assert len(set(read)) == len(read)
        assert sum(map(len, acknowledged.values())) > 10 or not disk.is_mounted
        check = producer(broker.bootstrap)
        check.produce("records", b"again", partition=0)
        assert check.flush(20) == 0
