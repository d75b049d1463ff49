"""The pass-through applications of `python -m bench.apps`, each a process that copies until SIGTERM.

`python -m bench.copiers KIND BOOTSTRAP NAME SOURCE TARGET FOLDER`. KIND: of ``KINDS``; Quix Streams has quix_copier.py.
All commit every 100 ms, send with a linger of 5 ms and let a fetch wait for 100 ms at most. Ours do not wait for that
time where nothing more is at hand, but for the two of ``interval``.
"""

import signal
import sys
import time
from collections.abc import Callable

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from oncelog.app import App, Batch, Out, Record

COMMIT_S = 0.1
#: So many that time ends a batch and not their number.
BATCH_RECORDS = 10_000
_TIMEOUT_S = 30

Raw = Record[bytes | None, bytes | None]


# -- oncelog.app ----------------------------------------------------------------------------------------------------------


def app(
    bootstrap: str,
    name: str,
    source: str,
    target: str,
    folder: str,
    *,
    delivery: str,
    is_batch: bool,
    commit_early: bool = True,
) -> None:
    copier = App(
        name,
        bootstrap,
        state_folder=folder,
        delivery=delivery,
        commit_interval=COMMIT_S,
        commit_early=commit_early,
        batch_records=BATCH_RECORDS,
    )
    if is_batch:

        @copier.process(source, to=target)
        def copy_all(batch: Batch[Raw]) -> list[Out]:
            return [Out(key=record.key, value=record.value) for record in batch]

    else:

        @copier.process(source, to=target)
        def copy(record: Raw) -> Out:
            return Out(key=record.key, value=record.value)

    copier.run()


# -- by hand --------------------------------------------------------------------------------------------------------------


class Loop:
    """Consume, process, produce as it is written by hand: one thread, and nobody who cares for anything that goes wrong."""

    def __init__(self, bootstrap: str, name: str, source: str, target: str) -> None:
        self.target, self.is_stopping = target, False
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": name,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 10,  # its default is a second, met by chance with 64 MB read ahead
            }
        )
        self.producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 5})
        self.producer.init_transactions(_TIMEOUT_S)
        self.consumer.subscribe([source])
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.is_stopping = True

    def run_batches(self) -> None:
        """What 100 ms bring, at once."""
        while not self.is_stopping:
            messages = self.consumer.consume(BATCH_RECORDS, COMMIT_S)
            if messages:
                self.producer.begin_transaction()
                for message in messages:
                    self._copy(message)
                self._commit({(message.topic(), message.partition()): message.offset() + 1 for message in messages})
        self.consumer.close()

    def run_singles(self) -> None:
        """One poll a record; a transaction is open from its first record on, for 100 ms."""
        offsets: dict[tuple[str, int], int] = {}
        until = 0.0
        while not self.is_stopping:
            message = self.consumer.poll(0.01)
            if message is not None:
                if not offsets:
                    self.producer.begin_transaction()
                    until = time.monotonic() + COMMIT_S
                self._copy(message)
                offsets[message.topic(), message.partition()] = message.offset() + 1
            if offsets and time.monotonic() >= until:
                self._commit(offsets)
                offsets = {}
        self.consumer.close()

    def _copy(self, message: Message) -> None:
        assert message.error() is None, message.error()
        self.producer.produce(self.target, message.value(), message.key())

    def _commit(self, offsets: dict[tuple[str, int], int]) -> None:
        positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        self.producer.send_offsets_to_transaction(positions, self.consumer.consumer_group_metadata(), _TIMEOUT_S)
        self.producer.commit_transaction(_TIMEOUT_S)


def loop(bootstrap: str, name: str, source: str, target: str, *, is_batch: bool) -> None:
    running = Loop(bootstrap, name, source, target)
    if is_batch:
        running.run_batches()
    else:
        running.run_singles()


KINDS: dict[str, Callable[..., None]] = {
    "once": lambda *words: app(*words, delivery="exactly-once", is_batch=False),
    "once-batch": lambda *words: app(*words, delivery="exactly-once", is_batch=True),
    "once-interval": lambda *words: app(*words, delivery="exactly-once", is_batch=False, commit_early=False),
    "once-batch-interval": lambda *words: app(*words, delivery="exactly-once", is_batch=True, commit_early=False),
    "at-least-once": lambda *words: app(*words, delivery="at-least-once", is_batch=False),
    "at-least-once-batch": lambda *words: app(*words, delivery="at-least-once", is_batch=True),
    "loop": lambda *words: loop(*words[:4], is_batch=False),
    "loop-batch": lambda *words: loop(*words[:4], is_batch=True),
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](*sys.argv[2:])
