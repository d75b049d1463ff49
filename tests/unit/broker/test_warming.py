"""After the start the messages of usual clients are made, while nobody asks for anything."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.broker.test_lane import HandLoop, HandTimer

from oncelog.broker import warming
from oncelog.broker.apis import HANDLERS
from oncelog.broker.meters import Meters
from oncelog.broker.warming import USUAL, warm
from oncelog.wire import replies, requests


class World:
    """A loop whose timers fire one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop, self.meters, self.is_over = HandLoop(), Meters(), False
        self.made: list[str] = []
        for name in ("prepare_request", "prepare_reply"):
            monkeypatch.setattr(warming, name, lambda api_key, version: self.made.append(f"{api_key}/{version}"))
        loop: Any = self.loop
        warm(loop, self.meters, lambda: self.is_over)

    def fire(self) -> HandTimer:
        timer = self.loop.timers.pop()
        timer.callback()
        return timer


def test_one_message_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert not world.made and not world.loop.soon, "not before the ready line, and not in the way of who comes at once"
    world.fire()
    assert world.made == ["18/3"]
    while world.loop.timers:
        before = len(world.made)
        world.fire()
        assert len(world.made) <= before + 1
    assert set(world.made) == {f"{api_key}/{version}" for api_key, versions in USUAL for version in versions}


def test_it_waits_while_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.fire()
    world.meters.connected()
    world.fire()
    assert world.made == ["18/3"]
    world.meters.answered(18, 3, 0.001, 10, 10)
    assert world.fire().delay_seconds == 0.25
    assert world.made == ["18/3"]
    assert world.fire().delay_seconds == 0.25
    assert len(world.made) == 2


def test_it_ends_with_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.fire()
    world.is_over = True
    world.fire()
    assert len(world.made) == 1 and not world.loop.timers


@pytest.mark.parametrize(("api_key", "versions"), USUAL)
def test_what_is_made_is_what_requests_need(
    api_key: int, versions: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_encoders", "_stepping_encoders"):
        monkeypatch.setattr(replies, name, {})
    monkeypatch.setattr(requests, "_forms", {})
    for version in versions:
        assert HANDLERS[api_key].version_min <= version <= HANDLERS[api_key].version_max
        requests.prepare_request(api_key, version)
        replies.prepare_reply(api_key, version)
        assert (api_key, version) in requests._forms
        assert (api_key, version) in replies._encoders and (api_key, version) in replies._stepping_encoders
