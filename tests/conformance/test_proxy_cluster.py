"""The fault proxy in front of a cluster of several brokers, and before requests and replies that it can't read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.messages import API_KEYS
from tests.support.raw import RawClient

from oncelog.faults import Proxy, ProxyError

NODES = 3


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(NODES) as made:
        for version in (9, 12, 13):
            made.answers["metadata", version] = lambda node: {
                "brokers": made.addresses("node_id"),
                "controller_id": node,
            }
        made.answers["find_coordinator", 2] = lambda _: {
            "host": "127.0.0.1",
            "port": made.port(2),
            "node_id": 2,
        }
        made.answers["find_coordinator", 4] = lambda _: {
            "coordinators": [{"key": "k", "host": "127.0.0.1", "port": made.port(3), "node_id": 3}]
        }
        made.answers["describe_cluster", 0] = lambda _: {"brokers": made.addresses("broker_id")}
        for api, version in (("produce", 10), ("produce", 13), ("fetch", 16), ("fetch", 18), ("share_fetch", 1)):
            made.answers[api, version] = lambda _: {"node_endpoints": made.addresses("node_id")}
        yield made


def raw(proxy: Proxy, address: str | None = None) -> RawClient:
    return RawClient(proxy.port if address is None else int(address.rpartition(":")[2]), timeout_seconds=20)


def who_answers(port: int) -> int:
    """The node at the other end, in its own words."""
    with RawClient(port, timeout_seconds=20) as client:
        return int(client.call("metadata", 9).controller_id)


def addresses(reply: Any) -> dict[int, int]:
    """Ports by node, from any reply that names nodes."""
    found = getattr(reply, "brokers", ()) or getattr(reply, "node_endpoints", ()) or getattr(reply, "coordinators", ())
    return {int(getattr(node, "node_id", getattr(node, "broker_id", 0))): node.port for node in found or (reply,)}


REPLIES = (
    ("metadata", 9),
    ("metadata", 12),
    ("metadata", 13),
    ("describe_cluster", 0),
    ("find_coordinator", 2),
    ("find_coordinator", 4),
    ("produce", 10),
    ("produce", 13),
    ("fetch", 16),
    ("fetch", 18),
    ("share_fetch", 1),
)


@pytest.mark.parametrize(("api", "version"), REPLIES)
def test_every_address_leads_through_the_proxy_to_its_broker(cluster: FakeCluster, api: str, version: int) -> None:
    """Those of a list of brokers, of coordinators, and of new leaders (KIP-951), from any broker."""
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        named = addresses(client.call(api, version))
        assert not set(named.values()) & cluster.ports
        assert {node: who_answers(port) for node, port in named.items()} == {node: node for node in named}
        (last, port), *_ = sorted(named.items(), reverse=True)
        with RawClient(port) as other:
            assert addresses(other.call(api, version)) == named, f"node {last} names the same ports"


def test_a_broker_that_moves_is_followed(cluster: FakeCluster) -> None:
    """A node that comes back at another address has another port here, and the old one leads nowhere, at once."""
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        before = addresses(client.call("metadata", 12))
        cluster.stop(2)
        cluster.start(2)
        after = addresses(client.call("metadata", 12))
        assert (after[1], after[3]) == (before[1], before[3])
        assert after[2] != before[2]
        assert who_answers(after[2]) == 2
        with RawClient(before[2], timeout_seconds=20) as old:
            assert old.is_closed_by_peer()


def test_a_broker_that_goes_away_and_comes_back(cluster: FakeCluster) -> None:
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        port = addresses(client.call("metadata", 12))[3]
        gone = cluster.stop(3)
        with RawClient(port, timeout_seconds=20) as other:
            assert other.is_closed_by_peer()
        cluster.start(3, gone)
        assert addresses(client.call("metadata", 12))[3] == port
        assert who_answers(port) == 3


def frame(api: str, version: int, *, correlation_id: int = 7, body: bytes = b"") -> bytes:
    """A request whose body may be anything."""
    whole = struct.pack(">hhih", API_KEYS[api], version, correlation_id, -1) + body
    return struct.pack(">i", len(whole)) + whole


NEWER = (("txn_offset_commit", 6), ("end_txn", 77), ("heartbeat", 50), ("join_group", 90))


@pytest.mark.parametrize(("api", "version"), NEWER)
def test_what_cannot_be_read_is_passed_on_as_it_is(cluster: FakeCluster, api: str, version: int) -> None:
    """And counted, once."""
    cluster.answers[api, version] = lambda node: b"\xff\xfe from node %d" % node
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        for _ in range(2):
            client.send_bytes(frame(api, version, body=b"\x01\x02\x03"))
            assert client.receive_body() == struct.pack(">i", 7) + b"\xff\xfe from node 1"
        assert proxy.unread == {(api, version): 2}
        proxy.check()


def test_bytes_that_are_no_reply_are_passed_on_too(cluster: FakeCluster) -> None:
    """Of a version that is known, where only errors would have been noted."""
    cluster.answers["end_txn", 3] = lambda _: b"\x01"
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        client.send_bytes(frame("end_txn", 3, body=struct.pack(">h", -1)))
        assert client.receive_body() == struct.pack(">i", 7) + b"\x01"
        assert proxy.unread == {("end_txn", 3): 1}


def test_traps_and_requests_that_cannot_be_read(cluster: FakeCluster) -> None:
    """A trap that needs only the bytes takes them; one that has to look into them, or to answer, waits on."""
    cluster.answers["txn_offset_commit", 6] = lambda _: b"\xff"
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        looking = proxy.hold_next("txn_offset_commit", where=lambda request: bool(request.group_id))
        refusing = proxy.refuse_next("txn_offset_commit", 51)
        held = proxy.hold_next("txn_offset_commit")
        client.send_bytes(frame("txn_offset_commit", 6))
        held.wait()
        held.release()
        assert client.receive_body() == struct.pack(">i", 7) + b"\xff"
        assert not looking.is_sprung
        assert not refusing.is_sprung
        with pytest.raises(ProxyError, match="txn_offset_commit version 6 can't be read"):
            held.reply()


@pytest.mark.parametrize(("api", "version"), [("metadata", 99), ("produce", 40), ("fetch", 50), ("metadata", 12)])
def test_addresses_that_cannot_be_read_are_an_error(cluster: FakeCluster, api: str, version: int) -> None:
    """Its client would leave the proxy, and a run would disturb nothing: the connection ends, the proxy says why."""
    cluster.answers[api, version] = lambda _: b"\xff\xff\xff\xff\xff"
    proxy = Proxy(f"127.0.0.1:{cluster.port(1)}").open()
    with raw(proxy) as client:
        client.send_bytes(frame(api, version))
        assert client.is_closed_by_peer()
    for said in (proxy.close, proxy.check):
        with pytest.raises(ProxyError, match=f"{api} version {version} can't be read here.*would leave.*Update kio"):
            said()


def test_what_is_counted_has_a_bound(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncelog.faults.proxy.UNREAD_MAX", 2)
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        for version in (50, 51, 52, 53, 50):
            cluster.answers["heartbeat", version] = lambda _: b"ok"
            client.send_bytes(frame("heartbeat", version))
            client.receive_body()
        assert proxy.unread == {("heartbeat", 50): 2, ("heartbeat", 51): 1}


def test_what_is_no_request_ends_the_connection_only(cluster: FakeCluster) -> None:
    with Proxy(f"127.0.0.1:{cluster.port(1)}") as proxy, raw(proxy) as client:
        client.send_bytes(struct.pack(">i", 4) + b"bad!")
        assert client.is_closed_by_peer()
        proxy.check()
