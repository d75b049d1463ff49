"""Applications that consume, process and produce exactly once, on any Kafka cluster from 2.5 on.

It knows nothing of this project's broker: Kafka's protocol, by confluent-kafka, is all that lies between.
"""

from oncelog.app.errors import ConfigurationError, FencedByPeer, PoisonRecord
from oncelog.app.records import Batch, Out, Record
from oncelog.app.session import Session

__all__ = ["Batch", "ConfigurationError", "FencedByPeer", "Out", "PoisonRecord", "Record", "Session"]
