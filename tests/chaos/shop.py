"""The application that tests/chaos/applications.py torments; one instance of it:

    python -m tests.chaos.shop BOOTSTRAP FOLDER DATABASE

    in ──► tally (state) ──► totals ─┐
     │                               ├──► bundle (batches) ──► slips ──► store (sink) ──► table stored
     └──► dead         outbox ──► orders

Everything that an application can be made of is in it. Handlers fail now and then and succeed when they are tried again;
poison records never succeed.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from sqlalchemy import Connection, text

from oncelog.app import App, Batch, Context, Out, Record, Retry

NAME = "shop"
WORKERS = 2
TOPICS = ("in", "totals", "orders", "slips", "dead")
#: What this group reads, and what its sink reads.
SOURCES, SINK_SOURCES = ("in", "totals", "orders"), ("slips",)
SINK_GROUP = f"{NAME}.store"
TABLE = "CREATE TABLE stored (id TEXT)"
TRANSACTION_SECONDS = 6.0
SESSION_SECONDS = 6.0
CLIENT = {
    "session.timeout.ms": round(SESSION_SECONDS * 1000),
    "heartbeat.interval.ms": 500,
    "socket.timeout.ms": 4000,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 300,
    "linger.ms": 1,
    "log_level": 3,
}
#: One of so many calls of a handler fails.
FAILS_EVERY = 400
RETRY = Retry(4, 0.01)


class Entry(msgspec.Struct):
    """``id``: of the input or of the outbox's row. ``total``: of the key, as of this input."""

    id: str
    amount: int = 0
    total: int = 0


def is_poison(amount: int) -> bool:
    """Of an input."""
    return amount < 0


def stumble() -> None:
    """Perhaps."""
    if random.randrange(FAILS_EVERY) == 0:
        raise ValueError("a passing failure")


def shop(bootstrap: str, folder: Path, database: str) -> App:
    """Its instance is the environment's."""
    app = App(NAME, bootstrap, state_folder=folder, client=CLIENT, transaction_timeout=TRANSACTION_SECONDS)

    @app.process("in", to="totals", retry=RETRY, dead_letter="dead")
    def tally(record: Record[str, Entry], ctx: Context) -> Iterator[Out]:
        entry = record.value
        total = ctx.state["total"].add(record.key, entry.amount)
        yield Out(key=record.key, value=Entry(entry.id, entry.amount, total))
        if is_poison(entry.amount):
            raise ValueError("it never succeeds")
        stumble()

    @app.process("totals", "orders", to="slips", retry=RETRY, dead_letter="dead")
    def bundle(batch: Batch[Record[str, Entry]]) -> list[Out]:
        stumble()
        return [Out(key=record.key, value=record.value) for record in batch]

    @app.sink("slips", database=database, retry=RETRY)
    def store(record: Record[str, Entry], db: Connection) -> None:
        db.execute(text("INSERT INTO stored VALUES (:id)"), {"id": record.value.id})
        stumble()

    app.outbox("orders", database=database, table="outbox")
    return app


def main() -> None:
    """Until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    bootstrap, folder, database = sys.argv[1:]
    shop(bootstrap, Path(folder), database).run(workers=WORKERS)


if __name__ == "__main__":
    main()
