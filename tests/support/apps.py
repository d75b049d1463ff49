"""Applications under test: records go in, an independent read_committed reader counts what came out, processes are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from tests.support.confluent import consumer, partitions_of, producer, read_all

from oncelog.app import Session

WAIT_SECONDS = 60.0
#: What Apache Kafka says while it makes its offsets topic, for the first group of all.
_NO_COORDINATOR_YET = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)

#: Quick to notice dead members; quick to come back.
CLIENT = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200, "reconnect.backoff.ms": 20, "linger.ms": 1}


def feed(bootstrap: str, topic: str, values: Sequence[str], **given: Any) -> None:
    """Writes values, each its own key, spread over the partitions by it."""
    writer = producer(bootstrap)
    for value in values:
        writer.produce(topic, value.encode(), value.encode(), **given)
    assert writer.flush(WAIT_SECONDS) == 0


def numbers(count: int, start: int = 0) -> list[str]:
    return [f"n{number}" for number in range(start, start + count)]


def counted(bootstrap: str, topic: str) -> Counter[str]:
    """How often each value stands in a topic, for a reader of committed records that takes part in nothing else."""
    return Counter((message.value() or b"").decode() for message in read_all(bootstrap, topic))


def once(values: Sequence[str]) -> Counter[str]:
    return Counter(dict.fromkeys(values, 1))


def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.05)


def done(bootstrap: str, group: str, topic: str) -> tuple[int, int]:
    """How many records of a topic without transactions the group has committed, and how many there are."""
    places = [TopicPartition(topic, index) for index in partitions_of(bootstrap, topic)]
    reader = consumer(bootstrap, group)
    try:
        offsets = [max(0, answer.offset) for answer in reader.committed(places, timeout=WAIT_SECONDS)]
        return sum(offsets), sum(reader.get_watermark_offsets(place, timeout=WAIT_SECONDS)[1] for place in places)
    finally:
        reader.close()


def until_done(bootstrap: str, group: str, topic: str) -> None:
    """Waits until a group has committed all of a topic."""

    def is_done() -> bool:
        try:
            processed, written = done(bootstrap, group, topic)
        except KafkaException as failure:
            if failure.args[0].code() in _NO_COORDINATOR_YET:
                return False
            raise
        return processed == written

    until(is_done, f"group {group} to process all of {topic}")


class Threaded:
    """Runs a function in a thread; ``result`` joins it and raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:  # noqa: BLE001 - result() raises it in the test
            self.error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = WAIT_SECONDS) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it has not ended"
        if self.error is not None:
            raise self.error
        return self.value


def session(bootstrap: str, folder: Path, **given: Any) -> Session:
    """A session with quick settings: ``app``, ``topics`` and more as given."""
    client = {**CLIENT, **given.pop("client", {})}
    return Session(bootstrap=bootstrap, state_folder=folder, client=client, **given)


@contextmanager
def copying(session: Session, target: str, on_batch: Callable[[int], None] = lambda number: None) -> Iterator[Threaded]:
    """Copies everything to ``target`` in a thread, until the block ends."""

    def run() -> None:
        with session:
            for number, batch in enumerate(session):
                with batch.transaction() as tx:
                    for record in batch:
                        tx.send(target, record.key, record.value)
                    on_batch(number)

    running = Threaded(run)
    try:
        yield running
    except BaseException:
        session._halt.set()  # the test has failed: nobody waits for a broker, or for a transaction, any more
        raise
    finally:
        session.stop()
    running.result()


class Child:
    """A Python program as a process: started, killed, frozen."""

    def __init__(self, program: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            cwd=Path(__file__).parents[2],
        )

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit code; what it printed is in ``out`` and ``err``."""
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        self.out, self.err = out.decode(), err.decode()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=WAIT_SECONDS)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
