"""Which connection speaks for a producer (rule D4)."""

from __future__ import annotations

import pytest
from tests.unit.engine.world import refusal

from oncelog.engine.connections import Connections, LateRequest, Role
from oncelog.model.errors import ErrorCode
from oncelog.model.ids import Epoch, ProducerId
from oncelog.model.limits import FENCED_PRODUCERS_MAX

A, E = ProducerId(5), Epoch(0)


@pytest.mark.parametrize("role", list(Role))
def test_an_older_connection_of_the_same_role_is_late(role: Role) -> None:
    """D4: retriable codes only (T9): NOT_LEADER_OR_FOLLOWER for Produce, else CONCURRENT_TRANSACTIONS."""
    connections = Connections()
    connections.note(A, E, role, 7)
    for number in (7, 8):
        connections.check(A, E, role, number)
    code = refusal(connections.check, A, E, role, 6)
    assert code is (ErrorCode.NOT_LEADER_OR_FOLLOWER if role is Role.PRODUCE else ErrorCode.CONCURRENT_TRANSACTIONS)
    assert code.is_retriable
    with pytest.raises(LateRequest):
        connections.check(A, E, role, 6)


def test_roles_producers_and_epochs_are_apart() -> None:
    """D4: clients use a connection of its own for each role."""
    connections = Connections()
    connections.note(A, E, Role.COORDINATOR, 7)
    connections.check(A, E, Role.OFFSETS, 3)
    connections.check(A, E, Role.PRODUCE, 3)
    connections.check(ProducerId(6), E, Role.COORDINATOR, 3)
    connections.note(A, Epoch(1), Role.COORDINATOR, 3)
    connections.check(A, Epoch(1), Role.COORDINATOR, 3)


def test_a_late_request_does_not_take_over() -> None:
    """D4: noting an older connection changes nothing."""
    connections = Connections()
    connections.note(A, E, Role.PRODUCE, 7)
    connections.note(A, E, Role.PRODUCE, 6)
    assert refusal(connections.check, A, E, Role.PRODUCE, 6) is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_the_memory_is_bounded() -> None:
    """Law 8: the producers seen first go first."""
    connections = Connections()
    for number in range(FENCED_PRODUCERS_MAX + 1):
        connections.note(ProducerId(number), E, Role.PRODUCE, 2)
    connections.check(ProducerId(0), E, Role.PRODUCE, 1)
    assert refusal(connections.check, ProducerId(1), E, Role.PRODUCE, 1) is ErrorCode.NOT_LEADER_OR_FOLLOWER
