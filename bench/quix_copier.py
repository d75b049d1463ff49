"""Quix Streams as a pass-through application, exactly once; see copiers.py.

Runs in an environment of its own (`bench/apps.py` makes it): Quix Streams wants an older confluent-kafka than oncelog.
"""

import sys

from quixstreams import Application

bootstrap, name, source, target, folder = sys.argv[1:]
copier = Application(
    broker_address=bootstrap,
    consumer_group=name,
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_interval=0.1,
    state_dir=folder,
    loglevel="WARNING",
    consumer_extra_config={"fetch.wait.max.ms": 100, "isolation.level": "read_committed"},
    producer_extra_config={"linger.ms": 5},
)
given = copier.topic(source, key_deserializer="bytes", value_deserializer="bytes")
copied = copier.topic(target, key_serializer="bytes", value_serializer="bytes")
copier.dataframe(given).to_topic(copied)
copier.run()
