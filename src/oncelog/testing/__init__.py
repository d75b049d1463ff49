"""Tools for tests of services on Kafka: a pytest plugin with a real broker, faults and a clock.

With oncelog installed, a test that names ``kafka`` as an argument has a broker of its own::

    def test_it(kafka):
        kafka.produce("orders", {"1": "ten"})
        ...
        assert_exactly_once(kafka, source="orders", result="invoices")

What lives here uses the broker from outside, through oncelog.broker.embedded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oncelog.testing.exactly_once import NotExactlyOnce as NotExactlyOnce
    from oncelog.testing.exactly_once import assert_exactly_once as assert_exactly_once
    from oncelog.testing.faults import FaultDidNotHappen as FaultDidNotHappen
    from oncelog.testing.kafka import Kafka as Kafka
    from oncelog.testing.kafka import Record as Record
    from oncelog.testing.running import DidNotFinish as DidNotFinish

__all__ = ["DidNotFinish", "FaultDidNotHappen", "Kafka", "NotExactlyOnce", "Record", "assert_exactly_once"]

_PLACES = {
    "DidNotFinish": "running",
    "FaultDidNotHappen": "faults",
    "Kafka": "kafka",
    "NotExactlyOnce": "exactly_once",
    "Record": "kafka",
    "assert_exactly_once": "exactly_once",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
