"""A dry-run: the next records of the real topics through the real handlers, with nothing written anywhere.

It joins no group and moves no offset; state begins empty and sinks don't run. What comes out is in the driver that it returns.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from oncelog.app.driver import Driver
from oncelog.app.intake import GroupPositions
from oncelog.app.records import records_of
from oncelog.app.topics import check_topics

if TYPE_CHECKING:
    from oncelog.app.app import App

_SILENCE_SECONDS_MAX: Final = 10.0


def dry_run(app: App, records_max: int) -> Driver:
    """At most so many records of each partition, from the offsets that the app has committed."""
    driver = Driver(app)
    counts = check_topics(app.cluster, app.topology.sources)
    places = [(topic, partition) for topic, count in counts.items() for partition in range(count)]
    settings = app.cluster.for_consumer(client_id=f"{app.name}-dry-run", group=app.name, instance="")
    del settings["group.instance.id"]
    consumer = Consumer({**settings, "enable.partition.eof": True})
    try:
        offsets = GroupPositions().of(consumer, places, threading.Event())
        consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        left = dict.fromkeys(places, records_max)
        while left:
            message = consumer.poll(_SILENCE_SECONDS_MAX)
            if message is None:
                break
            place = (str(message.topic()), message.partition() or 0)
            error = message.error()
            if error is None and place in left:
                (raw,) = records_of([message])
                driver.feed(
                    raw.topic, raw.key, raw.value, headers=raw.headers, partition=raw.partition, timestamp=raw.timestamp
                )
                left[place] -= 1
            if place in left and (
                left[place] <= 0 or (error is not None and error.code() == KafkaError._PARTITION_EOF)
            ):
                del left[place]
    finally:
        consumer.close()
    return driver
