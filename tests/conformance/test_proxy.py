"""The proxy that other tests trust: what it holds, loses and cuts."""

from __future__ import annotations

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.fixtures import Broker
from tests.support.proxy import Proxy
from tests.support.raw import RawClient

import oncelog.faults
from oncelog.faults import ProxyError


def test_replies_name_the_proxy(proxy: Proxy) -> None:
    with RawClient(proxy.port) as raw:
        assert [node.port for node in raw.call("metadata", 9, topics=[]).brokers] == [proxy.port]
        assert [node.port for node in raw.call("describe_cluster", 0).brokers] == [proxy.port]
        assert raw.call("find_coordinator", 2, key="g", key_type=0).port == proxy.port
        assert raw.call("find_coordinator", 4, coordinator_keys=["g"]).coordinators[0].port == proxy.port


def test_a_held_request_arrives_by_its_old_connection_after_the_client_was_cut(proxy: Proxy) -> None:
    held = proxy.hold_next("metadata")
    with RawClient(proxy.port) as old, RawClient(proxy.port) as new:
        old.post("metadata", 9, topics=[])
        assert held.wait().entity.topics == ()
        held.cut()
        assert old.is_closed_by_peer()
        assert new.call("metadata", 9, topics=[]).brokers
        held.release()
        assert held.reply().brokers


def test_a_held_request_of_a_client_that_stays_is_answered_to_it(proxy: Proxy) -> None:
    held = proxy.hold_next("metadata", where=lambda request: request.topics is None)
    with RawClient(proxy.port) as raw:
        assert raw.call("metadata", 9, topics=[]).brokers
        raw.post("metadata", 9, topics=None)
        held.wait()
        held.release()
        assert raw.receive().brokers


def test_losses_and_cuts(proxy: Proxy) -> None:
    for trap in (proxy.cut_at_next, proxy.lose_reply_of_next):
        sprung = trap("api_versions")
        with RawClient(proxy.port) as raw, pytest.raises(ConnectionError):
            raw.call("api_versions", 0)
        assert sprung.is_sprung
    sprung = proxy.drop_reply_of_next("api_versions")
    with RawClient(proxy.port, timeout_seconds=0.2) as raw, pytest.raises(TimeoutError):
        raw.call("api_versions", 0)
    assert sprung.reply().api_keys
    with RawClient(proxy.port) as raw:
        assert raw.call("api_versions", 0).api_keys
        proxy.cut_all()
        assert raw.is_closed_by_peer()


def test_a_refusal_in_the_brokers_place(proxy: Proxy) -> None:
    proxy.refuse_next("end_txn", 51, skip=1)
    with RawClient(proxy.port) as raw:
        ask = {"transactional_id": "nobody", "producer_id": 1, "producer_epoch": 0, "committed": True}
        assert [int(raw.call("end_txn", 3, **ask).error_code) for _ in range(3)] == [49, 51, 49]
    with pytest.raises(ValueError, match="can't be refused here, only produce"):
        proxy.refuse_next("fetch", 51)


def test_a_request_that_arrives_twice(broker: Broker) -> None:
    with Proxy(broker.port, doubles=True) as proxy, RawClient(proxy.port) as raw:
        sprung = proxy.double_next("init_producer_id")
        ask = {"transactional_id": None, "transaction_timeout": 60_000}
        first = raw.call("init_producer_id", 1, **ask)
        assert sprung.is_sprung
        second = raw.call("init_producer_id", 1, **ask)
        assert second.producer_id - first.producer_id in (1, 2), "the copy has taken an id, before or after"
        ids = {int(raw.call("init_producer_id", 1, **ask).producer_id) for _ in range(3)}
        assert max(ids) - first.producer_id >= 4 or second.producer_id - first.producer_id == 1


def test_held_for_some_seconds_only(proxy: Proxy) -> None:
    proxy.hold_next("api_versions", seconds=0.05)
    with RawClient(proxy.port) as raw:
        assert raw.call("api_versions", 0).api_keys


def test_what_does_not_come_is_told(proxy: Proxy) -> None:
    with pytest.raises(ProxyError, match="no end_txn request came"):
        proxy.hold_next("end_txn").wait(0.01)
    proxy.clear()
    with pytest.raises(ValueError, match="no HOST:PORT"):
        oncelog.faults.Proxy("somewhere")


def test_every_broker_has_a_port_of_its_own(broker: Broker, own_broker: BrokerProcess) -> None:
    both = f"{broker.bootstrap},{own_broker.bootstrap}"
    with oncelog.faults.Proxy(both) as proxy:
        ports = [int(each.rpartition(":")[2]) for each in proxy.bootstrap.split(",")]
        clusters = set()
        for port in ports:
            with RawClient(port) as raw:
                reply = raw.call("metadata", 9, topics=[])
                clusters.add(reply.cluster_id)
                assert [node.port for node in reply.brokers] == [port]
        assert len(clusters) == 2


def test_a_reply_that_never_comes_does_not_grow_the_proxy(proxy: Proxy) -> None:
    """Produce with acks=0 is never answered; the next answer clears what waits before it."""
    with RawClient(proxy.port) as raw:
        for _ in range(50):
            raw.post("produce", 9, _reply=False, acks=0, topic_data=[])
        assert raw.call("api_versions", 0).api_keys
        (link,) = proxy._links
        assert link._unanswered == {}
