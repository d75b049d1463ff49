"""Applications that consume, process and produce exactly once, on any Kafka cluster from 2.5 on.

It knows nothing of this project's broker: Kafka's protocol, by confluent-kafka, is all that lies between.
"""

from oncelog.app.app import App
from oncelog.app.driver import Driver
from oncelog.app.errors import ConfigurationError, FencedByPeer, PoisonRecord
from oncelog.app.records import Batch, Out, Record
from oncelog.app.serializing import Serializer
from oncelog.app.session import Session
from oncelog.app.settings import Delivery
from oncelog.app.topology import Retry
from oncelog.app.worker import Context

__all__ = [
    "App",
    "Batch",
    "ConfigurationError",
    "Context",
    "Delivery",
    "Driver",
    "FencedByPeer",
    "Out",
    "PoisonRecord",
    "Record",
    "Retry",
    "Serializer",
    "Session",
]
