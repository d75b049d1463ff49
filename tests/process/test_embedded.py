"""``oncelog.Broker``: a broker inside the process of a test, several at once, with clients that we did not write."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from tests.support.commands import page
from tests.support.confluent import admin, create_topic, producer, read_all, transactional_producer, values_of

import oncelog
from oncelog.broker.settings import AddressError
from oncelog.model.errors import SettingError, StorageError

SECONDS_MAX = 60.0


def written(bootstrap: str, topic: str, value: bytes) -> None:
    writer = producer(bootstrap)
    writer.produce(topic, value, partition=0)
    assert writer.flush(SECONDS_MAX) == 0


def broker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("oncelog")]


def test_several_at_once_know_nothing_of_each_other() -> None:
    with oncelog.Broker() as one, oncelog.Broker(num_partitions=5) as other:
        assert one.port != other.port
        for broker in (one, other):
            writer = transactional_producer(broker.bootstrap, "id")
            writer.begin_transaction()
            writer.produce("records", broker.bootstrap.encode(), partition=0)
            writer.commit_transaction(SECONDS_MAX)
        for broker, partitions in ((one, 1), (other, 5)):
            assert values_of(read_all(broker.bootstrap, "records")) == [broker.bootstrap.encode()]
            assert len(
                admin(broker.bootstrap).list_topics("records", timeout=SECONDS_MAX).topics["records"].partitions
            ) == (partitions)
        assert one.is_running
    assert not one.is_running
    assert broker_threads() == []


def test_inside_an_event_loop() -> None:
    async def use() -> list[bytes]:
        async with oncelog.Broker() as broker:
            await asyncio.to_thread(written, broker.bootstrap, "records", b"a")
            return values_of(await asyncio.to_thread(read_all, broker.bootstrap, "records"))

    assert asyncio.run(use()) == [b"a"]
    assert broker_threads() == []


def test_a_folder_outlives_the_broker(tmp_path: Path) -> None:
    for value in (b"one", b"two"):
        with oncelog.Broker(data=tmp_path / "data") as broker:
            assert broker.settings.durability == "fsync"
            written(broker.bootstrap, "records", value)
    with oncelog.Broker(data=tmp_path / "data", durability="written") as broker:
        assert values_of(read_all(broker.bootstrap, "records")) == [b"one", b"two"]
        with pytest.raises(StorageError, match=r"in use by process"):
            oncelog.Broker(data=tmp_path / "data").start()
        assert values_of(read_all(broker.bootstrap, "records")) == [b"one", b"two"]
    assert broker_threads() == []


def test_mistakes_are_raised_in_the_caller() -> None:
    with pytest.raises(SettingError, match=r"num\.partition'"):
        oncelog.Broker(num_partition=3)
    with pytest.raises(SettingError, match=r"num\.partitions"):
        oncelog.Broker(settings={"num.partitions": 0})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for options in ({"listen": address}, {"metrics": address}):
            with pytest.raises(AddressError, match=r"in use"):
                oncelog.Broker(**options).start()
    assert broker_threads() == []


def test_pages_and_a_second_close() -> None:
    broker = oncelog.Broker(metrics="127.0.0.1:0", settings={"auto.create.topics.enable": False}).start()
    assert broker.metrics is not None
    assert page(broker.metrics, "/healthz")[0] == 200
    create_topic(broker.bootstrap, "records")
    broker.close()
    broker.close()
    assert broker_threads() == []


def test_a_failed_storage_ends_it_and_close_says_so(tmp_path: Path) -> None:
    """Law 7: no client is served any more, and the test that used the broker fails with the reason."""
    broker = oncelog.Broker(log_level="error").start()
    create_topic(broker.bootstrap, "records")
    broker._node._storage.fail("flush")  # type: ignore[union-attr]
    writer = producer(broker.bootstrap, message_timeout_ms=1_000)
    writer.produce("records", b"lost", partition=0)
    writer.flush(SECONDS_MAX)
    with pytest.raises(StorageError, match=r"as asked"):
        broker.close()
    assert not broker.is_running
    assert broker_threads() == []
