"""Worlds that are old when they begin: epochs near 32766 and sequences near 2**31 (rules P3, T2, T6)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.history import Place

from oncelog.engine.decision import Decision
from oncelog.model.ids import EPOCH_MAX, Epoch, Position, ProducerId
from oncelog.model.rows import Producer, ProducerIds, Row, Transaction, TransactionState, WrittenBatch

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

_SEQUENCES = 2**31


def age(world: World) -> tuple[ProducerId, dict[Place, int]] | None:
    """In some worlds: transactional ids that are nearly used up, and a producer whose sequences soon begin again at 0.

    Before anybody acts. That producer, and its next sequence in each partition; None in a young world.
    """
    random, host = world.random, world.host
    if random.random() < 0.6:
        return None
    state = host.broker.state
    first = state.producer_id_next
    names = [f"write-{number}" for number in range(2)] + [f"copy-first{index}" for index in range(world.topics["in"])]
    rows: list[Row] = [ProducerIds(ProducerId(first + len(names) + 1))]
    for number, name in enumerate(names):
        epoch = Epoch(EPOCH_MAX - random.randint(0, 6))
        rows.append(
            Transaction(
                name, ProducerId(first + number), epoch, 10_000, TransactionState.EMPTY, updated_ms=host.clock_ms()
            )
        )
    producer_id = ProducerId(first + len(names))
    sequences = {}
    for place in world.places("in", "plain"):
        log = state.log_of(*place)
        assert log is not None
        last = _SEQUENCES - random.randint(1, 40)
        window = (WrittenBatch(last, last, -1, -1),)
        rows.append(Producer(log.id, producer_id, Epoch(0), window, -1, host.clock_ms()))
        sequences[place] = (last + 1) % _SEQUENCES
    _make_safe(world, tuple(rows))
    return producer_id, sequences


def _make_safe(world: World, rows: tuple[Row, ...]) -> None:
    """Nobody was told of these rows, so a crash may take them; and their producer would be a liar."""
    host = world.host
    is_safe = False
    while not is_safe:
        world.until(lambda: host.server is not None, "the broker")
        starts = host.starts
        position = host.broker.commit(None, Decision(rows))
        world.until(partial(_is_settled, host, position), "what is old")
        is_safe = host.server is not None and host.starts == starts


def _is_settled(host: Host, position: Position) -> bool:
    return host.server is None or host.storage.position_synced >= position
