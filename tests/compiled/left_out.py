"""The tests that can't be run against a compiled core, each with the reason; all others can."""

from __future__ import annotations

from typing import Final

_BOUND: Final = "it makes a bound smaller for itself, and what is Final is part of the compiled code"
_METHOD: Final = "it puts a function of its own in a method's place, which a compiled class does not allow"

_SHORT_REQUESTS: Final = "tests/unit/broker/test_short_requests.py::"
_SERVER: Final = "tests/unit/broker/test_server.py::"

LEFT_OUT: Final = {
    _SHORT_REQUESTS + "test_the_producers_of_a_partition_are_bounded": _BOUND,
    _SHORT_REQUESTS + "test_markers_of_one_request_are_bounded": _BOUND,
    _SHORT_REQUESTS + "TestFetches::test_sessions_together_name_so_many_partitions": _BOUND,
    _SHORT_REQUESTS + "TestFetches::test_fetches_together_wait_for_so_many_partitions": _BOUND,
    _SHORT_REQUESTS + "TestFetches::test_what_a_session_knows_is_not_looked_at_again": _METHOD,
    _SERVER + "test_who_lets_too_many_replies_wait_is_closed": _BOUND,
    _SERVER + "test_unfinished_requests_have_a_bound_together": _BOUND,
    "tests/unit/engine/test_reading.py::test_no_aborted_transaction_is_ever_let_go": _BOUND,
}
