"""The proxy that other tests trust: what it holds, loses and cuts."""

from __future__ import annotations

import pytest
from tests.support.proxy import Proxy
from tests.support.raw import RawClient


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
