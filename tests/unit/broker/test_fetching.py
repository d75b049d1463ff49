"""Fetches that wait, and what comes behind them by their connection."""

from __future__ import annotations

import pytest
from tests.support.messages import api_name, build, message_type
from tests.unit.broker.test_apis_catalog import Desk, QuietPeer, read

from oncelog.broker.call import Call
from oncelog.broker.peer import Peer

FETCH, FIND_COORDINATOR = 1, 10
WAIT_MS = 500


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.create("t")
    return made


def fetch(desk: Desk, peer: Peer) -> Call:
    """From the end of an empty partition: it waits for the first record."""
    topics = [{"topic": "t", "partitions": [{"partition": 0, "partition_max_bytes": 1_000}]}]
    return ask(desk, peer, FETCH, 11, max_wait=WAIT_MS, min_bytes=1, max_bytes=1_000, session_epoch=-1, topics=topics)


def ask(desk: Desk, peer: Peer, api_key: int, version: int, **request: object) -> Call:
    entity = build(message_type(api_name(api_key), version, "request"), request)
    call = Call(peer, api_key, version, 1, "test", entity)
    desk.broker.route(call)
    return call


def test_a_fetch_makes_way_for_what_comes_behind_it(desk: Desk) -> None:
    """Replies leave in order: else librdkafka's FindCoordinator would wait as long as its fetch does."""
    peer = QuietPeer()
    waiting = fetch(desk, peer)
    assert waiting.body is None
    assert ask(desk, peer, FIND_COORDINATOR, 4, coordinator_keys=["g"]).body is not None
    assert [part.records for topic in read(waiting).responses for part in topic.partitions] == [b""]
    assert desk.broker.fetching.waiting_count == 0
    (timer,) = (timer for timer in desk.loop.timers if timer.delay_seconds == WAIT_MS / 1000)
    assert timer.is_cancelled


def test_a_fetch_waits_on_whatever_others_ask(desk: Desk) -> None:
    waiting = fetch(desk, QuietPeer())
    ask(desk, QuietPeer(), FIND_COORDINATOR, 4, coordinator_keys=["g"])
    assert waiting.body is None


def test_a_fetch_waits_on_beside_another_fetch(desk: Desk) -> None:
    """A client that has two under way would ask again and again at once."""
    peer = QuietPeer()
    both = [fetch(desk, peer), fetch(desk, peer)]
    assert [call.body for call in both] == [None, None]
    ask(desk, peer, FIND_COORDINATOR, 4, coordinator_keys=["g"])
    assert None not in [call.body for call in both]
