"""Worlds that are old when they begin: epochs near 32766 and sequences near 2**31 (rules P3, T2, T6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.producers import PlainProducer

from oncelog.engine.decision import Decision
from oncelog.model.ids import EPOCH_MAX, Epoch, ProducerId
from oncelog.model.rows import Producer, ProducerIds, Row, Transaction, TransactionState, WrittenBatch

if TYPE_CHECKING:
    from tests.simulation.world import World

_SEQUENCES = 2**31


def age(world: World) -> None:
    """In some worlds: transactional ids that are nearly used up, and a producer whose sequences soon begin again at 0."""
    random, host = world.random, world.host
    broker = host.broker
    if random.random() < 0.6:
        return
    first = broker.state.producer_id_next
    names = [f"write-{number}" for number in range(2)] + [f"copy-first{index}" for index in range(world.topics["in"])]
    rows: list[Row] = [ProducerIds(ProducerId(first + len(names) + 1))]
    for number, name in enumerate(names):
        epoch = Epoch(EPOCH_MAX - random.randint(0, 6))
        rows.append(
            Transaction(
                name, ProducerId(first + number), epoch, 10_000, TransactionState.EMPTY, updated_ms=host.clock_ms()
            )
        )
    plain = next(actor for actor in world.actors if isinstance(actor, PlainProducer))
    producer_id = ProducerId(first + len(names))
    sequences = {}
    for place in plain.places:
        log = broker.state.log_of(*place)
        assert log is not None
        last = _SEQUENCES - random.randint(1, 40)
        window = (WrittenBatch(last, last, -1, -1),)
        rows.append(Producer(log.id, producer_id, Epoch(0), window, -1, host.clock_ms()))
        sequences[place] = (last + 1) % _SEQUENCES
    plain.start_at(producer_id, sequences)
    broker.commit(None, Decision(tuple(rows)))
