"""The table of faults fits the protocol: every API exists, what is refused can be refused, and clients must get over it."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from oncelog.faults.frames import REFUSABLE, api_key_of
from oncelog.verify.faulting import APIS, DEFAULT, FAULTS, RETRIABLE, SINGLE


@pytest.mark.parametrize("workload", APIS)
def test_every_workload_has_requests_to_strike(workload: str) -> None:
    assert all(api_key_of(api) >= 0 for api in APIS[workload])
    assert set(RETRIABLE) & set(APIS[workload]), "late, refuse and double need one"


def test_refusals_are_retriable() -> None:
    assert set(RETRIABLE) <= set(REFUSABLE)
    assert all(ErrorCode(code).retriable for codes in RETRIABLE.values() for code in codes)


def test_what_no_network_does_is_not_done_unasked() -> None:
    assert set(DEFAULT) == set(FAULTS) - {"double", "hook"}
    assert set(FAULTS) >= SINGLE
