"""Breakages of what is forgotten, and of who is told apart afterwards (rules P8, T3)."""

from __future__ import annotations

from tests.mutants.breakages import Breakage

_TRANSACTIONS = "engine/transactions.py"
_PRODUCERS = "engine/producers.py"
_PARTITIONS = "engine/partitions.py"

FORGETTING = [
    Breakage(
        "P8 a producer is forgotten before its time",
        _PRODUCERS,
        "now_ms - row.updated_ms >= expiration_ms",
        "now_ms - row.updated_ms >= expiration_ms // 2",
    ),
    Breakage(
        "P8 a producer's time counts from its first write",
        _PRODUCERS,
        "    return Producer(log, producer_id, epoch, window, first_offset, now_ms)\n",
        "    return Producer(log, producer_id, epoch, window, first_offset, before.updated_ms if before else now_ms)\n",
    ),
    Breakage(
        "P8 a marker is no write",
        _PRODUCERS,
        "return Producer(log, producer_id, before.epoch, before.window, _NO_TRANSACTION, now_ms, 0)",
        "return Producer(log, producer_id, before.epoch, before.window, _NO_TRANSACTION, before.updated_ms, 0)",
    ),
    Breakage(
        "P8 a transactional id is forgotten while its transaction is open",
        "engine/retention.py",
        "return row.state is not TransactionState.ONGOING and now_ms",
        "return now_ms",
    ),
    Breakage(
        "P8 a transactional id is forgotten before its time",
        "engine/retention.py",
        "now_ms - row.updated_ms >= expiration_ms\n",
        "now_ms - row.updated_ms >= expiration_ms // 2\n",
    ),
    Breakage(
        "P8 the end of a transaction is no use of its id",
        _TRANSACTIONS,
        "        started_ms=before.started_ms,\n        updated_ms=now_ms,\n        client_address=before.client_address,\n",
        "        started_ms=before.started_ms,\n        updated_ms=before.updated_ms,\n"
        "        client_address=before.client_address,\n",
    ),
    Breakage(
        "T3 a transactional id that was forgotten has its old session again",
        _TRANSACTIONS,
        "    session = Session(state.producer_id_next, Epoch(0))\n    is_free",
        "    session = caller if caller.producer_id >= 0 else Session(state.producer_id_next, Epoch(0))\n    is_free",
    ),
    Breakage(
        "T3 the first session after that can't be asked for again",
        _TRANSACTIONS,
        "        last_epoch=caller.epoch if is_free else NO_EPOCH,\n",
        "",
    ),
    Breakage(
        "T3 whoever had another epoch gets that session too",
        _TRANSACTIONS,
        "        if caller.epoch == before.last_epoch:\n",
        "        if is_before or caller.epoch == before.last_epoch:\n",
    ),
    Breakage(
        "T3 a session of another transactional id may be taken over",
        _TRANSACTIONS,
        "and caller.producer_id not in state.transaction_of\n",
        "\n",
    ),
    Breakage(
        "T6 the current epoch is a retry if the last one of the old producer id was the same",
        _TRANSACTIONS,
        " or (is_same and session.epoch == transaction.epoch):\n",
        ":\n",
    ),
    Breakage(
        "T4 another producer id is let in",
        _PARTITIONS,
        "    if transaction.producer_id != header_producer_id:\n        if",
        "    if False:\n        if",
    ),
]
