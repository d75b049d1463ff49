"""The clock never goes back and never jumps, whatever the machine's does (D5, T7)."""

from __future__ import annotations

import pytest

from oncelog.broker.clock import Clock

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class Machine:
    """Two clocks: one that anybody may set, one that only goes on."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_ms = START_MS, 5

    def go_on(self, milliseconds: int) -> None:
        self.wall_ms += milliseconds
        self.monotonic_ms += milliseconds

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ms * 1_000_000, lambda: self.monotonic_ms * 1_000_000)


def test_it_is_the_machines_time() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(1000):
        machine.go_on(7)
        assert clock() == machine.wall_ms


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
def test_a_jump_is_made_up_slowly(jump_ms: int) -> None:
    """A minute stays a minute, give or take a tenth; in the end it is the machine's time again."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ms += jump_ms
    assert clock() == START_MS
    before = clock()
    for _ in range(60):
        machine.go_on(1000)
        now = clock()
        assert 900 <= now - before <= 1100
        before = now
    for _ in range(11 * 60):
        machine.go_on(60_000)
        assert clock() > before
        before = clock()
    assert clock() == machine.wall_ms


def test_small_differences_are_made_up_too() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_ms += 1
    for _ in range(20):
        machine.go_on(1)
        clock()
    assert clock() == machine.wall_ms


def test_it_begins_where_the_last_decision_was_made() -> None:
    """After a restart with the machine's time set back, started transactions are not in the future."""
    machine = Machine()
    clock = machine.clock()
    clock.begin_at(START_MS + HOUR_MS)
    assert clock() == START_MS + HOUR_MS
    clock.begin_at(START_MS)
    machine.go_on(1000)
    assert START_MS + HOUR_MS + 900 <= clock() <= START_MS + HOUR_MS + 1000
