"""An order that can't be billed goes to `orders.dead`, in the same transaction as its offset; all others have their invoice.

Written outside of the transaction, a dead letter stays when the transaction is aborted, and comes again. Needs
consume_process_produce.py beside it.
"""

from __future__ import annotations

import json
import sys

from confluent_kafka import Message, Producer
from consume_process_produce import run


def bill(producer: Producer, order: Message) -> None:
    """An invoice, or a dead letter: the record as it came, and where it came from."""
    try:
        total = invoice(order)
    except (ValueError, KeyError, TypeError) as error:  # only what another attempt can't cure
        headers = [
            *(order.headers() or []),
            ("error", repr(error).encode()),
            ("source", f"{order.topic()}/{order.partition()}/{order.offset()}".encode()),
        ]
        producer.produce("orders.dead", order.value(), order.key(), headers=headers)
    else:
        producer.produce("invoices", total, order.key())


def invoice(order: Message) -> bytes:
    """Raises ValueError, KeyError or TypeError for what is no order."""
    content = json.loads(order.value() or b"")
    return json.dumps({"total_cents": content["quantity"] * content["price_cents"]}).encode()


if __name__ == "__main__":
    sys.exit(run(bill))
