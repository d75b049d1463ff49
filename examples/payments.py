"""Payments: transfers between accounts. The sum of all balances never changes, whatever is killed.

A transfer debits one account and credits another; the accounts are in different partitions. So it has two steps, each a
transaction of its own, joined by a topic: `transfers` (keyed by the payer) → debit → `credits` (keyed by the payee) → credit.
What is debited and not yet credited is in the topic `credits`: nothing is ever in two places, or in none.

Make the topics transfers, credits, balances and refused first; run: python examples/payments.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from oncelog.app import App, Context, Out, Record

OPENING_BALANCE = 100


class Transfer(msgspec.Struct):
    """Cents from one account to another."""

    id: str
    payer: str
    payee: str
    cents: int


class Balance(msgspec.Struct):
    """What is on an account after a step; ``change`` is what the step added."""

    transfer: str
    account: str
    change: int


app = App("payments", os.environ.get("BOOTSTRAP", "localhost:9092"), state_folder=os.environ.get("STATE", ".oncelog"))


@app.process("transfers", to="credits", dead_letter="refused")
def debit(record: Record[str, Transfer], ctx: Context) -> Iterator[Out]:
    """Takes the money if it is there; a payer can't go below zero."""
    transfer, paid = record.value, ctx.state["paid"]
    spent = paid.get(transfer.payer, 0)
    if transfer.cents <= 0 or spent + transfer.cents > OPENING_BALANCE:
        yield Out(topic="refused", key=record.key, value=transfer)
        return
    paid[transfer.payer] = spent + transfer.cents
    yield Out(topic="balances", key=transfer.payer, value=Balance(transfer.id, transfer.payer, -transfer.cents))
    yield Out(key=transfer.payee, value=transfer)


@app.process("credits", to="balances")
def credit(record: Record[str, Transfer]) -> Out:
    """Gives it to the payee."""
    transfer = record.value
    return Out(key=transfer.payee, value=Balance(transfer.id, transfer.payee, transfer.cents))


if __name__ == "__main__":
    app.run(workers=2)
