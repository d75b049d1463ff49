"""From a web shop's database through Kafka and back: outbox, processor, sink.

`place` runs in the web shop: the order and its outbox row are one database transaction. The relay makes it a record, the
processor an invoice, the sink a row. Each order has one invoice, whatever is killed on the way.

Make the topics orders, invoices and orders.dead first, then: oncelog app schema order_pipeline:app; python order_pipeline.py
"""

from __future__ import annotations

import os

import msgspec
import sqlalchemy as sql

from oncelog.app import App, Out, Record

DATABASE = os.environ.get("DATABASE", "sqlite:///shop.db")
TABLES = (
    "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, cents INTEGER)",
    "CREATE TABLE IF NOT EXISTS invoices (order_id TEXT, cents INTEGER)",
)


class Order(msgspec.Struct):
    """What a customer wants."""

    id: str
    quantity: int
    price_cents: int


class Invoice(msgspec.Struct):
    """What a customer owes."""

    order_id: str
    cents: int


app = App("shop", os.environ.get("BOOTSTRAP", "localhost:9092"), state_folder=os.environ.get("STATE", ".oncelog"))
outbox = app.outbox("orders", database=DATABASE, table="outbox")


def place(db: sql.Connection, order: Order) -> None:
    """In the web shop: both rows, or none."""
    cents = order.quantity * order.price_cents
    db.execute(sql.text("INSERT INTO orders VALUES (:id, :cents)"), {"id": order.id, "cents": cents})
    outbox.put(db, key=order.id, value=order)


@app.process("orders", to="invoices", dead_letter="orders.dead")
def bill(order: Record[str, Order]) -> Out:
    """Pure: an order in, an invoice out."""
    return Out(key=order.key, value=Invoice(order.value.id, order.value.quantity * order.value.price_cents))


@app.sink("invoices", database=DATABASE)
def store(invoice: Record[str, Invoice], db: sql.Connection) -> None:
    """No key and no upsert is needed: each invoice comes once."""
    row = msgspec.structs.asdict(invoice.value)
    db.execute(sql.text("INSERT INTO invoices VALUES (:order_id, :cents)"), row)


if __name__ == "__main__":
    app.run(workers=2)
